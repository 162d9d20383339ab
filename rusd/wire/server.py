"""The server: listens, finds out which protocol a connection speaks, and watches its times."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from enum import Flag, auto
from functools import partial
from time import monotonic
from typing import Final, cast

from rusd.wire.connection import Connection, peer_name
from rusd.wire.ending import LINGER
from rusd.wire.frames import PREFACE
from rusd.wire.headers import Router
from rusd.wire.http import HttpHandler
from rusd.wire.http1 import Http1Connection
from rusd.wire.http2 import plain_method
from rusd.wire.limits import Limits
from rusd.wire.loopback import Loopback
from rusd.wire.service import StreamMethod, UnaryMethod
from rusd.wire.tally import Counts
from rusd.wire.turn import Turn

__all__ = ["Limits", "Server"]

_NEVER: Final = float("inf")
_DEADLINE_GRAIN: Final = 0.02

_Any = Connection | Http1Connection
_Factory = Callable[[], asyncio.Protocol]
Secure = Callable[[_Factory], _Factory]
"""Makes a factory for accepted connections of one for those whose handshake is done."""


class Protocols(Flag):
    """What a listener speaks."""

    GRPC = auto()
    HTTP = auto()
    ALL = GRPC | HTTP


class Server:
    """Serves gRPC methods over HTTP/2, and plain requests over HTTP/1.1, on the same ports.

    Make it inside the event loop that it is to run on.
    """

    def __init__(
        self,
        methods: Sequence[UnaryMethod | StreamMethod],
        http: HttpHandler,
        limits: Limits,
        log: logging.Logger,
    ) -> None:
        self.limits = limits
        self.log = log
        self.http = http
        self.turn = Turn([m for m in methods if isinstance(m, UnaryMethod)], log)
        streams = [m for m in methods if isinstance(m, StreamMethod)]
        # As in etcd, clients may use HTTP/2 for all that they want where TLS has let them choose.
        plain = plain_method(http)
        self.router = Router(self.turn.batches, streams, limits)
        self.routers = {
            Protocols.ALL: Router(self.turn.batches, streams, limits, plain),
            Protocols.GRPC: self.router,
            Protocols.HTTP: Router({}, (), limits, plain),
        }
        """Of HTTP/2 over TLS, by what the listener speaks."""
        self.loopback = Loopback(self.turn, {m.path.encode(): m for m in streams})
        self._loop = asyncio.get_running_loop()
        self._listeners: list[asyncio.Server] = []
        self._arrivals: set[_Arrival] = set()
        self._connections: set[_Any] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._next_deadline = _NEVER
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._check_timer: asyncio.TimerHandle | None = None

    async def listen(
        self,
        host: str,
        port: int,
        secure: Secure | None = None,
        *,
        protocols: Protocols = Protocols.ALL,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
    ) -> None:
        """Serve on an address; port 0 takes a free one. Raises OSError when it cannot be bound.

        With `secure` it takes connections that have TLS.
        """
        arrive = partial(_Arrival, self, protocols)
        listener = await self._loop.create_server(
            secure(arrive) if secure else arrive,
            host or None,
            port,
            backlog=1024,
            reuse_address=reuse_address,
            reuse_port=reuse_port,
        )
        self._listeners.append(listener)
        if self._check_timer is None:
            self._check_timer = self._loop.call_later(self.limits.check_interval, self._check)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every listening socket."""
        names = [s.getsockname() for listener in self._listeners for s in listener.sockets]
        return [(name[0], name[1]) for name in names]

    @property
    def connections(self) -> list[Connection]:
        """Those that speak HTTP/2."""
        return [each for each in self._connections if isinstance(each, Connection)]

    @property
    def bytes_received(self) -> int:
        """In DATA, of all connections until now."""
        here = sum(connection.bytes_received for connection in self.connections)
        return self.turn.tally.bytes_received + here

    @property
    def bytes_sent(self) -> int:
        """In DATA, of all connections until now."""
        here = sum(connection.bytes_sent for connection in self.connections)
        return self.turn.tally.bytes_sent + here

    def counts(self) -> Counts:
        """The calls until now, those that wait for this turn to end too."""
        return self.turn.tally.counts(self.connections, self.turn.batches)

    def flush(self) -> None:
        """Write what connections have at once, not at the end of the turn."""
        self.turn.flush()

    async def drain(self, timeout: float) -> None:
        """Stop listening, let open calls finish for up to `timeout` seconds, then close."""
        for listener in self._listeners:
            listener.close()
        for arrival in list(self._arrivals):
            arrival.abort()
        for connection in list(self._connections):
            connection.drain()
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except TimeoutError:
            self.log.info("closing connections with open calls")
        await self.close()

    async def close(self) -> None:
        """Stop listening and close every connection; open calls are lost."""
        for listener in self._listeners:
            listener.close()
        for arrival in list(self._arrivals):
            arrival.abort()
        for connection in list(self._connections):
            connection.close()
        try:
            await asyncio.wait_for(self._empty.wait(), 2 * LINGER)
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
        for timer in (self._check_timer, self._deadline_timer):
            if timer is not None:
                timer.cancel()
        self._check_timer = self._deadline_timer = None

    # --- what connections tell ---------------------------------------------------------------

    def arrived(self, arrival: "_Arrival") -> None:
        """A connection is there that has not shown its protocol."""
        self._arrivals.add(arrival)

    def departed(self, arrival: "_Arrival") -> None:
        """It has, or it is gone."""
        self._arrivals.discard(arrival)

    def joined(self, connection: _Any) -> None:
        """A connection can have calls now."""
        self._connections.add(connection)
        self._empty.clear()

    def left(self, connection: _Any) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def expect(self, deadline: float) -> None:
        """Call `expire` on the connections that are due at `deadline` (monotonic seconds).

        One timer serves all calls. It fires at the earliest deadline that a connection had when it
        last looked, so calls that are answered in time cost it nothing.
        """
        if deadline < self._next_deadline:
            self._next_deadline = deadline
            if self._deadline_timer is not None:
                self._deadline_timer.cancel()
            delay = max(deadline - monotonic(), _DEADLINE_GRAIN)
            self._deadline_timer = self._loop.call_later(delay, self._expire)

    def _expire(self) -> None:
        self._deadline_timer = None
        self._next_deadline = _NEVER
        now = monotonic()
        for connection in list(self._connections):
            if isinstance(connection, Connection):
                if connection.next_deadline <= now:
                    connection.expire(now)
                elif connection.next_deadline < _NEVER:
                    self.expect(connection.next_deadline)

    def _check(self) -> None:
        now = monotonic()
        for arrival in list(self._arrivals):
            arrival.check(now)
        for connection in list(self._connections):
            connection.check(now)
        self._check_timer = self._loop.call_later(self.limits.check_interval, self._check)


class _Arrival(asyncio.Protocol):
    """A connection whose first bytes are not enough to tell HTTP/2 from HTTP/1.1."""

    def __init__(self, server: Server, protocols: Protocols) -> None:
        self._server, self._protocols = server, protocols
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._since = monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport without being one.
        self._transport = cast(asyncio.Transport, transport)
        self._server.arrived(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._server.departed(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) < len(PREFACE) and PREFACE.startswith(self._data):
            return
        server, transport = self._server, self._transport
        if transport is None:
            return
        server.departed(self)
        protocol: _Any
        http2, router = self._data.startswith(PREFACE), server.router
        spoken = Protocols.GRPC if http2 else Protocols.HTTP
        if http2 and transport.get_extra_info("ssl_object") is not None:
            router, spoken = server.routers[self._protocols], self._protocols
        if spoken not in self._protocols:
            transport.abort()
            return
        if http2:
            protocol = Connection(server.turn, router, server, server.limits, server.log)
        else:
            protocol = Http1Connection(server.http, server, server.limits, server.log)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(self._data)

    def check(self, now: float) -> None:
        """Close it when it has kept silent for too long."""
        if now - self._since > self._server.limits.handshake_timeout:
            if self._transport is not None:
                self._server.log.info(
                    "no request in time", extra={"peer": peer_name(self._transport)}
                )
            self.abort()

    def abort(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()
