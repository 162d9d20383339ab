"""Three members in one event loop: real sockets, logs and databases. The test is their clock, and
has gates on their disks and on the network between them.

No time passes by itself: nobody stands for election, and no heartbeat is sent, but for `elect` and
`tick`. So what a test says happens, on a slow machine too.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from rusd.api.answers import Answers, Headers
from rusd.lease.lessor import Lessor
from rusd.log import Logger
from rusd.node.bootstrap import Identity, recover
from rusd.node.connections import Connections
from rusd.node.entry import Kind
from rusd.node.leases import Leases
from rusd.node.peers import Peers, PeerUnreachableError
from rusd.node.pipeline import Limits, Pipeline
from rusd.node.reads import Reads
from rusd.node.renewals import Renewals
from rusd.node.replica import Replica
from rusd.node.transfer import Transfer
from rusd.pb.rpc_pb2 import LeaseGrantRequest, PutRequest, PutResponse
from rusd.pb.rpc_pb2 import Member as MemberRow
from rusd.raft.message import NOBODY, Config, Message
from rusd.raft.raw_node import RawNode
from rusd.storage.engine import Engine
from rusd.storage.wal import Wal
from rusd.wire.grpc import Status
from tests.unit.node.running import CLUSTER_ID, SECONDS, Clock, Recorder, Running, until

IDS = (1, 2, 3)
ELECTION = 10
"""Ticks; who is ticked so often without a word of its leader helps to elect another."""

_NEVER = 1_000_000

GRACE = 1.0
"""Seconds that leases have more after a change of the leader."""


class Disk:
    """A gate on a log's syncs."""

    def __init__(self, wal: Wal) -> None:
        self._gate, self.waiting = threading.Event(), threading.Event()
        self._gate.set()
        self.syncs = 0
        self._wal_put, wal._put = wal._put, cast(Any, self._put)

    def _put(self, descriptor: int, data: bytes, offset: int) -> None:
        self.waiting.set()
        assert self._gate.wait(SECONDS)
        self.syncs += 1
        self._wal_put(descriptor, data, offset)

    def stop(self) -> None:
        """Syncs wait from now on; the next one sets `waiting`."""
        self.waiting.clear()
        self._gate.clear()

    def go_on(self) -> None:
        self._gate.set()


class Link:
    """A member's way to the others: the real one, unless it is cut."""

    def __init__(self, trio: "Trio", peers: Peers, member: int) -> None:
        self._trio, self._peers, self._member = trio, peers, member
        self.sent: list[Message] = []

    def send(self, messages: Sequence[Message]) -> None:
        self.sent += messages
        self._peers.send([message for message in messages if self._trio.passes(message)])

    async def call(self, member: int, method: int, body: bytes, timeout: float) -> bytes:
        if self._trio.is_cut(self._member, member):
            raise PeerUnreachableError("cut")
        return await self._peers.call(member, method, body, timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peers, name)


@dataclass(kw_only=True)
class Member(Running):
    """One of three."""

    replica: Replica
    disk: Disk
    link: Link
    leases: Leases
    renewals: Renewals
    connections: Connections
    transfer: Transfer

    @property
    def id(self) -> int:
        return self.replica.id

    @property
    def leads(self) -> bool:
        return self.replica.in_charge

    def put(self, caller: Recorder, tag: int, key: bytes, value: bytes = b"v") -> None:
        """Proposes a put."""
        request = PutRequest(key=key, value=value)
        self.pipeline.propose(Kind.PUT, request.SerializeToString(), request, caller, tag)

    async def read(self) -> Exception | None:
        """Waits for a linearizable point; returns what refused it."""
        passed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.reads.wait(passed.set_result)
        async with asyncio.timeout(SECONDS):
            return await passed

    def value(self, key: bytes) -> bytes | None:
        """What is applied here: the serialized KeyValue."""
        return self.keyspace.get(key)

    def has(self, key: bytes) -> bool:
        return self.value(key) is not None

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.replica.raw.tick()
            self.replica.run()

    async def grant(self, lease: int, ttl: int) -> None:
        assert isinstance(
            await self.propose(Kind.LEASE_GRANT, LeaseGrantRequest(ID=lease, TTL=ttl)), bytes
        )

    async def renew(self, lease: int) -> int | Exception:
        """Renews a lease through this member."""
        answer: asyncio.Future[int | Exception] = asyncio.get_running_loop().create_future()
        self.renewals.renew(lease, answer.set_result)
        async with asyncio.timeout(SECONDS):
            return await answer


class Trio:
    """Three members, and the network between them."""

    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self._cut: set[tuple[int, int]] = set()
        self._lost: frozenset[tuple[int, int]] = frozenset()

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    def __getitem__(self, member: int) -> Member:
        return self.members[member]

    def is_cut(self, sender: int, to: int) -> bool:
        return (sender, to) in self._cut

    def passes(self, message: Message) -> bool:
        return (message.kind, message.to) not in self._lost and not self.is_cut(
            message.sender, message.to
        )

    def lose(self, kind: int, *receivers: int) -> None:
        """Messages of a kind to some members are lost, and no others that were lost until now."""
        self._lost = frozenset((kind, receiver) for receiver in receivers)

    def cut_off(self, member: int) -> None:
        """Nothing passes between it and the others any more."""
        for other in set(IDS) - {member}:
            self._cut |= {(member, other), (other, member)}

    def heal(self) -> None:
        self._cut.clear()
        self.lose(0)

    async def elect(self, id_: int) -> Member:
        """Makes a member the leader of all that it reaches, once the others have not heard of one
        for long.
        """
        member, loop = self[id_], asyncio.get_running_loop()
        again = loop.time()

        def leads() -> bool:
            nonlocal again
            # What the leader before has sent may still arrive, and spoil an election.
            if not member.replica.is_leader and loop.time() >= again:
                again = loop.time() + 0.2
                for other in self:
                    if other is not member and not other.replica.is_leader:
                        other.tick(ELECTION)
                member.replica.campaign()
            return member.leads

        def all_know() -> bool:
            member.tick()
            reached = [other for other in self if not self.is_cut(id_, other.id)]
            return all(other.replica.leader == id_ for other in reached)

        await until(leads, f"{id_} leads")
        await until(all_know, f"all know that {id_} leads")
        return member

    async def depose(self, id_: int) -> Member:
        """Has a leader find out that it is cut off from the others."""
        self.cut_off(id_)
        self[id_].tick(2 * ELECTION)
        assert self[id_].replica.leader == NOBODY
        return self[id_]

    async def level(self) -> None:
        """Waits until all have applied the same."""

        def is_level() -> bool:
            for member in self:
                if member.replica.is_leader:
                    member.tick()
            return len({(m.replica.applied, m.replica.raw.commit) for m in self}) == 1

        await until(is_level, "all have applied the same")

    async def reset(self) -> None:
        """Heals everything, and has member 1 lead."""
        self.heal()
        for member in self:
            member.disk.go_on()
            assert member.failures == []

        def one_leads() -> bool:
            leaders = [member for member in self if member.replica.is_leader]
            for leader in leaders:
                leader.tick()
            return len(leaders) <= 1

        await until(one_leads, "those of earlier terms know it")
        leads = [m for m in self if m.replica.is_leader]
        if [m.id for m in leads] != [1] or not all(m.replica.leader == 1 for m in self):
            await self.elect(1)
        await self.level()
        for member in self:
            member.link.sent.clear()


async def _start(trio: Trio, id_: int, directory: Path, limits: Limits) -> Member:
    engine, wal, log = Engine(directory), Wal(directory / "wal"), Logger(outputs=())
    clock, failures = Clock(), list[Exception]()
    local, *others = (
        MemberRow(ID=each, name=f"m{each}", peerURLs=[f"http://m{each}:2380"])
        for each in (id_, *(other for other in IDS if other != id_))
    )
    identity = Identity(CLUSTER_ID, local, tuple(others))
    applier, persisted = recover(engine, wal, Lessor(clock), identity, log)
    raw = RawNode(Config(id_, election_ticks=ELECTION, random_ticks=lambda _: _NEVER), persisted)
    replica = Replica(raw, wal, log, 0, failures.append)
    # The members share a loop, which must not wait for a disk that the test has stopped.
    replica.little = -1
    headers = Headers(CLUSTER_ID, id_)
    pipeline = Pipeline(applier, replica, Answers(headers), log, limits)

    def receive(messages: Sequence[Message]) -> None:
        replica.receive([message for message in messages if trio.passes(message)])

    peers = Peers(CLUSTER_ID, id_, receive, replica.unreachable, log)
    await peers.listen("127.0.0.1", 0)
    link = Link(trio, peers, id_)
    replica.send = link.send
    reads = Reads(replica, limits.request_timeout)
    leases = Leases(pipeline, applier.lessor, GRACE)
    connections = Connections(replica, peers)
    return Member(
        directory,
        engine,
        wal,
        applier,
        pipeline,
        reads,
        peers,
        headers,
        clock,
        log,
        failures,
        replica=replica,
        disk=Disk(wal),
        link=link,
        leases=leases,
        renewals=Renewals(pipeline, reads, cast(Peers, link), applier.lessor, leases),
        connections=connections,
        transfer=Transfer(replica, applier.membership, 5.0, connections.is_reachable),
    )


async def _stop(member: Member) -> None:
    member.disk.go_on()
    member.leases.stop()
    member.pipeline.give_up()
    if member.replica.failure is None:
        await member.pipeline.stop()
    await member.peers.stop()
    member.wal.close()
    member.engine.close()
    vars(member.keyspace).clear()
    vars(member.engine).clear()
    member.log.close()


@asynccontextmanager
async def three(directory: Path, limits: Limits | None = None) -> AsyncIterator[Trio]:
    """Three members that are connected; member 1 leads. Time-outs are long unless `limits` says
    otherwise.
    """
    limits = limits or Limits(request_timeout=SECONDS)
    trio = Trio()
    async with AsyncExitStack() as stack:
        for id_ in IDS:
            trio.members[id_] = await _start(trio, id_, directory / str(id_), limits)
            stack.push_async_callback(_stop, trio[id_])
        urls = {m.id: ["http://{}:{}".format(*m.peers.addresses[0])] for m in trio}
        for member in trio:
            member.peers.update({i: urls[i] for i in IDS if i != member.id}, ())
        await until(
            lambda: all(
                member.connections.is_reachable(other)
                for member in trio
                for other in set(IDS) - {member.id}
            ),
            "all are connected",
        )
        await trio.reset()
        yield trio
        for member in trio:
            assert member.failures == []


Scenario = Callable[[Trio], Coroutine[Any, Any, None]]


class Stage:
    """Three members that several tests use one after the other."""

    def __init__(self, directory: Path, limits: Limits | None = None) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._members = three(directory, limits)
        self._unhandled: list[dict[str, Any]] = []
        self._trio = self._run(self._members.__aenter__())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        loop = self._runner.get_loop()
        loop.set_exception_handler(lambda _, context: self._unhandled.append(context))
        result = self._runner.run(work)
        assert self._unhandled == []
        return result

    def play(self, scenario: Scenario) -> None:
        """Runs a test on them, healthy and led by member 1."""

        async def played() -> None:
            async with asyncio.timeout(2 * SECONDS):
                await self._trio.reset()
                await scenario(self._trio)

        self._run(played())

    def close(self) -> None:
        self._run(self._members.__aexit__(None, None, None))
        self._runner.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Three members for all tests of a module."""
    opened = Stage(tmp_path_factory.mktemp("trio"))
    yield opened
    opened.close()


def revision(answer: bytes | Status) -> int:
    """The revision in the header of a put's answer."""
    assert isinstance(answer, bytes), answer
    return PutResponse.FromString(answer).header.revision
