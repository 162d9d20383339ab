"""What a key-value request must satisfy before it is read or proposed: etcd's rules, its errors.

Each check returns the error, or None.
"""

from collections.abc import Iterable

from sortedcontainers import SortedList

from rusd.api import errors
from rusd.pb.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest
from rusd.wire.grpc import Status


def check_range(request: RangeRequest) -> Status | None:
    if not request.key:
        return errors.EMPTY_KEY
    if not 0 <= request.sort_order <= 2 or not 0 <= request.sort_target <= 4:
        return errors.INVALID_SORT_OPTION
    return None


def check_put(request: PutRequest) -> Status | None:
    if not request.key:
        return errors.EMPTY_KEY
    if request.ignore_value and request.value:
        return errors.VALUE_PROVIDED
    if request.ignore_lease and request.lease:
        return errors.LEASE_PROVIDED
    return None


def check_delete_range(request: DeleteRangeRequest) -> Status | None:
    return None if request.key else errors.EMPTY_KEY


def check_txn(request: TxnRequest, max_operations: int) -> Status | None:
    """Checks a transaction and those nested in it: its size, each operation, and that no key is
    put twice, or put and deleted, on one path.
    """
    return _check_operations(request, max_operations) or _check_overlaps(request)


def _check_operations(request: TxnRequest, max_operations: int) -> Status | None:
    operations = max(len(request.compare), len(request.success), len(request.failure))
    if operations > max_operations:
        return errors.TOO_MANY_OPS
    for compare in request.compare:
        if not compare.key:
            return errors.EMPTY_KEY
    for branch in (request.success, request.failure):
        for op in branch:
            error = _check_operation(op, max_operations - operations)
            if error is not None:
                return error
    return None


def _check_operation(op: RequestOp, max_operations: int) -> Status | None:
    match op.WhichOneof("request"):
        case "request_put":
            return check_put(op.request_put)
        case "request_range":
            return check_range(op.request_range)
        case "request_delete_range":
            return check_delete_range(op.request_delete_range)
        case "request_txn":
            return _check_operations(op.request_txn, max_operations)
    return errors.KEY_NOT_FOUND


class _Effects:
    """Keys that a branch puts, and ranges that it deletes."""

    def __init__(self) -> None:
        self.puts: set[bytes] = set()
        self.deletes: list[tuple[bytes, bytes | None]] = []


def _check_overlaps(request: TxnRequest) -> Status | None:
    if len(request.success) < 2 and len(request.failure) < 2:
        # One operation overlaps with nothing, unless it is a transaction of several.
        branches = (*request.success, *request.failure)
        if all(op.WhichOneof("request") != "request_txn" for op in branches):
            return None
    try:
        _effects(request.success)
        _effects(request.failure)
    except _OverlapError:
        return errors.DUPLICATE_KEY
    return None


class _OverlapError(Exception):
    """A key is put twice, or put and deleted, on one path."""


def _effects(operations: Iterable[RequestOp]) -> _Effects:
    """The effects of all operations of a branch. Raises _OverlapError."""
    total = _Effects()
    for op in operations:
        effects = _Effects()
        match op.WhichOneof("request"):
            case "request_put":
                effects.puts.add(op.request_put.key)
            case "request_delete_range":
                effects.deletes.append(_deleted(op.request_delete_range))
            case "request_txn":
                # Only one branch is carried out, so they may overlap with one another.
                for branch in (op.request_txn.success, op.request_txn.failure):
                    of_branch = _effects(branch)
                    effects.puts |= of_branch.puts
                    effects.deletes += of_branch.deletes
        if (
            total.puts & effects.puts
            or _overlap(total.puts, effects.deletes)
            or _overlap(effects.puts, total.deletes)
        ):
            raise _OverlapError
        total.puts |= effects.puts
        total.deletes += effects.deletes
    return total


def _deleted(request: DeleteRangeRequest) -> tuple[bytes, bytes | None]:
    if not request.range_end:
        return request.key, request.key + b"\x00"
    return request.key, None if request.range_end == b"\x00" else request.range_end


def _overlap(puts: set[bytes], deletes: list[tuple[bytes, bytes | None]]) -> bool:
    if not puts or not deletes:
        return False
    keys = SortedList(puts)
    return any(
        next(keys.irange(start, end, inclusive=(True, False)), None) is not None
        for start, end in deletes
        if end is None or start < end
    )
