"""One turn of the event loop: what arrives in it is handled together, what it answers is written
together.

Each unary method has one list of finished calls, for all connections. The first call that lands in
an empty turn schedules one callback; it hands each method its calls, then writes each connection
that has something to write once.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from rusd.wire.grpc import Code, Status
from rusd.wire.service import Call, UnaryMethod
from rusd.wire.tally import Tally
from rusd.wire.timing import Timer


class Flushable(Protocol):
    """What has bytes to write at the end of a turn."""

    def flush(self) -> None:
        """Write them."""

    def abort(self) -> None:
        """Give up the connection."""


class Turn:
    """The calls and the connections of the present turn."""

    def __init__(self, methods: Sequence[UnaryMethod], log: logging.Logger) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._handlers: list[tuple[list[Call], UnaryMethod]] = [([], m) for m in methods]
        self.batches = {method.path.encode(): batch for batch, method in self._handlers}
        """Where finished calls go, by path. The same lists for life."""
        self.tally = Tally()
        self._counted = {method.path: method.path.encode() for method in methods}
        self.timer: Timer | None = None
        """Measures what calls take; None does not."""
        self.tracer: Callable[[bytes, list[Call]], list[Call]] | None = None
        """Follows calls: takes a method's path and its calls, and returns them, on connections that
        tell it of their answers. None does not."""
        self.gate: Callable[[str, list[Call]], list[Call]] | None = None
        """Takes a method's path and its calls, and returns those that may pass; the others it
        answers. None lets everything pass."""
        self._methods = {method.path: method for method in methods}
        self._returned: dict[str, list[Call]] = {}
        self._dirty: list[Flushable] = []
        self._running = False
        self._scheduled = False

    def wake(self) -> None:
        """Something was put into a batch: run this turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def add(self, path: str, call: Call) -> None:
        """Handles a call that the gate has kept, and asks that again. The call is counted, traced
        and timed from when it came.
        """
        self._returned.setdefault(path, []).append(call)
        self.wake()

    def mark(self, connection: Flushable) -> None:
        """`connection` has bytes to write. Call it once a turn."""
        self._dirty.append(connection)
        if not self._running:
            self.wake()

    def later(self, callback: Callable[[], None]) -> None:
        """Call it in a following turn."""
        self._loop.call_soon(callback)

    def after(self, delay: float, callback: Callable[[], None]) -> None:
        """Call it in `delay` seconds."""
        self._loop.call_later(delay, callback)

    def _run(self) -> None:
        self._scheduled = False
        self._running = True
        try:
            if self._returned:
                returned, self._returned = self._returned, {}
                for path, calls in returned.items():
                    self._handle(self._methods[path], calls, returned=True)
            for batch, method in self._handlers:
                if batch:
                    calls = batch.copy()
                    batch.clear()
                    self._handle(method, calls)
        finally:
            self._running = False
            self.flush()

    def _handle(self, method: UnaryMethod, calls: list[Call], *, returned: bool = False) -> None:
        path, tally = self._counted[method.path], self.tally
        tally.batches[path] += 1
        try:
            if not returned:
                tally.started[path] += len(calls)
                if self.tracer is not None:
                    calls = self.tracer(path, calls)
                if self.timer is not None:
                    calls = self.timer.time(path, calls)
            if self.gate is not None and not (calls := self.gate(method.path, calls)):
                return
            method.handle(calls)
        except Exception:
            self._log.exception("handler failed", extra={"path": method.path})
            for connection, stream_id, _, _ in calls:
                connection.fail(stream_id, Status(Code.INTERNAL, "internal error"))

    def flush(self) -> None:
        """Write what connections have, before the end of the turn: for answers that wait for
        nothing more.
        """
        # A flush can make more connections dirty: a handler told "writable" may answer elsewhere.
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                try:
                    connection.flush()
                except Exception:
                    # The others are not to suffer.
                    self._log.exception("connection failed")
                    connection.abort()
