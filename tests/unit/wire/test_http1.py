"""HTTP/1.1: what is answered, and what is sent away because it could be read in two ways."""

import socket
import time
from collections.abc import Iterator

import pytest

from rusd.wire.server import Limits

from .peer import DEADLINE, Serving, serving
from .test_server import dial, ends


@pytest.fixture
def raw(shared: Serving) -> Iterator[socket.socket]:
    with dial(shared.port) as connection:
        yield connection


def exchange(raw: socket.socket, *pieces: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    for piece in pieces:
        raw.sendall(piece)
    return ends(raw)


def test_a_request_with_a_body(raw: socket.socket) -> None:
    answer = exchange(
        raw,
        b"POST /v3/kv%2Frange?a=%20b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n",
        b"Connection: close\r\n\r\nbo",
        b"dy",
    )
    head, body = answer.split(b"\r\n\r\n")
    assert head.splitlines() == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: 29",
        b"X-Content-Type-Options: nosniff",
        b"Connection: close",
    ]
    assert body == b"POST /v3/kv/range a=%20b body"


def test_a_connection_is_kept_and_requests_may_be_pipelined(raw: socket.socket) -> None:
    one = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = exchange(raw, b"".join(one % n for n in range(100)), last)
    assert [part.split()[0] for part in answer.split(b"GET ")[1:]] == [
        b"/%d" % n for n in range(100)
    ] + [b"/last"]


def test_head_has_no_body(raw: socket.socket) -> None:
    answer = exchange(raw, b"HEAD /abc HTTP/1.0\r\n\r\n")
    assert b"Content-Length: 11\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_http_10_closes_and_keeps_when_asked(shared: Serving, raw: socket.socket) -> None:
    assert exchange(raw, b"GET /a HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    with dial(shared.port) as other:
        keep = b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        assert exchange(other, keep, b"GET /b HTTP/1.0\r\n\r\n").count(b"HTTP/1.1 200") == 2


def test_continue_is_said_before_the_body(raw: socket.socket) -> None:
    raw.sendall(
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    assert raw.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert exchange(raw, b"ok").endswith(b"POST /  ok")


def test_a_handler_that_raises_is_http_500(raw: socket.socket) -> None:
    assert exchange(raw, b"GET /broken HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 500 ")


def test_other_statuses_pass(raw: socket.socket) -> None:
    assert exchange(raw, b"GET /missing HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 404 Not Found")


HOST = b"Host: x\r\n"
BAD = {
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "length and coding": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    ),
    "coding and length": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    ),
    "negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "signed length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n",
    "length list": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "bare carriage return": b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
    "nul": b"GET / HTTP/1.1\r\nHost: x\0\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "other version": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "not a path": b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_http_400_and_the_end(raw: socket.socket, case: str) -> None:
    answer = exchange(raw, BAD[case], b"")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Connection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_a_transfer_coding_is_http_411(raw: socket.socket) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert exchange(raw, request).startswith(b"HTTP/1.1 411 ")


def test_a_head_over_the_limit_is_http_431(raw: socket.socket) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 20_000
    assert exchange(raw, request).startswith(b"HTTP/1.1 431 ")


def test_a_body_over_the_limit_is_http_413() -> None:
    with serving(Limits(max_http1_body_bytes=10)) as small, dial(small.port) as raw:
        request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n"
        assert exchange(raw, request).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_does_not_read_its_answers_is_not_read() -> None:
    with serving() as running, dial(running.port) as raw:
        raw.setblocking(False)
        request = b"GET /" + b"a" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        sent, stuck_since, rest = 0, None, b""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            try:
                rest = rest or request
                taken = raw.send(rest)
                sent, stuck_since, rest = sent + taken, None, rest[taken:]
            except BlockingIOError:
                stuck_since = stuck_since or time.monotonic()
                if time.monotonic() - stuck_since > 0.3:
                    break
                time.sleep(0.01)
        assert stuck_since, f"the server took {sent} bytes and nobody read its answers"
