"""Takes HTTP requests below /v3/ and makes calls of them.

A JSON call is a call like any other: it goes through `Loopback`, so the services, and what stands
before them, do not know the difference. Text over `_LARGE` bytes is read and written on a thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar

from google.protobuf.descriptor import Descriptor

from rusd.gateway.decode import BadJsonError, first_message, messages
from rusd.gateway.encode import dumps, error_json, to_json
from rusd.gateway.paths import ROUTES, Route
from rusd.gateway.status import HTTP_STATUS
from rusd.wire.grpc import Code, Status, parse_timeout
from rusd.wire.http import HeaderFields, HttpExchange, HttpRequest, HttpResponse
from rusd.wire.loopback import Handle, Loopback, LoopbackStream
from rusd.wire.service import RequestHead

T = TypeVar("T")

_JSON: Final = "application/json"
_JSON_TYPE: Final = ("Content-Type", _JSON)
_METADATA: Final = "grpc-metadata-"
_OK_HEADERS: Final[HeaderFields] = (("Grpc-Metadata-Content-Type", "application/grpc"),)
_LARGE: Final = 32 * 1024
"""Bytes whose JSON takes about a millisecond to read or write."""

_MOST_WAITING: Final = 1024 * 1024
"""Bytes of a stream's messages that wait for the thread before its service is asked to wait."""


class Gateway:
    """Answers the requests below /v3/."""

    def __init__(self, calls: Loopback, background: Executor, max_message_bytes: int) -> None:
        """`background` writes and reads large JSON, one text after another."""
        self._calls, self._max_message_bytes = calls, max_message_bytes
        self._background = background
        self._loop = asyncio.get_running_loop()

    def handle(self, request: HttpRequest, exchange: HttpExchange) -> None:
        """Answers one request, now or later."""
        # etcd 3.5 still knows the name of before 3.4.
        route = ROUTES.get(request.path.replace("/v3beta/", "/v3/", 1))
        if route is None:
            respond(exchange, Status(Code.NOT_FOUND, "Not Found"))
        elif request.method != "POST":
            respond(exchange, Status(Code.UNIMPLEMENTED, "Method Not Allowed"))
        else:
            try:
                head = _head(route, request)
            except ValueError:
                text = f"invalid grpc-timeout: {request.headers.get('grpc-timeout')}"
                respond(exchange, Status(Code.INVALID_ARGUMENT, text))
            else:
                self._read(route, head, request.body, exchange)

    def off_loop(self, size: int, work: Callable[[], T], done: Callable[[T], None]) -> None:
        """Calls `done` with what `work` returns, which it does on a thread where `size` asks so."""
        if size <= _LARGE:
            done(work())
            return
        future = self._loop.run_in_executor(self._background, work)
        future.add_done_callback(lambda ended: done(ended.result()))

    def _read(self, route: Route, head: RequestHead, body: bytes, exchange: HttpExchange) -> None:
        if route.client_streaming:
            read: Callable[[Descriptor, bytes], list[bytes]] = _all_messages
        else:
            read = _one_message
        self.off_loop(
            len(body),
            partial(_attempt, read, route.request, body),
            partial(self._call, route, head, exchange),
        )

    def _call(
        self, route: Route, head: RequestHead, exchange: HttpExchange, read: list[bytes] | Status
    ) -> None:
        if isinstance(read, Status):
            respond(exchange, read)
            return
        if exchange.answered:
            return  # the client has gone while its request was read
        longest = max(map(len, read), default=0)
        if longest > self._max_message_bytes:
            text = f"grpc: received message larger than max ({longest} vs. "
            text += f"{self._max_message_bytes})"
            respond(exchange, Status(Code.RESOURCE_EXHAUSTED, text))
        elif not self._calls.knows(route.method):
            respond(exchange, _unknown(route))
        elif route.server_streaming:
            _Lines(self, exchange, route.response).open(self._calls, head, read)
        else:
            answer = _Answer(self, exchange, route.response)
            answer.call = self._calls.call(head, read[0], answer.answered)


class _Answer:
    """The answer to a call with one."""

    def __init__(self, gateway: Gateway, exchange: HttpExchange, response: Descriptor) -> None:
        self._gateway, self._exchange, self._response = gateway, exchange, response
        self.call: Handle | None = None
        exchange.listener = self

    def answered(self, answer: bytes | Status) -> None:
        if isinstance(answer, Status):
            respond(self._exchange, answer)
        else:
            self._gateway.off_loop(len(answer), partial(to_json, self._response, answer), self._ok)

    def _ok(self, body: bytes) -> None:
        self._exchange.respond(HttpResponse(200, body, _JSON, _OK_HEADERS))

    def closed(self) -> None:
        if self.call is not None:
            self.call.cancel()

    def writable(self) -> None:
        pass


class _Lines:
    """The answer to a streaming call: a line a message, an error at the end if there was one."""

    def __init__(self, gateway: Gateway, exchange: HttpExchange, response: Descriptor) -> None:
        self._gateway, self._exchange, self._response = gateway, exchange, response
        self._stream: LoopbackStream | None = None
        self._begun = False
        self._waiting: deque[bytes] = deque()
        """Messages behind one that is on the thread."""
        self._waiting_bytes = 0
        self._busy = False
        self._ending: list[Status | None] = []
        exchange.listener = self

    def open(self, calls: Loopback, head: RequestHead, requests: list[bytes]) -> None:
        """Makes the call with the requests that there are."""
        self._stream = stream = calls.stream(head, self)
        for request in requests:
            stream.message(request)
        stream.half_close()

    # From the service.

    @property
    def congested(self) -> bool:
        return self._exchange.congested or self._waiting_bytes > _MOST_WAITING

    def message(self, data: bytes, /) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._go_on()

    def finished(self, status: Status | None, /) -> None:
        self._ending.append(status)
        self._go_on()

    # From the client's side.

    def closed(self) -> None:
        self._waiting.clear()
        if self._stream is not None:
            self._stream.cancel()

    def writable(self) -> None:
        if self._stream is not None and not self.congested:
            self._stream.drained()

    def _go_on(self) -> None:
        """Writes what waits, in its order."""
        while self._waiting and not self._busy:
            message = self._waiting.popleft()
            self._busy = True
            self._gateway.off_loop(
                len(message),
                partial(to_json, self._response, message),
                partial(self._written, len(message)),
            )
        if self._ending and not self._busy:
            self._end(self._ending.pop())

    def _written(self, size: int, body: bytes) -> None:
        self._busy = False
        was_congested = self.congested
        self._waiting_bytes -= size
        self._begin(200, (_JSON_TYPE, *_OK_HEADERS))
        self._exchange.write(b'{"result":%b}\n' % body)
        if size > _LARGE:
            self._go_on()
            if was_congested:
                self.writable()

    def _begin(self, status: int, headers: HeaderFields) -> None:
        if not self._begun:
            self._begun = True
            self._exchange.begin(status, headers)

    def _end(self, status: Status | None) -> None:
        if status is not None and status.code != Code.OK:
            self._begin(HTTP_STATUS[status.code], (_JSON_TYPE,))
            self._exchange.write(dumps({"error": error_json(status.code, status.message)}) + b"\n")
        self._begin(200, ())
        self._exchange.end()


def respond(exchange: HttpExchange, status: Status) -> None:
    """Answers with an error."""
    body = dumps(error_json(status.code, status.message))
    if status.code == Code.UNAUTHENTICATED:
        exchange.headers.append(("Www-Authenticate", status.message))
    exchange.respond(HttpResponse(HTTP_STATUS[status.code], body, _JSON))


def _attempt(
    read: Callable[[Descriptor, bytes], list[bytes]], descriptor: Descriptor, body: bytes
) -> list[bytes] | Status:
    try:
        return read(descriptor, body)
    except BadJsonError as error:
        return Status(Code.INVALID_ARGUMENT, str(error))


def _all_messages(descriptor: Descriptor, body: bytes) -> list[bytes]:
    return list(messages(descriptor, body))


def _one_message(descriptor: Descriptor, body: bytes) -> list[bytes]:
    return [first_message(descriptor, body)]


def _head(route: Route, request: HttpRequest) -> RequestHead:
    """The call's head: a token and what was sent as gRPC metadata. Raises ValueError."""
    headers = request.headers
    metadata = {
        name.removeprefix(_METADATA).encode("latin-1"): value.encode("latin-1")
        for name, value in headers.items()
        if name.startswith(_METADATA)
    }
    if "authorization" in headers:
        metadata[b"authorization"] = headers["authorization"].encode("latin-1")
    timeout = headers.get("grpc-timeout")
    seconds = parse_timeout(timeout.encode("latin-1")) if timeout else None
    return RequestHead(route.method, MappingProxyType(metadata), seconds)


def _unknown(route: Route) -> Status:
    service, method = route.method.decode()[1:].split("/")
    return Status(Code.UNIMPLEMENTED, f"unknown method {method} for service {service}")
