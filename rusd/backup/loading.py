"""Makes files of a keyspace's rows from a backup's records; RocksDB takes them as they are.

What must be done in order is to find what each record replaced. That is little. The rest is done a
run of records at a time, in processes of their own.
"""

import os
from functools import partial
from itertools import count
from operator import itemgetter
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from rusd.backup.forks import Forks
from rusd.backup.reading import KEY_TAG, LONG_KEY, Advance, Backup, Records, shown
from rusd.backup.schema import SchemaError
from rusd.lease.lessor import Lessor
from rusd.mvcc.records import LARGE, NO_REVISION, U64, delete_event, escape, field, varint
from rusd.mvcc.tables import EVENTS, HISTORY, LATEST
from rusd.storage.engine import SortedFile

_RUN_BYTES: Final = 64 << 20
_RECORD_BYTES: Final = 200
"""What a record takes in memory beside its value, about."""
_MOST_PROCESSES: Final = 4

_TAIL: Final = Struct(">QQq")
"""What follows the first 12 bytes of `records.META`: create revision, version, lease."""


Row = tuple[bytes, bytes | None]
Table = dict[bytes, bytes | None]
"""Rows of a table. None removes what an earlier run has."""


class Step(NamedTuple):
    """Some records, and for each the key and the row of the event that it replaced."""

    records: Records
    keys: list[bytes]
    replaced: list[bytes]


class Loading:
    """The records of one backup on their way into files, in a folder."""

    def __init__(self, folder: Path, leases: Lessor) -> None:
        self._folder, self._leases = folder, leases
        self._newest: dict[bytes, bytes] = {}
        """Of every live key, the row of its newest event."""

    def load(self, backup: Backup, advance: Advance) -> int:
        """Takes all records. Returns the last revision, 0 when there is none.

        Takes memory for a few runs, and for every live key. Raises BboltError, SchemaError and
        OSError.
        """
        last = 0
        paths = (self._folder / f"{number:09}" for number in count())
        with Forks(min(_MOST_PROCESSES, len(os.sched_getaffinity(0)))) as forks:
            run: list[Step] = []
            size = 0
            for records in backup.records(advance):
                run.append(self._step(records))
                (last,) = U64.unpack_from(records.rows[-1])
                size += sum(map(len, records.values)) + _RECORD_BYTES * len(records.values)
                if size > _RUN_BYTES:
                    forks.start(partial(_write, run, self._leases, next(paths)))
                    run, size = [], 0
            forks.start(partial(_write, run, self._leases, next(paths)))
            forks.finish()
        return last

    def files(self, table: str) -> list[Path]:
        """What a table is to take, in this order: of two rows for a key, the later one counts."""
        return sorted(self._folder.glob(f"*.{table}"))

    def _step(self, records: Records) -> Step:
        newest, keys = self._newest, records.keys()
        replaced: list[bytes] = []
        for row, is_tombstone, key in zip(records.rows, records.are_tombstones, keys, strict=True):
            if is_tombstone:
                replaced.append(newest.pop(key, NO_REVISION))
            else:
                replaced.append(newest.get(key, NO_REVISION))
                newest[key] = row
        return Step(records, keys, replaced)


def _write(run: list[Step], leases: Lessor, path: Path) -> None:
    """Makes the files of a run, which are named `path` and the table."""
    latest: Table = {}
    history: Table = {}
    events: SortedFile | None = None
    for step in run:
        if rows := _events(step, leases, latest, history):
            events = events or SortedFile(path.with_suffix(f".{EVENTS}"))
            events.write(rows)
    if events is not None:
        events.finish()
    for name, table in ((LATEST, latest), (HISTORY, history)):
        if table:
            file = SortedFile(path.with_suffix(f".{name}"))
            # To compare keys is three times as fast as to compare items.
            file.write(sorted(table.items(), key=itemgetter(0)))
            file.finish()


def _events(step: Step, leases: Lessor, latest: Table, history: Table) -> list[Row]:
    """The rows of the events table; those of the others are added to what is given."""
    records, keys, replacements = step
    kvs = records.parsed()
    heads = {size: b"\x12" + varint(size) for size in set(map(len, records.values))}
    events: list[Row] = []
    for row, is_tombstone, value, key, replaced, kv in zip(
        *records, keys, replacements, kvs, strict=True
    ):
        if kv.key != key:
            raise SchemaError(f"bucket key: revision {shown(row)} has two keys")
        if not key:
            continue  # stands for its revision alone
        if replaced != NO_REVISION:
            history[escape(key) + replaced[:8]] = row[:8] + replaced[8:]
        if is_tombstone:
            events.append((row, replaced + delete_event(key, *U64.unpack_from(row))))
            if replaced != NO_REVISION:
                latest[key] = None
            continue
        # An item begins with its key. So etcd writes it; who else has written may not have.
        short = value[0] == KEY_TAG and value[1] == len(key) < LONG_KEY
        if short and value.startswith(key, 2):
            item = heads[len(value)] + value
        else:
            item = field(b"\x12", kv.SerializeToString())
        events.append((row, replaced + item))
        # A lease that is not there any more cannot end the key: etcd then has it live on.
        lease = kv.lease
        if lease and lease not in leases:
            lease = 0
        meta = row + _TAIL.pack(kv.create_revision, kv.version, lease)
        latest[key] = meta + item if len(item) < LARGE else meta
    return events
