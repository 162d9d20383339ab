"""Puts, deletes and transactions on a keyspace: requests in, response bodies out.

A request is checked against the keyspace as it is before anything is changed, so one that raises
has changed nothing. Response bodies have no header of their own; inside a transaction each inner
response has a header with a revision, a nested transaction an empty one.
"""

import operator
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from rusd.mvcc.errors import KeyNotFoundError, LeaseNotFoundError
from rusd.mvcc.keyspace import Keyspace, Meta
from rusd.mvcc.ranges import check_revision, item_value, read_range, run
from rusd.mvcc.records import field, range_end, varint
from rusd.pb.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)


class Result(NamedTuple):
    """What a write did: the revision for the response's header, and the response's body."""

    revision: int
    body: bytes


def put(keyspace: Keyspace, request: PutRequest) -> Result:
    """Applies a PutRequest as one revision."""
    check_put(keyspace, request)
    body = _put(keyspace, request)
    return Result(keyspace.end(), body)


def delete_range(keyspace: Keyspace, request: DeleteRangeRequest) -> Result:
    """Applies a DeleteRangeRequest as one revision, or none when no key is in the range."""
    body = _delete(keyspace, request)
    return Result(keyspace.end(), body)


def txn(keyspace: Keyspace, request: TxnRequest) -> Result:
    """Applies a TxnRequest: compares, then the operations of one branch, as one revision."""
    keyspace.counters.txns += 1
    path = _choose(keyspace, request)
    past = _check(keyspace, path)
    body = _execute(keyspace, path, past)
    return Result(keyspace.end(), body)


def reads_past(request: TxnRequest) -> bool:
    """Whether any operation reads an earlier revision, for which the tables must be written."""
    return any(
        op.request_range.revision > 0
        if (kind := op.WhichOneof("request")) == "request_range"
        else kind == "request_txn" and reads_past(op.request_txn)
        for branch in (request.success, request.failure)
        for op in branch
    )


def check_put(keyspace: Keyspace, request: PutRequest) -> None:
    """Whether a put can be applied. Raises KeyNotFoundError, LeaseNotFoundError."""
    if (request.ignore_value or request.ignore_lease) and request.key not in keyspace.index:
        raise KeyNotFoundError
    if request.lease and request.lease not in keyspace.leases:
        raise LeaseNotFoundError


def _put(keyspace: Keyspace, request: PutRequest) -> bytes:
    key, value, lease = request.key, request.value, request.lease
    keyspace.counters.puts += 1
    old = keyspace.get(key) if request.prev_kv or request.ignore_value else None
    if request.ignore_value:
        assert old is not None
        value = item_value(old)
    if request.ignore_lease:
        meta = keyspace.meta(key)
        assert meta is not None
        lease = meta.lease
    keyspace.put(key, value, lease)
    return old if request.prev_kv and old is not None else b""


_PREV_KVS: Final = b"\x1a"


def _delete(keyspace: Keyspace, request: DeleteRangeRequest) -> bytes:
    start, end = request.key, range_end(request.range_end)
    if not request.range_end:
        keys = [start] if start in keyspace.index else []
    elif end is not None and end <= start:
        keys = []
    else:
        keys = list(keyspace.live(start, end))
    if not keys:
        return b""
    keyspace.counters.deletes += len(keys)
    parts = [b"\x10" + varint(len(keys))]
    for key in keys:
        if request.prev_kv:
            item = keyspace.get(key)
            assert item is not None
            parts.append(_PREV_KVS + item[1:])
        keyspace.delete(key)
    return b"".join(parts)


class _Path(NamedTuple):
    """A transaction's chosen branch, and that of each transaction nested in it, by position."""

    succeeded: bool
    operations: list[RequestOp]
    nested: dict[int, "_Path"]


def _choose(keyspace: Keyspace, request: TxnRequest) -> _Path:
    """Evaluates all compares, nested ones too, before any operation takes effect."""
    succeeded = all(_holds(keyspace, compare) for compare in request.compare)
    operations = list(request.success if succeeded else request.failure)
    nested = {
        position: _choose(keyspace, op.request_txn)
        for position, op in enumerate(operations)
        if op.WhichOneof("request") == "request_txn"
    }
    return _Path(succeeded, operations, nested)


_RESULT: Final[dict[int, Callable[[Any, Any], bool]]] = {
    Compare.EQUAL: operator.eq,
    Compare.GREATER: operator.gt,
    Compare.LESS: operator.lt,
    Compare.NOT_EQUAL: operator.ne,
}
_ABSENT: Final = Meta(0, 0, 0, 0, 0)


def _holds(keyspace: Keyspace, compare: Compare) -> bool:
    """Whether a compare is true for its key, or for every live key of its range."""
    key = compare.key
    if compare.range_end:
        keys = list(keyspace.live(key, range_end(compare.range_end)))
    else:
        keys = [key] if key in keyspace.index else []
    if not keys:
        # A value that is not there equals nothing; all else about a missing key is zero.
        if compare.target == Compare.VALUE:
            return False
        return _compares(compare, _ABSENT, b"")
    for live in keys:
        meta = keyspace.meta(live)
        assert meta is not None
        item = keyspace.get(live) if compare.target == Compare.VALUE else b""
        assert item is not None
        if not _compares(compare, meta, item):
            return False
    return True


def _compares(compare: Compare, meta: Meta, item: bytes) -> bool:
    test = _RESULT.get(compare.result)
    if test is None:
        return True
    match compare.target:
        case Compare.VERSION:
            return test(meta.version, compare.version)
        case Compare.CREATE:
            return test(meta.create, compare.create_revision)
        case Compare.MOD:
            return test(meta.mod, compare.mod_revision)
        case Compare.VALUE:
            return test(item_value(item), compare.value)
        case Compare.LEASE:
            return test(meta.lease, compare.lease)
    return True


_Past = dict[int, bytes]
"""Bodies of reads of earlier revisions, by id of their request: they were read with the checks."""


def _check(keyspace: Keyspace, path: _Path) -> _Past:
    past: _Past = {}
    for position, op in enumerate(path.operations):
        match op.WhichOneof("request"):
            case "request_put":
                check_put(keyspace, op.request_put)
            case "request_range":
                check_revision(keyspace, op.request_range.revision)
                if 0 < op.request_range.revision < keyspace.revision:
                    past[id(op)] = run(read_range(keyspace, op.request_range))
            case "request_txn":
                past |= _check(keyspace, path.nested[position])
    return past


def _execute(keyspace: Keyspace, path: _Path, past: _Past) -> bytes:
    """Carries out a branch. Returns a TxnResponse's body."""
    parts = [b"\x10\x01"] if path.succeeded else []
    for position, op in enumerate(path.operations):
        match op.WhichOneof("request"):
            case "request_range":
                tag = b"\x0a"
                body = past[id(op)] if id(op) in past else _range(keyspace, op.request_range)
            case "request_put":
                tag, body = b"\x12", _put(keyspace, op.request_put)
            case "request_delete_range":
                tag, body = b"\x1a", _delete(keyspace, op.request_delete_range)
            case "request_txn":
                tag, body = b"\x22", _execute(keyspace, path.nested[position], past)
        header = b"" if tag == b"\x22" else b"\x18" + varint(keyspace.read_revision)
        parts.append(field(b"\x1a", field(tag, field(b"\x0a", header) + body)))
    return b"".join(parts)


def _range(keyspace: Keyspace, request: RangeRequest) -> bytes:
    return run(read_range(keyspace, request, in_transaction=True))


def read_only_txn(keyspace: Keyspace, request: TxnRequest) -> bytes:
    """Answers a transaction of ranges only, as of now. Returns a TxnResponse's body."""
    path = _choose(keyspace, request)
    return _execute(keyspace, path, _check(keyspace, path))


def is_read_only(request: TxnRequest) -> bool:
    """Whether all operations of a transaction are ranges, in both branches."""
    return all(
        op.WhichOneof("request") == "request_range"
        for branch in (request.success, request.failure)
        for op in branch
    )


def is_serializable(request: TxnRequest) -> bool:
    """Whether all operations of a read-only transaction are serializable ranges."""
    return all(
        op.request_range.serializable
        for branch in (request.success, request.failure)
        for op in branch
    )
