"""Reads that wait for their read index to be confirmed (thesis, section 6.4).

Each takes the leader's commit index when it comes, and a number. Heartbeats carry the last number;
who echoes it says that this leader was still its leader after all reads up to that number came. So
when a quorum has, those reads may be answered.
"""

from collections import deque
from typing import Final, NamedTuple

from rusd.raft import quorum
from rusd.raft.message import ConfState

_NUMBER_BYTES: Final = 8


class Read(NamedTuple):
    """`member` asked, with `context`, when `commit` was the commit index."""

    number: int
    commit: int
    member: int
    context: bytes


class ReadQueue:
    """The reads that wait, of one leader in one term. The numbers mean nothing in another."""

    def __init__(self) -> None:
        self._last = 0
        self._waiting: deque[Read] = deque()
        self._echoed: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, commit: int, member: int, context: bytes) -> None:
        """A read came; it waits until it is confirmed."""
        self._last += 1
        self._waiting.append(Read(self._last, commit, member, context))

    def heartbeat_context(self) -> bytes:
        """What heartbeats carry; nothing when no read waits."""
        return self._last.to_bytes(_NUMBER_BYTES, "big") if self._waiting else b""

    def echoed(self, member: int, context: bytes) -> None:
        """A member answered a heartbeat with this context."""
        number = int.from_bytes(context, "big")
        if self._echoed.get(member, 0) < number <= self._last:
            self._echoed[member] = number

    def confirmed(self, config: ConfState, myself: int) -> list[Read]:
        """Takes out what a quorum of `config` confirms; the leader confirms all itself."""
        if not self._waiting:
            return []
        self._echoed[myself] = self._last
        agreed = quorum.agreed_index(config, lambda member: self._echoed.get(member, 0))
        reads = []
        while self._waiting and self._waiting[0].number <= agreed:
            reads.append(self._waiting.popleft())
        return reads
