"""What a log entry holds: the requests of one batch, as the clients sent them."""

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final

from rusd.auth.store import Identity

_REQUEST: Final = struct.Struct("<BI")
_BATCH: Final = struct.Struct("<BIQQ")
_BATCH_SIZE: Final = 16
_REVISION: Final = struct.Struct("<Q")
_OF_NOBODY, _OF_MEMBER, _OF_USER = b"\x00", b"\x01", b"\x02"

MEMBER: Final = Identity("", -1)
"""Who asks for what a member does by itself. No user has this name."""


class Kind(IntEnum):
    """Kinds of requests in the log. The numbers are on disk: they never change."""

    BATCH = 0
    """No request: begins an entry, and says whose batch it is (member, its number for it)."""
    PUT = 1
    DELETE_RANGE = 2
    TXN = 3
    COMPACT = 4
    LEASE_GRANT = 5
    LEASE_REVOKE = 6
    LEASE_CHECKPOINT = 7
    ALARM = 8
    MEMBER = 9
    """A member as it is from now on (etcdserverpb.Member)."""
    LEASE_EXPIRE = 10
    """Revokes a lease that has run out (rusd.lease.lessor.Expiry)."""
    AUTH_ENABLE = 11
    AUTH_DISABLE = 12
    AUTHENTICATE = 13
    """Makes a token known (rusd.auth.tokens.Login)."""
    USER_ADD = 14
    """Passwords are hashed, here and where they are changed."""
    USER_DELETE = 15
    USER_CHANGE_PASSWORD = 16
    USER_GRANT_ROLE = 17
    USER_REVOKE_ROLE = 18
    ROLE_ADD = 19
    ROLE_DELETE = 20
    ROLE_GRANT_PERMISSION = 21
    ROLE_REVOKE_PERMISSION = 22
    IDENTITY = 23
    """No request: who asks for those that follow it in the entry, up to the next of its kind. An
    entry begins with one if auth was on at the member that made it."""
    DOWNGRADE = 24
    """The cluster's downgrade as it is from now on (etcdserverpb.DowngradeInfo)."""


def encode(requests: Iterable[tuple[int, bytes]], origin: int, sequence: int) -> bytes:
    """Entry data of one member's batch: requests (kind, serialized message) in order."""
    pack = _REQUEST.pack
    parts: list[bytes] = [_BATCH.pack(Kind.BATCH, _BATCH_SIZE, origin, sequence)]
    for kind, message in requests:
        parts += (pack(kind, len(message)), message)
    return b"".join(parts)


def batch_of(data: bytes) -> tuple[int, int]:
    """Whose batch entry data is: member and its number for it. (0, 0) for an entry without one."""
    if len(data) < _BATCH.size or data[0] != Kind.BATCH:
        return 0, 0
    _, _, origin, sequence = _BATCH.unpack_from(data)
    return origin, sequence


def decode(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The requests in entry data. Raises ValueError when the data is not whole."""
    position = 0
    while position < len(data):
        start = position + _REQUEST.size
        kind, size = _REQUEST.unpack_from(data, position) if start <= len(data) else (0, 0)
        if start + size > len(data):
            raise ValueError(f"a log entry ends within a request at byte {position}")
        if kind != Kind.BATCH:
            yield kind, data[start : start + size]
        position = start + size


def encode_identity(identity: Identity | None) -> bytes:
    """Message of an IDENTITY; None is nobody, of whom no user is known."""
    if identity is None:
        return _OF_NOBODY
    if identity is MEMBER:
        return _OF_MEMBER
    return _OF_USER + _REVISION.pack(identity.revision) + identity.user.encode()


def decode_identity(message: bytes) -> Identity | None:
    """What `encode_identity` made a message of; `MEMBER` itself where it was."""
    if message == _OF_NOBODY:
        return None
    if message == _OF_MEMBER:
        return MEMBER
    (revision,) = _REVISION.unpack_from(message, 1)
    return Identity(message[1 + _REVISION.size :].decode(), revision)
