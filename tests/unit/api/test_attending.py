"""rusd/api/attending.py, inner.py and contention.py: calls that wait, and what becomes of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rusd.api import errors
from rusd.api.attending import Attendants, Send
from rusd.api.contention import take_place
from rusd.api.inner import CallError, InnerClient
from rusd.pb.kv_pb2 import Event
from rusd.pb.lock_pb2 import LockRequest, LockResponse
from rusd.pb.rpc_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    TxnRequest,
    TxnResponse,
    WatchCreateRequest,
    WatchResponse,
)
from rusd.wire.grpc import Code, Status
from rusd.wire.loopback import Loopback, LoopbackStream, Origin
from rusd.wire.service import Call, RequestHead, StreamMethod, UnaryMethod
from rusd.wire.stream import Stream
from rusd.wire.turn import Turn

SECONDS = 20.0
HEAD = RequestHead(b"/test", {b"token": b"secret"})


class Member:
    """KV and Watch, which answer when the test says so, and a waiting service on top."""

    def __init__(self) -> None:
        self.txns: list[Call] = []
        self.deleted: list[bytes] = []
        self.watches: list[Stream] = []
        self.ended: list[str] = []
        methods = [
            UnaryMethod("/etcdserverpb.KV/Txn", self.txns.extend),
            UnaryMethod("/etcdserverpb.KV/DeleteRange", self.delete),
        ]
        self.attendants = Attendants()
        self.attend: Callable[[InnerClient, Send], Awaitable[object]]
        streams = [
            StreamMethod("/etcdserverpb.Watch/Watch", self.watch),
            self.attendants.method("/test", LockRequest, self._attend),
        ]
        by_path = {method.path.encode(): method for method in streams}
        self.calls = Loopback(Turn(methods, logging.getLogger("test")), by_path)
        self.attendants.bind(self.calls)
        self.answers: list[bytes | Status | None] = []
        self.congested = False
        self.done = asyncio.Event()

    async def _attend(self, client: InnerClient, request: LockRequest, send: Send) -> None:
        assert request.lease == 5
        try:
            await self.attend(client, send)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise

    def delete(self, calls: list[Call]) -> None:
        for connection, stream, _, message in calls:
            self.deleted.append(DeleteRangeRequest.FromString(message).key)
            connection.reply(stream, DeleteRangeResponse().SerializeToString())

    def watch(self, stream: Stream) -> "Member":
        self.watches.append(stream)
        return self

    # As the handler of watches.

    def half_closed(self) -> None:
        pass

    def closed(self) -> None:
        self.ended.append("watch closed")

    def writable(self) -> None:
        self.ended.append("watch writable")

    # As the handler of watches, and as the receiver of the service's answers.

    def message(self, data: bytes, /) -> None:
        if not self.watches:
            self.answers.append(data)
            self.done.set()

    def finished(self, status: Status | None, /) -> None:
        self.answers.append(status)
        self.done.set()

    def ask(self) -> LoopbackStream:
        stream = self.calls.stream(HEAD, self, Origin("name"))
        stream.message(LockRequest(lease=5).SerializeToString())
        stream.half_close()
        return stream

    async def until(self, done: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not done():
                await asyncio.sleep(0)


def run(test: Callable[[Member], Awaitable[object]]) -> None:
    async def main() -> None:
        member = Member()
        await test(member)

    asyncio.run(main())


def take(member: Member) -> None:
    async def attend(client: InnerClient, _send: Send) -> None:
        await take_place(client, b"n", 5, b"")

    member.attend = attend


@pytest.mark.parametrize("succeeded", [True, False])
def test_who_goes_while_the_key_is_written_leaves_none_behind(succeeded: bool) -> None:
    async def test(member: Member) -> None:
        take(member)
        stream = member.ask()
        await member.until(lambda: member.txns)
        stream.cancel()
        await asyncio.sleep(0)
        ((connection, tag, head, message),) = member.txns
        assert head.metadata == {b"token": b"secret"}
        assert connection.common_name == "name"
        key = TxnRequest.FromString(message).compare[0].key
        assert key == b"n/5"
        response = TxnResponse(succeeded=succeeded)
        response.header.revision = 9
        response.responses.add().response_range.kvs.add(key=key, create_revision=3)
        response.responses.add().response_range.kvs.add(key=key, create_revision=3)
        connection.reply(tag, response.SerializeToString())
        await member.until(lambda: member.ended)
        # A key that was there before belongs to another call of the same lease.
        assert member.deleted == ([key] if succeeded else [])
        assert member.answers == []

    run(test)


def test_an_error_of_a_call_is_the_answer_without_its_code() -> None:
    async def test(member: Member) -> None:
        take(member)
        member.ask()
        await member.until(lambda: member.txns)
        connection, tag, _, _ = member.txns[0]
        connection.fail(tag, errors.PERMISSION_DENIED)
        await member.done.wait()
        assert member.answers == [Status(Code.UNKNOWN, "etcdserver: permission denied")]

    run(test)


def test_all_end_when_the_member_stops() -> None:
    async def test(member: Member) -> None:
        take(member)
        member.ask()
        await member.until(lambda: member.txns)
        member.attendants.stop()
        assert member.answers == [errors.STOPPED]
        await asyncio.sleep(0)

    run(test)


def test_a_defect_ends_the_call_alone() -> None:
    async def test(member: Member) -> None:
        told: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

        async def attend(_client: InnerClient, _send: Send) -> None:
            raise RuntimeError("defect")

        member.attend = attend
        member.ask()
        await member.done.wait()
        assert member.answers == [errors.INTERNAL]

    run(test)


@pytest.mark.parametrize("bodies", [[], [b"\xff"], [b"\x10\x05", b"\x10\x05"]], ids=len)
def test_a_call_has_one_message_that_can_be_read(bodies: list[bytes]) -> None:
    async def test(member: Member) -> None:
        take(member)
        stream = member.calls.stream(HEAD, member)
        for body in bodies:
            stream.message(body)
        stream.half_close()
        (status,) = member.answers
        assert isinstance(status, Status)
        assert status.code == Code.INTERNAL
        await asyncio.sleep(0)

    run(test)


def test_answers_wait_for_a_client_that_does_not_read() -> None:
    async def test(member: Member) -> None:
        async def attend(_client: InnerClient, send: Send) -> None:
            for _ in range(3):
                await send(LockResponse(key=b"k"))

        member.attend = attend
        member.congested = True
        stream = member.ask()
        for _ in range(5):
            await asyncio.sleep(0)
        assert member.answers == []
        member.congested = False
        stream.drained()
        await member.until(lambda: None in member.answers)
        assert member.answers == [b"\x12\x01k"] * 3 + [None]

    run(test)


def events_of(member: Member) -> list[bytes | Exception | None]:
    """What a call sees of its watch: keys, an error, None for its end."""
    seen: list[bytes | Exception | None] = []

    async def attend(client: InnerClient, _send: Send) -> None:
        try:
            async for _, event in client.events(WatchCreateRequest(key=b"k")):
                seen.append(event.kv.key)
            seen.append(None)
        except CallError as error:
            seen.append(error)

    member.attend = attend
    return seen


def response(*keys: bytes, **fields: Any) -> bytes:
    made = WatchResponse(**fields)
    made.events.extend(Event(kv={"key": key}) for key in keys)
    return made.SerializeToString()


def test_a_watch_is_followed_to_its_end() -> None:
    async def test(member: Member) -> None:
        seen = events_of(member)
        member.ask()
        await member.until(lambda: member.watches)
        (watch,) = member.watches
        watch.send(response(created=True))
        watch.send(response(b"a", b"b"))
        watch.send(response(canceled=True, compact_revision=4))
        await member.until(lambda: None in seen)
        assert seen == [b"a", b"b", None]
        assert member.ended == ["watch closed"]

    run(test)


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (
            response(canceled=True, cancel_reason="rpc error: code = X desc = etcdserver: no"),
            "etcdserver: no",
        ),
        (errors.STOPPED, "etcdserver: server stopped"),
    ],
)
def test_a_watch_that_fails_is_an_error(ending: bytes | Status, text: str) -> None:
    async def test(member: Member) -> None:
        seen = events_of(member)
        member.ask()
        await member.until(lambda: member.watches)
        (watch,) = member.watches
        if isinstance(ending, bytes):
            watch.send(ending)
        else:
            watch.finish(ending)
        await member.until(lambda: seen)
        assert str(seen[0]) == text

    run(test)


def test_a_watch_waits_for_who_looks_at_it() -> None:
    async def test(member: Member) -> None:
        seen = events_of(member)
        member.ask()
        await member.until(lambda: member.watches)
        (watch,) = member.watches
        for _ in range(64):
            assert not watch.congested
            watch.send(response(b"k"))
        assert watch.congested
        await member.until(lambda: len(seen) == 64)
        assert member.ended == ["watch writable"]

    run(test)
