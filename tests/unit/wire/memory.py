"""A connection without a socket, for tests that decide what arrives together."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from rusd.wire.connection import Connection
from rusd.wire.headers import Router
from rusd.wire.limits import Limits
from rusd.wire.service import StreamMethod, UnaryMethod
from rusd.wire.turn import Turn

from .peer import Service


class Pipe(asyncio.Transport):
    """Keeps what is written; `stuck` makes it a peer that does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.unread = 0
        self.stuck = False
        self.closed = False
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """An address."""
        return ("192.0.2.1", 99) if name == "peername" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written += data
        if self.stuck:
            self.unread += len(data)

    def get_write_buffer_size(self) -> int:
        """What the peer has not read."""
        return self.unread

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Not needed: the test calls `resume_writing` itself."""

    def pause_reading(self) -> None:
        """No more."""
        self.reading = False

    def resume_reading(self) -> None:
        """More."""
        self.reading = True

    def is_closing(self) -> bool:
        """It has been closed."""
        return self.closed

    def can_write_eof(self) -> bool:
        """A close is enough."""
        return False

    def close(self) -> None:
        """The end."""
        self.closed = True

    abort = close


class Nobody:
    """A registry that nobody reads."""

    def joined(self, connection: Connection) -> None:
        """It is there."""

    def left(self, connection: Connection) -> None:
        """It is gone."""

    def expect(self, deadline: float) -> None:
        """The test calls `expire` itself."""


class Memory:
    """A connection, its transport and its service; make it inside a running event loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.service = Service()
        log = logging.getLogger("wire")
        methods = self.service.methods()
        self.turn = Turn([m for m in methods if isinstance(m, UnaryMethod)], log)
        streams = [m for m in methods if isinstance(m, StreamMethod)]
        self.router = Router(self.turn.batches, streams, limits or Limits())
        self.pipe = Pipe()
        self.connection = Connection(self.turn, self.router, Nobody(), limits or Limits(), log)
        self.connection.connection_made(self.pipe)

    async def feed(self, pieces: Iterable[bytes]) -> bytes:
        """What the server writes when the pieces arrive one after another."""
        start = len(self.pipe.written)
        for piece in pieces:
            if not self.pipe.closed:
                self.connection.data_received(piece)
                await settle()
        return bytes(self.pipe.written[start:])


async def settle() -> None:
    """Let the turns that are scheduled happen."""
    for _ in range(4):
        await asyncio.sleep(0)
