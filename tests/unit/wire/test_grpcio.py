"""The official Python client against this server: what a user's program sees."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from .peer import DEADLINE, Serving


@pytest.fixture
def channel(shared: Serving) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{shared.port}", options) as opened:
        yield opened


def unary(channel: grpc.Channel, method: str) -> grpc.UnaryUnaryMultiCallable:
    return channel.unary_unary(f"/test.Test/{method}")


def stream(channel: grpc.Channel, method: str) -> grpc.StreamStreamMultiCallable:
    return channel.stream_stream(f"/test.Test/{method}")


def test_unary(channel: grpc.Channel) -> None:
    assert unary(channel, "Echo")(b"hello", timeout=DEADLINE) == b"hello"
    assert unary(channel, "Echo")(b"") == b""


@pytest.mark.parametrize("size", [16_379, 16_380, 65_535, 2_000_000])
def test_large_messages_both_ways(channel: grpc.Channel, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    assert unary(channel, "Echo")(body[:size], timeout=DEADLINE) == body[:size]


def test_an_answer_of_many_windows(channel: grpc.Channel) -> None:
    assert unary(channel, "Large")(b"20000000", timeout=DEADLINE) == bytes(20_000_000)


def test_an_error_with_its_text(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        unary(channel, "Fail")("50% of é\n".encode(), timeout=DEADLINE)
    assert error.value.code() == grpc.StatusCode.ABORTED
    assert error.value.details() == "50% of é\n"


def test_a_message_over_the_limit(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        unary(channel, "Echo")(bytes(3_000_000), timeout=DEADLINE)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_deadline(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as error:
        unary(channel, "Hold")(b"", timeout=0.05)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_metadata(channel: grpc.Channel) -> None:
    answer = unary(channel, "Metadata")(b"token", metadata=[("token", "secret")], timeout=DEADLINE)
    assert answer == b"secret"


def test_gzip(shared: Serving) -> None:
    gzip = grpc.Compression.Gzip
    with grpc.insecure_channel(f"127.0.0.1:{shared.port}", compression=gzip) as channel:
        assert unary(channel, "Echo")(b"q" * 100_000, timeout=DEADLINE) == b"q" * 100_000


def test_server_streaming(channel: grpc.Channel) -> None:
    call = channel.unary_stream("/test.Test/Push")(b"300 20000", timeout=DEADLINE)
    assert [len(message) for message in call] == [20000] * 300


def test_bidirectional_streaming_one_by_one(channel: grpc.Channel) -> None:
    turn = threading.Semaphore(1)

    def requests() -> Iterator[bytes]:
        for n in range(20):
            turn.acquire()
            yield b"%d" % n

    found = []
    for message in stream(channel, "Bidi")(requests(), timeout=DEADLINE):
        found.append(message)
        turn.release()
    assert found == [b"%d" % n for n in range(20)]


def test_large_messages_on_a_stream_both_ways(channel: grpc.Channel) -> None:
    bodies = [bytes((n,)) * 1_000_000 for n in range(10)]
    assert list(stream(channel, "Bidi")(iter(bodies), timeout=DEADLINE)) == bodies


def test_cancel(shared: Serving, channel: grpc.Channel) -> None:
    hold = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"first"
        hold.wait(DEADLINE)

    call = stream(channel, "Silent")(requests(), timeout=DEADLINE)
    shared.service.expect(("open", ""), ("message", "5"))
    call.cancel()
    shared.service.expect(("closed", ""))
    hold.set()


def test_a_thousand_streams_at_once(shared: Serving, channel: grpc.Channel) -> None:
    echo = unary(channel, "Echo")
    held = [unary(channel, "Hold").future(b"%d" % n, timeout=DEADLINE) for n in range(1000)]
    while len(shared.service.held) < 1000:
        assert echo(b"between", timeout=DEADLINE) == b"between"
    calls, shared.service.held = shared.service.held, []

    def answer() -> None:
        for connection, stream_id, _, message in calls:
            connection.reply(stream_id, message)

    shared.run(answer)
    assert [call.result() for call in held] == [b"%d" % n for n in range(1000)]


def test_many_clients_at_once(shared: Serving) -> None:
    def work(number: int) -> list[bytes]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{shared.port}", options) as channel:
            return [unary(channel, "Echo")(b"%d" % (number + n)) for n in range(50)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(0, 400, 50)))
    assert [message for part in found for message in part] == [b"%d" % n for n in range(400)]
