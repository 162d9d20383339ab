"""Calls that a service makes of this member's KV, Lease and Watch services for its own caller.

They carry the caller's metadata (its token too) and the name in its certificate, and go the way of
calls from outside: what the caller may not do, the service cannot do for it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, TypeVar

from google.protobuf.message import Message

from rusd.api import errors
from rusd.pb.kv_pb2 import Event
from rusd.pb.rpc_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    RangeRequest,
    RangeResponse,
    ResponseHeader,
    TxnRequest,
    TxnResponse,
    WatchCreateRequest,
    WatchRequest,
    WatchResponse,
)
from rusd.wire.grpc import Status
from rusd.wire.loopback import Loopback, Origin
from rusd.wire.service import RequestHead
from rusd.wire.stream import Stream

M = TypeVar("M", bound=Message)

_MOST_QUEUED: Final = 64
"""Responses of a watch that nobody has looked at yet."""


class CallError(Exception):
    """A call failed; the text is etcd's."""


class InnerClient:
    """Makes calls for one caller."""

    def __init__(self, calls: Loopback, stream: Stream) -> None:
        """`stream` is the caller's."""
        self._calls, self._metadata = calls, stream.head.metadata
        self._origin = Origin(stream.connection.common_name)

    async def _call(self, path: bytes, request: Message, response: type[M]) -> M:
        """Raises CallError."""
        future: asyncio.Future[bytes | Status] = asyncio.get_running_loop().create_future()

        def answered(answer: bytes | Status) -> None:
            if not future.done():
                future.set_result(answer)

        head = RequestHead(path, self._metadata)
        self._calls.call(head, request.SerializeToString(), answered, self._origin)
        answer = await future
        if isinstance(answer, Status):
            raise CallError(answer.message)
        return response.FromString(answer)

    async def range(self, request: RangeRequest) -> RangeResponse:
        return await self._call(b"/etcdserverpb.KV/Range", request, RangeResponse)

    async def txn(self, request: TxnRequest) -> TxnResponse:
        return await self._call(b"/etcdserverpb.KV/Txn", request, TxnResponse)

    async def delete(self, key: bytes) -> DeleteRangeResponse:
        request = DeleteRangeRequest(key=key)
        return await self._call(b"/etcdserverpb.KV/DeleteRange", request, DeleteRangeResponse)

    async def grant(self, seconds: int) -> int:
        """A new lease's id."""
        request = LeaseGrantRequest(TTL=seconds)
        path = b"/etcdserverpb.Lease/LeaseGrant"
        return (await self._call(path, request, LeaseGrantResponse)).ID

    async def events(
        self, create: WatchCreateRequest
    ) -> AsyncGenerator[tuple[ResponseHeader, Event], None]:
        """What happens in a range, until the caller is no longer interested. Ends when what was to
        come next has been compacted. Raises CallError.
        """
        queue = _Responses()
        head = RequestHead(b"/etcdserverpb.Watch/Watch", self._metadata)
        stream = self._calls.stream(head, queue, self._origin)
        queue.drained = stream.drained
        stream.message(WatchRequest(create_request=create).SerializeToString())
        try:
            while True:
                response = await queue.get()
                for event in response.events:
                    yield response.header, event
                if response.canceled and response.compact_revision:
                    return
                if response.canceled:
                    raise CallError(_plain(response.cancel_reason))
        finally:
            stream.cancel()


def _plain(reason: str) -> str:
    """The text alone: etcd writes why a watch was refused as Go prints a gRPC error."""
    return reason.rpartition(" desc = ")[2]


class _Responses:
    """What a watch sends, for one who waits for it."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[WatchResponse | CallError] = asyncio.Queue()
        self._full = False
        self.drained: Callable[[], None] = lambda: None

    @property
    def congested(self) -> bool:
        self._full = self._queue.qsize() >= _MOST_QUEUED
        return self._full

    def message(self, data: bytes, /) -> None:
        self._queue.put_nowait(WatchResponse.FromString(data))

    def finished(self, status: Status | None, /) -> None:
        self._queue.put_nowait(CallError((status or errors.WATCH_CANCELED).message))

    async def get(self) -> WatchResponse:
        """The next response. Raises CallError."""
        response = await self._queue.get()
        if self._full and not self.congested:
            self.drained()
        if isinstance(response, CallError):
            raise response
        return response


async def first_event(
    client: InnerClient, create: WatchCreateRequest, kind: Event.EventType
) -> tuple[ResponseHeader, Event] | None:
    """The first event of a kind in a range; None when that may have been compacted."""
    async with aclosing(client.events(create)) as events:
        async for header, event in events:
            if event.type == kind:
                return header, event
    return None
