"""Maintenance.Snapshot, from a client's side."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

from rusd.api import errors
from rusd.api.snapshot import Snapshot
from rusd.backup.source import Backups
from rusd.log import Logger
from rusd.pb.rpc_pb2 import SnapshotRequest, SnapshotResponse
from rusd.wire.service import StreamHandler
from tests.unit.api.fakes import RecordedStream
from tests.unit.asynchronous import asynchronous
from tests.unit.node.running import until
from tests.unit.node.transferring import SENDER, site


@asynccontextmanager
async def service(directory: Path) -> AsyncIterator[Snapshot]:
    """The service of a member with a few megabytes."""
    async with site(directory, SENDER) as member:
        member.fill(1500)
        snapshot = Snapshot(Backups(member.engine), Logger(outputs=()))
        try:
            yield snapshot
        finally:
            await snapshot.stop()


def called(snapshot: Snapshot, stream: RecordedStream) -> StreamHandler:
    """A call with its request."""
    (method,) = snapshot.methods()
    handler = method.open(stream.stream)
    handler.message(SnapshotRequest().SerializeToString())
    handler.half_closed()
    return handler


@asynchronous
async def test_blocks_say_what_is_left_and_end_with_a_checksum(tmp_path: Path) -> None:
    """Of 32 KiB each, as etcd's."""
    async with service(tmp_path) as snapshot:
        stream = RecordedStream()
        called(snapshot, stream)
        await until(lambda: stream.ended, "the end")
        assert stream.ended == [None]
        *blocks, last = map(SnapshotResponse.FromString, stream.sent)
        data = b"".join(block.blob for block in blocks)
        assert len(data) > 2 << 20
        left = len(data)
        for block in blocks:
            assert 0 < len(block.blob) <= 32 << 10
            left -= len(block.blob)
            assert (block.remaining_bytes, block.version) == (left, "3.5.0")
        assert last.blob == sha256(data).digest()
        assert (left, last.remaining_bytes) == (0, 0)


@asynchronous
async def test_a_client_that_does_not_read_is_waited_for(tmp_path: Path) -> None:
    """What is sent to it meanwhile is bounded."""
    async with service(tmp_path) as snapshot:
        stream = RecordedStream()
        stream.congested = True
        handler = called(snapshot, stream)
        await until(lambda: stream.sent, "the first piece")
        sent = len(stream.sent)
        for _ in range(3):
            handler.writable()
            await asyncio.sleep(0.01)
        assert len(stream.sent) == sent == 32
        stream.congested = False
        handler.writable()
        await until(lambda: stream.ended, "the end")
        assert stream.ended == [None]


@asynchronous
async def test_a_client_that_goes_away_stops_the_work(tmp_path: Path) -> None:
    """Before the first block, and between two."""
    async with service(tmp_path) as snapshot:
        for first in (True, False):
            stream = RecordedStream()
            stream.congested = True
            handler = called(snapshot, stream)
            if not first:
                await until(lambda stream=stream: stream.sent, "a block")
            await asyncio.sleep(0)
            handler.closed()
            await until(lambda: not snapshot.streams, "the end of it")
            assert stream.ended == []


@asynchronous
async def test_a_member_that_stops_ends_the_call(tmp_path: Path) -> None:
    """With the status that tells a client to go elsewhere."""
    stream = RecordedStream()
    stream.congested = True
    async with service(tmp_path) as snapshot:
        called(snapshot, stream)
        await until(lambda: stream.sent, "a block")
    assert stream.ended == [errors.STOPPED]


@asynchronous
async def test_a_request_that_is_none_is_refused(tmp_path: Path) -> None:
    """Before any work is done."""
    async with service(tmp_path) as snapshot:
        stream = RecordedStream()
        (method,) = snapshot.methods()
        method.open(stream.stream).message(b"\xff\xff")
        assert stream.ended == [errors.MALFORMED]
        assert not snapshot.streams
