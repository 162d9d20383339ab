"""Streaming calls: messages both ways, half-close, reset, errors, and back-pressure."""

from rusd.wire import frames
from rusd.wire.frames import ErrorCode
from rusd.wire.grpc import Code, Status
from rusd.wire.server import Limits

from .peer import DEADLINE, RawClient, Serving, prefixed, serving

TIMEOUT = ("grpc-timeout", "1H")


def test_messages_go_both_ways_until_the_client_finishes(client: RawClient) -> None:
    stream_id = client.open("/test.Test/Bidi")
    body = b"".join(prefixed(b"%d" % n) for n in range(5))
    client.data(stream_id, body[:8], end=False)
    client.data(stream_id, body[8:], end=False)
    client.data(stream_id, b"")
    answer = client.answer(stream_id)
    assert answer.messages == [b"0", b"1", b"2", b"3", b"4"]
    assert answer.headers["grpc-status"] == "0"


def test_a_stream_without_messages_is_a_stream(client: RawClient) -> None:
    answer = client.answer(client.open("/test.Test/Bidi", flags=5))
    assert (answer.messages, answer.headers["grpc-status"]) == ([], "0")


def test_a_stream_lives_as_long_as_its_messages_fit_the_window(client: RawClient) -> None:
    """A hundred times the receive window through one stream, as WINDOW_UPDATE allows."""
    stream_id = client.open("/test.Test/Silent")
    window = total = 65535
    message = prefixed(bytes(16000))
    while total < 6_500_000:
        while window < len(message):
            update = client.until(lambda f: f.kind == frames.WINDOW_UPDATE)
            if update.stream_id == stream_id:
                window += int.from_bytes(update.payload, "big")
        client.data(stream_id, message, end=False)
        window -= len(message)
        total += len(message)


def test_a_reset_closes_the_stream_once(shared: Serving) -> None:
    def answer_too_late() -> None:
        stream.send(b"x")
        stream.finish()

    with RawClient(shared.port) as client:
        stream_id = client.open("/test.Test/Silent")
        client.data(stream_id, prefixed(b"abc"), end=False)
        shared.service.expect(("open", ""), ("message", "3"))
        client.send(frames.rst_stream(stream_id, ErrorCode.CANCEL))
        shared.service.expect(("closed", ""))
        stream = shared.service.streams[-1]
        shared.run(answer_too_late)
        client.works()
        assert not [f for f in client.received if f.stream_id == stream_id]
    while shared.server._connections:
        shared.run(lambda: None)
    assert ("closed", "") not in list(shared.service.events.queue)


def test_a_lost_connection_closes_its_streams(shared: Serving) -> None:
    with RawClient(shared.port) as client:
        client.open("/test.Test/Silent")
        client.open("/test.Test/Silent")
        shared.service.expect(("open", ""), ("open", ""))
    shared.service.expect(("closed", ""), ("closed", ""))


def test_the_deadline_closes_the_stream(shared: Serving) -> None:
    with RawClient(shared.port) as client:
        client.open("/test.Test/Silent", ("grpc-timeout", "10m"))
        shared.service.expect(("open", ""), ("closed", ""))


def test_a_stream_finished_by_the_server_hears_no_more(shared: Serving) -> None:
    def finish() -> None:
        stream.send(b"last")
        stream.finish(Status(Code.ABORTED, "enough"))

    with RawClient(shared.port) as client:
        stream_id = client.open("/test.Test/Silent")
        shared.service.expect(("open", ""))
        stream = shared.service.streams[-1]
        shared.run(finish)
        answer = client.answer(stream_id)
        assert answer.messages == [b"last"]
        assert (answer.headers["grpc-status"], answer.headers["grpc-message"]) == ("10", "enough")
        assert client.reset_code(stream_id) == ErrorCode.NO_ERROR
        client.data(stream_id, prefixed(b"on its way"))
        client.works()
    assert not {e[0] for e in list(shared.service.events.queue)} & {"message", "closed"}


def test_a_handler_that_raises_ends_its_stream_alone(shared: Serving) -> None:
    with RawClient(shared.port) as client:
        stream_id = client.open("/test.Test/Raising")
        client.data(stream_id, prefixed(b"abc") * 2, end=False)
        assert client.answer(stream_id).headers["grpc-status"] == "13"
        client.works()
    shared.service.expect(("open", ""), ("closed", ""))


def test_a_stream_that_is_congested_is_told_when_it_may_send() -> None:
    limits = Limits(stream_high_water=100_000, stream_low_water=50_000)
    with serving(limits) as running, RawClient(running.port) as client:
        stream_id = client.open("/test.Test/Push")
        client.data(stream_id, prefixed(b"100 10000"), end=False)
        service = running.service
        service.expect(("open", ""))
        # 65,535 bytes are let through, then the stream's own queue fills to the mark; on the way
        # there the kernel may hold it up.
        left = 100
        while left > 89:
            _, text = service.events.get(timeout=DEADLINE)
            left = int(text)
        client.sync()
        assert min([left, *(int(text) for _, text in list(service.events.queue))]) >= 80
        stream = service.streams[-1]
        assert 40_000 < running.run(lambda: stream.backlog) < 120_000
        client.send(frames.window_update(0, 1 << 30), frames.window_update(stream_id, 1 << 30))
        answer = client.answer(stream_id)
        assert answer.messages == [bytes(10000)] * 100
        assert answer.headers["grpc-status"] == "0"


def test_a_stream_is_congested_while_its_peer_does_not_read() -> None:
    limits = Limits(stream_high_water=100_000, stream_low_water=50_000)
    with (
        serving(limits) as running,
        RawClient(running.port, initial_window_size=2**31 - 1) as client,
    ):
        client.send(frames.window_update(0, 2**31 - 1 - 65535))
        stream_id = client.open("/test.Test/Push")
        client.data(stream_id, prefixed(b"2000 10000"), end=False)
        service = running.service
        service.expect(("open", ""))
        _, left = service.events.get(timeout=DEADLINE)
        assert int(left) > 0, "20 MB fitted nowhere, yet nothing held them back"
        stream = service.streams[-1]
        assert running.run(lambda: stream.backlog) < 150_000
        assert client.answer(stream_id).messages == [bytes(10000)] * 2000


def test_a_slow_stream_does_not_slow_another(shared: Serving) -> None:
    with RawClient(shared.port, initial_window_size=100) as client:
        slow = client.open("/test.Test/Push")
        client.data(slow, prefixed(b"3 1000"), end=False)
        quick = client.open("/test.Test/Bidi")
        client.data(quick, prefixed(b"quick"))
        assert client.answer(quick).messages == [b"quick"]


def test_an_aborted_stream_gives_back_what_it_queued() -> None:
    with serving() as running, RawClient(running.port, initial_window_size=0) as client:
        client.send(frames.rst_stream(client.open("/test.Test/Push", TIMEOUT), ErrorCode.CANCEL))
        stream_id = client.open("/test.Test/Push", ("grpc-timeout", "100m"))
        client.data(stream_id, prefixed(b"10 10000"), end=False)
        assert client.answer(stream_id).headers["grpc-status"] == "4"
        connection = running.service.streams[-1].connection
        assert running.run(lambda: (connection._outgoing.waiting, connection.idle)) == (0, True)
        assert not running.run(lambda: connection._deadlines)
