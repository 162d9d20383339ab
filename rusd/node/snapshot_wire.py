"""What passes on a connection that carries a snapshot. No sockets, no disk.

The sender offers: the Raft message, and the names and sizes of the files of a checkpoint. The
receiver names files that it has from an attempt that was cut off, with their checksums. The sender
sends the others in pieces, then the checksums of all. The receiver says that it is at work, and in
the end whether the snapshot has arrived.

A frame is the length of its payload (4 bytes, big endian), the payload's crc32 (4), its kind (1),
and the payload.
"""

import asyncio
import re
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple
from zlib import crc32

from rusd.node.peer_wire import HEAD_BYTES, PeerProtocolError, decode_message, encode_message
from rusd.raft.message import Message

PIECE_BYTES: Final = 1 << 20
MAX_FILES: Final = 1 << 16
_MAX_FRAME: Final = 16 << 20
HEAD: Final = struct.Struct(">IIB")
"""Of a frame: length of the payload, its crc32, kind."""
_COUNT: Final = struct.Struct(">I")
_FILE: Final = struct.Struct(">BQ")
_CHECKED: Final = struct.Struct(">II")
_PIECE: Final = struct.Struct(">IQ")
_NAME: Final = re.compile(r"\d{1,20}\.(sst|log)|MANIFEST-\d{1,20}|OPTIONS-\d{1,20}|CURRENT")


class SnapshotFrame(IntEnum):
    """Kinds of frames."""

    OFFER = 1
    HAVE = 2
    PIECE = 3
    CHECKSUMS = 4
    WORKING = 5
    DONE = 6
    REFUSED = 7
    """Payload: why, as text."""


class FileInfo(NamedTuple):
    """A file of a snapshot."""

    name: str
    size: int


class Offer(NamedTuple):
    """What a snapshot stands for, and what it is made of."""

    message: Message
    files: list[FileInfo]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def is_database_file(name: str) -> bool:
    """Whether a file of a checkpoint belongs to its database."""
    return _NAME.fullmatch(name) is not None


def head(kind: int, *parts: bytes | memoryview) -> bytes:
    """The head of the frame whose payload the parts make up."""
    crc = 0
    for part in parts:
        crc = crc32(part, crc)
    return HEAD.pack(sum(map(len, parts)), crc, kind)


def checked_head(data: bytes | bytearray) -> tuple[int, int, int]:
    """Length of the payload, its crc32, kind. Raises PeerProtocolError when it is too long."""
    size, crc, kind = HEAD.unpack_from(data)
    if size > _MAX_FRAME:
        raise PeerProtocolError(f"a frame of {size} bytes in a snapshot")
    return size, crc, kind


def frame(kind: int, payload: bytes = b"") -> bytes:
    return head(kind, payload) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Kind and payload of the next frame. Raises PeerProtocolError when it is not whole or right,
    IncompleteReadError when the connection ends.
    """
    size, crc, kind = checked_head(await reader.readexactly(HEAD.size))
    payload = await reader.readexactly(size)
    if crc32(payload) != crc:
        raise PeerProtocolError("a frame of a snapshot fails its checksum")
    return kind, payload


def encode_offer(offer: Offer) -> bytes:
    message = b"".join(encode_message(offer.message))[HEAD_BYTES:]
    parts: list[bytes] = [_COUNT.pack(len(message)), message]
    for file in offer.files:
        name = file.name.encode()
        parts += (_FILE.pack(len(name), file.size), name)
    return b"".join(parts)


def decode_offer(payload: bytes) -> Offer:
    """Raises PeerProtocolError; also for a name that no file of a database has."""
    try:
        (size,) = _COUNT.unpack_from(payload)
        position = _COUNT.size + size
        message = decode_message(memoryview(payload)[_COUNT.size : position])
        files = []
        while position < len(payload):
            length, size = _FILE.unpack_from(payload, position)
            position += _FILE.size
            name = payload[position : position + length].decode("ascii")
            position += length
            files.append(FileInfo(name, size))
        if position > len(payload):
            raise PeerProtocolError("an offer of a snapshot that is not whole")
    except (struct.error, UnicodeDecodeError):
        raise PeerProtocolError("an offer of a snapshot that is not whole") from None
    names = {file.name for file in files}
    if len(names) < len(files) or len(files) > MAX_FILES or not all(map(is_database_file, names)):
        raise PeerProtocolError("an offer of a snapshot with files that no database has")
    return Offer(message, files)


def encode_checksums(checksums: Sequence[tuple[int, int]]) -> bytes:
    """Files, by their number in the offer, with the crc32 of each."""
    return b"".join(_CHECKED.pack(*checked) for checked in checksums)


def decode_checksums(payload: bytes | memoryview) -> dict[int, int]:
    """Raises PeerProtocolError."""
    if len(payload) % _CHECKED.size:
        raise PeerProtocolError("checksums of a snapshot that are not whole")
    return dict(_CHECKED.iter_unpack(payload))


def piece_head(file: int, offset: int) -> bytes:
    """The beginning of a PIECE's payload; the bytes of the file from `offset` on follow."""
    return _PIECE.pack(file, offset)


def decode_piece(payload: bytes | memoryview) -> tuple[int, int, memoryview]:
    """File, offset and bytes. Raises PeerProtocolError."""
    if len(payload) < _PIECE.size:
        raise PeerProtocolError("a piece of a snapshot that is not whole")
    file, offset = _PIECE.unpack_from(payload)
    return file, offset, memoryview(payload)[_PIECE.size :]
