"""The transport between members: Raft messages, calls and streams over TCP on the peer URLs.

Each member dials each other one: with one connection for messages that must not wait (CONTROL), one
for messages with entries (BULK), and one for each stream. It promises: messages of one lane to one
member arrive in order, or are lost; a member that cannot be reached costs bounded memory and no
time; nobody is heard before cluster, ids and version of the hello were found right; a connection
that carries nonsense, or nothing, is closed, and harms no other.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import rusd
from rusd.log import SILENT, Logger
from rusd.node.peer_connection import Connection, Local, PeerLimits, Secure
from rusd.node.peer_dial import dial
from rusd.node.peer_inbound import Acceptor, Handler, PeerCallError, StreamHandler
from rusd.node.peer_outbound import Peer, PeerUnreachableError
from rusd.node.peer_traffic import Traffic
from rusd.node.peer_wire import (
    BULK_KINDS,
    Call,
    FrameKind,
    Frames,
    Hello,
    PeerProtocolError,
    Purpose,
    RefusedError,
    decode_answer,
    encode_call,
    encode_message,
)
from rusd.raft.message import Message

_Factory = Callable[[], asyncio.Protocol]

__all__ = ["PeerCallError", "PeerLimits", "PeerUnreachableError", "Peers", "ask"]


class Peers:
    """The other members, seen from this one. Make and use it inside the event loop."""

    def __init__(
        self,
        cluster_id: int,
        local_id: int,
        receive: Callable[[Sequence[Message]], None],
        unreachable: Callable[[int], None],
        log: Logger,
        *,
        on_removed: Callable[[], None] = lambda: None,
        peer_urls: Sequence[str] = (),
        limits: PeerLimits | None = None,
        secure: Secure | None = None,
    ) -> None:
        """`receive` gets all messages that came at once on a connection. `unreachable` is told,
        at most once a turn of the loop, a member to which messages were dropped or may be lost.
        `on_removed` is called when a member says that this one was removed from the cluster.
        `peer_urls` are this member's own; `secure` is for dialing https ones.
        """
        self._unreachable = unreachable
        self._on_removed = on_removed
        self._loop = asyncio.get_running_loop()
        self._limits = limits or PeerLimits()
        self._local = Local(
            cluster_id,
            local_id,
            rusd.__version__,
            tuple(peer_urls),
            self._limits,
            log,
            self._report_unreachable,
            self._report_removed,
            secure,
        )
        self._acceptor = Acceptor(self._local, receive, self._arrived, self._left)
        self._peers: dict[int, Peer] = {}
        self._visitors: set[int] = set()
        """Members that have come of themselves; messages to them are sent as to others."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.Server] = []
        self._unreported: dict[int, None] = {}
        self._told_removed = False
        self._stopped = False
        self._checked = self._loop.time()
        self._timer = self._loop.call_later(self._limits.ping_interval, self._check)

    async def listen(
        self, host: str, port: int, secure: Callable[[_Factory], _Factory] | None = None
    ) -> None:
        """Take connections; port 0 takes a free one. Raises OSError when it cannot be bound.

        With `secure`, which makes a factory for accepted connections of one for those whose
        handshake is done, it takes those that have TLS.
        """
        make: _Factory = self._acceptor.make
        listener = await self._loop.create_server(
            secure(make) if secure else make, host or None, port, backlog=128
        )
        self._listeners.append(listener)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every listening socket."""
        names = [s.getsockname() for listener in self._listeners for s in listener.sockets]
        return [(name[0], name[1]) for name in names]

    def update(self, members: Mapping[int, Sequence[str]], removed: Collection[int]) -> None:
        """Set the other members with their peer URLs, and who was removed from the cluster.

        Connects to who is new or has new URLs, and closes what belongs to the others.
        """
        stay = self._visitors.difference(removed)
        for member in [m for m in self._peers if m not in members and m not in stay]:
            self._close(self._peers.pop(member), "no member any more")
        for member, urls in members.items():
            peer = self._peers.get(member)
            if peer is not None and member in stay:
                peer.urls = tuple(urls)
            if peer is not None and peer.urls != tuple(urls):
                self._close(peer, "the member's peer URLs have changed")
                peer = None
            if peer is None:
                self._peers[member] = Peer(self._local, member, urls)
        self._visitors = stay.difference(members)
        for member in removed:
            self._local.traffic.pop(member, None)
        self._acceptor.update(frozenset(members), frozenset(removed))

    def advertise(self, peer_urls: Sequence[str]) -> None:
        """Set this member's own peer URLs, which it tells whom it connects to."""
        self._local.peer_urls = tuple(peer_urls)

    def send(self, messages: Iterable[Message]) -> None:
        """Send each to its member; never waits. What cannot be sent is dropped."""
        touched: dict[Connection, None] = {}
        for message in messages:
            peer = self._peers.get(message.to)
            if peer is None:
                continue
            bulk = message.kind in BULK_KINDS
            connection = (peer.bulk if bulk else peer.control).connection
            if connection is None or not connection.put(*encode_message(message)):
                self._local.traffic[message.to].dropped += 1
                self._report_unreachable(message.to)
            else:
                touched[connection] = None
        for connection in touched:
            connection.flush()

    def serve(self, method: int, handler: Handler, *, public: bool = False) -> None:
        """Answer calls of `method`: `handler(member, body)` gives the answer's body, or raises
        PeerCallError. A public method can be called by who is no member (as member 0), by `ask`.
        """
        self._acceptor.methods[method] = handler
        if public:
            self._acceptor.public.add(method)

    async def call(self, member: int, method: int, body: bytes, timeout: float) -> bytes:
        """Call a method of a member.

        Raises PeerCallError with what the member answered, PeerUnreachableError when it cannot be
        reached or is lost (it may have acted on the call), TimeoutError after `timeout` seconds.
        """
        peer = self._peers.get(member)
        if peer is None:
            raise PeerUnreachableError(f"member {member:x} is not known")
        return await peer.call(method, body, timeout)

    def accept(self, purpose: int, handler: StreamHandler) -> None:
        """Take connections of a purpose of their own: `handler(member, reader, writer)`. They are
        closed when it returns; it is cancelled when the member leaves or this one stops.
        """
        self._acceptor.streams[purpose] = handler

    async def open(
        self, member: int, purpose: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Make a connection of its own to a member. Its time-outs are the caller's.

        Raises PeerUnreachableError.
        """
        peer = self._peers.get(member)
        if peer is None:
            raise PeerUnreachableError(f"member {member:x} is not known")
        return await peer.open(purpose)

    @property
    def traffic(self) -> dict[int, Traffic]:
        """What passed between this member and each of the others that it knows."""
        return {member: self._local.traffic[member] for member in self._peers}

    def unsent(self, member: int) -> int:
        """Bytes that wait to be sent to a member."""
        peer = self._peers[member]
        connections = (peer.control.connection, peer.bulk.connection)
        return sum(connection.unsent for connection in connections if connection is not None)

    def active_since(self, member: int) -> float | None:
        """Loop time since when messages pass both ways; None when they do not."""
        peer = self._peers.get(member)
        if peer is None:
            return None
        ways = (peer.control.since, peer.bulk.since, self._acceptor.since(member))
        return None if None in ways else max(since for since in ways if since is not None)

    async def stop(self) -> None:
        """Close everything; what was sent has a second to go out."""
        if self._stopped:
            return
        self._stopped = True
        self._timer.cancel()
        for listener in self._listeners:
            listener.close()
        for peer in self._peers.values():
            self._close(peer, "this member stops")
        self._peers.clear()
        self._visitors.clear()
        await self._acceptor.stop()
        await asyncio.gather(*self._leaving)
        # One may have been accepted meanwhile.
        while connections := list(self._local.connections):
            for connection in connections:
                connection.close("this member stops")
            await asyncio.gather(*[connection.gone.wait() for connection in connections])

    # -----------------------------------------------------------------------------------------

    def _close(self, peer: Peer, reason: str) -> None:
        peer.close(reason)
        task = asyncio.create_task(peer.closed())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _arrived(self, member: int, urls: Sequence[str]) -> None:
        if member not in self._peers:
            self._visitors.add(member)
            self._peers[member] = Peer(self._local, member, ())
        self._peers[member].arrived(urls)

    def _left(self, member: int) -> None:
        if member in self._visitors:
            self._visitors.discard(member)
            self._local.traffic.pop(member, None)
            self._close(self._peers.pop(member), "the connection of this visitor was lost")

    def _report_unreachable(self, member: int) -> None:
        if not self._unreported:
            self._loop.call_soon(self._tell_unreachable)
        self._unreported[member] = None

    def _tell_unreachable(self) -> None:
        members, self._unreported = self._unreported, {}
        for member in members:
            if member in self._peers and member not in self._visitors:
                self._unreachable(member)

    def _report_removed(self) -> None:
        if not self._told_removed:
            self._told_removed = True
            self._loop.call_soon(self._on_removed)

    def _check(self) -> None:
        interval = self._limits.ping_interval
        now = self._loop.time()
        # A process that was stopped for a while has not heard anyone, and that is its own doing.
        late = now - self._checked > 3 * interval
        self._checked = now
        for connection in list(self._local.connections):
            if late:
                connection.touch(now)
            connection.check(now)
        self._timer = self._loop.call_later(interval, self._check)


async def ask(
    urls: Sequence[str],
    method: int,
    body: bytes,
    timeout: float,
    secure: Secure | None = None,
) -> bytes:
    """Call a public method of whichever member answers first of `urls`, tried in turn.

    For one who is no member. Raises PeerCallError with what the last one answered,
    PeerUnreachableError when none did, TimeoutError after `timeout` seconds.
    """
    nobody = Local(
        0, 0, rusd.__version__, (), PeerLimits(), SILENT, lambda _: None, lambda: None, secure
    )
    error: Exception = PeerUnreachableError("no peer URLs")
    async with asyncio.timeout(timeout):
        for url in urls:
            try:
                connection = await dial(nobody, url, Hello(Purpose.ASK, version=rusd.__version__))
            except (OSError, RefusedError) as failure:
                error = PeerUnreachableError(f"{url}: {failure}")
                continue
            asking = _Asking()
            try:
                connection.adopt(asking)
                connection.put(encode_call(Call(1, method, timeout, body)))
                connection.flush()
                connection.resume()
                return await asking.answer
            except (PeerCallError, PeerUnreachableError) as failure:
                error = failure
            finally:
                connection.abort("asked")
    raise error


class _Asking:
    """Owns a connection on which one call is made."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def frames(self, _connection: Connection, frames: Frames) -> None:
        for kind, payload in frames:
            if kind != FrameKind.ANSWER:
                raise PeerProtocolError(f"unexpected frame of kind {kind}")
            answer = decode_answer(payload)
            if self.answer.done():
                continue
            if answer.error is None:
                self.answer.set_result(answer.body)
            else:
                self.answer.set_exception(PeerCallError(answer.error))

    def lost(self, _connection: Connection, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(PeerUnreachableError(f"lost before the answer: {reason}"))
