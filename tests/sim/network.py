"""The network between simulated members: delays, reorders, drops, duplicates, cuts one way or both.

It never duplicates PROPOSE: as between real members, where a message is sent once on one
connection, at most one of a proposal arrives; the core need not know a second one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rusd.raft.message import Message, MessageKind
from tests.sim.schedule import TICK

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.member import Member

LONG_DELAY: Final = 20 * TICK
"""No message takes longer."""


class Network:
    """`cut` has the (sender, receiver) pairs between which nothing arrives."""

    def __init__(self, world: Cluster) -> None:
        schedule = world.schedule
        self._world, self._draw = world, world.draw
        self.cut: set[tuple[int, int]] = set()
        self.delay, self.long_delay_rate = schedule.delay, schedule.long_delay_rate
        self.drop_rate, self.duplicate_rate = schedule.drop_rate, schedule.duplicate_rate
        self.snapshot_delay = schedule.snapshot_delay
        self.snapshot_loss_rate = schedule.snapshot_loss_rate

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self.cut.clear()
        self.delay = min(self.delay, TICK // 5)
        self.long_delay_rate = self.drop_rate = self.duplicate_rate = 0.0
        self.snapshot_delay, self.snapshot_loss_rate = min(self.snapshot_delay, 2 * TICK), 0.0

    def isolate(self, member: int, others: list[int], inbound: bool, outbound: bool) -> None:
        """Cuts a member off from others."""
        for other in others:
            if inbound:
                self.cut.add((other, member))
            if outbound:
                self.cut.add((member, other))

    def send(self, sender: Member, message: Message) -> None:
        """A message leaves; it arrives once, later, or never, or twice."""
        world, draw = self._world, self._draw
        if message.kind == MessageKind.SNAPSHOT:
            self._send_snapshot(sender, message)
            return
        if (message.sender, message.to) in self.cut or draw.random() < self.drop_rate:
            world.count("dropped")
            if draw.random() < 0.2:
                world.at(TICK // 10, sender.unreachable, sender.incarnation, message.to)
            return
        world.at(self._way(), self._arrive, message)
        if message.kind != MessageKind.PROPOSE and draw.random() < self.duplicate_rate:
            world.count("duplicated")
            world.at(self._way(), self._arrive, message)

    def _way(self) -> int:
        draw = self._draw
        if self.long_delay_rate and draw.random() < self.long_delay_rate:
            self._world.count("delayed")
            return int(draw.random() * LONG_DELAY)
        return 1 + int(draw.random() * self.delay)

    def _arrive(self, message: Message) -> None:
        receiver = self._world.members.get(message.to)
        if receiver is not None and (message.sender, message.to) not in self.cut:
            receiver.receive(message)

    # Snapshots: the content travels on its own.

    def _send_snapshot(self, sender: Member, message: Message) -> None:
        delay = int(self._draw.random() * self.snapshot_delay)
        self._world.at(delay // 4, self._read_snapshot, sender, sender.incarnation, message)

    def _read_snapshot(self, sender: Member, incarnation: int, message: Message) -> None:
        """The sender reads its state machine, which may have gone on since the core asked."""
        if not sender.is_up(incarnation):
            return
        content = replace(message, snapshot=sender.state())
        delay = 1 + int(self._draw.random() * self.snapshot_delay)
        if self._draw.random() < self.snapshot_loss_rate:
            self._world.count("snapshots lost")
            self._world.at(delay, sender.snapshot_sent, incarnation, message.to, False)
            return
        self._world.at(delay, self._deliver_snapshot, sender, incarnation, content)
        if self._draw.random() < self.duplicate_rate:
            self._world.at(delay + self._way() + TICK, self._arrive_snapshot, content)

    def _deliver_snapshot(self, sender: Member, incarnation: int, message: Message) -> None:
        if not sender.is_up(incarnation):
            return
        arrived = self._arrive_snapshot(message)
        sender.snapshot_sent(incarnation, message.to, arrived)

    def _arrive_snapshot(self, message: Message) -> bool:
        receiver = self._world.members.get(message.to)
        if receiver is None or (message.sender, message.to) in self.cut:
            return False
        self._world.count("snapshots")
        return receiver.receive_snapshot(message)
