"""From requests to answers: batch, log entry, synced log, apply, answer.

Requests that arrive while a log write is in progress form the next batch. A batch is one log entry,
one sync, one write to the tables. Nothing is answered before its entry is synced and applied.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from rusd.duration import format_duration
from rusd.log import Logger
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.txn import Plan
from rusd.node.apply import REFUSALS, Applier
from rusd.node.entry import Kind, encode
from rusd.node.log_writer import LogWriter
from rusd.storage.wal import Entry, HardState, Wal


class Caller(Protocol):
    """Who waits for an answer; a connection is one, with stream ids as tags."""

    def reply(self, tag: int, message: bytes, /) -> None: ...


class Answers(Protocol):
    """Turns results into answers; the api room's side of the pipeline."""

    def succeeded(self, caller: Any, tag: int, revision: int, body: bytes, /) -> None: ...
    def failed(self, caller: Any, tag: int, error: Exception, /) -> None: ...


class OverloadedError(Exception):
    """More requests wait than the member takes."""


class TimedOutError(Exception):
    """A request was not applied in time; it may be later."""


class StoppedError(Exception):
    """The member is stopping."""


Request = tuple[int, bytes, Any, Any, int]
"""A request on its way: kind, message as the client sent it, message parsed, caller, tag."""


class Limits(NamedTuple):
    """Bounds of the pipeline."""

    waiting_requests: int = 200_000
    waiting_bytes: int = 256 << 20
    entry_requests: int = 1500
    """A batch takes no more; applying them holds the loop for about 8 ms."""
    entry_bytes: int = 16 << 20
    """A batch takes no more requests when it has this many bytes."""
    request_timeout: float = 7.0
    """Seconds until a caller is told that its request timed out."""
    slow_apply: float = 0.1
    """Seconds of applying an entry after which a warning is logged."""
    slow_request: float = 0.3
    """Seconds from arrival to answer after which a request is logged."""


class Pipeline:
    """The pipeline of a member that is the only voter of its cluster."""

    def __init__(
        self,
        applier: Applier,
        wal: Wal,
        answers: Answers,
        log: Logger,
        limits: Limits,
        on_failure: Callable[[Exception], None],
    ) -> None:
        """`on_failure` is called when the log could not be written: the member must stop."""
        self.applier, self.wal, self.answers = applier, wal, answers
        self.keyspace: Keyspace = applier.keyspace
        self.log, self.limits, self._on_failure = log, limits, on_failure
        self.loop = asyncio.get_running_loop()
        # A new cluster's members are from term 1, as in etcd; its first leader's term is 2.
        self.term = wal.hard_state.term or 1
        self.index = wal.last_index
        self.after_apply: list[Callable[[], None]] = []
        """Called after every entry, when its changes are in the tables and callers answered."""
        self.appended_bytes = 0
        self._writer = LogWriter(wal, self.loop, self._fail)
        self._waiting: list[Request] = []
        self._waiting_bytes = 0
        self._oldest = 0.0
        self._flush_scheduled = False
        self._in_flight: list[Request] | None = None
        self._in_flight_since = 0.0
        self._stopping = False
        self._failure: Exception | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.loop.call_later(1.0, self._time_out)

    # In.

    def propose(self, kind: int, message: bytes, request: Any, caller: Any, tag: int) -> bool:
        """Takes a request. The answer goes to `caller`, None for nobody, in a later iteration of
        the loop. Returns whether it was taken; if not, the caller has its answer.
        """
        waiting = self._waiting
        if not waiting:
            if self._stopping:
                return self._refuse(caller, tag, StoppedError())
            self._oldest = self.loop.time()
            if self._in_flight is None and not self._flush_scheduled:
                self._flush_scheduled = True
                self._idle.clear()
                self.loop.call_soon(self.flush)
        if (
            len(waiting) >= self.limits.waiting_requests
            or self._waiting_bytes > self.limits.waiting_bytes
        ):
            return self._refuse(caller, tag, OverloadedError())
        self._waiting_bytes += len(message)
        waiting.append((kind, message, request, caller, tag))
        return True

    def _refuse(self, caller: Any, tag: int, error: Exception) -> bool:
        if caller is not None:
            self.answers.failed(caller, tag, error)
        return False

    def become_leader(self) -> None:
        """Begins a new term with an empty entry, as Raft's leaders do (paper, section 8)."""
        self.term += 1
        self._idle.clear()
        self.loop.call_soon(self._write, [], self.loop.time())
        self._in_flight = []

    async def idle(self) -> None:
        """Waits until nothing is in the pipeline. Raises what made it fail, when it has."""
        await self._idle.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Takes no more, lets what is in the pipeline end, and ends the log's thread."""
        self._stopping = True
        await self.idle()
        await self.loop.run_in_executor(None, self._writer.close)

    # Through.

    def flush(self) -> None:
        """Begins an entry with what waits, unless one is on its way. It would begin at the end of
        the loop's iteration; who knows that no more comes until then saves that time.
        """
        self._flush_scheduled = False
        if self._in_flight is not None or not self._waiting:
            return
        batch, started = self._waiting, self._oldest
        limits = self.limits
        if self._waiting_bytes > limits.entry_bytes or len(batch) > limits.entry_requests:
            batch = self._split()
        else:
            self._waiting, self._waiting_bytes = [], 0
        self._write(batch, started)

    def _split(self) -> list[Request]:
        """Takes an entry's worth of the waiting requests."""
        size = taken = 0
        most = min(len(self._waiting), self.limits.entry_requests)
        while taken < most and size < self.limits.entry_bytes:
            size += len(self._waiting[taken][1])
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        self._waiting_bytes -= size
        # Those that stay came later than the oldest; their time is not known, and they advance.
        self._oldest = self.loop.time()
        return batch

    def _write(self, batch: list[Request], started: float) -> None:
        self._in_flight, self._in_flight_since = batch, started
        self.index += 1
        entry = Entry(self.term, self.index, encode((item[0], item[1]) for item in batch))
        hard_state = None
        if self.term != self.wal.hard_state.term:
            hard_state = HardState(self.term, 0, self.index)
        self.appended_bytes += len(entry.data)
        self._writer.submit(
            lambda wal: wal.append((entry,), hard_state),
            lambda: self._synced(entry, batch, started),
        )

    def _synced(self, entry: Entry, batch: list[Request], started: float) -> None:
        try:
            self._apply(entry, batch, started)
        except Exception as error:
            # A defect. To go on would make this member differ from its log, or its watchers miss
            # what they were promised.
            self._fail(error)

    def _apply(self, entry: Entry, batch: list[Request], started: float) -> None:
        begun = self.loop.time()
        self._in_flight = None
        # The next entry is on its way to the disk while this one is applied.
        self.flush()
        applier = self.applier
        handlers = applier.handlers
        term, position = entry.term, entry.index
        results: list[tuple[Any, int, int, bytes]] = []
        failures: list[tuple[Any, int, Exception]] = []
        for number, (kind, _, request, caller, tag) in enumerate(batch):
            if kind == Kind.TXN and type(request) is Plan and request.past:
                applier.at(term, position, number)
            try:
                revision, body = handlers[kind](request)
            except REFUSALS as error:
                failures.append((caller, tag, error))
                continue
            results.append((caller, tag, revision, body))
        applier.finish(term, position)
        applied = self.loop.time()
        succeeded, failed = self.answers.succeeded, self.answers.failed
        for caller, tag, revision, body in results:
            if caller is not None:
                succeeded(caller, tag, revision, body)
        for caller, tag, refusal in failures:
            if caller is not None:
                failed(caller, tag, refusal)
        for follow_up in self.after_apply:
            follow_up()
        if applied - begun > self.limits.slow_apply or applied - started > self.limits.slow_request:
            self._log_slow(batch, begun - started, applied - begun)
        if self._in_flight is None and not self._waiting:
            self._idle.set()

    def _log_slow(self, batch: list[Request], waited: float, applying: float) -> None:
        """Logs the largest requests of a batch that took long."""
        largest = sorted(batch, key=lambda request: len(request[1]), reverse=True)
        for request in largest[:_SLOW_SHOWN]:
            self.log.warn(
                "apply request took too long",
                took=format_duration(waited + applying),
                expected_duration=format_duration(self.limits.slow_apply),
                waiting_and_syncing=format_duration(waited),
                applying_the_batch=format_duration(applying),
                request=_describe(request),
                requests_in_batch=len(batch),
            )

    # Around.

    def submit(self, job: Callable[[Wal], None], done: Callable[[], None]) -> None:
        """Runs a job on the log's thread, between appends, then `done` on the loop."""
        self._writer.submit(job, done)

    def _time_out(self) -> None:
        """Tells callers that wait for too long; what they wait for may still be applied."""
        self.loop.call_later(1.0, self._time_out)
        overdue = self.loop.time() - self.limits.request_timeout
        late = self._in_flight or [] if self._in_flight_since < overdue else []
        if self._oldest < overdue:
            late = late + self._waiting
        for _, _, _, caller, tag in late:
            if caller is not None:
                self.answers.failed(caller, tag, TimedOutError())

    def _fail(self, error: Exception) -> None:
        self._stopping, self._failure = True, error
        self._idle.set()
        self._on_failure(error)


_SLOW_SHOWN: Final = 5


def _describe(request: Request) -> str:
    kind, message, parsed, _, _ = request
    key = getattr(parsed, "key", b"")
    return f"{Kind(kind).name.lower()} key:{key!r} size:{len(message)}"
