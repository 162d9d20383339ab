"""Reads a backup: a database file of etcd's, with or without the checksum that a download has."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import google_crc32c
from google.protobuf.message import DecodeError, Message

from rusd.backup import schema
from rusd.backup.schema import SchemaError
from rusd.bbolt import BboltError, Database
from rusd.bbolt.accounting import Accounting
from rusd.bbolt.reader import Item, Visit
from rusd.mvcc.records import REVISION
from rusd.pb.auth_pb2 import Role, User
from rusd.pb.kv_pb2 import KeyValue
from rusd.pb.lease_pb2 import Lease
from rusd.pb.rpc_pb2 import AlarmMember

Advance = Callable[[int], None]
"""Told how many further bytes are done."""

_SECTOR: Final = 512
_DIGEST_BYTES: Final = 32
_READ_BYTES: Final = 1 << 20
_PAGES_A_STEP: Final = 64


class DigestError(Exception):
    """The file is not what was sent: its checksum is wrong, or not there."""


@dataclass(frozen=True, slots=True)
class Status:
    """What etcdutl says of a backup."""

    hash: int
    """CRC-32C of all buckets' names, keys and values."""
    revision: int
    total_key: int
    """Keys that live at that revision. Before etcd 3.6 etcdutl had all items of all buckets."""
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


class Records(NamedTuple):
    """Changes in the order of revisions, each of one key: the n-th of each list is of the n-th.

    Of a tombstone's KeyValue, only the key counts. An empty value stands for a revision alone: that
    is what etcdutl's --bump-revision leaves.
    """

    rows: list[bytes]
    """Main and sub-revision, 12 bytes, as `rusd.mvcc.records` has them."""
    are_tombstones: list[bool]
    values: list[bytes]
    """Serialized KeyValues."""

    def keys(self) -> list[bytes]:
        """The keys of values that are whole. Raises SchemaError when it sees that one is not."""
        try:
            # Most begin with the key, which is short.
            return [
                value[2 : 2 + value[1]]
                if value[0] == KEY_TAG and value[1] < LONG_KEY
                else KeyValue.FromString(value).key
                for value in self.values
            ]
        except (IndexError, DecodeError):
            return [kv.key for kv in self.parsed()]

    def parsed(self) -> list[KeyValue]:
        """What the values are. Raises SchemaError when one is none, or of another revision."""
        try:
            kvs = list(map(KeyValue.FromString, self.values))
        except DecodeError:
            raise self._no_record() from None
        told = b"".join([kv.mod_revision.to_bytes(8, "big", signed=True) for kv in kvs])
        if told != b"".join([row[:8] for row in self.rows]):
            self._check_revisions(kvs)
        return kvs

    def _no_record(self) -> SchemaError:
        """What to say of the first value that cannot be parsed."""
        for row, value in zip(self.rows, self.values, strict=True):
            try:
                KeyValue.FromString(value)
            except DecodeError:
                return SchemaError(f"bucket key: revision {shown(row)} is no record")
        raise AssertionError("one of them cannot be parsed")

    def _check_revisions(self, kvs: list[KeyValue]) -> None:
        for row, is_tombstone, value, kv in zip(*self, kvs, strict=True):
            main, _ = REVISION.unpack(row)
            if value and not is_tombstone and kv.mod_revision != main:
                raise SchemaError(
                    f"bucket key: revision {shown(row)} says that it is {kv.mod_revision}"
                )


KEY_TAG: Final = 0x0A
LONG_KEY: Final = 128
"""From this size on, a key's length takes more than a byte."""


def shown(row: bytes) -> str:
    """A row's revision, for people."""
    return "/".join(map(str, REVISION.unpack(row)))


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
                raise DigestError(
                    f"the SHA-256 at its end is not that of the {self.size} bytes: {self._damage()}"
                )
        advance(_DIGEST_BYTES)

    def _damage(self) -> str:
        """Where, if a page or a record tells."""
        try:
            self.verify(lambda _: None)
        except (BboltError, SchemaError) as error:
            return str(error)
        return "no page or record tells where"

    def status(self, advance: Advance) -> Status:
        """Reads everything once. Raises BboltError and SchemaError."""
        crc, last = 0, b""
        live: set[bytes] = set()
        for name in self.database.buckets:
            crc = google_crc32c.extend(crc, name)
            for keys, values in self._steps(name, advance):
                items = zip(keys, values, strict=True)
                crc = google_crc32c.extend(crc, b"".join(chain.from_iterable(items)))
                if name == schema.KEY:
                    last = keys[-1]
                    records = Records(*schema.split_revisions(keys), values)
                    if any(records.are_tombstones):
                        for key, is_tombstone in zip(
                            records.keys(), records.are_tombstones, strict=True
                        ):
                            (live.discard if is_tombstone else live.add)(key)
                    else:
                        live.update(records.keys())
        return Status(
            crc,
            schema.unpack_revision(last).main if last else 0,
            len(live),
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
                for records in self.records(advance, accounting.visit):
                    records.parsed()
                continue
            check = _CHECKS.get(name)
            for keys, values in self._steps(name, advance, accounting.visit):
                if check is not None:
                    for item in zip(keys, values, strict=True):
                        check(item)
        accounting.finish()
        if schema.KEY not in self.database.buckets:
            raise SchemaError("there is no bucket key: this is no database of etcd's")

    def meta(self) -> dict[bytes, bytes]:
        """The items of the meta bucket."""
        return dict(self.database.items(schema.META))

    def records(self, advance: Advance, visit: Visit | None = None) -> Iterator[Records]:
        """All changes, some hundreds at a time; the values are as they are. Raises BboltError and
        SchemaError.
        """
        for keys, values in self._steps(schema.KEY, advance, visit):
            yield Records(*schema.split_revisions(keys), values)

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

    def _steps(
        self, bucket: bytes, advance: Advance, visit: Visit | None = None
    ) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """A bucket's keys and values, as many at a time as make it cheap to look at them together.
        `advance` is told of them.
        """
        keys: list[bytes] = []
        values: list[bytes] = []
        pages = 0
        for some_keys, some_values in self.database.pages(bucket, visit):
            keys += some_keys
            values += some_values
            pages += 1
            if pages == _PAGES_A_STEP:
                yield keys, values
                advance(_bytes_of(keys, values))
                keys, values, pages = [], [], 0
        if keys:
            yield keys, values
            advance(_bytes_of(keys, values))


_ITEM_BYTES: Final = 16


def _bytes_of(keys: list[bytes], values: list[bytes]) -> int:
    """What items take of a file, about."""
    return _ITEM_BYTES * len(keys) + sum(map(len, keys)) + sum(map(len, values))


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
