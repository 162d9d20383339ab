"""Maintenance.Snapshot: streams a backup of this member, as a database file of etcd's.

Blocks come with the bytes that are left after them; last comes the SHA-256 of all that was before.
"""

import asyncio
from hashlib import sha256
from typing import BinaryIO, Final

from google.protobuf.message import DecodeError

from rusd.api import errors
from rusd.backup.schema import SCHEMA_VERSION
from rusd.backup.source import BackupError, Backups, TooManyBackupsError, size_of
from rusd.histogram import Histogram, exponential
from rusd.log import Logger
from rusd.pb.rpc_pb2 import SnapshotRequest, SnapshotResponse
from rusd.wire.grpc import Code, Status
from rusd.wire.service import StreamMethod
from rusd.wire.stream import Stream

_BLOCK_BYTES: Final = 32 << 10
"""Bytes a message, as etcd sends them."""
_PIECE_BYTES: Final = 32 * _BLOCK_BYTES
"""Bytes that are read at a time; sending them takes the event loop less than a millisecond."""
_PATIENCE: Final = 600.0
"""Seconds that a client may take nothing: its backup takes disk space."""


class Snapshot:
    """Streams backups."""

    def __init__(self, backups: Backups, log: Logger) -> None:
        self.backups, self.log = backups, log
        self.streams: set[SnapshotStream] = set()
        self.durations = Histogram(exponential(0.01, 2, 17))
        """Seconds that backups took, as far as they were complete."""

    def methods(self) -> list[StreamMethod]:
        return [StreamMethod("/etcdserverpb.Maintenance/Snapshot", self._open)]

    async def stop(self) -> None:
        """Ends what is under way: the member stops."""
        tasks = [task for stream in list(self.streams) if (task := stream.stop()) is not None]
        if tasks:
            await asyncio.wait(tasks)
        self.backups.stop()

    def _open(self, stream: Stream) -> "SnapshotStream":
        return SnapshotStream(self, stream)


class SnapshotStream:
    """One client's backup."""

    def __init__(self, service: Snapshot, stream: Stream) -> None:
        self._service, self._stream = service, stream
        self._task: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()

    def message(self, data: bytes) -> None:
        try:
            SnapshotRequest.FromString(data)
        except DecodeError:
            self._stream.finish(errors.MALFORMED)
            return
        if self._task is None:
            self._service.streams.add(self)
            self._task = asyncio.get_running_loop().create_task(self._run())

    def half_closed(self) -> None:
        pass

    def closed(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def writable(self) -> None:
        self._drained.set()

    def stop(self) -> "asyncio.Task[None] | None":
        """Ends the stream from this side. Returns what is then still under way."""
        self._stream.finish(errors.STOPPED)
        self.closed()
        return self._task

    async def _run(self) -> None:
        log, loop = self._service.log, asyncio.get_running_loop()
        began = loop.time()
        try:
            async with self._service.backups.open() as file:
                size = size_of(file)
                fields = {"total-bytes": size, "storage-version": SCHEMA_VERSION}
                log.info("sending database snapshot to client", **fields)
                await self._send(file, size)
                self._service.durations.observe(loop.time() - began)
                log.info("sent database snapshot to client", **fields, took=loop.time() - began)
            self._stream.finish()
        except TooManyBackupsError:
            self._stream.finish(errors.REQUEST_TOO_MANY_REQUESTS)
        except (BackupError, OSError, TimeoutError) as error:
            reason = str(error) or "the client takes nothing"
            log.warn("failed to send database snapshot to client", error=reason)
            self._stream.finish(Status(Code.UNKNOWN, f"rusd: no backup: {reason}"))
        finally:
            self._service.streams.discard(self)

    async def _send(self, file: BinaryIO, size: int) -> None:
        digest = sha256()

        def read() -> bytes:
            piece = file.read(_PIECE_BYTES)
            digest.update(piece)
            return piece

        remaining = size
        while remaining:
            piece = await self._service.backups.run(read)
            if not piece:
                raise OSError("the backup ends too early")
            for start in range(0, len(piece), _BLOCK_BYTES):
                block = piece[start : start + _BLOCK_BYTES]
                remaining -= len(block)
                self._send_block(block, remaining)
            await asyncio.wait_for(self._drain(), _PATIENCE)
        self._send_block(digest.digest(), 0)

    def _send_block(self, block: bytes, remaining: int) -> None:
        response = SnapshotResponse(remaining_bytes=remaining, blob=block, version=SCHEMA_VERSION)
        self._stream.send(response.SerializeToString())

    async def _drain(self) -> None:
        """Waits until the client has taken enough."""
        while self._stream.congested:
            self._drained.clear()
            await self._drained.wait()
