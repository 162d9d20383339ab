"""Keeps the log short: flushes the keyspace now and then, and drops what it no longer needs."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from rusd.log import Logger
from rusd.node.pipeline import Pipeline


class Truncation:
    """Flushes after so many entries or bytes, then drops the log's segments below the flush."""

    def __init__(
        self,
        pipeline: Pipeline,
        flush: Callable[[], None],
        executor: Executor,
        log: Logger,
        entries: int,
        size: int = 64 << 20,
    ) -> None:
        """`flush` blocks, and is run on `executor`."""
        self._pipeline, self._flush, self._executor, self._log = pipeline, flush, executor, log
        self._entries, self._size = entries, size
        self._flushed_index = pipeline.keyspace.applied.position
        self._flushed_bytes = 0
        self._running = False
        pipeline.after_apply.append(self._check)

    def _check(self) -> None:
        pipeline = self._pipeline
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

    def _drop(self, flushed: int, future: "asyncio.Future[None]") -> None:
        self._running = False
        if (error := future.exception()) is not None:
            self._log.error("failed to flush the keyspace", error=error)
            return
        self._pipeline.submit(
            lambda wal: wal.drop_before(flushed + 1),
            lambda: self._log.debug("truncated the log", index=flushed),
        )
