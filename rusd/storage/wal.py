"""The Raft log on disk: entries and hard state, appended and synced before anyone relies on them.

The log is a row of segment files, `member/wal/<sequence>-<first index>.log`. What is written
between two syncs is one *frame*, written and synced with one system call; segments are allocated
ahead, so that the sync has no file size to record. A frame holds records; a later entry with the
same index replaces the earlier one and all that follow it.

    frame         magic (4), crc32 of the rest (4), length of the records (4),
                  crc32 of the length (4), records
    record        kind (1), length (4), body
    entry         term (8), index (8), data
    marked entry  kind (1), term (8), index (8), data: an entry whose kind is not 0
    hard state    term (8), vote (8), commit (8)
    snapshot      index (8), term (8): a snapshot that is about to be installed
    beginning     index (8), term (8): a snapshot that all before this segment is replaced by

Little-endian. Only the last frame can be unfinished, since the one before it was synced first: an
unfinished last frame was never acknowledged and is dropped; any other bad frame is damage, and
stops the start.
"""

import errno
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple, Protocol

from rusd.histogram import DISK_SECONDS, Histogram
from rusd.storage.folders import make_directory, sync_directory

SEGMENT_BYTES: Final = 64 << 20
_UNFINISHED: Final = "next"
_KEPT_FREE, _KEPT_PART = 192 << 20, 8
"""Bytes of the disk, but no more than an eighth of it, that a new segment leaves free: what its
entries become in the keyspace, before it is compacted.
"""
_MAGIC: Final = b"RWL1"
_FRAME: Final = struct.Struct("<4sIII")
_LENGTH: Final = struct.Struct("<I")
_RECORD: Final = struct.Struct("<BI")
_ENTRY: Final = struct.Struct("<QQ")
_MARKED_ENTRY: Final = struct.Struct("<BQQ")
_HARD_STATE: Final = struct.Struct("<QQQ")
_MARK: Final = struct.Struct("<QQ")
_KIND_ENTRY, _KIND_HARD_STATE, _KIND_MARKED_ENTRY, _KIND_SNAPSHOT, _KIND_BEGINNING = 1, 2, 3, 4, 5
_SECTOR: Final = 512
_MAX_FRAME: Final = 1 << 30
_FULL_FRAME: Final = 64 << 20
"""A frame that has this many bytes waits for no more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the Raft log."""

    term: int
    index: int
    data: bytes
    kind: int = 0


class LogEntry(Protocol):
    """What can be written: an `Entry`, or the Raft core's."""

    @property
    def term(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def kind(self) -> int: ...


class HardState(NamedTuple):
    """What Raft must not forget (paper, figure 2): the term, and the vote in it (0 for none); and
    how far is known to be committed.
    """

    term: int = 0
    vote: int = 0
    commit: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the log that a snapshot stands for: the last entry that it covers."""

    index: int = 0
    term: int = 0


class NoRoomError(OSError):
    """The disk has no room for a new segment. Nothing was written: to sync again is safe."""


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

    After an OSError it takes no more: what is on disk is unknown, and a later sync that succeeds
    would say nothing about the failed one. A NoRoomError alone changes nothing.
    """

    def __init__(self, directory: Path, sync: bool = True) -> None:
        """`sync=False` (--unsafe-no-fsync) leaves it to the kernel when writes reach the disk."""
        self.directory = directory
        self._put = _put_synced if sync else _put
        make_directory(directory)
        self.torn: TornTail | None = None
        self.hard_state = HardState()
        self.first_index = 0
        """0 when the log is empty and begins after no snapshot; index + 1 when it begins after one.
        """
        self.last_index = 0
        self.snapshot = Mark()
        """The snapshot that was noted last, installed or not."""
        self.syncs = Histogram(DISK_SECONDS)
        """Seconds that writing and syncing a frame took."""
        self.written = 0
        """Bytes of frames, since it was opened."""
        self._failed = False
        self._segments = [
            _Segment(int(path.stem.split("-")[0]), path, int(path.stem.split("-")[1]), 0)
            for path in sorted(directory.glob("*.log"))
        ]
        self._fd = -1
        self._offset = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._lowest = self._last = 0
        """Of the entries that wait: the lowest index, and the last; 0 when there is none."""
        self._waiting_state: HardState | None = None
        self._check()
        if not self._segments:
            self._start_segment(1, self._open_next())
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
                    if kind in (_KIND_ENTRY, _KIND_MARKED_ENTRY):
                        entry = _entry(kind, body)
                        if entry.index in kept:
                            for index in range(entry.index, max(kept) + 1):
                                kept.pop(index, None)
                        kept[entry.index] = entry
            for index in sorted(kept):
                if index > after and (not replaced_from or index < replaced_from):
                    yield kept[index]

    def append(
        self, entries: Sequence[LogEntry], hard_state: tuple[int, int, int] | None = None
    ) -> None:
        """`write` and `sync`: returns when all of it is on disk."""
        self.write(entries, hard_state)
        self.sync()

    def write(
        self, entries: Sequence[LogEntry], hard_state: tuple[int, int, int] | None = None
    ) -> None:
        """Adds to what the next `sync` writes. Nothing of it may be relied on before that."""
        parts = self._waiting
        for entry in entries:
            data = entry.data
            if entry.kind:
                head = _MARKED_ENTRY.pack(entry.kind, entry.term, entry.index)
                parts += (_RECORD.pack(_KIND_MARKED_ENTRY, len(head) + len(data)), head, data)
            else:
                head = _ENTRY.pack(entry.term, entry.index)
                parts += (_RECORD.pack(_KIND_ENTRY, len(head) + len(data)), head, data)
            self._waiting_bytes += len(data)
        if entries:
            self._lowest = min(self._lowest or entries[0].index, entries[0].index)
            self._last = entries[-1].index
        if hard_state is not None:
            self._waiting_state = HardState(*hard_state)
            parts += _hard_state_record(self._waiting_state)
        if self._waiting_bytes > _FULL_FRAME:
            with suppress(NoRoomError):  # it waits, then, for the next sync
                self.sync()

    def sync(self) -> None:
        """Writes what was added since the last sync, as one frame, and syncs. Returns when all of
        it is on disk; raises OSError when that is unsure. Raises NoRoomError when it has to wait.

        Blocks; releases the GIL; for a worker thread.
        """
        if self._failed:
            raise OSError("the log has failed before and takes no more")
        if not self._waiting:
            return
        frame = _frame(self._waiting)
        try:
            first = self._lowest or self.last_index + 1
            # A segment's name is its lowest index: what replaces entries before it goes elsewhere.
            if self._offset + len(frame) > SEGMENT_BYTES or first < self._segments[-1].first:
                self._roll(first)
            began = monotonic()
            self._put(self._fd, frame, self._offset)
            self.syncs.observe(monotonic() - began)
        except NoRoomError:
            raise
        except OSError:
            self._failed = True
            raise
        self._offset += len(frame)
        self.written += len(frame)
        if self._last:
            self.first_index = self.first_index or self._lowest
            self.last_index = self._segments[-1].last = self._last
        self.hard_state = self._waiting_state or self.hard_state
        self._waiting, self._waiting_bytes, self._waiting_state = [], 0, None
        self._lowest = self._last = 0

    def note_snapshot(self, index: int, term: int) -> None:
        """Notes, on disk, that a snapshot is about to be installed: from now on, a state machine
        that is at `index` while the log is not can be explained. See `reconcile`.
        """
        self._waiting += _mark_record(_KIND_SNAPSHOT, Mark(index, term))
        self.sync()
        self.snapshot = Mark(index, term)

    def reset(self, index: int, term: int) -> None:
        """Drops all entries: from now on the log begins after a snapshot. The hard state stays.

        A crash leaves the log as it was or as it will be.
        """
        self.sync()
        self.snapshot = Mark(index, term)
        try:
            self._end_segment()
            self._start_segment(index + 1, self._open_next(), begins=True)
            self._drop(len(self._segments) - 1)
        except OSError:
            self._failed = True
            raise
        self.first_index, self.last_index = index + 1, index

    def reconcile(self, applied: int) -> None:
        """Finishes a reset that a crash has kept from happening. `applied` is where the state
        machine is: if that is the snapshot that was noted last, and the log does not lead to it,
        then the snapshot was installed and the log is of before.
        """
        index, term = self.snapshot.index, self.snapshot.term
        if applied != index or not index or self.first_index > index:
            return
        entry = next(self.entries(index - 1), None) if self.last_index >= index else None
        # An entry of that index and term was preceded by all that the snapshot stands for (paper,
        # figure 3, log matching).
        if entry is None or entry.term != term:
            self.reset(index, term)

    def drop_before(self, index: int) -> None:
        """Removes segments all of whose entries have an index below `index`."""
        number = 0
        while number < len(self._segments) - 1 and self._segments[number].last < index:
            number += 1
        self._drop(number)

    @property
    def segments(self) -> int:
        """How many files the log has."""
        return len(self._segments)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _drop(self, number: int) -> None:
        """Removes the first segments, the oldest first, so that a crash leaves no gap."""
        if number:
            for segment in self._segments[:number]:
                segment.path.unlink()
            del self._segments[:number]
            self.first_index = self._segments[0].first
            sync_directory(self.directory)

    def _roll(self, first: int) -> None:
        # With room for the next one first: until then nothing has changed.
        descriptor = self._make_room()
        self._end_segment()
        self._start_segment(first, descriptor)

    def _make_room(self) -> int:
        """The descriptor of a new file with a segment's space. Leaves the keyspace, which may be on
        the same disk, what it needs to be flushed.
        """
        disk = os.statvfs(self.directory)
        kept = min(_KEPT_FREE, disk.f_blocks * disk.f_frsize // _KEPT_PART)
        free = disk.f_bavail * disk.f_frsize
        if free < SEGMENT_BYTES + kept:
            raise NoRoomError(
                errno.ENOSPC,
                f"{os.strerror(errno.ENOSPC)}: {free >> 20} MiB are free, a new segment of the log"
                f" needs {SEGMENT_BYTES + kept >> 20} MiB to be",
                str(self.directory),
            )
        return self._open_next()

    def _open_next(self) -> int:
        unfinished = self.directory / _UNFINISHED
        descriptor = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            _allocate(descriptor, 0)
        except OSError as error:
            os.close(descriptor)
            unfinished.unlink()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomError(error.errno, error.strerror, str(self.directory)) from error
            raise
        return descriptor

    def _end_segment(self) -> None:
        """Closed segments end where their frames end."""
        os.ftruncate(self._fd, self._offset)
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _start_segment(self, first: int, descriptor: int, begins: bool = False) -> None:
        """Begins a segment, in the file that `_open_next` made, which has its name only once what
        it begins with is on disk.
        """
        sequence = self._segments[-1].sequence + 1 if self._segments else 1
        path = self.directory / f"{sequence:016d}-{first:020d}.log"
        self._fd, self._offset = descriptor, 0
        self._write_beginning(begins)
        (self.directory / _UNFINISHED).rename(path)
        sync_directory(self.directory)
        self._segments.append(_Segment(sequence, path, first, first - 1))

    def _reopen(self) -> None:
        self._fd = os.open(self._segments[-1].path, os.O_WRONLY)
        # What follows the last frame, if anything, is a torn one: back to zeros.
        os.ftruncate(self._fd, self._offset)
        _allocate(self._fd, self._offset)
        if self._offset:
            os.fsync(self._fd)
        else:
            self._write_beginning()

    def _write_beginning(self, begins: bool = False) -> None:
        """Begins a segment with what must not go with earlier ones when they are dropped."""
        records = [*_hard_state_record(self.hard_state)]
        if self.snapshot.index:
            records += _mark_record(_KIND_BEGINNING if begins else _KIND_SNAPSHOT, self.snapshot)
        frame = _frame(records)
        _put(self._fd, frame, self._offset)
        self._offset = len(frame)
        os.fsync(self._fd)

    def _check(self) -> None:
        """Reads all frames: finds the ends of the log, the hard state, and damage."""
        begins_at = 0
        damage: DamagedLogError | None = None
        for position, segment in enumerate(self._segments):
            segment.last = segment.first - 1
            self._offset = 0
            for end, records in _frames(segment.path, self._on_bad_frame(position)):
                self._offset = end
                for kind, body in records:
                    if kind in (_KIND_ENTRY, _KIND_MARKED_ENTRY):
                        segment.last = _entry(kind, body[: _MARKED_ENTRY.size]).index
                    elif kind == _KIND_HARD_STATE:
                        self.hard_state = HardState(*_HARD_STATE.unpack(body))
                    else:
                        self.snapshot = Mark(*_MARK.unpack(body))
                        if kind == _KIND_BEGINNING:
                            begins_at = position
            expected = self.last_index + 1
            if begins_at == position:
                damage = None
            elif segment.first > expected:
                damage = DamagedLogError(segment.path, 0, f"entry {expected} is missing")
            self.last_index = max(segment.last, segment.first - 1)
        if damage is not None:
            raise damage
        if self._segments:
            self._drop(begins_at)
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


def _hard_state_record(state: HardState) -> tuple[bytes, bytes]:
    return _RECORD.pack(_KIND_HARD_STATE, _HARD_STATE.size), _HARD_STATE.pack(*state)


def _mark_record(kind: int, mark: Mark) -> tuple[bytes, bytes]:
    return _RECORD.pack(kind, _MARK.size), _MARK.pack(mark.index, mark.term)


def _entry(kind: int, body: bytes) -> Entry:
    if kind == _KIND_ENTRY:
        term, index = _ENTRY.unpack_from(body)
        return Entry(term, index, body[_ENTRY.size :])
    mark, term, index = _MARKED_ENTRY.unpack_from(body)
    return Entry(term, index, body[_MARKED_ENTRY.size :], mark)


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


def _put(fd: int, data: bytes, offset: int) -> None:
    """Writes all of it."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)


def _put_synced(fd: int, data: bytes, offset: int) -> None:
    """Writes all of it, and returns when it is on disk. In one system call: between two of them a
    thread waits for the interpreter, which cost a leader of three 7% of the puts that come one at
    a time.
    """
    if os.pwritev(fd, (data,), offset, os.RWF_DSYNC) < len(data):
        _put(fd, data, offset)
        os.fdatasync(fd)


def _allocate(fd: int, offset: int) -> None:
    os.posix_fallocate(fd, offset, max(1, SEGMENT_BYTES - offset))
