"""TLS on one connection: between the transport of its bytes and the protocol that it is for.

Python has this for asyncio, but only as a part of how a connection is made. Here a handshake can be
watched and ended, bytes wait in one buffer and not in several, so that who counts them counts all,
and the whole can be handed to a thread.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterable
from enum import Enum
from threading import Lock
from typing import Any, Final, cast

_READ_BYTES: Final = 256 << 10


class _Phase(Enum):
    HANDSHAKE = 0
    SHAKEN = 1
    OPEN = 2
    CLOSED = 3


class TlsTransport(asyncio.Protocol, asyncio.Transport):
    """The protocol of a TCP transport, and the transport of what is inside.

    It reports the end of the handshake once, and reads nothing further until `open`.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        made: Callable[["TlsTransport"], None],
        shaken: Callable[["TlsTransport", Exception | None], None],
        server_hostname: str | None = None,
    ) -> None:
        """`made` is told that there is a connection, `shaken` how the handshake ended: with None,
        or with an error, after which the connection is gone.

        With `server_hostname` this is the client. Raises ssl.SSLError, ValueError.
        """
        super().__init__()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        self.address = self.remote = ""
        """The other end: its IP address, and that with the port, for logs."""
        self.names_user = False
        """Whether the common name of the other end's certificate is that of a user."""
        self._made, self._shaken = made, shaken
        self._phase = _Phase.HANDSHAKE
        self._raw: asyncio.Transport
        self._protocol: asyncio.Protocol | None = None
        self._error: Exception | None = None
        self._sends = True
        self._ended = self._stays = False
        # An SSL object must not be used by two threads at a time; see `take_over`.
        self._lock = Lock()

    def open(self, protocol: asyncio.Protocol) -> None:
        """The other end may stay: `protocol` gets what it sends."""
        if self._phase is not _Phase.SHAKEN:
            return
        self._phase = _Phase.OPEN
        self._protocol = protocol
        protocol.connection_made(self)
        if not self.is_closing():
            self._raw.resume_reading()
            self._read()

    # --- towards the network -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: there is a connection."""
        # uvloop's transports have the methods of asyncio.Transport without being one.
        self._raw = cast(asyncio.Transport, transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.address = name[0].partition("%")[0]
            self.remote = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        self._made(self)
        self._shake()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        with self._lock:
            self._incoming.write(data)
        if self._phase is _Phase.OPEN:
            self._read()
        elif self._phase is _Phase.HANDSHAKE:
            self._shake()

    def eof_received(self) -> bool:
        """asyncio: the other end sends no more. It says so inside TLS, and then outside."""
        if not self._ended and self._phase is _Phase.OPEN and self._protocol is not None:
            self._ended = True
            self._stays = bool(self._protocol.eof_received())
        return self._stays

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        phase, self._phase = self._phase, _Phase.CLOSED
        error = self._error or exc
        if self._protocol is not None:
            self._protocol.connection_lost(error)
        elif phase is _Phase.HANDSHAKE:
            self._shaken(self, error or ConnectionResetError("closed during the TLS handshake"))

    def pause_writing(self) -> None:
        """asyncio: enough waits to be sent."""
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """asyncio: most of it is sent."""
        if self._protocol is not None:
            self._protocol.resume_writing()

    def _shake(self) -> None:
        if self._phase is not _Phase.HANDSHAKE or self._raw.is_closing():
            return
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (OSError, ValueError) as error:
            self._flush()  # the alert
            self._phase = _Phase.CLOSED
            self._raw.close()
            self._shaken(self, error)
            return
        self._flush()
        self._phase = _Phase.SHAKEN
        self._raw.pause_reading()
        self._shaken(self, None)

    def _read(self) -> None:
        pieces: list[bytes] = []
        ended = False
        try:
            with self._lock:
                # To ask before each read is cheaper than the exception after the last one.
                while self._incoming.pending or self.ssl.pending():
                    piece = self.ssl.read(_READ_BYTES)
                    if not piece:
                        ended = True
                        break
                    pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as error:
            self._error = error
            self._flush()
            self._raw.abort()
            return
        if self._outgoing.pending:
            self._flush()
        if pieces and self._protocol is not None:
            self._protocol.data_received(b"".join(pieces) if len(pieces) > 1 else pieces[0])
        if ended and not self.eof_received():
            self.close()

    def _flush(self) -> None:
        with self._lock:
            data = self._outgoing.read()
        if data and not self._raw.is_closing():
            self._raw.write(data)

    # --- towards the protocol ----------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """asyncio: send."""
        if not data or not self._sends or self._raw.is_closing():
            return
        with self._lock:
            sent, size = self.ssl.write(data), len(data)
            if sent < size:  # each call makes one record
                view = memoryview(data)
                while sent < size:
                    sent += self.ssl.write(view[sent:])
        self._flush()

    def writelines(self, list_of_data: Any) -> None:
        """asyncio: send all."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """asyncio: whether one end may end before the other."""
        return self._raw.can_write_eof()

    def write_eof(self) -> None:
        """asyncio: send no more, and go on reading."""
        self._end_sending()
        if not self._raw.is_closing():
            self._raw.write_eof()

    def close(self) -> None:
        """asyncio: close when everything is sent. The other end's farewell is not waited for."""
        self._end_sending()
        self._raw.close()

    def abort(self) -> None:
        """asyncio: close now."""
        self._sends = False
        self._raw.abort()

    def _end_sending(self) -> None:
        if not self._sends or self._phase is not _Phase.OPEN or self._raw.is_closing():
            return
        self._sends = False
        try:
            with self._lock:
                self.ssl.unwrap()
        except OSError:
            pass  # it has no answer yet, or the other end has said something else
        self._flush()

    def is_closing(self) -> bool:
        """asyncio: whether it closes or is closed."""
        return self._phase is _Phase.CLOSED or self._raw.is_closing()

    def pause_reading(self) -> None:
        """asyncio: stop."""
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """asyncio: go on."""
        self._raw.resume_reading()

    def is_reading(self) -> bool:
        """asyncio: whether it reads."""
        return self._raw.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """asyncio: the marks at which the protocol's writing is paused and resumed."""
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """asyncio: these marks."""
        return self._raw.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        """asyncio: bytes that the kernel has not taken, encrypted ones."""
        return self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """asyncio: what is known of the connection; `common_name` is the verified user's."""
        if name == "ssl_object":
            return self.ssl
        if name == "common_name":
            return self._common_name() if self.names_user else default
        return self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """asyncio: give it to another protocol."""
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """asyncio: whose it is."""
        assert self._protocol is not None
        return self._protocol

    def _common_name(self) -> str | None:
        subject = (self.ssl.getpeercert() or {}).get("subject", ())
        for parts in reversed(cast(tuple[tuple[tuple[str, str], ...], ...], subject)):
            for key, value in reversed(parts):
                if key == "commonName":
                    return value
        return None

    # --- for a thread ------------------------------------------------------------------------

    def take_over(self) -> "TlsSocket":
        """Stop reading, and return what a thread can read and write with.

        The transport can still be written to, and closed, while the thread does nothing.
        """
        self._raw.pause_reading()
        connection = socket.socket(fileno=os.dup(self._raw.get_extra_info("socket").fileno()))
        return TlsSocket(connection, self.ssl, self._incoming, self._outgoing, self._lock)


class TlsSocket:
    """A connection with TLS that blocks: for one thread, but for `shutdown` and `close`."""

    def __init__(
        self,
        connection: socket.socket,
        inside: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        lock: Lock,
    ) -> None:
        self._connection, self._inside = connection, inside
        self._incoming, self._outgoing, self._lock = incoming, outgoing, lock
        self._buffer = bytearray(_READ_BYTES)

    def settimeout(self, seconds: float | None) -> None:
        """For each time that it waits."""
        self._connection.settimeout(seconds)

    def sendmsg(self, buffers: Iterable[bytes | memoryview]) -> int:
        """Send all of it; how much that was. Raises OSError."""
        size = 0
        for data in buffers:
            view = memoryview(data)
            size += len(view)
            while view:
                with self._lock:
                    while view and self._outgoing.pending < _READ_BYTES:
                        view = view[self._inside.write(view) :]
                if self._outgoing.pending >= _READ_BYTES:
                    self._flush()
        self._flush()
        return size

    def sendall(self, data: bytes | memoryview) -> None:
        """Send. Raises OSError."""
        self.sendmsg((data,))

    def _flush(self) -> None:
        with self._lock:
            encrypted = self._outgoing.read()
        self._connection.sendall(encrypted)

    def recv_into(self, view: memoryview) -> int:
        """Receive at least one byte; 0 is the end. Raises OSError."""
        while True:
            try:
                with self._lock:
                    # Into a buffer, it returns how many bytes.
                    return cast(int, self._inside.read(len(view), view))
            except ssl.SSLWantReadError:
                count = self._connection.recv_into(self._buffer)
            except ssl.SSLZeroReturnError:
                return 0
            if not count:
                return 0
            with self._lock:
                self._incoming.write(memoryview(self._buffer)[:count])

    def shutdown(self, how: int) -> None:
        """End it for both ends at once."""
        self._connection.shutdown(how)

    def close(self) -> None:
        """Give it back."""
        self._connection.close()
