"""Kubernetes' write in one step: put a key if a mod revision is as expected, else read a key.

It is a transaction like any other, and gives what `txn.txn` gives for it. It has a path of its own
because it is nearly all that a Kubernetes control plane writes. It costs about half.
"""

from typing import Final

from rusd.mvcc.errors import LeaseNotFoundError
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.records import U64, varint
from rusd.pb.rpc_pb2 import Compare, TxnRequest

GuardedPut = tuple[bytes, bytes, bytes, bytes, int, bytes]
"""Key to compare, its expected mod revision (8 bytes, as in its metadata), key to put, value,
lease, key to read if the compare fails (empty for none)."""

_NO_REVISION: Final = bytes(8)
_MOD, _EQUAL = Compare.MOD, Compare.EQUAL


def guarded_put(request: TxnRequest) -> GuardedPut | None:
    """The guarded put that a transaction is, if it is one and nothing in it needs a check."""
    compares, success, failure = request.compare, request.success, request.failure
    if len(compares) != 1 or len(success) != 1 or len(failure) > 1:
        return None
    compare, op = compares[0], success[0]
    if compare.target != _MOD or compare.result != _EQUAL or compare.range_end:
        return None
    if not op.HasField("request_put"):
        return None
    put = op.request_put
    guard, key, mod = compare.key, put.key, compare.mod_revision
    if put.prev_kv or put.ignore_value or put.ignore_lease or mod < 0 or not guard or not key:
        return None
    read = b""
    if failure:
        op = failure[0]
        if not op.HasField("request_range"):
            return None
        read = op.request_range.key
        # Of this size it has a key and nothing else.
        if not 0 < len(read) < 128 or op.request_range.ByteSize() != len(read) + 2:
            return None
    return guard, U64.pack(mod), key, put.value, put.lease, read


def apply(keyspace: Keyspace, guarded: GuardedPut) -> tuple[int, bytes]:
    """Applies it. Returns the revision for the header, and a TxnResponse's body.

    Raises LeaseNotFoundError; then nothing has changed.
    """
    guard, expected, key, value, lease, read = guarded
    counters = keyspace.counters
    counters.txns += 1
    row = keyspace.index.get(guard)
    if (_NO_REVISION if row is None else row[:8]) == expected:
        if lease and lease not in keyspace.leases:
            raise LeaseNotFoundError
        counters.puts += 1
        keyspace.put(key, value, lease)
        revision = keyspace.end()
        packed = varint(revision)
        return revision, _PUT_DONE[len(packed)] + packed
    revision = keyspace.revision
    if not read:
        return revision, b""
    counters.ranges += 1
    item = keyspace.get(read)
    packed = varint(revision)
    head = b"\x0a" + varint(len(packed) + 1) + b"\x18" + packed
    answer = head if item is None else head + item + b"\x20\x01"
    size = varint(len(answer))
    return revision, b"".join((b"\x1a", varint(1 + len(size) + len(answer)), b"\x0a", size, answer))


_PUT_DONE: Final = [
    b"\x10\x01\x1a" + bytes((size + 5, 0x12, size + 3, 0x0A, size + 1, 0x18)) for size in range(11)
]
"""TxnResponse: succeeded, and a put's response whose header has a revision of so many bytes."""
