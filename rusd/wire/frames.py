"""HTTP/2 frames as bytes: types, flags, error codes, settings (RFC 9113 sections 4, 6 and 7)."""

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (section 3.4)."""

# Frame types. Plain integers: an enum member costs an attribute look-up a frame on the hot path.
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

FRAME_HEAD_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16384
"""The largest payload that we accept: SETTINGS_MAX_FRAME_SIZE stays at its initial value."""

DEFAULT_WINDOW: Final = 65535
"""The initial flow-control window of a stream and of a connection (section 6.9.2)."""

MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1

unpack_frame_head = Struct(">HBBBI").unpack_from
"""Length (high 16 and low 8 bits), type, flags, stream id (with the reserved bit)."""

unpack_u32 = Struct(">I").unpack_from
unpack_setting = Struct(">HI").iter_unpack
pack_u32 = Struct(">I").pack
_pack_u64 = Struct(">II").pack
_pack_head = Struct(">HBBBI").pack
_pack_setting = Struct(">HI").pack


class Setting(IntEnum):
    """SETTINGS identifiers (section 6.5.2)."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class ErrorCode(IntEnum):
    """Why a stream or a connection ended (section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ConnectionFault(Exception):  # noqa: N818 - the builtin has the RFC's name
    """A connection error (section 5.4.1): GOAWAY with `code`, then close."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamFault(Exception):  # noqa: N818
    """A stream error (section 5.4.2): RST_STREAM with `code`; the connection lives on."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame. The payload must fit the peer's maximum frame size."""
    size = len(payload)
    return _pack_head(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def frame_head(size: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a payload of `size` bytes."""
    return _pack_head(size >> 8, size & 0xFF, kind, flags, stream_id)


def settings(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_pack_setting(*item) for item in values.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, pack_u32(increment))


def rst_stream(stream_id: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, pack_u32(code))


def goaway(last_stream: int, code: ErrorCode, debug: bytes = b"") -> bytes:
    """A GOAWAY frame; streams above `last_stream` were not and will not be processed."""
    return frame(GOAWAY, 0, 0, _pack_u64(last_stream, code) + debug)


def unpadded(payload: bytes) -> bytes:
    """The payload of a PADDED frame without its padding (section 6.1)."""
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a pad length")
    if payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")
    return payload[1 : len(payload) - payload[0]]
