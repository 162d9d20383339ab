"""HTTP/1.1: what is answered, and what is sent away because it could be read in two ways."""

import contextlib
import queue
import socket
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import pytest

from rusd.wire.http import HttpExchange, HttpRequest, HttpResponse
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
    *lines, date = head.splitlines()
    assert lines == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: 29",
        b"X-Content-Type-Options: nosniff",
        b"Connection: close",
    ]
    name, value = date.decode().split(": ")
    assert name == "Date"
    assert abs(time.time() - parsedate_to_datetime(value).timestamp()) < DEADLINE
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


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
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
    "lower-case method": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "not a path": b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "an authority": b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "control character": b"GET / HTTP/1.1\r\nHost: x\r\nA: \x01\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\nHost: x\r\n: a\r\n\r\n",
    "equal lengths": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "empty length": POST + b"Content-Length:\r\n\r\n",
    "two codings": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "something like chunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "no chunk size": CHUNKED + b"\r\nzz\r\n\r\n",
    "hexadecimal chunk size": CHUNKED + b"\r\n0x1\r\na\r\n0\r\n\r\n",
    "space after the chunk size": CHUNKED + b"\r\n1 \r\na\r\n0\r\n\r\n",
    "more than the chunk": CHUNKED + b"\r\n1\r\nabc0\r\n\r\n",
    "line feeds around chunks": CHUNKED + b"\r\n1\na\n0\n\n",
    "endless chunk": CHUNKED + b"\r\nfffffffffffffffff\r\na",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_http_400_and_the_end(raw: socket.socket, case: str) -> None:
    answer = exchange(raw, BAD[case], b"")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Connection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1


def test_an_answer_comes_before_that_to_a_bad_request_behind(raw: socket.socket) -> None:
    answer = exchange(raw, b"GET /good HTTP/1.1\r\nHost: x\r\n\r\n" + BAD["two lengths"])
    good, bad = answer.split(b"GET /good  ")
    assert good.startswith(b"HTTP/1.1 200 OK\r\n")
    assert bad.startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_chunked_body_is_put_together(raw: socket.socket) -> None:
    request = (
        CHUNKED + b"Connection: close\r\n\r\n2;name=value\r\nbo\r\n2\r\ndy\r\n0\r\nA: b\r\n\r\n"
    )
    assert exchange(raw, *(request[at : at + 7] for at in range(0, len(request), 7))).endswith(
        b"POST /  body"
    )


def test_a_trailer_is_no_header(raw: socket.socket) -> None:
    request = CHUNKED + b"Connection: close\r\n\r\n0\r\nHost: evil\r\nExpect: 100-continue\r\n\r\n"
    answer = exchange(raw, request)
    assert answer.startswith(b"HTTP/1.1 200 ")
    too_many = CHUNKED + b"\r\n0\r\n" + b"A: b\r\n" * 3000
    with dial(raw.getpeername()[1]) as other:
        assert exchange(other, too_many).startswith(b"HTTP/1.1 431 ")


def test_another_coding_is_http_501(raw: socket.socket) -> None:
    request = POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
    assert exchange(raw, request).startswith(b"HTTP/1.1 501 ")


def test_a_target_may_name_the_server(raw: socket.socket) -> None:
    request = b"GET http://x/a%20b?c HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert exchange(raw, request).endswith(b"GET /a b c ")


def test_a_wish_for_another_protocol_is_ignored(raw: socket.socket) -> None:
    upgrade = POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 2\r\n"
    after = b"GET /after HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = exchange(raw, upgrade + b"\r\nok" + after)
    assert b"POST /  ok" in answer
    assert answer.endswith(b"GET /after  ")


def test_a_head_over_the_limit_is_http_431(raw: socket.socket) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 20_000
    assert exchange(raw, request).startswith(b"HTTP/1.1 431 ")


def test_many_small_headers_over_the_limit_are_http_431(raw: socket.socket) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 3000 + b"\r\n"
    assert exchange(raw, request).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 11\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 11,
    ],
    ids=["announced", "chunked"],
)
def test_a_body_over_the_limit_is_http_413(body: bytes) -> None:
    with serving(Limits(max_http1_body_bytes=10)) as small, dial(small.port) as raw:
        assert exchange(raw, POST + body).startswith(b"HTTP/1.1 413 ")


SLOW = {
    "head": b"GET / HTTP/1.1\r\nHo",
    "body": POST + b"Content-Length: 5\r\n\r\nbod",
    "chunk": CHUNKED + b"\r\n5\r\nbod",
    "nothing": b"\r\n",
}


@pytest.mark.parametrize("case", SLOW)
def test_a_request_that_does_not_go_on_ends_the_connection(case: str) -> None:
    with serving(Limits(handshake_timeout=0.2, check_interval=0.05)) as hasty:
        with dial(hasty.port) as raw:
            assert exchange(raw, SLOW[case]) == b""
        with dial(hasty.port) as raw:
            kept = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" + SLOW[case]
            answer = exchange(raw, kept) if case != "nothing" else b"GET /a  "
            assert answer.endswith(b"GET /a  ")


def test_a_large_body_may_take_its_time() -> None:
    with (
        serving(Limits(handshake_timeout=0.3, check_interval=0.05)) as hasty,
        dial(hasty.port) as raw,
    ):
        raw.sendall(POST + b"Content-Length: 100001\r\nConnection: close\r\n\r\n" + bytes(100_000))
        time.sleep(0.8)  # at 16 KiB a second, 100,000 bytes have six seconds
        assert exchange(raw, b"!").startswith(b"HTTP/1.1 200 ")


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


class Slow:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.open: queue.Queue[HttpExchange] = queue.Queue()
        self.events: queue.Queue[str] = queue.Queue()

    def handle(self, request: HttpRequest, exchange: HttpExchange) -> None:
        if request.path == "/now":
            exchange.respond(HttpResponse(200, b"now"))
            return
        exchange.listener = self
        self.open.put(exchange)

    def closed(self) -> None:
        self.events.put("closed")

    def writable(self) -> None:
        self.events.put("writable")


GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"


def head_of(raw: socket.socket) -> bytes:
    """What has come when the server writes the head of an answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += raw.recv(1)
    return data


def test_answers_keep_the_order_of_the_requests() -> None:
    slow = Slow()
    with serving(http=slow.handle) as running, dial(running.port) as raw:
        raw.sendall(GET % b"later" + GET % b"now")
        exchange = slow.open.get(timeout=DEADLINE)
        raw.settimeout(0.1)
        with pytest.raises(TimeoutError):
            raw.recv(1)
        raw.settimeout(DEADLINE)
        running.run(lambda: exchange.respond(HttpResponse(200, b"later")))
        answer = b""
        while not answer.endswith(b"now"):
            answer += raw.recv(1000)
        assert answer.index(b"later") < answer.index(b"now")


def test_an_answer_in_parts_is_chunked() -> None:
    slow = Slow()
    with serving(http=slow.handle) as running, dial(running.port) as raw:
        raw.sendall(GET % b"parts")
        exchange = slow.open.get(timeout=DEADLINE)
        exchange.headers.append(("X-More", "yes"))
        running.run(lambda: exchange.begin(201, [("Content-Type", "a/b")]))
        assert not running.run(lambda: exchange.answered)
        head = head_of(raw)
        assert head.startswith(b"HTTP/1.1 201 Created\r\nX-More: yes\r\nContent-Type: a/b\r\n")
        assert b"Transfer-Encoding: chunked\r\n" in head
        running.run(lambda: exchange.write(b"0123456789abcdef"))
        assert raw.recv(100) == b"10\r\n0123456789abcdef\r\n"
        running.run(lambda: exchange.write(b""))  # would end the body
        running.run(exchange.end)
        assert raw.recv(100) == b"0\r\n\r\n"
        running.run(lambda: exchange.write(b"too late"))
        raw.sendall(GET % b"now")
        assert head_of(raw).startswith(b"HTTP/1.1 200 OK\r\n")


def test_parts_for_http_10_end_with_the_connection() -> None:
    slow = Slow()
    with serving(http=slow.handle) as running, dial(running.port) as raw:
        raw.sendall(b"GET /parts HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        exchange = slow.open.get(timeout=DEADLINE)
        running.run(lambda: exchange.begin(200, []))
        running.run(lambda: exchange.write(b"all"))
        running.run(exchange.end)
        answer = ends(raw)
        assert b"chunked" not in answer
        assert answer.endswith(b"\r\n\r\nall")


@pytest.mark.parametrize("begun", [True, False])
def test_who_leaves_is_heard_of(begun: bool) -> None:
    slow = Slow()
    with serving(http=slow.handle) as running:
        with dial(running.port) as raw:
            raw.sendall(GET % b"parts" + GET % b"behind")
            exchange = slow.open.get(timeout=DEADLINE)
            if begun:
                running.run(lambda: exchange.begin(200, []))
        assert slow.events.get(timeout=DEADLINE) == "closed"
        assert running.run(lambda: exchange.answered)
        running.run(lambda: exchange.respond(HttpResponse(200)))
        running.run(exchange.end)
        assert slow.open.empty()


def test_who_does_not_read_is_waited_for() -> None:
    slow = Slow()
    limits = Limits(stream_high_water=100_000, stream_low_water=10_000)
    with serving(limits, http=slow.handle) as running, dial(running.port) as raw:
        raw.sendall(GET % b"parts")
        exchange = slow.open.get(timeout=DEADLINE)
        running.run(lambda: exchange.begin(200, []))
        written = 0
        deadline = time.monotonic() + DEADLINE
        while not running.run(lambda: exchange.congested):
            running.run(lambda: exchange.write(bytes(65536)))
            written += 65536
            assert time.monotonic() < deadline
        while written > 0:
            written -= len(raw.recv(1 << 20))
        assert slow.events.get(timeout=DEADLINE) == "writable"
        assert not running.run(lambda: exchange.congested)


def test_requests_without_end_behind_an_answer_without_end_are_too_much() -> None:
    slow = Slow()
    with serving(http=slow.handle) as running, dial(running.port) as raw:
        raw.sendall(GET % b"parts")
        exchange = slow.open.get(timeout=DEADLINE)
        running.run(lambda: exchange.begin(200, []))
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                raw.sendall(GET % b"now" * 100)
        assert slow.events.get(timeout=DEADLINE) == "closed"
