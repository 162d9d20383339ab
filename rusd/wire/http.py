"""Plain HTTP requests and their answers, whatever version of the protocol carries them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

HeaderFields: TypeAlias = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A finished request."""

    method: str
    path: str
    """Decoded, without the query."""
    query: str = ""
    """As it came, without the question mark."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case; equal names joined with ", ". The authority is "host"."""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer; content-length, date and connection are added."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    """Empty for none."""
    headers: HeaderFields = ()


class HttpListener(Protocol):
    """Who sends an answer bit by bit. Called on the event loop."""

    def closed(self) -> None:
        """The client is gone; nothing can be sent any more. Not called after `end`."""

    def writable(self) -> None:
        """The client has read: `congested` holds no longer. May be called without need."""


class HttpExchange(Protocol):
    """The answering half of one request: `respond` once, or `begin`, `write`s and `end`.

    All of it may happen after the handler has returned, and does nothing when the client is gone.
    """

    headers: list[tuple[str, str]]
    """Added to those of the answer."""
    listener: HttpListener | None
    secure: bool
    """The request came over TLS."""

    @property
    def answered(self) -> bool:
        """The answer is complete, or the client is gone."""

    @property
    def congested(self) -> bool:
        """The client reads more slowly than it is written to: wait for `writable`."""

    def respond(self, response: HttpResponse) -> None:
        """The whole answer."""

    def begin(self, status: int, headers: HeaderFields) -> None:
        """An answer whose length is not known."""

    def write(self, data: bytes) -> None:
        """A part of its body."""

    def end(self) -> None:
        """Its body is complete."""


HttpHandler: TypeAlias = Callable[[HttpRequest, HttpExchange], None]
