"""Calls of the server's own methods from inside the process: they go the way of those from outside.

A JSON request, or a service that asks another on behalf of its caller, makes its calls here. They
land in the turn's batches and in the methods' `open` like any other, so what stands before the
services (a gate, say) sees them too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

from rusd.wire.grpc import Code, Status
from rusd.wire.service import RequestHead, StreamHandler, StreamMethod
from rusd.wire.stream import Stream
from rusd.wire.tally import Tally
from rusd.wire.turn import Turn

if TYPE_CHECKING:
    from rusd.wire.connection import Connection

_DEADLINE_EXCEEDED: Final = Status(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
_NO_ANSWER: Final = Status(Code.INTERNAL, "the call ended without an answer")

Answered: TypeAlias = Callable[["bytes | Status"], None]
"""Takes a unary call's answer: the message, or what went wrong. Called once, at any time."""


class Origin:
    """Where calls from inside come from: what a service may ask of a connection."""

    __slots__ = ("common_name",)

    def __init__(self, common_name: str | None = None) -> None:
        self.common_name = common_name
        """The user that the caller's client certificate names."""


class Receiver(Protocol):
    """Who made a streaming call."""

    @property
    def congested(self) -> bool:
        """No more messages for now; `LoopbackStream.drained` ends it."""

    def message(self, data: bytes, /) -> None:
        """One response message."""

    def finished(self, status: Status | None, /) -> None:
        """The call ended, None for OK. Not called after `cancel`."""


class Handle(Protocol):
    """A call under way."""

    def cancel(self) -> None:
        """Nobody waits for its answer any more."""


class Loopback:
    """Makes calls of the methods that `turn` and `streams` have, by path."""

    def __init__(self, turn: Turn, streams: Mapping[bytes, StreamMethod]) -> None:
        self._turn, self._streams = turn, streams

    def knows(self, path: bytes) -> bool:
        """Whether there is such a method."""
        return path in self._turn.batches or path in self._streams

    def call(
        self, head: RequestHead, message: bytes, answered: Answered, origin: Origin | None = None
    ) -> Handle:
        """Calls `head.path` with one message, for one answer: a unary method, or one that is a
        stream only to hear of its end.
        """
        if head.path in self._streams:
            stream = self.stream(head, _Once(answered), origin)
            stream.message(message)
            stream.half_close()
            return stream
        call = _Call(answered, origin, head.path, self._turn.tally)
        if head.timeout is not None:
            call.expire_in(head.timeout)
        self._turn.batches[head.path].append((cast("Connection", call), 0, head, message))
        self._turn.wake()
        return call

    def stream(
        self, head: RequestHead, receiver: Receiver, origin: Origin | None = None
    ) -> LoopbackStream:
        """Opens the streaming method `head.path`."""
        turn, timer = self._turn, self._turn.timer
        ended = None if timer is None else timer.began(head.path)
        stream = LoopbackStream(head, receiver, origin or Origin(), turn.tally, ended)
        stream.open(self._streams[head.path])
        return stream


class _Call(Origin):
    """A unary call: the connection that its service answers on."""

    __slots__ = ("_answered", "_path", "_tally", "_timer")

    def __init__(
        self, answered: Answered, origin: Origin | None, path: bytes, tally: Tally
    ) -> None:
        super().__init__(origin.common_name if origin is not None else None)
        self._path, self._tally = path, tally
        tally.inside[path] += 1
        self._answered: Answered | None = answered
        self._timer: asyncio.TimerHandle | None = None

    def expire_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._finish(_DEADLINE_EXCEEDED, Code.DEADLINE_EXCEEDED)

    def reply(self, _stream_id: int, message: bytes) -> None:
        self._finish(message, Code.OK)

    def fail(self, _stream_id: int, status: Status) -> None:
        self._finish(status, status.code)

    def cancel(self) -> None:
        if self._answered is not None:
            self._answered = _forget
            self._finish(_NO_ANSWER, Code.CANCELLED)

    def _finish(self, answer: bytes | Status, code: int) -> None:
        answered, self._answered = self._answered, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if answered is not None:
            self._tally.inside[self._path] -= 1
            self._tally.ended(self._path, code)
            answered(answer)


def _forget(_: bytes | Status) -> None:
    pass


class LoopbackStream:
    """Both ends of a streaming call: a `Stream` to the service, and what the caller holds."""

    def __init__(
        self,
        head: RequestHead,
        receiver: Receiver,
        origin: Origin,
        tally: Tally,
        ended: Callable[[], None] | None,
    ) -> None:
        """`ended` is called at the end, whichever it is."""
        self.head = head
        self._tally, self._ended = tally, ended
        tally.started[head.path] += 1
        tally.inside[head.path] += 1
        self._received = self._sent = 0
        self.connection = origin
        self.closed = False
        self.ending: Status | None = None
        """How the service has finished the call."""
        self._receiver = receiver
        self._handler: StreamHandler | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- the service's end -------------------------------------------------------------------

    def send(self, *parts: bytes) -> None:
        """One message, whose body is the parts joined."""
        if not self.closed:
            self._sent += 1
            self._receiver.message(b"".join(parts))

    def finish(self, status: Status | None = None) -> None:
        """Ends the call, None for OK."""
        if not self.closed:
            self.ending = status or Status(Code.OK)
            self._close(self.ending.code)
            self._receiver.finished(status)

    @property
    def congested(self) -> bool:
        """The caller takes no more for now."""
        return self._receiver.congested

    # --- the caller's end --------------------------------------------------------------------

    def open(self, method: StreamMethod) -> None:
        """Begins the call."""
        if self.head.timeout is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.head.timeout, self._expire)
        handler = method.open(cast(Stream, self))
        if not self.closed:
            self._handler = handler

    def message(self, data: bytes) -> None:
        """Sends one message to the service."""
        if self._handler is not None:
            self._received += 1
            self._handler.message(data)

    def half_close(self) -> None:
        """Says that no more messages come."""
        if self._handler is not None:
            self._handler.half_closed()

    def drained(self) -> None:
        """The caller takes messages again."""
        if self._handler is not None:
            self._handler.writable()

    def cancel(self) -> None:
        """Gives up the call; the service hears of it."""
        self._give_up(Code.CANCELLED)

    def _give_up(self, code: int) -> None:
        handler = self._handler
        if not self.closed:
            self._close(code)
            if handler is not None:
                handler.closed()

    def _expire(self) -> None:
        if not self.closed:
            self._give_up(Code.DEADLINE_EXCEEDED)
            self._receiver.finished(_DEADLINE_EXCEEDED)

    def _close(self, code: int) -> None:
        self.closed = True
        self._tally.inside[self.head.path] -= 1
        self._tally.ended(self.head.path, code, self._received, self._sent)
        self._handler = None
        if self._ended is not None:
            self._ended()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Once:
    """Takes the one answer of a streaming method."""

    congested = False

    def __init__(self, answered: Answered) -> None:
        self._answered = answered
        self._message: bytes | None = None

    def message(self, data: bytes, /) -> None:
        self._message = data

    def finished(self, status: Status | None, /) -> None:
        if status is not None and status.code != Code.OK:
            self._answered(status)
        else:
            self._answered(_NO_ANSWER if self._message is None else self._message)
