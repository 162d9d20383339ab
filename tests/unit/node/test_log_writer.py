"""rusd/node/log_writer.py: one sync for all that waits, and nothing after a failure."""

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from rusd.node import log_writer
from rusd.node.log_writer import LogWriter
from rusd.storage.wal import Entry, NoRoomError, Wal
from tests.unit.node.running import SECONDS, until


class Log:
    """A log whose syncs are counted, and wait for the test once its gate is shut."""

    def __init__(self, directory: Path) -> None:
        self.wal = Wal(directory)
        self.gate, self.syncs = threading.Event(), 0
        self.gate.set()
        self.failure: OSError | None = None
        self.failures: list[Exception] = []
        self.done: list[int] = []
        self._wal_put, self.wal._put = self.wal._put, cast(Any, self._put)
        self.writer = LogWriter(self.wal, asyncio.get_running_loop(), self.failures.append)
        self._last = 0

    def _put(self, descriptor: int, data: bytes, offset: int) -> None:
        assert self.gate.wait(SECONDS)
        if self.failure is not None:
            raise self.failure
        self.syncs += 1
        self._wal_put(descriptor, data, offset)

    def append(self, count: int = 1) -> None:
        """Submits appends of one entry each; `done` gets their indexes."""
        for _ in range(count):
            self._last += 1
            self.submit(self._write(self._last), self._last)

    def submit(self, job: Callable[[Wal], None], number: int) -> None:
        self.writer.submit(job, lambda: self.done.append(number))

    @staticmethod
    def _write(index: int) -> Callable[[Wal], None]:
        return lambda wal: wal.write((Entry(1, index, b"data"),))


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Log]:
    log = Log(directory)
    log.append()
    await until(lambda: log.done == [1], "the first entry")
    yield log
    log.gate.set()
    await asyncio.get_running_loop().run_in_executor(None, log.writer.close)
    log.wal.close()


def test_appends_that_wait_share_a_sync_and_are_done_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as log:
            log.gate.clear()
            log.append(21)
            await asyncio.sleep(0.05)
            assert log.done == [1]
            log.gate.set()
            await until(lambda: len(log.done) == 22, "all are done")
            assert log.done == list(range(1, 23))
            assert log.syncs <= 3
            assert [entry.index for entry in log.wal.entries(0)] == log.done

    asyncio.run(test())


@pytest.mark.parametrize("fails", ["sync", "job"])
def test_after_a_failure_nothing_runs_and_nothing_is_done(tmp_path: Path, fails: str) -> None:
    async def test() -> None:
        async with opened(tmp_path) as log:
            log.gate.clear()
            log.append()
            error = OSError(5, "Input/output error")

            def fail(_: Wal) -> None:
                raise error

            if fails == "sync":
                log.failure = error
            else:
                log.submit(fail, 100)
            log.append(3)
            log.gate.set()
            await until(lambda: log.failures, "the failure is told")
            log.failure = None
            log.append()
            await asyncio.sleep(0.05)
            assert log.failures == [error]
            assert max(log.done) <= 2, "what was submitted after it is not done"
            assert log.wal.last_index <= 2

    asyncio.run(test())


def test_what_was_submitted_is_on_disk_when_it_is_closed(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as log:
            log.append(100)
            log.writer.close()
            assert log.wal.last_index == 101
            await until(lambda: len(log.done) == 101, "all are told")

    asyncio.run(test())


def test_a_little_job_is_done_at_once_where_syncs_are_quick(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as log:
            log.writer.submit(log._write(2), lambda: log.done.append(2), is_little=True)
            assert (log.done, log.wal.last_index, log.syncs) == ([1, 2], 2, 2)

    asyncio.run(test())


def test_a_little_job_goes_to_the_thread_after_what_is_under_way(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as log:
            log.gate.clear()
            log.writer.submit(log._write(2), lambda: log.done.append(2))
            log.writer.submit(log._write(3), lambda: log.done.append(3), is_little=True)
            assert log.done == [1]
            log.gate.set()
            await until(lambda: log.done == [1, 2, 3], "both, in order")

    asyncio.run(test())


def test_the_loop_waits_for_no_sync_for_a_while_after_a_slow_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as log:
            log.gate.clear()
            threading.Timer(0.05, log.gate.set).start()
            log.writer.submit(log._write(2), lambda: log.done.append(2), is_little=True)
            assert log.done == [1, 2]
            log.gate.clear()
            log.writer.submit(log._write(3), lambda: log.done.append(3), is_little=True)
            assert log.done == [1, 2], "on the thread"
            log.gate.set()
            await until(lambda: log.done == [1, 2, 3], "the third")

    asyncio.run(test())


def test_a_sync_that_was_slow_alone_drives_nothing_to_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0

    async def test() -> None:
        nonlocal now
        async with opened(tmp_path) as log:
            put = log.wal._put

            def slowly(descriptor: int, data: bytes, offset: int) -> None:
                nonlocal now
                now += 0.003
                put(descriptor, data, offset)

            monkeypatch.setattr(log_writer, "monotonic", lambda: now)
            monkeypatch.setattr(log.wal, "_put", slowly)
            log.writer._thread_until = 0.0  # however long the first entry took
            on_loop: list[int] = []
            for index in range(2, 22):
                on_loop.append(index)
                log.writer.submit(log._write(index), lambda: on_loop.append(0), is_little=True)
                if on_loop.pop() != 0:
                    break
                now += 0.001
            # Each counts for fifty times 3 ms, of the second before and what has passed.
            assert (index, log.wal.last_index) == (9, 8)
            await until(lambda: log.wal.last_index == 9, "the one on the thread")
            now += 2
            log.writer.submit(log._write(10), lambda: None, is_little=True)
            assert log.wal.last_index == 10, "on the loop again"

    asyncio.run(test())


def test_nothing_is_done_after_a_little_job_that_failed(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as log:
            log.failure = OSError(5, "Input/output error")
            for index in (2, 3):
                log.writer.submit(log._write(index), lambda: log.done.append(0), is_little=True)
            await until(lambda: log.failures, "the failure")
            assert (log.failures, log.done) == ([log.failure], [1])

    asyncio.run(test())


def test_what_finds_no_room_waits_for_it_and_is_done_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the loop found none or the thread; jobs that write nothing are done meanwhile, for
    they may be what makes room.
    """
    monkeypatch.setattr(log_writer, "_RETRY", 0.02)

    async def test() -> None:
        async with opened(tmp_path) as log:
            told: list[NoRoomError | None] = []
            log.writer._on_room = told.append
            sync = log.wal.sync
            log.wal.sync = cast(Any, no_room)  # type: ignore[method-assign]
            log.writer.submit(log._write(2), lambda: log.done.append(2), is_little=True)
            log.submit(log._write(3), 3)
            ran = threading.Event()
            log.submit(lambda _: ran.set(), 4)
            await until(ran.is_set, "a job that needs no room")
            await until(lambda: len(told) == 1, "why it waits")
            assert isinstance(told[0], NoRoomError)
            assert log.done == [1]
            log.wal.sync = sync  # type: ignore[method-assign]
            await until(lambda: log.done == [1, 2, 3, 4], "all of it")
            assert told[1:] == [None]
            assert log.failures == []
        wal = Wal(tmp_path)
        assert [entry.index for entry in wal.entries(0)] == [1, 2, 3]
        wal.close()

    asyncio.run(test())


def test_who_closes_the_log_without_room_is_told_that_it_has_failed(tmp_path: Path) -> None:
    async def test() -> None:
        async with opened(tmp_path) as log:
            log.wal.sync = cast(Any, no_room)  # type: ignore[method-assign]
            log.submit(log._write(2), 2)
        await until(lambda: len(log.failures) == 1, "the failure")
        assert isinstance(log.failures[0], NoRoomError)
        assert log.done == [1]

    asyncio.run(test())


def no_room() -> None:
    """A sync that has to wait."""
    raise NoRoomError(errno.ENOSPC, "No space left on device")
