"""The language of members: what is written is read back, and nothing else is."""

from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rusd.node import peer_wire as wire
from rusd.node.peer_wire import (
    HEAD_BYTES,
    MAX_NUMBER,
    Answer,
    Call,
    FrameKind,
    FrameReader,
    Hello,
    PeerProtocolError,
    Reason,
    RefusedError,
    Welcome,
)
from rusd.pb import peer_pb2 as pb
from rusd.raft.message import ConfState, Entry, EntryKind, Message, MessageKind, Snapshot

ids = st.integers(0, (1 << 64) - 1)
numbers = st.integers(0, MAX_NUMBER)
id_tuples = st.lists(ids, max_size=5).map(tuple)
entries = st.builds(Entry, numbers, numbers, st.binary(max_size=50), st.sampled_from(EntryKind))
snapshots = st.builds(
    Snapshot,
    numbers,
    numbers,
    st.builds(ConfState, id_tuples, id_tuples, id_tuples, id_tuples, st.booleans()),
)
messages = st.builds(
    Message,
    kind=st.sampled_from(MessageKind),
    to=ids,
    sender=ids,
    term=numbers,
    log_term=numbers,
    index=numbers,
    commit=numbers,
    reject=st.booleans(),
    hint=numbers,
    entries=st.lists(entries, max_size=5).map(tuple),
    context=st.binary(max_size=20),
    snapshot=st.none() | snapshots,
)
TYPICAL = b"".join(
    wire.encode_message(
        Message(MessageKind.APPEND, 5, 6, 7, 8, 9, 10, entries=(Entry(7, 10, b"data"),))
    )
)


def message_bytes(encoded: pb.Message, data: bytes = b"") -> memoryview:
    """The payload of a Raft message."""
    head = encoded.SerializeToString()
    return memoryview(len(head).to_bytes(4, "big") + head + data)


def only(data: bytes) -> tuple[int, memoryview]:
    """The one frame that `data` is."""
    reader = FrameReader(1 << 20)
    reader.feed(data)
    (frame,) = reader.frames()
    assert reader.rest() == b""
    return frame


@given(messages)
@example(Message(MessageKind.APPEND, 1, 2, entries=(Entry(1, 2, bytes(40_000)),) * 2))
@example(Message(MessageKind.APPEND, 1, 2, entries=(Entry(1, 2, bytes(40_000)), Entry(1, 3, b""))))
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    kind, payload = only(b"".join(wire.encode_message(message)))
    assert kind == FrameKind.MESSAGE
    assert wire.decode_message(payload) == message


@given(
    st.builds(Hello, st.integers(0, 99), ids, ids, ids, st.text(), st.lists(st.text()).map(tuple))
)
def test_a_hello_is_read_as_it_was_written(hello: Hello) -> None:
    assert wire.decode_hello(*only(wire.encode_hello(hello))) == hello


@given(ids, ids, st.text())
def test_a_welcome_and_a_refusal_are_read_as_they_were_written(a: int, b: int, text: str) -> None:
    welcome = Welcome(a, b, text)
    assert wire.decode_welcome(*only(wire.encode_welcome(welcome))) == welcome
    with pytest.raises(RefusedError) as refused:
        wire.decode_welcome(*only(wire.encode_refusal(RefusedError(Reason.REMOVED, text))))
    assert (refused.value.reason, str(refused.value)) == (Reason.REMOVED, text)


@given(ids, st.integers(0, 99), st.binary(), st.floats(0, 1000), st.none() | st.text())
def test_calls_and_answers_are_read_as_they_were_written(
    number: int, method: int, body: bytes, timeout: float, error: str | None
) -> None:
    call = wire.decode_call(only(wire.encode_call(Call(number, method, timeout, body)))[1])
    assert (call.number, call.method, call.body) == (number, method, body)
    assert timeout <= call.timeout <= timeout + 0.002
    answer = Answer(number, body, error)
    assert wire.decode_answer(only(wire.encode_answer(answer))[1]) == answer


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40))), st.data())
def test_frames_are_found_however_the_bytes_are_cut(
    frames: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(wire.frame(kind, payload) for kind, payload in frames)
    reader = FrameReader(40)
    found: list[tuple[int, memoryview]] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        stream = stream[size:]
        found += islice(reader.frames(), data.draw(st.none() | st.integers(0, 2)))
    found += reader.frames()
    assert [(kind, bytes(payload)) for kind, payload in found] == frames
    assert reader.rest() == b""


@given(st.binary(max_size=30), st.binary(max_size=30), st.integers(0, 60))
def test_what_follows_a_frame_can_be_taken_out(payload: bytes, rest: bytes, cut: int) -> None:
    stream = wire.frame(1, payload) + rest
    reader = FrameReader(30)
    reader.feed(stream[:cut])
    if stream[cut:]:
        reader.feed(stream[cut:])
    kind, found = next(reader.frames())
    assert (kind, bytes(found)) == (1, payload)
    assert reader.rest() == rest
    assert reader.rest() == b""


def test_a_frame_over_the_limit_is_refused_when_its_head_is_there() -> None:
    reader = FrameReader(1000)
    reader.feed(wire.frame(1, bytes(1000)))
    assert [len(payload) for _, payload in reader.frames()] == [1000]
    reader.feed(wire.frame(1, bytes(1001))[:HEAD_BYTES])
    with pytest.raises(PeerProtocolError, match="1001 bytes"):
        list(reader.frames())


def test_a_large_frame_that_comes_in_small_pieces_costs_time_in_proportion() -> None:
    # Joined at every piece these are 128 GiB, and the test would run into its timeout.
    size, piece = 64 << 20, 16 << 10
    reader = FrameReader(size)
    reader.feed(wire.frame(1, bytes(size))[:HEAD_BYTES])
    for _ in range(size // piece):
        assert list(reader.frames()) == []
        reader.feed(bytes(piece))
    assert [len(payload) for _, payload in reader.frames()] == [size]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(sent: bytes) -> None:
    payload = memoryview(sent)
    for kind in FrameKind:
        for decode in (wire.decode_hello, wire.decode_welcome):
            try:
                decode(kind, payload)
            except (PeerProtocolError, RefusedError):
                continue
    for read in (wire.decode_message, wire.decode_call, wire.decode_answer, wire.decode_refusal):
        try:
            read(payload)
        except PeerProtocolError:
            continue


@given(st.data())
def test_a_damaged_message_is_read_or_refused(data: st.DataObject) -> None:
    payload = memoryview(bytearray(TYPICAL[HEAD_BYTES:]))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = wire.decode_message(payload)
    except PeerProtocolError:
        return
    assert message.kind in set(MessageKind)
    assert all(entry.kind in set(EntryKind) for entry in message.entries)
    assert max(message.term, message.index, message.log_term, message.commit) <= MAX_NUMBER


@pytest.mark.parametrize(
    "encoded",
    [
        pb.Message(kind=0),
        pb.Message(kind=15),
        pb.Message(kind=1, term=1 << 63),
        pb.Message(kind=1, log_term=1 << 63),
        pb.Message(kind=1, index=1 << 63),
        pb.Message(kind=1, commit=1 << 63),
        pb.Message(kind=1, hint=1 << 63),
        pb.Message(kind=1, entries=[pb.Entry(term=1 << 63)]),
        pb.Message(kind=1, entries=[pb.Entry(index=1 << 63)]),
        pb.Message(kind=1, entries=[pb.Entry(kind=2)]),
        pb.Message(kind=9, snapshot=pb.Snapshot(index=1 << 63)),
        pb.Message(kind=9, snapshot=pb.Snapshot(term=1 << 63)),
    ],
    ids=repr,
)
def test_kinds_and_numbers_out_of_range_are_refused(encoded: pb.Message) -> None:
    with pytest.raises(PeerProtocolError):
        wire.decode_message(message_bytes(encoded))


ONE_ENTRY = pb.Message(kind=1, entries=[pb.Entry(size=3)])


@pytest.mark.parametrize(
    "payload",
    [
        message_bytes(ONE_ENTRY, b"ab"),
        message_bytes(ONE_ENTRY, b"abcd"),
        message_bytes(pb.Message(kind=1, entries=[pb.Entry(size=1 << 63)]), b"ab"),
        message_bytes(pb.Message(kind=3), b"a"),
        memoryview(b""),
        memoryview(b"\0\0\0"),
        message_bytes(pb.Message(kind=3))[:-1],
    ],
    ids=bytes,
)
def test_a_message_whose_sizes_do_not_agree_is_refused(payload: memoryview) -> None:
    assert wire.decode_message(message_bytes(ONE_ENTRY, b"abc")).entries[0].data == b"abc"
    with pytest.raises(PeerProtocolError):
        wire.decode_message(payload)


def test_a_message_of_too_many_entries_is_refused() -> None:
    for count, refused in ((1 << 20, False), ((1 << 20) + 1, True)):
        # An entry of no field takes two bytes, one of a kind four.
        entries = [pb.Entry(kind=1)] * count
        encoded = message_bytes(pb.Message(entries=entries))
        with pytest.raises(PeerProtocolError, match="head of" if refused else "unknown kind 0"):
            wire.decode_message(encoded)


def test_what_is_no_hello_of_this_protocol_is_refused() -> None:
    magic = pb.Hello(magic=wire.MAGIC, purpose=1).SerializeToString()
    assert wire.decode_hello(FrameKind.HELLO, memoryview(magic)).purpose == 1
    for kind, payload in (
        (FrameKind.HELLO, pb.Hello(magic=1, purpose=1).SerializeToString()),
        (FrameKind.HELLO, b""),
        (FrameKind.MESSAGE, magic),
        # A string that is not UTF-8.
        (FrameKind.HELLO, magic + b"\x1a\x01\xff"),
    ):
        with pytest.raises(PeerProtocolError):
            wire.decode_hello(kind, memoryview(payload))
