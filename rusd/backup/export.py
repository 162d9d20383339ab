"""Writes a checkpoint of a member's database as a bbolt file that etcd takes.

It is a program of its own (`python -m rusd.backup.export CHECKPOINT FILE`): a thread of the member
would take the interpreter from it for minutes, at a large database.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from rocksdict import Rdict

from rusd.auth.store import ENABLED_ROW, REVISION_ROW, ROLE_PREFIX, USER_PREFIX
from rusd.backup import schema
from rusd.bbolt import Writer
from rusd.lease.lessor import ROW_PREFIX, Lessor
from rusd.mvcc.keyspace import Marks, marks_in
from rusd.mvcc.records import DELETED, U64, event_key, varint
from rusd.mvcc.tables import DamagedTableError, Tables, rows, rows_under
from rusd.node.alarms import Alarms
from rusd.node.membership import Membership
from rusd.pb.lease_pb2 import Lease
from rusd.pb.rpc_pb2 import AlarmResponse, Member
from rusd.storage.engine import tables_of

Items = Iterable[tuple[bytes, bytes]]

_NICE: Final = 10
_SPARE_BYTES: Final = 64 << 20
"""Free space that a backup must leave: the log needs it more."""
_STEP_BYTES: Final = 4 << 20
"""Written between two steps: who syncs a log on the same disk waits for no more than that."""


class ExportError(Exception):
    """The backup cannot be made."""


def export(checkpoint: Path, target: BinaryIO, steps: Iterator[None]) -> int:
    """Writes all that a checkpoint has. Returns the size in bytes.

    `target` is as `Writer` wants it. A step is taken every few MiB; what it raises ends the work.
    Raises ExportError and OSError.
    """
    with tables_of(checkpoint) as tables:
        membership = Membership.load(tables.state)
        if membership is None:
            raise ExportError("the checkpoint does not say whose it is")
        marks = marks_in(tables.state)
        writer = Writer(target)
        writer.bucket(schema.KEY, _stepping(_records(tables), steps))
        writer.bucket(schema.META, _meta(marks, membership))
        writer.bucket(schema.LEASE, _leases(tables.state))
        writer.bucket(schema.ALARM, _alarms(tables.state))
        writer.bucket(schema.AUTH, _auth(tables.state))
        writer.bucket(schema.AUTH_USERS, _named(tables.state, USER_PREFIX))
        writer.bucket(schema.AUTH_ROLES, _named(tables.state, ROLE_PREFIX))
        # Of no use to who restores it, who names the members anew; etcd's tools want the buckets.
        writer.bucket(schema.CLUSTER, [])
        writer.bucket(schema.MEMBERS, _members(membership))
        writer.bucket(
            schema.MEMBERS_REMOVED,
            sorted((_member_key(member), b"removed") for member in membership.removed),
        )
        return writer.finish()


def _stepping(items: Items, steps: Iterator[None]) -> Items:
    left = 0
    for item in items:
        left -= len(item[1])
        if left < 0:
            left = _STEP_BYTES
            next(steps)
        yield item


def _records(tables: Tables) -> Iterator[tuple[bytes, bytes]]:
    """Every event as etcd stores it, in the order of revisions."""
    main_end = 8
    for row, value in rows(tables.events, b"", None):
        revision = row[:main_end] + b"_\0\0\0\0" + row[main_end:]
        # Past the event that it replaced.
        if value[12] == DELETED:
            key = event_key(value[12:])
            yield revision + schema.TOMBSTONE, b"\x0a" + varint(len(key)) + key
        else:
            start = 13
            while value[start] > 127:
                start += 1
            yield revision, value[start + 1 :]


def _meta(marks: Marks, membership: Membership) -> Items:
    voters, learners, outgoing, learners_next, auto_leave = membership.conf_state
    lists = {
        "voters": voters,
        "learners": learners,
        "voters_outgoing": outgoing,
        "learners_next": learners_next,
    }
    conf_state = {name: ids for name, ids in lists.items() if ids} | {"auto_leave": auto_leave}
    found = {
        schema.CONSISTENT_INDEX: U64.pack(marks.applied.position),
        schema.TERM: U64.pack(marks.applied.term),
        schema.CONF_STATE: _json(conf_state),
    }
    if marks.compacted >= 0:
        found[schema.SCHEDULED_COMPACTION] = schema.pack_revision(marks.compacted)
    if marks.swept >= 0:
        found[schema.FINISHED_COMPACTION] = schema.pack_revision(marks.swept)
    return sorted(found.items())


def _leases(state: Rdict) -> Items:
    # Only what is stored counts: the clock does not matter.
    lessor = Lessor(lambda: 0.0)
    lessor.load(rows_under(state, ROW_PREFIX))
    for lease in sorted(lessor, key=lambda lease: lease.id % 2**64):
        remaining = lease.remaining if lease.remaining < lease.ttl else 0
        stored = Lease(ID=lease.id, TTL=lease.ttl, RemainingTTL=remaining)
        yield lease.id.to_bytes(8, "big", signed=True), stored.SerializeToString()


def _alarms(state: Rdict) -> Items:
    stored = AlarmResponse.FromString(Alarms(state.get(Alarms.ROW)).row())
    return sorted((alarm.SerializeToString(), b"") for alarm in stored.alarms)


def _auth(state: Rdict) -> Items:
    stored = {
        schema.AUTH_ENABLED: state.get(ENABLED_ROW),
        schema.AUTH_REVISION: state.get(REVISION_ROW),
    }
    return sorted((name, row) for name, row in stored.items() if row is not None)


def _named(state: Rdict, prefix: bytes) -> Items:
    """Users or roles: etcd and rusd write them alike, under their names."""
    for name, row in rows_under(state, prefix):
        yield name.removeprefix(prefix), row


def _members(membership: Membership) -> Items:
    return sorted(
        (_member_key(member.ID), _member_json(member)) for member in membership.members.values()
    )


def _member_key(member: int) -> bytes:
    return b"%x" % member


def _member_json(member: Member) -> bytes:
    document: dict[str, object] = {"id": member.ID, "peerURLs": list(member.peerURLs)}
    if member.isLearner:
        document["isLearner"] = True
    if member.name:
        document["name"] = member.name
    if member.clientURLs:
        document["clientURLs"] = list(member.clientURLs)
    return _json(document)


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _considerate(target: BinaryIO, folder: Path) -> Iterator[None]:
    """Steps that let others have the disk, and end the work with the process that wants it, or
    when the disk gets full.
    """
    parent = os.getppid()
    while True:
        os.fdatasync(target.fileno())
        if os.getppid() != parent:
            raise ExportError("the member has ended")
        free = shutil.disk_usage(folder).free
        if free < _SPARE_BYTES:
            raise ExportError(f"only {free} bytes of disk space are left")
        yield


def main(arguments: list[str]) -> int:
    """Runs the program; on failure, the last line of stderr says why."""
    checkpoint, target = map(Path, arguments)
    os.nice(_NICE)
    try:
        with target.open("xb", buffering=1 << 20) as file:
            export(checkpoint, file, _considerate(file, target.parent))
    except (OSError, ExportError, DamagedTableError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
