"""What the room wire/ offers to the rooms behind it: calls, methods and streams.

A unary request is a tuple, handed over together with all others of its method that arrived in the
same turn of the event loop. A streaming call is a `Stream` with a `StreamHandler`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from rusd.wire.connection import Connection
    from rusd.wire.stream import Stream


class RequestHead(NamedTuple):
    """A call's headers, shared between calls with equal ones.

    A named tuple and not a dataclass: with a grpc-timeout that differs from call to call, one is
    made a call, in a fifth of the time.
    """

    path: bytes
    metadata: Mapping[bytes, bytes]
    """Every regular header but grpc-timeout, names in lower case; of equal names the first."""
    timeout: float | None = None
    """The client's grpc-timeout, seconds. wire/ enforces it."""
    encoding: bytes = b"identity"
    """grpc-encoding of the request's messages."""
    content_length: int | None = None


Call: TypeAlias = "tuple[Connection, int, RequestHead, bytes]"
"""A finished unary request: connection, stream id, head, message. Answered with
`connection.reply(stream_id, message)` or `connection.fail(stream_id, status)`, at any time."""


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """A method with one request and one response."""

    path: str
    """As in `:path`: "/package.Service/Method"."""
    handle: Callable[[list[Call]], None]


class StreamHandler(Protocol):
    """The receiving half of a streaming call. Called on the event loop, never concurrently."""

    def message(self, data: bytes) -> None:
        """One request message arrived."""

    def half_closed(self) -> None:
        """The client sends no more; the server may."""

    def closed(self) -> None:
        """Nothing can be sent any more: the client reset the stream, its deadline passed, or the
        connection is gone. Called exactly once, unless `finish` was called first.
        """

    def writable(self) -> None:
        """The backlog drained below the low-water mark. May be called without need."""


@dataclass(frozen=True, slots=True)
class StreamMethod:
    """A method that streams, in one direction or both."""

    path: str
    open: Callable[[Stream], StreamHandler]
    plain: bool = False
    """No gRPC: the one message is the request's body, and the answer is the handler's own."""
