"""The compactor with a real keyspace: work in slices, waiting for it, failure."""

import asyncio
from pathlib import Path
from typing import Any

from rusd.mvcc.tables import Tables
from rusd.node.compactor import Compactor
from rusd.node.entry import Kind
from rusd.pb.rpc_pb2 import CompactionRequest, PutRequest
from tests.unit.node.running import running, until


def test_sweeps_one_after_another_and_tells_who_waits(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as member:
            compactor = Compactor(member.keyspace, 0.05, member.log, member.failures.append, 2)
            member.applier.on_compact = compactor.start
            for _ in range(20):
                await member.propose(Kind.PUT, PutRequest(key=b"k"))
            told: list[int] = []
            compactor.when_swept(lambda: told.append(member.keyspace.swept))
            assert told == [-1]
            await member.propose(Kind.COMPACT, CompactionRequest(revision=5))
            compactor.when_swept(lambda: told.append(member.keyspace.swept))
            await member.propose(Kind.COMPACT, CompactionRequest(revision=20))
            await until(lambda: len(told) == 2, "the sweep")
            assert member.keyspace.swept == 20
            assert not member.failures

    asyncio.run(test())


def test_a_sweep_that_cannot_write_stops_the_member(tmp_path: Path, monkeypatch: Any) -> None:
    async def test() -> None:
        async with running(tmp_path) as member:
            compactor = Compactor(member.keyspace, 0.0, member.log, member.failures.append)
            for _ in range(3):
                await member.propose(Kind.PUT, PutRequest(key=b"k"))
            await member.propose(Kind.COMPACT, CompactionRequest(revision=3))
            failure = OSError("no space left on device")

            def fail(*_: object) -> None:
                raise failure

            with monkeypatch.context() as patched:
                patched.setattr(Tables, "write", fail)
                compactor.start()
                await until(lambda: member.failures, "the failure")
            assert member.failures == [failure]
            assert member.keyspace.swept < 3, "the next start sweeps again"
            member.failures.clear()

    asyncio.run(test())
