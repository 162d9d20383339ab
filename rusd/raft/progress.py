"""What a leader knows of a member's log, and how much it may send it: the leader's volatile state
of figure 2 of the paper, with a window.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum


class ProgressState(Enum):
    """How a member is sent the log."""

    PROBE = 0
    """Where its log matches is not known: one message at a time."""
    REPLICATE = 1
    """Its log matches: entries are sent as they come, within the window."""
    SNAPSHOT = 2
    """It needs what the leader has no more, and is being sent a snapshot: no entries."""


@dataclass(slots=True)
class Window:
    """Messages that are sent and not acknowledged, bounded by number and by bytes."""

    max_messages: int
    max_bytes: int
    bytes: int = 0
    _messages: deque[tuple[int, int]] = field(default_factory=deque)
    """Last index and size of each."""

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        """A window whose bytes are used up is full; its last message may exceed them."""
        return len(self._messages) >= self.max_messages or self.bytes >= self.max_bytes

    def add(self, last: int, size: int) -> None:
        """A message whose last entry has index `last` was sent."""
        self._messages.append((last, size))
        self.bytes += size

    def free_to(self, index: int) -> None:
        """Everything up to `index` is acknowledged."""
        messages = self._messages
        while messages and messages[0][0] <= index:
            self.bytes -= messages.popleft()[1]

    def free_one(self) -> None:
        """The oldest message is taken for lost."""
        if self._messages:
            self.bytes -= self._messages.popleft()[1]

    def clear(self) -> None:
        """Nothing is under way."""
        self._messages.clear()
        self.bytes = 0


@dataclass(slots=True)
class Progress:
    """Of one member. `match`: its log is the leader's up to there, on its disk. `next`: the index
    of the entry that it is sent next.
    """

    window: Window
    next: int
    match: int = 0
    state: ProgressState = ProgressState.PROBE
    commit: int = 0
    """What it said that it knows to be committed."""
    recent_active: bool = False
    """It was heard of since the leader last looked for a quorum."""
    told_commit: int = 0
    """The commit index that it was last sent."""
    probe_sent: bool = False
    """In PROBE: the one message is under way."""
    must_ask: bool = False
    """It is to be sent an APPEND even if there is nothing to send: what it answers tells whether
    an earlier one was lost."""
    pending_snapshot: int = 0
    """In SNAPSHOT: the index of the snapshot."""

    @property
    def is_paused(self) -> bool:
        """Whether nothing may be sent to it but heartbeats."""
        if self.state is ProgressState.REPLICATE:
            return self.window.is_full
        return self.state is ProgressState.SNAPSHOT or self.probe_sent

    def sent(self, last: int, size: int, commit: int) -> None:
        """It was sent an APPEND with `size` bytes of entries up to `last`, 0 for none."""
        self.told_commit = commit
        self.must_ask = False
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
        elif last:
            self.next = last + 1
            self.window.add(last, size)

    def become_probe(self) -> None:
        """What was sent after `match` may be lost."""
        after = max(self.match, self.pending_snapshot)
        self._become(ProgressState.PROBE)
        self.next = after + 1

    def become_replicate(self) -> None:
        """Its log matches up to `match`."""
        self._become(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """It is sent a snapshot of `index`."""
        self._become(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1

    def _become(self, state: ProgressState) -> None:
        self.state = state
        self.probe_sent = self.must_ask = False
        self.pending_snapshot = 0
        self.window.clear()

    def acknowledged(self, index: int) -> bool:
        """Its log matches up to `index`. Returns whether that is news."""
        self.next = max(self.next, index + 1)
        if index <= self.match:
            return False
        self.match = index
        self.probe_sent = False
        return True

    def rejected(self, index: int, hint: int) -> bool:
        """It has not what the leader has at `index`; its log may match up to `hint`. Returns
        False when that is old news, which alters nothing.
        """
        if self.state is ProgressState.REPLICATE:
            if index <= self.match:
                return False
            self.become_probe()
            return True
        if self.state is ProgressState.SNAPSHOT or index != self.next - 1:
            return False
        if index == self.match:
            # It has lost what it acknowledged. It is asked again, but not at once.
            return False
        self.next = max(min(index, hint + 1), self.match + 1)
        self.probe_sent = False
        return True
