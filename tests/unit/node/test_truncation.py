"""rusd/node/truncation.py: a log of bounded length that has what followers may still need."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rusd.node import truncation
from rusd.node.entry import Kind
from rusd.node.truncation import Truncation
from rusd.pb.rpc_pb2 import PutRequest
from rusd.raft.message import MessageKind
from rusd.storage.wal import Wal
from tests.unit.node.running import SECONDS, Recorder, Running, running
from tests.unit.node.trio import revision, three

MARK, KEPT, KEPT_AT_MOST = 5, 4, 20


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks every 5 entries, of which 4 are kept; 20 for who gets a snapshot."""
    monkeypatch.setattr(truncation, "_MARK_ENTRIES", MARK)
    monkeypatch.setattr(truncation, "_KEPT_MARKS", KEPT)
    monkeypatch.setattr(truncation, "_KEPT_MARKS_AT_MOST", KEPT_AT_MOST)


class Truncated:
    """A member whose log is truncated."""

    def __init__(
        self,
        member: Running,
        entries: int = 10**9,
        size: int = 1 << 40,
        needed: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.member, self.raw = member, member.pipeline.replica.raw
        self.flushed = 0
        """What the keyspace has on disk, at least."""
        self.flush_error: Exception | None = None
        self.executor = ThreadPoolExecutor(1)
        Truncation(member.pipeline, self._flush, self.executor, member.log, entries, needed, size)

    def _flush(self) -> None:
        if self.flush_error is not None:
            raise self.flush_error
        position = self.member.keyspace.applied.position
        self.member.engine.flush()
        self.flushed = position

    @property
    def length(self) -> int:
        """Of the log in memory."""
        return self.raw.last_index - self.raw.first_index + 1

    async def put(self, count: int, size: int = 1) -> None:
        """Puts so many, each in an entry of its own."""
        caller = Recorder()
        for tag in range(count):
            request = PutRequest(key=b"k", value=b"v" * size)
            message = request.SerializeToString()
            self.member.pipeline.propose(Kind.PUT, message, request, caller, tag)
            revision(await caller.answer(tag))


def test_the_log_in_memory_is_bounded_by_entries_and_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truncation, "_MARK_BYTES", 1000)
    monkeypatch.setattr(truncation, "KEPT_BYTES", 20_000)

    async def test() -> None:
        async with three(tmp_path) as trio:
            log = Truncated(trio[1])
            await log.put(100)
            assert KEPT * MARK <= log.length <= (KEPT + 2) * MARK
            monkeypatch.setattr(truncation, "_KEPT_MARKS", 10**6)
            await log.put(60, 1000)
            assert 20 <= log.length <= 24

    asyncio.run(test())


def test_a_follower_that_lags_a_little_needs_no_snapshot(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path) as trio:
            log = Truncated(trio[1])
            await log.put(50)
            await trio.level()
            trio.lose(MessageKind.APPEND, 3)
            await log.put(KEPT * MARK - MARK)
            trio.lose(0)
            trio[1].replica.unreachable(3)
            await trio.level()
            assert not [m for m in trio[1].link.sent if m.kind == MessageKind.SNAPSHOT]

    asyncio.run(test())


def test_more_is_kept_for_who_is_being_sent_a_snapshot_but_not_all(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path) as trio:
            needed: list[int] = []
            log = Truncated(trio[1], needed=lambda: min(needed, default=None))
            await log.put(50)
            needed.append(log.raw.applied)
            await log.put(KEPT_AT_MOST * MARK - 2 * MARK)
            assert log.raw.first_index <= needed[0] + 1
            await log.put(100)
            assert log.length <= (KEPT_AT_MOST + 2) * MARK
            needed.clear()
            await log.put(2 * MARK)
            assert log.length <= (KEPT + 2) * MARK

    asyncio.run(test())


def test_a_member_alone_keeps_next_to_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with alone(tmp_path) as log:
            await log.put(50)
            assert log.length <= 2 * MARK

    asyncio.run(test())


async def segments_go(log: Truncated, wal: Wal) -> None:
    """Puts until the log on disk is shortened."""
    before = wal.first_index
    async with asyncio.timeout(SECONDS):
        while wal.first_index == before:
            await log.put(10, 300)


@asynccontextmanager
async def alone(directory: Path, entries: int = 10**9) -> AsyncIterator[Truncated]:
    async with running(directory) as member:
        yield Truncated(member, entries)


def test_the_log_on_disk_goes_only_when_the_keyspace_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rusd.storage.wal.SEGMENT_BYTES", 4096)

    async def test() -> None:
        async with alone(tmp_path, entries=20) as log:
            wal = log.member.wal
            log.flush_error = OSError("no space")
            await log.put(60, 300)
            assert wal.first_index <= 2
            log.flush_error = None
            for _ in range(3):
                await segments_go(log, wal)
                assert wal.first_index <= log.flushed + 1

    asyncio.run(test())


def test_what_is_in_memory_for_followers_stays_on_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rusd.storage.wal.SEGMENT_BYTES", 4096)

    async def test() -> None:
        async with three(tmp_path) as trio:
            log = Truncated(trio[1], entries=20)
            for _ in range(3):
                await segments_go(log, trio[1].wal)
                assert trio[1].wal.first_index <= log.raw.first_index

    asyncio.run(test())
