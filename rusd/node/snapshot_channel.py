"""A snapshot's connection, for a thread: what passes does not burden the event loop."""

import asyncio
import os
import socket
from collections.abc import Iterable
from typing import Final, Protocol, cast, runtime_checkable
from zlib import crc32

from rusd.node.peer_wire import PeerProtocolError
from rusd.node.snapshot_wire import HEAD, PIECE_BYTES, checked_head, head

_ROOM: Final = PIECE_BYTES + 64


class Blocking(Protocol):
    """What is used of a socket."""

    def settimeout(self, seconds: float | None, /) -> None:
        """For each time that it waits."""

    def sendmsg(self, buffers: Iterable[bytes | memoryview], /) -> int:
        """Send as much as can be sent at once; how much that was."""

    def sendall(self, data: bytes | memoryview, /) -> None:
        """Send."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Receive; 0 is the end."""

    def shutdown(self, how: int, /) -> None:
        """End the connection."""

    def close(self) -> None:
        """Forget it."""


@runtime_checkable
class Secured(Protocol):
    """A transport with TLS, whose socket alone is of no use."""

    def take_over(self) -> Blocking:
        """Stop reading, and return what a thread reads and writes with."""


class Channel:
    """Sends and receives frames. All but `abort` and `close` blocks, and is for one thread."""

    def __init__(self, connection: Blocking, timeout: float) -> None:
        """`timeout` is the seconds without any progress after which TimeoutError is raised."""
        connection.settimeout(timeout)
        self._connection = connection
        self._buffer = bytearray(_ROOM)

    @classmethod
    def of(cls, writer: asyncio.StreamWriter, timeout: float) -> "Channel":
        """Takes over what is received on a connection, when nothing more is on its way to the
        stream's reader. Raises OSError when the connection is gone.
        """
        transport = cast(asyncio.Transport, writer.transport)
        if transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        if isinstance(transport, Secured):
            return cls(transport.take_over(), timeout)
        transport.pause_reading()
        return cls(socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())), timeout)

    def send(self, kind: int, *parts: bytes | memoryview) -> None:
        """Raises OSError."""
        first = head(kind, *parts)
        sent = self._connection.sendmsg((first, *parts))
        for part in (first, *parts):
            if sent < len(part):
                self._connection.sendall(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def receive(self) -> tuple[int, memoryview]:
        """Kind and payload of the next frame; the payload is good until the next call.

        Raises PeerProtocolError when the frame is not right, EOFError when the connection ends,
        and OSError.
        """
        view = memoryview(self._buffer)
        self._fill(view[: HEAD.size])
        size, crc, kind = checked_head(self._buffer)
        if size > len(view):
            view = memoryview(bytearray(size))
        payload = view[:size]
        self._fill(payload)
        if crc32(payload) != crc:
            raise PeerProtocolError("a frame of a snapshot fails its checksum")
        return kind, payload

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self._connection.recv_into(view)
            if not count:
                raise EOFError("the connection ended")
            view = view[count:]

    def abort(self) -> None:
        """Makes the thread that uses it fail at once."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is closed already

    def close(self) -> None:
        self._connection.close()
