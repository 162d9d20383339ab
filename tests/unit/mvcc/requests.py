"""Random requests on few keys, so that they meet."""

from hypothesis import strategies as st

from rusd.pb.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

LEASES = (7, -8)
"""Leases that exist; 9 does not."""

KEYS = (
    b"a",
    b"a\x00",
    b"a\x00\xff",
    b"a\x00\x01",
    b"a\xff",
    b"ab",
    b"b",
    b"b\x00\x00",
    b"\x00",
    b"\x00\xff",
    b"\xff",
    b"\xff\xff\x00",
)
keys = st.sampled_from(KEYS)
ends = st.one_of(st.just(b""), st.just(b"\x00"), st.sampled_from((*KEYS, b"a\x01", b"c")))
few = st.integers(-1, 9)
revisions = st.one_of(st.just(0), st.just(0), st.integers(-3, 40))
bounds = st.one_of(st.just(0), st.just(0), st.integers(1, 30))
values = st.one_of(st.just(b""), st.binary(max_size=3), st.just(b"long" * 200))


def _one_in(count: int) -> st.SearchStrategy[bool]:
    return st.integers(1, count).map(lambda number: number == count)


puts = st.builds(
    PutRequest,
    key=keys,
    value=values,
    lease=st.sampled_from((0, 0, 0, *LEASES, 9)),
    prev_kv=st.booleans(),
    ignore_value=_one_in(4),
    ignore_lease=_one_in(4),
)
plain_puts = st.builds(PutRequest, key=keys, value=values)
delete_ranges = st.builds(DeleteRangeRequest, key=keys, range_end=ends, prev_kv=st.booleans())
ranges = st.builds(
    RangeRequest,
    key=keys,
    range_end=ends,
    limit=few,
    revision=revisions,
    sort_order=st.sampled_from((0, 0, 0, 1, 2)),
    sort_target=st.sampled_from((0, 0, 0, 1, 2, 3, 4)),
    keys_only=_one_in(4),
    count_only=_one_in(5),
    min_mod_revision=bounds,
    max_mod_revision=bounds,
    min_create_revision=bounds,
    max_create_revision=bounds,
)
all_keys = st.builds(
    RangeRequest, key=st.just(b"\x00"), range_end=st.just(b"\x00"), revision=revisions
)
any_ranges = st.one_of(
    ranges,
    all_keys,
    st.builds(RangeRequest, key=keys),
    st.builds(RangeRequest, key=keys, range_end=ends),
)


def _compare(target: int, number: int, value: bytes) -> Compare:
    compare = Compare(target=target)  # type: ignore[arg-type]
    if target == Compare.VALUE:
        compare.value = value
    elif target == Compare.LEASE:
        compare.lease = number if number < 3 else LEASES[number % 2]
    elif target == Compare.VERSION:
        compare.version = number // 4
    elif target == Compare.CREATE:
        compare.create_revision = number
    else:
        compare.mod_revision = number
    return compare


@st.composite
def compares(draw: st.DrawFn) -> Compare:
    compare = _compare(draw(st.integers(0, 4)), draw(st.integers(0, 20)), draw(values))
    compare.result = draw(st.integers(0, 3))  # type: ignore[assignment]
    compare.key = draw(keys)
    compare.range_end = draw(st.one_of(st.just(b""), ends))
    return compare


_operations = st.one_of(
    st.builds(RequestOp, request_put=puts),
    st.builds(RequestOp, request_range=any_ranges),
    st.builds(RequestOp, request_delete_range=delete_ranges),
)


def _txn_of(operations: st.SearchStrategy[RequestOp]) -> st.SearchStrategy[TxnRequest]:
    return st.builds(
        TxnRequest,
        compare=st.lists(compares(), max_size=2),
        success=st.lists(operations, max_size=4),
        failure=st.lists(operations, max_size=3),
    )


guarded_puts = st.builds(
    lambda guard, mod, put, read: TxnRequest(
        compare=[Compare(key=guard, target=Compare.MOD, mod_revision=mod)],
        success=[RequestOp(request_put=put)],
        failure=[RequestOp(request_range=RangeRequest(key=key)) for key in read],
    ),
    keys,
    st.one_of(st.just(0), st.integers(0, 40)),
    st.one_of(plain_puts, puts),
    st.lists(keys, max_size=1),
)
"""What a Kubernetes API server writes."""

txns = st.one_of(
    _txn_of(_operations),
    _txn_of(
        st.one_of(_operations, st.builds(RequestOp, request_txn=_txn_of(_operations)), _operations)
    ),
    guarded_puts,
)
