"""HTTP/2 as RFC 9113 has it, frame by frame over a socket: calls, states, errors and codes."""

import gzip

import pytest

from rusd.wire import frames
from rusd.wire.frames import ErrorCode
from rusd.wire.server import Limits

from .peer import RawClient, Serving, prefixed, serving

FRAME, RST, GO, WINDOW = frames.frame, frames.RST_STREAM, frames.GOAWAY, frames.WINDOW_UPDATE


def test_a_unary_call_is_answered(client: RawClient) -> None:
    answer = client.call("/test.Test/Echo", b"hello")
    assert answer.messages == [b"hello"]
    assert answer.headers == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "0",
    }


def test_calls_that_arrive_together_are_handled_together(shared: Serving) -> None:
    with RawClient(shared.port) as client:
        ids = [client.stream_id() for _ in range(50)]
        client.send(
            *(FRAME(1, 4, i, client.block()) + FRAME(0, 1, i, prefixed(b"%d" % i)) for i in ids)
        )
        assert [client.answer(i).messages for i in ids] == [[b"%d" % i] for i in ids]
        shared.service.expect(("batch", "50"))


def test_a_request_may_come_in_many_data_frames(client: RawClient) -> None:
    stream_id = client.open()
    body = prefixed(bytes(range(256)) * 4)
    for index in range(0, len(body), 100):
        client.data(stream_id, body[index : index + 100], end=False)
    client.data(stream_id, b"")
    assert client.answer(stream_id).messages == [body[5:]]


def test_padding_and_priority_are_ignored(client: RawClient) -> None:
    stream_id = client.stream_id()
    block = client.block()
    client.send(FRAME(2, 0, stream_id, bytes(5)))
    client.send(FRAME(1, 4 | 8 | 32, stream_id, b"\3" + bytes(5) + block + bytes(3)))
    client.send(FRAME(0, 1 | 8, stream_id, b"\7" + prefixed(b"padded") + bytes(7)))
    assert client.answer(stream_id).messages == [b"padded"]


def test_a_header_block_may_come_in_pieces(client: RawClient) -> None:
    stream_id = client.stream_id()
    block = client.block()
    client.send(FRAME(1, 0, stream_id, block[:3]), FRAME(9, 0, stream_id, block[3:9]))
    client.send(FRAME(9, 4, stream_id, block[9:]))
    client.data(stream_id, prefixed(b"pieces"))
    assert client.answer(stream_id).messages == [b"pieces"]


def test_unknown_frames_and_settings_are_ignored(client: RawClient) -> None:
    client.send(FRAME(0xBB, 0xFF, 77, b"what"), FRAME(4, 0, 0, b"\x7f\x7f\0\0\0\1"))
    client.works()


def test_trailers_from_the_client_end_the_request(client: RawClient) -> None:
    stream_id = client.open()
    client.data(stream_id, prefixed(b"with trailers"), end=False)
    client.send(FRAME(1, 5, stream_id, client.encoder.encode([("checksum", "1")])))
    assert client.answer(stream_id).messages == [b"with trailers"]


def test_the_reserved_bit_of_a_stream_id_is_ignored(client: RawClient) -> None:
    stream_id = client.stream_id()
    client.send(FRAME(1, 4, stream_id | 1 << 31, client.block()))
    client.send(FRAME(0, 1, stream_id | 1 << 31, prefixed(b"bit")))
    assert client.answer(stream_id).messages == [b"bit"]


def test_ping_is_answered_with_its_payload(client: RawClient) -> None:
    client.send(FRAME(6, 0, 0, b"12345678"))
    pong = client.until(lambda f: f.kind == frames.PING)
    assert (pong.flags, pong.payload) == (1, b"12345678")


def test_a_client_that_resets_a_stream_gets_no_answer(shared: Serving) -> None:
    service = shared.service
    with RawClient(shared.port) as client:
        stream_id = client.open("/test.Test/Hold")
        client.data(stream_id, prefixed(b""))
        service.expect(("held", "1"))
        client.send(frames.rst_stream(stream_id, ErrorCode.CANCEL))
        client.works()  # so the reset has been read
        call = service.held.pop()
        shared.run(lambda: call[0].reply(call[1], b"too late"))
        shared.run(lambda: call[0].fail(call[1], (1, "too late")))  # type: ignore[arg-type]
        client.works()
        assert not [f for f in client.received if f.stream_id == stream_id]


def test_an_answer_after_the_connection_is_lost_is_no_error(shared: Serving) -> None:
    service = shared.service
    with RawClient(shared.port) as client:
        client.data(client.open("/test.Test/Hold"), prefixed(b""))
        service.expect(("held", "1"))
    call = service.held.pop()
    connections = shared.server._connections
    while call[0] in connections:
        shared.run(lambda: None)
    shared.run(lambda: call[0].reply(call[1], b"too late"))


# --- send windows -------------------------------------------------------------------------------


def test_an_answer_waits_for_the_streams_window(shared: Serving) -> None:
    with RawClient(shared.port, initial_window_size=10) as client:
        stream_id = client.open("/test.Test/Large")
        client.data(stream_id, prefixed(b"100"))
        assert client.until(lambda f: f.kind == 0).payload == prefixed(bytes(100))[:10]
        client.send(frames.window_update(stream_id, 50))
        assert len(client.until(lambda f: f.kind == 0).payload) == 50
        client.send(frames.window_update(stream_id, 1000))
        assert len(client.until(lambda f: f.kind == 0).payload) == 45
        assert client.until(lambda f: f.kind == 1 and f.flags == 5).stream_id == stream_id


def test_an_answer_waits_for_the_connections_window(shared: Serving) -> None:
    with RawClient(shared.port, initial_window_size=1 << 20) as client:
        ids = [client.open("/test.Test/Large") for _ in range(4)]
        for stream_id in ids:
            client.data(stream_id, prefixed(b"40000"))
        got = dict.fromkeys(ids, 0)
        while sum(got.values()) < 65535:
            frame = client.until(lambda f: f.kind == 0)
            got[frame.stream_id] += len(frame.payload)
        assert sum(got.values()) == 65535
        client.sync()
        client.send(frames.window_update(0, 1 << 20))
        while sum(got.values()) < 4 * 40005:
            frame = client.until(lambda f: f.kind == 0)
            got[frame.stream_id] += len(frame.payload)
        assert set(got.values()) == {40005}


def test_streams_share_the_connections_window_fairly(shared: Serving) -> None:
    with RawClient(shared.port, initial_window_size=1 << 20) as client:
        ids = [client.open("/test.Test/Large") for _ in range(4)]
        for stream_id in ids:
            client.data(stream_id, prefixed(b"400000"))
        got = dict.fromkeys(ids, 0)

        def read(size: int) -> None:
            while size:
                frame = client.until(lambda f: f.kind == 0)
                got[frame.stream_id] += len(frame.payload)
                size -= len(frame.payload)

        read(65535)
        client.sync()
        got = dict.fromkeys(ids, 0)
        client.send(frames.window_update(0, 8 * 16384))
        read(8 * 16384)
        assert max(got.values()) - min(got.values()) <= 16384


def test_a_new_initial_window_adjusts_open_streams(shared: Serving) -> None:
    with RawClient(shared.port, initial_window_size=10) as client:
        stream_id = client.open("/test.Test/Large")
        client.data(stream_id, prefixed(b"100"))
        client.until(lambda f: f.kind == 0)
        # 10 of 10 are spent: a window of 4 means that 6 are overdrawn, one of 30 leaves 20.
        client.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 4}))
        client.until(lambda f: f.kind == 4 and f.flags == 1)
        client.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 30}))
        # The acknowledgement comes first: until then the old window holds.
        assert client.until(lambda f: f.kind in (0, 4)).kind == frames.SETTINGS
        assert len(client.until(lambda f: f.kind == 0).payload) == 20


def test_frames_are_as_large_as_the_client_allows(shared: Serving) -> None:
    with RawClient(shared.port, initial_window_size=1 << 20, max_frame_size=20000) as client:
        client.send(frames.window_update(0, 1 << 20))
        client.data(client.open("/test.Test/Large"), prefixed(b"50000"))
        sizes = [len(client.until(lambda f: f.kind == 0).payload) for _ in range(3)]
        assert sizes == [20000, 20000, 10005]


def test_a_window_update_for_a_call_in_progress_counts(shared: Serving) -> None:
    with RawClient(shared.port, initial_window_size=10) as client:
        stream_id = client.open("/test.Test/Hold")
        client.data(stream_id, prefixed(b""))
        shared.service.expect(("held", "1"))
        client.send(frames.window_update(stream_id, 1000))
        client.sync()
        call = shared.service.held.pop()
        shared.run(lambda: call[0].reply(call[1], bytes(900)))
        assert client.answer(stream_id).messages == [bytes(900)]


# --- receive windows ----------------------------------------------------------------------------


def test_receive_windows_are_replenished(client: RawClient) -> None:
    stream_id = client.open()
    body = prefixed(bytes(2_000_000))
    stream_window = 65535
    position = 0
    while position < len(body):
        size = min(16384, stream_window, len(body) - position)
        if not size:
            update = client.until(lambda f: f.kind == WINDOW and f.stream_id == stream_id)
            stream_window += int.from_bytes(update.payload, "big")
            continue
        client.data(stream_id, body[position : position + size], end=False)
        position += size
        stream_window -= size
    client.data(stream_id, b"")
    client.send(frames.window_update(0, 1 << 30), frames.window_update(stream_id, 1 << 30))
    assert client.answer(stream_id).messages == [body[5:]]


def test_overrunning_a_streams_window_is_a_stream_error(client: RawClient) -> None:
    stream_id = client.open()
    body = prefixed(bytes(200_000))
    # The length is known from the first frame, and the window opens for so much and no more.
    for _ in range(13):
        client.data(stream_id, body[:16384], end=False)
    assert client.reset_code(stream_id) == ErrorCode.FLOW_CONTROL_ERROR
    client.works()


# --- stream errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "changes"),
    [
        pytest.param([("Upper", "x")], {}, id="upper-case name"),
        pytest.param([("connection", "close")], {}, id="connection-specific field"),
        pytest.param([("transfer-encoding", "chunked")], {}, id="transfer-encoding"),
        pytest.param([("te", "gzip")], {}, id="te other than trailers"),
        pytest.param([(":path", "/again")], {}, id="pseudo-header after regular field"),
        pytest.param([("x", "a\r\nb")], {}, id="line break in a value"),
        pytest.param([("x", " a")], {}, id="space before a value"),
        pytest.param([("x y", "a")], {}, id="space in a name"),
        pytest.param([], {"method": ""}, id="no method"),
        pytest.param([], {"scheme": ""}, id="no scheme"),
        pytest.param([], {"path": ""}, id="no path"),
        pytest.param([], {"status": "200"}, id="response pseudo-header"),
        pytest.param([], {"unknown": "1"}, id="unknown pseudo-header"),
        pytest.param([("content-length", "x")], {}, id="content-length no number"),
        pytest.param([("content-length", "6"), ("content-length", "7")], {}, id="two lengths"),
    ],
)
def test_malformed_headers_are_a_stream_error(
    client: RawClient, more: list[tuple[str, str]], changes: dict[str, str]
) -> None:
    stream_id = client.stream_id()
    client.send(FRAME(1, 4, stream_id, client.block("/test.Test/Echo", *more, **changes)))
    assert client.reset_code(stream_id) == ErrorCode.PROTOCOL_ERROR
    client.data(stream_id, prefixed(b"on its way"))  # is ignored
    client.works()


@pytest.mark.parametrize("length", [5, 7, 100])
def test_a_body_of_another_size_than_content_length_is_a_stream_error(
    client: RawClient, length: int
) -> None:
    stream_id = client.open("/test.Test/Echo", ("content-length", str(length)))
    client.data(stream_id, prefixed(b"a"))
    assert client.reset_code(stream_id) == ErrorCode.PROTOCOL_ERROR
    client.works()


def test_a_body_as_long_as_content_length_is_fine(client: RawClient) -> None:
    assert client.call("/test.Test/Echo", b"a", ("content-length", "6")).messages == [b"a"]


def test_data_on_a_half_closed_stream_is_a_stream_error(client: RawClient) -> None:
    stream_id = client.open("/test.Test/Hold")
    client.data(stream_id, prefixed(b""))
    client.data(stream_id, prefixed(b""))
    assert client.reset_code(stream_id) == ErrorCode.STREAM_CLOSED
    client.works()


def test_headers_on_a_half_closed_stream_are_a_stream_error(client: RawClient) -> None:
    stream_id = client.open("/test.Test/Hold")
    client.data(stream_id, prefixed(b""))
    client.send(FRAME(1, 5, stream_id, client.block()))
    assert client.reset_code(stream_id) == ErrorCode.STREAM_CLOSED
    client.works()


def test_trailers_that_do_not_end_the_stream_are_a_stream_error(client: RawClient) -> None:
    stream_id = client.open()
    client.send(FRAME(1, 4, stream_id, client.encoder.encode([("a", "b")])))
    assert client.reset_code(stream_id) == ErrorCode.PROTOCOL_ERROR
    client.works()


def test_pseudo_headers_in_trailers_are_a_stream_error(client: RawClient) -> None:
    stream_id = client.open()
    client.send(FRAME(1, 5, stream_id, client.encoder.encode([(":path", "/")])))
    assert client.reset_code(stream_id) == ErrorCode.PROTOCOL_ERROR
    client.works()


def test_a_window_update_of_zero_is_a_stream_error(client: RawClient) -> None:
    stream_id = client.open()
    client.send(frames.window_update(stream_id, 0))
    assert client.reset_code(stream_id) == ErrorCode.PROTOCOL_ERROR
    client.works()


def test_a_streams_window_over_the_maximum_is_a_stream_error(client: RawClient) -> None:
    stream_id = client.open()
    client.send(frames.window_update(stream_id, 2**31 - 1))
    assert client.reset_code(stream_id) == ErrorCode.FLOW_CONTROL_ERROR
    client.works()


def test_a_priority_frame_of_a_wrong_size_is_a_stream_error(client: RawClient) -> None:
    stream_id = client.open()
    client.send(FRAME(2, 0, stream_id, b"1234"))
    assert client.reset_code(stream_id) == ErrorCode.FRAME_SIZE_ERROR
    client.works()


def test_too_many_streams_are_refused() -> None:
    with serving(Limits(max_concurrent_streams=3)) as small, RawClient(small.port) as client:
        ids = [client.open("/test.Test/Hold") for _ in range(4)]
        assert client.reset_code(ids[3]) == ErrorCode.REFUSED_STREAM
        client.send(frames.rst_stream(ids[0], ErrorCode.CANCEL))
        client.works()


# --- connection errors --------------------------------------------------------------------------

CONNECTION_ERRORS = {
    "DATA on stream 0": (FRAME(0, 0, 0, b"x"), "PROTOCOL_ERROR"),
    "DATA on an idle stream": (FRAME(0, 0, 5, b"x"), "PROTOCOL_ERROR"),
    "DATA padded beyond its size": (FRAME(0, 8, 1, b"\5abc"), "PROTOCOL_ERROR"),
    "DATA padded without a pad length": (FRAME(0, 8, 1, b""), "FRAME_SIZE_ERROR"),
    "HEADERS on stream 0": (FRAME(1, 4, 0, b"\x82"), "PROTOCOL_ERROR"),
    "HEADERS on an even stream": (FRAME(1, 4, 2, b"\x82"), "PROTOCOL_ERROR"),
    "HEADERS padded beyond its size": (FRAME(1, 12, 3, b"\x09\x82"), "PROTOCOL_ERROR"),
    "HEADERS too short for a priority": (FRAME(1, 36, 3, b"\0\0\0\0"), "FRAME_SIZE_ERROR"),
    "HEADERS inside a header block": (
        FRAME(1, 0, 3, b"\x82") + FRAME(1, 4, 5, b"\x82"),
        "PROTOCOL_ERROR",
    ),
    "a PING inside a header block": (
        FRAME(1, 0, 3, b"\x82") + FRAME(6, 0, 0, bytes(8)),
        "PROTOCOL_ERROR",
    ),
    "CONTINUATION of another stream": (
        FRAME(1, 0, 3, b"\x82") + FRAME(9, 4, 5, b"\x82"),
        "PROTOCOL_ERROR",
    ),
    "CONTINUATION alone": (FRAME(9, 4, 3, b"\x82"), "PROTOCOL_ERROR"),
    "an index outside of the table": (FRAME(1, 4, 3, b"\xff\x20"), "COMPRESSION_ERROR"),
    "a cut header block": (FRAME(1, 4, 3, b"\x40\x0aab"), "COMPRESSION_ERROR"),
    "bad Huffman code": (FRAME(1, 4, 3, b"\x00\x81\xff\x81\xff"), "COMPRESSION_ERROR"),
    "a table size update over the maximum": (FRAME(1, 4, 3, b"\x3f\xe2\x1f"), "COMPRESSION_ERROR"),
    "a table size update inside a block": (FRAME(1, 4, 3, b"\x82\x20"), "COMPRESSION_ERROR"),
    "bad trailers": (FRAME(1, 5, 1, b"\xff\x20"), "COMPRESSION_ERROR"),
    "PRIORITY on stream 0": (FRAME(2, 0, 0, bytes(5)), "PROTOCOL_ERROR"),
    "RST_STREAM on stream 0": (FRAME(3, 0, 0, bytes(4)), "PROTOCOL_ERROR"),
    "RST_STREAM on an idle stream": (FRAME(3, 0, 9, bytes(4)), "PROTOCOL_ERROR"),
    "RST_STREAM of a wrong size": (FRAME(3, 0, 1, bytes(3)), "FRAME_SIZE_ERROR"),
    "SETTINGS on a stream": (FRAME(4, 0, 1, b""), "PROTOCOL_ERROR"),
    "SETTINGS of a wrong size": (FRAME(4, 0, 0, bytes(5)), "FRAME_SIZE_ERROR"),
    "SETTINGS ACK with a payload": (FRAME(4, 1, 0, bytes(6)), "FRAME_SIZE_ERROR"),
    "a bad ENABLE_PUSH": (FRAME(4, 0, 0, b"\0\2\0\0\0\2"), "PROTOCOL_ERROR"),
    "a bad INITIAL_WINDOW_SIZE": (FRAME(4, 0, 0, b"\0\4\x80\0\0\0"), "FLOW_CONTROL_ERROR"),
    "a MAX_FRAME_SIZE too small": (FRAME(4, 0, 0, b"\0\5\0\0\x3f\xff"), "PROTOCOL_ERROR"),
    "a MAX_FRAME_SIZE too large": (FRAME(4, 0, 0, b"\0\5\1\0\0\0"), "PROTOCOL_ERROR"),
    "PUSH_PROMISE": (FRAME(5, 4, 1, bytes(4)), "PROTOCOL_ERROR"),
    "PING on a stream": (FRAME(6, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
    "PING of a wrong size": (FRAME(6, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
    "GOAWAY on a stream": (FRAME(7, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
    "GOAWAY of a wrong size": (FRAME(7, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
    "WINDOW_UPDATE of 0": (frames.window_update(0, 0), "PROTOCOL_ERROR"),
    "WINDOW_UPDATE over the maximum": (frames.window_update(0, 2**31 - 1), "FLOW_CONTROL_ERROR"),
    "WINDOW_UPDATE on an idle stream": (frames.window_update(7, 1), "PROTOCOL_ERROR"),
    "WINDOW_UPDATE of a wrong size": (FRAME(8, 0, 0, bytes(3)), "FRAME_SIZE_ERROR"),
    "a frame larger than allowed": (FRAME(0, 0, 1, bytes(16385)), "FRAME_SIZE_ERROR"),
    "an unknown frame larger than allowed": (FRAME(99, 0, 0, bytes(16385)), "FRAME_SIZE_ERROR"),
}


@pytest.mark.parametrize("case", CONNECTION_ERRORS)
def test_connection_error(client: RawClient, case: str) -> None:
    wrong, code = CONNECTION_ERRORS[case]
    client.open()  # stream 1
    client.send(wrong)
    assert client.goaway()[0].name == code


@pytest.mark.parametrize("kind", [0, 1])
def test_a_frame_on_a_finished_stream_is_a_connection_error(client: RawClient, kind: int) -> None:
    client.works()
    client.send(FRAME(kind, 5, 1, client.block() if kind else prefixed(b"")))
    assert client.goaway()[0] == ErrorCode.STREAM_CLOSED


def test_a_changed_initial_window_that_overflows_a_stream_is_a_connection_error(
    client: RawClient,
) -> None:
    stream_id = client.open()
    client.send(frames.window_update(stream_id, 2**31 - 1 - 65535))
    client.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 65536}))
    assert client.goaway()[0] == ErrorCode.FLOW_CONTROL_ERROR


def test_the_first_frame_must_be_settings(shared: Serving) -> None:
    with RawClient(shared.port, greet=False) as client:
        client.send(frames.PREFACE, FRAME(6, 0, 0, bytes(8)))
        assert client.goaway()[0] == ErrorCode.PROTOCOL_ERROR


def test_goaway_names_the_last_stream(client: RawClient) -> None:
    client.works()
    last = client.open("/test.Test/Hold")
    client.send(FRAME(6, 0, 1, bytes(8)))
    goaway = client.until(lambda f: f.kind == GO)
    assert int.from_bytes(goaway.payload[:4], "big") == last


def test_a_client_that_says_goaway_gets_its_answers(shared: Serving) -> None:
    with RawClient(shared.port) as client:
        stream_id = client.open("/test.Test/Hold")
        client.data(stream_id, prefixed(b""))
        shared.service.expect(("held", "1"))
        client.send(frames.goaway(0, ErrorCode.NO_ERROR))
        call = shared.service.held.pop()
        shared.run(lambda: call[0].reply(call[1], b"still"))
        assert client.answer(stream_id).messages == [b"still"]
        assert client.goaway()[0] == ErrorCode.NO_ERROR


# --- gRPC over it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/test.Test/None", "unknown method None for service test.Test"),
        ("/no.Such/Echo", "unknown service no.Such"),
        ("/nothing", 'malformed method name: "/nothing"'),
    ],
)
def test_an_unknown_method_is_unimplemented(client: RawClient, path: str, text: str) -> None:
    answer = client.call(path, b"")
    assert (answer.headers["grpc-status"], answer.headers["grpc-message"]) == ("12", text)


def test_other_content_types_are_http_415(client: RawClient) -> None:
    for kind in ("text/plain", "application/grpcx", ""):
        answer = client.call("/test.Test/Echo", b"", ("content-type", kind))
        assert answer.headers[":status"] == "415"
        text = f'invalid gRPC request content-type "{kind}"'
        assert (answer.headers["grpc-status"], answer.headers["grpc-message"]) == ("3", text)
    for kind in ("application/grpc+proto", "application/grpc;x=y"):
        assert client.call("/test.Test/Echo", b"", ("content-type", kind)).messages == [b""]


def test_other_methods_are_http_405(client: RawClient) -> None:
    stream_id = client.stream_id()
    client.send(FRAME(1, 5, stream_id, client.block(method="GET")))
    assert client.answer(stream_id).headers[":status"] == "405"


def test_an_early_answer_stops_the_upload(client: RawClient) -> None:
    stream_id = client.open("/test.Test/None")
    assert client.answer(stream_id).headers["grpc-status"] == "12"
    assert client.reset_code(stream_id) == ErrorCode.NO_ERROR
    client.data(stream_id, b"on its way", end=False)
    client.works()


def test_an_error_carries_its_text_percent_encoded(client: RawClient) -> None:
    answer = client.call("/test.Test/Fail", "50% of é\n".encode())
    assert answer.headers["grpc-status"] == "10"
    assert answer.headers["grpc-message"] == "50%25 of %C3%A9%0A"
    assert answer.messages == []


def test_a_handler_that_raises_fails_its_calls_alone(client: RawClient) -> None:
    assert client.call("/test.Test/Broken", b"").headers["grpc-status"] == "13"
    client.works()


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\0\0\0\0\1", prefixed(b"abc")[:-1]], ids=["none", "1", "5", "cut"]
)
def test_a_unary_call_without_a_whole_message_fails_at_once(client: RawClient, body: bytes) -> None:
    stream_id = client.open()
    client.data(stream_id, body)
    assert client.answer(stream_id).headers["grpc-status"] == "13"


def test_a_unary_call_that_ends_with_its_headers_fails_at_once(client: RawClient) -> None:
    assert client.answer(client.open(flags=5)).headers["grpc-status"] == "13"


def test_a_unary_call_with_two_messages_fails(client: RawClient) -> None:
    stream_id = client.open()
    client.data(stream_id, prefixed(b"one") + prefixed(b"two"))
    assert client.answer(stream_id).headers["grpc-status"] == "13"


def test_a_message_over_the_limit_is_refused_when_its_length_is_seen(client: RawClient) -> None:
    stream_id = client.open()
    client.data(stream_id, b"\0" + (2097153).to_bytes(4, "big"), end=False)
    answer = client.answer(stream_id)
    assert answer.headers["grpc-status"] == "8"
    assert answer.headers["grpc-message"] == (
        "grpc: received message larger than max (2097153 vs. 2097152)"
    )


def test_gzip_requests_are_understood(client: RawClient) -> None:
    stream_id = client.open("/test.Test/Echo", ("grpc-encoding", "gzip"))
    client.data(stream_id, prefixed(gzip.compress(b"compressed"), 1))
    assert client.answer(stream_id).messages == [b"compressed"]
    stream_id = client.open("/test.Test/Echo", ("grpc-encoding", "gzip"))
    client.data(stream_id, prefixed(b"plain after all", 0))
    assert client.answer(stream_id).messages == [b"plain after all"]


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("zstd", prefixed(b"x", 1), "12"),
        ("identity", prefixed(b"x", 1), "13"),
        ("gzip", prefixed(b"no gzip", 1), "13"),
        ("gzip", prefixed(gzip.compress(b"x" * 100)[:-9], 1), "13"),
        ("gzip", prefixed(gzip.compress(b"x"), 2), "13"),
        ("gzip", prefixed(gzip.compress(bytes(2097153)), 1), "8"),
    ],
    ids=["unknown", "undeclared", "not gzip", "cut", "bad flag", "zip bomb"],
)
def test_bad_compression_fails_the_call(
    client: RawClient, encoding: str, body: bytes, status: str
) -> None:
    stream_id = client.open("/test.Test/Echo", ("grpc-encoding", encoding))
    client.data(stream_id, body)
    assert client.answer(stream_id).headers["grpc-status"] == status
    client.works()


@pytest.mark.parametrize("path", ["/test.Test/Hold", "/test.Test/Silent"])
def test_the_deadline_ends_a_call(client: RawClient, path: str) -> None:
    stream_id = client.open(path, ("grpc-timeout", "50m"))
    client.data(stream_id, prefixed(b""))
    answer = client.answer(stream_id)
    assert answer.headers["grpc-status"] == "4"
    assert answer.headers["grpc-message"] == "context deadline exceeded"


def test_the_deadline_counts_while_the_request_is_incomplete(client: RawClient) -> None:
    stream_id = client.open("/test.Test/Echo", ("grpc-timeout", "20m"))
    assert client.answer(stream_id).headers["grpc-status"] == "4"
    assert client.reset_code(stream_id) == ErrorCode.NO_ERROR


def test_every_call_has_its_own_deadline(client: RawClient) -> None:
    late = client.open("/test.Test/Hold", ("grpc-timeout", "300m"))
    never = client.open("/test.Test/Hold", ("grpc-timeout", "1H"))
    soon = client.open("/test.Test/Hold", ("grpc-timeout", "30m"))
    assert client.answer(soon).headers["grpc-status"] == "4"
    assert client.answer(late).headers["grpc-status"] == "4"
    assert not [f for f in client.received if f.stream_id == never]


def test_a_malformed_timeout_fails_the_call(client: RawClient) -> None:
    answer = client.call("/test.Test/Echo", b"", ("grpc-timeout", "5 parsecs"))
    assert answer.headers["grpc-status"] == "13"


def test_metadata_reaches_the_method(client: RawClient) -> None:
    more = ("token", "abc"), ("token", "def")
    assert client.call("/test.Test/Metadata", b"token", *more).messages == [b"abc"]
    assert client.call("/test.Test/Metadata", b"token").messages == [b"-"]
