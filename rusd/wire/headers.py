"""Header blocks to openings of calls: HPACK, validation (RFC 9113 section 8), gRPC's own headers.

Real clients send few distinct header lists, so work is done once for each, at two levels:

* a connection maps a block to its opening while the HPACK dynamic table does not change;
* the router maps a decoded header list, without grpc-timeout, to its opening for all connections.

grpc-go sends a new grpc-timeout with each call, inserted into the dynamic table, so its blocks
never repeat. Such a block is indexed fields and a short literal or two, decoded here in a few
microseconds; what is longer or rarer goes to the `hpack` library, over the same table.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import (
    HUFFMAN_COMPLETE,
    HUFFMAN_EMIT_SYMBOL,
    HUFFMAN_FAIL,
    HUFFMAN_TABLE,
)
from hpack.table import HeaderTable

from rusd.wire.frames import ConnectionFault, ErrorCode, StreamFault
from rusd.wire.grpc import ACCEPTED_ENCODINGS, Code, Status, header_field, parse_timeout, trailers
from rusd.wire.limits import Limits
from rusd.wire.service import Call, RequestHead, StreamMethod

Field = tuple[bytes, bytes]

_STATIC: Final = HeaderTable.STATIC_TABLE
_FIRST_DYNAMIC: Final = len(_STATIC) + 1
_FIELD_OVERHEAD: Final = 32  # RFC 9113 section 6.5.2 and RFC 7541 section 4.1

_valid_name = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
# Section 8.2.1: no NUL, CR, LF anywhere; no space or tab at either end.
_valid_value = re.compile(rb"(?:[^\0\r\n\t ](?:[^\0\r\n]*[^\0\r\n\t ])?)?").fullmatch

_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_REQUIRED_PSEUDO: Final = frozenset((b":method", b":scheme", b":path"))
_NO_METADATA: Final[Mapping[bytes, bytes]] = MappingProxyType({})


_TIMEOUT: Final = b"grpc-timeout"
_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
_TIMEOUT_NAMES: Final = tuple(
    bytes((flag | len(name),)) + name
    for flag, name in ((0, _TIMEOUT), (0x80, _huffman.encode(_TIMEOUT)))
)
"""The name as a string literal, plain and Huffman-coded."""

_INDEXED = bytes(range(0x81, 0xFF))
"""Fields that are an index alone, of one byte (RFC 7541 section 6.1)."""
_all_indexed = re.compile(rb"[\x81-\xfe]*").fullmatch


class Refusal(NamedTuple):
    """How a request is turned away at its headers: an error, or the block that answers it."""

    fault: StreamFault | None = None
    block: bytes = b""


class Opening(NamedTuple):
    """What a header list asks for: a call of a method, or its refusal."""

    head: RequestHead
    batch: list[Call] | None = None
    """Where finished calls of a unary method are collected."""
    method: StreamMethod | None = None
    refusal: Refusal | None = None


def http_error(status: bytes) -> Refusal:
    """An answer without a body, for what is no gRPC request."""
    return Refusal(block=header_field(b":status", status) + header_field(b"content-length", b"0"))


def grpc_error(code: Code, message: str, *more: Field) -> Refusal:
    """A gRPC trailers-only response."""
    extra = b"".join(header_field(*field) for field in more)
    return Refusal(block=trailers_only(Status(code, message)) + extra)


def trailers_only(status: Status) -> bytes:
    """The header block that is a whole response: no message, only how the call ended."""
    return b"\x88" + header_field(b"content-type", b"application/grpc") + trailers(status)


_UNSUPPORTED_MEDIA_TYPE: Final = header_field(b":status", b"415") + header_field(
    b"content-type", b"application/grpc"
)
_NO_HEAD: Final = RequestHead(b"", _NO_METADATA)


class Router:
    """Maps header lists to openings, and remembers the recent ones for all connections."""

    REMEMBERED: Final = 4096

    def __init__(
        self,
        batches: Mapping[bytes, list[Call]],
        streams: Sequence[StreamMethod],
        limits: Limits,
        plain: StreamMethod | None = None,
    ) -> None:
        """`plain` takes the requests that are not gRPC's; without it they are refused."""
        self._plain = plain
        self._limit = limits.max_header_list_bytes
        self._batches = batches
        self._streams = {method.path.encode(): method for method in streams}
        self._services = {path.rsplit(b"/", 1)[0] for path in (*batches, *self._streams)}
        self._known: dict[tuple[Field, ...], Opening] = {}

    def open(self, fields: list[Field]) -> Opening:
        """The opening for `fields`, which are without grpc-timeout."""
        key = tuple(fields)
        opening = self._known.get(key)
        if opening is None:
            size = sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in fields)
            if size > self._limit:
                return Opening(_NO_HEAD, refusal=http_error(b"431"))
            opening = self._resolve(fields)
            if len(self._known) >= self.REMEMBERED:
                self._known.clear()
            # Long lists are rare, and remembering them would cost memory without a bound.
            if size <= 2048:
                self._known[key] = opening
        return opening

    def _resolve(self, fields: list[Field]) -> Opening:
        try:
            pseudo, metadata = validated(fields)
            length = content_length(metadata)
        except StreamFault as fault:
            return Opening(_NO_HEAD, refusal=Refusal(fault=fault))
        path = pseudo[b":path"]
        metadata.pop(_TIMEOUT, None)
        encoding = metadata.get(b"grpc-encoding", b"identity")
        kind = metadata.get(b"content-type", b"")
        if self._plain is not None and not (pseudo[b":method"] == b"POST" and _is_grpc(kind)):
            head = RequestHead(path, MappingProxyType(pseudo | metadata), content_length=length)
            return Opening(head, method=self._plain)
        head = RequestHead(path, MappingProxyType(metadata), None, encoding, length)
        if pseudo[b":method"] != b"POST":
            return Opening(head, refusal=http_error(b"405"))
        if not _is_grpc(kind):
            text = f'invalid gRPC request content-type "{kind.decode("latin-1")}"'
            status = trailers(Status(Code.INVALID_ARGUMENT, text))
            return Opening(head, refusal=Refusal(block=_UNSUPPORTED_MEDIA_TYPE + status))
        batch, method = self._batches.get(path), self._streams.get(path)
        if batch is None and method is None:
            return Opening(head, refusal=self._unknown(path))
        if encoding not in ACCEPTED_ENCODINGS:
            name = encoding.decode("latin-1")
            text = f'grpc: Decompressor is not installed for grpc-encoding "{name}"'
            accepted = (b"grpc-accept-encoding", b",".join(ACCEPTED_ENCODINGS))
            return Opening(head, refusal=grpc_error(Code.UNIMPLEMENTED, text, accepted))
        return Opening(head, batch, method)

    def _unknown(self, path: bytes) -> Refusal:
        service, slash, method = path[1:].rpartition(b"/")
        if not path.startswith(b"/") or not slash:
            text = f'malformed method name: "{path.decode("latin-1")}"'
        elif b"/" + service in self._services:
            text = f"unknown method {method.decode('latin-1')} for service "
            text += service.decode("latin-1")
        else:
            text = f"unknown service {service.decode('latin-1')}"
        return grpc_error(Code.UNIMPLEMENTED, text)


def _is_grpc(content_type: bytes) -> bool:
    base = b"application/grpc"
    kind = content_type.lower()
    return kind.startswith(base) and kind[len(base) : len(base) + 1] in (b"", b"+", b";")


def content_length(metadata: Mapping[bytes, bytes]) -> int | None:
    """The declared size of the request's body; raises StreamFault when it is no number."""
    value = metadata.get(b"content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise _malformed("content-length is no number")
    return int(value)


def _malformed(reason: str) -> StreamFault:
    return StreamFault(ErrorCode.PROTOCOL_ERROR, reason)


def validated(fields: list[Field]) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Pseudo-header and regular fields of a request; raises StreamFault if it is malformed."""
    pseudo: dict[bytes, bytes] = {}
    regular: dict[bytes, bytes] = {}
    for name, value in fields:
        if not _valid_value(value):
            raise _malformed("forbidden character in a field value")
        if name.startswith(b":"):
            if regular:
                raise _malformed("pseudo-header field after a regular one")
            if name not in _PSEUDO or name in pseudo:
                raise _malformed("unknown or repeated pseudo-header field")
            pseudo[name] = value
            continue
        if not _valid_name(name):
            raise _malformed("forbidden character in a field name")
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
            raise _malformed("connection-specific field")
        if name == b"content-length" and regular.get(name, value) != value:
            raise _malformed("two values of content-length")
        regular.setdefault(name, value)
    if _REQUIRED_PSEUDO - pseudo.keys() or not pseudo[b":path"]:
        raise _malformed("missing pseudo-header field")
    return pseudo, regular


def validate_trailers(fields: list[Field]) -> None:
    """Raises StreamFault when a client's trailers are malformed (section 8.1)."""
    for name, value in fields:
        if not _valid_name(name) or not _valid_value(value):
            raise _malformed("pseudo-header field or forbidden character in trailers")
        if name in _CONNECTION_SPECIFIC:
            raise _malformed("connection-specific field")


def timed(opening: Opening, timeout: bytes) -> Opening:
    """The opening of a call that came with a grpc-timeout."""
    head, batch, method, refusal = opening
    if refusal is not None:
        return opening
    try:
        seconds = parse_timeout(timeout)
    except ValueError as error:
        return Opening(head, refusal=grpc_error(Code.INTERNAL, str(error)))
    path, metadata, _, encoding, content_length = head
    return Opening(RequestHead(path, metadata, seconds, encoding, content_length), batch, method)


# Bytes that number table entries; 0x81 to 0xbd stay what they are, the static table.
_NUMBERS: Final = bytes(byte for byte in range(255) if not 0x81 <= byte <= 0xBD)
_STATIC_NUMBERS: Final = bytes(range(0xBE))
_NO_ENTRY: Final = b"\xff" * 66
_ADDRESSABLE: Final = 65  # dynamic entries that a one-byte index reaches: 62 to 126


class _Table(HeaderTable):
    """HPACK's dynamic table, and what is known of header blocks under it.

    Each entry gets a number of one byte, in turn. `numbers` translates one-byte indexes to them, so
    a run of such indexes gives the same bytes as long as it means the same entries, however many
    were inserted since. A number comes back after 194 insertions, and a run reaches 65 back: so
    what is known of runs is forgotten every 97.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0
        self.known: dict[bytes, Opening] = {}
        self.prefixes: dict[bytes, list[Field]] = {}
        """By numbers: the fields before a grpc-timeout."""
        self.templates: dict[bytes, Opening] = {}
        """By numbers: the opening of a block without its grpc-timeout."""
        self._recent = b""
        self._next = 0
        self.numbers = _STATIC_NUMBERS + _NO_ENTRY

    def add(self, name: bytes, value: bytes) -> None:
        """Insert an entry (RFC 7541 section 4.4). hpack's own takes three times as long."""
        entries = self.dynamic_entries
        size = self._current_size + len(name) + len(value) + _FIELD_OVERHEAD
        entries.appendleft((name, value))
        while size > self._maxsize:
            old_name, old_value = entries.pop()
            size -= len(old_name) + len(old_value) + _FIELD_OVERHEAD
        self._current_size = size
        self.changes += 1
        number = self._next = (self._next + 1) % 194
        if number % 97 == 0:
            self.forget()
        self._recent = _NUMBERS[number : number + 1] + self._recent
        self.settle()

    def forget(self) -> None:
        """Drop what is known of runs."""
        self.changes += 1
        self.prefixes.clear()
        self.templates.clear()

    def settle(self) -> None:
        """An index may mean something else now."""
        self._recent = self._recent[: min(len(self.dynamic_entries), _ADDRESSABLE)]
        self.numbers = _STATIC_NUMBERS + (self._recent + _NO_ENTRY)[:66]
        if self.known:
            self.known.clear()


class HeaderDecoder:
    """One connection's header blocks: the HPACK state and the blocks already known under it."""

    KNOWN_BLOCKS: Final = 256

    def __init__(self, router: Router, limits: Limits) -> None:
        self._router = router
        self._table = _Table()
        # Past the limit the request is refused and the table stays in step; past four times the
        # limit the peer is up to something, and the connection ends.
        self._decoder = Decoder(max_header_list_size=4 * limits.max_header_list_bytes)
        self._decoder.header_table = self._table
        self.known = self._table.known
        """Openings by block, always those that are valid now. The same dict for life."""

    def decode(self, block: bytes) -> Opening:
        """The opening that a request's header block asks for; raises ConnectionFault."""
        table = self._table
        cut = len(block) - len(block.lstrip(_INDEXED))
        prefix = block[:cut].translate(table.numbers)
        before = table.prefixes.get(prefix)
        if before is not None:
            literal = self._timeout_literal(block, cut)
            if literal is not None:
                return self._decode_timed(block, prefix, before, *literal)
        changes = table.changes
        fields = self.fields(block)
        if len(table.prefixes) < self.KNOWN_BLOCKS and cut < len(block):
            table.prefixes[prefix] = fields[:cut]
        timeout = None
        for index, (name, value) in enumerate(fields):
            if name == _TIMEOUT:
                timeout = value
                del fields[index]
                break
        opening = self._router.open(fields)
        if timeout is not None:
            opening = timed(opening, timeout)
        if table.changes == changes and len(self.known) < self.KNOWN_BLOCKS and len(block) <= 1024:
            self.known[block] = opening
        return opening

    def _timeout_literal(self, block: bytes, start: int) -> tuple[bytes, int, int] | None:
        """The value of a literal grpc-timeout at `start`, where it ends, and whether to insert it.

        None when it is something else, or when more than one-byte indexes follow.
        """
        try:
            byte = block[start]
            mask = 0x3F if byte & 0x40 else 0x0F
            index = byte & mask
            start += 1
            if not index:
                for name in _TIMEOUT_NAMES:
                    if block.startswith(name, start):
                        start += len(name)
                        break
                else:
                    return None
            else:
                if index == mask:
                    index += block[start]
                    start += 1
                if (
                    byte & 0x60 == 0x20
                    or index < _FIRST_DYNAMIC
                    or index >= mask + 0x80
                    or self._table.dynamic_entries[index - _FIRST_DYNAMIC][0] != _TIMEOUT
                ):
                    return None
            value, end = _short_string(block, start)
        except (IndexError, HPACKError):
            return None
        if not _all_indexed(block, end):
            return None
        return value, end, byte & 0x40

    def _decode_timed(
        self, block: bytes, prefix: bytes, before: list[Field], value: bytes, end: int, insert: int
    ) -> Opening:
        table = self._table
        if insert:
            table.add(_TIMEOUT, value)
        after = block[end:]
        key = prefix + b"\xff" + after.translate(table.numbers)
        opening = table.templates.get(key)
        if opening is None:
            opening = self._router.open(before + self.fields(after))
            if len(table.templates) < self.KNOWN_BLOCKS:
                table.templates[key] = opening
        return timed(opening, value)

    def fields(self, block: bytes) -> list[Field]:
        """The fields of any header block, such as trailers; raises ConnectionFault.

        Decodes what RFC 7541 section 6 lets fit short integers, and leaves the block to `hpack`
        from the first byte where it does not: all decoding state is in the table that both share.
        """
        table, dynamic = self._table, self._table.dynamic_entries
        fields: list[Field] = []
        position = 0
        try:
            while position < len(block):
                byte = block[position]
                if byte >= 0x80:  # indexed field
                    index = byte & 0x7F
                    size = 1
                    if index == 0x7F:
                        index += block[position + 1]
                        size = 2
                    if not 0 < index < 0x7F + 0x80:
                        break
                    fields.append(
                        dynamic[index - _FIRST_DYNAMIC]
                        if index >= _FIRST_DYNAMIC
                        else _STATIC[index - 1]
                    )
                    position += size
                    continue
                if byte & 0x60 == 0x20:  # table size update
                    break
                mask = 0x3F if byte & 0x40 else 0x0F
                index, start = byte & mask, position + 1
                if index == mask:
                    index += block[start]
                    if block[start] & 0x80:
                        break
                    start += 1
                if not index:
                    name, start = _short_string(block, start)
                elif index >= _FIRST_DYNAMIC:
                    name = dynamic[index - _FIRST_DYNAMIC][0]
                else:
                    name = _STATIC[index - 1][0]
                value, position_after = _short_string(block, start)
                if byte & 0x40:
                    table.add(name, value)
                fields.append((name, value))
                position = position_after
        except (IndexError, HPACKError):
            pass  # hpack finds the same fault at the same place, and names it
        if position < len(block):
            if block[position] & 0xE0 == 0x20:
                if position:
                    text = "table size update inside a header block"
                    raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, text)
                table.forget()
            fields += self._rest(block[position:])
            table.settle()
        return fields

    def _rest(self, block: bytes) -> list[Field]:
        try:
            # Plain tuples: hpack's are a Python class.
            return [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "header list far over the limit"
            ) from None
        except (HPACKError, IndexError, ValueError) as error:
            text = f"bad header block: {error}"
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, text) from None


def _short_string(block: bytes, position: int) -> tuple[bytes, int]:
    """The string literal at `position` and where it ends; IndexError when it is long or cut."""
    length = block[position]
    start = position + 1
    end = start + (length & 0x7F)
    if length & 0x7F == 0x7F or end > len(block):
        raise IndexError
    value = block[start:end]
    return (_huffman_decoded(value) if length & 0x80 else value), end


_huffman_steps: Final[dict[int, tuple[int, int, bytes]]] = {}


def _huffman_step(state: int, byte: int) -> tuple[int, int, bytes]:
    """What one byte does to the decoder, from hpack's table of half bytes."""
    symbols = bytearray()
    flags = 0
    for half in (byte >> 4, byte & 0xF):
        state, flags, symbol = HUFFMAN_TABLE[state * 16 + half]
        if flags & HUFFMAN_FAIL:
            raise HPACKError("invalid Huffman string")
        if flags & HUFFMAN_EMIT_SYMBOL:
            symbols.append(symbol)
    return state << 8, flags, bytes(symbols)


def _huffman_decoded(data: bytes) -> bytes:
    """A Huffman-coded string, a byte at a time; raises HPACKError.

    The steps are remembered as they are needed: there are at most 65,536.
    """
    state = 0
    flags = HUFFMAN_COMPLETE
    decoded = b""
    for byte in data:
        step = _huffman_steps.get(state | byte)
        if step is None:
            step = _huffman_steps[state | byte] = _huffman_step(state >> 8, byte)
        state, flags, symbols = step
        decoded += symbols
    if not flags & HUFFMAN_COMPLETE:
        raise HPACKError("incomplete Huffman string")
    return decoded
