"""The first start of a member, and every later one: who it is, and the log applied again."""

from pathlib import Path
from typing import NamedTuple

from rusd.lease.lessor import ROW_PREFIX, Lessor
from rusd.log import Logger
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.tables import rows
from rusd.node.alarms import Alarms
from rusd.node.apply import Applier
from rusd.node.membership import Membership
from rusd.pb.rpc_pb2 import Member
from rusd.raft.message import ConfState
from rusd.storage.engine import Engine
from rusd.storage.wal import Wal


class Identity(NamedTuple):
    """Who a new member is; of no use once it has a data directory."""

    cluster_id: int
    member: Member


class DamagedDataError(Exception):
    """The data directory does not fit together."""


def recover(engine: Engine, wal: Wal, lessor: Lessor, identity: Identity, log: Logger) -> Applier:
    """Rebuilds a member's state from its tables and its log.

    A member without one takes its `identity`. Raises DamagedDataError.
    """
    tables = engine.tables
    if wal.torn is not None:
        log.warn(
            "dropped an unfinished last record of the log; it was never acknowledged",
            path=str(wal.torn.path),
            offset=wal.torn.offset,
            size=wal.torn.size,
        )
    lessor.load(rows(tables.state, ROW_PREFIX, ROW_PREFIX + b"\xff" * 9))
    keyspace = Keyspace(tables, lessor)
    membership = _membership(keyspace, identity)
    if not keyspace.batch.is_empty():
        # A new member: what makes the log its own is on disk before the log begins.
        keyspace.write()
        engine.flush()
    applier = Applier(keyspace, lessor, membership, Alarms(tables.state.get(Alarms.ROW)))
    _replay(applier, wal, log)
    lessor.extend(0)
    return applier


def _membership(keyspace: Keyspace, identity: Identity) -> Membership:
    membership = Membership.load(keyspace.tables.state)
    if membership is None:
        local = identity.member.ID
        membership = Membership(
            identity.cluster_id,
            local,
            {local: identity.member},
            conf_state=ConfState(voters=(local,)),
        )
        for name, row in membership.rows():
            keyspace.set_state(name, row)
    return membership


def _replay(applier: Applier, wal: Wal, log: Logger) -> None:
    """Applies what the log has and the tables have not."""
    applied = applier.keyspace.applied.position
    if wal.last_index and wal.first_index > applied + 1:
        raise DamagedDataError(
            f"the keyspace has entries up to {applied}, the log begins at {wal.first_index}: "
            "entries between them are missing"
        )
    if applied > wal.last_index:
        raise DamagedDataError(
            f"the keyspace has entries up to {applied}, the log ends at {wal.last_index}: "
            "the end of the log is missing"
        )
    replayed = 0
    for entry in wal.entries(applied):
        applier.replay(entry.term, entry.index, entry.data)
        replayed += 1
    log.info(
        "recovered the keyspace",
        **{
            "current-revision": applier.keyspace.revision,
            "compact-revision": applier.keyspace.compacted,
            "keys": len(applier.keyspace),
            "leases": len(applier.lessor),
            "replayed-entries": replayed,
            "applied-index": applier.keyspace.applied.position,
        },
    )


def wal_directory(data: Path, wal: str) -> Path:
    """Where the log is: --wal-dir, or in the data directory."""
    return Path(wal) if wal else data / "member" / "wal"
