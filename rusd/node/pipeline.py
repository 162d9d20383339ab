"""From requests to answers: batch, log entry, commit, apply, answer.

Requests that arrive while an entry is on its way form the next batch. A batch is one log entry, one
sync, one write to the tables; a follower sends it to the leader. Nothing is answered before its
entry is committed and applied here; and a batch is sent once, so that it is applied at most once.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate, compress
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from rusd.auth.store import Identity
from rusd.duration import format_duration
from rusd.histogram import SIZES, Histogram, exponential
from rusd.log import Logger
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.txn import Plan
from rusd.node.apply import REFUSALS, Applier
from rusd.node.entry import MEMBER, Kind, batch_of, encode, encode_identity
from rusd.node.log_writer import Job
from rusd.node.membership import MemberChange
from rusd.node.replica import Replica
from rusd.raft.confchange import ConfChange, ConfChangeError
from rusd.raft.message import Entry, EntryKind, ProposalDroppedError


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


class LeaderLostError(TimedOutError):
    """As `TimedOutError`; meanwhile the leader was another, and may not have passed it on."""


class ConnectionLostError(TimedOutError):
    """As `TimedOutError`; meanwhile too few of the others could be reached."""


class StoppedError(Exception):
    """The member is stopping."""


Request = tuple[int, bytes, Any, Any, int]
"""A request on its way: kind, message as the client sent it, message parsed, caller, tag.

While auth is on, a caller's `identity` is whose right the request needs: an Identity, None or
MEMBER. A caller without one is nobody; no caller, None, stands for the member itself."""


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
    next_batch: float = 0.003
    """Seconds until a batch goes off although the one before is still on its way: what a quick
    cluster needs for one. Batches that go off sooner are smaller, and cost more a request."""
    batches: int = 64
    """Batches on their way at a time."""


class _Batch(NamedTuple):
    """Requests that are on their way together."""

    requests: list[Request]
    started: float
    """When the first of them arrived."""
    sent: float
    size: int
    """Bytes of the entry's data."""


class Pipeline:
    """The pipeline of one member."""

    def __init__(
        self, applier: Applier, replica: Replica, answers: Answers, log: Logger, limits: Limits
    ) -> None:
        self.applier, self.replica, self.answers = applier, replica, answers
        self.keyspace: Keyspace = applier.keyspace
        self._auth = applier.rights.store
        self.log, self.limits = log, limits
        self.loop = asyncio.get_running_loop()
        self.after_apply: list[Callable[[], None]] = []
        """Called after every entry, when its changes are in the tables and callers answered."""
        self.appended_bytes = 0
        """Of all entries that were applied since the start."""
        self.batches = Histogram(SIZES)
        """Requests in the entries that this member proposed."""
        self.applying = Histogram(_APPLYING)
        """Seconds of applying one of them."""
        self.slow_applies = 0
        """Of them, those that took longer than the limit."""
        self.failures = 0
        """Requests that timed out, were given up, or did not find room."""
        self.connected: Callable[[float], bool] = lambda _: True
        """Whether this member has reached its leader, and a leader its quorum, since a moment."""
        self.reaches: Callable[[int], bool] = lambda _: True
        """Whether messages pass between this member and another, as far as is known."""
        self._waiting: list[Request] = []
        self._waiting_bytes = 0
        self._oldest = 0.0
        self._looks: list[tuple[float, int]] = []
        """When a look saw how many of the waiting requests."""
        self._flush_scheduled = False
        self._pending: dict[int, _Batch] = {}
        self._changes: dict[int, _Change] = {}
        # Unlike that of any batch before a restart, which may still be in the log.
        self._sequence = random.SystemRandom().getrandbits(62)
        self._sent = 0.0
        self._refusal: type[Exception] = OverloadedError
        """What a request gets that is over what may wait."""
        self._most_waiting = limits.waiting_requests
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()
        replica.apply = self._apply
        replica.on_leader_change.append(self._leader_changed)
        replica.on_failure.append(lambda _: self._idle.set())
        self.loop.call_later(_LOOK, self._look)

    @property
    def term(self) -> int:
        return self.replica.raw.term

    @property
    def index(self) -> int:
        """Index of the last entry in the log."""
        return self.replica.raw.last_index

    @property
    def waiting(self) -> tuple[int, int]:
        """How many requests wait for a batch, and their bytes."""
        return len(self._waiting), self._waiting_bytes

    @property
    def under_way(self) -> tuple[int, int]:
        """How many batches are on their way, and their requests."""
        batches = self._pending.values()
        return len(batches), sum(len(batch.requests) for batch in batches)

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
            if not self._flush_scheduled:
                self._flush_scheduled = True
                self._idle.clear()
                self.loop.call_soon(self._flush)
        if len(waiting) >= self._most_waiting or self._waiting_bytes > self.limits.waiting_bytes:
            return self._refuse(caller, tag, self._refusal())
        self._waiting_bytes += len(message)
        waiting.append((kind, message, request, caller, tag))
        return True

    def _refuse(self, caller: Any, tag: int, error: Exception) -> bool:
        self.failures += 1
        if caller is not None:
            self.answers.failed(caller, tag, error)
        return False

    def refuse(self, refusal: type[Exception]) -> None:
        """Takes nothing, what waits included, until `accept`. What was sent off goes on."""
        self._refusal, self._most_waiting = refusal, 0
        for _, _, _, caller, tag in self._keep([_is_checkpoint(each) for each in self._waiting]):
            self._refuse(caller, tag, refusal())
        self._check_idle()

    def accept(self) -> None:
        """Takes requests again."""
        self._refusal, self._most_waiting = OverloadedError, self.limits.waiting_requests

    async def change(self, change: MemberChange) -> None:
        """Changes the members; returns when it is applied here. Raises what membership refuses it
        with, TimedOutError, or StoppedError.
        """
        if self._stopping:
            raise StoppedError
        self._sequence += 1
        done: asyncio.Future[None] = self.loop.create_future()
        waiting = _Change(change.conf_change(self.replica.id, self._sequence), done)
        self._changes[self._sequence] = waiting
        self._idle.clear()
        waiting.send(self.replica)
        try:
            async with asyncio.timeout(self.limits.request_timeout):
                await done
        except ConfChangeError:
            self.applier.membership.check(change)
            raise
        except TimeoutError:
            raise TimedOutError from None
        finally:
            self._changes = {
                number: each for number, each in self._changes.items() if each is not waiting
            }
            self._check_idle()

    async def idle(self) -> None:
        """Waits until nothing is in the pipeline. Raises what made it fail, when it has."""
        await self._idle.wait()
        if self.replica.failure is not None:
            raise self.replica.failure

    async def stop(self, timeout: float | None = None) -> None:
        """Takes no more, lets what is in the pipeline end, for up to `timeout` seconds, and ends
        the log's thread.
        """
        self._stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.idle()
        self.replica.stop()
        await self.loop.run_in_executor(None, self.replica.close)

    def give_up(self) -> None:
        """Fails all that waits for a leader: this member stops. What was sent off may still be
        applied.
        """
        self._stopping = True
        waiting, self._waiting, self._waiting_bytes, self._looks = self._waiting, [], 0, []
        pending, self._pending = self._pending, {}
        for requests in (waiting, *(batch.requests for batch in pending.values())):
            for _, _, _, caller, tag in requests:
                self._refuse(caller, tag, StoppedError())
        for change in self._changes.values():
            if not change.done.done():
                change.done.set_exception(StoppedError())
        self._check_idle()

    # Through.

    def _flush(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Sends off what waits, unless a batch is on its way. It would begin at the end of
        the loop's iteration; who knows that no more comes until then saves that time.
        """
        if not self._waiting:
            return
        replica = self.replica
        if self._pending:
            if replica.busy or (len(self._pending) >= self.limits.batches and self._is_crowded()):
                return
            wait = self._sent + self.limits.next_batch - self.loop.time()
            if wait > 0:
                if not self._flush_scheduled:
                    self._flush_scheduled = True
                    self.loop.call_later(wait, self._flush)
                return
        # What would be lost for certain waits for the next leader.
        if replica.is_leader or (replica.leader and self.reaches(replica.leader)):
            self._send(replica)

    def _is_crowded(self) -> bool:
        """Whether as many batches are on their way as may be. Those of long ago may be lost with
        their leader, and hold nobody up; but what they hold in memory counts.
        """
        limits, since = self.limits, self.loop.time() - _LOST
        batches = self._pending.values()
        return (
            sum(batch.sent > since for batch in batches) >= limits.batches
            or sum(batch.size for batch in batches) > limits.waiting_bytes
        )

    def _send(self, replica: Replica) -> None:
        """Makes a batch of what waits, and proposes it."""
        limits = self.limits
        waiting, size, looks, oldest = self._waiting, self._waiting_bytes, self._looks, self._oldest
        batch = waiting
        if size > limits.entry_bytes or len(batch) > limits.entry_requests:
            batch = self._split()
        else:
            self._waiting, self._waiting_bytes, self._looks = [], 0, []
        if self._auth.enabled:
            batch = _identified(batch)
        self._sequence += 1
        data = encode(((item[0], item[1]) for item in batch), replica.id, self._sequence)
        now = self.loop.time()
        self._pending[self._sequence] = _Batch(batch, oldest, now, len(data))
        try:
            replica.raw.propose((data,))
        except ProposalDroppedError:
            # Leadership is on its way to another member, or too much is: when that is over.
            del self._pending[self._sequence]
            self._waiting, self._waiting_bytes, self._looks = waiting, size, looks
            self._oldest = oldest
            return
        self._sent = now
        self.batches.observe(len(batch))
        replica.run()

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
        self._looks = [(seen, count - taken) for seen, count in self._looks if count > taken]
        return batch

    def _apply(self, entry: Entry) -> None:
        begun = monotonic()
        data = entry.data
        self.appended_bytes += len(data)
        if entry.kind == EntryKind.CONF_CHANGE:
            self._apply_change(entry)
            return
        origin, sequence = batch_of(data)
        batch = self._pending.pop(sequence, None) if origin == self.replica.id else None
        # The next entry is on its way to the disk while this one is applied.
        self.flush()
        if batch is None:
            self.applier.replay(entry.term, entry.index, data)
            self._follow_up()
            return
        results, failures = self._apply_batch(entry, batch.requests)
        applied = monotonic()
        succeeded, failed = self.answers.succeeded, self.answers.failed
        for caller, tag, revision, body in results:
            if caller is not None:
                succeeded(caller, tag, revision, body)
        for caller, tag, refusal in failures:
            if caller is not None:
                failed(caller, tag, refusal)
        self._follow_up()
        limits, started = self.limits, batch.started
        self.applying.observe(applied - begun)
        self.slow_applies += applied - begun > limits.slow_apply
        if applied - begun > limits.slow_apply or applied - started > limits.slow_request:
            self._log_slow(batch.requests, begun - started, applied - begun)

    def _apply_batch(
        self, entry: Entry, requests: list[Request]
    ) -> tuple[list[tuple[Any, int, int, bytes]], list[tuple[Any, int, Exception]]]:
        applier = self.applier
        handlers = applier.handlers
        term, position = entry.term, entry.index
        results: list[tuple[Any, int, int, bytes]] = []
        failures: list[tuple[Any, int, Exception]] = []
        for number, (kind, _, request, caller, tag) in enumerate(requests):
            if kind == Kind.TXN and type(request) is Plan and request.past:
                applier.at(position, number)
            try:
                revision, body = handlers[kind](request)
            except REFUSALS as error:
                failures.append((caller, tag, error))
                continue
            results.append((caller, tag, revision, body))
        applier.finish(term, position)
        return results, failures

    def _apply_change(self, entry: Entry) -> None:
        """Applies a change of the configuration; what membership refuses changes nothing."""
        change = ConfChange.decode(entry.data)
        of_members = MemberChange.of(change)
        origin = sequence = 0
        refusal: Exception | None = None
        if of_members is not None:
            origin, sequence, wanted = of_members
            refusal = self.applier.change_members(wanted)
        conf_state = self.replica.raw.apply_conf_change(None if refusal else change)
        self.applier.set_conf_state(conf_state)
        self.applier.finish(entry.term, entry.index)
        self.replica.conf_changed()
        waiting = self._changes.pop(sequence, None) if origin == self.replica.id else None
        if waiting is not None and not waiting.done.done():
            if refusal is None:
                waiting.done.set_result(None)
            else:
                waiting.done.set_exception(refusal)
        self._follow_up()

    def _follow_up(self) -> None:
        for follow_up in self.after_apply:
            follow_up()
        self._check_idle()

    def _check_idle(self) -> None:
        failed = self.replica.failure is not None
        if failed or not (self._pending or self._waiting or self._changes):
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

    def submit(self, job: Job, done: Callable[[], None]) -> None:
        """Runs a job on the log's thread, between appends, then `done` on the loop."""
        self.replica.submit(job, done)

    def _leader_changed(self) -> None:
        # What is said for a leader by its clock is not said by the next, nor by it in a later term.
        kept = [not _leaders_alone(request) for request in self._waiting]
        if not all(kept):
            self._keep(kept)
        self.loop.call_soon(self.flush)

    def _keep(self, kept: list[bool]) -> list[Request]:
        """Takes out the waiting requests that are not kept, and returns them."""
        waiting, counts = self._waiting, list(accumulate(kept, initial=0))
        self._looks = [(at, counts[count]) for at, count in self._looks if counts[count]]
        self._waiting = list(compress(waiting, kept))
        self._waiting_bytes = sum(len(request[1]) for request in self._waiting)
        return [request for request, keep in zip(waiting, kept, strict=True) if not keep]

    def _look(self) -> None:
        """Tells callers that wait for too long. What was sent off may still be applied."""
        self.loop.call_later(_LOOK, self._look)
        now = self.loop.time()
        overdue = now - self.limits.request_timeout
        late = [number for number, batch in self._pending.items() if batch.started < overdue]
        for number in late:
            batch = self._pending.pop(number)
            self._time_out(batch.requests, batch.started)
        seen = max((count for at, count in self._looks if at < overdue), default=0)
        if seen:
            # The lessor counts on checkpoints being made while this member leads.
            kept = [_is_checkpoint(request) for request in self._waiting[:seen]]
            self._time_out(self._keep(kept + [True] * (len(self._waiting) - seen)), overdue)
        if self._waiting:
            self._looks.append((now, len(self._waiting)))
        for change in self._changes.values():
            change.send(self.replica)
        self.flush()
        self._check_idle()

    def _time_out(self, requests: list[Request], started: float) -> None:
        error: TimedOutError = TimedOutError()
        if started < self.replica.leader_since:
            error = LeaderLostError()
        elif not self.connected(started):
            error = ConnectionLostError()
        self.failures += len(requests)
        for _, _, _, caller, tag in requests:
            if caller is not None:
                self.answers.failed(caller, tag, error)


class _Change:
    """A change of the members on its way. It is sent once; until then it waits for a leader."""

    def __init__(self, change: ConfChange, done: "asyncio.Future[None]") -> None:
        self.done = done
        self._change, self._sent = change, False

    def send(self, replica: Replica) -> None:
        if self._sent or not replica.leader:
            return
        try:
            replica.raw.propose_conf_change(self._change)
        except ProposalDroppedError:
            return
        except ConfChangeError as error:
            if not self.done.done():
                self.done.set_exception(error)
        self._sent = True
        replica.run()


_APPLYING: Final = exponential(0.0001, 2, 16)
_LOOK: Final = 0.25
"""Seconds between two looks for what waits for too long, or has to be tried again."""

_LOST: Final = 0.5
"""Seconds after which a batch may not come any more."""

_SLOW_SHOWN: Final = 5


def _identified(batch: list[Request]) -> list[Request]:
    """A batch that says who asks: where that is another than before, an IDENTITY comes first."""
    identified: list[Request] = []
    last: Identity | None = MEMBER
    noted = b""
    for request in batch:
        caller = request[3]
        # Who says nothing of itself is nobody: a client's call that came before auth was on.
        identity = MEMBER if caller is None else getattr(caller, "identity", None)
        if identity is not last or not noted:
            last, message = identity, encode_identity(identity)
            if message != noted:
                noted = message
                identified.append((Kind.IDENTITY, message, identity, None, 0))
        identified.append(request)
    return identified


def _leaders_alone(request: Request) -> bool:
    """Whether only a leader may propose a request: what it says is that leader's clock."""
    return request[0] == Kind.LEASE_EXPIRE or _is_checkpoint(request)


def _is_checkpoint(request: Request) -> bool:
    """Whether it is a leader's note of what leases have left; who renews one waits for it."""
    return request[0] == Kind.LEASE_CHECKPOINT and request[3] is None


def _describe(request: Request) -> str:
    kind, message, parsed, _, _ = request
    key = getattr(parsed, "key", b"")
    return f"{Kind(kind).name.lower()} key:{key!r} size:{len(message)}"
