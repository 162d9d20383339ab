"""Watchers: every one sees each event of its range once, in revision order.

Changes come as *batches*, the transactions of one applied entry. A watcher that has seen all is
*live*: it gets the events of a batch right after it is applied. One that starts in the past, or
whose stream takes no more for now, *lags*: it is brought forward, batch by batch, from the batches
kept in memory or from the events table, whenever its stream has room. What is made of a batch for
a range is made once, for all its watchers.

A watcher costs memory for its own state only; what it has not received waits in the tables.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from time import monotonic
from typing import Final, NamedTuple, Protocol

from rusd.mvcc.keyspace import Change, Keyspace, Transaction
from rusd.mvcc.records import DELETED, NO_REVISION, REVISION, U64, event_key, varint
from rusd.mvcc.tables import DamagedTableError, get, rows

_PIECE_BYTES: Final = 512 << 10
"""A piece ends with the transaction that takes it over this."""
_RECENT_BYTES: Final = 16 << 20
_CHUNK: Final = 512
"""Revisions in a batch that is read back from the events table, at most."""
_CHUNK_BYTES: Final = 1 << 20
"""Such a batch ends with the transaction that takes it over this."""
_CHUNKS_KEPT: Final = 16
_OVERHEAD: Final = 200
"""Bytes that a change takes in memory beside its event, and pieces beside their events, about."""
_TURN: Final = 0.002
"""Seconds of bringing watchers forward before other work gets its turn."""


class Sink(Protocol):
    """Where watchers' events go: a client's stream. Several watchers may share one."""

    @property
    def congested(self) -> bool: ...
    def deliver(self, watcher: "Watcher", piece: "Piece", /) -> None: ...
    def compacted(self, watcher: "Watcher", revision: int, /) -> None: ...
    def damaged(self, watcher: "Watcher", /) -> None: ...
    def caught_up(self) -> None: ...


class Selection(NamedTuple):
    """Which events a watcher wants, and in which form."""

    start: bytes
    end: bytes | None
    """Exclusive; None for all keys from `start` on."""
    puts: bool = True
    deletes: bool = True
    previous: bool = False
    """With what each event replaced."""


class Piece(NamedTuple):
    """Some events, whole transactions of them."""

    revision: int
    """All selected events up to this one are in this piece or an earlier one."""
    events: bytes
    """As the `events` fields of a WatchResponse."""
    number: int
    """How many they are."""


@dataclass(slots=True, eq=False)
class Watcher:
    """One watcher of a sink."""

    id: int
    selection: Selection
    next: int
    """The first revision that it has not seen (or does not want to)."""
    sink: Sink
    fragment: bool = False
    progress: bool = False
    live: bool = False
    active: bool = False
    """Whether it was sent something since the last progress notification."""


class Batch:
    """Transactions in order, without a gap in between."""

    def __init__(self, first: int, last: int, transactions: list[Transaction]) -> None:
        self.first, self.last, self.transactions = first, last, transactions
        self.size = sum(map(_size, transactions))
        self._pieces: dict[Selection, list[Piece]] = {}
        self._room = self.size
        """Bytes of pieces that may be kept yet: clients may make up any number of ranges."""

    def pieces(self, selection: Selection, since: int, hub: "Watchers") -> list[Piece]:
        """The selected events from revision `since` on, in pieces."""
        if since > self.first:
            return self._cut(selection, since, hub)
        pieces = self._pieces.get(selection)
        if pieces is None:
            pieces = self._cut(selection, since, hub)
            size = _OVERHEAD + sum(len(piece.events) for piece in pieces)
            if size <= self._room:
                self._pieces[selection] = pieces
                self._room -= size
        return pieces

    def _cut(self, selection: Selection, since: int, hub: "Watchers") -> list[Piece]:
        start, end, puts, deletes, previous = selection
        pieces: list[Piece] = []
        parts: list[bytes] = []
        size = 0
        for revision, changes in self.transactions:
            if revision < since:
                continue
            for key, event, replaced in changes:
                if (
                    key < start
                    or (end is not None and key >= end)
                    or not (deletes if event[0] == DELETED else puts)
                ):
                    continue
                if previous and replaced != NO_REVISION:
                    event = hub.with_previous(event, replaced, revision)
                parts += (b"\x5a", varint(len(event)), event)
                size += len(event)
            if size > _PIECE_BYTES:
                pieces.append(Piece(revision, b"".join(parts), len(parts) // 3))
                parts, size = [], 0
        if parts:
            pieces.append(Piece(self.last, b"".join(parts), len(parts) // 3))
        return pieces


def _size(transaction: Transaction) -> int:
    return sum(len(change.event) + _OVERHEAD for change in transaction.changes)


@dataclass(slots=True, eq=False)
class _Group:
    """The live watchers of one range."""

    start: bytes
    end: bytes | None
    watchers: dict[Selection, dict[Watcher, None]] = field(default_factory=dict)


class Watchers:
    """All watchers of a keyspace."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self.delivered = 0
        """Events, each as often as it was delivered."""
        self._groups: dict[tuple[bytes, bytes | None], _Group] = {}
        self._by_key: dict[bytes, _Group] = {}
        """Groups of a single key; the others are found through segments."""
        self._bounds: list[bytes] = []
        self._segments: list[list[_Group]] = []
        """Groups whose range covers [bound, next bound); built when needed."""
        self._stale = False
        self._recent: deque[Batch] = deque()
        self._recent_bytes = 0
        self._chunks: OrderedDict[int, Batch] = OrderedDict()
        self._lagging: dict[Sink, deque[Watcher]] = {}
        self._pump_scheduled = False

    def __len__(self) -> int:
        return self._count

    @property
    def lagging(self) -> int:
        """Watchers that have not seen all there is."""
        return sum(map(len, self._lagging.values()))

    def lags(self, sink: Sink) -> bool:
        """Whether a watcher of the sink has not seen all there is."""
        return sink in self._lagging

    def add(self, watcher: Watcher) -> None:
        """Starts a watcher at its `next` revision."""
        self._count += 1
        self._keyspace.watched = True
        if watcher.next > self._keyspace.revision:
            self._make_live(watcher)
        else:
            self._lag(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Ends a watcher; nothing is delivered for it from now on."""
        if watcher.live:
            self._leave_group(watcher)
        else:
            waiting = self._lagging.get(watcher.sink)
            if waiting is not None and watcher in waiting:
                waiting.remove(watcher)
                if not waiting:
                    del self._lagging[watcher.sink]
                    watcher.sink.caught_up()
        self._forget()

    def _forget(self) -> None:
        """Counts one watcher less."""
        self._count -= 1
        if not self._count:
            self._keyspace.watched = False
            self._keyspace.transactions.clear()
            self._recent.clear()
            self._recent_bytes = 0

    def writable(self, sink: Sink) -> None:
        """Goes on with a sink that was congested."""
        if sink in self._lagging:
            self._schedule_pump()

    def catch_up(self, seen: int) -> None:
        """Brings watchers on from `seen`, the revision that the keyspace had until its content was
        exchanged: what happened since comes from the new tables, or was compacted.
        """
        self._recent.clear()
        self._recent_bytes = 0
        self._chunks.clear()
        behind = [
            watcher
            for group in self._groups.values()
            for watchers in group.watchers.values()
            for watcher in watchers
            if watcher.next <= self._keyspace.revision
        ]
        for watcher in behind:
            watcher.next = max(watcher.next, seen + 1)
            if watcher.next <= self._keyspace.revision:
                self._leave_group(watcher)
                self._lag(watcher)

    # Live.

    def notify(self) -> None:
        """Delivers what was applied since the last call. To be called after every entry."""
        transactions = self._keyspace.transactions
        if not transactions:
            return
        self._keyspace.transactions = []
        batch = Batch(transactions[0].revision, self._keyspace.revision, transactions)
        self._keep(batch)
        for group in self._touched(batch):
            for selection, watchers in list(group.watchers.items()):
                pieces = batch.pieces(selection, batch.first, self)
                if pieces:
                    self._deliver_live(batch, selection, pieces, list(watchers))

    def _deliver_live(
        self, batch: Batch, selection: Selection, pieces: list[Piece], watchers: list[Watcher]
    ) -> None:
        delivered = 0
        for watcher in watchers:
            if watcher.next > batch.first:
                wanted = batch.pieces(selection, watcher.next, self)
            else:
                wanted = pieces
            for piece in wanted:
                if watcher.sink.congested:
                    watcher.next = max(watcher.next, batch.first)
                    self._leave_group(watcher)
                    self._lag(watcher)
                    break
                watcher.sink.deliver(watcher, piece)
                delivered += piece.number
                watcher.next = piece.revision + 1
                watcher.active = True
        self.delivered += delivered

    def _touched(self, batch: Batch) -> dict[_Group, None]:
        """The groups that some change of a batch is in."""
        touched: dict[_Group, None] = {}
        if self._stale:
            self._build_segments()
        by_key, bounds, segments = self._by_key, self._bounds, self._segments
        for _, changes in batch.transactions:
            for change in changes:
                key = change.key
                if key in by_key:
                    touched[by_key[key]] = None
                if bounds and (position := bisect_right(bounds, key)):
                    for group in segments[position - 1]:
                        touched[group] = None
        return touched

    def _build_segments(self) -> None:
        ranges = [group for group in self._groups.values() if not _is_single(group)]
        bounds = {group.start for group in ranges}
        bounds |= {group.end for group in ranges if group.end is not None}
        self._bounds = sorted(bounds)
        index = {bound: position for position, bound in enumerate(self._bounds)}
        self._segments = [[] for _ in self._bounds]
        for group in ranges:
            last = len(self._bounds) if group.end is None else index[group.end]
            for position in range(index[group.start], last):
                self._segments[position].append(group)
        self._stale = False

    def _make_live(self, watcher: Watcher) -> None:
        start, end = watcher.selection.start, watcher.selection.end
        group = self._groups.get((start, end))
        if group is None:
            group = self._groups[start, end] = _Group(start, end)
            if _is_single(group):
                self._by_key[start] = group
            else:
                self._stale = True
        group.watchers.setdefault(watcher.selection, {})[watcher] = None
        watcher.live = True

    def _leave_group(self, watcher: Watcher) -> None:
        selection = watcher.selection
        group = self._groups[selection.start, selection.end]
        watchers = group.watchers[selection]
        del watchers[watcher]
        watcher.live = False
        if not watchers:
            del group.watchers[selection]
        if not group.watchers:
            del self._groups[selection.start, selection.end]
            if self._by_key.get(selection.start) is group:
                del self._by_key[selection.start]
            else:
                self._stale = True

    # Lagging.

    def _lag(self, watcher: Watcher) -> None:
        self._lagging.setdefault(watcher.sink, deque()).append(watcher)
        if not watcher.sink.congested:
            self._schedule_pump()

    def _schedule_pump(self) -> None:
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Brings lagging watchers forward for a turn, each sink's in rotation."""
        self._pump_scheduled = False
        deadline = monotonic() + _TURN
        ready = deque(sink for sink in self._lagging if not sink.congested)
        while ready:
            if monotonic() > deadline:
                self._schedule_pump()
                return
            sink = ready.popleft()
            waiting = self._lagging.get(sink)
            if not waiting:
                continue
            watcher = waiting.popleft()
            if not self._step(watcher):
                waiting.append(watcher)
            if not waiting:
                del self._lagging[sink]
                sink.caught_up()
            else:
                # The next turn goes on where this one ends.
                self._lagging[sink] = self._lagging.pop(sink)
                if not sink.congested:
                    ready.append(sink)

    def _step(self, watcher: Watcher) -> bool:
        """Brings a watcher one batch forward. Returns whether it lags no more."""
        keyspace = self._keyspace
        if watcher.next < keyspace.compacted:
            self._forget()
            watcher.sink.compacted(watcher, keyspace.compacted)
            return True
        if watcher.next <= keyspace.revision:
            try:
                batch = self._batch_at(watcher.next)
                pieces = batch.pieces(watcher.selection, watcher.next, self)
            except DamagedTableError as error:
                keyspace.on_damage(error)
                self._forget()
                watcher.sink.damaged(watcher)
                return True
            for piece in pieces:
                if watcher.sink.congested:
                    return False
                watcher.sink.deliver(watcher, piece)
                self.delivered += piece.number
                watcher.next = piece.revision + 1
                watcher.active = True
            watcher.next = batch.last + 1
        if watcher.next > keyspace.revision:
            self._make_live(watcher)
            return True
        return False

    def _keep(self, batch: Batch) -> None:
        self._recent.append(batch)
        self._recent_bytes += batch.size
        while self._recent_bytes > _RECENT_BYTES and len(self._recent) > 1:
            self._recent_bytes -= self._recent.popleft().size

    def _batch_at(self, revision: int) -> Batch:
        """A batch that has a revision, which is not over the keyspace's."""
        if self._recent and self._recent[0].first <= revision:
            position = bisect_right(self._recent, revision, key=lambda batch: batch.first)
            return self._recent[position - 1]
        number = revision // _CHUNK
        chunk = self._chunks.get(number)
        if chunk is None or not chunk.first <= revision <= chunk.last:
            chunk = self._read_chunk(revision)
            if chunk.last < self._keyspace.revision:
                self._chunks[number] = chunk
                if len(self._chunks) > _CHUNKS_KEPT:
                    self._chunks.popitem(last=False)
        return chunk

    def _read_chunk(self, first: int) -> Batch:
        last = min(first - first % _CHUNK + _CHUNK - 1, self._keyspace.revision)
        transactions: list[Transaction] = []
        size = 0
        for transaction in _transactions(self._keyspace, first, last):
            transactions.append(transaction)
            size += _size(transaction)
            if size > _CHUNK_BYTES:
                last = transaction.revision
                break
        return Batch(first, last, transactions)

    def with_previous(self, event: bytes, replaced: bytes, revision: int) -> bytes:
        """An event with the KeyValue that its transaction, of `revision`, replaced, unless there
        was none or it was compacted.
        """
        own = U64.pack(revision)
        while replaced != NO_REVISION:
            row = get(self._keyspace.tables.events, replaced)
            if row is None:
                return event
            if replaced[:8] != own:
                return event + b"\x1a" + row[13:]
            # Nested transactions may put a key and delete it again: look behind both.
            replaced = row[:12]
        return event


def _is_single(group: _Group) -> bool:
    return group.end == group.start + b"\x00"


def _transactions(keyspace: Keyspace, first: int, last: int) -> Iterator[Transaction]:
    """The transactions of revisions first..last, read back from the events table."""
    revision, changes = 0, list[Change]()
    bounds = REVISION.pack(first, 0), REVISION.pack(last + 1, 0)
    for row, value in rows(keyspace.tables.events, *bounds):
        main = REVISION.unpack(row)[0]
        if main != revision and changes:
            yield Transaction(revision, changes)
            changes = []
        revision = main
        event = value[12:]
        changes.append(Change(event_key(event), event, value[:12]))
    if changes:
        yield Transaction(revision, changes)


def fragments(events: bytes, most: int) -> Iterator[bytes]:
    """Cuts a piece's events between events, into parts of at most `most` bytes where possible."""
    cuts, position, start = [0], 0, 0
    while position < len(events):
        begin = position
        position += 1
        length, shift = 0, 0
        while True:
            byte = events[position]
            position += 1
            length |= (byte & 0x7F) << shift
            if byte < 128:
                break
            shift += 7
        position += length
        if position - start > most and begin > start:
            cuts.append(begin)
            start = begin
    for begin, end in pairwise([*cuts, len(events)]):
        yield events[begin:end]
