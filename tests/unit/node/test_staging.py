"""rusd/node/staging.py and the language of snapshots: nothing but what was offered gets in."""

import asyncio
import struct
from pathlib import Path
from zlib import crc32

import pytest

from rusd.node.peer_wire import PeerProtocolError
from rusd.node.snapshot_wire import (
    FileInfo,
    Offer,
    SnapshotFrame,
    decode_checksums,
    decode_offer,
    decode_piece,
    encode_checksums,
    encode_offer,
    frame,
    piece_head,
    read_frame,
)
from rusd.node.staging import SnapshotError, Staging
from rusd.raft.message import ConfState, Message, MessageKind, Snapshot

SNAPSHOT = Snapshot(77, 3, ConfState((1, 2), (3,), (1,), (4,), True))
MESSAGE = Message(MessageKind.SNAPSHOT, 2, 1, 5, snapshot=SNAPSHOT)
FILES = [FileInfo("000012.sst", 10), FileInfo("CURRENT", 4), FileInfo("MANIFEST-000011", 0)]
CONTENT = [b"0123456789", b"name", b""]


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path, 77)


def piece(staging: Staging, number: int, offset: int, data: bytes) -> None:
    staging.write(number, offset, memoryview(data))


def filled(staging: Staging) -> dict[int, int]:
    staging.begin(FILES)
    for number, content in enumerate(CONTENT):
        piece(staging, number, 0, content[:3])
        if content[3:]:
            piece(staging, number, 3, content[3:])
    return {number: crc32(content) for number, content in enumerate(CONTENT)}


def test_files_arrive_piece_by_piece(staging: Staging) -> None:
    checksums = filled(staging)
    staging.finish(checksums)
    assert {path.name: path.read_bytes() for path in staging.folder.iterdir()} == {
        file.name: content for file, content in zip(FILES, CONTENT, strict=True)
    }
    assert staging.folder.name.startswith("keyspace-4d-")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_file_that_is_missing_or_not_as_it_was_is_noticed(staging: Staging, number: int) -> None:
    checksums = filled(staging)
    with pytest.raises(SnapshotError, match=FILES[number].name):
        staging.finish({**checksums, number: checksums[number] ^ 1})
    # What was right is kept; the one that was not is sent again.
    have = staging.begin(FILES)
    assert have == [(each, crc) for each, crc in checksums.items() if each != number]
    with pytest.raises(SnapshotError, match=FILES[number].name):
        staging.finish(checksums)
    piece(staging, number, 0, CONTENT[number])
    staging.finish(checksums)


def test_what_was_cut_off_in_a_file_is_not_kept(staging: Staging) -> None:
    staging.begin(FILES)
    piece(staging, 1, 0, b"name")
    piece(staging, 0, 0, b"0123")
    assert staging.begin(FILES) == [(1, crc32(b"name"))]
    assert [path.name for path in staging.folder.iterdir()] == ["CURRENT"]
    # A file of another size is another file.
    assert staging.begin([FILES[0], FileInfo("CURRENT", 5)]) == []
    assert not list(staging.folder.iterdir())


@pytest.mark.parametrize(
    ("number", "offset", "data"),
    [
        (3, 0, b"x"),  # not offered
        (0, 1, b"x"),  # not begun
        (1, 0, b"names"),  # larger than it was offered
        (2, 0, b"x"),
    ],
)
def test_a_piece_that_does_not_fit_ends_it(
    staging: Staging, number: int, offset: int, data: bytes
) -> None:
    staging.begin(FILES)
    with pytest.raises(PeerProtocolError):
        piece(staging, number, offset, data)


def test_pieces_out_of_order_end_it(staging: Staging) -> None:
    staging.begin(FILES)
    piece(staging, 0, 0, b"0123")
    for number, offset in ((0, 3), (0, 5), (1, 4)):
        with pytest.raises(PeerProtocolError):
            piece(staging, number, offset, b"x")


def test_offers_and_the_rest_come_back() -> None:
    offer = Offer(MESSAGE, FILES)
    assert decode_offer(encode_offer(offer)) == offer
    assert offer.size == 14
    assert decode_checksums(encode_checksums([(1, 2), (3, 2**32 - 1)])) == {1: 2, 3: 2**32 - 1}
    number, offset, data = decode_piece(piece_head(7, 2**40) + b"data")
    assert (number, offset, bytes(data)) == (7, 2**40, b"data")


@pytest.mark.parametrize(
    "name",
    [
        "../000012.sst",
        "/etc/passwd",
        "",
        "LOCK",
        "000012.sst/x",
        "0000\u06612.sst",
        "MANIFEST-",
        "x.sst",
    ],
)
def test_an_offer_of_a_file_that_no_database_has_is_refused(name: str) -> None:
    with pytest.raises(PeerProtocolError):
        decode_offer(encode_offer(Offer(MESSAGE, [*FILES, FileInfo(name, 1)])))


def test_an_offer_cut_anywhere_or_with_a_file_twice_is_refused() -> None:
    whole = encode_offer(Offer(MESSAGE, FILES))
    ends = {len(encode_offer(Offer(MESSAGE, FILES[:count]))) for count in range(len(FILES) + 1)}
    for end in set(range(len(whole))) - ends:
        with pytest.raises(PeerProtocolError):
            decode_offer(whole[:end])
    with pytest.raises(PeerProtocolError):
        decode_offer(encode_offer(Offer(MESSAGE, [*FILES, FILES[0]])))
    for data in (b"123456789", b"x"):
        with pytest.raises(PeerProtocolError):
            decode_checksums(data)
        with pytest.raises(PeerProtocolError):
            decode_piece(data)


def test_a_frame_with_any_bit_flipped_is_refused() -> None:
    whole = frame(SnapshotFrame.PIECE, b"payload")

    async def read(data: bytes) -> tuple[int, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_frame(reader)

    assert asyncio.run(read(whole)) == (SnapshotFrame.PIECE, b"payload")
    kind_at = struct.calcsize(">II")
    for bit in range(8 * len(whole)):
        if bit // 8 == kind_at:
            continue  # a kind that is not expected is refused where it comes
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((PeerProtocolError, EOFError)):
            asyncio.run(read(bytes(flipped)))
