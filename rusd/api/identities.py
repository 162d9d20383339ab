"""Who calls: the user that a call's token or client certificate stands for, while auth is on."""

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol, cast

from rusd.api import access, errors
from rusd.api.access import Need
from rusd.auth.errors import AuthError, InvalidAuthTokenError
from rusd.auth.store import Identity
from rusd.auth.tokens import TokenAheadError
from rusd.node.apply import Applier
from rusd.node.replica import Replica
from rusd.node.rights import Rights
from rusd.wire.grpc import Status
from rusd.wire.service import Call, RequestHead
from rusd.wire.stream import Stream

if TYPE_CHECKING:
    from rusd.wire.connection import Connection

_TOKEN: Final = b"token"
_AUTHORIZATION: Final = b"authorization"
_GATEWAY: Final = b"grpcgateway-accept"
_BEARER: Final = b"Bearer "

_KNOWN_FOR: Final = 0.1
"""Seconds for which a token is not looked at again. Within them one may have expired; one that was
taken back is let go of at once."""

_LONGEST_KNOWN: Final = 128
_MOST_KNOWN: Final = 500
_MOST_READERS: Final = 200
"""Bytes of a read, reads of a caller, and callers that are known to be one's right."""

_MOST_PARKED: Final = 1000
_PATIENCE: Final = 1.0
"""Seconds until a token that may become known counts as unknown."""

_PARKED_TICK: Final = 0.01
_FAR: Final = 10_000
"""Entries between the end of this member's log and one that a token may wait for."""


class _Named(Protocol):
    """A connection; a certificate may tell whose."""

    @property
    def common_name(self) -> str | None: ...


class Caller:
    """A connection as the services see it while auth is on."""

    __slots__ = ("fail", "identity", "reply")

    def __init__(self, connection: "Connection", identity: Identity | None) -> None:
        self.identity = identity
        self.reply: Callable[[int, bytes], None] = connection.reply
        self.fail: Callable[[int, Status], None] = connection.fail


def identity_of(caller: object) -> Identity | None:
    """Who calls; None, which is nobody, too for a call that came while auth was off."""
    return getattr(caller, "identity", None)


class Identities:
    """Tells who calls, of calls and of streams."""

    def __init__(self, applier: Applier, replica: Replica) -> None:
        self.rights: Rights = applier.rights
        self.store = store = self.rights.store
        self._authority, self._replica = applier.authority, replica
        self._known: dict[bytes, Identity] = {}
        self._readable: dict[Identity | None, set[bytes]] = {}
        self._known_until = 0.0
        self._parked: list[tuple[float, int, str, Call]] = []
        """Until when, for which entry, method and call."""
        self.again: Callable[[str, Call], None] = lambda _path, _call: None
        """Takes a call that was parked, to be handled as if it had just come."""
        store.on_change.append(self._forget)

    def _forget(self) -> None:
        self._known.clear()
        self._readable.clear()

    def identify(self, path: str, calls: list[Call]) -> list[Call]:
        """The calls that may pass, as `Caller`s'; the others are answered with the error. One whose
        token this member cannot know yet comes later.
        """
        need = access.need(path)
        if need in (Need.NOTHING, Need.READ):
            return calls
        found: list[Call] = []
        last: Connection | None = None
        last_head: RequestHead | None = None
        caller = cast("Connection", None)
        for call in calls:
            connection, stream, head, message = call
            # Calls of a connection come one after the other; looked at once, each is half as dear.
            if connection is last and head is last_head:
                found.append((caller, stream, head, message))
                continue
            try:
                identity = self.of(connection, head)
                if need is not Need.OWN:
                    access.check(self.rights, need, identity)
            except TokenAheadError as ahead:
                self._park(path, call, ahead.index)
            except AuthError as error:
                connection.fail(stream, errors.status_of(error))
            else:
                caller = cast("Connection", Caller(connection, identity))
                last, last_head = connection, head
                found.append((caller, stream, head, message))
        return found

    def refusal(self, path: str, stream: Stream) -> Status | None:
        """Why a stream may not be opened, if so. Streams whose need is their own, as a watch, are
        opened with a bad token too, and then refuse what is asked of them.
        """
        need = access.need(path)
        if not self.store.enabled or need is Need.NOTHING:
            return None
        try:
            identity = self.of(stream.connection, stream.head)
            access.check(self.rights, need, identity)
        except TokenAheadError as ahead:
            # Soon known here; streams are opened again by those who are told this.
            return errors.TIMEOUT_WAIT_APPLIED_INDEX if self._may_come(ahead.index) else None
        except AuthError as error:
            return None if need is Need.OWN else errors.status_of(error)
        return None

    def of_stream(self, stream: Stream) -> Identity | None:
        """Who has opened a stream. Raises InvalidAuthTokenError."""
        if not self.store.enabled:
            return None
        try:
            return self.of(stream.connection, stream.head)
        except TokenAheadError:
            raise InvalidAuthTokenError from None

    def of(self, connection: _Named, head: RequestHead) -> Identity | None:
        """Raises InvalidAuthTokenError, TokenAheadError."""
        metadata = head.metadata
        token = metadata.get(_TOKEN)
        if token is None:
            token = metadata.get(_AUTHORIZATION)
            if token is None:
                return self._of_certificate(connection, metadata)
        now = monotonic()
        if now >= self._known_until:
            self._known.clear()
            self._known_until = now + _KNOWN_FOR
        identity = self._known.get(token)
        if identity is None:
            try:
                text = token.removeprefix(_BEARER).decode()
            except UnicodeDecodeError:
                raise InvalidAuthTokenError from None
            identity = self._known[token] = self._authority.tokens.resolve(text)
        return identity

    def _of_certificate(
        self, connection: _Named, metadata: Mapping[bytes, bytes]
    ) -> Identity | None:
        name = connection.common_name
        # A gateway's certificate is not that of who asks it.
        if not name or _GATEWAY in metadata:
            return None
        return self.store.identity(name)

    def _park(self, path: str, call: Call, index: int) -> None:
        if len(self._parked) >= _MOST_PARKED or not self._may_come(index):
            call[0].fail(call[1], errors.INVALID_AUTH_TOKEN)
            return
        if not self._parked:
            asyncio.get_running_loop().call_later(_PARKED_TICK, self._look_at_parked)
        self._parked.append((monotonic() + _PATIENCE, index, path, call))

    def readable(
        self, path: str, calls: list[Call], check: Callable[[Identity | None, bytes], None]
    ) -> list[Call]:
        """The reads that may be answered now; the others are answered with the error, or come
        again. What an identity may read as of the present auth revision is known by the message:
        `check` takes it apart, and raises AuthError.
        """
        found: list[Call] = []
        last: Connection | None = None
        last_head: RequestHead | None = None
        identity: Identity | None = None
        known: set[bytes] = set()
        for call in calls:
            connection, stream, head, message = call
            try:
                if connection is not last or head is not last_head:
                    identity = self.of(connection, head)
                    known = self._readable_by(identity)
                    last, last_head = connection, head
                if message not in known:
                    check(identity, message)
                    if len(message) <= _LONGEST_KNOWN and len(known) < _MOST_KNOWN:
                        known.add(message)
            except TokenAheadError as ahead:
                self._park(path, call, ahead.index)
            except AuthError as error:
                connection.fail(stream, errors.status_of(error))
            else:
                found.append(call)
        return found

    def _readable_by(self, identity: Identity | None) -> set[bytes]:
        known = self._readable.get(identity)
        if known is None:
            if len(self._readable) >= _MOST_READERS:
                self._readable.clear()
            known = self._readable[identity] = set()
        return known

    def _may_come(self, index: int) -> bool:
        """Whether an entry may soon be applied here."""
        return index <= self._replica.raw.last_index + _FAR

    def _look_at_parked(self) -> None:
        """Lets calls go on whose tokens can be known now, and refuses those of long ago."""
        now, applied = monotonic(), self._replica.applied
        parked, self._parked = self._parked, []
        for each in parked:
            until, index, path, call = each
            if index <= applied:
                self.again(path, call)
            elif until < now:
                call[0].fail(call[1], errors.INVALID_AUTH_TOKEN)
            else:
                self._parked.append(each)
        if self._parked:
            asyncio.get_running_loop().call_later(_PARKED_TICK, self._look_at_parked)
