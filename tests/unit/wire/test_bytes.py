"""Properties of the byte stream: how it is cut does not matter, and no damage to it does harm."""

import asyncio
import gzip
import random
import time
from itertools import pairwise

from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from rusd.wire import frames
from rusd.wire.frames import ErrorCode, Setting
from rusd.wire.server import Limits

from .memory import Memory, settle
from .peer import RawClient, Serving, prefixed

HELLO = frames.PREFACE + frames.settings({}) + frames.frame(4, 1, 0)
FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Test/Echo"),
    (":authority", "somewhere"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def conversation(rng: random.Random) -> bytes:
    """What a correct client might send: calls of all kinds, in frames of all shapes."""
    encoder = Encoder()
    queues: list[list[bytes]] = []
    for index in range(rng.randint(1, 8)):
        stream_id = 2 * index + 1
        method = rng.choice(["Echo", "Bidi", "Large", "Fail", "None"])
        fields = [*FIELDS]
        fields[2] = (":path", f"/test.Test/{method}")
        if rng.random() < 0.5:
            fields.append(("grpc-timeout", f"{rng.randint(1, 99999999)}S"))
        fields += [(f"x-{n}", "y" * rng.randint(0, 300)) for n in range(rng.randint(0, 3))]
        # Encoded in the order of sending: all HEADERS go out before any DATA.
        block = encoder.encode(fields, huffman=rng.random() < 0.5)
        cut = rng.randint(0, len(block))
        head = frames.frame(1, 0, stream_id, block[:cut])
        head += frames.frame(9, 4, stream_id, block[cut:])
        queues.append([head if rng.random() < 0.5 else frames.frame(1, 4, stream_id, block)])
        count = rng.randint(0, 4) if method == "Bidi" else 1
        size = rng.choice([0, 3, 3000])
        message = b"7" if method == "Large" else b"x" * rng.randint(0, size)
        body = prefixed(message) * count
        while body:
            cut = rng.randint(1, len(body))
            piece, body = body[:cut], body[cut:]
            end = not body and rng.random() < 0.7
            if rng.random() < 0.3:
                pad = rng.randint(0, 20)
                piece = bytes((pad,)) + piece + bytes(pad)
                queues[-1].append(frames.frame(0, 8 | end, stream_id, piece))
            else:
                queues[-1].append(frames.frame(0, end, stream_id, piece))
            if end:
                break
        else:
            queues[-1].append(frames.frame(0, 1, stream_id))
        if rng.random() < 0.2:
            queues[-1].insert(1, frames.window_update(stream_id, rng.randint(1, 1000)))
        if rng.random() < 0.1:
            queues[-1].append(frames.rst_stream(stream_id, ErrorCode.CANCEL))
    out = [HELLO, *(queue.pop(0) for queue in queues)]
    while queues:
        queue = rng.choice(queues)
        if queue:
            out.append(queue.pop(0))
        else:
            queues.remove(queue)
    return b"".join(out)


def answers(data: bytes) -> dict[int, tuple[bytes, bytes]]:
    """By stream: the bytes of its header blocks and of its body."""
    found: dict[int, tuple[bytes, bytes]] = {}
    position = 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 3], "big")
        kind = data[position + 3]
        stream_id = int.from_bytes(data[position + 5 : position + 9], "big")
        payload = data[position + 9 : position + 9 + length]
        position += 9 + length
        if kind in (frames.HEADERS, frames.DATA, frames.RST_STREAM, frames.GOAWAY):
            blocks, body = found.get(stream_id, (b"", b""))
            if kind == frames.DATA:
                found[stream_id] = blocks, body + payload
            else:
                found[stream_id] = blocks + payload, body
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_how_the_bytes_are_cut_does_not_matter(seed: int, data: st.DataObject) -> None:
    stream = conversation(random.Random(seed))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20)) if seed % 3 else None
    edges = sorted({0, len(stream), *(cuts if cuts is not None else range(len(stream)))})
    pieces = [stream[a:b] for a, b in pairwise(edges)]

    async def both() -> tuple[bytes, bytes]:
        return await Memory().feed([stream]), await Memory().feed(pieces)

    whole, cut = asyncio.run(both())
    # What a cancelled call got before the cancellation depends on the turn; all else must agree.
    reset = {
        int.from_bytes(stream[i + 5 : i + 9], "big")
        for i in range(len(stream) - 12)
        if stream[i : i + 5] == b"\0\0\4\3\0"
    }
    in_whole, in_cut = answers(whole), answers(cut)
    assert in_whole.keys() - reset == in_cut.keys() - reset
    assert all(in_whole[i] == in_cut[i] for i in in_whole.keys() - reset)
    assert 0 not in answers(whole), "a correct client was sent away"


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 6), cut=st.booleans())
def test_damaged_bytes_end_in_an_answer_or_a_named_error(seed: int, flips: int, cut: bool) -> None:
    rng = random.Random(seed)
    stream = bytearray(conversation(rng))
    for _ in range(flips):
        stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
    if cut:
        del stream[rng.randrange(len(stream)) :]

    async def feed() -> Memory:
        memory = Memory()
        await memory.feed([bytes(stream)])
        connection = memory.connection
        connection.connection_lost(None)
        assert connection.idle
        assert not connection._outgoing._blocked
        assert connection._outgoing.waiting == 0
        assert connection._partial == 0
        return memory

    memory = asyncio.run(feed())
    codes = [
        int.from_bytes(block[4:8], "big")
        for stream_id, (block, _) in answers(bytes(memory.pipe.written)).items()
        if stream_id == 0
    ]
    assert ErrorCode.INTERNAL_ERROR not in codes


def test_damage_on_one_connection_does_not_harm_another(shared: Serving) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with RawClient(shared.port) as healthy:
        for _ in range(60):
            with RawClient(shared.port, greet=False) as damaged:
                stream = bytearray(conversation(rng))
                stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
                damaged.send(bytes(stream[: rng.randint(1, len(stream))]))
            healthy.works()


@settings(max_examples=100, deadline=None)
@given(junk=st.binary(max_size=300))
def test_any_header_block_is_decoded_or_refused(junk: bytes) -> None:
    async def feed() -> bytes:
        memory = Memory()
        written = await memory.feed([HELLO + frames.frame(1, 5, 1, junk)])
        assert memory.pipe.closed or 1 in answers(written)
        return written

    assert b"internal error" not in asyncio.run(feed())


def test_overrunning_the_connections_window_is_a_connection_error() -> None:
    async def overrun() -> bytes:
        memory = Memory(Limits(receive_window=65535))
        encoder = Encoder()
        block = [encoder.encode(FIELDS) for _ in range(3)]
        head = [frames.frame(1, 4, 2 * i + 1, block[i]) for i in range(3)]
        data = [frames.frame(0, 0, i, prefixed(bytes(60000))[:16384]) for i in (1, 3, 5)] * 2
        return await memory.feed([HELLO, b"".join(head + data)])

    goaway = answers(asyncio.run(overrun()))[0][0]
    assert int.from_bytes(goaway[4:8], "big") == ErrorCode.FLOW_CONTROL_ERROR


def test_one_large_read_is_handled_in_slices() -> None:
    async def read() -> None:
        memory = Memory(Limits(frames_per_slice=100))
        encoder = Encoder()
        await memory.feed([HELLO])
        calls = [
            frames.frame(1, 4, i, encoder.encode(FIELDS)) + frames.frame(0, 1, i, prefixed(b""))
            for i in range(1, 801, 2)
        ]
        memory.connection.data_received(b"".join(calls))
        assert not memory.pipe.reading, "reads on although a slice is waiting"
        sizes: list[int] = []
        while not memory.pipe.reading:
            await asyncio.sleep(0)
        await settle()
        while not memory.service.events.empty():
            sizes.append(int(memory.service.events.get()[1]))
        assert sum(sizes) == 400
        assert max(sizes) <= 50

    asyncio.run(read())


def test_decompression_counts_as_work() -> None:
    async def read() -> None:
        memory = Memory()
        encoder = Encoder()
        body = frames.frame(0, 1, 0, prefixed(gzip.compress(bytes(2_000_000)), 1))
        calls = [
            frames.frame(1, 4, i, encoder.encode([*FIELDS, ("grpc-encoding", "gzip")]))
            + body[:5]
            + i.to_bytes(4, "big")
            + body[9:]
            for i in range(1, 9, 2)
        ]
        memory.connection.data_received(HELLO + b"".join(calls))
        assert not memory.pipe.reading, "inflated 8 MB in one slice"
        while not memory.pipe.reading:
            await asyncio.sleep(0)
        await settle()
        assert sum(int(count) for _, count in memory.service.events.queue) == 4

    asyncio.run(read())


def test_keep_alive_waits_while_the_server_does_not_read() -> None:
    """It would not see the answer to its ping."""

    async def stuff() -> None:
        memory = Memory(Limits(send_buffer_high=1000))
        memory.pipe.stuck = True
        call = frames.frame(1, 4, 1, Encoder().encode(FIELDS))
        await memory.feed([HELLO, call + frames.frame(0, 1, 1, prefixed(bytes(2000)))])
        for later in (1e5, 2e5):
            memory.connection.check(time.monotonic() + later)
        assert not memory.pipe.closed

    asyncio.run(stuff())


def test_a_peer_that_does_not_read_is_not_read() -> None:
    async def stuff() -> None:
        memory = Memory(Limits(send_buffer_high=1000))
        memory.pipe.stuck = True
        encoder = Encoder()
        call = frames.frame(1, 4, 1, encoder.encode(FIELDS))
        await memory.feed([HELLO, call + frames.frame(0, 1, 1, prefixed(bytes(2000)))])
        assert not memory.pipe.reading
        memory.pipe.unread = 10
        memory.connection.resume_writing()
        assert memory.pipe.reading

    asyncio.run(stuff())


def test_answers_that_nobody_takes_are_bounded() -> None:
    async def stuff() -> dict[int, tuple[bytes, bytes]]:
        memory = Memory(Limits(max_waiting_replies=100_000))
        encoder = Encoder()
        fields = [*FIELDS]
        fields[2] = (":path", "/test.Test/Large")
        calls = [
            frames.frame(1, 4, i, encoder.encode(fields))
            + frames.frame(0, 1, i, prefixed(b"90000"))
            for i in (1, 3, 5)
        ]
        hello = frames.PREFACE + frames.settings({Setting.INITIAL_WINDOW_SIZE: 0})
        written = await memory.feed([hello, b"".join(calls)])
        assert memory.connection._outgoing.waiting <= 100_000
        return answers(written)

    found = asyncio.run(stuff())
    assert b"grpc-status\x018" in found[3][0]
    assert b"grpc-status\x018" in found[5][0]


def test_new_streams_are_refused_while_too_many_answers_wait() -> None:
    async def stuff() -> dict[int, tuple[bytes, bytes]]:
        memory = Memory(Limits(max_waiting_replies=50_000))
        encoder = Encoder()
        fields = [*FIELDS]
        fields[2] = (":path", "/test.Test/Large")
        hello = frames.PREFACE + frames.settings({Setting.INITIAL_WINDOW_SIZE: 0})
        first = frames.frame(1, 4, 1, encoder.encode(fields))
        first += frames.frame(0, 1, 1, prefixed(b"90000"))
        await memory.feed([hello, first])
        return answers(await memory.feed([frames.frame(1, 4, 3, encoder.encode(fields))]))

    assert asyncio.run(stuff())[3][0] == bytes((0, 0, 0, ErrorCode.REFUSED_STREAM))
