"""The RocksDB tables that a keyspace lives in; `records` has their layout."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress, repeat
from typing import Any, TypeVar, cast

from rocksdict import ColumnFamily, Rdict, RdictIter, ReadOptions, WriteBatch, WriteOptions

T = TypeVar("T")

LATEST, EVENTS, HISTORY = "latest", "events", "history"


@dataclass(frozen=True, slots=True)
class Tables:
    """An open database. `state` is its default column family: small rows by name."""

    state: Rdict
    latest: Rdict
    events: Rdict
    history: Rdict
    latest_family: ColumnFamily
    events_family: ColumnFamily
    history_family: ColumnFamily
    unlogged: WriteOptions

    @classmethod
    def of(cls, db: Rdict) -> "Tables":
        unlogged: Any = WriteOptions()  # the stubs call its attributes methods
        unlogged.disable_wal = True
        return cls(
            db,
            db.get_column_family(LATEST),
            db.get_column_family(EVENTS),
            db.get_column_family(HISTORY),
            db.get_column_family_handle(LATEST),
            db.get_column_family_handle(EVENTS),
            db.get_column_family_handle(HISTORY),
            unlogged,
        )

    def write(self, batch: WriteBatch) -> None:
        """Writes without RocksDB's own log: the Raft log has everything that is not flushed yet."""
        self.state.write(batch, self.unlogged)


def new_batch() -> WriteBatch:
    return WriteBatch(raw_mode=True)


def rows(table: Rdict, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """The rows of [start, end), as they are at this moment, in key order."""
    options = _up_to(end)
    items: Any = table.items(from_key=start, read_opt=options)
    return _keeping(options, cast(Iterator[tuple[bytes, bytes]], items))


def rows_under(table: Rdict, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The rows whose keys begin with a prefix that ends in a slash, as `rows` gives them."""
    return rows(table, prefix, prefix[:-1] + b"0")


def values(table: Rdict, start: bytes, end: bytes | None) -> Iterator[bytes]:
    """The values of the rows of [start, end), as they are at this moment, in key order."""
    options = _up_to(end)
    return _keeping(options, table.values(from_key=start, read_opt=options))


def _keeping(options: ReadOptions, items: Iterator[T]) -> Iterator[T]:
    """The items, with a reference to their options: rocksdict's iterators point into the bound that
    these hold and do not keep them, and stop early once that memory is used for something else.
    """
    return compress(items, repeat(options))


def _up_to(end: bytes | None) -> ReadOptions:
    options = ReadOptions()
    if end is not None:
        options.set_iterate_upper_bound(end)
    return options


def cursor(table: Rdict) -> RdictIter:
    return table.iter()
