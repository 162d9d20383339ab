"""HTTP/1.1 on the same port, for health checks, metrics and the JSON gateway (RFC 9112).

`httptools` (Node's llhttp, strict) parses, in `http1_reader`; here are the order of answers and
their framing. What could be read in two ways (two lengths, a length and a transfer coding, bare
line feeds, space around a field name) is answered 400, and the connection ends there.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from time import gmtime, monotonic, strftime
from typing import Final, Protocol, cast

from rusd.wire.ending import LINGER, end_sending
from rusd.wire.http import HeaderFields, HttpHandler, HttpListener, HttpRequest, HttpResponse
from rusd.wire.http1_reader import Arrived, Bad, RequestReader
from rusd.wire.limits import Limits


class Registry(Protocol):
    """Where a connection announces itself; the server."""

    def joined(self, connection: Http1Connection) -> None:
        """It can have requests now."""

    def left(self, connection: Http1Connection) -> None:
        """It is gone."""


class Http1Exchange:
    """The answering half of one HTTP/1.1 request."""

    def __init__(self, connection: Http1Connection, arrived: Arrived) -> None:
        self.headers: list[tuple[str, str]] = []
        self.listener: HttpListener | None = None
        self.secure = connection.secure
        self.keep_alive = arrived.keep_alive
        self.begun = False
        self._connection: Http1Connection | None = connection
        self._head_only = arrived.request.method == "HEAD"
        self._chunked = arrived.minor == "1"

    @property
    def answered(self) -> bool:
        """It is answered, or nobody is there."""
        return self._connection is None

    @property
    def congested(self) -> bool:
        """The transport's buffer is over its high-water mark."""
        return self._connection is not None and self._connection.write_paused

    def respond(self, response: HttpResponse) -> None:
        """The whole answer."""
        connection = self._connection
        if connection is None or self.begun:
            return
        fields = [
            *self.headers,
            *((("Content-Type", response.content_type),) if response.content_type else ()),
            *response.headers,
            ("Content-Length", str(len(response.body))),
            ("X-Content-Type-Options", "nosniff"),
        ]
        head = self._head(connection, response.status, fields)
        connection.write(head if self._head_only else head + response.body)
        self._over(connection)

    def begin(self, status: int, headers: HeaderFields) -> None:
        """Chunked; to a client of HTTP/1.0, until the connection ends."""
        connection = self._connection
        if connection is None or self.begun:
            return
        self.begun = True
        fields = [*self.headers, *headers]
        if self._chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        else:
            self.keep_alive = False
        connection.write(self._head(connection, status, fields))

    def write(self, data: bytes) -> None:
        """One chunk."""
        if self._connection is not None and data and not self._head_only:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        """The last chunk."""
        connection = self._connection
        if connection is not None:
            if self._chunked and not self._head_only:
                connection.write(b"0\r\n\r\n")
            self._over(connection)

    def _head(self, connection: Http1Connection, status: int, fields: HeaderFields) -> bytes:
        self.keep_alive = self.keep_alive and not connection.draining
        if not self.keep_alive:
            fields = [*fields, ("Connection", "close")]
        try:
            reason = HTTPStatus(status).phrase
        except ValueError:
            reason = ""
        lines = [
            f"HTTP/1.1 {status} {reason}",
            *(f"{name}: {value}" for name, value in fields),
            strftime("Date: %a, %d %b %Y %H:%M:%S GMT", gmtime()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _over(self, connection: Http1Connection) -> None:
        self._connection = self.listener = None
        connection.answered(self)

    def lost(self) -> None:
        """The connection is gone."""
        self._connection = None
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.closed()


class Http1Connection(asyncio.Protocol):
    """The server's end of one HTTP/1.1 connection; requests are answered one after another."""

    PIPELINE_SLICE: Final = 32
    FEED_BYTES: Final = 16384
    """Parsed at a time: bounds the requests that wait, and lets a bad one wait its turn."""
    LEAST_RATE: Final = 16384
    """Bytes a second that a body must come at, on average, once it is late."""

    def __init__(
        self,
        handle: HttpHandler,
        registry: Registry,
        limits: Limits,
        log: logging.Logger,
    ) -> None:
        self._handle = handle
        self._registry = registry
        self._limits = limits
        self._log = log
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        self._reader = RequestReader(limits)
        self._bad: Bad | None = None
        self._exchange: Http1Exchange | None = None
        self._since = monotonic()
        self._served = 0
        self._serving = self._scheduled = False
        self._closing = False
        self.draining = False
        """No further request will be answered."""
        self.write_paused = False
        """The peer does not read its answers."""
        self.secure = False
        """Whether this is TLS."""

    # --- asyncio -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        # uvloop's transports have the methods of asyncio.Transport without being one.
        self._transport = cast(asyncio.Transport, transport)
        self.secure = transport.get_extra_info("ssl_object") is not None
        limits = self._limits
        self._transport.set_write_buffer_limits(limits.stream_high_water, limits.stream_low_water)
        self._registry.joined(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._transport = None
        self._closing = True
        self._unread = b""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost()
        self._registry.left(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes arrived."""
        if self._closing:
            return
        if not self._unread and self._reader.between:
            self._since = monotonic()
        self._unread = self._unread + data if self._unread else data
        self._serve()

    def pause_writing(self) -> None:
        """asyncio: the peer does not read its answers; take no more requests until it does."""
        self.write_paused = True
        self._read_or_not()

    def resume_writing(self) -> None:
        """asyncio: it does."""
        self.write_paused = False
        exchange = self._exchange
        if exchange is not None and exchange.listener is not None:
            exchange.listener.writable()
        self._serve()

    # --- requests ----------------------------------------------------------------------------

    def _serve(self) -> None:
        """Starts requests until one takes time, or others want their turn."""
        if self._serving or self._scheduled:
            return
        self._serving = True
        served = 0
        while not self._closing and not self.write_paused and self._exchange is None:
            if served == self.PIPELINE_SLICE:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._next_slice)
                break
            if not self._step():
                break
            served += 1
        self._serving = False
        self._read_or_not()

    def _next_slice(self) -> None:
        self._scheduled = False
        self._serve()

    def _step(self) -> bool:
        """Starts the next request if all of it is here, or takes some more bytes."""
        reader = self._reader
        if reader.requests:
            self._start(reader.requests.popleft())
        elif self._bad is not None:
            self._refuse(self._bad)
        elif self._unread:
            data, self._unread = self._unread[: self.FEED_BYTES], self._unread[self.FEED_BYTES :]
            try:
                reader.feed(data)
            except Bad as bad:
                self._bad = bad
            if reader.wants_continue and not reader.requests and self._bad is None:
                reader.wants_continue = False
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        else:
            return False
        return True

    def _start(self, arrived: Arrived) -> None:
        exchange = self._exchange = Http1Exchange(self, arrived)
        try:
            self._handle(arrived.request, exchange)
        except Exception:
            self._log.exception("handler failed", extra={"path": arrived.request.path})
            if exchange.begun:
                self.abort()
            else:
                exchange.respond(HttpResponse(500, b"internal error\n"))

    def _refuse(self, bad: Bad) -> None:
        self._unread = b""
        exchange = Http1Exchange(self, Arrived(HttpRequest("", ""), "1", False))
        self._exchange = exchange
        exchange.respond(bad.response)
        self._linger()

    def answered(self, exchange: Http1Exchange) -> None:
        """The answer to the request under way is complete."""
        self._exchange = None
        self._since = monotonic()
        self._served += 1
        if exchange.keep_alive:
            self._serve()
        elif self._bad is None:
            self.close()

    def _linger(self) -> None:
        """Ends the connection when the client has had time to read."""
        self._closing = True
        transport = self._transport
        if transport is not None and end_sending(transport):
            transport.resume_reading()
            asyncio.get_running_loop().call_later(LINGER, transport.abort)

    def write(self, data: bytes) -> None:
        """Sends bytes of the answer."""
        if self._transport is not None:
            self._transport.write(data)

    def _read_or_not(self) -> None:
        """Reads on while what waits is little: an open exchange wants to hear of the end."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._closing:
            return
        much = len(self._unread) > self._limits.max_http1_head_bytes
        exchange = self._exchange
        if much and exchange is not None and exchange.begun:
            self._log.info("requests behind an answer without end")
            self.abort()
        elif self.write_paused or self._scheduled or much:
            transport.pause_reading()
        else:
            transport.resume_reading()

    # --- the connection's life ---------------------------------------------------------------

    def check(self, now: float) -> None:
        """Look at the connection's timeouts; to be called about once a second."""
        if self._exchange is not None or self.write_paused:
            return
        limits, reader = self._limits, self._reader
        if self._served and reader.between and not self._unread:
            allowed = limits.idle_http1_timeout
        else:
            allowed = limits.handshake_timeout + reader.received / self.LEAST_RATE
        if now - self._since > allowed:
            self.close()

    def drain(self) -> None:
        """Close when the request under way is answered."""
        self.draining = True
        if self._exchange is None and self._reader.between and not self._unread:
            self.close()

    def close(self) -> None:
        """End the connection."""
        self._closing = True
        self._unread = b""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection without a word."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()
