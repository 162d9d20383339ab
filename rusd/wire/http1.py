"""HTTP/1.1 on the same port, for health checks, metrics and the JSON gateway (RFC 9112).

Small and strict: what could be read in two ways (two lengths, a length and a transfer coding, bare
line feeds, space around a field name) is answered 400, and the connection ends there.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from time import monotonic
from typing import Final, Protocol, cast
from urllib.parse import unquote

from rusd.wire.limits import Limits


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A finished HTTP/1.1 request."""

    method: str
    path: str
    """Decoded, without the query."""
    query: str = ""
    """As it came, without the question mark."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case; equal names joined with ", "."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer; content-length, date and connection are added."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


class Registry(Protocol):
    """Where a connection announces itself; the server."""

    def joined(self, connection: "Http1Connection") -> None:
        """It can have requests now."""

    def left(self, connection: "Http1Connection") -> None:
        """It is gone."""


class _Bad(Exception):  # noqa: N818 - it carries an answer
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.response = HttpResponse(status, reason.encode() + b"\n")


_request_line = re.compile(rb"([A-Z]{1,16}) (/[!-~]*|\*) HTTP/1\.([01])").fullmatch
_header_line = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\0\r\n]*?)[ \t]*").fullmatch
_HEAD_END: Final = b"\r\n\r\n"


@dataclass(slots=True)
class _Head:
    request: HttpRequest
    keep_alive: bool
    length: int


def parse_head(head: bytes, max_body: int) -> _Head:
    """A request line and headers, without the empty line at their end; raises _Bad."""
    first, *lines = head.split(b"\r\n")
    match = _request_line(first)
    if match is None:
        raise _Bad(400, "malformed request line")
    method, target, minor = match.groups()
    headers: dict[str, str] = {}
    for line in lines:
        pair = _header_line(line)
        if pair is None:
            raise _Bad(400, "malformed header")
        name, value = pair[1].decode("ascii").lower(), pair[2].decode("latin-1")
        if name in headers and name in ("content-length", "host", "transfer-encoding"):
            raise _Bad(400, f"repeated {name}")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if "transfer-encoding" in headers:
        if "content-length" in headers:
            raise _Bad(400, "both content-length and transfer-encoding")
        raise _Bad(411, "transfer codings are not supported, send content-length")
    if minor == b"1" and "host" not in headers:
        raise _Bad(400, "missing host")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) <= 18):
        raise _Bad(400, "malformed content-length")
    if int(length) > max_body:
        raise _Bad(413, "body too large")
    wanted = headers.get("connection", "").lower()
    keep_alive = "close" not in wanted if minor == b"1" else "keep-alive" in wanted
    path, _, query = target.decode("ascii").partition("?")
    request = HttpRequest(method.decode("ascii"), unquote(path), query, headers)
    return _Head(request, keep_alive, int(length))


def render(response: HttpResponse, *, head_only: bool, keep_alive: bool) -> bytes:
    """A whole response as bytes."""
    try:
        reason = HTTPStatus(response.status).phrase
    except ValueError:
        reason = ""
    head = (
        f"HTTP/1.1 {response.status} {reason}\r\n"
        f"Content-Type: {response.content_type}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        f"X-Content-Type-Options: nosniff\r\n"
        f"{'' if keep_alive else 'Connection: close' + chr(13) + chr(10)}\r\n"
    ).encode("latin-1")
    return head if head_only else head + response.body


class Http1Connection(asyncio.Protocol):
    """The server's end of one HTTP/1.1 connection; requests are answered in order."""

    PIPELINE_SLICE: Final = 32

    def __init__(
        self,
        handle: Callable[[HttpRequest], HttpResponse],
        registry: Registry,
        limits: Limits,
        log: logging.Logger,
    ) -> None:
        self._handle = handle
        self._registry = registry
        self._limits = limits
        self._log = log
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._since = monotonic()
        self._served = 0
        self._draining = False
        self._closing = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        # uvloop's transports have the methods of asyncio.Transport without being one.
        self._transport = cast(asyncio.Transport, transport)
        self._registry.joined(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._transport = None
        self._closing = True
        self._registry.left(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes arrived."""
        if not self._closing:
            self._buffer += data
            self._serve()

    def pause_writing(self) -> None:
        """asyncio: the peer does not read its answers; take no more requests until it does."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """asyncio: it does."""
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._serve()

    def _serve(self) -> None:
        served = 0
        try:
            while not self._closing and not self._paused and self._step():
                served += 1
                if served == self.PIPELINE_SLICE and self._transport is not None:
                    self._transport.pause_reading()
                    self._paused = True
                    asyncio.get_running_loop().call_soon(self.resume_writing)
        except _Bad as bad:
            self._answer(bad.response, head_only=False, keep_alive=False)

    def _step(self) -> bool:
        """Answer the next request if all of it is here."""
        buffer = self._buffer
        if self._head is None:
            while buffer.startswith(b"\r\n"):  # RFC 9112 section 2.2 lets these pass
                del buffer[:2]
            end = buffer.find(_HEAD_END)
            limit = self._limits.max_http1_head_bytes
            if end > limit or (end < 0 and len(buffer) > limit):
                raise _Bad(431, "request head too large")
            if end < 0:
                return False
            self._head = parse_head(bytes(buffer[:end]), self._limits.max_http1_body_bytes)
            del buffer[: end + len(_HEAD_END)]
            if self._head.request.headers.get("expect", "").lower() == "100-continue":
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = self._head
        if len(buffer) < head.length:
            return False
        request = head.request
        body = bytes(buffer[: head.length])
        del buffer[: head.length]
        self._head = None
        try:
            response = self._handle(
                HttpRequest(request.method, request.path, request.query, request.headers, body)
            )
        except Exception:
            self._log.exception("handler failed", extra={"path": request.path})
            response = HttpResponse(500, b"internal error\n")
        keep_alive = head.keep_alive and not self._draining
        self._answer(response, head_only=request.method == "HEAD", keep_alive=keep_alive)
        self._since = monotonic()
        self._served += 1
        return True

    def _answer(self, response: HttpResponse, *, head_only: bool, keep_alive: bool) -> None:
        self._write(render(response, head_only=head_only, keep_alive=keep_alive))
        if not keep_alive:
            self.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def check(self, now: float) -> None:
        """Look at the connection's timeouts; to be called about once a second."""
        limits = self._limits
        between = bool(self._served) and self._head is None and not self._buffer
        allowed = limits.idle_http1_timeout if between else limits.handshake_timeout
        if now - self._since > allowed:
            self.close()

    def drain(self) -> None:
        """Close when the request under way is answered."""
        self._draining = True
        if self._head is None and not self._buffer:
            self.close()

    def close(self) -> None:
        """End the connection."""
        self._closing = True
        self._buffer.clear()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection without a word."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()
