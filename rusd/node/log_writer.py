"""The thread that writes and syncs the log, so that the event loop never waits for the disk."""

import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic

from rusd.storage.wal import NoRoomError, Wal

Job = Callable[[Wal], None]
"""Writes to the log, or changes it otherwise; needs no sync of its own."""


class LogWriter:
    """Runs jobs on the log, in order, on a thread of its own. Jobs that wait share one sync."""

    def __init__(
        self,
        wal: Wal,
        loop: AbstractEventLoop,
        on_failure: Callable[[Exception], None],
        after: Callable[[], None] = lambda: None,
        on_room: Callable[[NoRoomError | None], None] = lambda _: None,
    ) -> None:
        """`on_failure` is called on the loop, once; no job runs after a failed one. `after` is
        called after the `done` of all jobs that shared a sync. `on_room` is called on the loop with
        why syncs have to wait for room on the disk, and with None when that is over.
        """
        self._wal, self._loop, self._on_failure = wal, loop, on_failure
        self._after, self._on_room = after, on_room
        self._under_way = 0
        self._thread_until = 0.0
        self._failed = False
        self._jobs: SimpleQueue[tuple[Job, Callable[[], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Callable[[], None], is_little: bool = False) -> None:
        """Runs `job` on the thread; then, when what it wrote is synced, `done` on the loop.

        A little job is done here and now, if the log is idle and its syncs have been quick: to
        hand it over and back would take as long again.
        """
        if is_little and not self._under_way and monotonic() >= self._thread_until:
            self._work_here(job, done)
        else:
            self._under_way += 1
            self._jobs.put((job, done))

    def _work_here(self, job: Job, done: Callable[[], None]) -> None:
        if self._failed:
            return
        began = monotonic()
        try:
            job(self._wal)
            missing = self._sync()
        except Exception as error:
            self._failed = True
            self._loop.call_soon(self._on_failure, error)
            return
        if missing is not None:
            # The thread waits for room.
            self._under_way += 1
            self._jobs.put((_nothing, done))
            return
        self._judge(began)
        done()

    def _judge(self, began: float) -> None:
        """Leaves the log to the thread for a while after a sync that was not quick, unless there
        was none for long.
        """
        now = monotonic()
        if now - began > _QUICK:
            since = min(now, max(self._thread_until, now - _CREDIT))
            self._thread_until = since + _PATIENCE * (now - began)

    def close(self) -> None:
        """Waits for the jobs that were submitted, and ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        closing = no_room = False
        done: list[Callable[[], None]] = []
        while not closing:
            work = self._take(no_room)
            began = monotonic()
            try:
                for item in work:
                    if item is None:
                        closing = True
                        break
                    item[0](self._wal)
                    done.append(item[1])
                missing = self._sync()
                if closing and missing is not None:
                    raise missing
            except Exception as error:
                self._failed = True
                self._loop.call_soon_threadsafe(self._on_failure, error)
                return
            if missing is not None:
                if not no_room:
                    no_room = True
                    self._loop.call_soon_threadsafe(self._on_room, missing)
                continue
            self._judge(began)
            if no_room:
                no_room = False
                self._loop.call_soon_threadsafe(self._on_room, None)
            if done:
                self._loop.call_soon_threadsafe(self._tell, done)
                done = []

    def _sync(self) -> NoRoomError | None:
        """Returns why that has to wait, if it has to."""
        try:
            self._wal.sync()
        except NoRoomError as error:
            return error
        return None

    def _take(self, no_room: bool) -> list[tuple[Job, Callable[[], None]] | None]:
        """Waits for jobs; where there was no room, not for long: there may be, or they make it."""
        try:
            work = [self._jobs.get(timeout=_RETRY if no_room else None)]
        except Empty:
            return []
        # Nobody else takes from the queue: what it has now can be had without waiting.
        for _ in range(min(self._jobs.qsize(), _MOST_AT_ONCE)):
            work.append(self._jobs.get())
        return work

    def _tell(self, done: list[Callable[[], None]]) -> None:
        self._under_way -= len(done)
        for each in done:
            each()
        self._after()


def _nothing(_: Wal) -> None:
    pass


_MOST_AT_ONCE = 64
_RETRY = 0.5
"""Seconds between two looks for room on the disk."""

_QUICK = 0.001
"""Seconds: a sync that takes less is quick."""

_PATIENCE = 50
"""How many times as long as a sync that was not quick the thread has the log afterwards: slow syncs
take no more than a fiftieth of the loop's time.
"""

_CREDIT = 1.0
"""Seconds without a slow sync that count: one that comes alone, as it does now and then where syncs
are quick, drives nothing to the thread.
"""
