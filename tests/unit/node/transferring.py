"""Two members for tests of snapshots: one with content, one that is to get it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rusd.lease.lessor import Lessor
from rusd.log import Logger
from rusd.node.apply import Applier
from rusd.node.bootstrap import Identity, recover
from rusd.node.entry import Kind, encode
from rusd.node.snapshots import Limits, Snapshots
from rusd.node.staging import Staged
from rusd.pb.rpc_pb2 import LeaseGrantRequest, Member, PutRequest
from rusd.raft.message import Message, MessageKind, Snapshot
from rusd.storage.engine import Engine
from rusd.storage.wal import Entry, Wal
from tests.unit.node.running import CLUSTER_ID, SECONDS, Clock

SENDER, RECEIVER = 1, 2
MEMBERS = (Member(ID=SENDER, peerURLs=["http://a:2380"]), Member(ID=RECEIVER))
QUICK = Limits(retry=0.01, stall=5.0)


@dataclass
class Site:
    """A member's state, with its snapshots, and without its core."""

    directory: Path
    engine: Engine
    wal: Wal
    applier: Applier
    snapshots: Snapshots
    clock: Clock
    reports: list[tuple[int, bool]] = field(default_factory=list)
    arrived: list[tuple[Message, Staged]] = field(default_factory=list)
    connect: Callable[[], "asyncio.Future[int]"] | None = None
    connections: list[asyncio.StreamWriter] = field(default_factory=list)
    port: int = 0
    term: int = 1
    """Of the entries that it appends."""

    @property
    def position(self) -> int:
        return self.applier.keyspace.applied.position

    def apply(self, *requests: tuple[int, bytes]) -> None:
        """Appends an entry to the log, and applies it."""
        entry = Entry(self.term, self.position + 1, encode(requests, 0, 0))
        self.wal.write((entry,))
        self.applier.replay(self.term, entry.index, entry.data)

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        request = PutRequest(key=key, value=value, lease=lease)
        self.apply((Kind.PUT, request.SerializeToString()))

    def grant(self, lease: int, ttl: int) -> None:
        request = LeaseGrantRequest(ID=lease, TTL=ttl)
        self.apply((Kind.LEASE_GRANT, request.SerializeToString()))

    def fill(self, count: int, value_bytes: int = 2000, first: int = 0) -> None:
        for number in range(first, first + count):
            self.put(b"key%09d" % number, Random(number).randbytes(value_bytes))

    def content(self) -> dict[bytes, bytes | None]:
        keyspace = self.applier.keyspace
        return {key: keyspace.get(key) for key in keyspace.live(b"", None)}

    def message(self, term: int = 3) -> Message:
        """What a core asks for."""
        snapshot = Snapshot(self.position, 1)
        return Message(MessageKind.SNAPSHOT, RECEIVER, SENDER, term, snapshot=snapshot)

    async def reported(self) -> bool:
        async with asyncio.timeout(SECONDS):
            while not self.reports:
                await asyncio.sleep(0.005)
        return self.reports.pop(0)[1]

    def folders(self) -> set[str]:
        """What the member's directory has beside the log."""
        return {path.name for path in self.directory.iterdir()} - {"wal"}


@asynccontextmanager
async def site(
    directory: Path, local: int, other: "Site | None" = None, limits: Limits = QUICK
) -> AsyncIterator[Site]:
    """A member that sends snapshots to `other`; or, without one, that listens."""
    clock, log = Clock(), Logger(outputs=())
    engine, wal = Engine(directory), Wal(directory / "wal")
    here = next(member for member in MEMBERS if local == member.ID)
    there = tuple(member for member in MEMBERS if local != member.ID)
    identity = Identity(CLUSTER_ID, here, there, joins=local == RECEIVER)
    applier, _ = recover(engine, wal, Lessor(clock), identity, log)

    async def connect(_: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert other is not None
        return await asyncio.open_connection("127.0.0.1", other.port, limit=1 << 20)

    opened = Site(directory, engine, wal, applier, None, clock)  # type: ignore[arg-type]
    opened.snapshots = Snapshots(
        applier,
        engine,
        connect,
        lambda member, ok: opened.reports.append((member, ok)),
        lambda message, staged: opened.arrived.append((message, staged)),
        log,
        limits,
    )

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.connections.append(writer)
        try:
            await opened.snapshots.receive(SENDER, reader, writer)
        except asyncio.CancelledError:
            pass  # by a later connection
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 20)
    opened.port = server.sockets[0].getsockname()[1]
    try:
        yield opened
    finally:
        server.close()
        for _, staged in opened.arrived:
            staged.discard()
        opened.arrived.clear()
        await opened.snapshots.stop()
        wal.sync()
        wal.close()
        engine.close()
        # The database's lock goes with the last reference to a column family; tests hold members.
        vars(applier.keyspace).clear()
        vars(engine).clear()
        log.close()


@asynccontextmanager
async def pair(directory: Path, limits: Limits = QUICK) -> AsyncIterator[tuple[Site, Site]]:
    """A sender and a receiver."""
    async with (
        site(directory / "receiver", RECEIVER, limits=limits) as receiver,
        site(directory / "sender", SENDER, receiver, limits) as sender,
    ):
        yield sender, receiver


def copied(directory: Path, target: Path) -> Path:
    """What a kill at this moment would leave."""
    while True:
        try:
            shutil.copytree(directory, target)
            return target
        except shutil.Error:  # the database has removed a file meanwhile
            shutil.rmtree(target)
