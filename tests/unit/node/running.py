"""A member without its network: real log, database and pipeline in a directory."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rusd.api.answers import Answers, Headers
from rusd.lease.lessor import Lessor
from rusd.log import Logger
from rusd.mvcc.keyspace import Keyspace
from rusd.node.apply import Applier
from rusd.node.bootstrap import Identity, recover
from rusd.node.peers import Peers
from rusd.node.pipeline import Limits, Pipeline
from rusd.node.reads import Reads
from rusd.node.replica import Replica
from rusd.pb.rpc_pb2 import Member
from rusd.raft.message import Config
from rusd.raft.raw_node import RawNode
from rusd.storage.engine import Engine
from rusd.storage.wal import Wal
from rusd.wire.grpc import Status

SECONDS = 30.0
"""How long a test waits for what must happen."""

CLUSTER_ID, MEMBER_ID = 1234, 5678
IDENTITY = Identity(CLUSTER_ID, Member(ID=MEMBER_ID, name="default", peerURLs=["http://a:2380"]))


class Clock:
    """Seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """Keeps what callers are answered; a connection, to the services."""

    def __init__(self) -> None:
        self.answers: dict[int, bytes | Status] = {}
        self._arrived = asyncio.Event()

    def reply(self, tag: int, message: bytes, /) -> None:
        assert tag not in self.answers, "answered twice"
        self.answers[tag] = message
        self._arrived.set()

    def fail(self, tag: int, status: Status, /) -> None:
        assert tag not in self.answers, "answered twice"
        self.answers[tag] = status
        self._arrived.set()

    async def answer(self, tag: int = 1) -> bytes | Status:
        """Waits for the answer to a call."""
        async with asyncio.timeout(SECONDS):
            while tag not in self.answers:
                self._arrived.clear()
                await self._arrived.wait()
        return self.answers[tag]


@dataclass
class Running:
    """A member's parts."""

    directory: Path
    engine: Engine
    wal: Wal
    applier: Applier
    pipeline: Pipeline
    reads: Reads
    peers: Peers
    headers: Headers
    clock: Clock
    log: Logger
    failures: list[Exception] = field(default_factory=list)

    @property
    def lessor(self) -> Lessor:
        return self.applier.lessor

    @property
    def keyspace(self) -> Keyspace:
        return self.applier.keyspace

    async def propose(self, kind: int, request: Any) -> bytes | Status:
        """Proposes a request and waits for its answer."""
        caller = Recorder()
        message = request.SerializeToString()
        self.pipeline.propose(kind, message, request, caller, 1)
        return await caller.answer()

    def crash_copy(self, target: Path) -> Path:
        """What a kill at this moment would leave."""
        shutil.copytree(self.directory, target)
        return target


async def until(done: Any, what: str) -> None:
    """Waits until `done()` holds."""
    try:
        async with asyncio.timeout(SECONDS):
            while not done():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {SECONDS} s: {what}") from None


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Running]:
    """A member in a directory, new or not."""
    engine = Engine(directory)
    wal = Wal(directory / "wal")
    log = Logger(outputs=())
    clock = Clock()
    failures: list[Exception] = []
    applier, persisted = recover(engine, wal, Lessor(clock), IDENTITY, log)
    headers = Headers(CLUSTER_ID, MEMBER_ID)
    raw = RawNode(Config(MEMBER_ID), persisted)
    replica = Replica(raw, wal, log, 0, failures.append)
    peers = Peers(CLUSTER_ID, MEMBER_ID, replica.receive, replica.unreachable, log)
    pipeline = Pipeline(applier, replica, Answers(headers), log, Limits())
    try:
        await replica.lead()
        headers.set_term(pipeline.term)
        await pipeline.idle()
        reads = Reads(replica, SECONDS)
        yield Running(
            directory, engine, wal, applier, pipeline, reads, peers, headers, clock, log, failures
        )
    finally:
        await pipeline.stop()
        await peers.stop()
        wal.close()
        engine.close()
        # The database's lock goes with the last reference to a column family; tests hold members.
        vars(applier.keyspace).clear()
        vars(engine).clear()
        log.close()
