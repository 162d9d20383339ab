"""Header blocks: the quick decoder beside hpack, the caches, and what clients really send."""

import random

import pytest
from hpack import Decoder, Encoder, HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from rusd.wire.frames import ConnectionFault, ErrorCode
from rusd.wire.headers import HeaderDecoder, Router
from rusd.wire.limits import Limits
from rusd.wire.service import Call

BATCH: list[Call] = []
CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a.B/C"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("user-agent", "grpc-go/1.71.1"),
    ("te", "trailers"),
]


def decoder() -> HeaderDecoder:
    return HeaderDecoder(Router({b"/a.B/C": BATCH}, [], Limits()), Limits())


names = st.sampled_from(["a", "b", "grpc-timeout", ":path", "user-agent", "x" * 200])
values = st.text(st.characters(codec="ascii"), max_size=200)
blocks = st.lists(st.lists(st.tuples(names, values, st.booleans()), max_size=6), max_size=12)


@settings(deadline=None)
@given(blocks, st.booleans(), st.lists(st.sampled_from([0, 64, 200, 4096]), max_size=12))
def test_the_quick_decoder_agrees_with_hpack(
    lists: list[list[tuple[str, str, bool]]], huffman: bool, sizes: list[int]
) -> None:
    encoder, ours, theirs = Encoder(), decoder(), Decoder()
    for index, fields in enumerate(lists):
        if index < len(sizes):
            encoder.header_table_size = sizes[index]
        block = encoder.encode(fields, huffman=huffman)
        assert ours.fields(block) == [tuple(f) for f in theirs.decode(block, raw=True)]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_the_quick_decoder_refuses_what_hpack_refuses(junk: list[bytes]) -> None:
    ours, theirs = decoder(), Decoder()
    for block in junk:
        try:
            expected = [tuple(f) for f in theirs.decode(block, raw=True)]
        except (HPACKError, IndexError):
            with pytest.raises(ConnectionFault) as fault:
                ours.fields(block)
            assert fault.value.code == ErrorCode.COMPRESSION_ERROR
            return
        assert ours.fields(block) == expected


def test_equal_blocks_give_the_same_opening() -> None:
    encoder, ours = Encoder(), decoder()
    ours.decode(encoder.encode(CALL))
    block = encoder.encode(CALL)
    assert block not in ours.known
    opening = ours.decode(block)
    assert ours.known[block] is opening
    assert opening.batch is BATCH


def test_a_known_block_is_forgotten_when_the_table_changes() -> None:
    """The same bytes mean other headers after an insertion shifted the indexes."""
    encoder, ours = Encoder(), decoder()
    ours.decode(encoder.encode(CALL))
    block = encoder.encode(CALL)
    ours.decode(block)
    ours.decode(encoder.encode([*CALL, ("token", "abc")]))
    assert block not in ours.known
    ours.fields(encoder.encode(CALL))
    ours.decode(encoder.encode(CALL))
    assert ours.known
    ours.fields(b"\x20")  # a table size update to nothing
    assert not ours.known
    with pytest.raises(ConnectionFault):
        ours.decode(block)


def test_a_timeout_that_differs_from_call_to_call_is_each_calls_own() -> None:
    """As grpc-go does it: inserted into the table with every call, evicting old entries."""
    encoder, ours = Encoder(), decoder()
    metadata = set()
    for millis in range(500):
        fields = [*CALL, ("grpc-timeout", f"{4000 + millis}m"), ("hasleader", "true")]
        opening = ours.decode(encoder.encode(fields))
        assert opening.head.timeout == pytest.approx(4 + millis / 1000)
        assert opening.batch is BATCH
        assert b"grpc-timeout" not in opening.head.metadata
        assert opening.head.metadata[b"hasleader"] == b"true"
        metadata.add(id(opening.head.metadata))
    assert len(metadata) == 1, "metadata is not shared"


def test_the_caches_are_bounded() -> None:
    ours = decoder()
    router = ours._router
    for index in range(router.REMEMBERED + 10):
        ours.decode(Encoder().encode([*CALL, ("x", str(index), True)], huffman=False))
    assert len(ours.known) <= ours.KNOWN_BLOCKS
    assert len(router._known) <= router.REMEMBERED


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([0, 100, 300, 1000, 4096]))
def test_what_is_remembered_of_blocks_never_gives_another_calls_headers(
    seed: int, huffman: bool, size: int
) -> None:
    """Hundreds of calls with timeouts, so that the entries' numbers come round more than once."""
    rng = random.Random(seed)
    encoder, ours, theirs = Encoder(), decoder(), Decoder()
    for index in range(450):
        if index == 200:
            encoder.header_table_size = size
        fields: list[tuple[str, str] | tuple[str, str, bool]] = [*CALL]
        fields += [("m", str(rng.randint(0, 3)))] * rng.randint(0, 1)
        fields.append(("grpc-timeout", f"{rng.randint(0, 99999)}m", rng.random() < 0.2))
        fields += [(f"x-{rng.randint(0, 2)}", str(rng.randint(0, 2)))] * rng.randint(0, 1)
        block = encoder.encode(fields, huffman=huffman)
        head = ours.decode(block).head
        expected = dict(theirs.decode(block, raw=True))
        assert head.timeout == pytest.approx(int(expected.pop(b"grpc-timeout")[:-1]) / 1000)
        assert head.path == expected[b":path"]
        regular = {name: value for name, value in expected.items() if name[:1] != b":"}
        assert head.metadata == regular


def test_an_entry_that_was_evicted_is_gone_also_from_what_is_remembered() -> None:
    ours = decoder()
    timeout = b"\x00\x0cgrpc-timeout\x021S"
    static = b"\x83\x86\x5f\x10application/grpc"  # the content type is inserted
    ours.decode(static + b"\x44\x06/a.B/C" + timeout)
    assert ours.decode(b"\x83\x86\xbe\xbf" + timeout).batch is BATCH
    assert ours.decode(b"\x83\x86\xbe\xbf" + timeout).batch is BATCH
    ours.fields(b"\x40\x01x\x7f\xa9\x1e" + bytes(4008))  # leaves no room for them
    with pytest.raises(ConnectionFault) as fault:
        ours.decode(b"\x83\x86\xbf\xc0" + timeout)
    assert fault.value.code == ErrorCode.COMPRESSION_ERROR
