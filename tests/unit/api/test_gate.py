"""rusd/api/gate.py: what is refused for want of a leader, and what of a learner."""

import asyncio
import logging
from typing import Any, cast

import pytest

from rusd.api import errors
from rusd.api.gate import Gate
from rusd.api.identities import Identities
from rusd.pb.rpc_pb2 import PutRequest, RangeRequest
from rusd.wire.service import Call, RequestHead, StreamHandler, StreamMethod, UnaryMethod
from rusd.wire.stream import Stream
from rusd.wire.turn import Turn
from tests.unit.api.fakes import RecordedStream
from tests.unit.node.running import Recorder, until
from tests.unit.node.trio import Member, Stage, Trio, stage

__all__ = ["stage"]

ELECTION_TIMEOUT = 0.05
PUT, RANGE = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Range"
STATUS = "/etcdserverpb.Maintenance/Status"
WATCH, SNAPSHOT = "/etcdserverpb.Watch/Watch", "/etcdserverpb.Maintenance/Snapshot"
WITH, OTHER = {b"hasleader": b"true"}, {b"hasleader": b"false"}
WITHOUT: dict[bytes, bytes] = {}


class Client(RecordedStream):
    """A client's stream, with its headers."""

    def __init__(self, metadata: dict[bytes, bytes]) -> None:
        super().__init__()
        self.head = RequestHead(b"", metadata)
        self.closed = False

    @property
    def ending(self) -> bytes | None:
        return b"trailers" if self.ended else None


class Handler:
    """A service's half of a stream."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def message(self, data: bytes) -> None:
        self.heard.append(data)

    def half_closed(self) -> None:
        self.heard.append("half closed")

    def closed(self) -> None:
        self.heard.append("closed")

    def writable(self) -> None:
        self.heard.append("writable")


class Gated:
    """A member's methods behind its gate."""

    def __init__(self, member: Member) -> None:
        self.opened: list[Handler] = []
        self.gate = Gate(
            member.replica,
            member.applier.membership,
            Identities(member.applier, member.replica),
            ELECTION_TIMEOUT,
        )
        streams = self.gate.guard([StreamMethod(path, self._open) for path in (WATCH, SNAPSHOT)])
        self.streams = {each.path: cast(StreamMethod, each) for each in streams}
        methods = [UnaryMethod(path, self._handle) for path in (PUT, RANGE, STATUS)]
        assert self.gate.guard(methods) == methods
        self.turn = Turn(methods, logging.getLogger())
        self.gate.bind(self.turn)

    @staticmethod
    def _handle(calls: list[Call]) -> None:
        for connection, tag, _, _ in calls:
            connection.reply(tag, b"done")

    def _open(self, _: Stream) -> StreamHandler:
        self.opened.append(Handler())
        return self.opened[-1]

    def open(self, path: str, metadata: dict[bytes, bytes]) -> tuple[Client, StreamHandler]:
        client = Client(metadata)
        return client, self.streams[path].open(client.stream)

    async def call(self, path: str, message: bytes, *metadata: dict[bytes, bytes]) -> list[Any]:
        """The answers to calls that arrive together."""
        recorder = Recorder()
        for tag, each in enumerate(metadata):
            call = cast(Call, (recorder, tag, RequestHead(path.encode(), each), message))
            self.turn.batches[path.encode()].append(call)
        self.turn.wake()
        return [await recorder.answer(tag) for tag in range(len(metadata))]


def put(key: bytes = b"k") -> bytes:
    return PutRequest(key=key).SerializeToString()


def test_without_a_leader_who_wants_one_is_refused_at_once_and_others_are_not(
    stage: Stage,
) -> None:
    async def test(trio: Trio) -> None:
        gated = Gated(trio[1])
        assert gated.turn.gate is None, "with a leader there is nothing to pay"
        assert await gated.call(PUT, put(), WITH) == [b"done"]
        await trio.depose(1)
        assert await gated.call(PUT, put(), WITH, WITHOUT, OTHER, WITH) == [
            errors.NO_LEADER,
            b"done",
            b"done",
            errors.NO_LEADER,
        ]
        refused, handler = gated.open(WATCH, WITH)
        assert refused.ended == [errors.NO_LEADER]
        assert not gated.opened
        for heard in (handler.half_closed, handler.writable, handler.closed):
            heard()
        handler.message(b"too late")
        passed, _ = gated.open(WATCH, WITHOUT)
        assert (passed.ended, len(gated.opened)) == ([], 1)
        trio.heal()
        await trio.elect(2)
        assert gated.turn.gate is None
        assert await gated.call(PUT, put(), WITH) == [b"done"]

    stage.play(test)


def test_streams_that_want_a_leader_end_when_there_was_none_for_three_election_timeouts(
    stage: Stage,
) -> None:
    async def test(trio: Trio) -> None:
        gated = Gated(trio[1])
        (wants, handler), (ended, kept), (does_not, _) = (
            gated.open(WATCH, metadata) for metadata in (WITH, WITH, WITHOUT)
        )
        ended.finish(None)
        handler.message(b"passed on")
        loop = asyncio.get_running_loop()
        began = loop.time()
        await trio.depose(1)
        assert not wants.ended
        await until(lambda: wants.ended, "it ends")
        assert loop.time() - began >= 3 * ELECTION_TIMEOUT
        assert wants.ended == [errors.NO_LEADER]
        assert gated.opened[0].heard == [b"passed on", "closed"]
        assert kept is not handler
        assert (ended.ended, gated.opened[1].heard) == ([None], [])
        assert (does_not.ended, gated.opened[2].heard) == ([], [])

    stage.play(test)


def test_streams_go_on_when_there_is_a_leader_in_time(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        gated = Gated(trio[1])
        gated.gate._patience = 1.0
        client, _ = gated.open(WATCH, WITH)
        await trio.depose(1)
        trio.heal()
        await trio.elect(2)
        assert gated.gate._timer is None
        assert not client.ended
        # It is as patient with the next.
        gated.gate._patience = 0.05
        await trio.depose(2)
        await trio.elect(1)
        assert not client.ended

    stage.play(test)


def test_a_learner_answers_serializable_ranges_and_its_status_alone(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        member = trio[3]
        row = member.applier.membership.members[3]
        gated = Gated(member)
        row.isLearner = True
        member.replica.conf_changed()
        try:
            no = [errors.NOT_SUPPORTED_FOR_LEARNER]
            serializable = RangeRequest(key=b"k", serializable=True).SerializeToString()
            assert await gated.call(PUT, put(), WITHOUT) == no
            assert await gated.call(RANGE, RangeRequest(key=b"k").SerializeToString(), {}) == no
            assert await gated.call(RANGE, serializable, WITHOUT) == [b"done"]
            assert await gated.call(RANGE, b"\xff", WITHOUT) == [b"done"], "it is told of that"
            assert await gated.call(STATUS, b"", WITHOUT) == [b"done"]
            watch, _ = gated.open(WATCH, WITHOUT)
            snapshot, _ = gated.open(SNAPSHOT, WITHOUT)
            assert (watch.ended, snapshot.ended) == (no, [])
        finally:
            row.isLearner = False
        member.replica.conf_changed()
        assert gated.turn.gate is None, "it was promoted"
        assert await gated.call(PUT, put(), WITHOUT) == [b"done"]

    stage.play(test)


@pytest.mark.parametrize("metadata", [WITH, WITHOUT])
def test_a_learner_that_has_no_leader_refuses_for_that_too(
    stage: Stage, metadata: dict[bytes, bytes]
) -> None:
    async def test(trio: Trio) -> None:
        member = await trio.depose(1)
        row = member.applier.membership.members[1]
        gated = Gated(member)
        row.isLearner = True
        try:
            serializable = RangeRequest(key=b"k", serializable=True).SerializeToString()
            expected = errors.NO_LEADER if metadata else b"done"
            assert await gated.call(RANGE, serializable, metadata) == [expected]
        finally:
            row.isLearner = False

    stage.play(test)
