"""Members and backups to test with."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

from rusd.backup import schema
from rusd.backup.export import export
from rusd.backup.reading import Backup
from rusd.backup.restore import Bump, restore
from rusd.bbolt import Writer
from rusd.lease.lessor import Lessor
from rusd.log import Logger
from rusd.mvcc.compaction import sweep
from rusd.mvcc.hashing import HashResult, hash_history
from rusd.mvcc.keyspace import Keyspace, Marks
from rusd.mvcc.ranges import read_range
from rusd.node.apply import Applier
from rusd.node.bootstrap import Identity, recover
from rusd.node.entry import Kind
from rusd.pb.kv_pb2 import KeyValue
from rusd.pb.rpc_pb2 import (
    NOSPACE,
    AlarmRequest,
    CompactionRequest,
    DeleteRangeRequest,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    Member,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from rusd.storage.engine import Engine
from rusd.storage.wal import Wal
from tests.unit.node.transferring import Site

Items = dict[bytes, bytes]
IDENTITY = Identity(77, Member(ID=7, name="new", peerURLs=["http://n:2380"]))


def fill(site: Site, chance: random.Random, steps: int = 150) -> None:
    """Apply puts, deletes, transactions, leases and compactions, swept or not."""
    keys = [b"key%d" % number for number in range(15)] + [b"\0", b"\xff\xff"]
    keyspace = site.applier.keyspace

    def put() -> PutRequest:
        lease = chance.choice((0, *site.applier.lessor.ids()))
        value = bytes(chance.choice((0, 5, 300, 5000)))
        return PutRequest(key=chance.choice(keys), value=value, lease=lease)

    for step in range(steps):
        match chance.randrange(8):
            case 0:
                request = DeleteRangeRequest(key=chance.choice(keys))
                site.apply((Kind.DELETE_RANGE, request.SerializeToString()))
            case 1:
                puts = {each.key: each for each in (put() for _ in range(4))}
                ops = [RequestOp(request_put=each) for each in puts.values()]
                site.apply((Kind.TXN, TxnRequest(success=ops).SerializeToString()))
            case 2 if step < 60:
                site.grant(chance.randrange(-(1 << 63), 1 << 63), chance.randrange(1, 9000))
            case 3 if chance.randrange(10) == 0 and keyspace.revision > keyspace.compacted + 1:
                revision = chance.randrange(max(1, keyspace.compacted + 1), keyspace.revision + 1)
                request_ = CompactionRequest(revision=revision)
                site.apply((Kind.COMPACT, request_.SerializeToString()))
                if chance.randrange(2):
                    swept(keyspace)
            case _:
                site.apply((Kind.PUT, put().SerializeToString()))
    for lease in site.applier.lessor.ids()[:2]:
        checkpoint = LeaseCheckpoint(ID=lease, remaining_TTL=1)
        request_2 = LeaseCheckpointRequest(checkpoints=[checkpoint])
        site.apply((Kind.LEASE_CHECKPOINT, request_2.SerializeToString()))
    alarm = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=9, alarm=NOSPACE)
    site.apply((Kind.ALARM, alarm.SerializeToString()))


def swept(keyspace: Keyspace) -> None:
    """Sweep what was compacted, if there is anything."""
    if keyspace.swept < keyspace.compacted:
        for _ in sweep(keyspace):
            pass


def exported(site: Site, target: Path) -> Path:
    """A backup of a member, without a checksum."""
    checkpoint = target.with_name(target.name + ".checkpoint")
    site.engine.flush()
    site.engine.checkpoint(checkpoint)
    with target.open("xb") as file:
        export(checkpoint, file, repeat(None))
    return target


def restored(backup: Path, data: Path, bump: Bump | None = None, wal: str = "") -> Marks:
    """Make a data directory."""
    with Backup(backup) as opened:
        return restore(opened, IDENTITY, data, wal, bump or Bump(), lambda _: None)


@contextmanager
def serving(data: Path, wal: str = "") -> Iterator[Applier]:
    """What a member that starts in a data directory has."""
    engine = Engine(data / "member")
    log = Wal(Path(wal) if wal else data / "member" / "wal")
    lessor = Lessor(lambda: 0.0)
    applier, _ = recover(engine, log, lessor, None, Logger(outputs=()))
    try:
        yield applier
    finally:
        log.close()
        vars(applier.keyspace).clear()
        engine.close()


def content(applier: Applier) -> tuple[object, ...]:
    """All that a member has of keys and leases, at every revision that can be asked for."""
    keyspace = applier.keyspace
    ranges = [
        finished(keyspace, revision)
        for revision in range(max(1, keyspace.compacted), keyspace.revision + 1)
    ]
    leases = {
        lease.id: (lease.ttl, lease.remaining, sorted(lease.keys)) for lease in applier.lessor
    }
    marks = (keyspace.revision, keyspace.compacted, keyspace.swept)
    return ranges, leases, applier.alarms.row(), marks, hash_of(keyspace)


def finished(keyspace: Keyspace, revision: int) -> bytes:
    """The answer to a range of everything."""
    steps = read_range(keyspace, RangeRequest(key=b"\0", range_end=b"\0", revision=revision))
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return bytes(done.value)


def hash_of(keyspace: Keyspace) -> HashResult:
    """The hash of a keyspace's history."""
    steps = hash_history(keyspace, 0)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: HashResult = done.value
            return result


def made(path: Path, records: Items, **buckets: Items) -> Path:
    """A backup with any content."""
    with path.open("wb") as file:
        writer = Writer(file)
        writer.bucket(schema.KEY, sorted(records.items()))
        for name, items in buckets.items():
            writer.bucket(name.encode(), sorted(items.items()))
        writer.finish()
    return path


def record(main: int, key: bytes = b"k", sub: int = 0, lease: int = 0) -> tuple[bytes, bytes]:
    """One put."""
    kv = KeyValue(key=key, create_revision=main, mod_revision=main, version=1, lease=lease)
    return schema.pack_revision(main, sub), kv.SerializeToString()
