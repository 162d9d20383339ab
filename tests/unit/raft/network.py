"""A few cores in one process, and between them messages that a test delivers, holds or drops.

Every member has a disk, of which only what is synced survives a crash, and a state machine: the
entries that it applied. Entries that two members apply at one index are compared as they are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rusd.raft.confchange import Change, ChangeKind, ConfChange, Transition
from rusd.raft.message import (
    Config,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    Persisted,
    Ready,
    Role,
    Snapshot,
)
from rusd.raft.raw_node import RawNode

ELECTION = 10
"""Ticks of an election timeout; a member adds its id to it, unless a test says otherwise."""


class Member:
    """A core, its disk and its state machine."""

    def __init__(self, member: int, disk: Persisted, network: "Network", **config: Any) -> None:
        self.id, self.disk, self.network = member, disk, network
        self.settings = config
        self.applied: list[Entry] = network.history_to(disk.snapshot.index)
        self.reads: list[tuple[int, bytes]] = []
        self.disk_is_slow = False
        """Nothing is synced until a test calls `sync`."""
        self.applies = True
        """Whether committed entries are applied as they come."""
        self.unsynced: list[Ready] = []
        self.unapplied: list[Entry] = []
        self.node = self._start()

    def _start(self) -> RawNode:
        settings = {"random_ticks": lambda bound: self.id % bound, **self.settings}
        return RawNode(Config(id=self.id, election_ticks=ELECTION, **settings), self.disk)

    def crash(self) -> None:
        """Starts again with what is on disk."""
        self.unsynced.clear()
        self.unapplied.clear()
        self.reads.clear()
        self.applied = self.network.history_to(self.disk.snapshot.index)
        self.node = self._start()

    def run(self) -> None:
        """Does what the core asks for until it asks no more."""
        while self.node.has_ready():
            ready = self.node.ready()
            self.network.send(ready.messages)
            self.unsynced.append(ready)
            if not self.disk_is_slow:
                self.sync()
            self.unapplied += ready.committed
            if self.applies:
                self.apply()
            self.reads += [(read.index, read.context) for read in ready.reads]

    def sync(self) -> None:
        """What was written is on disk, and what was promised upon that is sent."""
        for ready in self.unsynced:
            self._write(ready)
            self.network.send(ready.promises)
            self.node.advance(ready)
        self.unsynced.clear()

    def _write(self, ready: Ready) -> None:
        snapshot, hard_state, entries = self.disk.snapshot, self.disk.hard_state, self.disk.entries
        if ready.snapshot is not None:
            snapshot, entries = ready.snapshot, ()
            self.applied = self.network.history_to(snapshot.index)
        if ready.entries:
            first = ready.entries[0].index
            entries = tuple(e for e in entries if e.index < first) + ready.entries
        self.disk = Persisted(snapshot, ready.hard_state or hard_state, entries)

    def apply(self) -> None:
        """Applies all that the core has handed out."""
        while self.unapplied:
            entry = self.unapplied.pop(0)
            self.network.remember(entry)
            assert entry.index <= self.disk_end, "applied before it was on disk"
            self.applied.append(entry)
            if entry.kind == EntryKind.CONF_CHANGE:
                self.node.apply_conf_change(ConfChange.decode(entry.data))
            self.node.applied_to(entry.index)

    @property
    def disk_end(self) -> int:
        """The index of the last entry on disk."""
        return self.disk.snapshot.index + len(self.disk.entries)

    def compact(self, index: int | None = None) -> None:
        """Makes a snapshot of the state machine on disk, and forgets entries up to `index`."""
        index = index or self.node.applied
        snapshot = Snapshot(index, self.node.log_term(index), self.node.conf_state)
        entries = tuple(entry for entry in self.disk.entries if entry.index > index)
        self.disk = Persisted(snapshot, self.disk.hard_state, entries)
        self.node.compact(index)

    # What tests do and look at.

    def tick(self, times: int = 1) -> None:
        """Lets time pass at this member."""
        for _ in range(times):
            self.node.tick()
            self.run()

    def propose(self, *data: bytes) -> None:
        """Proposes, and sends what comes of it."""
        self.node.propose(data)
        self.run()

    def change(self, *changes: Change, transition: Transition = Transition.AUTO) -> None:
        """Proposes a change of the configuration."""
        self.node.propose_conf_change(ConfChange(changes, transition))
        self.run()

    def step(self, message: Message) -> None:
        """Gets a message."""
        self.node.step(message)
        self.run()

    def get(self, kind: MessageKind, sender: int, **fields: Any) -> list[Message]:
        """Gets a message that no core made, of its own term unless another is given. Returns what
        it sends then.
        """
        fields.setdefault("term", self.node.term)
        start = len(self.network.sent)
        self.step(Message(kind, self.id, sender, **fields))
        return self.network.sent[start:]

    @property
    def log(self) -> list[int]:
        """The terms of its entries, from the first to the last index."""
        first, last = self.node.first_index, self.node.last_index
        return [self.node.log_term(index) for index in range(first, last + 1)]

    @property
    def values(self) -> list[bytes]:
        """What was proposed and it has applied."""
        return [e.data for e in self.applied if e.data and e.kind == EntryKind.NORMAL]

    @property
    def is_leader(self) -> bool:
        """By its own account."""
        return self.node.role is Role.LEADER

    @property
    def is_candidate(self) -> bool:
        """It asks for votes, not only for promises of some."""
        return self.node.role is Role.CANDIDATE

    @property
    def is_follower(self) -> bool:
        """It does not stand for election."""
        return self.node.role is Role.FOLLOWER


class Network:
    """The members, by id, and the messages that are under way, oldest first."""

    def __init__(
        self, voters: Iterable[int] = (1, 2, 3), learners: Iterable[int] = (), **config: Any
    ) -> None:
        """All members begin with a snapshot of index 1, term 1."""
        self.conf_state = ConfState(tuple(voters), tuple(learners))
        self.in_flight: list[Message] = []
        self.sent: list[Message] = []
        """All that ever was."""
        self.loses: Callable[[Message], bool] = lambda _: False
        self._history: dict[int, Entry] = {}
        self.members: dict[int, Member] = {}
        for member in (*self.conf_state.voters, *self.conf_state.learners):
            self.add(member, Snapshot(1, 1, self.conf_state), **config)

    def add(
        self,
        member: int,
        snapshot: Snapshot | None = None,
        log: Sequence[int] = (),
        term: int = 0,
        **config: Any,
    ) -> Member:
        """Adds a member with what it has on disk: entries of the terms `log` after a snapshot. By
        default it has nothing, as who joins.
        """
        snapshot = snapshot or Snapshot()
        entries = entries_of(log, snapshot.index + 1)
        hard_state = HardState(max((term, snapshot.term, *log)), 0, snapshot.index)
        disk = Persisted(snapshot, hard_state, entries)
        self.members[member] = Member(member, disk, self, **config)
        return self.members[member]

    @classmethod
    def with_logs(cls, logs: Mapping[int, Sequence[int]], **config: Any) -> "Network":
        """Members with entries of these terms, from index 2 on, in their logs."""
        network = cls(tuple(logs), **config)
        snapshot = Snapshot(1, 1, network.conf_state)
        for member, log in logs.items():
            network.add(member, snapshot, log, **config)
        return network

    def __getitem__(self, member: int) -> Member:
        return self.members[member]

    # Messages.

    def send(self, messages: Iterable[Message]) -> None:
        """Puts messages under way, or loses them."""
        for message in messages:
            self.sent.append(message)
            if not self.loses(message):
                self.in_flight.append(message)

    def deliver(self, kind: MessageKind | None = None, to: int = 0, sender: int = 0) -> int:
        """Delivers what is under way now, of that kind, receiver and sender. Returns how many."""
        matching = [
            message
            for message in self.in_flight
            if kind in (None, message.kind)
            and to in (0, message.to)
            and sender in (0, message.sender)
        ]
        for message in matching:
            self.in_flight.remove(message)
            if message.to in self.members:
                self.members[message.to].step(message)
        return len(matching)

    def drop(self, kind: MessageKind | None = None, to: int = 0, sender: int = 0) -> list[Message]:
        """Loses what is under way, of that kind, receiver and sender. Returns it."""
        dropped = [
            message
            for message in self.in_flight
            if kind in (None, message.kind)
            and to in (0, message.to)
            and sender in (0, message.sender)
        ]
        for message in dropped:
            self.in_flight.remove(message)
        return dropped

    def settle(self) -> None:
        """Runs members and delivers messages until nothing happens any more."""
        for _ in range(1000):
            for member in list(self.members.values()):
                member.run()
            if not self.deliver():
                return
        raise AssertionError("the members do not stop talking")

    def isolate(self, *members: int) -> None:
        """Loses messages between these members and the rest, from now on."""
        inside = frozenset(members)
        self.loses = lambda message: (message.sender in inside) != (message.to in inside)
        self.in_flight = [message for message in self.in_flight if not self.loses(message)]

    def heal(self) -> None:
        """Loses nothing more."""
        self.loses = lambda _: False

    # Shorthands.

    def elect(self, member: int) -> Member:
        """Makes a member stand for election at once, and settles."""
        self[member].node.campaign()
        self.settle()
        assert self[member].is_leader
        return self[member]

    def tick(self, times: int = 1) -> None:
        """Lets time pass at all members, in step, with messages faster than ticks."""
        for _ in range(times):
            for member in list(self.members.values()):
                member.tick()
            self.settle()

    # The state machine that they share.

    def remember(self, entry: Entry) -> None:
        """State machine safety (figure 3): nobody applies another entry at an index."""
        known = self._history.setdefault(entry.index, entry)
        assert known == entry, f"two entries were applied at index {entry.index}"

    def history_to(self, index: int) -> list[Entry]:
        """What is applied up to an index."""
        return [self._history[i] for i in sorted(self._history) if i <= index]


def entries_of(terms: Iterable[int], first: int = 2) -> tuple[Entry, ...]:
    """Entries of these terms, from index `first` on."""
    return tuple(Entry(term, index, b"%d" % term) for index, term in enumerate(terms, first))


def add_voter(member: int) -> Change:
    return Change(ChangeKind.ADD_VOTER, member)


def add_learner(member: int) -> Change:
    return Change(ChangeKind.ADD_LEARNER, member)


def remove(member: int) -> Change:
    return Change(ChangeKind.REMOVE, member)
