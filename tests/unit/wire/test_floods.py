"""Each limit that keeps one client from taking more than its share, met by a client that tries."""

import time

import pytest

from rusd.wire import frames
from rusd.wire.frames import ErrorCode, Setting
from rusd.wire.server import Limits

from .peer import RawClient, Serving, prefixed, serving

CALM = ErrorCode.ENHANCE_YOUR_CALM
FEW = Limits(control_burst=50, control_rate=0.1, reset_burst=50, reset_rate=0.1)


@pytest.fixture(scope="module")
def strict() -> "Serving":  # type: ignore[misc]
    """A server that loses its patience soon."""
    with serving(FEW) as running:
        yield running


def test_rapid_reset(strict: Serving) -> None:
    with RawClient(strict.port) as client:
        for _ in range(60):
            client.send(frames.rst_stream(client.open("/test.Test/Hold"), ErrorCode.CANCEL))
        assert client.goaway() == (CALM, "too many streams reset")


def test_resets_that_the_client_provokes_count_too(strict: Serving) -> None:
    with RawClient(strict.port) as client:
        for _ in range(60):
            client.send(frames.window_update(client.open("/test.Test/Hold"), 0))
        assert client.goaway() == (CALM, "too many streams reset")


def test_answered_calls_may_be_reset_without_end(strict: Serving) -> None:
    with RawClient(strict.port) as client:
        for _ in range(100):
            stream_id = client.open()
            client.data(stream_id, prefixed(b""))
            client.answer(stream_id)
            client.send(frames.rst_stream(stream_id, ErrorCode.CANCEL))
        client.works()


@pytest.mark.parametrize(
    "flood",
    [
        frames.settings({Setting.MAX_FRAME_SIZE: 20000}),
        frames.frame(0, 0, 1),
        frames.frame(0, 8, 1, b"\x05" + bytes(5)),
        frames.frame(2, 0, 1, bytes(5)),
        frames.frame(0xEE, 0, 0),
    ],
    ids=["settings", "empty data", "data of padding", "priority", "unknown"],
)
def test_control_frames(strict: Serving, flood: bytes) -> None:
    with RawClient(strict.port) as client:
        client.open()
        client.send(flood * 60)
        assert client.goaway() == (CALM, "too many control frames")


def test_continuation_flood_in_many_frames(strict: Serving) -> None:
    with RawClient(strict.port) as client:
        client.send(frames.frame(1, 0, 1, b"\x82"), frames.frame(9, 0, 1) * 100)
        assert client.goaway() == (CALM, "header block too long")


def test_continuation_flood_in_many_bytes(strict: Serving) -> None:
    with RawClient(strict.port) as client:
        client.send(frames.frame(1, 0, 1, b"\x82"), frames.frame(9, 0, 1, bytes(16384)) * 6)
        assert client.goaway() == (CALM, "header block too long")


def test_a_header_list_over_the_limit_is_http_431_and_hpack_stays_in_step(
    strict: Serving,
) -> None:
    with RawClient(strict.port) as client:
        stream_id = client.stream_id()
        block = client.block("/test.Test/Echo", ("large", "y" * 20_000))
        client.send(frames.frame(1, 0, stream_id, block[:10_000]))
        client.send(frames.frame(9, 4, stream_id, block[10_000:]))
        assert client.answer(stream_id).headers[":status"] == "431"
        client.works()


def test_a_header_list_that_hpack_blows_up_ends_the_connection(strict: Serving) -> None:
    with RawClient(strict.port) as client:
        # One entry of 4,000 bytes in the table, then named 10,000 times: 40 MB in 14 KB.
        entry = b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000
        client.send(frames.frame(1, 4, 1, entry + b"\xbe" * 10_000))
        assert client.goaway() == (CALM, "header list far over the limit")


def test_pings_without_need_are_too_many(strict: Serving) -> None:
    with RawClient(strict.port) as client:
        client.open("/test.Test/Hold")
        for _ in range(4):
            client.send(frames.frame(6, 0, 0, bytes(8)))
        assert client.goaway() == (CALM, "too_many_pings")


def test_pings_with_answers_between_them_are_welcome(strict: Serving) -> None:
    with RawClient(strict.port) as client:
        for _ in range(10):
            client.send(frames.frame(6, 0, 0, bytes(8)))
            client.works()


def test_an_answer_forgives_the_pings_before_it(strict: Serving) -> None:
    with RawClient(strict.port) as client:
        client.open("/test.Test/Hold")
        for _ in range(4):
            for _ in range(2):
                client.sync()
            client.works()


def test_pings_of_an_idle_client_are_too_many_whatever_their_pace() -> None:
    with serving(Limits(keepalive_min_time=0.001)) as running, RawClient(running.port) as client:
        for _ in range(4):
            client.sync_or_end()
            time.sleep(0.002)  # the pace is what is tested
        assert client.received[-1].payload.endswith(b"too_many_pings")


def test_pings_at_the_allowed_pace_are_welcome_while_a_call_is_open() -> None:
    with serving(Limits(keepalive_min_time=0.001)) as running, RawClient(running.port) as client:
        client.open("/test.Test/Hold")
        for _ in range(10):
            client.sync()
            time.sleep(0.002)
        client.works()


def test_unfinished_messages_are_bounded() -> None:
    limits = Limits(max_partial_bytes=100_000)
    with serving(limits) as running, RawClient(running.port) as client:
        ids = [client.open() for _ in range(3)]
        for stream_id in ids:
            for _ in range(3):
                client.data(stream_id, prefixed(bytes(60_000))[:16384], end=False)
        answer = client.answer(ids[2])
        assert answer.headers["grpc-status"] == "8"
        client.send(frames.rst_stream(ids[0], ErrorCode.CANCEL))
        client.works()


def test_large_messages_are_let_in_one_after_another() -> None:
    limits = Limits(large_message_budget=2_100_000)
    with serving(limits) as running, RawClient(running.port) as client:
        client.send(frames.window_update(0, 1 << 30))
        body = prefixed(bytes(2_000_000))
        ids = [client.open() for _ in range(3)]
        window = dict.fromkeys(ids, 65535)
        sent = dict.fromkeys(ids, 0)
        while any(sent[i] < len(body) for i in ids):
            for i in ids:
                while sent[i] < len(body) and window[i]:
                    size = min(16384, window[i], len(body) - sent[i])
                    last = sent[i] + size == len(body)
                    client.data(i, body[sent[i] : sent[i] + size], end=last)
                    sent[i] += size
                    window[i] -= size
            admitted = [i for i in ids if window[i] + sent[i] > 65535 and sent[i] < len(body)]
            assert len(admitted) <= 1
            if any(sent[i] < len(body) for i in ids):
                update = client.until(lambda f: f.kind == frames.WINDOW_UPDATE and f.stream_id)
                window[update.stream_id] += int.from_bytes(update.payload, "big")
        client.send(*(frames.window_update(i, 1 << 30) for i in ids))
        remaining = set(ids)
        while remaining:
            frame = client.until(lambda f: f.kind == frames.HEADERS and bool(f.flags & 1))
            remaining.remove(frame.stream_id)
