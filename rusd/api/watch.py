"""The Watch service: streams of watchers."""

import asyncio
from typing import Final

from google.protobuf.message import DecodeError

from rusd.api import errors
from rusd.api.answers import Headers
from rusd.api.identities import Identities
from rusd.auth.errors import AuthError, InvalidAuthTokenError
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.records import signed_varint
from rusd.mvcc.watch import Piece, Selection, Watcher, Watchers, fragments
from rusd.node.rights import READ
from rusd.pb.rpc_pb2 import WatchCreateRequest, WatchRequest, WatchResponse
from rusd.wire.service import StreamMethod
from rusd.wire.stream import Stream

_NO_ID: Final = -1
"""The watch id of answers that are about no watcher."""

_FRAGMENT: Final = b"\x38\x01"
_EMPTY_RANGE: Final = "mvcc: watcher range is empty"
_DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"


class Watch:
    """Creates a `WatchStream` for each call, and sends progress notifications."""

    def __init__(
        self,
        keyspace: Keyspace,
        watchers: Watchers,
        headers: Headers,
        max_response_bytes: int,
        progress_interval: float,
        identities: Identities,
    ) -> None:
        """`max_response_bytes` is where responses are fragmented; `progress_interval` in
        seconds.
        """
        self.keyspace, self.watchers, self.headers = keyspace, watchers, headers
        self.max_response_bytes = max_response_bytes
        self.identities = identities
        self.streams: set[WatchStream] = set()
        identities.store.on_change.append(self._check_again)
        identities.store.on_invalidate.append(self._invalidate)
        self._interval = progress_interval
        self._loop = asyncio.get_running_loop()
        self._loop.call_later(progress_interval, self._notify_progress)

    def methods(self) -> list[StreamMethod]:
        return [StreamMethod("/etcdserverpb.Watch/Watch", self._open)]

    def stop(self) -> None:
        """Ends all streams: the member stops. Clients go on at another member, or later."""
        for stream in list(self.streams):
            stream.stop()

    def _open(self, stream: Stream) -> "WatchStream":
        opened = WatchStream(self, stream)
        self.streams.add(opened)
        return opened

    def _check_again(self) -> None:
        """Ends the watchers whose ranges their users may not read any more. etcd lets them go on;
        it looks at rights only when a watcher is created.
        """
        for stream in self.streams:
            stream.check_again()

    def _invalidate(self, user: str) -> None:
        """Ends the watchers of a user whose tokens were taken back."""
        for stream in self.streams:
            stream.invalidate(user)

    def _notify_progress(self) -> None:
        for stream in self.streams:
            stream.notify_progress()
        self._loop.call_later(self._interval, self._notify_progress)


class WatchStream:
    """One client's stream, with any number of watchers."""

    def __init__(self, service: Watch, stream: Stream) -> None:
        self._service, self._stream = service, stream
        self._keyspace, self._watchers = service.keyspace, service.watchers
        self._headers = service.headers
        self._identities, self._auth = service.identities, service.identities.store
        self._user = ""
        """Who created the watchers, while auth is on."""
        self._by_id: dict[int, Watcher] = {}
        self._id_fields: dict[int, bytes] = {}
        self._next_id = 0
        self._progress_wanted = False
        self._header_revision, self._header = 0, b""

    # From the client.

    def message(self, data: bytes) -> None:
        try:
            request = WatchRequest.FromString(data)
        except DecodeError:
            self._end()
            self._stream.finish(errors.MALFORMED)
            return
        match request.WhichOneof("request_union"):
            case "create_request":
                self._create(request.create_request)
            case "cancel_request":
                self._cancel(request.cancel_request.watch_id)
            case "progress_request":
                if not self._auth.enabled or self._user:
                    self._progress_wanted = True
                    self._answer_progress()

    def stop(self) -> None:
        """Ends the stream from this side."""
        self._end()
        self._stream.finish(errors.STOPPED)

    def half_closed(self) -> None:
        """The client has asked for all that it wants; its watchers go on, as in etcd."""

    def closed(self) -> None:
        self._end()

    def writable(self) -> None:
        self._watchers.writable(self)

    def _end(self) -> None:
        self._progress_wanted = False
        self._service.streams.discard(self)
        watchers, self._by_id = list(self._by_id.values()), {}
        for watcher in watchers:
            self._watchers.remove(watcher)

    def _create(self, request: WatchCreateRequest) -> None:
        key = request.key or b"\x00"
        end: bytes | None = request.range_end
        if not end:
            end = key + b"\x00"
        elif end == b"\x00":
            end = None
        reason = ""
        if request.start_revision < 0:
            reason = errors.COMPACTED.message
        elif self._auth.enabled and (refusal := self._refusal(key, request.range_end)):
            reason = refusal
        elif end is not None and end <= key:
            reason = _EMPTY_RANGE
        elif request.watch_id and request.watch_id in self._by_id:
            reason = _DUPLICATE_ID
        if reason:
            self._respond(
                WatchResponse(watch_id=_NO_ID, created=True, canceled=True, cancel_reason=reason)
            )
            return
        watcher = Watcher(
            self._new_id(request.watch_id),
            Selection(
                key,
                end,
                WatchCreateRequest.NOPUT not in request.filters,
                WatchCreateRequest.NODELETE not in request.filters,
                request.prev_kv,
            ),
            request.start_revision or self._keyspace.revision + 1,
            self,
            request.fragment,
            request.progress_notify,
        )
        self._by_id[watcher.id] = watcher
        self._id_fields[watcher.id] = b"\x10" + signed_varint(watcher.id) if watcher.id else b""
        self._respond(WatchResponse(watch_id=watcher.id, created=True))
        self._watchers.add(watcher)

    def _refusal(self, key: bytes, range_end: bytes) -> str:
        """Why who opened the stream may not watch a range; "" if they may."""
        try:
            identity = self._identities.of_stream(self._stream)
            self._auth.check(identity, READ, key, range_end)
        except AuthError as error:
            return _reason(error)
        self._user = identity.user if identity is not None else ""
        return ""

    def _new_id(self, wanted: int) -> int:
        if wanted:
            return wanted
        while self._next_id in self._by_id:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _cancel(self, watch_id: int, reason: str = "") -> None:
        watcher = self._by_id.pop(watch_id, None)
        if watcher is None:
            return
        del self._id_fields[watch_id]
        self._watchers.remove(watcher)
        self._respond(WatchResponse(watch_id=watch_id, canceled=True, cancel_reason=reason))

    # From the auth store.

    def check_again(self) -> None:
        """Cancels the watchers whose ranges may not be read by who created them, as of now."""
        if not self._auth.enabled:
            self._user = ""
            return
        identity = self._auth.identity(self._user) if self._user else None
        for watcher in list(self._by_id.values()):
            selection = watcher.selection
            end = b"\x00" if selection.end is None else selection.end
            try:
                self._auth.check(identity, READ, selection.start, end)
            except AuthError as error:
                self._cancel(watcher.id, _reason(error))

    def invalidate(self, user: str) -> None:
        """Cancels the watchers of a user whose tokens were taken back."""
        if self._user == user:
            for watch_id in list(self._by_id):
                self._cancel(watch_id, _reason(InvalidAuthTokenError()))

    # From the keyspace.

    @property
    def congested(self) -> bool:
        """Whether the client's side takes no more for now."""
        return self._stream.congested

    def deliver(self, watcher: Watcher, piece: Piece, /) -> None:
        """Sends a watcher's events."""
        if piece.revision != self._header_revision:
            self._header_revision = piece.revision
            self._header = self._headers.at(piece.revision)
        id_field = self._id_fields[watcher.id]
        if watcher.fragment and len(piece.events) > self._service.max_response_bytes:
            *parts, last = fragments(piece.events, self._service.max_response_bytes)
            for part in parts:
                self._stream.send(self._header, id_field, _FRAGMENT, part)
            self._stream.send(self._header, id_field, last)
        else:
            self._stream.send(self._header, id_field, piece.events)

    def compacted(self, watcher: Watcher, revision: int, /) -> None:
        """Ends a watcher whose next events were compacted."""
        del self._by_id[watcher.id]
        del self._id_fields[watcher.id]
        # etcd's header has no revision here.
        response = WatchResponse(watch_id=watcher.id, canceled=True, compact_revision=revision)
        self._respond(response, at=0)

    def damaged(self, watcher: Watcher, /) -> None:
        """Ends a watcher whose next events cannot be read."""
        del self._by_id[watcher.id]
        del self._id_fields[watcher.id]
        reason = errors.CORRUPT.message
        self._respond(WatchResponse(watch_id=watcher.id, canceled=True, cancel_reason=reason))

    def caught_up(self) -> None:
        """Answers what had to wait until no watcher of the stream lags."""
        self._answer_progress()

    def notify_progress(self) -> None:
        """Tells quiet watchers that asked for it how far the keyspace is."""
        for watcher in self._by_id.values():
            if watcher.progress and watcher.live and not watcher.active:
                self._respond(WatchResponse(watch_id=watcher.id))
            watcher.active = False

    def _answer_progress(self) -> None:
        if self._progress_wanted and not self._watchers.lags(self):
            self._progress_wanted = False
            self._respond(WatchResponse(watch_id=_NO_ID))

    def _respond(self, response: WatchResponse, at: int | None = None) -> None:
        header = self._headers.at(self._keyspace.revision if at is None else at)
        self._stream.send(header, response.SerializeToString())


def _reason(error: AuthError) -> str:
    """An error as the text of Go's gRPC, which is what etcd gives as the reason of a cancel."""
    status = errors.status_of(error)
    code = status.code.name.title().replace("_", "")
    return f"rpc error: code = {code} desc = {status.message}"
