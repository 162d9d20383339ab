"""Requests out of an HTTP/1.1 byte stream, strictly and within limits (RFC 9112)."""

from collections import deque
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import httptools

from rusd.wire.http import HttpRequest, HttpResponse
from rusd.wire.limits import Limits


class Bad(Exception):  # noqa: N818 - it carries an answer
    """Where no request can be read any more, and what is answered then."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.response = HttpResponse(status, reason.encode() + b"\n")


class Arrived(NamedTuple):
    """A complete request, and how its answer is to be framed."""

    request: HttpRequest
    minor: str
    """Of the version: "0" or "1"."""
    keep_alive: bool


class RequestReader:
    """Bytes to requests, held to the limits. Its `on_` methods are for httptools."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.requests: deque[Arrived] = deque()
        """What is complete."""
        self.received = 0
        """Bytes since the last complete request."""
        self.between = True
        """No request is in progress."""
        self.wants_continue = False
        """The client waits for a word before it sends the body."""
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._start()

    def _start(self) -> None:
        self._last_target, self._target = self._target, b""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._in_head = True
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        """Takes the next bytes; raises Bad where no request can be read any more."""
        self.received += len(data)
        self._parse(data)
        if self._in_head and self.received > self._limits.max_http1_head_bytes:
            raise Bad(431, "request head too large")

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse(self._without_upgrade() + data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, Bad):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise Bad(400, f"malformed request: {error}") from None

    def _without_upgrade(self) -> bytes:
        """The head of the last request again, without its wish for another protocol.

        To ignore the wish is allowed (RFC 9110 section 7.8), but llhttp stops before the body.
        """
        self._parser = httptools.HttpRequestParser(self)
        request, target = self.requests.pop().request, self._last_target
        fields = [
            f"{name}: {value}" for name, value in request.headers.items() if name != "upgrade"
        ]
        head = "\r\n".join(["", *fields, "", ""]).encode("latin-1")
        return b"%b %b HTTP/1.1%b" % (request.method.encode(), target, head)

    def on_message_begin(self) -> None:
        self.between = False

    def on_url(self, target: bytes) -> None:
        self._target += target
        self._count_head(len(target))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        if not self._in_head:
            return  # a trailer, which is no header
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")
        headers = self._headers
        if key in headers and key in ("content-length", "host", "transfer-encoding"):
            raise Bad(400, f"repeated {key}")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.max_http1_head_bytes:
            raise Bad(431, "request head too large")

    def on_headers_complete(self) -> None:
        self._in_head = False
        headers, version = self._headers, self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise Bad(400, "malformed request line")
        coding = headers.get("transfer-encoding")
        # llhttp refuses a coding beside a length.
        if coding is not None and coding.lower() != "chunked":
            ends_well = coding.lower().rpartition(",")[2].strip() == "chunked"
            raise Bad(501 if ends_well else 400, "unsupported transfer coding")
        if coding is not None and version == "1.0":
            raise Bad(400, "transfer coding in HTTP/1.0")
        if version == "1.1" and "host" not in headers:
            raise Bad(400, "missing host")
        if int(headers.get("content-length", "0")) > self._limits.max_http1_body_bytes:
            raise Bad(413, "body too large")
        self.wants_continue = headers.get("expect", "").lower() == "100-continue"

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._limits.max_http1_body_bytes:
            raise Bad(413, "body too large")

    def on_message_complete(self) -> None:
        parser = self._parser
        path, query = _split(self._target)
        method, body = parser.get_method().decode(), bytes(self._body)
        request = HttpRequest(method, path, query, self._headers, body)
        self.requests.append(
            Arrived(request, parser.get_http_version()[-1], parser.should_keep_alive())
        )
        self.received = 0
        self.between = True
        self.wants_continue = False
        self._start()


def _split(target: bytes) -> tuple[str, str]:
    """Path and query of a request target (RFC 9112 section 3.2)."""
    text = target.decode("ascii")
    if not text.startswith("/") and text != "*":
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise Bad(400, "malformed request target")
        return unquote(parts.path or "/"), parts.query
    path, _, query = text.partition("?")
    return unquote(path), query
