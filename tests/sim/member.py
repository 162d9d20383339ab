"""A simulated member: drives the core as the node does, with its own disk, clock and state machine.

The state machine is only the index up to which it has applied: what is applied at an index is the
same everywhere, which `Invariants` checks, so the cluster keeps the states by index, once.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from rusd.raft.confchange import ConfChange, ConfChangeError
from rusd.raft.message import (
    NOBODY,
    Config,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    ProposalDroppedError,
    Ready,
    Snapshot,
)
from rusd.raft.raw_node import RawNode
from tests.sim.disk import Disk
from tests.sim.invariants import require
from tests.sim.schedule import TICK

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

_MOST_STEPS: Final = 200_000
"""Of a run; most have some thousand."""

REFUSED: Final = b"refused"
"""The context of a change that the node refuses when it is applied."""


class Member:
    """One member, which may be up or down. Its incarnations share the disk."""

    def __init__(self, world: Cluster, number: int, state: Snapshot) -> None:
        self.world, self.id, self.disk = world, number, Disk(state)
        self.up = False
        self.incarnation = 0
        self.paused_until = 0
        self.raw: RawNode
        self.applied = 0
        self._committed: deque[Entry] = deque()
        self._contents: set[Snapshot] = set()
        self._installing = self._settling = self._applying = False
        self._reads: list[tuple[int, bytes]] = []
        self._tick = TICK
        # What the invariants have seen of this incarnation.
        self.seen_term = self.seen_commit = self.led_term = self.stood_term = 0
        self.seen_leader = NOBODY
        self.seen_conf = ConfState()
        self.handed_hard_state = HardState()

    def __str__(self) -> str:
        return f"member {self.id}.{self.incarnation}"

    __repr__ = __str__

    def is_up(self, incarnation: int) -> bool:
        """Whether it still is the process that it was."""
        return self.up and self.incarnation == incarnation

    def state(self) -> Snapshot:
        """What its state machine is."""
        invariants = self.world.invariants
        return Snapshot(
            self.applied,
            invariants.applied[self.applied].term if self.applied else 0,
            invariants.conf_states[self.applied],
        )

    # Life.

    def start(self) -> None:
        """Starts from what is on disk."""
        world, schedule, draw = self.world, self.world.schedule, self.world.draw
        self.incarnation += 1
        config = Config(
            id=self.id,
            heartbeat_ticks=schedule.heartbeat_ticks,
            election_ticks=schedule.election_ticks,
            pre_vote=schedule.pre_vote,
            check_quorum=schedule.check_quorum,
            max_message_bytes=schedule.max_message_bytes,
            max_inflight_messages=schedule.max_inflight_messages,
            max_inflight_bytes=schedule.max_inflight_bytes,
            max_uncommitted_bytes=schedule.max_uncommitted_bytes,
            max_committed_bytes=schedule.max_committed_bytes,
            random_ticks=draw.randrange,
        )
        disk = self.disk
        self.raw = RawNode(config, disk.read(draw.random() < 0.5))
        self.applied = disk.state.index
        self.seen_term = self.seen_commit = self.led_term = self.stood_term = 0
        self.seen_leader = NOBODY
        self.seen_conf = ConfState()
        self.handed_hard_state = disk.hard_state
        self.up = True
        world.log("starts at applied {}, {}", self, self.applied, disk.hard_state)
        world.invariants.started(self)
        self.set_drift(world.drift)
        world.at(int(draw.random() * TICK), self._ticked, self.incarnation)
        if disk.state.conf_state.voters == (self.id,):
            self.raw.campaign()
        self._stepped()

    def set_drift(self, drift: float) -> None:
        """Its clock is wrong by up to this."""
        self._tick = int(TICK * (1 + drift * (2 * self.world.draw.random() - 1)))

    def crash(self) -> None:
        """Ends, and loses what it has not synced."""
        self.world.log("crashes", self)
        self.up = False
        self.disk.crash(self.world.draw)
        self.world.invariants.synced(self, self.disk.hard_state)
        self._committed.clear()
        self._contents.clear()
        self._reads.clear()
        self._installing = self._settling = self._applying = False
        self.paused_until = 0
        self.world.clients.lost(self)

    # In.

    def _ticked(self, incarnation: int) -> None:
        if not self.is_up(incarnation):
            return
        wait = self.paused_until - self.world.now
        if wait > 0:
            self.world.at(min(wait, TICK), self._ticked, incarnation)
            return
        self.raw.tick()
        self._stepped()
        self.world.at(self._tick, self._ticked, incarnation)

    def receive(self, message: Message) -> None:
        """A message arrives."""
        world = self.world
        if not self.up or (world.schedule.rejects_removed and self._is_removed(message.sender)):
            return
        wait = self.paused_until - world.now
        if wait > 0:
            world.at(min(wait, TICK), self.receive, message)
            return
        world.log("receives {}", self, message)
        self.raw.step(message)
        self._stepped()

    def _is_removed(self, member: int) -> bool:
        return self.world.removed.get(member, self.applied + 1) <= self.applied

    def receive_snapshot(self, message: Message) -> bool:
        """A snapshot's content has arrived, with its message. Returns whether anybody was there."""
        if not self.up or self.paused_until > self.world.now:
            return False
        assert message.snapshot is not None
        self._contents.add(message.snapshot)
        self.receive(message)
        return True

    def unreachable(self, incarnation: int, member: int) -> None:
        """Messages to a member were lost."""
        if self.is_up(incarnation):
            self.raw.report_unreachable(member)
            self._stepped()

    def snapshot_sent(self, incarnation: int, member: int, arrived: bool) -> None:
        """The content of a snapshot was sent, or could not be."""
        if self.is_up(incarnation):
            self.world.log("reports snapshot to {}: {}", self, member, arrived)
            self.raw.report_snapshot(member, arrived)
            self._stepped()

    def propose(self, data: list[bytes]) -> bool:
        """Returns whether it was taken."""
        try:
            self.raw.propose(data)
        except ProposalDroppedError:
            return False
        self._stepped()
        return True

    def read(self, context: bytes) -> bool:
        """Asks for a read index; False when there is nobody to ask."""
        if not self.raw.read_index(context):
            return False
        self._stepped()
        return True

    def change(self, change: ConfChange) -> bool:
        """Proposes a change of the configuration."""
        try:
            self.raw.propose_conf_change(change)
        except (ProposalDroppedError, ConfChangeError):
            return False
        self._stepped()
        return True

    def transfer_leader(self, to: int) -> None:
        """Asks for another leader."""
        self.raw.transfer_leader(to)
        self._stepped()

    def campaign(self) -> None:
        """Stands for election, with no reason."""
        self.raw.campaign()
        self._stepped()

    # Through.

    def _stepped(self) -> None:
        self.world.steps += 1
        require(self.world.steps < _MOST_STEPS, "the run does not come to an end")
        self.world.invariants.stepped(self)
        delay = self.world.settle_delay
        if not delay:
            self._settle(self.incarnation)
        elif not self._settling:
            self._settling = True
            wait = int(self.world.draw.random() * delay)
            self.world.at(wait, self._settle, self.incarnation)

    def _settle(self, incarnation: int) -> None:
        """Does what the core asks for, in the order in which the node does it."""
        if not self.is_up(incarnation):
            return
        self._settling = False
        raw = self.raw
        while not self._installing and raw.has_ready():
            ready = raw.ready()
            require(ready.number < _MOST_STEPS, self, "does not come to rest")
            if self.world.tracing:
                self.world.log("hands out {}", self, ready)
            self.world.invariants.handed_out(self, ready)
            self._send(ready.messages)
            writes = bool(ready.entries) or ready.hard_state is not None
            if ready.snapshot is not None:
                self._begin_install(ready)
            elif writes or (ready.promises and self.disk.syncing):
                self._write(ready)
            elif not self.disk.syncing:
                self._written(ready)
            self._committed.extend(ready.committed)
            for state in ready.reads:
                self.world.clients.read_index(self, state)
                self._reads.append((state.index, state.context))
            self.world.invariants.stepped(self)
        if self._committed and not self._applying:
            self._schedule_applying()
        self._answer_reads()

    def _send(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            self.world.invariants.sent(self, message)
            self.world.network.send(self, message)

    # To disk.

    def _write(self, ready: Ready) -> None:
        self.disk.waiting.append(ready)
        if not self.disk.syncing:
            self._begin_sync()

    def _begin_sync(self) -> None:
        self.disk.begin_sync()
        world = self.world
        slowest = world.sync_delay
        if world.is_slow(self):
            slowest = min(20 * slowest, 30 * TICK)
        world.at(1 + int(world.draw.random() * slowest), self._end_sync, self.incarnation)

    def _end_sync(self, incarnation: int) -> None:
        if not self.is_up(incarnation):
            return
        world = self.world
        if world.draw.random() < world.sync_failure_rate:
            world.count("failed syncs")
            world.stop_for_a_while(self)
            return
        for ready in self.disk.end_sync():
            world.invariants.synced(self, ready.hard_state)
            if ready.snapshot is not None:
                self._end_install(ready.snapshot)
            self._written(ready)
        if self.disk.waiting:
            self._begin_sync()
        self._stepped()

    def _written(self, ready: Ready) -> None:
        self.raw.advance(ready)
        self.world.invariants.written(self)
        self.world.invariants.stepped(self)
        self._send(ready.promises)

    def _begin_install(self, ready: Ready) -> None:
        """Nothing else goes on until the snapshot is in place."""
        assert ready.snapshot in self._contents, "the core takes a snapshot that did not arrive"
        assert not self._committed, "the core takes a snapshot while entries are to be applied"
        self._installing = True
        self._write(ready)

    def _end_install(self, snapshot: Snapshot) -> None:
        self.world.count("installed")
        self._installing = False
        self._contents = {each for each in self._contents if each.index > snapshot.index}
        assert snapshot.index > self.applied, "a snapshot of what is applied"
        self.applied = snapshot.index
        self.world.configured(self)

    # To the state machine.

    def _schedule_applying(self) -> None:
        delay = self.world.apply_delay
        if not delay:
            self._apply(self.incarnation)
        else:
            self._applying = True
            wait = int(self.world.draw.random() * delay)
            self.world.at(wait, self._apply, self.incarnation)

    def _apply(self, incarnation: int) -> None:
        """Applies some of what is committed."""
        if not self.is_up(incarnation):
            return
        self._applying = False
        world, committed = self.world, self._committed
        some = world.draw.randint(1, len(committed)) if world.apply_delay else len(committed)
        for _ in range(some):
            entry = committed.popleft()
            is_first = world.invariants.applying(self, entry)
            if is_first:
                world.clients.execute(entry)
            self.applied = entry.index
            if entry.kind == EntryKind.CONF_CHANGE:
                conf = self._apply_change(ConfChange.decode(entry.data))
            else:
                conf = world.invariants.conf_states[entry.index - 1]
            world.invariants.configured(self, entry.index, conf)
            if entry.kind == EntryKind.CONF_CHANGE:
                world.invariants.stepped(self)
                world.configured(self)
            else:
                world.clients.applied(self, entry)
        self.raw.applied_to(self.applied)
        self._truncate()
        self._stepped()

    def _apply_change(self, change: ConfChange) -> ConfState:
        refused = change.context == REFUSED
        try:
            return self.raw.apply_conf_change(None if refused else change)
        except ConfChangeError:
            return self.raw.apply_conf_change(None)

    def _truncate(self) -> None:
        world, schedule = self.world, self.world.schedule
        if world.draw.random() < schedule.flush_rate:
            self.disk.flush(self.state())
        if world.draw.random() < schedule.compact_rate:
            kept = int(world.draw.random() * (schedule.kept_entries + 1))
            self.raw.compact(max(0, self.applied - kept))
            self.disk.drop_before(self.raw.first_index)
            world.count("compactions")

    def _answer_reads(self) -> None:
        if self._reads:
            waiting, self._reads = self._reads, []
            for index, context in waiting:
                if index <= self.applied:
                    self.world.clients.readable(self, context)
                else:
                    self._reads.append((index, context))
