"""rusd/node/room.py: while the log waits for room, requests are refused and reads go on."""

import asyncio
import errno
from pathlib import Path
from typing import Any, cast

import pytest

from rusd.api import errors
from rusd.node import log_writer
from rusd.node.entry import Kind
from rusd.node.room import Room
from rusd.node.transfer import Transfer
from rusd.pb.rpc_pb2 import NOSPACE, DeleteRangeRequest, PutRequest
from rusd.storage.wal import NoRoomError
from tests.unit.node.running import running, until


def no_room() -> None:
    """A sync that has to wait."""
    raise NoRoomError(errno.ENOSPC, "No space left on device")


def test_what_is_under_way_waits_and_what_comes_is_refused_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an alarm: other members, of which this one has none, have room."""
    monkeypatch.setattr(log_writer, "_RETRY", 0.02)

    async def test() -> None:
        async with running(tmp_path) as member:
            pipeline, replica = member.pipeline, member.pipeline.replica
            transfer = Transfer(replica, member.applier.membership, 1.0, lambda _: True)
            room = Room(pipeline, transfer, member.log)
            put = PutRequest(key=b"k", value=b"1")
            assert isinstance(await member.propose(Kind.PUT, put), bytes)
            sync = member.wal.sync
            member.wal.sync = cast(Any, no_room)  # type: ignore[method-assign]
            waiting = asyncio.create_task(member.propose(Kind.PUT, put))
            await until(lambda: replica.no_room is not None, "a log that waits")
            delete = DeleteRangeRequest(key=b"k")
            assert await member.propose(Kind.DELETE_RANGE, delete) == errors.NO_SPACE
            assert await member.propose(Kind.PUT, put) == errors.NO_SPACE
            assert NOSPACE not in member.applier.alarms
            assert member.keyspace.get(b"k") is not None
            assert not waiting.done()
            member.wal.sync = sync  # type: ignore[method-assign]
            assert isinstance(await waiting, bytes)
            await until(lambda: replica.no_room is None, "a log that goes on")
            assert isinstance(await member.propose(Kind.PUT, put), bytes)
            assert member.keyspace.revision == 4, "three puts, none twice"
            assert member.failures == []
            room.stop()

    asyncio.run(test())
