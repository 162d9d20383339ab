"""rusd/mvcc/records.py against protobuf's own encoding."""

from hypothesis import given
from hypothesis import strategies as st

from rusd.mvcc.ranges import item_value, without_value
from rusd.mvcc.records import (
    DELETED,
    delete_event,
    escape,
    event_key,
    item_of,
    signed_varint,
    varint,
)
from rusd.pb.kv_pb2 import Event, KeyValue
from rusd.pb.rpc_pb2 import RangeResponse

lengths = st.sampled_from([0, 1, 2, 126, 127, 128, 129, 16382, 16383, 16384, 16385])
some_bytes = st.one_of(st.binary(max_size=40), lengths.map(lambda size: b"\x80" * size))
some_keys = some_bytes.filter(bool)
revisions = st.one_of(st.integers(1, 300), st.integers(1, 2**63 - 1))
edges = st.sampled_from([b"\x00", b"\x01", b"\xfe", b"\xff", b"a"])
keys_with_edges = st.lists(edges).map(b"".join)


@given(st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1))
def test_varints_are_protobufs(number: int, signed: int) -> None:
    kv = KeyValue(lease=signed)
    expected = kv.SerializeToString()
    assert (b"\x30" + signed_varint(signed) if signed else b"") == expected
    if 0 < number < 2**63:
        assert b"\x10" + varint(number) == KeyValue(create_revision=number).SerializeToString()


def test_varints_at_the_edges_are_protobufs() -> None:
    for bits in range(63):
        for number in (2**bits - 1, 2**bits, 2**bits + 1):
            expected = KeyValue(version=number).SerializeToString()
            assert (b"\x20" + varint(number) if number else b"") == expected
    assert varint(2**64 - 1) == b"\xff" * 9 + b"\x01"


@given(
    some_keys,
    revisions,
    revisions,
    revisions,
    some_bytes,
    st.one_of(st.just(0), st.integers(-(2**63), 2**63 - 1)),
)
def test_an_item_is_an_element_of_an_answer_and_an_event(
    key: bytes, create: int, mod: int, version: int, value: bytes, lease: int
) -> None:
    kv = KeyValue(
        key=key,
        create_revision=create,
        mod_revision=mod,
        version=version,
        value=value,
        lease=lease,
    )
    item = item_of(key, create, mod, version, value, lease)
    assert item == RangeResponse(kvs=[kv]).SerializeToString()
    assert Event.FromString(item) == Event(kv=kv)
    assert event_key(item) == key
    assert item_value(item) == value
    kv.ClearField("value")
    assert without_value(item) == RangeResponse(kvs=[kv]).SerializeToString()


@given(some_keys, revisions)
def test_a_delete_is_an_event(key: bytes, mod: int) -> None:
    event = delete_event(key, mod)
    assert event[0] == DELETED
    assert Event.FromString(event) == Event(
        type=Event.DELETE, kv=KeyValue(key=key, mod_revision=mod)
    )
    assert event_key(event) == key


@given(keys_with_edges, keys_with_edges)
def test_escaped_keys_keep_their_order_and_none_starts_another(one: bytes, two: bytes) -> None:
    assert (escape(one) < escape(two)) == (one < two)
    if one != two:
        assert not escape(one).startswith(escape(two))


@given(keys_with_edges)
def test_a_key_comes_back_from_its_escaped_form(key: bytes) -> None:
    assert escape(key)[:-2].replace(b"\x00\xff", b"\x00") == key
