"""Reads a backup: a database file of etcd's, with or without the checksum that a download has."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import google_crc32c
from google.protobuf.message import DecodeError, Message

from rusd.backup import schema
from rusd.backup.schema import Revision, SchemaError
from rusd.bbolt import Database
from rusd.bbolt.accounting import Accounting
from rusd.bbolt.reader import Item, Visit
from rusd.pb.auth_pb2 import Role, User
from rusd.pb.kv_pb2 import KeyValue
from rusd.pb.lease_pb2 import Lease
from rusd.pb.rpc_pb2 import AlarmMember

Advance = Callable[[int], None]
"""Told how many further bytes are done."""

_SECTOR: Final = 512
_DIGEST_BYTES: Final = 32
_READ_BYTES: Final = 1 << 20
_ITEMS_A_STEP: Final = 2000


class DigestError(Exception):
    """The file is not what was sent: its checksum is wrong, or not there."""


@dataclass(frozen=True, slots=True)
class Status:
    """What etcdutl says of a backup."""

    hash: int
    """CRC-32C of all buckets' names, keys and values."""
    revision: int
    total_key: int
    total_size: int
    """Bytes in use."""
    version: str
    """That of the schema; empty before etcd 3.6."""

    def document(self) -> dict[str, object]:
        """With the names that etcdutl prints."""
        return {
            "hash": self.hash,
            "revision": self.revision,
            "totalKey": self.total_key,
            "totalSize": self.total_size,
            "version": self.version,
        }


class Record(NamedTuple):
    """One change of one key. Of a tombstone's `kv`, only the key counts."""

    revision: Revision
    kv: KeyValue


class Backup:
    """An open backup. Raises OSError when it cannot be read, BboltError when it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = Database(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.database.close()

    @property
    def has_digest(self) -> bool:
        """Whether it ends with a checksum: a download does, a copy of a data directory's not."""
        return self.database.file_size % _SECTOR == _DIGEST_BYTES

    @property
    def size(self) -> int:
        """Bytes of the file: what `advance` is told in all."""
        return self.database.file_size

    def check_digest(self, advance: Advance) -> None:
        """Raises DigestError when the file has no checksum, or a wrong one."""
        if not self.has_digest:
            raise DigestError("the file has no checksum at its end; was it downloaded whole?")
        digest, left = sha256(), self.size - _DIGEST_BYTES
        with self.path.open("rb") as file:
            while left and (piece := file.read(min(left, _READ_BYTES))):
                digest.update(piece)
                left -= len(piece)
                advance(len(piece))
            if left or file.read() != digest.digest():
                raise DigestError(f"the SHA-256 at its end is not that of the {self.size} bytes")
        advance(_DIGEST_BYTES)

    def status(self, advance: Advance) -> Status:
        """Reads everything once. Raises BboltError and SchemaError."""
        crc, total, last = 0, 0, b""
        for name in self.database.buckets:
            crc = google_crc32c.extend(crc, name)
            parts: list[bytes] = []
            for item in self._items(name, advance):
                parts += item
                total += 1
                if len(parts) >= _ITEMS_A_STEP:
                    crc, parts = google_crc32c.extend(crc, b"".join(parts)), []
                if name == schema.KEY:
                    last = item[0]
            crc = google_crc32c.extend(crc, b"".join(parts))
        return Status(
            crc,
            schema.unpack_revision(last).main if last else 0,
            total,
            self.database.size,
            self.meta().get(schema.STORAGE_VERSION, b"").decode(errors="replace"),
        )

    def verify(self, advance: Advance) -> None:
        """Reads everything, and makes sure that it is whole: every page is accounted for, every
        key is in order, every record is what its bucket should have.

        Raises BboltError and SchemaError.
        """
        accounting = Accounting(self.database)
        for name in self.database.buckets:
            if name == schema.KEY:
                for _ in self.records(advance, accounting.visit):
                    pass
                continue
            for item in self._items(name, advance, accounting.visit):
                _check(name, item)
        accounting.finish()
        if schema.KEY not in self.database.buckets:
            raise SchemaError("there is no bucket key: this is no database of etcd's")

    def meta(self) -> dict[bytes, bytes]:
        """The items of the meta bucket."""
        return dict(self.database.items(schema.META))

    def records(self, advance: Advance, visit: Visit | None = None) -> Iterator[Record]:
        """All changes, in the order of revisions. Raises BboltError and SchemaError."""
        parse, unpack = KeyValue.FromString, schema.unpack_revision
        for key, value in self._items(schema.KEY, advance, visit):
            revision = unpack(key)
            try:
                kv = parse(value)
            except DecodeError:
                raise SchemaError(f"bucket key: revision {_shown(revision)} is no record") from None
            # An empty one stands for a revision alone: what etcdutl's --bump-revision leaves.
            if not revision.is_tombstone and kv.mod_revision != revision.main and value:
                raise SchemaError(
                    f"bucket key: revision {_shown(revision)} says that it is {kv.mod_revision}"
                )
            yield Record(revision, kv)

    def leases(self) -> Iterator[Lease]:
        """All leases, by id."""
        return (_lease(item) for item in self.database.items(schema.LEASE))

    def alarms(self) -> Iterator[AlarmMember]:
        """All alarms."""
        return (_alarm(item) for item in self.database.items(schema.ALARM))

    def users(self) -> Iterator[Item]:
        """Names and serialized users."""
        return (_user(item) for item in self.database.items(schema.AUTH_USERS))

    def roles(self) -> Iterator[Item]:
        """Names and serialized roles."""
        return (_role(item) for item in self.database.items(schema.AUTH_ROLES))

    def auth(self) -> dict[bytes, bytes]:
        """The items of the auth bucket."""
        return dict(self.database.items(schema.AUTH))

    def _items(self, bucket: bytes, advance: Advance, visit: Visit | None = None) -> Iterator[Item]:
        """A bucket's items; `advance` is told of them now and then."""
        size = 0
        for number, item in enumerate(self.database.items(bucket, visit)):
            size += _ITEM_BYTES + len(item[0]) + len(item[1])
            if number % _ITEMS_A_STEP == 0:
                advance(size)
                size = 0
            yield item
        advance(size)


_ITEM_BYTES: Final = 16


def _check(bucket: bytes, item: Item) -> None:
    check = _CHECKS.get(bucket)
    if check is not None:
        check(item)


def _parsed(kind: type[Message], bucket: bytes, key: bytes, data: bytes) -> Message:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise SchemaError(f"bucket {bucket.decode()}: {key[:64]!r} cannot be read") from None


def _lease(item: Item) -> Lease:
    lease = _parsed(Lease, schema.LEASE, *item)
    assert isinstance(lease, Lease)
    if lease.ID.to_bytes(8, "big", signed=True) != item[0]:
        raise SchemaError(f"bucket lease: {item[0].hex()} has lease {lease.ID:x}")
    return lease


def _alarm(item: Item) -> AlarmMember:
    alarm = _parsed(AlarmMember, schema.ALARM, item[0], item[0])
    assert isinstance(alarm, AlarmMember)
    return alarm


def _user(item: Item) -> Item:
    user = _parsed(User, schema.AUTH_USERS, *item)
    assert isinstance(user, User)
    return _named(schema.AUTH_USERS, item, user.name)


def _role(item: Item) -> Item:
    role = _parsed(Role, schema.AUTH_ROLES, *item)
    assert isinstance(role, Role)
    return _named(schema.AUTH_ROLES, item, role.name)


def _named(bucket: bytes, item: Item, name: bytes) -> Item:
    try:
        item[0].decode()
    except UnicodeDecodeError:
        raise SchemaError(f"bucket {bucket.decode()}: {item[0]!r} is no name") from None
    if name != item[0]:
        raise SchemaError(f"bucket {bucket.decode()}: {item[0]!r} has {name!r}")
    return item


def _revision(item: Item) -> None:
    if item[0] in (schema.SCHEDULED_COMPACTION, schema.FINISHED_COMPACTION):
        schema.unpack_revision(item[1])


_CHECKS: Final[dict[bytes, Callable[[Item], object]]] = {
    schema.LEASE: _lease,
    schema.ALARM: _alarm,
    schema.AUTH_USERS: _user,
    schema.AUTH_ROLES: _role,
    schema.META: _revision,
}


def _shown(revision: Revision) -> str:
    return f"{revision.main}/{revision.sub}"
