"""The RocksDB tables that a keyspace lives in; `records` has their layout.

RocksDB checks what it reads against a checksum a block. Whoever reads through this module gets all
that was written or an error, which names the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, compress, count
from typing import Any

from rocksdict import (
    ColumnFamily,
    Rdict,
    RdictIter,
    ReadOptions,
    Snapshot,
    WriteBatch,
    WriteOptions,
)

LATEST, EVENTS, HISTORY = "latest", "events", "history"


class DamagedTableError(Exception):
    """What is on disk is not what was written. The text is RocksDB's: it names the file."""


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


def get(table: Rdict, key: bytes) -> bytes | None:
    """The value of a row. Raises DamagedTableError."""
    try:
        value: bytes | None = table.get(key)
    except Exception as error:
        raise damage_in(error) from error
    return value


def row_in(moment: Snapshot, key: bytes) -> bytes:
    """The value of a row that is there. Raises DamagedTableError."""
    try:
        value: bytes = moment[key]
    except Exception as error:
        raise damage_in(error) from error
    return value


def damage_in(error: Exception) -> Exception:
    """A DamagedTableError for an error of rocksdict, which has no classes, that says so; else the
    error itself.
    """
    if isinstance(error, DamagedTableError) or not str(error).startswith("Corruption"):
        return error
    return DamagedTableError(str(error))


def rows(table: Rdict, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """The rows of [start, end), as they are at this moment, in key order. Raises, where they end
    too early, DamagedTableError.
    """
    options = _up_to(end)
    moment = table.snapshot()
    items: Any = moment.items(from_key=start, read_opt=options)
    # Made here and now: a generator would begin with the moment of its first step.
    return _to_the_end(items, start, moment.iter, options)


def _to_the_end(
    items: Iterator[tuple[bytes, bytes]], start: bytes, walk: Any, options: ReadOptions
) -> Iterator[tuple[bytes, bytes]]:
    """The items, and a look at why they end: rocksdict's iterators end as silently at a block that
    cannot be read as behind the last row. They point into the options' bound, without a reference.
    """
    last: tuple[bytes, bytes] | None = None
    for last in items:
        yield last
    again = walk(options)
    again.seek(start if last is None else last[0])
    if last is not None and again.valid():
        again.next()
    check(again)


def check(walked: RdictIter) -> None:
    """Raises DamagedTableError when it is for damage that a cursor stands at no row."""
    if not walked.valid():
        try:
            walked.status()
        except Exception as error:
            raise damage_in(error) from error


def rows_under(table: Rdict, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The rows whose keys begin with a prefix that ends in a slash, as `rows` gives them."""
    return rows(table, prefix, prefix[:-1] + b"0")


def values(table: Rdict, start: bytes, end: bytes | None, number: int) -> Iterator[bytes]:
    """The values of the rows of [start, end), as they are at this moment, in key order. Raises
    DamagedTableError when they end before that `number` of rows.
    """
    options = _up_to(end)
    found = table.values(from_key=start, read_opt=options)
    numbers = count(1)
    # To number them costs nothing, unlike a step in Python for each.
    return chain(compress(found, numbers), _all(numbers, number, table, start, options))


def _all(
    numbers: "count[int]", number: int, table: Rdict, start: bytes, options: ReadOptions
) -> Iterator[bytes]:
    """Nothing, after a look at how many there were; it keeps the options as `_to_the_end` does."""
    came = next(numbers) - 1
    if came < number:
        walked = table.iter(options)
        walked.seek(start)
        while walked.valid():
            walked.next()
        check(walked)
        raise DamagedTableError(f"a table has {came} rows where there are {number} keys")
    yield from ()


def _up_to(end: bytes | None) -> ReadOptions:
    options = ReadOptions()
    if end is not None:
        options.set_iterate_upper_bound(end)
    return options


def cursor(table: Rdict) -> RdictIter:
    return table.iter()
