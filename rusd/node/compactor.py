"""Carries out compactions in the background, a slice at a time."""

import asyncio
from collections.abc import Callable, Iterator
from time import monotonic, time

from rusd.histogram import Histogram, exponential
from rusd.log import Logger
from rusd.mvcc.compaction import SLICE, sweep
from rusd.mvcc.keyspace import Keyspace


class Compactor:
    """Sweeps after every compaction, with a pause between slices."""

    def __init__(
        self,
        keyspace: Keyspace,
        pause: float,
        log: Logger,
        on_failure: Callable[[Exception], None],
        most: int = SLICE,
    ) -> None:
        """`pause` is in seconds; `most` events are looked at between two pauses. `on_failure` is
        called when the tables cannot be written: the member must stop.
        """
        self._on_failure = on_failure
        self._most = max(1, min(most, SLICE))
        self._keyspace, self._pause, self._log = keyspace, pause, log
        self._loop = asyncio.get_running_loop()
        self._sweep: Iterator[None] | None = None
        self._waiting: list[Callable[[], None]] = []
        self._began = 0.0
        self.finished_at = 0.0
        """When the last compaction was done, in seconds since the epoch; 0 for never."""
        self.durations = Histogram(exponential(100, 2, 14))
        """Milliseconds that compactions took, pauses and all."""
        self.slices = Histogram(exponential(1, 2, 13))
        """Milliseconds that a slice held the loop."""

    def start(self) -> None:
        """Begins to sweep, unless it does already or there is nothing to do."""
        if self._sweep is None and self._keyspace.swept < self._keyspace.compacted:
            self._began = self._loop.time()
            self._sweep = sweep(self._keyspace, self._most)
            self._loop.call_soon(self._step, self._sweep)

    def restart(self) -> None:
        """Gives up what is being swept and looks anew: the keyspace's content was exchanged."""
        self._sweep = None
        self.start()
        if self._sweep is None:
            self._tell()

    def when_swept(self, call: Callable[[], None]) -> None:
        """Calls when nothing is left to sweep; at once, when nothing is."""
        if self._keyspace.swept == self._keyspace.compacted:
            call()
        else:
            self._waiting.append(call)

    def _step(self, under_way: Iterator[None]) -> None:
        if under_way is not self._sweep:
            return
        began = monotonic()
        try:
            finished = next(under_way, self) is self
        except Exception as error:
            self._on_failure(error)
            return
        self.slices.observe(1000 * (monotonic() - began))
        if finished:
            self._sweep = None
            self.finished_at = time()
            self.durations.observe(1000 * (self._loop.time() - self._began))
            self._log.info(
                "finished scheduled compaction",
                **{
                    "compact-revision": self._keyspace.swept,
                    "took": self._loop.time() - self._began,
                },
            )
            self.start()
            if self._sweep is None:
                self._tell()
        else:
            self._loop.call_later(self._pause, self._step, under_way)

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()
