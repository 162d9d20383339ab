"""How keys and their changes are laid out in bytes.

An *item* is one stored KeyValue with its protobuf field head (field 2, length-delimited): the same
bytes are an element of RangeResponse.kvs and the body of a put's Event, so answers and watch events
are joins of stored bytes. An *event* is a serialized mvccpb.Event.

Tables (column families; integers are big-endian):

======== ============================== ==========================================================
table    key                            value
======== ============================== ==========================================================
latest   key                            META (36 bytes), item unless it is large
events   main (8), sub (4)              the event that it replaced: main (8), sub (4); event
history  escaped key, main (8)          main of the revision that replaced it (8), its own sub (4)
======== ============================== ==========================================================

A large item is written once, in its event: META says where.
"""

import struct
from typing import Final

META: Final = struct.Struct(">QIQQq")
"""mod revision, sub-revision, create revision, version, lease. The first 12 bytes are the row of
the key's newest event in the events table."""

META_SIZE: Final = META.size
LARGE: Final = 4096
"""Bytes from which on an item is not in the latest table. Below, one look-up in place of two is
worth writing it twice; above, to copy it takes as long as to look it up (about 4 us).
"""
REVISION: Final = struct.Struct(">QI")
"""Main and sub-revision: a key of the events table."""

NO_REVISION: Final = bytes(12)
"""What an event replaced when its key did not exist before."""

U64: Final = struct.Struct(">Q")
DELETED: Final = 0x08
"""First byte of a delete's event (its type field); a put's event starts with field 2."""

_ONE = [bytes((i,)) for i in range(128)]
_TWO = [bytes((i & 0x7F | 0x80, i >> 7)) for i in range(1 << 14)]
_CONTINUED = [bytes((i & 0x7F | 0x80, i >> 7 | 0x80)) for i in range(1 << 14)]


def varint(number: int) -> bytes:
    """A non-negative protobuf varint. Tables of 14 bits make it a look-up or two."""
    if number < 128:
        return _ONE[number]
    if number < 16384:
        return _TWO[number]
    return _CONTINUED[number & 0x3FFF] + varint(number >> 14)


def signed_varint(number: int) -> bytes:
    """An int64 varint: negative numbers take ten bytes, as two's complement."""
    return varint(number if number >= 0 else number + (1 << 64))


def field(tag: bytes, body: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return tag + varint(len(body)) + body


def item_of(key: bytes, create: int, mod: int, version: int, value: bytes, lease: int) -> bytes:
    """The item of a KeyValue, with fields in protobuf's order and zero values left out."""
    return field(
        b"\x12",
        b"".join(
            (
                b"\x0a" + varint(len(key)) + key if key else b"",
                b"\x10" + varint(create),
                b"\x18" + varint(mod),
                b"\x20" + varint(version),
                b"\x2a" + varint(len(value)) + value if value else b"",
                b"\x30" + signed_varint(lease) if lease else b"",
            )
        ),
    )


def delete_event(key: bytes, mod: int) -> bytes:
    """The Event of a delete: its KeyValue has only the key and the revision that deleted it."""
    return b"\x08\x01" + field(b"\x12", b"\x0a" + varint(len(key)) + key + b"\x18" + varint(mod))


def escape(key: bytes) -> bytes:
    """A key as a prefix in the history table: order is kept and no escaped key starts another."""
    return key.replace(b"\x00", b"\x00\xff") + b"\x00\x01"


def event_key(event: bytes) -> bytes:
    """The key that an event, or an item, is about."""
    position = 3 if event[0] == DELETED else 1
    while event[position] > 127:
        position += 1
    position += 2  # past the KeyValue's length and the tag of its first field, the key
    length, shift = 0, 0
    while True:
        byte = event[position]
        position += 1
        length |= (byte & 0x7F) << shift
        if byte < 128:
            return event[position : position + length]
        shift += 7


def range_end(end: bytes) -> bytes | None:
    r"""The exclusive end of a range request, None for "to the last key" (`\0`)."""
    return None if end == b"\x00" else end
