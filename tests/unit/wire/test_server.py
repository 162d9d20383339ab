"""The server's life: two protocols on a port, keep-alive, time-outs, drain and close."""

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
import uvloop

from rusd.wire import frames
from rusd.wire.frames import ErrorCode
from rusd.wire.server import Limits

from .peer import DEADLINE, RawClient, prefixed, serving

LOOPS = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
SOON = Limits(
    check_interval=0.02,
    handshake_timeout=0.1,
    settings_timeout=0.1,
    keepalive_interval=0.1,
    keepalive_timeout=0.1,
    idle_http1_timeout=0.2,
)


def dial(port: int) -> socket.socket:
    """A plain connection."""
    return socket.create_connection(("127.0.0.1", port), DEADLINE)


def ends(raw: socket.socket) -> bytes:
    """What arrives before the server closes the connection."""
    data = b""
    try:
        while piece := raw.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        pass
    return data


@LOOPS
def test_the_same_port_speaks_both_protocols(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with serving(new_loop=new_loop) as running:
        with RawClient(running.port) as client:
            client.works()
        with dial(running.port) as raw:
            raw.sendall(b"GET /health?x=1 HTTP/1.0\r\n\r\n")
            assert ends(raw).endswith(b"\r\n\r\nGET /health x=1 ")


def test_the_protocol_is_known_from_bytes_that_come_one_by_one() -> None:
    with serving() as running:
        with RawClient(running.port, greet=False) as client:
            for byte in frames.PREFACE + frames.settings({}):
                client.send(bytes((byte,)))
            client.works()
        with dial(running.port) as raw:
            # Shares two bytes with the preface.
            for byte in b"PROPFIND / HTTP/1.0\r\n\r\n":
                raw.sendall(bytes((byte,)))
            assert ends(raw).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "first",
    [b"", b"PRI * HT", frames.PREFACE, b"GET / HTTP/1.1\r\nHost:"],
    ids=["nothing", "half a preface", "a preface", "half a request"],
)
def test_a_connection_that_does_not_begin_is_closed(first: bytes) -> None:
    with serving(SOON) as running, dial(running.port) as raw:
        raw.sendall(first)
        ends(raw)


def test_settings_must_be_acknowledged() -> None:
    with serving(SOON) as running, RawClient(running.port, greet=False) as client:
        client.send(frames.PREFACE, frames.settings({}))
        assert client.goaway()[0] == ErrorCode.SETTINGS_TIMEOUT


def test_a_header_block_must_be_finished() -> None:
    with serving(SOON) as running, RawClient(running.port) as client:
        client.send(frames.frame(1, 0, 1, b"\x82"))
        assert client.goaway() == (ErrorCode.ENHANCE_YOUR_CALM, "header block not finished in time")


def test_a_silent_client_is_pinged_and_lives_while_it_answers() -> None:
    with serving(SOON) as running, RawClient(running.port) as client:
        for _ in range(3):
            ping = client.until(lambda f: f.kind == frames.PING and not f.flags)
            client.send(frames.frame(frames.PING, 1, 0, ping.payload))
        client.works()


def test_a_client_that_answers_no_ping_is_closed_and_its_streams_with_it() -> None:
    with serving(SOON) as running, RawClient(running.port) as client:
        client.open("/test.Test/Silent")
        running.service.expect(("open", ""), ("closed", ""))
        assert client.next_kinds() == [frames.PING]


def test_an_idle_http1_connection_is_closed() -> None:
    with serving(SOON) as running, dial(running.port) as raw:
        raw.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ends(raw).startswith(b"HTTP/1.1 200")


@LOOPS
def test_drain_lets_calls_finish_and_takes_no_more(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with serving(new_loop=new_loop) as running, RawClient(running.port) as client:
        held = client.open("/test.Test/Hold")
        client.data(held, prefixed(b""))
        running.service.expect(("held", "1"))
        drained = running.start(running.server.drain(DEADLINE))
        first = client.until(lambda f: f.kind == frames.GOAWAY)
        assert int.from_bytes(first.payload[:4], "big") == 2**31 - 1
        ping = client.until(lambda f: f.kind == frames.PING)
        client.works()  # a call that was on its way is served
        client.send(frames.frame(frames.PING, 1, 0, ping.payload))
        second = client.until(lambda f: f.kind == frames.GOAWAY)
        assert int.from_bytes(second.payload[:4], "big") == 3
        client.data(client.open(), prefixed(b"too late"))
        with pytest.raises(OSError, match="refused"):
            dial(running.port)
        call = running.service.held.pop()
        running.run(lambda: call[0].reply(call[1], b"finished"))
        assert client.answer(held).messages == [b"finished"]
        while client.next() is not None:
            pass
        assert not [f for f in client.received if f.stream_id == 5]
        client.close()
        drained.result(DEADLINE)


def test_drain_ends_when_its_time_is_up() -> None:
    with serving() as running, RawClient(running.port) as client:
        client.open("/test.Test/Silent")
        running.service.expect(("open", ""))
        begin = time.monotonic()
        drained = running.start(running.server.drain(0.1))
        running.service.expect(("closed", ""))
        while client.next() is not None:
            pass
        client.close()
        drained.result(DEADLINE)
        assert time.monotonic() - begin < DEADLINE


def test_close_says_goaway() -> None:
    with serving() as running, RawClient(running.port) as client:
        client.works()
        closed = running.start(running.server.close())
        assert client.goaway() == (ErrorCode.NO_ERROR, "")
        client.close()
        closed.result(DEADLINE)


def test_several_addresses() -> None:
    with serving() as running:
        running.start(running.server.listen("127.0.0.1", 0)).result(DEADLINE)
        ports = [port for _, port in running.server.addresses]
        assert len(set(ports)) == 2
        for port in ports:
            with RawClient(port) as client:
                client.works()
