"""Range requests: which items, in which order, as of which revision.

A read is a generator: it yields now and then, so that its caller can let other work go on, and
returns the body of a RangeResponse (without a header). What it reads is fixed when it starts.

A past revision is read as the present with what has changed since put back. Two ways find what has
changed: the events after that revision, or the replaced revisions of the keys in the range; the one
that is expected to be shorter is walked.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from heapq import merge
from itertools import islice
from typing import Any, Final, TypeVar

from rusd.mvcc.errors import CompactedError, FutureRevisionError
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.records import (
    DELETED,
    META,
    META_SIZE,
    REVISION,
    U64,
    escape,
    event_key,
    item_of,
    range_end,
    varint,
)
from rusd.mvcc.tables import check, cursor, row_in, rows, values
from rusd.pb.kv_pb2 import KeyValue
from rusd.pb.rpc_pb2 import RangeRequest

Slices = Generator[None, None, bytes]
"""A read in slices: yields between them, returns a RangeResponse's body."""

T = TypeVar("T")

_SLICE: Final = 1000
"""Items between two yields: about half a millisecond."""

_CHUNK_BYTES: Final = 512 << 10
"""A chunk of a streamed range ends with the item that takes it over this."""

_EVENTS_AT_LEAST: Final = 2000
"""So few events are walked rather than the history of a range, however small it is."""


def read_range(keyspace: Keyspace, request: RangeRequest, in_transaction: bool = False) -> Slices:
    """Reads a range. In a transaction the read sees the changes made so far.

    Raises CompactedError and FutureRevisionError at the first step.
    """
    view = yield from _view(keyspace, request, in_transaction)
    return b"" if view is None else (yield from _answer(request, view))


def stream_range(keyspace: Keyspace, request: RangeRequest) -> Generator[bytes, None, bytes]:
    """Reads a range in key order, in chunks: yields bodies of RangeResponses with items alone,
    and returns the body of the last, with `more` and `count`. An empty chunk is a pause.

    Raises as `read_range`.
    """
    view = yield from _pausing(_view(keyspace, request, in_transaction=False))
    if view is None:
        return b""
    if not request.count_only:
        left = request.limit if request.limit > 0 else view.count
        items = view.bare_items() if request.keys_only else view.items()
        chunk: list[bytes] = []
        size = 0
        for number, item in enumerate(islice(items, left)):
            chunk.append(item)
            size += len(item)
            if size > _CHUNK_BYTES or number % _SLICE == _SLICE - 1:
                yield b"".join(chunk)
                chunk, size = [], 0
        if chunk:
            yield b"".join(chunk)
    return _totals(0 < request.limit < view.count and not request.count_only, view)


def _pausing(slices: Generator[None, None, T]) -> Generator[bytes, None, T]:
    while True:
        try:
            next(slices)
        except StopIteration as finished:
            view: T = finished.value
            return view
        yield b""


def _view(
    keyspace: Keyspace, request: RangeRequest, in_transaction: bool
) -> Generator[None, None, "View | None"]:
    """The view that a request reads; None for a range that ends before it begins."""
    check_revision(keyspace, request.revision)
    keyspace.counters.ranges += 1
    start, end = request.key, range_end(request.range_end)
    if not request.range_end:
        end = start + b"\x00"
    elif end is not None and end <= start:
        return None
    if 0 < request.revision < keyspace.revision:
        return (yield from _past(keyspace, start, end, request.revision))
    if in_transaction:
        return Transactional(keyspace, start, end)
    return Present(keyspace, start, end)


def check_revision(keyspace: Keyspace, revision: int) -> None:
    """Whether a revision (0 or less for the latest) can be read."""
    if revision > keyspace.revision:
        raise FutureRevisionError
    if 0 < revision < keyspace.compacted:
        raise CompactedError


class View(ABC):
    """The items of a range as of one moment."""

    count: int

    @abstractmethod
    def items(self) -> Iterator[bytes]:
        """The items in key order."""

    def bare_items(self) -> Iterator[bytes]:
        """The items in key order, without their values."""
        return map(without_value, self.items())


class Present(View):
    """What is live now and written to the tables."""

    def __init__(self, keyspace: Keyspace, start: bytes, end: bytes | None) -> None:
        self.keyspace, self.start, self.end = keyspace, start, end
        self.count = keyspace.count(start, end)

    def items(self) -> Iterator[bytes]:
        if self.count == 1:
            key = next(self.keyspace.live(self.start, self.end))
            item = self.keyspace.get(key)
            assert item is not None
            return iter((item,))
        # The iterator is a view of this moment, whatever is written while it is walked.
        tables = self.keyspace.tables
        # What a transaction has put is in the count, and not in the tables yet.
        number = self.count if self.keyspace.batch.is_empty() else 0
        latest = values(tables.latest, self.start, self.end, number)
        if not self.keyspace.has_large:
            return (value[META_SIZE:] for value in latest)
        events = tables.events.snapshot()
        return (
            value[META_SIZE:] or row_in(events, value[: REVISION.size])[REVISION.size :]
            for value in latest
        )

    def bare_items(self) -> Iterator[bytes]:
        for key, value in rows(self.keyspace.tables.latest, self.start, self.end):
            mod, _, create, version, lease = META.unpack_from(value)
            yield item_of(key, create, mod, version, b"", lease)


class Transactional(View):
    """What is live now, with the changes of the transaction under way."""

    def __init__(self, keyspace: Keyspace, start: bytes, end: bytes | None) -> None:
        self.keyspace, self.start, self.end = keyspace, start, end
        self.count = keyspace.count(start, end)

    def items(self) -> Iterator[bytes]:
        for key in self.keyspace.live(self.start, self.end):
            item = self.keyspace.get(key)
            assert item is not None
            yield item


class Past(View):
    """What was live at an earlier revision: the present, with some keys replaced."""

    def __init__(
        self, present: Iterator[bytes], count: int, restored: dict[bytes, bytes | None]
    ) -> None:
        self.present, self.count, self.restored = present, count, restored

    def items(self) -> Iterator[bytes]:
        restored = self.restored
        if not restored:
            return self.present
        kept = (item for item in self.present if event_key(item) not in restored)
        back = (restored[key] for key in sorted(restored))
        return merge(kept, (item for item in back if item is not None), key=event_key)


def _past(
    keyspace: Keyspace, start: bytes, end: bytes | None, revision: int
) -> Generator[None, None, Past]:
    now = Present(keyspace, start, end)
    # Iterators and snapshots stand for this moment: all are opened before the first yield.
    present = now.items()
    events = keyspace.tables.events.snapshot()
    if keyspace.revision - revision <= max(_EVENTS_AT_LEAST, now.count):
        changed = yield from _changed_since(keyspace, start, end, revision)
    else:
        changed = yield from _replaced_since(keyspace, start, end, revision)
    count = now.count
    restored: dict[bytes, bytes | None] = {}
    for key, (is_live, row) in changed.items():
        count -= is_live
        restored[key] = None
        if row is not None:
            restored[key] = row_in(events, row)[12:]
            count += 1
    return Past(present, count, restored)


_Changed = dict[bytes, tuple[bool, bytes | None]]
"""Keys that changed after a revision: live now?, and row in the events table of what they were."""


def _changed_since(
    keyspace: Keyspace, start: bytes, end: bytes | None, revision: int
) -> Generator[None, None, _Changed]:
    """Finds them by walking the events after the revision."""
    after = rows(keyspace.tables.events, REVISION.pack(revision + 1, 0), None)
    history = cursor(keyspace.tables.history)
    changed: _Changed = {}
    for number, (_, value) in enumerate(after):
        key = event_key(value[12:])
        if key >= start and (end is None or key < end):
            row = changed[key][1] if key in changed else _row_at(history, key, revision)
            changed[key] = (value[12] != DELETED, row)
        if number % _SLICE == _SLICE - 1:
            yield
    return changed


def _replaced_since(
    keyspace: Keyspace, start: bytes, end: bytes | None, revision: int
) -> Generator[None, None, _Changed]:
    """Finds them by walking the keys of the range and their replaced revisions."""
    live = rows(keyspace.tables.latest, start, end)
    replaced = rows(keyspace.tables.history, *_history_range(start, end))
    bound = U64.pack(revision)
    changed: _Changed = {}
    for number, (key, value) in enumerate(live):
        if value[:8] > bound:
            changed[key] = (True, None)
        if number % _SLICE == _SLICE - 1:
            yield
    for number, (row, value) in enumerate(replaced):
        if row[-8:] <= bound < value[:8]:
            key = row[:-10].replace(b"\x00\xff", b"\x00")
            changed[key] = (key in changed, row[-8:] + value[8:])
        if number % _SLICE == _SLICE - 1:
            yield
    return changed


def _history_range(start: bytes, end: bytes | None) -> tuple[bytes, bytes | None]:
    """Bounds in the history table of a range of keys."""

    def bound(key: bytes) -> bytes:
        return key.replace(b"\x00", b"\x00\xff")

    return bound(start), None if end is None else bound(end)


def _row_at(history: Any, key: bytes, revision: int) -> bytes | None:
    """Row in the events table of what a key was at a revision after which it changed."""
    prefix = escape(key)
    history.seek_for_prev(prefix + U64.pack(revision))
    if not history.valid():
        check(history)
        return None
    row: bytes = history.key()
    if not row.startswith(prefix) or len(row) != len(prefix) + 8:
        return None
    value: bytes = history.value()
    return row[-8:] + value[8:] if U64.unpack(value[:8])[0] > revision else None


def without_value(item: bytes) -> bytes:
    """An item whose value is left out."""
    kv = _parse(item)
    return item_of(kv.key, kv.create_revision, kv.mod_revision, kv.version, b"", kv.lease)


def item_value(item: bytes) -> bytes:
    """The value in an item."""
    return _parse(item).value


def _parse(item: bytes) -> KeyValue:
    position = 1
    while item[position] > 127:
        position += 1
    return KeyValue.FromString(item[position + 1 :])


_SORT_FIELD: Final[dict[int, Callable[[KeyValue], Any]]] = {
    RangeRequest.KEY: lambda kv: kv.key,
    RangeRequest.VERSION: lambda kv: kv.version,
    RangeRequest.CREATE: lambda kv: kv.create_revision,
    RangeRequest.MOD: lambda kv: kv.mod_revision,
    RangeRequest.VALUE: lambda kv: kv.value,
}


def _answer(request: RangeRequest, view: View) -> Slices:
    """A RangeResponse's body: the items that the request selects, `more`, and `count`."""
    if request.count_only:
        return _totals(more=False, view=view)
    order, target = request.sort_order, request.sort_target
    sorts = order == RangeRequest.DESCEND or target != RangeRequest.KEY
    filters = (
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )
    limit = max(0, request.limit)
    bare = request.keys_only and not (sorts and target == RangeRequest.VALUE)
    items = view.bare_items() if bare else view.items()
    if sorts or filters:
        if limit and order == RangeRequest.NONE and not filters:
            # etcd takes a limit before a sort that has a target and no order.
            items = islice(items, limit + 1)
        selected = yield from _sorted_and_filtered(request, items)
        more = 0 < limit < len(selected)
        selected = selected[:limit] if limit else selected
        if request.keys_only and not bare:
            selected = [without_value(item) for item in selected]
    else:
        more = 0 < limit < view.count
        selected = yield from _take(items, limit or view.count)
    selected.append(_totals(more, view))
    return b"".join(selected)


def _totals(more: bool, view: View) -> bytes:
    """The `more` and `count` fields of a RangeResponse."""
    count = b"\x20" + varint(view.count) if view.count else b""
    return b"\x18\x01" + count if more else count


def _take(items: Iterator[bytes], limit: int) -> Generator[None, None, list[bytes]]:
    taken = list(islice(items, min(limit, _SLICE)))
    while len(taken) < limit:
        yield
        more = list(islice(items, min(limit - len(taken), _SLICE)))
        if not more:
            break
        taken += more
    return taken


def _sorted_and_filtered(
    request: RangeRequest, items: Iterator[bytes]
) -> Generator[None, None, list[bytes]]:
    field = _SORT_FIELD[request.sort_target]
    least_mod, most_mod = request.min_mod_revision, request.max_mod_revision
    least_create, most_create = request.min_create_revision, request.max_create_revision
    selected: list[tuple[Any, bytes]] = []
    for number, item in enumerate(items):
        kv = _parse(item)
        if (
            (not least_mod or kv.mod_revision >= least_mod)
            and (not most_mod or kv.mod_revision <= most_mod)
            and (not least_create or kv.create_revision >= least_create)
            and (not most_create or kv.create_revision <= most_create)
        ):
            selected.append((field(kv), item))
        if number % _SLICE == _SLICE - 1:
            yield
    if request.sort_order == RangeRequest.DESCEND or request.sort_target != RangeRequest.KEY:
        # Stable, so that ties keep ascending key order both ways.
        selected.sort(key=lambda pair: pair[0], reverse=request.sort_order == RangeRequest.DESCEND)
    return [item for _, item in selected]


def run(slices: Slices) -> bytes:
    """Runs a read to its end without a pause."""
    try:
        while True:
            next(slices)
    except StopIteration as finished:
        body: bytes = finished.value
        return body
