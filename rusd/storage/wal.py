"""The Raft log on disk: entries and hard state, appended and synced before anyone relies on them.

The log is a row of segment files, `member/wal/<sequence>-<first index>.log`. Each `append` is one
*frame*, written with one system call and synced with one fdatasync; segments are allocated ahead,
so that the sync has no file size to record. A frame holds records; a later entry with the same
index replaces the earlier one and all that follow it.

    frame   magic (4), crc32 of the rest (4), length of the records (4), crc32 of the length (4),
            records
    record  kind (1), length (4), body
    entry   term (8), index (8), data        hard state   term (8), vote (8), commit (8)

Little-endian. Only the last frame can be unfinished, since the one before it was synced first: an
unfinished last frame was never acknowledged and is dropped; any other bad frame is damage, and
stops the start.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

SEGMENT_BYTES: Final = 64 << 20
_MAGIC: Final = b"RWL1"
_FRAME: Final = struct.Struct("<4sIII")
_LENGTH: Final = struct.Struct("<I")
_RECORD: Final = struct.Struct("<BI")
_ENTRY: Final = struct.Struct("<QQ")
_HARD_STATE: Final = struct.Struct("<QQQ")
_KIND_ENTRY, _KIND_HARD_STATE = 1, 2
_SECTOR: Final = 512
_MAX_FRAME: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the Raft log."""

    term: int
    index: int
    data: bytes


class HardState(NamedTuple):
    """What Raft must not forget (paper, figure 2): the term, and the vote in it (0 for none); and
    how far is known to be committed.
    """

    term: int = 0
    vote: int = 0
    commit: int = 0


class DamagedLogError(Exception):
    """The log is damaged where a torn write cannot be the reason."""

    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(f"the log is damaged: {what} in {path} at byte {offset}")
        self.path, self.offset = path, offset


@dataclass(frozen=True, slots=True)
class TornTail:
    """A last frame that was not written whole; it was dropped."""

    path: Path
    offset: int
    size: int


@dataclass(slots=True)
class _Segment:
    sequence: int
    path: Path
    first: int
    last: int


class Wal:
    """The open log of one member. One thread at a time may call it.

    After an OSError from `append` it takes no more: what is on disk is unknown, and a later sync
    that succeeds would say nothing about the failed one.
    """

    def __init__(self, directory: Path, sync: bool = True) -> None:
        """`sync=False` (--unsafe-no-fsync) leaves it to the kernel when writes reach the disk."""
        self.directory = directory
        self._sync = os.fdatasync if sync else _no_sync
        directory.mkdir(parents=True, exist_ok=True)
        self.torn: TornTail | None = None
        self.hard_state = HardState()
        self.first_index = 0
        """0 when the log is empty."""
        self.last_index = 0
        self._failed = False
        self._segments = [
            _Segment(int(path.stem.split("-")[0]), path, int(path.stem.split("-")[1]), 0)
            for path in sorted(directory.glob("*.log"))
        ]
        self._fd = -1
        self._offset = 0
        self._check()
        if not self._segments:
            self._start_segment(1)
        else:
            self._reopen()

    def entries(self, after: int) -> Iterator[Entry]:
        """The entries with an index over `after`, in order, a segment's worth in memory at a time.

        Not to be mixed with `append`.
        """
        for position, segment in enumerate(self._segments):
            if segment.last <= after:
                continue
            replaced_from = min(
                (later.first for later in self._segments[position + 1 :]), default=0
            )
            kept: dict[int, Entry] = {}
            for _, records in _frames(segment.path, self._on_bad_frame(position)):
                for kind, body in records:
                    if kind == _KIND_ENTRY:
                        entry = _entry(body)
                        if entry.index in kept:
                            for index in range(entry.index, max(kept) + 1):
                                kept.pop(index, None)
                        kept[entry.index] = entry
            for index in sorted(kept):
                if index > after and (not replaced_from or index < replaced_from):
                    yield kept[index]

    def append(self, entries: Sequence[Entry], hard_state: HardState | None = None) -> None:
        """Writes and syncs. Returns when all of it is on disk; raises OSError when that is unsure.

        Blocks; releases the GIL; for a worker thread.
        """
        if self._failed:
            raise OSError("the log has failed before and takes no more")
        parts: list[bytes] = []
        for entry in entries:
            parts += (
                _RECORD.pack(_KIND_ENTRY, _ENTRY.size + len(entry.data)),
                _ENTRY.pack(entry.term, entry.index),
                entry.data,
            )
        if hard_state is not None:
            parts += (
                _RECORD.pack(_KIND_HARD_STATE, _HARD_STATE.size),
                _HARD_STATE.pack(*hard_state),
            )
        frame = _frame(parts)
        try:
            first = entries[0].index if entries else self.last_index + 1
            # A segment's name is its lowest index: what replaces entries before it goes elsewhere.
            if self._offset + len(frame) > SEGMENT_BYTES or first < self._segments[-1].first:
                self._roll(first)
            self._write(frame)
            self._sync(self._fd)
        except OSError:
            self._failed = True
            raise
        self._offset += len(frame)
        if entries:
            self.first_index = self.first_index or entries[0].index
            self.last_index = self._segments[-1].last = entries[-1].index
        if hard_state is not None:
            self.hard_state = hard_state

    def drop_before(self, index: int) -> None:
        """Removes segments all of whose entries have an index below `index`."""
        while len(self._segments) > 1 and self._segments[0].last < index:
            self._segments.pop(0).path.unlink()
            self.first_index = self._segments[0].first
        _sync_directory(self.directory)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: bytes) -> None:
        written = os.pwrite(self._fd, data, self._offset)
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], self._offset + written)

    def _roll(self, first: int) -> None:
        # Closed segments end where their frames end; the hard state begins the next one.
        os.ftruncate(self._fd, self._offset)
        os.fsync(self._fd)
        os.close(self._fd)
        self._start_segment(first)

    def _start_segment(self, first: int) -> None:
        sequence = self._segments[-1].sequence + 1 if self._segments else 1
        path = self.directory / f"{sequence:016d}-{first:020d}.log"
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._offset = 0
        _allocate(self._fd, 0)
        self._segments.append(_Segment(sequence, path, first, first - 1))
        self._write_hard_state()
        _sync_directory(self.directory)

    def _reopen(self) -> None:
        self._fd = os.open(self._segments[-1].path, os.O_WRONLY)
        # What follows the last frame, if anything, is a torn one: back to zeros.
        os.ftruncate(self._fd, self._offset)
        _allocate(self._fd, self._offset)
        if self._offset:
            os.fsync(self._fd)
        else:
            self._write_hard_state()

    def _write_hard_state(self) -> None:
        """Begins a segment: what is in earlier ones may be dropped."""
        frame = _frame(
            [
                _RECORD.pack(_KIND_HARD_STATE, _HARD_STATE.size),
                _HARD_STATE.pack(*self.hard_state),
            ]
        )
        self._write(frame)
        self._offset = len(frame)
        os.fsync(self._fd)

    def _check(self) -> None:
        """Reads all frames: finds the ends of the log, the hard state, and damage."""
        for position, segment in enumerate(self._segments):
            segment.last = segment.first - 1
            self._offset = 0
            for end, records in _frames(segment.path, self._on_bad_frame(position)):
                self._offset = end
                for kind, body in records:
                    if kind == _KIND_ENTRY:
                        segment.last = _ENTRY.unpack_from(body)[1]
                    elif kind == _KIND_HARD_STATE:
                        self.hard_state = HardState(*_HARD_STATE.unpack(body))
            expected = self.last_index + 1
            if position and segment.first > expected:
                raise DamagedLogError(segment.path, 0, f"entry {expected} is missing")
            self.last_index = max(segment.last, segment.first - 1)
        if self._segments:
            self.first_index = self._segments[0].first if self.last_index else 0

    def _on_bad_frame(self, position: int) -> "Callable[[bytes, int], None]":
        """What to do with a segment's bytes from the offset of a frame that is not whole."""
        segment = self._segments[position]
        is_last = position == len(self._segments) - 1

        def judge(data: bytes, offset: int) -> None:
            written = len(data.rstrip(b"\0"))
            if written <= offset:
                return
            if not is_last or not _is_torn(data, offset):
                raise DamagedLogError(segment.path, offset, "a frame fails its checksum")
            self.torn = TornTail(segment.path, offset, written - offset)

        return judge


def _frame(records: list[bytes]) -> bytes:
    body = b"".join(records)
    length = _LENGTH.pack(len(body))
    crc = zlib.crc32(length)
    return _FRAME.pack(_MAGIC, zlib.crc32(body, crc), len(body), crc) + body


def _entry(body: bytes) -> Entry:
    term, index = _ENTRY.unpack_from(body)
    return Entry(term, index, body[_ENTRY.size :])


def _frames(
    path: Path, on_bad_frame: Callable[[bytes, int], None]
) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
    """The frames of a segment: offset of the end, and records (kind, body)."""
    data = _contents(path)
    offset = 0
    while offset < len(data):
        end = _frame_end(data, offset)
        if end is None:
            on_bad_frame(data, offset)
            return
        records = []
        position = offset + _FRAME.size
        while position < end:
            kind, size = _RECORD.unpack_from(data, position)
            position += _RECORD.size
            records.append((kind, data[position : position + size]))
            position += size
        yield end, records
        offset = end


def _contents(path: Path) -> bytes:
    """A segment's bytes up to where nothing was ever written: most of what is allocated ahead need
    not be read.
    """
    with path.open("rb") as file:
        fd, end = file.fileno(), 0
        with suppress(OSError):  # no data after `end`
            while True:
                end = os.lseek(fd, os.lseek(fd, end, os.SEEK_DATA), os.SEEK_HOLE)
        os.lseek(fd, 0, os.SEEK_SET)
        return file.read(end)


def _frame_end(data: bytes, offset: int) -> int | None:
    """Where the frame at an offset ends; None when it is not whole."""
    if offset + _FRAME.size > len(data):
        return None
    magic, crc, length, length_crc = _FRAME.unpack_from(data, offset)
    packed = _LENGTH.pack(length)
    if magic != _MAGIC or zlib.crc32(packed) != length_crc or length > _MAX_FRAME:
        return None
    start = offset + _FRAME.size
    records = data[start : start + length]
    if len(records) != length or zlib.crc32(records, zlib.crc32(packed)) != crc:
        return None
    return start + int(length)


def _is_torn(data: bytes, offset: int) -> bool:
    """Whether a bad frame looks like a last write that did not get to its end.

    It does when nothing whole follows it and a part of it is still as it was allocated: a sector
    of zeros, or the end of the file. Sectors reach the disk in any order.
    """
    if len(data[offset:].rstrip(b"\0")) < _FRAME.size:
        return True
    end = search = offset + _FRAME.size
    magic, _, length, length_crc = _FRAME.unpack_from(data, offset)
    if magic == _MAGIC and zlib.crc32(_LENGTH.pack(length)) == length_crc:
        end += length
        # What is in the frame may look like one.
        search = end
    following = data.find(_MAGIC, search)
    while following >= 0:
        if _frame_end(data, following) is not None:
            return False
        following = data.find(_MAGIC, following + 1)
    return end > len(data) or any(
        not data[max(offset, sector) : sector + _SECTOR].strip(b"\0")
        for sector in range(offset - offset % _SECTOR, end, _SECTOR)
    )


def _no_sync(_fd: int) -> None:
    pass


def _allocate(fd: int, offset: int) -> None:
    os.posix_fallocate(fd, offset, max(1, SEGMENT_BYTES - offset))


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
