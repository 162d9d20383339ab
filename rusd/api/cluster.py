"""The Cluster service: who the members are, and changes of that."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from rusd.api import errors
from rusd.api.answers import Caller, Headers
from rusd.api.parsing import parsed
from rusd.node.reads import Done
from rusd.node.reconfiguration import Reconfiguration
from rusd.pb.rpc_pb2 import (
    MemberAddRequest,
    MemberAddResponse,
    MemberListRequest,
    MemberListResponse,
    MemberPromoteRequest,
    MemberPromoteResponse,
    MemberRemoveRequest,
    MemberRemoveResponse,
    MemberUpdateRequest,
    MemberUpdateResponse,
)
from rusd.wire.service import Call, UnaryMethod

_SERVICE: Final = "/etcdserverpb.Cluster/"
_NO_REVISION: Final = 0
"""etcd's answers about members name no revision."""

_Request = TypeVar("_Request")


class Response(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


class Reads(Protocol):
    """Confirms reads; `rusd.node.reads.Reads` is this."""

    def wait(self, done: Done) -> None: ...


class Cluster:
    """Lists the members, and changes them."""

    def __init__(self, reconfiguration: Reconfiguration, reads: Reads, headers: Headers) -> None:
        self._reconfiguration, self._reads, self._headers = reconfiguration, reads, headers
        self._tasks: set[asyncio.Task[None]] = set()

    def methods(self) -> list[UnaryMethod]:
        return [
            UnaryMethod(_SERVICE + "MemberList", self.member_list),
            UnaryMethod(
                _SERVICE + "MemberAdd", self._changing(MemberAddRequest.FromString, self._add)
            ),
            UnaryMethod(
                _SERVICE + "MemberRemove",
                self._changing(MemberRemoveRequest.FromString, self._remove),
            ),
            UnaryMethod(
                _SERVICE + "MemberUpdate",
                self._changing(MemberUpdateRequest.FromString, self._update),
            ),
            UnaryMethod(
                _SERVICE + "MemberPromote",
                self._changing(MemberPromoteRequest.FromString, self._promote),
            ),
        ]

    def member_list(self, calls: list[Call]) -> None:
        for connection, stream, _, request in parsed(calls, MemberListRequest.FromString):
            if request.linearizable:
                self._reads.wait(self._lister(connection, stream))
            else:
                self._list(connection, stream)

    def _lister(self, caller: Caller, tag: int) -> Done:
        def done(error: Exception | None) -> None:
            if error is None:
                self._list(caller, tag)
            else:
                caller.fail(tag, errors.status_of(error))

        return done

    def _list(self, caller: Caller, tag: int) -> None:
        self._reply(caller, tag, MemberListResponse(members=self._reconfiguration.members()))

    def _reply(self, caller: Caller, tag: int, response: Response) -> None:
        caller.reply(tag, self._headers.at(_NO_REVISION) + response.SerializeToString())

    def _changing(
        self,
        parse: Callable[[bytes], _Request],
        change: Callable[[_Request], Coroutine[Any, Any, Response]],
    ) -> Callable[[list[Call]], None]:
        """A method that makes a change and answers when it is applied."""

        async def answer(caller: Caller, tag: int, request: _Request) -> None:
            try:
                response = await change(request)
            except errors.REPORTED as error:
                caller.fail(tag, errors.status_of(error))
            else:
                self._reply(caller, tag, response)

        def handle(calls: list[Call]) -> None:
            loop = asyncio.get_running_loop()
            for connection, stream, _, request in parsed(calls, parse):
                task = loop.create_task(answer(connection, stream, request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        return handle

    async def _add(self, request: MemberAddRequest) -> MemberAddResponse:
        member, members = await self._reconfiguration.add(request.peerURLs, request.isLearner)
        return MemberAddResponse(member=member, members=members)

    async def _remove(self, request: MemberRemoveRequest) -> MemberRemoveResponse:
        return MemberRemoveResponse(members=await self._reconfiguration.remove(request.ID))

    async def _update(self, request: MemberUpdateRequest) -> MemberUpdateResponse:
        members = await self._reconfiguration.update(request.ID, request.peerURLs)
        return MemberUpdateResponse(members=members)

    async def _promote(self, request: MemberPromoteRequest) -> MemberPromoteResponse:
        return MemberPromoteResponse(members=await self._reconfiguration.promote(request.ID))
