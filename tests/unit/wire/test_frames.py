"""Frames as bytes, beside examples written out by hand from RFC 9113."""

import pytest

from rusd.wire import frames
from rusd.wire.frames import ConnectionFault, ErrorCode, Setting


def test_frames_are_as_the_rfc_draws_them() -> None:
    assert frames.frame(0x6, 0x1, 0, b"12345678") == b"\0\0\x08\x06\x01\0\0\0\x0012345678"
    assert frames.frame(0, 1, 0x01020304, bytes(0x123)).startswith(b"\0\x01\x23\0\x01\x01\2\3\4")
    assert frames.frame_head(0x012345, 1, 4, 7) == b"\x01\x23\x45\x01\x04\0\0\0\x07"
    assert frames.window_update(5, 10) == b"\0\0\4\x08\0\0\0\0\5\0\0\0\x0a"
    assert frames.rst_stream(3, ErrorCode.CANCEL) == b"\0\0\4\3\0\0\0\0\3\0\0\0\x08"
    assert frames.goaway(9, ErrorCode.ENHANCE_YOUR_CALM, b"why") == (
        b"\0\0\x0b\x07\0\0\0\0\0\0\0\0\x09\0\0\0\x0bwhy"
    )
    assert frames.settings({Setting.MAX_FRAME_SIZE: 20000}) == (
        b"\0\0\6\4\0\0\0\0\0\0\5\0\0\x4e\x20"
    )


def test_a_frame_head_is_read_as_written() -> None:
    head = frames.frame_head(0x012345, 9, 8, 77)
    assert frames.unpack_frame_head(head) == (0x0123, 0x45, 9, 8, 77)


def test_padding_is_removed() -> None:
    assert frames.unpadded(b"\x03abc\0\0\0") == b"abc"
    assert frames.unpadded(b"\x00abc") == b"abc"
    assert frames.unpadded(b"\x03\0\0\0") == b""
    for wrong in (b"", b"\x01", b"\x04\0\0\0"):
        with pytest.raises(ConnectionFault):
            frames.unpadded(wrong)
