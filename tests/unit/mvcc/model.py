"""etcd's keyspace as plain dicts: every revision is a whole copy. Slow, and obviously right."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rusd.mvcc.errors import (
    CompactedError,
    FutureRevisionError,
    KeyNotFoundError,
    LeaseNotFoundError,
)
from rusd.pb.kv_pb2 import Event, KeyValue
from rusd.pb.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    ResponseHeader,
    ResponseOp,
    TxnRequest,
    TxnResponse,
)

Live = dict[bytes, KeyValue]


@dataclass
class Change:
    """One event, with what it replaced."""

    revision: int
    event: Event
    previous: KeyValue | None


@dataclass
class Path:
    """A transaction's chosen branch; with each transaction in it, the one chosen there."""

    succeeded: bool
    operations: "list[tuple[RequestOp, Path | None]]"


@dataclass
class Model:
    """A keyspace. Responses have no headers, but for those inside a transaction."""

    leases: set[int] = field(default_factory=set)
    revision: int = 1
    compacted: int = -1
    states: dict[int, Live] = field(default_factory=lambda: {1: {}})
    changes: list[Change] = field(default_factory=list)
    _live: Live = field(default_factory=dict)
    _made: int = 0

    @property
    def live(self) -> Live:
        return self.states[self.revision]

    def attached(self, lease: int) -> set[bytes]:
        return {key for key, kv in self.live.items() if kv.lease == lease}

    # Requests.

    def range(self, request: RangeRequest) -> RangeResponse:
        self._begin()
        return self._range(request)

    def put(self, request: PutRequest) -> PutResponse:
        self._begin()
        self._check_lease(request)
        self._check_key(request)
        response = self._put(request)
        self._end()
        return response

    def delete_range(self, request: DeleteRangeRequest) -> DeleteRangeResponse:
        self._begin()
        response = self._delete(request)
        self._end()
        return response

    def txn(self, request: TxnRequest) -> TxnResponse:
        self._begin()
        path = self._choose(request)
        self._check_puts(path)
        self._check_ranges(path)
        response = self._txn(path)
        self._end()
        return response

    def compact(self, revision: int) -> None:
        if revision <= self.compacted:
            raise CompactedError
        if revision > self.revision:
            raise FutureRevisionError
        self.compacted = revision

    # A transaction under way: `_live` as it has made it.

    def _begin(self) -> None:
        self._live, self._made = dict(self.live), 0

    def _end(self) -> None:
        if self._made:
            self.revision += 1
            self.states[self.revision] = self._live

    def _record(self, kind: Any, kv: KeyValue, previous: KeyValue | None) -> None:
        self._made += 1
        self.changes.append(Change(self.revision + 1, Event(type=kind, kv=kv), previous))

    def _put(self, request: PutRequest) -> PutResponse:
        old = self._live.get(request.key)
        kv = KeyValue(
            key=request.key,
            create_revision=old.create_revision if old else self.revision + 1,
            mod_revision=self.revision + 1,
            version=old.version + 1 if old else 1,
            value=old.value if old and request.ignore_value else request.value,
            lease=old.lease if old and request.ignore_lease else request.lease,
        )
        self._live[request.key] = kv
        self._record(Event.PUT, kv, old)
        return PutResponse(prev_kv=old if request.prev_kv else None)

    def _delete(self, request: DeleteRangeRequest) -> DeleteRangeResponse:
        response = DeleteRangeResponse()
        for key in _within(self._live, request.key, request.range_end):
            old = self._live.pop(key)
            tombstone = KeyValue(key=key, mod_revision=self.revision + 1)
            self._record(Event.DELETE, tombstone, old)
            response.deleted += 1
            if request.prev_kv:
                response.prev_kvs.append(old)
        return response

    def _range(self, request: RangeRequest) -> RangeResponse:
        revision = request.revision
        if revision > self.revision:
            raise FutureRevisionError
        if 0 < revision < self.compacted:
            raise CompactedError
        state = self.states[revision] if revision > 0 else self._live
        kvs = [state[key] for key in _within(state, request.key, request.range_end)]
        response = RangeResponse(count=len(kvs))
        if request.count_only:
            return response
        filters = (
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        )
        limit = max(0, request.limit)
        target = request.sort_target
        by_target = target != RangeRequest.KEY
        if limit and by_target and request.sort_order == RangeRequest.NONE and not any(filters):
            kvs = kvs[: limit + 1]
        kvs = [
            kv
            for kv in kvs
            if (not filters[0] or kv.mod_revision >= filters[0])
            and (not filters[1] or kv.mod_revision <= filters[1])
            and (not filters[2] or kv.create_revision >= filters[2])
            and (not filters[3] or kv.create_revision <= filters[3])
        ]
        name = ("key", "version", "create_revision", "mod_revision", "value")[target]
        kvs.sort(
            key=lambda kv: getattr(kv, name), reverse=request.sort_order == RangeRequest.DESCEND
        )
        if limit and len(kvs) > limit:
            kvs, response.more = kvs[:limit], True
        for kv in kvs:
            response.kvs.append(kv)
            if request.keys_only:
                response.kvs[-1].ClearField("value")
        return response

    def _choose(self, request: TxnRequest) -> "Path":
        """The branches that are taken: decided before anything takes effect."""
        succeeded = all(self._holds(compare) for compare in request.compare)
        branch = request.success if succeeded else request.failure
        return Path(
            succeeded,
            [
                (op, self._choose(op.request_txn) if op.HasField("request_txn") else None)
                for op in branch
            ],
        )

    def _holds(self, compare: Compare) -> bool:
        keys = _within(self._live, compare.key, compare.range_end)
        if not keys and compare.target == Compare.VALUE:
            return False
        for kv in [self._live[key] for key in keys] or [KeyValue()]:
            left, right = {
                Compare.VERSION: (kv.version, compare.version),
                Compare.CREATE: (kv.create_revision, compare.create_revision),
                Compare.MOD: (kv.mod_revision, compare.mod_revision),
                Compare.VALUE: (kv.value, compare.value),
                Compare.LEASE: (kv.lease, compare.lease),
            }[compare.target]
            sign = (left > right) - (left < right)  # type: ignore[operator]
            if {
                Compare.EQUAL: sign != 0,
                Compare.GREATER: sign <= 0,
                Compare.LESS: sign >= 0,
                Compare.NOT_EQUAL: sign == 0,
            }[compare.result]:
                return False
        return True

    def _check_puts(self, path: "Path") -> None:
        for op, nested in path.operations:
            if op.HasField("request_put"):
                self._check_key(op.request_put)
                self._check_lease(op.request_put)
            elif nested is not None:
                self._check_puts(nested)

    def _check_ranges(self, path: "Path") -> None:
        for op, nested in path.operations:
            if op.HasField("request_range"):
                revision = op.request_range.revision
                if revision and revision < self.compacted:
                    raise CompactedError
                if revision > self.revision:
                    raise FutureRevisionError
            elif nested is not None:
                self._check_ranges(nested)

    def _check_key(self, request: PutRequest) -> None:
        if (request.ignore_value or request.ignore_lease) and request.key not in self.live:
            raise KeyNotFoundError

    def _check_lease(self, request: PutRequest) -> None:
        if request.lease and request.lease not in self.leases:
            raise LeaseNotFoundError

    def _txn(self, path: "Path") -> TxnResponse:
        response = TxnResponse(succeeded=path.succeeded)
        for op, nested in path.operations:
            answer = ResponseOp()
            if nested is not None:
                answer.response_txn.CopyFrom(self._txn(nested))
                answer.response_txn.header.CopyFrom(ResponseHeader())
                response.responses.append(answer)
                continue
            if op.HasField("request_put"):
                answer.response_put.CopyFrom(self._put(op.request_put))
                inner = answer.response_put.header
            elif op.HasField("request_range"):
                answer.response_range.CopyFrom(self._range(op.request_range))
                inner = answer.response_range.header
            else:
                answer.response_delete_range.CopyFrom(self._delete(op.request_delete_range))
                inner = answer.response_delete_range.header
            inner.revision = self.revision + (self._made > 0)
            response.responses.append(answer)
        return response


def _within(keys: Iterable[bytes], start: bytes, end: bytes) -> list[bytes]:
    """The keys of a request's range, in order."""
    if not end:
        return [start] if start in keys else []
    return sorted(key for key in keys if key >= start and (end == b"\x00" or key < end))
