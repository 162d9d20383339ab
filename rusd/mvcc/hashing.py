"""The hash of a keyspace's history, by which members are compared."""

from collections.abc import Generator
from typing import NamedTuple
from zlib import crc32

from rusd.mvcc.errors import CompactedError, FutureRevisionError
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.records import REVISION
from rusd.mvcc.tables import rows

_SLICE = 2000


class HashResult(NamedTuple):
    """A hash, the revision up to which it was taken, and the compacted revision below it."""

    hash: int
    revision: int
    compacted: int


def hash_history(keyspace: Keyspace, revision: int) -> Generator[None, None, HashResult]:
    """CRC-32 of all events up to a revision (0 or less: the latest) that no compaction has removed.

    To be started when nothing is left to sweep, for else what is swept would count. Raises
    CompactedError and FutureRevisionError at the first step.
    """
    compacted = keyspace.compacted
    if revision > keyspace.revision:
        raise FutureRevisionError
    revision = revision if revision > 0 else keyspace.revision
    if revision < compacted:
        raise CompactedError
    events = rows(keyspace.tables.events, b"", REVISION.pack(revision + 1, 0))
    checksum = crc32(compacted.to_bytes(8, "big", signed=True))
    for number, (row, value) in enumerate(events):
        checksum = crc32(value[12:], crc32(row, checksum))
        if number % _SLICE == _SLICE - 1:
            yield
    return HashResult(checksum, revision, compacted)
