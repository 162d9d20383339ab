"""What a member refuses whatever the request says: for want of a leader, as a learner, or because
the caller's token is bad.
"""

import asyncio
from collections.abc import Sequence
from typing import Final
from weakref import WeakSet

from google.protobuf.message import DecodeError

from rusd.api import errors
from rusd.api.identities import Identities
from rusd.node.membership import Membership
from rusd.node.replica import Replica
from rusd.pb.rpc_pb2 import RangeRequest
from rusd.wire.service import Call, RequestHead, StreamHandler, StreamMethod, UnaryMethod
from rusd.wire.stream import Stream
from rusd.wire.turn import Turn

Method = UnaryMethod | StreamMethod

_HAS_LEADER: Final = b"hasleader"
_RANGE: Final = "/etcdserverpb.KV/Range"
_FOR_LEARNERS: Final = frozenset(
    ("/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/Snapshot")
)
_PATIENCE: Final = 3
"""Election timeouts without a leader after which streams that want one are ended."""


class Gate:
    """Refuses calls before their services see them, and tells these who calls."""

    def __init__(
        self,
        replica: Replica,
        membership: Membership,
        identities: Identities,
        election_timeout: float,
    ) -> None:
        """`election_timeout` is in seconds."""
        self._replica, self._membership = replica, membership
        self._identities = identities
        self._turn: Turn | None = None
        self._loop = asyncio.get_running_loop()
        self._patience = _PATIENCE * election_timeout
        self._guarded: WeakSet[_Guarded] = WeakSet()
        self._timer: asyncio.TimerHandle | None = None
        replica.on_leader_change.append(self._changed)
        replica.on_conf_change.append(self._changed)
        identities.store.on_change.append(self._changed)

    def guard(self, methods: Sequence[Method]) -> list[Method]:
        """The methods, with the streaming ones behind the gate; `bind` does it for the others."""
        return [
            self._guard(method) if isinstance(method, StreamMethod) else method
            for method in methods
        ]

    def bind(self, turn: Turn) -> None:
        """Lets unary calls pass here when it is needed: the hot path of a member with a leader
        pays nothing while auth is off.
        """
        self._turn = turn
        self._identities.again = turn.add
        self._changed()

    def _guard(self, method: StreamMethod) -> StreamMethod:

        def opened(stream: Stream) -> StreamHandler:
            if self._membership.is_learner and method.path not in _FOR_LEARNERS:
                stream.finish(errors.NOT_SUPPORTED_FOR_LEARNER)
                return _Refused()
            refusal = self._identities.refusal(method.path, stream)
            if refusal is not None:
                stream.finish(refusal)
                return _Refused()
            if not _wants_leader(stream.head):
                return method.open(stream)
            if not self._replica.leader:
                stream.finish(errors.NO_LEADER)
                return _Refused()
            guarded = _Guarded(stream, method.open(stream))
            self._guarded.add(guarded)
            return guarded

        return StreamMethod(method.path, opened)

    def _changed(self) -> None:
        leader = self._replica.leader
        if self._turn is not None:
            idle = leader and not self._membership.is_learner and not self._identities.store.enabled
            self._turn.gate = None if idle else self._pass
        if leader and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif not leader and self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._end_streams)

    def _pass(self, path: str, calls: list[Call]) -> list[Call]:
        """Answers the calls that may not pass, and returns the others."""
        if self._membership.is_learner or not self._replica.leader:
            calls = self._serve_little(path, calls)
        if self._identities.store.enabled:
            calls = self._identities.identify(path, calls)
        return calls

    def _serve_little(self, path: str, calls: list[Call]) -> list[Call]:
        passed = []
        for call in calls:
            connection, stream, head, message = call
            if self._membership.is_learner and not _learner_may(path, message):
                connection.fail(stream, errors.NOT_SUPPORTED_FOR_LEARNER)
            elif not self._replica.leader and _wants_leader(head):
                connection.fail(stream, errors.NO_LEADER)
            else:
                passed.append(call)
        return passed

    def _end_streams(self) -> None:
        self._timer = None
        for guarded in list(self._guarded):
            guarded.end()


class _Guarded:
    """A stream that ends when there has been no leader for long."""

    def __init__(self, stream: Stream, handler: StreamHandler) -> None:
        self._stream, self._handler = stream, handler

    def message(self, data: bytes) -> None:
        self._handler.message(data)

    def half_closed(self) -> None:
        self._handler.half_closed()

    def closed(self) -> None:
        self._handler.closed()

    def writable(self) -> None:
        self._handler.writable()

    def end(self) -> None:
        """Ends it, unless that has happened."""
        if not self._stream.closed and self._stream.ending is None:
            self._handler.closed()
            self._stream.finish(errors.NO_LEADER)


class _Refused:
    """A stream that has ended before it began."""

    def message(self, data: bytes) -> None:
        pass

    def half_closed(self) -> None:
        pass

    def closed(self) -> None:
        pass

    def writable(self) -> None:
        pass


def _wants_leader(head: RequestHead) -> bool:
    return head.metadata.get(_HAS_LEADER) == b"true"


def _learner_may(path: str, message: bytes) -> bool:
    if path != _RANGE:
        return path in _FOR_LEARNERS
    try:
        return RangeRequest.FromString(message).serializable
    except DecodeError:
        return True  # to be told so
