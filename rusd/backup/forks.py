"""Work in processes of their own, each of which begins with a copy of this one's memory.

For programs that run one thing and end: nothing else may go on in this process meanwhile.
"""

import gc
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from types import TracebackType
from typing import Final, Self

_CONTEXT: Final = multiprocessing.get_context("fork")


class Forks:
    """Some processes, a few at a time. On leaving, those that are left are ended."""

    def __init__(self, most: int) -> None:
        """`most` run at the same time."""
        self._most = most
        self._running: deque[tuple[ForkProcess, Connection]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process, _ in self._running:
            process.kill()
            process.join()

    def start(self, work: Callable[[], None]) -> None:
        """Has work done, once fewer than the most run. Raises what earlier work has raised."""
        if len(self._running) == self._most:
            self._await_first()
        here, there = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_run, args=(work, there), daemon=True)
        process.start()
        there.close()
        self._running.append((process, here))

    def finish(self) -> None:
        """Waits until all is done. Raises what work has raised."""
        while self._running:
            self._await_first()

    def _await_first(self) -> None:
        process, answer = self._running[0]
        try:
            failed: Exception | None = answer.recv()
        except EOFError:
            failed = OSError("a process that had a part of the work was killed")
        process.join()
        self._running.popleft()
        if failed is not None:
            raise failed


def _run(work: Callable[[], None], answer: Connection) -> None:
    # Who interrupts both means the other, which then ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # It would look through all that was copied, and so copy it for good.
    gc.disable()
    try:
        work()
    except Exception as error:
        answer.send(error)
    else:
        answer.send(None)
