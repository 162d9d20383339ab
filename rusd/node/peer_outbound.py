"""The connections that this member makes to another one, kept up: what goes to it goes here."""

import asyncio
import random
from collections.abc import Sequence
from enum import Enum
from typing import Final

from rusd.node.peer_connection import Connection, Local
from rusd.node.peer_dial import dial
from rusd.node.peer_inbound import PeerCallError
from rusd.node.peer_wire import (
    Call,
    FrameKind,
    Frames,
    PeerProtocolError,
    Purpose,
    Reason,
    RefusedError,
    decode_answer,
    encode_call,
)

_FIRST_BACKOFF: Final = 1 / 20


class PeerUnreachableError(Exception):
    """The member cannot be reached, or was lost before it answered."""


class _Status(Enum):
    NEW = 0
    ACTIVE = 1
    UNREACHABLE = 2
    REFUSED = 3


class Peer:
    """Another member, as far as this one dials it."""

    def __init__(self, local: Local, member: int, urls: Sequence[str]) -> None:
        self.local = local
        self.member = member
        self.urls = tuple(urls)
        self._heard_at: tuple[str, ...] = ()
        self.control = Lane(self, Purpose.CONTROL)
        self.bulk = Lane(self, Purpose.BULK)
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._last_call = 0
        self._status: tuple[_Status, int] = (_Status.NEW, 0)

    @property
    def places(self) -> tuple[str, ...]:
        """URLs to try: the member's, then those that it gave itself, if it has moved since."""
        return self.urls + tuple(url for url in self._heard_at if url not in self.urls)

    def arrived(self, urls: Sequence[str]) -> None:
        """The member was heard: try to connect now, not after the back-off."""
        self._heard_at = tuple(urls)
        self.control.wake()
        self.bulk.wake()

    def close(self, reason: str) -> None:
        """Give up its connections for good."""
        self.control.stop(reason)
        self.bulk.stop(reason)
        self._fail_calls(reason)

    async def closed(self) -> None:
        """Wait until nothing of it runs."""
        await asyncio.gather(self.control.task, self.bulk.task, return_exceptions=True)

    async def open(self, purpose: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of its own. Raises PeerUnreachableError."""
        error: Exception | None = None
        for url in self.places:
            try:
                connection = await dial(self.local, url, self.local.hello(purpose, self.member))
                return connection.detach()
            except (OSError, RefusedError) as failure:
                error = failure
        raise PeerUnreachableError(f"member {self.member:x}: {error}")

    # --- calls -------------------------------------------------------------------------------

    async def call(self, method: int, body: bytes, timeout: float) -> bytes:
        """Ask, and wait for the answer for `timeout` seconds."""
        limits, connection = self.local.limits, self.control.connection
        if connection is None:
            raise PeerUnreachableError(f"member {self.member:x} is not connected")
        if len(self._calls) >= limits.max_calls:
            raise PeerUnreachableError(f"too many calls of member {self.member:x}")
        self._last_call += 1
        number = self._last_call
        frame = encode_call(Call(number, method, timeout, body))
        if len(frame) > limits.max_control_frame_bytes:
            raise PeerCallError("the call is too large")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        try:
            if not connection.put(frame):
                raise PeerUnreachableError(f"too much waits for member {self.member:x}")
            connection.flush()
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            del self._calls[number]

    def answered(self, payload: memoryview) -> None:
        """An ANSWER frame came."""
        answer = decode_answer(payload)
        waiting = self._calls.get(answer.number)
        if waiting is None or waiting.done():
            return  # it came too late
        if answer.error is not None:
            waiting.set_exception(PeerCallError(answer.error))
        else:
            waiting.set_result(answer.body)

    def _fail_calls(self, reason: str) -> None:
        for waiting in self._calls.values():
            if not waiting.done():
                text = f"member {self.member:x} was lost: {reason}"
                waiting.set_exception(PeerUnreachableError(text))

    # --- what the lanes tell: it is logged when it changes -----------------------------------

    def lane_up(self) -> None:
        """A lane is connected."""
        up = self.control.connection is not None and self.bulk.connection is not None
        if up and self._becomes(_Status.ACTIVE):
            self.local.log.info("peer became active", peer_id=f"{self.member:x}")

    def lane_lost(self, lane: "Lane", reason: str) -> None:
        """A lane was connected and is no more. What it held is lost."""
        if lane is self.control:
            self._fail_calls(reason)
        self.local.unreachable(self.member)
        if self._status[0] is _Status.ACTIVE:
            self.local.traffic[self.member].losses += 1
        if self._becomes(_Status.UNREACHABLE):
            self.local.log.warn(
                "lost connection with remote peer", peer_id=f"{self.member:x}", error=reason
            )

    def lane_failed(self, error: OSError) -> None:
        """A lane cannot be connected."""
        if self._becomes(_Status.UNREACHABLE):
            self.local.log.warn(
                "remote peer cannot be reached", peer_id=f"{self.member:x}", error=error
            )

    def lane_refused(self, error: RefusedError) -> None:
        """The member, or who is at its URL, wants no connection."""
        if self._becomes(_Status.REFUSED, error.reason):
            self.local.log.warn(
                "request sent was refused by remote peer", peer_id=f"{self.member:x}", error=error
            )
        if error.reason == Reason.REMOVED:
            self.local.removed()

    def _becomes(self, status: _Status, detail: int = 0) -> bool:
        changed = self._status != (status, detail)
        self._status = (status, detail)
        return changed


class Lane:
    """One connection to a member, made again whenever it is lost; and its owner."""

    def __init__(self, peer: Peer, purpose: Purpose) -> None:
        self.connection: Connection | None = None
        self.since: float | None = None
        """Loop time since when it is connected."""
        self._peer = peer
        self._purpose = purpose
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[None] | None = None
        self._woken = asyncio.Event()
        self.task = asyncio.create_task(self._keep())

    def wake(self) -> None:
        """End a wait between two attempts."""
        self._woken.set()

    def stop(self, reason: str) -> None:
        """Close, and do not connect again."""
        self.task.cancel()
        if self.connection is not None:
            self.connection.close(reason)
            self.connection = None
            self.since = None

    async def _keep(self) -> None:
        limits = self._peer.local.limits
        backoff = limits.max_backoff * _FIRST_BACKOFF
        found = ""
        while True:
            self._woken.clear()
            for url in sorted(self._peer.places, key=lambda url: url != found):
                lasted = await self._connect(url)
                if lasted is None:
                    continue
                found = url
                self._woken.clear()
                if lasted > limits.max_backoff:
                    backoff = limits.max_backoff * _FIRST_BACKOFF
                break
            try:
                async with asyncio.timeout(backoff * random.uniform(0.5, 1.0)):
                    await self._woken.wait()
            except TimeoutError:
                backoff = min(2 * backoff, limits.max_backoff)

    async def _connect(self, url: str) -> float | None:
        """Connect, and return when the connection is lost: after how many seconds; None if there
        was none.
        """
        peer = self._peer
        try:
            hello = peer.local.hello(self._purpose, peer.member)
            connection = await dial(peer.local, url, hello)
        except RefusedError as error:
            peer.lane_refused(error)
            return None
        except OSError as error:
            peer.lane_failed(error)
            return None
        lost = self._lost = self._loop.create_future()
        self.connection = connection
        self.since = since = self._loop.time()
        connection.adopt(self, bulk=self._purpose == Purpose.BULK, pings=True, member=peer.member)
        connection.resume()
        if self.connection is not None:
            peer.lane_up()
        await lost
        return self._loop.time() - since

    # --- owner -------------------------------------------------------------------------------

    def frames(self, connection: Connection, frames: Frames) -> None:
        """What comes back."""
        for kind, payload in frames:
            if kind == FrameKind.ANSWER and self._purpose == Purpose.CONTROL:
                self._peer.answered(payload)
            elif kind == FrameKind.PONG:
                connection.ponged()
            else:
                raise PeerProtocolError(f"unexpected frame of kind {kind}")

    def lost(self, connection: Connection, reason: str) -> None:
        """The connection is gone."""
        if connection is self.connection:
            self.connection = None
            self.since = None
            self._peer.lane_lost(self, reason)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
