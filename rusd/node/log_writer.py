"""The thread that writes and syncs the log, so that the event loop never waits for the disk."""

import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from queue import SimpleQueue

from rusd.storage.wal import Wal

Job = Callable[[Wal], None]


class LogWriter:
    """Runs jobs on the log, in order, on a thread of its own."""

    def __init__(
        self, wal: Wal, loop: AbstractEventLoop, on_failure: Callable[[Exception], None]
    ) -> None:
        """`on_failure` is called on the loop, once; no job runs after a failed one."""
        self._wal, self._loop, self._on_failure = wal, loop, on_failure
        self._jobs: SimpleQueue[tuple[Job, Callable[[], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Callable[[], None]) -> None:
        """Runs `job` on the thread, then `done` on the loop."""
        self._jobs.put((job, done))

    def close(self) -> None:
        """Waits for the jobs that were submitted, and ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._jobs.get()) is not None:
            job, done = work
            try:
                job(self._wal)
            except Exception as error:
                self._loop.call_soon_threadsafe(self._on_failure, error)
                return
            self._loop.call_soon_threadsafe(done)
