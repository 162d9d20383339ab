"""This member's part in the replication: drives the Raft core, and does what it asks for.

The order in which things reach the disk and the others is here, and nowhere else: a promise (a
vote, an acknowledgement) leaves when what it promises is synced; an entry is applied when it is
committed and in this member's own log.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Final, Protocol

from rusd.histogram import Histogram, exponential
from rusd.log import Logger
from rusd.node.entry import batch_of
from rusd.node.log_writer import Job, LogWriter
from rusd.raft.message import (
    NOBODY,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    ReadState,
    Ready,
    Role,
    Snapshot,
)
from rusd.raft.raw_node import RawNode
from rusd.storage.wal import NoRoomError, Wal

_LITTLE: Final = 8 << 10  # some thirty requests

LAG_SECONDS: Final = exponential(0.0005, 2, 13)

_NEWS: Final = 0.001
"""Seconds until a member that nobody waits at hears of a commitment, at the latest."""

_SLICE: Final = 0.005
"""Seconds of applying entries after which the loop's other work has a turn."""


class Staged(Protocol):
    """A snapshot's content, received and ready to take the keyspace's place."""

    snapshot: Snapshot

    def install(self, wal: Wal) -> None:
        """Makes it what a restart finds. Blocks; for the log's thread."""

    def swap(self) -> None:
        """Makes it what this process works on, once installed."""

    def discard(self) -> None:
        """Drops it: the core has no use for it."""


class Replica:
    """One member's Raft core with its log, its clock and its way to the others."""

    def __init__(
        self,
        raw: RawNode,
        wal: Wal,
        log: Logger,
        tick: float,
        on_failure: Callable[[Exception], None],
    ) -> None:
        """`tick` is in seconds, 0 for a core that the caller ticks. `on_failure` is called once,
        when the log could not be written or an entry not be applied: the member must stop.
        """
        self.raw, self.log = raw, log
        self.loop = asyncio.get_running_loop()
        self.send: Callable[[Sequence[Message]], None] = _nowhere
        """Sends messages to other members; they may be lost."""
        self.send_snapshot: Callable[[Message], None] = _nothing
        """Sends a snapshot's content, then its message."""
        self.apply: Callable[[Entry], None] = _nothing
        self.after_apply: Callable[[], None] = lambda: None
        """Called after some entries were applied."""
        self.read_index: Callable[[ReadState], None] = _nothing
        self.on_leader_change: list[Callable[[], None]] = []
        """Called when this member's leader, term or role has changed."""
        self.on_lead: list[Callable[[], None]] = []
        """Called when this member, as leader, has applied all that was acknowledged before."""
        self.on_conf_change: list[Callable[[], None]] = []
        """Called when a configuration was applied, or came with a snapshot."""
        self.leader_changes = 0
        """How often a leader, the first too, became known."""
        self.late_heartbeats = 0
        """How often this member, as leader, was late by a heartbeat with its heartbeats."""
        self.lag = Histogram(LAG_SECONDS)
        """Seconds by which the loop was late with a tick."""
        self.leader_since = -float("inf")
        """When the present leader became known, on the loop's clock."""
        self._led_term = 0
        self.sole = False
        """Whether this member leads and is the only voter: what it has applied is all that was
        acknowledged, and nobody need be asked."""
        self.little = _LITTLE
        """Bytes of an entry whose sync the loop may wait for; negative for none."""
        self.no_room: NoRoomError | None = None
        """Why the log waits for room on its disk; None when it does not."""
        self.on_room: list[Callable[[], None]] = []
        """Called when the log has to wait for room, and when it has to no more."""
        self.failure: Exception | None = None
        self.on_failure = [on_failure]
        self.applied = raw.applied
        """What the state machine has applied. The core counts a snapshot as applied when it takes
        it; that is in place only once it is installed."""
        self._writer = LogWriter(wal, self.loop, self.fail, self.run, self._room_changed)
        self._writing = 0
        self._committed: deque[Entry] = deque()
        self._news: dict[int, Message] = {}
        """By member, that entries are committed; see `_urgent`."""
        self._news_since = 0.0
        self._news_timer = False
        self._staged: Staged | None = None
        self._running = self._applying = self._installing = False
        self._next_slice_scheduled = False
        self._seen: tuple[int, int, int] = (0, NOBODY, Role.FOLLOWER)
        self._stopped = False
        self._tick_seconds = tick
        self._next_tick = self.loop.time() + tick
        if tick:
            self._timer = self.loop.call_at(self._next_tick, self._tick)

    # What it is.

    @property
    def id(self) -> int:
        return self.raw.id

    @property
    def leader(self) -> int:
        """The leader as far as is known; NOBODY when there is none."""
        return self.raw.leader

    @property
    def is_leader(self) -> bool:
        return self.raw.role == Role.LEADER

    @property
    def in_charge(self) -> bool:
        """Whether this member leads, as far as it knows, and has applied all that was acknowledged
        when it took over.
        """
        return self._led_term == self.raw.term and self.is_leader

    @property
    def busy(self) -> bool:
        """Whether the log is being written."""
        return self._writing > 0

    @property
    def installing(self) -> bool:
        """Whether a snapshot is being put in place."""
        return self._installing

    # In.

    def receive(self, messages: Sequence[Message]) -> None:
        """Takes messages of other members."""
        step = self.raw.step
        try:
            for message in messages:
                # A snapshot counts only with its content: see `receive_snapshot`.
                if message.kind != MessageKind.SNAPSHOT:
                    step(message)
        except Exception as error:
            self.fail(error)
        self.run()

    def campaign(self) -> None:
        """Stands for election at once, where that is possible."""
        self.raw.campaign()
        self.run()

    async def lead(self) -> None:
        """Makes the only voter lead, as soon as what it knows to be committed is applied."""
        while not self.sole:
            if self.raw.role == Role.FOLLOWER:
                self.campaign()
            await asyncio.sleep(_SLICE)

    def hasten(self, ticks: int) -> None:
        """Spares a member that has just started part of the wait for its first election."""
        for _ in range(ticks):
            self.raw.tick()

    def unreachable(self, member: int) -> None:
        """Messages to a member were lost."""
        self.raw.report_unreachable(member)

    def receive_snapshot(self, message: Message, staged: Staged) -> None:
        """Takes a snapshot whose content has arrived."""
        if self._staged is not None or self._stopped:
            # The core still holds the one before, or it is being installed.
            staged.discard()
            return
        self._staged = staged
        self.raw.step(message)
        self.run()

    def snapshot_ended(self, member: int, ok: bool) -> None:
        """A snapshot was sent to a member, or could not be."""
        self.raw.report_snapshot(member, ok)
        self.run()

    def wants_snapshot(self, message: Message) -> bool:
        """Whether a SNAPSHOT message, of this member or to it, is still of use."""
        raw, snapshot = self.raw, message.snapshot
        if message.sender == self.id:
            return self.is_leader and message.term == raw.term
        return message.term >= raw.term and snapshot is not None and snapshot.index > raw.commit

    def submit(self, job: Job, done: Callable[[], None]) -> None:
        """Runs a job on the log's thread, between appends, then `done` on the loop."""
        self._writer.submit(job, done)

    def _tick(self) -> None:
        now = self.loop.time()
        lag = now - self._next_tick
        self.lag.observe(max(0.0, lag))
        self.late_heartbeats += lag > self._tick_seconds and self.is_leader
        # A process that was stopped for long, or a busy loop, does not make up for lost ticks: the
        # others' messages may be waiting to be read.
        self._next_tick = max(self._next_tick + self._tick_seconds, now + self._tick_seconds / 2)
        self._timer = self.loop.call_at(self._next_tick, self._tick)
        try:
            self.raw.tick()
        except Exception as error:
            self.fail(error)
        self.run()

    def stop(self) -> None:
        """Ends the clock and takes nothing more from the core. The log's thread goes on."""
        self._stopped = True
        if self._tick_seconds:
            self._timer.cancel()

    def close(self) -> None:
        """Waits for the log's thread to end. Blocks."""
        self._writer.close()

    def fail(self, error: Exception) -> None:
        """Ends everything: what is on disk is unknown, or this member would differ from its log."""
        if self.failure is None:
            self.failure = error
            self.stop()
            for follow_up in self.on_failure:
                follow_up(error)

    def _room_changed(self, missing: NoRoomError | None) -> None:
        self.no_room = missing
        for follow_up in self.on_room:
            follow_up()

    # Through.

    def run(self) -> None:
        """Does what the core asks for until it asks for nothing more."""
        if self._running or self._installing or self._stopped:
            return
        self._running = True
        raw = self.raw
        try:
            while raw.has_ready() and not self._installing:
                self._do(raw.ready())
        except Exception as error:
            self.fail(error)
            return
        finally:
            self._running = False
        if (raw.term, raw.leader, raw.role) != self._seen:
            self._note_leader()
            self._note_sole()
        if self._committed and not self._next_slice_scheduled:
            self._apply_committed()
        if self._staged is not None and not (self._installing or raw.holds_snapshot):
            # The core had no use for it.
            self._staged.discard()
            self._staged = None

    def _do(self, ready: Ready) -> None:
        messages = self._urgent(ready) if ready.committed else ready.messages
        if messages:
            self._send(messages)
        if ready.snapshot is not None:
            self._install(ready)
            return
        entries, hard_state = ready.entries, ready.hard_state
        if entries or hard_state is not None:
            is_little = len(entries) == 1 and len(entries[0].data) <= self.little
            self._write(lambda wal: wal.write(entries, hard_state), ready, is_little)
        elif ready.promises and self._writing:
            self._write(_no_job, ready)
        elif ready.promises:
            self.send(ready.promises)
        if ready.committed:
            self._committed.extend(ready.committed)
        for state in ready.reads:
            self.read_index(state)

    def _write(self, job: Job, ready: Ready, is_little: bool = False) -> None:
        self._writing += 1
        self._writer.submit(job, partial(self._written, ready), is_little)

    def _written(self, ready: Ready) -> None:
        self._writing -= 1
        try:
            self._persisted(ready)
        except Exception as error:
            self.fail(error)

    def _persisted(self, ready: Ready) -> None:
        self.raw.advance(ready)
        if ready.promises:
            self.send(ready.promises)

    def _urgent(self, ready: Ready) -> Sequence[Message]:
        """Messages but those that only tell that entries are committed, to members that have nobody
        to answer for them: the next append is likely to tell them as well, which halves the
        messages of a client that writes one thing after the other.
        """
        messages = ready.messages
        if not messages or not all(map(_tells_commit_alone, messages)):
            return messages
        waiting = {batch_of(entry.data)[0] for entry in ready.committed}
        if any(entry.kind != EntryKind.NORMAL for entry in ready.committed):
            return messages
        if not self._news:
            self._news_since = monotonic()
            if not self._news_timer:
                self._news_timer = True
                self.loop.call_later(_NEWS, self._tell_old)
        self._news.update((each.to, each) for each in messages if each.to not in waiting)
        return [each for each in messages if each.to in waiting]

    def _tell_old(self) -> None:
        self._news_timer = False
        if self._news and monotonic() - self._news_since < _NEWS:
            # An append has taken along what it was for.
            self._news_timer = True
            self.loop.call_later(_NEWS, self._tell_old)
        else:
            self._tell()

    def _tell(self) -> None:
        """Sends the news that no append has taken along."""
        news, self._news = self._news, {}
        if news and not self._stopped:
            self.send(list(news.values()))

    def _send(self, messages: Sequence[Message]) -> None:
        if self._news:
            for message in messages:
                if message.kind == MessageKind.APPEND:
                    self._news.pop(message.to, None)
                elif message.kind == MessageKind.READ_INDEX_REPLY:
                    # What it names has to be applied there first.
                    self._tell()
        for message in messages:
            if message.kind == MessageKind.SNAPSHOT:
                self.send_snapshot(message)
        self.send([each for each in messages if each.kind != MessageKind.SNAPSHOT])

    def _install(self, ready: Ready) -> None:
        """Puts a snapshot in place. Nothing else goes on until it is: what follows builds on it."""
        staged = self._staged
        assert staged is not None, "the core accepted a snapshot that did not arrive"
        self._installing = True
        self._committed.clear()
        hard_state, entries = ready.hard_state, ready.entries

        def install(wal: Wal) -> None:
            if hard_state is not None:
                wal.write((), hard_state)
            staged.install(wal)
            if entries:
                wal.write(entries, None)

        self._writing += 1
        self._writer.submit(install, partial(self._installed, ready, staged))

    def _installed(self, ready: Ready, staged: Staged) -> None:
        try:
            staged.swap()
            self._staged, self._installing = None, False
            self.applied = staged.snapshot.index
            self.conf_changed()
            self._written(ready)
            self.after_apply()
        except Exception as error:
            self.fail(error)

    def _apply_committed(self) -> None:
        """Applies what is committed, in slices."""
        if self._applying or self._stopped:
            return
        self._applying = True
        committed, apply = self._committed, self.apply
        until = monotonic() + _SLICE
        entry = None
        try:
            while committed and not self._stopped:
                entry = committed.popleft()
                apply(entry)
                if committed and monotonic() > until:
                    self._next_slice_scheduled = True
                    self.loop.call_soon(self._apply_next_slice)
                    break
            if entry is not None:
                self.applied = entry.index
                self.raw.applied_to(entry.index)
                if self._led_term != self.raw.term:
                    self._note_lead(entry)
                self.after_apply()
        except Exception as error:
            # A defect. To go on would make this member differ from its log, or its watchers miss
            # what they were promised.
            self.fail(error)
        finally:
            self._applying = False
        self.run()

    def _apply_next_slice(self) -> None:
        self._next_slice_scheduled = False
        self._apply_committed()

    def conf_changed(self) -> None:
        """Tells who has to know that the core has another configuration."""
        self._note_sole()
        for follow_up in self.on_conf_change:
            follow_up()

    def _note_lead(self, applied: Entry) -> None:
        """Before an entry of its own term is applied, a leader may not have applied entries that
        were acknowledged.
        """
        if self.is_leader and applied.term == self.raw.term:
            self._led_term = self.raw.term
            self._note_sole()
            for follow_up in self.on_lead:
                follow_up()

    def _note_sole(self) -> None:
        conf_state = self.raw.conf_state
        self.sole = (
            self.in_charge and conf_state.voters == (self.raw.id,) and not conf_state.outgoing
        )

    def _note_leader(self) -> None:
        raw = self.raw
        term, leader, _ = self._seen
        self._seen = (raw.term, raw.leader, raw.role)
        if raw.leader not in (NOBODY, leader) or (raw.leader and raw.term != term):
            self.leader_since = self.loop.time()
        self.leader_changes += raw.leader not in (NOBODY, leader)
        if (raw.term, raw.leader) != (term, leader):
            self.log.info(
                "raft leader changed" if raw.leader else "raft has no leader",
                term=raw.term,
                leader=f"{raw.leader:x}",
            )
        for follow_up in self.on_leader_change:
            follow_up()


def _tells_commit_alone(message: Message) -> bool:
    return message.kind == MessageKind.APPEND and not message.entries


def _nowhere(_: Sequence[Message]) -> None:
    pass


def _nothing(_: object) -> None:
    pass


def _no_job(_: Wal) -> None:
    pass
