"""Members of the transport for tests: several `Peers` in one event loop, and a bad link."""

import asyncio
import gc
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from rusd.log import Logger
from rusd.node.peers import PeerLimits, Peers
from rusd.raft.message import Message
from rusd.tls.admission import Admission
from rusd.tls.context import dial_context, server_context
from rusd.tls.dialing import Dialing
from rusd.tls.files import Reloaded
from rusd.tls.handshakes import Handshakes, Limits
from rusd.tls.settings import Settings

CLUSTER = 0xCDF818194E3A8C32
DEADLINE = 20.0
QUICK = PeerLimits(read_timeout=0.5, write_timeout=0.5, max_backoff=0.1, hello_timeout=0.5)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario on the loop that rusd runs on. No exception may end in the loop."""
    unhandled: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        runner.run(scenario)
        gc.collect()
    assert unhandled == [], unhandled


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds; fail when it does not in time."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.002)


default_tls: Settings | None = None
"""How members connect where a test does not say."""


def secured(tls: Settings | None, log: Logger) -> tuple[Handshakes | None, Dialing | None]:
    """How to accept and to dial; None where it is without TLS."""
    if tls is None:
        return None, None
    admission = Admission(tls, log)
    accepts = Reloaded(lambda: server_context(tls), tls.files, log)
    dials = Reloaded(lambda: dial_context(tls), tls.files, log)
    limits = Limits(seconds=DEADLINE)
    return Handshakes("peer", accepts, admission, False, log, limits), Dialing(dials, admission)


class Node:
    """A member, and what its transport told it."""

    def __init__(
        self,
        member: int,
        cluster: int = CLUSTER,
        limits: PeerLimits = QUICK,
        tls: Settings | None = None,
    ) -> None:
        self.member = member
        self.received: list[Message] = []
        self.batches: list[int] = []
        self.unreachable: list[int] = []
        self.removed = 0
        self._logged = tempfile.NamedTemporaryFile()  # noqa: SIM115
        self._log = Logger(outputs=[self._logged.name])
        self._handshakes, dialing = secured(tls or default_tls, self._log)
        self.peers = Peers(
            cluster,
            member,
            self._receive,
            self.unreachable.append,
            self._log,
            on_removed=self._on_removed,
            limits=limits,
            secure=dialing,
        )

    def _receive(self, messages: Sequence[Message]) -> None:
        self.received += messages
        self.batches.append(len(messages))

    def _on_removed(self) -> None:
        self.removed += 1

    async def listen(self, port: int = 0) -> None:
        """Listen on a port of 127.0.0.1."""
        wrap = self._handshakes.wrap if self._handshakes is not None else None
        await self.peers.listen("127.0.0.1", port, wrap)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.peers.addresses[0][1]

    @property
    def url(self) -> str:
        """Its peer URL."""
        return f"{'https' if self._handshakes else 'http'}://127.0.0.1:{self.port}"

    def active(self, *others: "Node") -> bool:
        """Whether messages pass both ways between it and all others."""
        return all(
            self.peers.active_since(o.member) is not None
            and o.peers.active_since(self.member) is not None
            for o in others
        )

    def logged(self, text: str) -> list[Mapping[str, Any]]:
        """The log's lines that contain `text`."""
        lines = Path(self._logged.name).read_text().splitlines()
        return [json.loads(line) for line in lines if text in line]

    async def stop(self) -> None:
        """Stop the transport."""
        await self.peers.stop()
        self._log.close()
        self._logged.close()


@asynccontextmanager
async def members(*nodes: Node) -> AsyncIterator[None]:
    """Let nodes that are not connected listen, and stop them at the end."""
    try:
        for node in nodes:
            await node.listen()
        yield
    finally:
        for node in nodes:
            await node.stop()


@asynccontextmanager
async def network(count: int, limits: PeerLimits = QUICK) -> AsyncIterator[list[Node]]:
    """Members 1, 2, ..., all connected with each other."""
    nodes = [Node(member, limits=limits) for member in range(1, count + 1)]
    async with members(*nodes):
        connect(nodes)
        await eventually(lambda: all(n.active(*(o for o in nodes if o is not n)) for n in nodes))
        for node in nodes:
            node.unreachable.clear()
        yield nodes


def connect(nodes: Sequence[Node]) -> None:
    """Tell each node of all others."""
    for node in nodes:
        node.peers.update({o.member: [o.url] for o in nodes if o is not node}, ())


class Relay:
    """A link to a port of 127.0.0.1, of `rate` bytes a second for all its connections together.

    It serves them in turn, in small pieces, as a router with fair queues does.
    """

    PIECE = 4096
    GRAIN = 0.005

    def __init__(self, target: int, rate: float | None = None) -> None:
        self._target = target
        self._rate = rate
        self._turn = asyncio.Lock()
        self._due = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.accepted = 0
        self.carried = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The peer URL of the link."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0, limit=self.PIECE)

    def silence(self) -> None:
        """Carry nothing more, and say nothing of it."""
        self._open.clear()

    def heal(self) -> None:
        """Carry again."""
        self._open.set()

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def stop(self) -> None:
        """End."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target, limit=self.PIECE)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, there[1]}
        for source, sink in ((reader, there[1]), (there[0], writer)):
            sink.transport.set_write_buffer_limits(high=self.PIECE)
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(self.PIECE):
                await self._open.wait()
                if self._rate is not None:
                    async with self._turn:
                        now = asyncio.get_running_loop().time()
                        self._due = max(self._due, now) + len(data) / self._rate
                        await asyncio.sleep(max(self._due - now - self.GRAIN, 0))
                sink.write(data)
                self.carried += len(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
