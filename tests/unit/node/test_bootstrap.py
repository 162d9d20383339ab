"""rusd/node/bootstrap.py and truncation.py: a crash at any moment, and the state is the same."""

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rusd.mvcc.compaction import sweep
from rusd.mvcc.hashing import hash_history
from rusd.mvcc.txn import Plan
from rusd.node.bootstrap import FIRST, DamagedDataError
from rusd.node.entry import Kind
from rusd.node.truncation import Truncation
from rusd.pb.rpc_pb2 import (
    AlarmRequest,
    CompactionRequest,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    Member,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from rusd.storage import wal as wal_module
from tests.unit.mvcc import requests
from tests.unit.mvcc.opened import finished, fresh_directory
from tests.unit.node.running import MEMBER_ID, SECONDS, Running, running, until


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "SEGMENT_BYTES", 4096)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(4 * SECONDS):
            await test()

    asyncio.run(limited())


async def crash_copy(member: Running, target: Path) -> Path:
    """What a kill would leave, at a moment when the database's own threads leave its files alone,
    so that they can be copied.
    """
    table = member.engine.tables.state
    names = ("num-running-flushes", "num-running-compactions", "compaction-pending")
    while True:
        await until(
            lambda: not any(table.property_int_value(f"rocksdb.{name}") for name in names), "quiet"
        )
        try:
            return member.crash_copy(target)
        except shutil.Error:  # a file that was obsolete is gone now
            shutil.rmtree(target)


State = tuple[Any, ...]


def state(member: Running) -> State:
    """Everything that the log decides."""
    keyspace = member.keyspace
    if keyspace.swept < keyspace.compacted:
        for _ in sweep(keyspace):
            pass
    return (
        finished(hash_history(keyspace, 0)),
        {key: keyspace.get(key) for key in keyspace.live(b"", None)},
        {lease.id: (lease.ttl, lease.remaining, lease.keys) for lease in member.lessor},
        {id_: m.SerializeToString() for id_, m in member.applier.membership.members.items()},
        member.applier.alarms.row(),
    )


def propose(member: Running, kind: Kind, request: Any) -> None:
    parsed = Plan(request) if kind == Kind.TXN else request
    member.pipeline.propose(kind, request.SerializeToString(), parsed, None, 0)


past = TxnRequest(
    success=[
        RequestOp(request_put=PutRequest(key=b"past")),
        RequestOp(request_range=RangeRequest(key=b"a", revision=2)),
    ]
)
"""Makes the pipeline write the tables in the middle of a batch."""

proposals = st.one_of(
    st.tuples(st.just(Kind.PUT), requests.puts),
    st.tuples(st.just(Kind.PUT), requests.plain_puts),
    st.tuples(st.just(Kind.DELETE_RANGE), requests.delete_ranges),
    st.tuples(st.just(Kind.TXN), requests.guarded_puts),
    st.tuples(st.just(Kind.TXN), st.just(past)),
    st.tuples(st.just(Kind.COMPACT), st.builds(CompactionRequest, revision=st.integers(0, 12))),
    st.tuples(
        st.just(Kind.LEASE_GRANT), st.builds(LeaseGrantRequest, ID=st.just(7), TTL=st.just(90))
    ),
    st.tuples(st.just(Kind.LEASE_REVOKE), st.builds(LeaseRevokeRequest, ID=st.just(7))),
    st.tuples(
        st.just(Kind.LEASE_CHECKPOINT),
        st.just(LeaseCheckpointRequest(checkpoints=[LeaseCheckpoint(ID=7, remaining_TTL=33)])),
    ),
    st.tuples(
        st.just(Kind.ALARM),
        st.builds(AlarmRequest, action=st.integers(1, 2), memberID=st.just(5), alarm=st.just(1)),
    ),
    st.tuples(
        st.just(Kind.MEMBER),
        st.builds(Member, ID=st.just(MEMBER_ID), name=st.sampled_from(["one", "two"])),
    ),
)
MOMENTS = ("", "", "", "flush", "crash", "crash mid-batch")


@settings(max_examples=settings().max_examples // 2)
@given(
    st.lists(
        st.tuples(st.lists(proposals, min_size=1, max_size=6), st.sampled_from(MOMENTS)),
        min_size=1,
        max_size=8,
    )
)
def test_a_crash_at_any_moment_loses_nothing_and_repeats_nothing(
    script: list[tuple[list[tuple[Kind, Any]], str]],
) -> None:
    """Before any flush, after one, and with the tables flushed in the middle of a batch."""

    async def test() -> None:
        with fresh_directory() as directory:
            async with running(directory / "member") as member:
                for number, (batch, moment) in enumerate(script):
                    mid_batch = moment == "crash mid-batch"
                    if mid_batch:
                        flush_mid_batch(member)
                    for kind, request in batch:
                        propose(member, kind, request)
                    await member.pipeline.idle()
                    if moment == "flush":
                        member.engine.flush()
                    if moment.startswith("crash"):
                        copy = await crash_copy(member, directory / f"copy{number}")
                        async with running(copy) as again:
                            assert state(again) == state(member)
                    member.keyspace.__dict__.pop("write", None)
                assert not member.failures
                expected = state(member)
                term = member.pipeline.term
            for _ in range(2):
                async with running(directory / "member") as member:
                    assert state(member) == expected
                    assert member.pipeline.term > term
                    term = member.pipeline.term

    run(test)


def flush_mid_batch(member: Running) -> None:
    """Flushes whenever tables are written but at the end of a batch."""
    keyspace = member.keyspace
    write = keyspace.write

    def flushing() -> None:
        write()
        if keyspace.applied.requests:
            member.engine.flush()

    vars(keyspace)["write"] = flushing


def test_the_middle_of_a_batch_is_where_replay_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path / "member") as member:
            flush_mid_batch(member)
            propose(member, Kind.PUT, PutRequest(key=b"a", value=b"1"))
            propose(member, Kind.TXN, past)
            propose(member, Kind.PUT, PutRequest(key=b"a", value=b"2"))
            await member.pipeline.idle()
            copy = await crash_copy(member, tmp_path / "copy")
            async with running(copy) as again:
                assert state(again) == state(member)
                meta = again.keyspace.meta(b"a")
                assert meta is not None
                assert meta.version == 2
            del member.keyspace.__dict__["write"]

    run(test)


def test_damage_between_tables_and_log_stops_the_start(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path / "member") as member:
            for number in range(20):
                await member.propose(Kind.PUT, PutRequest(key=b"%d" % number))
            early = await crash_copy(member, tmp_path / "early")
            member.engine.flush()
            late = await crash_copy(member, tmp_path / "late")
        shutil.rmtree(late / "wal")
        with pytest.raises(DamagedDataError, match="the end of the log is missing"):
            async with running(late):
                pass
        (segment,) = (early / "wal").glob("*.log")
        segment.rename(segment.with_name(f"{1:016d}-{15:020d}.log"))
        with pytest.raises(DamagedDataError, match="entries between them are missing"):
            async with running(early):
                pass

    run(test)


def test_truncation_keeps_what_the_tables_have_not_flushed(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path / "member") as member:
            with ThreadPoolExecutor(1) as threads:
                truncation = Truncation(
                    member.pipeline, member.engine.flush, threads, member.log, 10, size=1 << 30
                )
                for number in range(60):
                    await member.propose(Kind.PUT, PutRequest(key=b"%d" % number, value=b"v" * 500))
                    if number % 7 == 0:
                        dropped = asyncio.Event()
                        await until(lambda: not truncation._running, "flush")
                        member.pipeline.submit(lambda _: None, dropped.set)
                        await dropped.wait()
                        copy = await crash_copy(member, tmp_path / f"copy{number}")
                        async with running(copy) as again:
                            assert state(again) == state(member)
                        shutil.rmtree(copy)
                await until(lambda: member.wal.first_index > 30, "truncation")
            assert member.wal.first_index <= member.wal.last_index
            copy = await crash_copy(member, tmp_path / "copy")
            async with running(copy) as again:
                assert state(again) == state(member)

    run(test)


def test_a_flush_that_fails_keeps_the_log(tmp_path: Path) -> None:
    failed = 0

    def fail() -> None:
        nonlocal failed
        failed += 1
        raise OSError(28, "No space left on device")

    async def test() -> None:
        async with running(tmp_path) as member:
            with ThreadPoolExecutor(1) as threads:
                Truncation(member.pipeline, fail, threads, member.log, 1, size=1 << 30)
                for number in range(30):
                    await member.propose(Kind.PUT, PutRequest(key=b"%d" % number, value=b"v" * 500))
                await until(lambda: failed > 1, "two flushes")
            assert member.wal.first_index == FIRST.index + 1
            assert not member.failures

    run(test)


def test_a_new_member_keeps_its_identity(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path / "member") as member:
            membership = member.applier.membership
            propose(member, Kind.MEMBER, Member(ID=MEMBER_ID, name="other"))
            await member.pipeline.idle()
            copy = await crash_copy(member, tmp_path / "copy")
            async with running(copy) as again:
                assert again.applier.membership == membership
                assert membership.local_id == MEMBER_ID
                assert membership.members[MEMBER_ID].name == "other"

    run(test)
