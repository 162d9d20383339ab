"""The log of a member in memory: all its entries since the last compaction, and how far they are
handed out, on disk, committed and applied.

    compacted <= applied <= applying <= commit <= last
    applying <= persisted <= handed <= last

`persisted` falls back when entries are replaced or a snapshot is taken in place of the log, until
their write is done.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from rusd.raft.message import Entry, EntryKind, Persisted, Snapshot

_CONF_CHANGE: Final = EntryKind.CONF_CHANGE


class LogError(Exception):
    """The node did with the log what it must not do."""


class Log:
    """See the module."""

    __slots__ = (
        "_entries",
        "_writes",
        "applied",
        "applying",
        "commit",
        "committed_conf_index",
        "compacted",
        "compacted_term",
        "durable_commit",
        "handed",
        "last_index",
        "persisted",
        "snapshot",
    )

    def __init__(self, persisted: Persisted) -> None:
        """Raises LogError when what was on disk does not fit together."""
        state, entries = persisted.snapshot, list(persisted.entries)
        self.compacted, self.compacted_term = state.index, state.term
        if entries and entries[0].index <= state.index:
            # Entries from before are for followers that lag; the first is where they begin.
            first = entries.pop(0)
            self.compacted, self.compacted_term = first.index, first.term
        self._entries = entries
        expected = range(self.compacted + 1, self.compacted + 1 + len(entries))
        if any(entry.index != index for entry, index in zip(entries, expected, strict=True)):
            raise LogError(f"the entries do not follow index {self.compacted} without a gap")
        self.last_index = self.compacted + len(entries)
        if not self.matches(state.index, state.term):
            raise LogError(f"the log has not what is applied: index {state.index}, {state.term}")
        self.commit = max(persisted.hard_state.commit, state.index)
        if self.commit > self.last_index:
            raise LogError(f"the log ends at {self.last_index}, {self.commit} was committed")
        self.durable_commit = self.commit
        """The commit index as it is on disk."""
        self.committed_conf_index = 0
        """Of the last change of the configuration that was seen to be committed."""
        self.applied = self.applying = state.index
        self.persisted = self.handed = self.last_index
        self.snapshot: Snapshot | None = None
        """To be handed out: it takes the place of log and state machine."""
        self._writes: deque[list[int]] = deque()
        """By write under way: its number, and up to which index the log, as it is now, is on disk
        when it is done."""

    # Looks.

    @property
    def first_index(self) -> int:
        """Of the entries in memory; one more than the last index when there are none."""
        return self.compacted + 1

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self._entries[-1].term if self._entries else self.compacted_term

    @property
    def is_installing(self) -> bool:
        """A snapshot is being put in the place of log and state machine."""
        return self.persisted < self.compacted

    def term(self, index: int) -> int:
        """The term of the entry at `index`; 0 when that is not known."""
        position = index - self.compacted
        if position > 0:
            return self._entries[position - 1].term if index <= self.last_index else 0
        return self.compacted_term if position == 0 else 0

    def matches(self, index: int, term: int) -> bool:
        """Whether the log has an entry of this index and term (figure 2, AppendEntries 2)."""
        return self.compacted <= index <= self.last_index and self.term(index) == term

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a log that ends so is at least as up-to-date as this one (paper, 5.4.1)."""
        last_term = self.last_term
        return term > last_term or (term == last_term and index >= self.last_index)

    def conflict_hint(self, index: int, term: int) -> tuple[int, int]:
        """Index and term of the last entry, at or below `index`, that a log may share whose entry
        at `index` is of `term`: none of a higher term can be shared (paper, 5.3, last part).
        """
        index = min(index, self.last_index)
        while index > self.compacted and self.term(index) > term:
            index -= 1
        return index, self.term(index)

    def slice(self, start: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries from `start`, of up to `max_bytes`, but at least one if there is one."""
        return self._slice(start, self.last_index, max_bytes)

    def _slice(self, start: int, end: int, max_bytes: int) -> tuple[Entry, ...]:
        entries, position = self._entries, start - self.compacted - 1
        stop = min(position + 1, end - self.compacted)
        if stop <= position:
            return ()
        size = len(entries[position].data)
        while stop < end - self.compacted:
            size += len(entries[stop].data)
            if size > max_bytes:
                break
            stop += 1
        return tuple(entries[position:stop])

    def has_unapplied_conf_change(self) -> bool:
        """Whether a committed change of the configuration is not applied."""
        start, stop = self.applied - self.compacted, self.commit - self.compacted
        return any(entry.kind == _CONF_CHANGE for entry in self._entries[start:stop])

    def bytes_between(self, after: int, last: int) -> int:
        """Of the data of the entries after `after` up to `last`."""
        entries = self._entries[after - self.compacted : last - self.compacted]
        return sum(len(entry.data) for entry in entries)

    # Growing.

    def append(self, entries: Sequence[Entry]) -> None:
        """A leader only ever appends (figure 3, Leader Append-Only)."""
        self._entries.extend(entries)
        self.last_index += len(entries)

    def merge(self, entries: Sequence[Entry]) -> bool:
        """Takes entries that follow one that matches: deletes what conflicts with them, and what
        follows that, and appends what is new (figure 2, AppendEntries 3 and 4). Returns False,
        and alters nothing, when they conflict with what is committed, which cannot be.
        """
        known = 0
        while known < len(entries) and self.has(entries[known]):
            known += 1
        if known == len(entries):
            return True
        first = entries[known].index
        if first <= self.commit:
            return False
        if first <= self.last_index:
            self._truncate(first - 1)
        self.append(entries[known:])
        return True

    def has(self, entry: Entry) -> bool:
        """Whether it is in the log: index and term say what an entry is (figure 3)."""
        return entry.index <= self.last_index and self.term(entry.index) == entry.term

    def _truncate(self, last: int) -> None:
        """Forgets what follows `last`. The disk may have other entries there until what replaces
        them is written, whatever their terms: no earlier write says anything about them.
        """
        del self._entries[last - self.compacted :]
        self.last_index = last
        self.handed = min(self.handed, last)
        self.persisted = min(self.persisted, last)
        for write in self._writes:
            write[1] = min(write[1], last)

    def restore(self, snapshot: Snapshot) -> None:
        """Takes a snapshot in place of all entries."""
        self._entries.clear()
        self.compacted, self.compacted_term = snapshot.index, snapshot.term
        self.last_index = self.handed = self.commit = snapshot.index
        self.applied = self.applying = snapshot.index
        self.persisted = 0
        for write in self._writes:
            write[1] = 0
        self.snapshot = snapshot

    # To disk.

    def hand_out(self, number: int) -> tuple[Entry, ...]:
        """What is to be written, with a pending snapshot before it, by write `number`."""
        entries: tuple[Entry, ...] = ()
        if self.handed < self.last_index:
            entries = tuple(self._entries[self.handed - self.compacted :])
        if entries or self.snapshot is not None:
            self.handed = self.last_index
            self.snapshot = None
            self._writes.append([number, self.last_index])
        return entries

    def written(self, number: int) -> bool:
        """Write `number` and all before it are on disk. Returns whether more of the log is."""
        writes, before = self._writes, self.persisted
        while writes and writes[0][0] <= number:
            self.persisted = max(self.persisted, writes.popleft()[1])
        return self.persisted > before

    # To the state machine.

    def commit_to(self, index: int) -> bool:
        """Returns whether that is more than before."""
        if index <= self.commit:
            return False
        if index > self.last_index:
            raise LogError(f"commit of {index} past the last index {self.last_index}")
        for entry in self._entries[self.commit - self.compacted : index - self.compacted]:
            if entry.kind == _CONF_CHANGE:
                self.committed_conf_index = entry.index
        self.commit = index
        return True

    @property
    def has_committed(self) -> bool:
        """Whether something can be handed out to be applied."""
        applying = self.applying
        return applying < self.commit and applying < self._last_to_apply()

    def _last_to_apply(self) -> int:
        """What is committed and on disk; but a change of the configuration only when it is on disk
        that it is committed. Else a member that applied it, and crashed, would be back in the old
        configuration, and need the votes of who may be gone.
        """
        last = self.commit if self.commit < self.persisted else self.persisted
        if self.committed_conf_index <= self.durable_commit:
            return last
        start = max(self.applying, self.durable_commit) + 1
        for index in range(start, last + 1):
            if self._entries[index - self.compacted - 1].kind == _CONF_CHANGE:
                return index - 1
        return last

    def hand_out_committed(self, max_bytes: int) -> tuple[Entry, ...]:
        """What can be applied, and was not handed out to be."""
        if self.applying >= self.commit:
            return ()
        entries = self._slice(self.applying + 1, self._last_to_apply(), max_bytes)
        self.applying += len(entries)
        return entries

    def applied_to(self, index: int) -> None:
        """The state machine has applied what is up to `index`."""
        if index > self.applying:
            raise LogError(f"applied up to {index}: only {self.applying} was handed out")
        self.applied = max(self.applied, index)

    def compact(self, index: int) -> None:
        """Forgets entries up to `index`."""
        if index > self.applied:
            raise LogError(f"compaction up to {index}: only {self.applied} is applied")
        if index <= self.compacted:
            return
        self.compacted_term = self.term(index)
        del self._entries[: index - self.compacted]
        self.compacted = index
