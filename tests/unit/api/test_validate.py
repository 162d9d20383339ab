"""rusd/api/validate.py: what etcd refuses before anything is looked at, and with what."""

import pytest

from rusd.api import errors
from rusd.api.validate import check_delete_range, check_put, check_range, check_txn
from rusd.mvcc.txn import Plan
from rusd.pb.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from rusd.wire.grpc import Status

MOST = 4
"""Operations of a transaction."""


def put(key: bytes) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key))


def delete(key: bytes, end: bytes = b"") -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=end))


def get(key: bytes, **fields: int) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key=key, **fields))  # type: ignore[arg-type]


def txn(*success: RequestOp, failure: tuple[RequestOp, ...] = ()) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(success=success, failure=failure))


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (RangeRequest(), errors.EMPTY_KEY),
        (RangeRequest(range_end=b"\x00"), errors.EMPTY_KEY),
        (RangeRequest(key=b"a"), None),
        (RangeRequest(key=b"a", sort_order=3), errors.INVALID_SORT_OPTION),  # type: ignore[arg-type]
        (RangeRequest(key=b"a", sort_order=-1), errors.INVALID_SORT_OPTION),  # type: ignore[arg-type]
        (RangeRequest(key=b"a", sort_target=5), errors.INVALID_SORT_OPTION),  # type: ignore[arg-type]
        (RangeRequest(key=b"a", sort_order=2, sort_target=4), None),  # type: ignore[arg-type]
    ],
)
def test_ranges(request_: RangeRequest, error: Status | None) -> None:
    assert check_range(request_) == error


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (PutRequest(), errors.EMPTY_KEY),
        (PutRequest(key=b"a"), None),
        (PutRequest(key=b"a", value=b"v", ignore_value=True), errors.VALUE_PROVIDED),
        (PutRequest(key=b"a", lease=1, ignore_lease=True), errors.LEASE_PROVIDED),
        (PutRequest(key=b"a", ignore_value=True, ignore_lease=True), None),
        (PutRequest(key=b"a", value=b"v", ignore_lease=True), None),
    ],
)
def test_puts(request_: PutRequest, error: Status | None) -> None:
    assert check_put(request_) == error


def test_deletes() -> None:
    assert check_delete_range(DeleteRangeRequest(range_end=b"b")) == errors.EMPTY_KEY
    assert check_delete_range(DeleteRangeRequest(key=b"a")) is None


A, B = put(b"a"), put(b"b")
DUPLICATE = errors.DUPLICATE_KEY


@pytest.mark.parametrize(
    ("success", "error"),
    [
        # Each operation is checked, wherever it is.
        ([], None),
        ([put(b"")], errors.EMPTY_KEY),
        ([delete(b"")], errors.EMPTY_KEY),
        ([get(b"")], errors.EMPTY_KEY),
        ([get(b"a", sort_order=9)], errors.INVALID_SORT_OPTION),
        ([txn(txn(put(b"")))], errors.EMPTY_KEY),
        ([txn(failure=(put(b""),))], errors.EMPTY_KEY),
        ([RequestOp()], errors.KEY_NOT_FOUND),
        # How many there are: nested ones may have what the outer ones leave.
        ([put(b"%d" % number) for number in range(MOST)], None),
        ([put(b"%d" % number) for number in range(MOST + 1)], errors.TOO_MANY_OPS),
        ([A, txn(B, put(b"c"))], None),
        ([A, txn(B, put(b"c"), put(b"d"))], errors.TOO_MANY_OPS),
        ([txn(txn(txn(txn())))], None),
        ([txn(txn(txn(txn(A))))], errors.TOO_MANY_OPS),
        # A key that is put twice.
        ([A, B], None),
        ([A, A], DUPLICATE),
        ([A, txn(A)], DUPLICATE),
        ([txn(A), A], DUPLICATE),
        ([txn(A), txn(A)], DUPLICATE),
        ([txn(A), txn(failure=(A,))], DUPLICATE),
        ([txn(txn(A)), A], DUPLICATE),
        ([txn(A, failure=(A,))], None),
        ([txn(A, A)], DUPLICATE),
        # A key that is put and deleted.
        ([A, delete(b"a")], DUPLICATE),
        ([delete(b"a"), A], DUPLICATE),
        ([A, delete(b"b")], None),
        ([A, delete(b"A", b"b")], DUPLICATE),
        ([B, delete(b"a", b"b")], None),
        ([A, delete(b"a\x00", b"b")], None),
        ([A, delete(b"A", b"\x00")], DUPLICATE),
        ([A, delete(b"a", b"\x00")], DUPLICATE),
        ([A, delete(b"b", b"\x00")], None),
        ([A, delete(b"b", b"a")], None),
        ([delete(b"a"), txn(A)], DUPLICATE),
        ([txn(A), delete(b"a")], DUPLICATE),
        ([txn(delete(b"a")), A], DUPLICATE),
        ([A, txn(delete(b"a"))], DUPLICATE),
        ([txn(delete(b"a")), txn(A)], DUPLICATE),
        # As in etcd, what a nested transaction puts a later one may delete.
        ([txn(A), txn(delete(b"a"))], None),
        # Deletes and ranges meet what they like.
        ([delete(b"a"), delete(b"a"), get(b"a"), get(b"a")], None),
    ],
)
def test_transactions(success: list[RequestOp], error: Status | None) -> None:
    """In one branch as in the other."""
    assert check_txn(Plan(TxnRequest(success=success)), MOST) == error
    assert check_txn(Plan(TxnRequest(failure=success)), MOST) == error


def test_branches_do_not_meet() -> None:
    request = TxnRequest(success=[A, B], failure=[B, delete(b"a")])
    assert check_txn(Plan(request), MOST) is None


def test_compares_are_checked_and_counted() -> None:
    compare = Compare(key=b"a")
    assert check_txn(Plan(TxnRequest(compare=[compare] * MOST)), MOST) is None
    assert check_txn(Plan(TxnRequest(compare=[compare] * (MOST + 1))), MOST) == errors.TOO_MANY_OPS
    assert check_txn(Plan(TxnRequest(compare=[Compare()])), MOST) == errors.EMPTY_KEY
