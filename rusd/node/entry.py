"""What a log entry holds: the requests of one batch, as the clients sent them."""

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final

_REQUEST: Final = struct.Struct("<BI")


class Kind(IntEnum):
    """Kinds of requests in the log. The numbers are on disk: they never change."""

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


def encode(requests: Iterable[tuple[int, bytes]]) -> bytes:
    """Entry data of requests (kind, serialized message) in order. No requests: an empty entry."""
    pack = _REQUEST.pack
    parts: list[bytes] = []
    for kind, message in requests:
        parts += (pack(kind, len(message)), message)
    return b"".join(parts)


def decode(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The requests in entry data. Raises ValueError when the data is not whole."""
    position = 0
    while position < len(data):
        start = position + _REQUEST.size
        kind, size = _REQUEST.unpack_from(data, position) if start <= len(data) else (0, 0)
        if start + size > len(data):
            raise ValueError(f"a log entry ends within a request at byte {position}")
        yield kind, data[start : start + size]
        position = start + size
