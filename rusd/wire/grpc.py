"""gRPC over HTTP/2, without the HTTP/2: codes, message framing, timeouts, trailers.

Source: gRPC's PROTOCOL-HTTP2 document, and RFC 7541 for the header blocks written here.
"""

import zlib
from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

PREFIX_BYTES: Final = 5
"""Before each message: one byte "compressed", four bytes length."""

unpack_prefix = Struct(">BI").unpack_from


class Code(IntEnum):
    """gRPC status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Status(NamedTuple):
    """How a call ended."""

    code: Code
    message: str = ""


class Refused(Exception):  # noqa: N818 - it carries an answer, not a defect
    """A request that is answered with `status` before any method sees it."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.status = Status(code, message)


_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def parse_timeout(value: bytes) -> float:
    """Seconds in a grpc-timeout value: up to eight digits and a unit of H M S m u n.

    Raises ValueError when it is malformed.
    """
    digits = value[:-1]
    unit = _UNITS.get(value[-1:])
    if unit is None or not 1 <= len(digits) <= 8 or not digits.isdigit():
        raise ValueError(f"malformed grpc-timeout: {value!r}")
    return int(digits) * unit


def percent_encode(text: str) -> bytes:
    """A grpc-message value: printable ASCII but for '%' as it is, other UTF-8 bytes as %XX."""
    raw = text.encode("utf-8", "replace")
    if raw.isascii() and text.isprintable() and b"%" not in raw:
        return raw
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in raw
    )


def header_field(name: bytes, value: bytes) -> bytes:
    """An HPACK literal field without indexing and without Huffman coding (RFC 7541 6.2.2)."""
    return b"\0" + _hpack_string(name) + _hpack_string(value)


def _hpack_string(value: bytes) -> bytes:
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    size -= 127
    head = bytearray(b"\x7f")
    while size >= 128:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + value


RESPONSE_HEADERS: Final = b"\x88\x0f\x10\x10application/grpc"
"""Header block: `:status` 200 (static table), content-type (static name, no indexing)."""

OK_TRAILERS: Final = header_field(b"grpc-status", b"0")


def trailers(status: Status | None) -> bytes:
    """The header block of a call's trailers; None is OK."""
    if status is None or (status.code == Code.OK and not status.message):
        return OK_TRAILERS
    block = header_field(b"grpc-status", b"%d" % status.code)
    if status.message:
        # A text without bound could exceed a frame and what clients take as a header list.
        block += header_field(b"grpc-message", percent_encode(status.message[:2048]))
    return block


ACCEPTED_ENCODINGS: Final = (b"identity", b"gzip")


def decompress(encoding: bytes, data: bytes, limit: int) -> bytes:
    """The message in `data`, at most `limit` bytes; raises Refused when it is bad or larger."""
    if encoding != b"gzip":
        raise Refused(Code.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
    out = bytearray()
    rest = data
    while True:
        # wbits 31: gzip header and checksum. A gzip file may hold several members.
        member = zlib.decompressobj(wbits=31)
        try:
            out += member.decompress(rest, limit + 1 - len(out))
        except zlib.error as error:
            raise Refused(
                Code.INTERNAL, f"grpc: failed to decompress the received message: {error}"
            ) from None
        if len(out) > limit:
            raise Refused(
                Code.RESOURCE_EXHAUSTED,
                f"grpc: received message after decompression larger than max {limit}",
            )
        if not member.eof:
            raise Refused(
                Code.INTERNAL, "grpc: failed to decompress the received message: unexpected EOF"
            )
        rest = member.unused_data
        if not rest:
            return bytes(out)


class MessageReader:
    """Puts the messages of one stream together from DATA payloads, each at most `limit` bytes."""

    __slots__ = ("_buffer", "_encoding", "_limit", "inflated")

    def __init__(self, encoding: bytes, limit: int) -> None:
        self._buffer = bytearray()
        self._encoding = encoding
        self._limit = limit
        self.inflated = 0
        """Bytes that decompression made, in all: the caller's measure of work done."""

    @property
    def held(self) -> int:
        """Bytes kept of a message that is not complete."""
        return len(self._buffer)

    @property
    def missing(self) -> int:
        """Bytes until the message in progress is complete; 0 while its length is not known."""
        if len(self._buffer) < PREFIX_BYTES:
            return 0
        length: int = unpack_prefix(self._buffer)[1]
        return PREFIX_BYTES + length - len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that `data` completes, one by one; raises Refused at the first bad one."""
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while len(buffer) - position >= PREFIX_BYTES:
                compressed, length = unpack_prefix(buffer, position)
                if length > self._limit:
                    raise Refused(
                        Code.RESOURCE_EXHAUSTED,
                        f"grpc: received message larger than max ({length} vs. {self._limit})",
                    )
                end = position + PREFIX_BYTES + length
                if end > len(buffer):
                    break
                with memoryview(buffer) as view:
                    message = bytes(view[position + PREFIX_BYTES : end])
                position = end
                yield self._inflate(compressed, message) if compressed else message
        finally:
            del buffer[:position]

    def _inflate(self, compressed: int, message: bytes) -> bytes:
        if compressed != 1:
            raise Refused(Code.INTERNAL, f"grpc: received unexpected payload format {compressed}")
        message = decompress(self._encoding, message, self._limit)
        self.inflated += len(message)
        return message


class BodyReader:
    """Collects the body of a request that is not gRPC's, at most `limit` bytes."""

    __slots__ = ("_buffer", "_limit", "inflated", "missing")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self.inflated = self.missing = 0

    @property
    def held(self) -> int:
        """Bytes kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Nothing, before the end; raises Refused when it is too much."""
        self._buffer += data
        if len(self._buffer) > self._limit:
            raise Refused(Code.RESOURCE_EXHAUSTED, "body too large")
        return iter(())

    def take(self) -> bytes:
        """The whole body."""
        body = bytes(self._buffer)
        self._buffer.clear()
        return body
