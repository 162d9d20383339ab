"""What a member had is what a member has that was restored from its backup."""

import random
from pathlib import Path

import pytest

from rusd.auth.store import AuthStore
from rusd.backup import loading, reading, schema
from rusd.backup.reading import Backup, DigestError
from rusd.backup.restore import Bump, RestoreError
from rusd.backup.schema import SchemaError
from rusd.mvcc.records import field
from rusd.pb.auth_pb2 import Role, User
from rusd.pb.lease_pb2 import Lease
from rusd.pb.rpc_pb2 import AlarmMember
from rusd.storage.format import claim
from tests.unit.asynchronous import asynchronous
from tests.unit.backup.files import (
    content,
    exported,
    fill,
    hash_of,
    made,
    record,
    restored,
    serving,
    swept,
)
from tests.unit.node.transferring import SENDER, site


@pytest.mark.parametrize("round_", range(4))
@asynchronous
async def test_a_restored_member_has_what_the_one_before_had(
    round_: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys at all revisions, leases, alarms, compactions that are swept or are yet to be; in one
    run of records, and in many.
    """
    if round_ % 2:
        monkeypatch.setattr(reading, "_PAGES_A_STEP", 1)
        monkeypatch.setattr(loading, "_RUN_BYTES", 5000)
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, round {round_}")
    async with site(tmp_path / "before", SENDER) as before:
        fill(before, random.Random(seed))
        backup = exported(before, tmp_path / "backup")
        with Backup(backup) as opened:
            opened.verify(lambda _: None)
        restored(backup, tmp_path / "after")
        keyspace = before.applier.keyspace
        with serving(tmp_path / "after") as after:
            assert content(after) == content(before.applier)
            for each in (keyspace, after.keyspace):
                swept(each)
            assert hash_of(after.keyspace) == hash_of(keyspace)
            assert after.membership.members[7].name == "new"
            assert after.membership.conf_state.voters == (7,)


@asynchronous
async def test_a_bump_raises_the_revision_and_compacts(tmp_path: Path) -> None:
    """What is live stays, and the next revision is a new one."""
    async with site(tmp_path / "before", SENDER) as before:
        fill(before, random.Random(1))
        backup = exported(before, tmp_path / "backup")
        keyspace = before.applier.keyspace
        wanted, revision = before.content(), keyspace.revision + 1000
    marks = restored(backup, tmp_path / "after", Bump(1000, True))
    assert (marks.revision, marks.compacted) == (revision, revision)
    with serving(tmp_path / "after") as after:
        swept(after.keyspace)
        live = after.keyspace.live(b"", None)
        assert {key: after.keyspace.get(key) for key in live} == wanted
        after.keyspace.put(b"next", b"", 0)
        assert after.keyspace.end() == revision + 1


def test_the_log_may_be_elsewhere(tmp_path: Path) -> None:
    """--wal-dir."""
    backup = made(tmp_path / "backup", dict([record(2)]))
    wal = str(tmp_path / "log")
    restored(backup, tmp_path / "data", wal=wal)
    assert not (tmp_path / "data" / "member" / "wal").exists()
    with serving(tmp_path / "data", wal) as after:
        assert after.keyspace.revision == 2


def test_a_key_outlives_a_lease_that_is_not_there(tmp_path: Path) -> None:
    """As in etcd: it goes on to name it."""
    backup = made(tmp_path / "backup", dict([record(2, lease=5)]))
    restored(backup, tmp_path / "data")
    with serving(tmp_path / "data") as after:
        assert after.keyspace.get(b"k") == b"\x12\x0b" + record(2, lease=5)[1]
        after.keyspace.put(b"k", b"new", 0)
        after.keyspace.end()


def test_records_are_taken_however_they_are_written(tmp_path: Path) -> None:
    """With a long key, or fields in another order than etcd's: an item here begins with its key."""
    row, plain = record(2)
    other, long = record(3, b"k" * 200)
    key, rest = plain[:3], plain[3:]
    assert key == b"\x0a\x01k"
    backup = made(tmp_path / "backup", {row: rest + key, other: long})
    restored(backup, tmp_path / "data")
    with serving(tmp_path / "data") as after:
        assert after.keyspace.get(b"k") == b"\x12" + bytes((len(plain),)) + plain
        assert after.keyspace.get(b"k" * 200) == field(b"\x12", long)


def test_users_and_roles_and_whether_they_count_are_taken(tmp_path: Path) -> None:
    """With the revision of all that."""
    user = User(name=b"ann", password=b"hash", roles=["r"]).SerializeToString()
    role = Role(name=b"r").SerializeToString()
    for enabled in (b"\x00", b"\x01"):
        folder = tmp_path / enabled.hex()
        folder.mkdir()
        backup = made(
            folder / "backup",
            {},
            auth={b"authEnabled": enabled, b"authRevision": (9).to_bytes(8, "big")},
            authUsers={b"ann": user},
            authRoles={b"r": role},
        )
        restored(backup, folder / "data")
        with serving(folder / "data") as after:
            store = AuthStore.load(after.keyspace.tables.state)
            assert (store.enabled, store.revision) == (enabled == b"\x01", 9)


def test_an_empty_store_is_restored(tmp_path: Path) -> None:
    """A new etcd has revision 1 and nothing else."""
    restored(made(tmp_path / "backup", {}), tmp_path / "data")
    assert claim(tmp_path / "data") is None, "it has this program's format"
    with serving(tmp_path / "data") as after:
        assert (after.keyspace.revision, after.keyspace.compacted) == (1, -1)


def test_a_revision_that_only_a_compaction_knows_counts(tmp_path: Path) -> None:
    """Older etcds remove the tombstone of the compacted revision itself."""
    compacted = {schema.FINISHED_COMPACTION: schema.pack_revision(9)}
    backup = made(tmp_path / "backup", dict([record(3)]), meta=compacted)
    assert restored(backup, tmp_path / "data")[:3] == (9, 9, 9)


@pytest.mark.parametrize("what", ["data", "log"])
def test_what_is_there_is_not_overwritten(what: str, tmp_path: Path) -> None:
    """Neither a data directory nor a log; an empty one may be used."""
    backup = made(tmp_path / "backup", dict([record(2)]))
    (tmp_path / "data").mkdir()
    (tmp_path / "log").mkdir()
    (tmp_path / what / "mine").touch()
    with pytest.raises(RestoreError, match=f'{what}" not empty'):
        restored(backup, tmp_path / "data", wal=str(tmp_path / "log"))
    (tmp_path / what / "mine").unlink()
    restored(backup, tmp_path / "data", wal=str(tmp_path / "log"))


_LEASE = Lease(ID=6, TTL=1).SerializeToString()
_ALARM = AlarmMember(memberID=1).SerializeToString() + b"\xff"


@pytest.mark.parametrize(
    ("buckets", "match"),
    [
        ({"key": {b"short": b""}}, "is no revision"),
        ({"key": {schema.pack_revision(2) + b"x": b""}}, "is no revision"),
        ({"key": {schema.pack_revision(2): b"\xff\xff"}}, "2/0 is no record"),
        ({"key": {schema.pack_revision(5): record(4)[1]}}, "5/0 says that it is 4"),
        ({"key": {schema.pack_revision(5): b"\x0a"}}, "5/0 is no record"),
        ({"key": {schema.pack_revision(5): b"\x0a\x04k\x18\x05"}}, "5/0 is no record"),
        ({"key": {schema.pack_revision(1 << 63): b""}}, "is no revision"),
        ({"key": {schema.pack_revision(5, 1 << 32): b""}}, "5 has too many changes"),
        ({"key": {}, "lease": {(5).to_bytes(8, "big"): _LEASE}}, "has lease 6"),
        ({"key": {}, "alarm": {_ALARM: b""}}, "bucket alarm"),
        ({"key": {}, "authUsers": {b"ann": b""}}, "bucket authUsers"),
        ({"key": {}, "authRoles": {b"\xff": Role(name=b"\xff").SerializeToString()}}, "no name"),
        ({"key": {}, "meta": {schema.FINISHED_COMPACTION: b"?"}}, "is no revision"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_content_that_is_not_etcds_is_refused_by_name(
    buckets: dict[str, dict[bytes, bytes]], match: str, tmp_path: Path
) -> None:
    """By `verify` and by `restore`, which leaves nothing."""
    backup = made(tmp_path / "backup", buckets.pop("key"), **buckets)
    with Backup(backup) as opened, pytest.raises(SchemaError, match=match):
        opened.verify(lambda _: None)
    with pytest.raises(SchemaError, match=match):
        restored(backup, tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    """One without a bucket for keys."""
    path = tmp_path / "other"
    made(path, {})
    path.write_bytes(path.read_bytes().replace(b"key", b"kex"))
    with Backup(path) as opened, pytest.raises(SchemaError, match="no database of etcd's"):
        opened.verify(lambda _: None)


def test_the_checksum_is_that_of_all_before_it(tmp_path: Path) -> None:
    """Without one, or with another byte, it is refused."""
    path = made(tmp_path / "backup", dict([record(2)]))
    with Backup(path) as opened, pytest.raises(DigestError, match="no checksum"):
        opened.check_digest(lambda _: None)
    path.write_bytes(path.read_bytes() + bytes(32))
    with Backup(path) as opened, pytest.raises(DigestError, match="SHA-256"):
        opened.check_digest(lambda _: None)
