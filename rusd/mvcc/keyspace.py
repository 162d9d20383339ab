"""The keys and their revisions: what is live now, and every change since the last compaction.

Held in memory: the key order, and 36 bytes a key (`records.META`). Values are in RocksDB; the ones
that were written or read last are kept in memory too, within a bound.

Changes come in transactions: `put` and `delete` between `begin` and `end`, which makes one revision
of them. They gather in a write batch; `write` hands it to RocksDB. Between `begin` and `write` only
`get` and `live` see the changes; whoever scans tables does so after `write`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple, Protocol

from rocksdict import Rdict, WriteBatch
from sortedcontainers import SortedList

from rusd.mvcc.records import (
    LARGE,
    META,
    META_SIZE,
    NO_REVISION,
    REVISION,
    U64,
    delete_event,
    escape,
    signed_varint,
    varint,
)
from rusd.mvcc.tables import DamagedTableError, Tables, get, new_batch, rows

_APPLIED: Final = Struct(">QQQ")
_APPLIED_ROW, _REVISION_ROW, _COMPACTED_ROW, _SWEPT_ROW = (
    b"applied",
    b"revision",
    b"compacted",
    b"swept",
)


NEVER_COMPACTED: Final = -1
"""The compacted revision of a keyspace that was not compacted yet, as etcd reports it."""


class Applied(NamedTuple):
    """How much of the log the tables hold: all entries up to `position` of `term`, and `requests`
    requests of the entry after it.
    """

    term: int = 0
    position: int = 0
    requests: int = 0


class Marks(NamedTuple):
    """Where a keyspace is: what its state rows say."""

    revision: int = 1
    compacted: int = NEVER_COMPACTED
    swept: int = NEVER_COMPACTED
    """Up to this revision, what compaction frees is gone from the tables."""
    applied: Applied = Applied()

    def rows(self) -> list[tuple[bytes, bytes]]:
        """The state rows, for a keyspace that is made elsewhere."""
        numbers = zip((_REVISION_ROW, _COMPACTED_ROW, _SWEPT_ROW), self[:3], strict=True)
        return [
            *((name, U64.pack(number)) for name, number in numbers if number >= 0),
            (_APPLIED_ROW, _APPLIED.pack(*self.applied)),
        ]


class Meta(NamedTuple):
    """What is known of a live key without its value."""

    mod: int
    sub: int
    create: int
    version: int
    lease: int


class Change(NamedTuple):
    """One change of a transaction, as watchers need it."""

    key: bytes
    event: bytes
    replaced: bytes
    """Row key in the events table of what it replaced, NO_REVISION for none."""


class Transaction(NamedTuple):
    """The changes of one revision, in the order in which they were made."""

    revision: int
    changes: list[Change]


class Attachments(Protocol):
    """The lease room's side of keys: which lease a key hangs on."""

    def attach(self, lease: int, key: bytes) -> None: ...
    def detach(self, lease: int, key: bytes) -> None: ...
    def __contains__(self, lease: int) -> bool: ...


@dataclass(slots=True)
class Counters:
    """What has happened since the start, for metrics."""

    puts: int = 0
    deletes: int = 0
    ranges: int = 0
    txns: int = 0
    swept: int = 0
    """Events that compaction has looked at."""


class Keyspace:
    """The keyspace of one member. Not thread-safe: the event loop owns it."""

    def __init__(self, tables: Tables, leases: Attachments, cache_bytes: int = 64 << 20) -> None:
        self.tables = tables
        self.leases = leases
        self.index: dict[bytes, bytes] = {}
        self.has_large = False
        """Whether there may be rows in the latest table whose item is in the events table."""
        self.keys: SortedList[bytes] = SortedList()
        self.revision = 1
        self.compacted = NEVER_COMPACTED
        self.swept = NEVER_COMPACTED
        """Up to this revision, what compaction frees is gone from the tables."""
        self.applied = Applied()
        """Set by whoever applies the log, before `write`."""
        self.counters = Counters()
        self.on_damage: Callable[[DamagedTableError], None] = lambda _: None
        """Called by who answers a read with an error because the tables are damaged."""
        self.batch = new_batch()
        self.transactions: list[Transaction] = []
        """What was changed since watchers were last told; kept only while `watched`."""
        self.watched = False
        self._changes: list[Change] = []
        self._sub = 0
        self._recent: dict[bytes, bytes] = {}
        self._older: dict[bytes, bytes] = {}
        self._recent_bytes = 0
        self._generation_bytes = cache_bytes // 2
        self._load()
        self._main = self.revision + 1
        self._main_varint = varint(self._main)

    def _load(self) -> None:
        """Fills the index from the latest table, and the state rows."""
        self.revision, self.compacted, self.swept, self.applied = marks_in(self.tables.state)
        index = self.index
        for key, value in rows(self.tables.latest, b"", None):
            index[key] = value[:META_SIZE]
            if len(value) == META_SIZE:
                self.has_large = True
        self.keys = SortedList(index)
        for key, meta in index.items():
            if meta[-8:] != b"\0\0\0\0\0\0\0\0":
                self.leases.attach(META.unpack(meta)[4], key)

    def exchange(self, other: "Keyspace") -> None:
        """Takes the other's content, and gives it this one's, between two entries of the log.

        Reads that are under way end on what they began with. Leases, counters and what watchers
        wait for stay.
        """
        assert self.batch.is_empty(), "an entry is being applied"
        for name in _CONTENT:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs)
            setattr(other, name, mine)

    def forget(self) -> None:
        """Lets go of what is in memory, bit by bit: for a worker thread, when nobody uses it."""
        while self.index:
            self.index.popitem()
        while self.keys:
            self.keys.pop()

    # Reads that see the transaction under way.

    def __len__(self) -> int:
        return len(self.index)

    def meta(self, key: bytes) -> Meta | None:
        row = self.index.get(key)
        return None if row is None else Meta._make(META.unpack(row))

    def get(self, key: bytes) -> bytes | None:
        """The item of a live key."""
        item = self._recent.get(key)
        if item is not None:
            return item
        if key not in self.index:
            return None
        item = self._older.get(key)
        if item is None:
            row = get(self.tables.latest, key)
            if row is None:
                raise RuntimeError(f"the index has {key!r} and the latest table has not")
            item = row[META_SIZE:] or self._large(row[: REVISION.size])
        self._remember(key, item)
        return item

    def _large(self, event: bytes) -> bytes:
        row = get(self.tables.events, event)
        if row is None:
            raise RuntimeError(f"the latest table names event {event.hex()}, which is not there")
        return row[REVISION.size :]

    def live(self, start: bytes, end: bytes | None, reverse: bool = False) -> Iterator[bytes]:
        """The live keys of [start, end) in order; an end of None is past the last key."""
        return self.keys.irange(start, end, inclusive=(True, False), reverse=reverse)

    def count(self, start: bytes, end: bytes | None) -> int:
        """How many keys are live in [start, end). Walks nothing."""
        last = len(self.keys) if end is None else self.keys.bisect_left(end)
        return max(0, last - self.keys.bisect_left(start))

    def inner_header(self) -> bytes:
        """Field 1 of a response inside a transaction: a header with the read revision alone."""
        packed = self._main_varint if self._sub else varint(self.revision)
        return b"\x0a" + varint(len(packed) + 1) + b"\x18" + packed

    # Changes.

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        """Writes a key in the transaction under way. The lease exists, or is 0."""
        main = self._main
        mod = self._main_varint
        put = self.batch.put
        tables = self.tables
        old = self.index.get(key)
        if old is None:
            create, version, replaced = main, 1, NO_REVISION
            create_varint = mod
            self.keys.add(key)
        else:
            _, _, create, version, old_lease = META.unpack(old)
            version += 1
            create_varint = varint(create)
            replaced = old[:12]
            put(escape(key) + old[:8], U64.pack(main) + old[8:12], tables.history_family)
            if old_lease:
                self.leases.detach(old_lease, key)
        key_size, version_varint = varint(len(key)), varint(version)
        rest = b"\x2a" + varint(len(value)) + value if value else b""
        if lease:
            rest += b"\x30" + signed_varint(lease)
            self.leases.attach(lease, key)
        meta = META.pack(main, self._sub, create, version, lease)
        size = len(key_size) + len(key) + len(create_varint) + len(mod) + len(version_varint)
        row = b"".join(
            (
                meta,
                b"\x12",
                varint(size + len(rest) + 4),
                b"\x0a",
                key_size,
                key,
                b"\x10",
                create_varint,
                b"\x18",
                mod,
                b"\x20",
                version_varint,
                rest,
            )
        )
        item = row[META_SIZE:]
        self.index[key] = meta
        if len(item) < LARGE:
            put(key, row, tables.latest_family)
        else:
            put(key, meta, tables.latest_family)
            self.has_large = True
        put(meta[:12], replaced + item, tables.events_family)
        self._recent[key] = item
        self._recent_bytes += len(item)
        self._sub += 1
        if self.watched:
            self._changes.append(Change(key, item, replaced))

    def delete(self, key: bytes) -> None:
        """Deletes a live key in the transaction under way."""
        old = self.index.pop(key)
        self.keys.remove(key)
        self._recent.pop(key, None)
        self._older.pop(key, None)
        lease = META.unpack(old)[4]
        if lease:
            self.leases.detach(lease, key)
        revision = REVISION.pack(self._main, self._sub)
        event = delete_event(key, self._main)
        tables = self.tables
        self.batch.delete(key, tables.latest_family)
        self.batch.put(revision, old[:12] + event, tables.events_family)
        self.batch.put(escape(key) + old[:8], revision[:8] + old[8:12], tables.history_family)
        self._sub += 1
        if self.watched:
            self._changes.append(Change(key, event, old[:12]))

    def end(self) -> int:
        """Ends the transaction under way. Returns the keyspace's revision, a new one if it changed
        anything.
        """
        if self._sub:
            self.revision = self._main
            self._main += 1
            self._main_varint = varint(self._main)
            self._sub = 0
            if self._changes:
                self.transactions.append(Transaction(self.revision, self._changes))
                self._changes = []
        return self.revision

    def compact(self, revision: int) -> None:
        """Makes reads below `revision` fail from now on; the tables are swept later."""
        self.compacted = revision
        self.batch.put(_COMPACTED_ROW, U64.pack(revision))

    def mark_swept(self, batch: WriteBatch, revision: int) -> None:
        """Writes the last removals of a sweep, with the note that it is done."""
        batch.put(_SWEPT_ROW, U64.pack(revision))
        self.tables.write(batch)
        self.swept = revision

    def set_state(self, name: bytes, row: bytes | None) -> None:
        """Sets, or with None removes, a row of the state table, together with the transactions."""
        if row is None:
            self.batch.delete(name)
        else:
            self.batch.put(name, row)

    def write(self) -> None:
        """Hands all ended transactions to RocksDB, with the rows that others added to `batch`."""
        batch = self.batch
        batch.put(_REVISION_ROW, U64.pack(self.revision))
        batch.put(_APPLIED_ROW, _APPLIED.pack(*self.applied))
        self.tables.write(batch)
        self.batch = new_batch()
        if self._recent_bytes > self._generation_bytes:
            self._age()

    def _remember(self, key: bytes, item: bytes) -> None:
        self._recent[key] = item
        self._recent_bytes += len(item)
        # Not while changes wait for `write`: they are nowhere else yet.
        if self._recent_bytes > self._generation_bytes and self.batch.is_empty():
            self._age()

    def _age(self) -> None:
        self._older, self._recent, self._recent_bytes = self._recent, {}, 0


def marks_in(state: Rdict) -> Marks:
    """What a state table says of the keyspace that it belongs to."""
    revision, compacted, swept = (
        U64.unpack(row)[0] if (row := state.get(name)) else default
        for name, default in (
            (_REVISION_ROW, 1),
            (_COMPACTED_ROW, NEVER_COMPACTED),
            (_SWEPT_ROW, NEVER_COMPACTED),
        )
    )
    return Marks(revision, compacted, swept, applied_in(state))


def applied_in(state: Rdict) -> Applied:
    """What a state table says of the log that its database holds."""
    row: bytes | None = state.get(_APPLIED_ROW)
    return Applied() if row is None else Applied._make(_APPLIED.unpack(row))


_CONTENT: Final = (
    "tables",
    "index",
    "has_large",
    "keys",
    "revision",
    "compacted",
    "swept",
    "applied",
    "_main",
    "_main_varint",
    "_recent",
    "_older",
    "_recent_bytes",
)
"""What makes up a keyspace's content at a moment between two entries."""
