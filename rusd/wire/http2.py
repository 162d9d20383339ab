"""Plain requests over HTTP/2, for clients that TLS has let choose it (RFC 9113 section 8)."""

from __future__ import annotations

from time import gmtime, strftime
from urllib.parse import unquote

from rusd.wire.grpc import header_field
from rusd.wire.http import HeaderFields, HttpHandler, HttpListener, HttpRequest, HttpResponse
from rusd.wire.service import RequestHead, StreamHandler, StreamMethod
from rusd.wire.stream import Stream


def plain_method(handle: HttpHandler) -> StreamMethod:
    """What takes the requests that are not gRPC's."""

    def opened(stream: Stream) -> StreamHandler:
        return _Exchange(stream, handle)

    return StreamMethod("", opened, plain=True)


class _Exchange:
    """One request: both the stream's handler and the answering half."""

    secure = True

    def __init__(self, stream: Stream, handle: HttpHandler) -> None:
        self.headers: list[tuple[str, str]] = []
        self.listener: HttpListener | None = None
        self._stream, self._handle = stream, handle
        self._head_only = stream.head.metadata[b":method"] == b"HEAD"

    # From the connection.

    def message(self, data: bytes) -> None:
        """The body."""
        self._handle(_request(self._stream.head, data), self)

    def half_closed(self) -> None:
        """Not told of plain requests."""

    def closed(self) -> None:
        if self.listener is not None:
            self.listener.closed()

    def writable(self) -> None:
        if self.listener is not None:
            self.listener.writable()

    # From who answers.

    @property
    def answered(self) -> bool:
        """It is answered, or nobody is there."""
        return self._stream.closed

    @property
    def congested(self) -> bool:
        """The stream's backlog is over its high-water mark."""
        return not self._stream.closed and self._stream.congested

    def respond(self, response: HttpResponse) -> None:
        """The whole answer."""
        fields = [*response.headers, ("content-length", str(len(response.body)))]
        if response.content_type:
            fields.append(("content-type", response.content_type))
        body = b"" if self._head_only else response.body
        self._stream.send_plain(self._block(response.status, fields), body, last=True)

    def begin(self, status: int, headers: HeaderFields) -> None:
        """The head of an answer of unknown length."""
        self._stream.send_plain(self._block(status, headers), b"", last=False)

    def write(self, data: bytes) -> None:
        """A part of its body."""
        if not self._head_only:
            self._stream.send_plain(b"", data, last=False)

    def end(self) -> None:
        """Its end."""
        self._stream.send_plain(b"", b"", last=True)

    def _block(self, status: int, fields: HeaderFields) -> bytes:
        date = strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime())
        return header_field(b":status", b"%d" % status) + b"".join(
            header_field(name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in (*self.headers, *fields, ("date", date))
        )


def _request(head: RequestHead, body: bytes) -> HttpRequest:
    metadata = head.metadata
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in metadata.items()
        if not name.startswith(b":")
    }
    if b":authority" in metadata:
        headers["host"] = metadata[b":authority"].decode("latin-1")
    path, _, query = head.path.decode("latin-1").partition("?")
    return HttpRequest(metadata[b":method"].decode("latin-1"), unquote(path), query, headers, body)
