"""Calls that are attended to by a task of their own: it may wait, and ends when its caller goes."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from rusd.api import errors
from rusd.api.inner import CallError, InnerClient
from rusd.wire.grpc import Code, Status
from rusd.wire.loopback import Loopback
from rusd.wire.service import StreamHandler, StreamMethod
from rusd.wire.stream import Stream

M = TypeVar("M", bound=Message)

_ONE_MESSAGE: Final = Status(
    Code.INTERNAL, "grpc: a unary call must carry one message, received more"
)
_NO_MESSAGE: Final = Status(
    Code.INTERNAL, "grpc: a unary call must carry one message, received none"
)

Send = Callable[[Message], Coroutine[Any, Any, None]]
Attend = Callable[[InnerClient, M, Send], Coroutine[Any, Any, None]]
Begun = Callable[[], Coroutine[Any, Any, None]]


class Attendants:
    """The calls of a service that are under way, each a task: it ends when its caller goes."""

    def __init__(self) -> None:
        self._calls: Loopback | None = None
        self._open: set[_Attended] = set()

    def bind(self, calls: Loopback) -> None:
        """Sets where the service's own calls go."""
        self._calls = calls

    def method(self, path: str, request: type[M], attend: Attend[M]) -> StreamMethod:
        """A method whose calls with one request are attended to so. It is a streaming one even for
        one answer: a unary call's end is not heard of.
        """

        def opened(stream: Stream) -> StreamHandler:
            assert self._calls is not None
            client = InnerClient(self._calls, stream)

            def begin(data: bytes, send: Send) -> Begun:
                return partial(attend, client, request.FromString(data), send)

            attended = _Attended(stream, begin, self._open.discard)
            self._open.add(attended)
            return attended

        return StreamMethod(path, opened)

    def stop(self) -> None:
        """Ends all calls: the member stops."""
        for attended in list(self._open):
            attended.stop()


class _Attended:
    """One call."""

    def __init__(
        self,
        stream: Stream,
        begin: Callable[[bytes, Send], Begun],
        ended: "Callable[[_Attended], None]",
    ) -> None:
        self._stream, self._begin, self._ended = stream, begin, ended
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()

    def message(self, data: bytes) -> None:
        if self._task is not None:
            self._end(_ONE_MESSAGE)
            return
        try:
            begun = self._begin(data, self._send)
        except DecodeError:
            self._end(errors.MALFORMED)
        else:
            self._task = asyncio.get_running_loop().create_task(self._run(begun))

    def half_closed(self) -> None:
        if self._task is None:
            self._end(_NO_MESSAGE)

    def closed(self) -> None:
        self._ended(self)
        if self._task is not None:
            self._task.cancel()

    def writable(self) -> None:
        self._room.set()

    def stop(self) -> None:
        """Ends it from this side."""
        self._end(errors.STOPPED)

    async def _run(self, begun: Begun) -> None:
        status: Status | None = errors.INTERNAL
        try:
            await begun()
            status = None
        except CallError as error:
            # As in etcd, where the errors of its own client have no code.
            status = Status(Code.UNKNOWN, str(error))
        finally:
            self._task = None
            self._end(status)

    async def _send(self, response: Message) -> None:
        while self._stream.congested:
            self._room.clear()
            await self._room.wait()
        self._stream.send(response.SerializeToString())

    def _end(self, status: Status | None) -> None:
        self.closed()
        self._stream.finish(status)
