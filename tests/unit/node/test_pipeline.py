"""rusd/node/pipeline.py on a real log and database: nothing is answered before it is on disk."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rusd.api import errors
from rusd.api.answers import Answers, Headers
from rusd.lease.lessor import Lessor
from rusd.log import Logger
from rusd.mvcc.txn import Plan
from rusd.node.alarms import NoSpaceError
from rusd.node.bootstrap import recover
from rusd.node.entry import Kind, decode
from rusd.node.membership import Action, LastVoterError, MemberChange
from rusd.node.pipeline import Limits, Pipeline
from rusd.node.replica import Replica
from rusd.pb.rpc_pb2 import (
    DeleteRangeRequest,
    LeaseGrantRequest,
    Member,
    PutRequest,
    PutResponse,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from rusd.raft.message import Config
from rusd.raft.raw_node import RawNode
from rusd.storage.engine import Engine
from rusd.storage.wal import LogEntry, Wal
from rusd.wire.grpc import Status
from tests.unit.node.running import CLUSTER_ID, IDENTITY, MEMBER_ID, SECONDS, until


class GatedWal(Wal):
    """A log whose appends wait for the test once its gate is shut."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.failure: OSError | None = None

    def write(
        self, entries: Sequence[LogEntry], hard_state: tuple[int, int, int] | None = None
    ) -> None:
        self.begun.release()
        assert self.gate.wait(SECONDS)
        if self.failure is not None:
            raise self.failure
        super().write(entries, hard_state)

    async def next_append(self) -> None:
        """Waits until an append has begun."""
        async with asyncio.timeout(SECONDS):
            while not self.begun.acquire(blocking=False):
                await asyncio.sleep(0.001)


class Caller:
    """Keeps answers in the order in which they came; a call may have several."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes | Status]] = []

    def reply(self, tag: int, message: bytes, /) -> None:
        self.answers.append((tag, message))

    def fail(self, tag: int, status: Status, /) -> None:
        self.answers.append((tag, status))

    @property
    def tags(self) -> list[int]:
        return [tag for tag, _ in self.answers]


class Started:
    """A pipeline that is not begun yet."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self.engine, self.wal = Engine(directory), GatedWal(directory / "wal")
        self.failures: list[Exception] = []
        self.log = Logger(outputs=())
        applier, persisted = recover(self.engine, self.wal, Lessor(lambda: 0.0), IDENTITY, self.log)
        self.keyspace = applier.keyspace
        answers = Answers(Headers(CLUSTER_ID, MEMBER_ID))
        raw = RawNode(Config(MEMBER_ID), persisted)
        self.replica = Replica(raw, self.wal, self.log, 0, self.failures.append)
        self.replica.little = -1  # the gate is the loop's to open
        self.pipeline = Pipeline(applier, self.replica, answers, self.log, limits)
        self.caller = Caller()

    def propose(self, kind: int, request: Any, tag: int, parsed: Any = None) -> bool:
        message = request.SerializeToString()
        return self.pipeline.propose(
            kind, message, request if parsed is None else parsed, self.caller, tag
        )

    def put(self, tag: int, key: bytes = b"k", value: bytes = b"v") -> bool:
        return self.propose(Kind.PUT, PutRequest(key=key, value=value), tag)

    async def answered(self, count: int) -> list[tuple[int, bytes | Status]]:
        await until(lambda: len(self.caller.answers) >= count, f"{count} answers")
        return self.caller.answers

    def logged(self) -> list[list[tuple[int, bytes]]]:
        """The requests of each entry."""
        return [list(decode(entry.data)) for entry in self.wal.entries(0)]

    def close(self) -> None:
        self.wal.close()
        self.engine.close()
        vars(self.keyspace).clear()
        vars(self.engine).clear()
        self.log.close()


@asynccontextmanager
async def started(
    directory: Path, limits: Limits | None = None, fails: bool = False
) -> AsyncIterator[Started]:
    """A member whose first, empty entry is written; the gate is shut and nothing waits."""
    member = Started(directory, limits or Limits())
    await member.replica.lead()
    while member.wal.begun.acquire(blocking=False):
        pass
    member.wal.gate.clear()
    try:
        yield member
    finally:
        member.wal.gate.set()
        if not fails:
            await member.pipeline.stop()
        member.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(4 * SECONDS):
            await test()

    asyncio.run(limited())


def test_nothing_is_answered_or_seen_before_it_is_on_disk(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as member:
            member.put(1)
            await member.wal.next_append()
            await asyncio.sleep(0.05)
            assert member.caller.answers == []
            assert member.keyspace.revision == 1
            member.wal.gate.set()
            ((tag, answer),) = await member.answered(1)
            assert tag == 1
            assert isinstance(answer, bytes)
            header = PutResponse.FromString(answer).header
            assert (header.cluster_id, header.member_id) == (CLUSTER_ID, MEMBER_ID)
            assert header.revision == 2
            assert [len(entry) for entry in member.logged()] == [0, 1]

    run(test)


def test_what_arrives_during_a_write_is_the_next_batch(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as member:
            member.put(1)
            await member.wal.next_append()
            for tag in range(2, 50):
                member.put(tag, b"k%d" % tag)
                if tag % 10 == 0:
                    await asyncio.sleep(0)
            member.wal.gate.set()
            answers = await member.answered(49)
            assert [tag for tag, _ in answers] == list(range(1, 50))
            revisions = [PutResponse.FromString(a).header.revision for _, a in answers]  # type: ignore[arg-type]
            assert revisions == list(range(2, 51))
            assert [len(entry) for entry in member.logged()] == [0, 1, 48]

    run(test)


def test_a_batch_is_bounded_by_requests_and_by_bytes(tmp_path: Path) -> None:
    async def test() -> None:
        limits = Limits(entry_requests=10, entry_bytes=5000)
        async with started(tmp_path, limits) as member:
            member.put(0)
            await member.wal.next_append()
            for tag in range(1, 26):
                member.put(tag)
            for tag in range(26, 36):
                member.put(tag, value=b"v" * 2000)
            member.wal.gate.set()
            answers = await member.answered(36)
            assert [tag for tag, _ in answers] == list(range(36))
            await member.pipeline.idle()
            assert [len(entry) for entry in member.logged()] == [0, 1, 10, 10, 8, 3, 3, 1]

    run(test)


def test_a_refused_request_fails_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as member:
            member.put(1)
            member.propose(Kind.PUT, PutRequest(key=b"x", ignore_value=True), 2)
            member.propose(Kind.PUT, PutRequest(key=b"x", lease=99), 3)
            member.propose(Kind.LEASE_GRANT, LeaseGrantRequest(ID=5, TTL=60), 4)
            member.propose(Kind.LEASE_GRANT, LeaseGrantRequest(ID=5, TTL=60), 5)
            member.propose(Kind.DELETE_RANGE, DeleteRangeRequest(key=b"k"), 6)
            member.wal.gate.set()
            answers = dict(await member.answered(6))
            refused = {tag: answer for tag, answer in answers.items() if isinstance(answer, Status)}
            assert refused == {
                2: errors.KEY_NOT_FOUND,
                3: errors.LEASE_NOT_FOUND,
                5: errors.LEASE_EXIST,
            }
            assert member.keyspace.revision == 3
            assert not member.failures

    run(test)


def test_a_read_of_the_past_in_a_batch_sees_what_came_before_it(tmp_path: Path) -> None:
    """It reads the tables, which are otherwise written when the whole batch is applied."""

    async def test() -> None:
        async with started(tmp_path) as member:
            member.put(1, value=b"old")
            member.put(2, value=b"new")
            request = TxnRequest(
                success=[
                    RequestOp(request_put=PutRequest(key=b"k", value=b"newest")),
                    RequestOp(request_range=RangeRequest(key=b"k", revision=2)),
                    RequestOp(request_range=RangeRequest(key=b"k", revision=3)),
                    RequestOp(request_range=RangeRequest(key=b"k")),
                ]
            )
            member.propose(Kind.TXN, request, 3, Plan(request))
            member.wal.gate.set()
            _, _, (_, answer) = await member.answered(3)
            assert isinstance(answer, bytes)
            read = TxnResponse.FromString(answer).responses[1:]
            values = [op.response_range.kvs[0].value for op in read]
            assert values == [b"old", b"new", b"newest"]

    run(test)


def test_more_than_may_wait_is_refused_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path, Limits(waiting_requests=3)) as member:
            member.put(0)
            await member.wal.next_append()
            assert [member.put(tag) for tag in range(1, 6)] == [True, True, True, False, False]
            assert member.caller.answers == [
                (tag, errors.REQUEST_TOO_MANY_REQUESTS) for tag in (4, 5)
            ]
            member.wal.gate.set()
            await member.answered(6)
            assert sorted(member.caller.tags) == list(range(6))

    run(test)


def test_more_bytes_than_may_wait_are_refused_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path, Limits(waiting_bytes=5000)) as member:
            member.put(0)
            await member.wal.next_append()
            taken = [member.put(tag, value=b"v" * 2000) for tag in range(1, 6)]
            assert taken == [True, True, True, False, False]
            member.wal.gate.set()
            await member.answered(6)
            await member.pipeline.idle()
            member.wal.gate.clear()
            assert member.put(6), "there is room again"

    run(test)


def test_who_waits_for_too_long_is_told(tmp_path: Path) -> None:
    """What they wait for may still be applied."""

    async def test() -> None:
        async with started(tmp_path, Limits(request_timeout=0.2)) as member:
            member.put(1, b"in flight")
            await member.wal.next_append()
            member.put(2, b"waiting")
            answers = await member.answered(2)
            assert answers[:2] == [(1, errors.TIMEOUT), (2, errors.TIMEOUT)]
            member.wal.gate.set()
            member.put(3, b"later")
            await member.answered(3)
            assert {b"in flight", b"later"} <= set(member.keyspace.live(b"", None))
            assert member.caller.tags == [1, 2, 3]

    run(test)


def test_a_queue_that_never_gets_empty_is_not_late(tmp_path: Path) -> None:
    """What has just arrived has not waited for as long as there has been a queue."""

    async def test() -> None:
        limits = Limits(request_timeout=1.0, entry_requests=2)
        async with started(tmp_path, limits) as member:
            member.wal.gate.set()
            begun = member.pipeline.loop.time()
            tag = 0
            while member.pipeline.loop.time() < begun + 3.5:
                while tag - len(member.caller.answers) < 20:
                    member.put(tag)
                    tag += 1
                await asyncio.sleep(0.005)
            await member.pipeline.idle()
            assert sorted(member.caller.tags) == list(range(tag))
            assert not [a for _, a in member.caller.answers if isinstance(a, Status)]

    run(test)


def test_a_log_that_fails_stops_the_member_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path, fails=True) as member:
            member.put(1)
            await member.wal.next_append()
            member.put(2)
            member.wal.failure = OSError(5, "Input/output error")
            member.wal.gate.set()
            await until(lambda: member.failures, "failure")
            assert member.failures == [member.wal.failure]
            with pytest.raises(OSError, match="Input/output error"):
                await member.pipeline.stop()
            await asyncio.sleep(0.05)
            assert member.caller.answers == []
            assert member.keyspace.revision == 1

    run(test)


def test_a_log_that_fails_at_the_start_does_not_keep_the_member_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    async def test() -> None:
        member = Started(tmp_path, Limits())
        monkeypatch.setattr(member.wal, "_put", fail)
        member.replica.campaign()
        member.put(1)
        with pytest.raises(OSError, match="Input/output error"):
            await member.pipeline.idle()
        assert len(member.failures) == 1
        member.close()

    run(test)


def test_a_defect_in_applying_stops_the_member(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path, fails=True) as member:
            member.put(1)
            member.propose(Kind.PUT, PutRequest(key=b"b"), 2, parsed="no request")
            member.wal.gate.set()
            await until(lambda: member.failures, "failure")
            assert member.caller.answers == []
            with pytest.raises(AttributeError):
                await member.pipeline.stop()

    run(test)


def test_a_stopping_member_answers_what_it_took_and_takes_no_more(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as member:
            member.put(1)
            await member.wal.next_append()
            member.put(2)
            stopping = asyncio.ensure_future(member.pipeline.stop())
            await asyncio.sleep(0)
            member.wal.gate.set()
            await stopping
            assert member.caller.tags == [1, 2]
            assert not member.put(3)
            assert member.caller.answers[-1] == (3, errors.STOPPED)

    run(test)


def test_a_change_that_raft_cannot_make_is_refused_as_one_of_the_members(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as member:
            member.wal.gate.set()
            change = MemberChange(Action.REMOVE, Member(ID=MEMBER_ID))
            with pytest.raises(LastVoterError):
                await member.pipeline.change(change)
            await member.pipeline.idle()
            member.put(1)
            assert isinstance((await member.answered(1))[0][1], bytes)

    run(test)


def test_a_job_for_the_log_runs_between_appends(tmp_path: Path) -> None:
    async def test() -> None:
        async with started(tmp_path) as member:
            seen: list[int] = []
            done = asyncio.Event()
            member.put(1)
            await member.wal.next_append()
            member.pipeline.submit(lambda wal: seen.append(wal.last_index), done.set)
            member.put(2)
            assert not seen
            member.wal.gate.set()
            await done.wait()
            await member.answered(2)
            assert seen == [member.wal.last_index - 1]

    run(test)


def test_while_it_refuses_nothing_new_is_taken_and_what_is_on_its_way_goes_on(
    tmp_path: Path,
) -> None:
    """With the error that it was given; what waited behind a batch gets it too."""

    async def test() -> None:
        async with started(tmp_path) as member:
            member.put(1)
            await member.wal.next_append()
            member.put(2)
            member.pipeline.refuse(NoSpaceError)
            assert not member.put(3)
            assert member.caller.answers == [(2, errors.NO_SPACE), (3, errors.NO_SPACE)]
            member.pipeline.accept()
            assert member.put(4)
            member.wal.gate.set()
            answers = await member.answered(4)
            assert [tag for tag, _ in answers[2:]] == [1, 4]
            assert member.keyspace.revision == 3

    run(test)
