"""The Lease service."""

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from random import SystemRandom
from typing import Final

from google.protobuf.message import DecodeError

from rusd.api import errors
from rusd.api.answers import Caller, Headers
from rusd.api.identities import Identities, identity_of
from rusd.api.parsing import parsed
from rusd.api.slices import run_sliced
from rusd.auth.errors import AuthError
from rusd.auth.store import Identity
from rusd.lease.lessor import MAX_TTL, Lessor, NoSuchLeaseError
from rusd.mvcc.records import signed_varint
from rusd.node.entry import Kind
from rusd.node.leases import Leases
from rusd.node.pipeline import Pipeline
from rusd.node.reads import Reads
from rusd.node.renewals import Renewals, time_to_live
from rusd.pb.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseStatus,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from rusd.wire.grpc import Status
from rusd.wire.service import Call, StreamMethod, UnaryMethod
from rusd.wire.stream import Stream

_SERVICE: Final = "/etcdserverpb.Lease/"
_MOST_OWED: Final = 10_000
"""Answers that a keep-alive stream holds back for a client that does not read them."""

_MOST_PENDING: Final = 100_000
"""Renewals of a stream that are under way."""

_random_bits: Final = SystemRandom().getrandbits


class LeaseService:
    """Grants, revokes, keeps alive and shows leases."""

    def __init__(
        self,
        pipeline: Pipeline,
        reads: Reads,
        renewals: Renewals,
        lessor: Lessor,
        leases: Leases,
        headers: Headers,
        min_ttl: int,
        identities: Identities,
    ) -> None:
        """`min_ttl` is in seconds; a grant of less is raised to it."""
        self.identities, self.rights = identities, identities.rights
        self.auth = self.rights.store
        self.lessor, self.leases, self.renewals = lessor, leases, renewals
        self.replica, self._reads = pipeline.replica, reads
        self._pipeline, self._headers, self._min_ttl = pipeline, headers, min_ttl
        self.streams: set[KeepAlive] = set()
        self.auth.on_change.append(self._check_again)
        self.auth.on_invalidate.append(self._invalidate)

    def _check_again(self) -> None:
        """Ends the streams of who is no user any more, or was none when auth was turned on."""
        for stream in list(self.streams):
            stream.check_again()

    def _invalidate(self, user: str) -> None:
        """Ends the streams of a user whose tokens were taken back."""
        for stream in list(self.streams):
            if stream.identity is not None and stream.identity.user == user:
                stream.finish(errors.INVALID_AUTH_TOKEN)

    def stop(self) -> None:
        """Ends all streams: the member stops. Clients go on at another member, or later."""
        for stream in list(self.streams):
            stream.finish(errors.STOPPED)

    def methods(self) -> list[UnaryMethod | StreamMethod]:
        return [
            UnaryMethod(_SERVICE + "LeaseGrant", self.grant),
            UnaryMethod(_SERVICE + "LeaseRevoke", self.revoke),
            UnaryMethod(_SERVICE + "LeaseTimeToLive", self.time_to_live),
            UnaryMethod(_SERVICE + "LeaseLeases", self.leases_),
            StreamMethod(_SERVICE + "LeaseKeepAlive", self.open_keep_alive),
        ]

    def header(self) -> bytes:
        """Header of an answer as of now."""
        return self._headers.at(self._pipeline.keyspace.revision)

    def grant(self, calls: list[Call]) -> None:
        for connection, stream, message, request in parsed(calls, LeaseGrantRequest.FromString):
            if request.TTL > MAX_TTL:
                connection.fail(stream, errors.LEASE_TTL_TOO_LARGE)
                continue
            # What the log has is what every member does: the id and the TTL are decided before.
            ttl = max(request.TTL, self._min_ttl)
            if not request.ID or ttl != request.TTL:
                request.ID, request.TTL = request.ID or self._free_id(), ttl
                message = request.SerializeToString()
            self._pipeline.propose(Kind.LEASE_GRANT, message, request, connection, stream)

    def _free_id(self) -> int:
        while (lease := _random_bits(63)) == 0 or lease in self.lessor:
            pass
        return lease

    def revoke(self, calls: list[Call]) -> None:
        for connection, stream, message, request in parsed(calls, LeaseRevokeRequest.FromString):
            self._pipeline.propose(Kind.LEASE_REVOKE, message, request, connection, stream)

    def time_to_live(self, calls: list[Call]) -> None:
        for connection, stream, _, request in parsed(calls, LeaseTimeToLiveRequest.FromString):
            if self.replica.sole:
                self._show(connection, stream, time_to_live(self.lessor, request))
            else:
                self.renewals.time_to_live(request, partial(self._show, connection, stream))

    def _show(
        self, connection: Caller, stream: int, response: LeaseTimeToLiveResponse | Exception
    ) -> None:
        if isinstance(response, Exception):
            connection.fail(stream, errors.status_of(response))
            return

        def show(_: None) -> None:
            connection.reply(stream, self.header() + response.SerializeToString())

        if self.auth.enabled and response.keys:
            self._check_keys(connection, stream, [response.keys], show)
        else:
            show(None)

    def _check_keys(
        self,
        connection: Caller,
        stream: int,
        keys: Iterable[Iterable[bytes]],
        show: Callable[[None], None],
    ) -> None:
        """Shows leases to who may read all keys that hang on them."""
        check = self.rights.shown(identity_of(connection), keys)
        failed = partial(connection.fail, stream)
        run_sliced(check, show, failed, self._pipeline.keyspace.on_damage)

    def leases_(self, calls: list[Call]) -> None:
        for connection, stream, _, _ in parsed(calls, LeaseLeasesRequest.FromString):
            if self.replica.sole:
                self._list(connection, stream, None)
            else:
                self._reads.wait(partial(self._list, connection, stream))

    def _list(self, connection: Caller, stream: int, refusal: Exception | None) -> None:
        if refusal is not None:
            connection.fail(stream, errors.status_of(refusal))
            return
        ids = self.lessor.ids()

        def show(_: None) -> None:
            response = LeaseLeasesResponse(leases=[LeaseStatus(ID=lease) for lease in ids])
            connection.reply(stream, self.header() + response.SerializeToString())

        if self.auth.enabled:
            keys = (tuple(self.lessor.get(lease).keys) for lease in ids if lease in self.lessor)
            self._check_keys(connection, stream, keys, show)
        else:
            show(None)

    def open_keep_alive(self, stream: Stream) -> "KeepAlive":
        opened = KeepAlive(self, stream)
        self.streams.add(opened)
        return opened


@lru_cache(maxsize=16384)
def _renewed(lease: int, ttl: int) -> bytes:
    """Body of a LeaseKeepAliveResponse; the same leases are renewed again and again."""
    body = b"\x10" + signed_varint(lease)
    return body + b"\x18" + signed_varint(ttl) if ttl else body


class KeepAlive:
    """One client's stream of renewals. Answers need not be in the order of the requests: each
    names its lease.
    """

    def __init__(self, service: LeaseService, stream: Stream) -> None:
        self._stream, self._streams = stream, service.streams
        self._lessor, self._leases = service.lessor, service.leases
        self._replica, self._renewals = service.replica, service.renewals
        self._header: Callable[[], bytes] = service.header
        self._identities, self._rights, self._auth = (
            service.identities,
            service.rights,
            service.auth,
        )
        self.identity: Identity | None = None
        """Who renewed a lease last, while auth is on."""
        self._owed: dict[int, None] = {}
        """Leases whose answers wait until the client reads."""
        self._pending = 0
        self._half_closed = False

    def finish(self, status: Status | None = None) -> None:
        """Ends the stream from this side."""
        self._streams.discard(self)
        self._stream.finish(status)

    # From the client.

    def message(self, data: bytes) -> None:
        try:
            lease = LeaseKeepAliveRequest.FromString(data).ID
        except DecodeError:
            self.finish(errors.MALFORMED)
            return
        self._renew(lease)

    def half_closed(self) -> None:
        self._half_closed = True
        self._finish_if_done()

    def closed(self) -> None:
        self._streams.discard(self)
        self._owed.clear()

    def writable(self) -> None:
        owed, self._owed = self._owed, {}
        for lease in owed:
            self._renew(lease)
        self._finish_if_done()

    # From the auth store.

    def check_again(self) -> None:
        """Ends the stream unless who opened it is a user; auth may have been turned on."""
        if not self._auth.enabled:
            self.identity = None
            return
        try:
            if self.identity is None:
                self.identity = self._identities.of_stream(self._stream)
            self._rights.user(self.identity)
        except AuthError as error:
            self.finish(errors.status_of(error))

    # From the pipeline, when the log promises a lease its full TTL again.

    def reply(self, tag: int, _message: bytes, /) -> None:
        """Answers about the lease `tag`."""
        self._pending -= 1
        self._renew(tag)
        self._finish_if_done()

    def fail(self, _tag: int, status: Status, /) -> None:
        """Ends the stream: the client tries again."""
        self.finish(status)

    def _renew(self, lease: int) -> None:
        if self._pending >= _MOST_PENDING:
            self.finish(errors.REQUEST_TOO_MANY_REQUESTS)
            return
        if self._auth.enabled and not self._may_renew(lease):
            return
        if not self._replica.sole:
            self._pending += 1
            self._renewals.renew(lease, partial(self._renewed_by_leader, lease))
            return
        try:
            found = self._lessor.renew(lease)
        except NoSuchLeaseError:
            self._answer(lease, 0)
            return
        if found.logged_in_full:
            self._answer(lease, found.ttl)
        else:
            self._pending += 1
            self._leases.restore(found, self)

    def _may_renew(self, lease: int) -> bool:
        """Whether who opened the stream may keep a lease alive; if not, the stream ends."""
        try:
            self.identity = self._identities.of_stream(self._stream)
            self._rights.lease(self.identity, lease)
        except AuthError as error:
            self.finish(errors.status_of(error))
            return False
        return True

    def _renewed_by_leader(self, lease: int, ttl: int | Exception) -> None:
        self._pending -= 1
        if isinstance(ttl, Exception):
            self.finish(errors.status_of(ttl))
            return
        self._answer(lease, ttl)
        self._finish_if_done()

    def _answer(self, lease: int, ttl: int) -> None:
        if self._stream.congested:
            self._owed[lease] = None
            if len(self._owed) > _MOST_OWED:
                self.finish(errors.REQUEST_TOO_MANY_REQUESTS)
            return
        self._stream.send(self._header(), _renewed(lease, ttl))

    def _finish_if_done(self) -> None:
        if self._half_closed and not self._pending and not self._owed:
            self.finish()
