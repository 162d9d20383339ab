"""One connection between members: frames in, frames out, and whether it is alive.

What is said on it is its owner's, which changes once, when the hello is over. Nothing here blocks
and nothing grows without end: what the other side does not read waits up to a bound, a connection
that stays silent or takes nothing is closed, and one whose bytes make no sense too.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Protocol, cast

from rusd.log import Logger
from rusd.node.peer_traffic import Traffic
from rusd.node.peer_wire import (
    HEAD_BYTES,
    MAX_HELLO_BYTES,
    PING,
    FrameReader,
    Frames,
    Hello,
    PeerProtocolError,
)

_TCP_THIN_LINEAR_TIMEOUTS: Final = 16
_NOTSENT_BYTES: Final = 128 << 10
_WRITE_HIGH: Final = 256 << 10
_WRITE_LOW: Final = 64 << 10
_JOINED_BYTES: Final = 64 << 10
_LINGER: Final = 1.0


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """Bounds on time (seconds), memory (bytes) and numbers."""

    read_timeout: float = 5.0
    """A connection on which nothing arrives for so long is dead (`--raft-read-timeout`)."""
    write_timeout: float = 5.0
    """A connection that takes nothing of what waits for so long is dead."""
    connect_timeout: float = 1.0
    hello_timeout: float = 5.0
    max_backoff: float = 1.0
    """Between two attempts to connect; the first wait is a twentieth of it."""
    max_frame_bytes: int = 128 << 20
    """On BULK connections: bounds a message."""
    max_control_frame_bytes: int = 1 << 20
    """On the others: bounds messages without entries, and calls and their answers."""
    max_waiting_bytes: int = 64 << 20
    """Of messages with entries to one member, beside the one that is being written."""
    max_waiting_control_bytes: int = 4 << 20
    max_waiting: int = 8192
    """Messages, or pieces of large ones, of one lane to one member."""
    max_calls: int = 256
    """To one member, and of one member, at a time."""
    max_pending: int = 64
    """Accepted connections that have not said hello; the oldest goes for the next."""
    max_askers: int = 16
    max_visitors: int = 16
    """Members that this one has not heard of yet."""
    max_streams: int = 4
    """Connections of one member with a purpose of their own."""

    @property
    def ping_interval(self) -> float:
        """Seconds between two looks at a connection."""
        return min(self.read_timeout, self.write_timeout) / 5


class Owner(Protocol):
    """Who a connection belongs to."""

    def frames(self, connection: Connection, frames: Frames) -> None:
        """Frames came. Who gives the connection to another owner reads no further."""

    def lost(self, connection: Connection, reason: str) -> None:
        """It is gone. Called once."""


class Secure(Protocol):
    """Connects with TLS."""

    async def connect(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        """Connect `protocol` to who proves to be `host`, and may be dialed. Raises OSError."""


@dataclass(slots=True)
class Local:
    """This member, as all its connections see it."""

    cluster_id: int
    member_id: int
    version: str
    peer_urls: tuple[str, ...]
    limits: PeerLimits
    log: Logger
    unreachable: Callable[[int], None]
    removed: Callable[[], None]
    secure: Secure | None = None
    """For https peer URLs."""
    connections: set[Connection] = field(default_factory=set)
    traffic: defaultdict[int, Traffic] = field(default_factory=lambda: defaultdict(Traffic))
    """By member."""

    def hello(self, purpose: int, to: int) -> Hello:
        """What this member says when it dials `to`."""
        return Hello(purpose, self.cluster_id, self.member_id, to, self.version, self.peer_urls)


class Connection(asyncio.Protocol):
    """A TCP connection, made by either side."""

    def __init__(self, local: Local, owner: Owner) -> None:
        self._local = local
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(MAX_HELLO_BYTES)
        self._transport: asyncio.Transport | None = None
        self._ended = False
        self._linger: asyncio.TimerHandle | None = None
        self._reason = "closed by the other side"
        self.remote = ""
        """The other side's address, for logs."""
        self.gone = asyncio.Event()
        """Set at the end, just before its owner is told."""
        self.traffic = Traffic()
        """Where its bytes are counted."""
        self.pinged: float | None = None
        """When the ping was sent that is not answered yet (monotonic seconds)."""

        # Sending.
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._max_waiting_bytes = local.limits.max_waiting_control_bytes
        self._paused = False
        self._refused = False

        # Health. Times are the loop's.
        self.pings = False
        self.deadline: float | None = None
        """It must have another owner by then."""
        self._heard = self._moved = self._loop.time()
        self._written = 0
        self._unsent_before = 0
        self._sent_before = 0

    # --- ownership ---------------------------------------------------------------------------

    def adopt(self, owner: Owner, bulk: bool = False, pings: bool = False, member: int = 0) -> None:
        """The hello is over: `owner` gets what follows. `member` is who is there, if one is."""
        limits = self._local.limits
        self._owner = owner
        if member:
            self.traffic = self._local.traffic[member]
        self.pings = pings
        self.deadline = None
        self._reader.limit = limits.max_frame_bytes if bulk else limits.max_control_frame_bytes
        if bulk:
            self._max_waiting_bytes = limits.max_waiting_bytes
        self.touch(self._loop.time())

    def hold(self) -> None:
        """Read nothing more until `resume` or `detach`."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading, for the new owner."""
        if self._transport is None:
            self._owner.lost(self, self._reason)
            return
        self._transport.resume_reading()
        self._hand_over()

    def detach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Make a stream of the connection, which this object then has nothing to do with.

        Raises ConnectionError when it is gone.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError(self._reason)
        self._transport = None
        self._local.connections.discard(self)
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if rest := self._reader.rest():
            reader.feed_data(rest)
        transport.resume_reading()
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    # --- sending -----------------------------------------------------------------------------

    def put(self, *pieces: bytes) -> bool:
        """Take a frame for the next `flush`; False when too much waits already, or when the other
        side would not take a frame of its size.
        """
        size = sum(map(len, pieces))
        if size > self._reader.limit + HEAD_BYTES:
            self._refuse(size)
            return False
        size += self._waiting_bytes
        if self._waiting and (
            size > self._max_waiting_bytes or len(self._waiting) >= self._local.limits.max_waiting
        ):
            return False
        self._waiting += pieces
        self._waiting_bytes = size
        return True

    def _refuse(self, size: int) -> None:
        if not self._refused:
            self._refused = True
            self._local.log.error(
                "a message is too large for the connection between members",
                size=size,
                limit=self._reader.limit,
                remote_addr=self.remote,
            )

    def flush(self) -> None:
        """Write what was put, as far as the other side takes it."""
        waiting, transport = self._waiting, self._transport
        if transport is None or not waiting:
            return
        while waiting and not self._paused:
            if self._waiting_bytes <= _JOINED_BYTES:
                data = b"".join(waiting) if len(waiting) > 1 else waiting[0]
                waiting.clear()
                self._waiting_bytes = 0
            else:
                data = waiting.popleft()
                self._waiting_bytes -= len(data)
            self._written += len(data)
            self.traffic.sent += len(data)
            transport.write(data)

    def pause_writing(self) -> None:
        """asyncio: enough waits in the transport."""
        self._paused = True

    def resume_writing(self) -> None:
        """asyncio: most of it has gone."""
        self._paused = False
        self.flush()

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken."""
        transport = self._transport
        return self._waiting_bytes + (transport.get_write_buffer_size() if transport else 0)

    # --- receiving ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: it is open."""
        # uvloop's transports have the methods of asyncio.Transport without being one.
        opened = cast(asyncio.Transport, transport)
        if self._ended:
            # Connecting was cancelled. uvloop never tells of such a transport that it is lost.
            opened.abort()
            return
        self._transport = opened
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH, low=_WRITE_LOW)
        self.remote = remote_name(self._transport)
        self._local.connections.add(self)
        _tune(self._transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        self._heard = self._loop.time()
        self.traffic.received += len(data)
        self._reader.feed(data)
        self._hand_over()

    def _hand_over(self) -> None:
        try:
            owner = None
            while owner is not self._owner and not self._ended:
                owner = self._owner
                owner.frames(self, self._reader.frames())
        except PeerProtocolError as error:
            self.abort(str(error))

    def eof_received(self) -> None:
        """asyncio: the other side has closed."""

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: it is closed."""
        if self._transport is None:
            return
        self._transport = None
        self._local.connections.discard(self)
        if self._linger is not None:
            self._linger.cancel()
        if exc is not None and not self._ended:
            self._reason = str(exc)
        self._waiting.clear()
        self._waiting_bytes = 0
        self.gone.set()
        self._owner.lost(self, self._reason)

    # --- the end -----------------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """Close, after what waits in the transport has gone; that has a second."""
        if self._transport is None or self._ended:
            return
        self._ended = True
        self._reason = reason
        self.flush()
        self._linger = self._loop.call_later(_LINGER, self._give_up)
        self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once; if it is not open yet, as soon as it is."""
        if not self._ended:
            self._ended = True
            self._reason = reason
        if self._transport is not None:
            self._transport.abort()
            if self._linger is None:
                self._linger = self._loop.call_later(_LINGER, self._give_up)

    def _give_up(self) -> None:
        """End the wait for a loss that is not told, or that waits for the other side to read."""
        if self._transport is not None:
            self._transport.abort()
            self.connection_lost(None)

    # --- health ------------------------------------------------------------------------------

    def touch(self, now: float) -> None:
        """Count from now: the time that passed says nothing of the other side."""
        self._heard = self._moved = now

    def check(self, now: float) -> None:
        """Close the connection if it is dead, else ping. To be called every `ping_interval`."""
        limits = self._local.limits
        if self.deadline is not None:
            if now > self.deadline:
                self.abort("no hello in time")
            return
        unsent = self.unsent
        sent = self._written + self._waiting_bytes - unsent
        moving = sent > self._sent_before
        if moving or not unsent:
            self._moved = now
        if moving and self._unsent_before:
            # A ping waits behind this, so its answer cannot be expected yet.
            self._heard = now
        self._sent_before, self._unsent_before = sent, unsent
        if now - self._heard > limits.read_timeout:
            self.abort(f"nothing was received for {limits.read_timeout:g}s")
        elif now - self._moved > limits.write_timeout:
            self.abort(f"nothing could be written for {limits.write_timeout:g}s")
        elif self.pings and not unsent:
            if self.pinged is None:
                self.pinged = monotonic()
            self.put(PING)
            self.flush()

    def ponged(self) -> None:
        """A ping was answered."""
        if self.pinged is not None:
            self.traffic.round_trips.observe(monotonic() - self.pinged)
            self.pinged = None


def remote_name(transport: asyncio.BaseTransport) -> str:
    """Host and port of the other side."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return ""
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _tune(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = {socket.TCP_NODELAY: 1}
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # What the kernel has not sent cannot be dropped, nor overtaken: little is enough.
        options[socket.TCP_NOTSENT_LOWAT] = _NOTSENT_BYTES
        # A few small packets are in flight here. When a partition heals, they are not to wait for
        # a retransmission timer that has doubled to seconds. Linux; harmless where it is unknown.
        options[_TCP_THIN_LINEAR_TIMEOUTS] = 1
    for option, value in options.items():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
