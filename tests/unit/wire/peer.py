"""The other side of the tests in this folder: a server in a thread, a client that speaks frames."""

import asyncio
import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from hpack import Decoder, Encoder

from rusd.wire import frames
from rusd.wire.frames import ErrorCode, Setting
from rusd.wire.grpc import Code, Status
from rusd.wire.http import HttpExchange, HttpHandler, HttpRequest, HttpResponse
from rusd.wire.server import Limits, Server
from rusd.wire.service import Call, StreamMethod, UnaryMethod
from rusd.wire.stream import Stream

DEADLINE = 20.0
"""Seconds until a test gives up on something that should happen at once."""

Event = tuple[str, str]


class Service:
    """The methods that the tests call, and what happened to them."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.held: list[Call] = []
        self.streams: list[Stream] = []

    def forget(self) -> None:
        """Start anew, for another test."""
        self.events = queue.Queue()
        self.held = []
        self.streams = []

    def methods(self) -> list[UnaryMethod | StreamMethod]:
        """All under /test.Test/."""
        unary = [self.echo, self.fail, self.hold, self.broken, self.large, self.metadata]
        stream = [Bidi, Silent, Push, Raising]
        return [
            *(UnaryMethod(f"/test.Test/{m.__name__.capitalize()}", m) for m in unary),
            *(StreamMethod(f"/test.Test/{k.__name__}", partial(k, self)) for k in stream),
        ]

    def echo(self, calls: list[Call]) -> None:
        """Answers with the request."""
        self.events.put(("batch", str(len(calls))))
        for connection, stream_id, _, message in calls:
            connection.reply(stream_id, message)

    def fail(self, calls: list[Call]) -> None:
        """Answers with an error whose text is the request."""
        for connection, stream_id, _, message in calls:
            connection.fail(stream_id, Status(Code.ABORTED, message.decode()))

    def hold(self, calls: list[Call]) -> None:
        """Answers only when the test says so."""
        self.held += calls
        self.events.put(("held", str(len(calls))))

    def broken(self, calls: list[Call]) -> None:
        """Raises."""
        raise RuntimeError(f"broken for {len(calls)}")

    def large(self, calls: list[Call]) -> None:
        """Answers with as many bytes as the request's text says."""
        for connection, stream_id, _, message in calls:
            connection.reply(stream_id, bytes(int(message)))

    def metadata(self, calls: list[Call]) -> None:
        """Answers with the value of the header that the request names."""
        for connection, stream_id, head, message in calls:
            connection.reply(stream_id, head.metadata.get(message, b"-"))

    def expect(self, *wanted: Event) -> None:
        """Wait until these events have happened, in this order, other events between them."""
        deadline = time.monotonic() + DEADLINE
        for event in wanted:
            while self.events.get(timeout=max(0.01, deadline - time.monotonic())) != event:
                pass


class Silent:
    """A stream that only tells the test what it hears."""

    def __init__(self, service: Service, stream: Stream) -> None:
        self.service = service
        self.stream = stream
        service.streams.append(stream)
        self.note("open", "")

    def note(self, what: str, detail: str) -> None:
        """Tell the test."""
        self.service.events.put((what, detail))

    def message(self, data: bytes) -> None:
        """A message."""
        self.note("message", str(len(data)))

    def half_closed(self) -> None:
        """The client has finished."""
        self.note("half_closed", "")

    def closed(self) -> None:
        """It is over."""
        self.note("closed", "")

    def writable(self) -> None:
        """It may send."""
        self.note("writable", "")


class Bidi(Silent):
    """Sends each message back, and ends when the client does."""

    def message(self, data: bytes) -> None:
        """Back."""
        self.stream.send(data[: len(data) // 2], data[len(data) // 2 :])

    def half_closed(self) -> None:
        """The end."""
        self.stream.finish()


class Push(Silent):
    """Sends "count size" messages, with respect for congestion."""

    left = 0
    size = 0

    def message(self, data: bytes) -> None:
        """Begin."""
        self.left, self.size = map(int, data.split())
        self.writable()

    def writable(self) -> None:
        """Go on."""
        while self.left and not self.stream.congested:
            self.left -= 1
            self.stream.send(bytes(self.size))
        self.note("pushed", str(self.left))
        if not self.left:
            self.stream.finish()


class Raising(Silent):
    """Raises at each message."""

    def message(self, data: bytes) -> None:
        """Raise."""
        raise RuntimeError(f"no {len(data)} bytes for me")


def http(request: HttpRequest, exchange: HttpExchange) -> None:
    """Answers with what it understood."""
    if request.path == "/broken":
        raise RuntimeError("broken")
    text = f"{request.method} {request.path} {request.query} {request.body.decode('latin-1')}"
    exchange.respond(HttpResponse(200 if request.path != "/missing" else 404, text.encode()))


class Serving(NamedTuple):
    """A running server."""

    server: Server
    service: Service
    loop: asyncio.AbstractEventLoop
    port: int

    def run(self, action: Callable[[], Any]) -> Any:
        """The result of `action`, called on the server's event loop."""

        async def call() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(DEADLINE)

    def start(self, coroutine: Any) -> Any:
        """A future of `coroutine`, run on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)


@contextlib.contextmanager
def serving(
    limits: Limits | None = None,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    http: HttpHandler = http,
) -> Iterator[Serving]:
    """A server on a free port, on an event loop in a thread of its own."""
    loop = new_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    service = Service()

    async def start() -> Server:
        server = Server(service.methods(), http, limits or Limits(), logging.getLogger("wire"))
        await server.listen("127.0.0.1", 0)
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(DEADLINE)
    try:
        yield Serving(server, service, loop, server.addresses[0][1])
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(DEADLINE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)
        loop.close()


class Frame(NamedTuple):
    """A frame from the server."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes


class Answer(NamedTuple):
    """A response."""

    messages: list[bytes]
    headers: dict[str, str]
    """Headers and trailers together."""


class RawClient:
    """An HTTP/2 client that does what it is told, right or wrong."""

    def __init__(self, port: int, *, greet: bool = True, **settings: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.decoder.max_header_list_size = 1 << 20
        self.received: list[Frame] = []
        self._buffer = b""
        self._headers: dict[int, dict[str, str]] = {}
        self._next_stream = 1
        if greet:
            wanted = {Setting[name.upper()]: value for name, value in settings.items()}
            self.send(frames.PREFACE, frames.settings(wanted), frames.frame(4, 1, 0))
            # Everything from here on is the server's answer to the test.
            self.until(lambda f: f.kind == frames.SETTINGS and f.flags == 1)

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *pieces: bytes) -> None:
        """Bytes, all at once."""
        self.socket.sendall(b"".join(pieces))

    def block(
        self, target: str = "/test.Test/Echo", *more: tuple[str, str], **changes: str
    ) -> bytes:
        """A request's header block; `changes` are of pseudo-headers."""
        pseudo = {"method": "POST", "scheme": "http", "path": target, "authority": "test"}
        pseudo |= changes
        fields = [(f":{name}", value) for name, value in pseudo.items() if value]
        names = {name for name, _ in more}
        usual = [("content-type", "application/grpc"), ("te", "trailers")]
        fields += [field for field in usual if field[0] not in names]
        return self.encoder.encode([*fields, *more])

    def stream_id(self) -> int:
        """A fresh stream's id."""
        self._next_stream += 2
        return self._next_stream - 2

    def open(self, path: str = "/test.Test/Echo", *more: tuple[str, str], flags: int = 4) -> int:
        """Send HEADERS; the new stream's id."""
        stream_id = self.stream_id()
        self.send(frames.frame(1, flags, stream_id, self.block(path, *more)))
        return stream_id

    def data(self, stream_id: int, payload: bytes, *, end: bool = True) -> None:
        """Send one DATA frame."""
        self.send(frames.frame(0, int(end), stream_id, payload))

    def call(self, path: str, message: bytes, *more: tuple[str, str]) -> Answer:
        """A whole unary call."""
        stream_id = self.open(path, *more)
        self.data(stream_id, prefixed(message))
        return self.answer(stream_id)

    def next(self) -> Frame | None:
        """The next frame; None when the server closed the connection."""
        while True:
            if len(self._buffer) >= 9:
                length = int.from_bytes(self._buffer[:3], "big")
                if len(self._buffer) >= 9 + length:
                    kind, flags = self._buffer[3], self._buffer[4]
                    stream_id = int.from_bytes(self._buffer[5:9], "big")
                    frame = Frame(kind, flags, stream_id, self._buffer[9 : 9 + length])
                    self._buffer = self._buffer[9 + length :]
                    self.received.append(frame)
                    if kind == frames.HEADERS:
                        fields = self.decoder.decode(frame.payload)
                        self._headers.setdefault(stream_id, {}).update(
                            {str(k): str(v) for k, v in fields}
                        )
                    return frame
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._buffer += data

    def until(self, wanted: Callable[[Frame], object]) -> Frame:
        """Read up to the first such frame."""
        while (frame := self.next()) is not None:
            if wanted(frame):
                return frame
        raise AssertionError(f"connection closed after {self.received[-5:]}")

    def answer(self, stream_id: int) -> Answer:
        """Read a stream's response to its end; windows are not replenished."""
        if not any(f.stream_id == stream_id and self._ends(f) for f in self.received):
            self.until(lambda f: f.stream_id == stream_id and self._ends(f))
        own = [f for f in self.received if f.stream_id == stream_id]
        data = b"".join(f.payload for f in own if f.kind == frames.DATA)
        return Answer(messages(data), self._headers[stream_id])

    @staticmethod
    def _ends(frame: Frame) -> bool:
        if frame.kind == frames.RST_STREAM:
            raise AssertionError(f"stream reset: {frame}")
        return frame.kind in (frames.HEADERS, frames.DATA) and bool(frame.flags & 1)

    def reset_code(self, stream_id: int) -> ErrorCode:
        """The code with which the server resets a stream."""
        frame = self.until(lambda f: f.kind == frames.RST_STREAM and f.stream_id == stream_id)
        return ErrorCode(int.from_bytes(frame.payload, "big"))

    def goaway(self) -> tuple[ErrorCode, str]:
        """Code and debug data with which the server ends the connection; it must then close it."""
        frame = self.until(lambda f: f.kind == frames.GOAWAY)
        while (rest := self.next()) is not None:
            assert rest.kind != frames.DATA
        code = ErrorCode(int.from_bytes(frame.payload[4:8], "big"))
        return code, frame.payload[8:].decode()

    def sync(self) -> None:
        """Wait until the server has handled everything sent so far."""
        self.send(frames.frame(frames.PING, 0, 0, bytes(8)))
        self.until(lambda f: f.kind == frames.PING)

    def sync_or_end(self) -> None:
        """The same, or until the server has had enough."""
        self.send(frames.frame(frames.PING, 0, 0, bytes(8)))
        self.until(lambda f: f.kind in (frames.PING, frames.GOAWAY))

    def next_kinds(self) -> list[int]:
        """The types of the frames that come before the server closes the connection."""
        kinds = []
        while (frame := self.next()) is not None:
            kinds.append(frame.kind)
        return kinds

    def works(self) -> None:
        """The connection still serves."""
        assert self.call("/test.Test/Echo", b"works").messages == [b"works"]


def prefixed(message: bytes, compressed: int = 0) -> bytes:
    """A gRPC message as it travels."""
    return bytes((compressed,)) + len(message).to_bytes(4, "big") + message


def messages(data: bytes) -> list[bytes]:
    """The gRPC messages in a response's body."""
    found = []
    position = 0
    while position < len(data):
        start = position + 5
        assert data[position] == 0
        position = start + int.from_bytes(data[position + 1 : start], "big")
        assert position <= len(data)
        found.append(data[start:position])
    return found
