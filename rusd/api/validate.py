"""What a key-value request must satisfy before it is read or proposed: etcd's rules, its errors.

Each check returns the error, or None.
"""

from collections.abc import Callable
from typing import Any, Final

from sortedcontainers import SortedList

from rusd.api import errors
from rusd.mvcc.txn import DELETE_RANGE, PUT, RANGE, TXN, Operation, Plan
from rusd.pb.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest
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


def check_txn(plan: Plan, max_operations: int) -> Status | None:
    """Checks a transaction and those nested in it: its size, each operation, and that no key is
    put twice, or put and deleted, on one path.
    """
    return _check_operations(plan, max_operations) or _check_overlaps(plan)


def _check_operations(plan: Plan, max_operations: int) -> Status | None:
    compares, success, failure = plan.compares, plan.success, plan.failure
    operations = max(len(compares), len(success), len(failure))
    if operations > max_operations:
        return errors.TOO_MANY_OPS
    for compare in compares:
        if not compare.key:
            return errors.EMPTY_KEY
    for branch in (success, failure):
        for kind, request in branch:
            check = _CHECKS.get(kind)
            if check is not None:
                error = check(request)
            elif kind == TXN:
                error = _check_operations(request, max_operations - operations)
            else:
                error = errors.KEY_NOT_FOUND
            if error is not None:
                return error
    return None


_CHECKS: Final[dict[int, Callable[[Any], Status | None]]] = {
    PUT: check_put,
    RANGE: check_range,
    DELETE_RANGE: check_delete_range,
}


class _Effects:
    """Keys that a branch puts, and ranges that it deletes."""

    def __init__(self) -> None:
        self.puts: set[bytes] = set()
        self.deletes: list[tuple[bytes, bytes | None]] = []


def _check_overlaps(plan: Plan) -> Status | None:
    # One operation overlaps with nothing, unless it is a transaction of several.
    if len(plan.success) < 2 and len(plan.failure) < 2 and not plan.nests:
        return None
    try:
        _effects(plan.success)
        _effects(plan.failure)
    except _OverlapError:
        return errors.DUPLICATE_KEY
    return None


class _OverlapError(Exception):
    """A key is put twice, or put and deleted, on one path."""


def _effects(operations: list[Operation]) -> _Effects:
    """The effects of all operations of a branch. Raises _OverlapError.

    As in etcd, a key that a nested transaction puts may be deleted by a later one.
    """
    total = _Effects()
    total.deletes = [_deleted(request) for kind, request in operations if kind == DELETE_RANGE]
    for kind, plan in operations:
        if kind == TXN:
            # Only one branch is carried out, so they may overlap with one another.
            branches = _effects(plan.success), _effects(plan.failure)
            puts = branches[0].puts | branches[1].puts
            if not puts.isdisjoint(total.puts) or _overlap(puts, total.deletes):
                raise _OverlapError
            total.puts |= puts
            total.deletes += branches[0].deletes + branches[1].deletes
    own = [request.key for kind, request in operations if kind == PUT]
    puts = set(own)
    if len(puts) < len(own) or not puts.isdisjoint(total.puts) or _overlap(puts, total.deletes):
        raise _OverlapError
    total.puts |= puts
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
