"""Makes a data directory of a backup: that of one member of a new cluster.

Everything that the backup has of keys, leases, alarms, users and roles is taken; who is in the
cluster is told anew. All members that are restored from the same backup have the same content.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rusd.auth.store import ENABLED_ROW, REVISION_ROW, ROLE_PREFIX, USER_PREFIX
from rusd.backup import schema
from rusd.backup.loading import Loading
from rusd.backup.reading import Advance, Backup
from rusd.backup.schema import SchemaError
from rusd.lease.lessor import Lessor
from rusd.mvcc.keyspace import Applied, Marks
from rusd.mvcc.records import U64
from rusd.mvcc.tables import EVENTS, HISTORY, LATEST, new_batch
from rusd.node.alarms import Alarms
from rusd.node.bootstrap import FIRST, Identity, founded_by, wal_directory
from rusd.node.membership import Rows
from rusd.pb.rpc_pb2 import AlarmResponse
from rusd.storage.engine import Engine
from rusd.storage.folders import make_directory, sync_directory
from rusd.storage.format import claim
from rusd.storage.wal import HardState, Wal


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
    lessor, files = _leases(backup), member / "sorted"
    make_directory(files)
    loading = Loading(files, lessor)
    last = loading.load(backup, advance)
    # Not before the processes of the loading are gone: it has threads.
    engine = Engine(member)
    try:
        for table in (EVENTS, LATEST, HISTORY):
            for path in loading.files(table):
                engine.take(table, path)
        files.rmdir()
        marks, batch = _marks(backup, last, bump), new_batch()
        for name, row in (
            *founded_by(identity).rows(),
            *marks.rows(),
            *_lease_rows(lessor),
            *_alarm_rows(backup),
            *_auth_rows(backup),
        ):
            if row is not None:
                batch.put(name, row)
        engine.tables.write(batch)
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
