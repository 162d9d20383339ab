"""Makes a data directory of a backup: that of one member of a new cluster.

Everything that the backup has of keys, leases, alarms, users and roles is taken; who is in the
cluster is told anew. All members that are restored from the same backup have the same content.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from rocksdict import WriteBatch

from rusd.auth.store import ENABLED_ROW, REVISION_ROW, ROLE_PREFIX, USER_PREFIX
from rusd.backup import schema
from rusd.backup.reading import Advance, Backup
from rusd.backup.schema import SchemaError
from rusd.lease.lessor import Lessor
from rusd.mvcc.keyspace import Applied, Marks
from rusd.mvcc.records import (
    LARGE,
    META,
    NO_REVISION,
    REVISION,
    U64,
    delete_event,
    escape,
    field,
)
from rusd.mvcc.tables import Tables, new_batch
from rusd.node.alarms import Alarms
from rusd.node.bootstrap import FIRST, Identity, founded_by, wal_directory
from rusd.node.membership import Rows
from rusd.pb.kv_pb2 import KeyValue
from rusd.pb.rpc_pb2 import AlarmResponse
from rusd.storage.engine import Engine
from rusd.storage.folders import make_directory, sync_directory
from rusd.storage.format import claim
from rusd.storage.wal import HardState, Wal

_BATCH_BYTES: Final = 4 << 20
_RECORD_BYTES: Final = 128
"""What a record costs in a batch beside its items, about."""
_MOST_SUB: Final = 2**32 - 1


class RestoreError(Exception):
    """The data directory cannot be made."""


class Bump(NamedTuple):
    """How the revision is raised, so that clients' caches of a later past are told to be old."""

    revisions: int = 0
    mark_compacted: bool = False
    """Whether everything up to the new revision then counts as compacted."""


def restore(
    backup: Backup, identity: Identity, data: Path, wal: str, bump: Bump, advance: Advance
) -> Marks:
    """Makes the data directory `data`, whose log is in `wal` unless that is empty.

    Returns where the keyspace is. The directory is there when everything in it is on disk, or not
    at all. Raises RestoreError, BboltError, SchemaError and OSError.
    """
    _must_be_free(data, "data-dir")
    unfinished = data.with_name(f"{data.name}.{secrets.token_hex(4)}.part")
    log = wal_directory(unfinished, wal)
    if wal:
        _must_be_free(log, "wal-dir")
    try:
        make_directory(unfinished, 0o700)
        claim(unfinished)
        marks = _fill(unfinished / "member", backup, identity, bump, advance)
        _begin_log(log)
        if data.exists():
            data.rmdir()
        unfinished.rename(data)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        if wal:
            shutil.rmtree(log, ignore_errors=True)
        raise
    sync_directory(data.parent)
    return marks


def _must_be_free(path: Path, what: str) -> None:
    if path.exists() and (not path.is_dir() or any(os.scandir(path))):
        raise RestoreError(f'{what} "{path}" not empty or could not be read')


def _begin_log(path: Path) -> None:
    """The log of a member that begins with the content of a first snapshot."""
    wal = Wal(path)
    try:
        wal.append((), HardState(term=FIRST.term, commit=FIRST.index))
        wal.note_snapshot(FIRST.index, FIRST.term)
    finally:
        wal.close()


def _fill(member: Path, backup: Backup, identity: Identity, bump: Bump, advance: Advance) -> Marks:
    engine = Engine(member)
    try:
        lessor = _leases(backup)
        writing = _Writing(engine.tables)
        last = _Loading(writing, lessor).load(backup, advance)
        marks = _marks(backup, last, bump)
        for name, row in (
            *founded_by(identity).rows(),
            *marks.rows(),
            *_lease_rows(lessor),
            *_alarm_rows(backup),
            *_auth_rows(backup),
        ):
            if row is not None:
                writing.batch.put(name, row)
        writing.write()
        engine.flush()
        return marks
    finally:
        engine.close()


def _marks(backup: Backup, last: int, bump: Bump) -> Marks:
    meta = backup.meta()
    swept, scheduled = (
        schema.unpack_revision(stored).main if (stored := meta.get(name)) is not None else -1
        for name in (schema.FINISHED_COMPACTION, schema.SCHEDULED_COMPACTION)
    )
    compacted = max(swept, scheduled)
    # A compaction may have taken the last revision's records.
    revision = max(last, compacted, 1) + bump.revisions
    if bump.mark_compacted:
        compacted = revision
    return Marks(revision, compacted, swept, Applied(FIRST.term, FIRST.index))


def _leases(backup: Backup) -> Lessor:
    lessor = Lessor(lambda: 0.0)
    for lease in backup.leases():
        lessor.grant(lease.ID, lease.TTL, FIRST.index)
        lessor.checkpoint(lease.ID, lease.RemainingTTL)
    return lessor


def _lease_rows(lessor: Lessor) -> Iterator[tuple[bytes, bytes | None]]:
    return ((lessor.row_name(lease), lessor.row(lease)) for lease in lessor.ids())


def _alarm_rows(backup: Backup) -> Rows:
    alarms = list(backup.alarms())
    if not alarms:
        return []
    return [(Alarms.ROW, AlarmResponse(alarms=alarms).SerializeToString())]


def _auth_rows(backup: Backup) -> Rows:
    auth = backup.auth()
    found: Rows = [(USER_PREFIX + name, user) for name, user in backup.users()]
    found += [(ROLE_PREFIX + name, role) for name, role in backup.roles()]
    if auth.get(schema.AUTH_ENABLED) == b"\x01":
        found.append((ENABLED_ROW, b"\x01"))
    if revision := auth.get(schema.AUTH_REVISION):
        if len(revision) != U64.size:
            raise SchemaError(f"bucket auth: the revision is {revision.hex()}")
        found.append((REVISION_ROW, revision))
    return found


class _Writing:
    """Rows on their way to the tables."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.batch: WriteBatch = new_batch()

    def write(self) -> None:
        self.tables.write(self.batch)
        self.batch = new_batch()


class _Loading:
    """Puts records into the tables as `Keyspace` would have, had it been there."""

    def __init__(self, writing: _Writing, leases: Lessor) -> None:
        self._writing, self._leases = writing, leases
        self._newest: dict[bytes, bytes] = {}
        """Of every live key, where its newest event is in the events table."""

    def load(self, backup: Backup, advance: Advance) -> int:
        """Takes all records. Returns the last revision, 0 when there is none."""
        last = size = 0
        for revision, kv in backup.records(advance):
            last, sub, is_tombstone = revision
            key = kv.key
            if not key:
                continue  # stands for its revision alone
            if sub > _MOST_SUB:
                raise SchemaError(f"bucket key: revision {last} has too many changes")
            row = REVISION.pack(last, sub)
            replaced = self._newest.get(key, NO_REVISION)
            if replaced is not NO_REVISION:
                tables, batch = self._writing.tables, self._writing.batch
                history = row[:8] + replaced[8:]
                batch.put(escape(key) + replaced[:8], history, tables.history_family)
            if is_tombstone:
                self._delete(row, replaced, key, last)
            else:
                size += self._put(row, replaced, kv)
            size += _RECORD_BYTES
            if size > _BATCH_BYTES:
                self._writing.write()
                size = 0
        self._writing.write()
        return last

    def _delete(self, row: bytes, replaced: bytes, key: bytes, main: int) -> None:
        tables, batch = self._writing.tables, self._writing.batch
        batch.put(row, replaced + delete_event(key, main), tables.events_family)
        if self._newest.pop(key, None) is not None:
            batch.delete(key, tables.latest_family)

    def _put(self, row: bytes, replaced: bytes, kv: KeyValue) -> int:
        """Returns about how many bytes that takes."""
        tables, batch = self._writing.tables, self._writing.batch
        item = field(b"\x12", kv.SerializeToString())
        # A lease that is not there any more cannot end the key: etcd then has it live on.
        lease = kv.lease if kv.lease in self._leases else 0
        main, sub = REVISION.unpack(row)
        meta = META.pack(main, sub, kv.create_revision, kv.version, lease)
        batch.put(row, replaced + item, tables.events_family)
        latest = meta + item if len(item) < LARGE else meta
        batch.put(kv.key, latest, tables.latest_family)
        self._newest[kv.key] = row
        return len(item) + len(latest)
