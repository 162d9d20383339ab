"""Connections that others make to this member: the check of their hellos, and what they bring."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from rusd.node.peer_connection import Connection, Local
from rusd.node.peer_wire import (
    PONG,
    PROTOCOL,
    Answer,
    Call,
    FrameKind,
    Frames,
    Hello,
    PeerProtocolError,
    Purpose,
    Reason,
    RefusedError,
    Welcome,
    decode_call,
    decode_hello,
    decode_message,
    encode_answer,
    encode_refusal,
    encode_welcome,
)
from rusd.raft.message import Message

Handler = Callable[[int, bytes], Awaitable[bytes]]
StreamHandler = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_LANES: Final = frozenset((Purpose.CONTROL, Purpose.BULK))
_SAID: Final = 256
_ASK_SECONDS: Final = 30.0


class PeerCallError(Exception):
    """The member that was called answered with this error."""


class Acceptor:
    """Takes connections. Of a member there is one of each lane: a new one replaces the old one."""

    def __init__(
        self,
        local: Local,
        receive: Callable[[Sequence[Message]], None],
        arrived: Callable[[int, Sequence[str]], None],
        left: Callable[[int], None],
    ) -> None:
        """`arrived` is told a member that is there, and where it says it is, when its CONTROL
        connection was accepted; `left`, when a CONTROL connection was lost.
        """
        self.local = local
        self.receive = receive
        self.members: Collection[int] = ()
        self.removed: Collection[int] = ()
        self.methods: dict[int, Handler] = {}
        self.public: set[int] = set()
        self.streams: dict[int, StreamHandler] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        """Calls that are answered."""
        self._arrived = arrived
        self._left = left
        self._pending: dict[Connection, None] = {}
        self._lanes: dict[tuple[int, int], _Inbound] = {}
        self._askers: set[Connection] = set()
        self._open_streams: dict[int, set[asyncio.Task[None]]] = {}
        self._said: dict[object, object] = {}
        self._stopping = False

    def make(self) -> Connection:
        """A connection for the listener."""
        connection = Connection(self.local, self)
        connection.deadline = asyncio.get_running_loop().time() + self.local.limits.hello_timeout
        self._pending[connection] = None
        if len(self._pending) > self.local.limits.max_pending:
            next(iter(self._pending)).abort("too many connections have not said hello")
        return connection

    def since(self, member: int) -> float | None:
        """Loop time since when the member has a CONTROL connection to this one."""
        lane = self._lanes.get((member, Purpose.CONTROL))
        return lane.since if lane is not None else None

    def update(self, members: Collection[int], removed: Collection[int]) -> None:
        """These may connect, and those are told that they were removed."""
        before = self.members
        self.members, self.removed = members, removed
        for (member, _), lane in list(self._lanes.items()):
            if member in removed or (member in before and member not in members):
                # If it was removed, it is told so when it connects again.
                lane.connection.close("no member any more")
        for member in [member for member in self._open_streams if member not in members]:
            for task in self._open_streams[member]:
                task.cancel()

    async def stop(self) -> None:
        """End what is under way, and refuse who comes."""
        self._stopping = True
        self.update((), ())
        running = self.tasks.union(*self._open_streams.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # --- the hello ---------------------------------------------------------------------------

    def frames(self, connection: Connection, frames: Frames) -> None:
        """Owner: the first frame of a connection."""
        for kind, payload in frames:
            hello = decode_hello(kind, payload)
            try:
                self._check(hello)
                self._pending.pop(connection, None)
                self._accept(connection, hello)
            except RefusedError as error:
                self._refuse(connection, hello, error)
            return

    def lost(self, connection: Connection, reason: str) -> None:
        """Owner: gone before a hello was accepted."""
        if connection in self._pending:
            del self._pending[connection]
            # A minute of garbage from one host makes one line.
            minute = int(asyncio.get_running_loop().time() / 60)
            if self._news(connection.remote.rpartition(":")[0], minute):
                self.local.log.warn(
                    "rejected connection on peer URL", remote_addr=connection.remote, error=reason
                )

    def _check(self, hello: Hello) -> None:
        local = self.local
        if self._stopping:
            raise RefusedError(Reason.BUSY, "this member stops")
        if hello.protocol != PROTOCOL:
            text = f"peer protocol {hello.protocol} instead of {PROTOCOL}"
            raise RefusedError(Reason.PROTOCOL, text)
        if hello.purpose == Purpose.ASK:
            if len(self._askers) >= local.limits.max_askers:
                raise RefusedError(Reason.BUSY, "too many connections")
            return
        if hello.cluster != local.cluster_id:
            text = f"request cluster ID mismatch (got {hello.cluster:x} want {local.cluster_id:x})"
            raise RefusedError(Reason.CLUSTER_MISMATCH, text)
        if hello.sender in self.removed:
            text = "the member has been permanently removed from the cluster"
            raise RefusedError(Reason.REMOVED, text)
        if hello.to != local.member_id:
            text = f"this is member {local.member_id:x}, not {hello.to:x}"
            raise RefusedError(Reason.WRONG_MEMBER, text)
        if hello.sender not in self.members and not self._may_visit(hello):
            text = f"member {hello.sender:x} is not known to member {local.member_id:x}"
            raise RefusedError(Reason.UNKNOWN_MEMBER, text)
        if hello.purpose not in _LANES:
            if hello.purpose not in self.streams:
                raise RefusedError(Reason.PURPOSE, f"unknown purpose {hello.purpose}")
            if len(self._open_streams.get(hello.sender, ())) >= local.limits.max_streams:
                raise RefusedError(Reason.BUSY, "too many connections")

    def _may_visit(self, hello: Hello) -> bool:
        """Tell whether to hear one who is not known as a member, as it may be one: this member may
        have been down while others took the places of all that it knows.
        """
        visitors = {member for member, _ in self._lanes if member not in self.members}
        visitors.add(hello.sender)
        return (
            bool(hello.peer_urls)
            and hello.sender not in (0, self.local.member_id)
            and len(visitors) <= self.local.limits.max_visitors
        )

    def _refuse(self, connection: Connection, hello: Hello, error: RefusedError) -> None:
        self._pending.pop(connection, None)
        if self._news(hello.sender, error.reason):
            self.local.log.warn(
                "rejected connection from remote peer",
                remote_addr=connection.remote,
                remote_peer_id=f"{hello.sender:x}",
                error=error,
            )
        connection.put(encode_refusal(error))
        connection.close(str(error))

    def _accept(self, connection: Connection, hello: Hello) -> None:
        local, member, purpose = self.local, hello.sender, hello.purpose
        connection.put(encode_welcome(Welcome(local.cluster_id, local.member_id, local.version)))
        connection.flush()
        if purpose == Purpose.ASK:
            self._askers.add(connection)
            connection.adopt(_Asker(self, connection))
            connection.deadline = asyncio.get_running_loop().time() + _ASK_SECONDS
            return
        self._said.pop(member, None)
        if purpose not in _LANES:
            self._open_stream(connection, member, purpose)
            return
        before = self._lanes.get((member, purpose))
        lane = self._lanes[member, purpose] = _Inbound(self, connection, member, purpose)
        connection.adopt(lane, bulk=purpose == Purpose.BULK, member=member)
        if before is not None:
            before.connection.abort("replaced by a newer connection")
        if purpose == Purpose.CONTROL:
            self._arrived(member, hello.peer_urls)

    def _news(self, key: object, state: object) -> bool:
        """Tell whether this was not the last that was logged of `key`."""
        if self._said.get(key) == state:
            return False
        self._said.pop(key, None)
        self._said[key] = state
        if len(self._said) > _SAID:
            del self._said[next(iter(self._said))]
        return True

    # --- what is open ------------------------------------------------------------------------

    def lane_lost(self, lane: "_Inbound", reason: str) -> None:
        """A lane is gone."""
        key = (lane.member, lane.purpose)
        if self._lanes.get(key) is lane:
            del self._lanes[key]
            if lane.purpose == Purpose.CONTROL:
                self._left(lane.member)
            self.local.log.debug(
                "lost connection of remote peer", remote_peer_id=f"{lane.member:x}", error=reason
            )

    def asker_lost(self, connection: Connection) -> None:
        """Someone has asked."""
        self._askers.discard(connection)

    def _open_stream(self, connection: Connection, member: int, purpose: int) -> None:
        reader, writer = connection.detach()
        task = asyncio.create_task(self._run_stream(member, purpose, reader, writer))
        self._open_streams.setdefault(member, set()).add(task)
        task.add_done_callback(lambda task: self._stream_done(member, task))

    def _stream_done(self, member: int, task: asyncio.Task[None]) -> None:
        tasks = self._open_streams[member]
        tasks.discard(task)
        if not tasks:
            del self._open_streams[member]

    async def _run_stream(
        self, member: int, purpose: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self.streams[purpose](member, reader, writer)
        except (OSError, EOFError) as error:
            self.local.log.info(
                "lost connection of remote peer", remote_peer_id=f"{member:x}", error=error
            )
        except Exception as error:
            self.local.log.error(
                "connection of remote peer failed", remote_peer_id=f"{member:x}", error=error
            )
        finally:
            writer.close()


@dataclass(slots=True, eq=False)
class _Answering:
    """The calls that one connection has made and that have no answer yet."""

    acceptor: Acceptor
    connection: Connection
    member: int
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def answer(self, call: Call, handler: Handler | None) -> None:
        limits = self.acceptor.local.limits
        if handler is None:
            self._send(Answer(call.number, error=f"unknown method {call.method}"))
        elif len(self.tasks) >= limits.max_calls:
            self._send(Answer(call.number, error="too many calls"))
        else:
            task = asyncio.create_task(self._run(call, handler))
            for tasks in (self.tasks, self.acceptor.tasks):
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _run(self, call: Call, handler: Handler) -> None:
        try:
            async with asyncio.timeout(call.timeout):
                answer = Answer(call.number, await handler(self.member, call.body))
        except PeerCallError as error:
            answer = Answer(call.number, error=str(error))
        except TimeoutError:
            answer = Answer(call.number, error="the call took too long")
        except Exception as error:
            self.acceptor.local.log.error(
                "call of remote peer failed",
                remote_peer_id=f"{self.member:x}",
                method=call.method,
                error=error,
            )
            answer = Answer(call.number, error="internal error")
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        frame = encode_answer(answer)
        if len(frame) > self.acceptor.local.limits.max_control_frame_bytes:
            frame = encode_answer(Answer(answer.number, error="the answer is too large"))
        self.connection.put(frame)
        self.connection.flush()

    def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()


class _Inbound:
    """Owns a lane that a member made."""

    def __init__(
        self, acceptor: Acceptor, connection: Connection, member: int, purpose: int
    ) -> None:
        self.connection = connection
        self.member = member
        self.purpose = purpose
        self.since = asyncio.get_running_loop().time()
        self._acceptor = acceptor
        self._local_id = acceptor.local.member_id
        self._answering = _Answering(acceptor, connection, member)

    def frames(self, connection: Connection, frames: Frames) -> None:
        messages: list[Message] = []
        try:
            for kind, payload in frames:
                if kind == FrameKind.MESSAGE:
                    message = decode_message(payload)
                    if message.to == self._local_id and message.sender == self.member:
                        messages.append(message)
                elif kind == FrameKind.PING:
                    connection.put(PONG)
                elif kind == FrameKind.CALL and self.purpose == Purpose.CONTROL:
                    call = decode_call(payload)
                    self._answering.answer(call, self._acceptor.methods.get(call.method))
                else:
                    raise PeerProtocolError(f"unexpected frame of kind {kind}")
        finally:
            if messages:
                self._acceptor.receive(messages)
            connection.flush()

    def lost(self, _connection: Connection, reason: str) -> None:
        self._answering.cancel()
        self._acceptor.lane_lost(self, reason)


class _Asker:
    """Owns a connection of one who is no member: public methods only."""

    def __init__(self, acceptor: Acceptor, connection: Connection) -> None:
        self._acceptor = acceptor
        self._answering = _Answering(acceptor, connection, 0)

    def frames(self, _connection: Connection, frames: Frames) -> None:
        for kind, payload in frames:
            if kind != FrameKind.CALL:
                raise PeerProtocolError(f"unexpected frame of kind {kind}")
            call = decode_call(payload)
            public = call.method in self._acceptor.public
            self._answering.answer(
                call, self._acceptor.methods.get(call.method) if public else None
            )

    def lost(self, connection: Connection, _reason: str) -> None:
        self._answering.cancel()
        self._acceptor.asker_lost(connection)
