"""A snapshot on its way into this member: received beside the keyspace, then put in its place.

Until it is installed, a crash leaves the member as it was; from then on it leaves it with the
snapshot. What was received is kept when the connection is lost, so that the next attempt need not
send it again.
"""

import os
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final
from zlib import crc32

from rusd.lease.lessor import ROW_PREFIX, Lessor
from rusd.mvcc.keyspace import Applied, Keyspace
from rusd.mvcc.tables import new_batch, rows_under
from rusd.node.peer_wire import PeerProtocolError
from rusd.node.snapshot_wire import FileInfo
from rusd.raft.message import Snapshot
from rusd.storage.engine import Engine, destroy
from rusd.storage.folders import KEYSPACE, make_current, sync_directory
from rusd.storage.wal import Wal

_SYNC_BYTES: Final = 4 << 20
"""Synced together: who syncs a log on the same disk meanwhile waits for no more than this."""
_SYNCS_AHEAD: Final = 4
"""Of these, how many may wait while more is written."""
_SPARE_BYTES: Final = 64 << 20
"""Free space that a snapshot must leave."""


class SnapshotError(Exception):
    """A snapshot that cannot be taken."""


class Staging:
    """The folder in which a snapshot gathers. Its work is done on a thread of its own, in order;
    the methods block and are for that thread.
    """

    def __init__(self, member: Path, index: int) -> None:
        """`member` is the directory of this member's data."""
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self.folder = member / f"{KEYSPACE}-{index:x}-{secrets.token_hex(4)}"
        self._files: list[FileInfo] = []
        self._complete: dict[FileInfo, int] = {}
        """Files that are on disk, with their crc32."""
        self._syncing = ThreadPoolExecutor(1, thread_name_prefix="snapshot-sync")
        self._synced: list[Future[None]] = []
        self._open: tuple[int, int, int, int] | None = None
        """The file that is being received: its number, descriptor, size so far, crc32 so far."""

    def begin(self, files: list[FileInfo]) -> list[tuple[int, int]]:
        """Makes ready for these files. Returns which are there already, by number, with checksums.

        Raises SnapshotError when there is no space for them.
        """
        self._close()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._files = files
        wanted = set(files)
        self._complete = {file: crc for file, crc in self._complete.items() if file in wanted}
        kept = {file.name for file in self._complete}
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink()
        needed = sum(file.size for file in files if file not in self._complete)
        free = shutil.disk_usage(self.folder).free
        if needed + _SPARE_BYTES > free:
            raise SnapshotError(f"it needs {needed} bytes, and {free} are free")
        return [
            (number, self._complete[file])
            for number, file in enumerate(files)
            if file in self._complete
        ]

    def write(self, number: int, offset: int, data: memoryview) -> None:
        """Adds a piece. A file's pieces come in order; those of a file that is there replace it.

        Raises PeerProtocolError and OSError.
        """
        if number >= len(self._files):
            raise PeerProtocolError("a piece of a file that was not offered")
        file = self._files[number]
        if offset == 0:
            self._close()
            self._complete.pop(file, None)
            flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC
            self._open = number, os.open(self.folder / file.name, flags, 0o600), 0, 0
        if self._open is None or self._open[0] != number or self._open[2] != offset:
            raise PeerProtocolError("a piece of a snapshot out of order")
        _, descriptor, size, crc = self._open
        if size + len(data) > file.size:
            raise PeerProtocolError("a file of a snapshot is larger than was offered")
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
        size, crc = size + len(data), crc32(data, crc)
        self._open = number, descriptor, size, crc
        if size == file.size:
            self._open = None
            self._complete[file] = crc
            self._synced.append(self._syncing.submit(_sync_and_close, descriptor))
        elif size // _SYNC_BYTES > offset // _SYNC_BYTES:
            self._synced.append(self._syncing.submit(os.fdatasync, descriptor))
        if len(self._synced) > _SYNCS_AHEAD:
            self._synced.pop(0).result()

    def finish(self, checksums: dict[int, int]) -> None:
        """Makes sure that all files are there, right, and on disk. Raises SnapshotError and
        OSError.
        """
        self._close()
        while self._synced:
            self._synced.pop(0).result()
        for number, file in enumerate(self._files):
            if self._complete.get(file) != checksums.get(number, -1):
                self._complete.pop(file, None)
                raise SnapshotError(f"{file.name} has not arrived as it is")
        sync_directory(self.folder)

    def prepare(self, snapshot: Snapshot, cluster_row: tuple[bytes, bytes]) -> "Prepared":
        """Opens what was received, as this member's. `cluster_row` says which member this is.

        Raises SnapshotError when the content is not what the snapshot stands for, OSError when it
        cannot be opened.
        """
        engine = Engine(self.folder.parent, self.folder)
        try:
            batch = new_batch()
            batch.put(*cluster_row)
            engine.tables.write(batch)
            engine.flush()
            prepared = Prepared(engine)
        except BaseException:
            engine.close()
            raise
        applied = prepared.keyspace.applied
        if applied != Applied(snapshot.term, snapshot.index):
            prepared.close()
            raise SnapshotError(f"it is of {applied}, not of {snapshot}")
        return prepared

    def _close(self) -> None:
        if self._open is not None:
            self._syncing.submit(os.close, self._open[1])
            self._open = None


class Prepared:
    """A keyspace that is open and in memory, beside the one that is used."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        state = engine.tables.state
        # Its clock stands still: what counts of it is what the log promises.
        self.lessor = Lessor(lambda: 0.0)
        self.lessor.load(rows_under(state, ROW_PREFIX))
        self.keyspace = Keyspace(engine.tables, self.lessor)

    def close(self) -> None:
        """Lets go of it all. Blocks; for a worker thread."""
        self.keyspace.forget()
        with suppress(OSError):
            # To close a database writes what is in memory, and would hold the GIL for that.
            self.engine.flush()
        with suppress(Exception):  # it may be compacted just now, and closes when that ends
            self.engine.close()
        del self.engine, self.keyspace, self.lessor


class Staged:
    """A snapshot that has arrived and is ready to take the keyspace's place."""

    def __init__(
        self,
        snapshot: Snapshot,
        folder: Path,
        swap: Callable[[], None],
        discard: Callable[[], None],
    ) -> None:
        """`folder` has its content; `swap` and `discard` do what the methods of that name say."""
        self.snapshot, self._folder = snapshot, folder
        self.swap = swap
        """Makes it what this process works on, once installed."""
        self.discard = discard
        """Drops it: the core has no use for it."""

    def install(self, wal: Wal) -> None:
        """Makes it what a restart finds. Blocks; for the log's thread."""
        index, term = self.snapshot.index, self.snapshot.term
        # In this order: a keyspace ahead of its log is explained by what was noted, and never by
        # anything else.
        wal.note_snapshot(index, term)
        make_current(self._folder)
        wal.reset(index, term)


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def destroyed(folder: Path) -> bool:
    """Removes a database with its folder; returns False while it is open: a read is under way."""
    if not destroy(folder):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True
