"""The disk of a simulated member: what is synced, what is under way, and what a crash leaves.

A write is what one `Ready` asks for, and is on disk as a whole or not at all, as in the log store
one frame is. Writes that wait when a sync begins share it. A crash loses what was not synced, but
may leave some of what was being synced, in order.
"""

from collections import deque
from random import Random
from typing import Final

from rusd.raft.message import Entry, HardState, Persisted, Ready, Snapshot

FIRST_INDEX: Final = 1
"""A new cluster's members begin as if they had installed a snapshot of this index and term 1."""


class Disk:
    """`log` follows `base`, the index before its first entry. `state` is where the state machine
    is flushed.
    """

    def __init__(self, state: Snapshot) -> None:
        self.hard_state = HardState(state.term, 0, state.index)
        self.state = state
        self.base, self.base_term = state.index, state.term
        self.log: list[Entry] = []
        self.waiting: deque[Ready] = deque()
        self.syncing: list[Ready] = []

    @property
    def last_index(self) -> int:
        """Of what is synced."""
        return self.base + len(self.log)

    def term(self, index: int) -> int:
        """Of the synced entry; 0 if there is none. What is below the log is committed: -1."""
        if index <= self.base:
            return self.base_term if index == self.base else -1
        position = index - self.base - 1
        return self.log[position].term if position < len(self.log) else 0

    def begin_sync(self) -> None:
        """All that waits is being synced."""
        self.syncing.extend(self.waiting)
        self.waiting.clear()

    def end_sync(self) -> list[Ready]:
        """What was being synced is on disk, and is returned."""
        done, self.syncing = self.syncing, []
        for ready in done:
            self._keep(ready)
        return done

    def crash(self, draw: Random) -> None:
        """Power is lost: of what was being synced, some of the first writes may be there."""
        if self.syncing and draw.random() < 0.5:
            for ready in self.syncing[: draw.randint(0, len(self.syncing))]:
                if ready.snapshot is not None and draw.random() < 0.5:
                    # The hard state is written before the snapshot is put in place.
                    self.hard_state = ready.hard_state or self.hard_state
                    break
                self._keep(ready)
        self.syncing.clear()
        self.waiting.clear()

    def flush(self, state: Snapshot) -> None:
        """The state machine is flushed at this point."""
        self.state = state

    def drop_before(self, index: int) -> None:
        """Entries below `index`, and in the flushed state, are gone."""
        base = min(index - 1, self.state.index)
        if base > self.base:
            self.base_term = self.term(base)
            del self.log[: base - self.base]
            self.base = base

    def read(self, with_earlier: bool) -> Persisted:
        """What a member starts with. Entries that the flushed state has may be in it.

        A crash in the middle of installing a snapshot may leave a commit index past the log.
        """
        skip = 0 if with_earlier else self.state.index - self.base
        term, vote, commit = self.hard_state
        self.hard_state = HardState(term, vote, min(commit, max(self.last_index, self.state.index)))
        return Persisted(self.state, self.hard_state, tuple(self.log[skip:]))

    def _keep(self, ready: Ready) -> None:
        if ready.snapshot is not None:
            self.state = ready.snapshot
            self.base, self.base_term = ready.snapshot.index, ready.snapshot.term
            self.log.clear()
        if ready.entries:
            first = ready.entries[0].index
            assert self.base < first <= self.last_index + 1, "a gap in what is written"
            del self.log[first - self.base - 1 :]
            self.log.extend(ready.entries)
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
