"""Keeps the log short: in memory what a follower may still ask for, on disk that and what is not
flushed. A follower that needs more is sent a snapshot.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

from rusd.log import Logger
from rusd.node.pipeline import Pipeline

KEPT_BYTES: Final = 32 << 20
"""Of entries in memory for followers that lag: some seconds of the heaviest load."""

_MARK_BYTES, _MARK_ENTRIES = 1 << 20, 1000
"""The steps in which the log in memory is shortened."""

_KEPT_MARKS: Final = 100
_KEPT_BYTES_AT_MOST, _KEPT_MARKS_AT_MOST = 512 << 20, 1000
"""While a snapshot is on its way: who gets it would need another otherwise."""


class Truncation:
    """Shortens the log in memory after every step, and flushes the keyspace after so many entries
    or bytes, to drop the log's segments below.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        flush: Callable[[], None],
        executor: Executor,
        log: Logger,
        entries: int,
        needed: Callable[[], int | None] = lambda: None,
        size: int = 64 << 20,
    ) -> None:
        """`flush` blocks, and is run on `executor`. `needed` names an index after which entries are
        about to be asked for; None when none are.
        """
        self._needed = needed
        self._membership = pipeline.applier.membership
        self._pipeline, self._flush, self._executor, self._log = pipeline, flush, executor, log
        self._entries, self._size = entries, size
        self._flushed_index = pipeline.keyspace.applied.position
        self._flushed_bytes = 0
        self._running = False
        self._marks: deque[tuple[int, int]] = deque([(self._flushed_index, 0)])
        """Applied indexes, and the bytes that were appended by then."""
        pipeline.after_apply.append(self._check)

    def _check(self) -> None:
        pipeline = self._pipeline
        self._shorten(pipeline.keyspace.applied.position, pipeline.appended_bytes)
        due = (
            pipeline.keyspace.applied.position - self._flushed_index >= self._entries
            or pipeline.appended_bytes - self._flushed_bytes >= self._size
        )
        if due and not self._running:
            self._running = True
            self._flushed_index = pipeline.keyspace.applied.position
            self._flushed_bytes = pipeline.appended_bytes
            flushed = asyncio.get_running_loop().run_in_executor(self._executor, self._flush)
            flushed.add_done_callback(lambda future: self._drop(self._flushed_index, future))

    def _shorten(self, applied: int, appended: int) -> None:
        """Forgets entries that are applied here and that no follower should need."""
        marks = self._marks
        index, size = marks[-1]
        if appended - size < _MARK_BYTES and applied - index < _MARK_ENTRIES:
            return
        marks.append((applied, appended))
        kept_bytes, kept_marks = (0, 1) if self._membership.is_alone else (KEPT_BYTES, _KEPT_MARKS)
        forgotten = 0
        needed = self._needed()
        if needed is not None:
            kept_bytes, kept_marks = _KEPT_BYTES_AT_MOST, _KEPT_MARKS_AT_MOST
        while len(marks) > kept_marks or (len(marks) > 1 and appended - marks[1][1] >= kept_bytes):
            forgotten, _ = marks.popleft()
        raw = self._pipeline.replica.raw
        raw.compact(min(forgotten, raw.applied))

    def _drop(self, flushed: int, future: "asyncio.Future[None]") -> None:
        self._running = False
        if (error := future.exception()) is not None:
            self._log.error("failed to flush the keyspace", error=error)
            return
        kept = flushed + 1
        if not self._membership.is_alone:
            # After a restart too, followers should find what they lack.
            kept = min(kept, self._pipeline.replica.raw.first_index)
        self._pipeline.submit(
            lambda wal: wal.drop_before(kept),
            lambda: self._log.debug("truncated the log", index=flushed),
        )
