"""Plain requests over HTTP/2, where TLS has let the client choose it."""

from collections.abc import Iterator

import pytest

from rusd.wire import frames
from rusd.wire.frames import ErrorCode
from rusd.wire.http import HttpExchange, HttpRequest, HttpResponse
from rusd.wire.server import Limits, Protocols

from .peer import Frame, RawClient, Serving, serving

JSON = ("content-type", "application/json")
WINDOW = 65_535


class Site:
    """Answers at once, or in parts when the test says so."""

    def __init__(self) -> None:
        self.open: list[HttpExchange] = []
        self.events: list[str] = []

    def handle(self, request: HttpRequest, exchange: HttpExchange) -> None:
        if request.path == "/parts":
            exchange.listener = self
            self.open.append(exchange)
        elif request.path == "/broken":
            raise RuntimeError("broken")
        else:
            text = f"{request.method} {request.path} {request.query} {request.headers['host']} "
            exchange.headers.append(("X-More", "yes"))
            exchange.respond(HttpResponse(200, text.encode() + request.body))

    def closed(self) -> None:
        self.events.append("closed")

    def writable(self) -> None:
        self.events.append("writable")


@pytest.fixture(name="site")
def one_site() -> Site:
    return Site()


@pytest.fixture(name="running")
def running_site(site: Site) -> Iterator[Serving]:
    """A server whose connections are as those over TLS."""
    with serving(Limits(max_http1_body_bytes=100_000), http=site.handle) as running:
        running.server.router = running.server.routers[Protocols.ALL]
        yield running


@pytest.fixture(name="client")
def connected(running: Serving) -> Iterator[RawClient]:
    with RawClient(running.port) as client:
        yield client
        client.works()  # gRPC goes on beside it


def body(client: RawClient, stream: int) -> bytes:
    """The body of an answer that is complete."""
    ends = any(frame.stream_id == stream and frame.flags & 1 for frame in client.received)
    if not ends:
        client.until(lambda frame: frame.stream_id == stream and frame.flags & 1)
    return b"".join(
        frame.payload
        for frame in client.received
        if frame.stream_id == stream and frame.kind == frames.DATA
    )


def status(client: RawClient, stream: int) -> str:
    return client._headers[stream][":status"]


def test_a_request_with_a_body(client: RawClient) -> None:
    stream = client.open("/v3/kv%2Frange?a=%20b", JSON, ("content-length", "6"))
    client.data(stream, b"bo", end=False)
    client.data(stream, b"", end=False)
    client.data(stream, b"dy()", end=True)
    assert body(client, stream) == b"POST /v3/kv/range a=%20b test body()"
    headers = client._headers[stream]
    assert headers[":status"] == "200"
    assert headers["x-more"] == "yes"
    assert headers["content-length"] == "36"
    assert headers["date"].endswith("GMT")


def test_bytes_that_look_like_a_grpc_message_are_a_body(client: RawClient) -> None:
    stream = client.open("/x", JSON)
    client.data(stream, b"\0\0\0\0\2ab", end=False)
    client.data(stream, b"", end=True)
    assert body(client, stream).endswith(b"\0\0\0\0\2ab")


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_a_request_without_one(client: RawClient, method: str) -> None:
    stream = client.stream_id()
    client.send(frames.frame(1, 5, stream, client.block("/health", method=method)))
    expected = b"" if method == "HEAD" else f"{method} /health  test ".encode()
    assert body(client, stream) == expected
    assert status(client, stream) == "200"


def test_a_body_over_the_limit_is_http_413(client: RawClient) -> None:
    stream = client.open("/x", JSON)
    for _ in range(4):
        client.data(stream, bytes(16_000), end=False)
    client.until(lambda frame: frame.kind == frames.WINDOW_UPDATE and frame.stream_id == stream)
    for _ in range(3):
        client.data(stream, bytes(16_000), end=False)
    client.until(lambda frame: frame.stream_id == stream and frame.kind == frames.HEADERS)
    assert status(client, stream) == "413"


def test_a_handler_that_raises_is_http_500(client: RawClient) -> None:
    stream = client.open("/broken", JSON)
    client.data(stream, b"{}")
    client.until(lambda frame: frame.stream_id == stream and frame.kind == frames.HEADERS)
    assert status(client, stream) == "500"


def test_an_answer_in_parts_waits_for_the_window(
    client: RawClient, running: Serving, site: Site
) -> None:
    stream = client.open("/parts", JSON)
    client.data(stream, b"{}")
    client.sync()
    (exchange,) = site.open

    def answer() -> None:
        exchange.begin(200, [("Content-Type", "application/json")])
        for letter in (b"a", b"b", b"c"):
            exchange.write(letter * 40_000)
        exchange.end()
        exchange.write(b"too late")

    def sent() -> int:
        own = [frame for frame in client.received if frame.stream_id == stream]
        return sum(len(frame.payload) for frame in own if frame.kind == frames.DATA)

    running.run(answer)
    client.sync()
    assert sent() == WINDOW
    client.send(frames.window_update(0, WINDOW), frames.window_update(stream, WINDOW))
    assert body(client, stream) == b"a" * 40_000 + b"b" * 40_000 + b"c" * 40_000
    assert client._headers[stream]["content-type"] == "application/json"
    assert site.events == []


def test_who_leaves_is_heard_of(client: RawClient, running: Serving, site: Site) -> None:
    stream = client.open("/parts", JSON)
    client.data(stream, b"{}")
    client.sync()
    (exchange,) = site.open
    running.run(lambda: exchange.begin(200, []))
    client.send(frames.rst_stream(stream, ErrorCode.CANCEL))
    client.sync()
    assert site.events == ["closed"]
    assert running.run(lambda: exchange.answered)
    running.run(lambda: exchange.write(b"nobody listens"))
    running.run(exchange.end)


def test_without_tls_only_grpc_is_answered(site: Site) -> None:
    with serving(http=site.handle) as plain, RawClient(plain.port) as client:
        stream = client.open("/x", JSON)
        frame: Frame = client.until(lambda f: f.stream_id == stream and f.kind == frames.HEADERS)
        assert frame.flags & 1
        assert status(client, stream) == "415"
