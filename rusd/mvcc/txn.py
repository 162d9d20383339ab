"""Puts, deletes and transactions on a keyspace: requests in, response bodies out.

A request is checked against the keyspace as it is before anything is changed, so one that raises
has changed nothing. Response bodies have no header of their own; inside a transaction each inner
response has a header with a revision, a nested transaction an empty one.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from rusd.mvcc.errors import CompactedError, KeyNotFoundError, LeaseNotFoundError
from rusd.mvcc.keyspace import Keyspace, Meta
from rusd.mvcc.ranges import check_revision, item_value, read_range, run
from rusd.mvcc.records import range_end, varint
from rusd.pb.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

RANGE, PUT, DELETE_RANGE, TXN = 1, 2, 3, 4
"""Kinds of operations; the field numbers of RequestOp."""

Operation = tuple[int, Any]
"""Kind, and its request; of a nested transaction its `Plan`. Kind 0 is an operation that names no
request."""


class Plan:
    """A TxnRequest taken apart once, for all who look at it."""

    __slots__ = ("compares", "failure", "nests", "past", "read_only", "serializable", "success")

    def __init__(self, request: TxnRequest) -> None:
        self.compares: list[Compare] = list(request.compare)
        self.nests = False
        """Whether a branch has a transaction."""
        self.past = False
        """Whether an operation reads at a revision, for which the tables must be written."""
        self.read_only = True
        """Whether all operations of both branches are ranges."""
        self.serializable = bool(request.success or request.failure)
        """Whether there are operations, and all of them are serializable ranges."""
        self.success = self._operations(request.success)
        self.failure = self._operations(request.failure)

    def _operations(self, branch: Iterable[RequestOp]) -> list[Operation]:
        operations: list[Operation] = []
        for op in branch:
            kind = op.WhichOneof("request")
            if kind == "request_put":
                self.read_only = False
                operations.append((PUT, op.request_put))
            elif kind == "request_range":
                request = op.request_range
                if request.revision > 0:
                    self.past = True
                if not request.serializable:
                    self.serializable = False
                operations.append((RANGE, request))
            elif kind == "request_delete_range":
                self.read_only = False
                operations.append((DELETE_RANGE, op.request_delete_range))
            elif kind == "request_txn":
                nested = Plan(op.request_txn)
                self.read_only, self.nests = False, True
                self.past = self.past or nested.past
                operations.append((TXN, nested))
            else:
                self.read_only = False
                operations.append((0, None))
        return operations


Result = tuple[int, bytes]
"""What a write did: the revision for the response's header, and the response's body."""


def put(keyspace: Keyspace, request: PutRequest) -> Result:
    """Applies a PutRequest as one revision."""
    if request.lease or request.prev_kv or request.ignore_value or request.ignore_lease:
        check_lease(keyspace, request)
        check_key(keyspace, request)
        body = _put(keyspace, request)
    else:
        keyspace.counters.puts += 1
        keyspace.put(request.key, request.value, 0)
        body = b""
    return keyspace.end(), body


def delete_range(keyspace: Keyspace, request: DeleteRangeRequest) -> Result:
    """Applies a DeleteRangeRequest as one revision, or none when no key is in the range."""
    body = _delete(keyspace, request)
    return keyspace.end(), body


def txn(keyspace: Keyspace, plan: Plan) -> Result:
    """Applies a transaction: compares, then the operations of one branch, as one revision."""
    keyspace.counters.txns += 1
    path = _choose(keyspace, plan)
    past = _check(keyspace, path)
    body = _execute(keyspace, path, past)
    return keyspace.end(), body


def read_only_txn(keyspace: Keyspace, plan: Plan) -> bytes:
    """Answers a transaction of ranges only, as of now. Returns a TxnResponse's body."""
    path = _choose(keyspace, plan)
    return _execute(keyspace, path, _check(keyspace, path))


def check_key(keyspace: Keyspace, request: PutRequest) -> None:
    """Whether a put that keeps a value or a lease has one to keep. Raises KeyNotFoundError."""
    if (request.ignore_value or request.ignore_lease) and request.key not in keyspace.index:
        raise KeyNotFoundError


def check_lease(keyspace: Keyspace, request: PutRequest) -> None:
    """Whether the lease that a put names exists. Raises LeaseNotFoundError."""
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
    operations: list[Operation]
    nested: dict[int, "_Path"]


def _choose(keyspace: Keyspace, plan: Plan) -> _Path:
    """Evaluates all compares, nested ones too, before any operation takes effect."""
    succeeded = True
    for compare in plan.compares:
        if not _holds(keyspace, compare):
            succeeded = False
            break
    operations = plan.success if succeeded else plan.failure
    if not plan.nests:
        return _Path(succeeded, operations, _NOTHING_NESTED)
    nested = {
        position: _choose(keyspace, request)
        for position, (kind, request) in enumerate(operations)
        if kind == TXN
    }
    return _Path(succeeded, operations, nested)


_NOTHING_NESTED: Final[dict[int, _Path]] = {}
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
"""Bodies of reads at a revision, by id of their request: they were read with the checks, before
anything took effect."""

_NO_PAST: Final[_Past] = {}


def _check(keyspace: Keyspace, path: _Path) -> _Past:
    """Checks all operations of a path: first its puts, then its ranges, as etcd does."""
    _check_puts(keyspace, path)
    return _check_ranges(keyspace, path)


def _check_puts(keyspace: Keyspace, path: _Path) -> None:
    for position, (kind, request) in enumerate(path.operations):
        if kind == PUT:
            # Of two errors, etcd tells the other one here than outside of a transaction.
            check_key(keyspace, request)
            check_lease(keyspace, request)
        elif kind == TXN:
            _check_puts(keyspace, path.nested[position])


def _check_ranges(keyspace: Keyspace, path: _Path) -> _Past:
    past = _NO_PAST
    for position, (kind, request) in enumerate(path.operations):
        if kind == RANGE:
            revision = request.revision
            if revision:
                # A negative revision reads the latest, but etcd holds it to the compacted one here.
                if revision < keyspace.compacted:
                    raise CompactedError
                check_revision(keyspace, revision)
                if revision > 0:
                    past = {**past, id(request): run(read_range(keyspace, request))}
        elif kind == TXN:
            past = {**past, **_check_ranges(keyspace, path.nested[position])}
    return past


def _execute(keyspace: Keyspace, path: _Path, past: _Past) -> bytes:
    """Carries out a branch. Returns a TxnResponse's body."""
    parts = [b"\x10\x01"] if path.succeeded else []
    for position, (kind, request) in enumerate(path.operations):
        if kind == PUT:
            body = _put(keyspace, request)
        elif kind == RANGE:
            body = past[id(request)] if id(request) in past else _range(keyspace, request)
        elif kind == DELETE_RANGE:
            body = _delete(keyspace, request)
        else:
            body = _execute(keyspace, path.nested[position], past)
        header = _EMPTY_HEADER if kind == TXN else keyspace.inner_header()
        size = len(header) + len(body)
        packed = varint(size)
        parts += (
            b"\x1a",
            varint(1 + len(packed) + size),
            _RESPONSE_TAG[kind],
            packed,
            header,
            body,
        )
    return b"".join(parts)


_EMPTY_HEADER: Final = b"\x0a\x00"
_RESPONSE_TAG: Final = {RANGE: b"\x0a", PUT: b"\x12", DELETE_RANGE: b"\x1a", TXN: b"\x22"}


def _range(keyspace: Keyspace, request: RangeRequest) -> bytes:
    key = request.key
    # A range of a key alone, by its size: what Kubernetes asks for when a compare fails.
    if len(key) < 128 and request.ByteSize() == len(key) + 2:
        keyspace.counters.ranges += 1
        item = keyspace.get(key)
        return b"" if item is None else item + b"\x20\x01"
    return run(read_range(keyspace, request, in_transaction=True))
