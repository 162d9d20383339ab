"""Applies log entries to the keyspace, the leases and the membership.

Deterministic: what it does depends on the log alone, so every member that applies the same entries
has the same state. No clock and no randomness decides anything here.
"""

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, Final

from rusd.auth.errors import AuthError
from rusd.auth.store import AuthStore, Identity
from rusd.histogram import DISK_SECONDS, Histogram
from rusd.lease.lessor import Expiry, LeaseError, Lessor
from rusd.mvcc import guarded, txn
from rusd.mvcc.errors import CompactedError, FutureRevisionError, KeyspaceError
from rusd.mvcc.guarded import GuardedPut
from rusd.mvcc.keyspace import Applied, Keyspace
from rusd.mvcc.txn import Plan, Result
from rusd.node import authority
from rusd.node.alarms import AlarmError, Alarms, CorruptError
from rusd.node.authority import ADMIN_KINDS, Authority
from rusd.node.downgrade import Downgrade
from rusd.node.entry import MEMBER, Kind, decode, decode_identity
from rusd.node.membership import MemberChange, Membership, MembershipError, Rows
from rusd.node.rights import Rights
from rusd.pb import rpc_pb2
from rusd.pb.rpc_pb2 import (
    AlarmRequest,
    CompactionRequest,
    DowngradeInfo,
    LeaseCheckpointRequest,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseRevokeRequest,
    Member,
)
from rusd.raft.message import ConfState

REFUSALS: Final = (KeyspaceError, LeaseError, AlarmError, AuthError)
"""What a request may raise when it is applied: the request alone fails."""

PARSE: Final[dict[int, Callable[[bytes], Any]]] = {
    Kind.PUT: rpc_pb2.PutRequest.FromString,
    Kind.DELETE_RANGE: rpc_pb2.DeleteRangeRequest.FromString,
    Kind.TXN: lambda message: Plan(rpc_pb2.TxnRequest.FromString(message)),
    Kind.COMPACT: rpc_pb2.CompactionRequest.FromString,
    Kind.LEASE_GRANT: rpc_pb2.LeaseGrantRequest.FromString,
    Kind.LEASE_REVOKE: rpc_pb2.LeaseRevokeRequest.FromString,
    Kind.LEASE_CHECKPOINT: rpc_pb2.LeaseCheckpointRequest.FromString,
    Kind.ALARM: rpc_pb2.AlarmRequest.FromString,
    Kind.MEMBER: rpc_pb2.Member.FromString,
    Kind.LEASE_EXPIRE: Expiry.decode,
    Kind.DOWNGRADE: rpc_pb2.DowngradeInfo.FromString,
    **authority.PARSE,
}


Handler = Callable[[Any], Result]


class Applier:
    """What the log is applied to."""

    def __init__(
        self, keyspace: Keyspace, lessor: Lessor, membership: Membership, alarms: Alarms
    ) -> None:
        self.keyspace, self.lessor = keyspace, lessor
        self.membership, self.alarms = membership, alarms
        store = AuthStore.load(keyspace.tables.state)
        self.authority = Authority(store, keyspace)
        self.downgrade = Downgrade(keyspace.tables.state.get(Downgrade.ROW))
        self.rights = Rights(store, lessor)
        self.commits = Histogram(DISK_SECONDS)
        """Seconds that handing an entry's changes to the tables took."""
        self.caller: Identity | None = None
        """Who asks for the requests that follow, as the entry says; None is nobody."""
        self.on_compact: Callable[[], None] = lambda: None
        """Called when a compaction has something to sweep."""
        self.handlers: dict[int, Handler] = {
            Kind.PUT: partial(txn.put, keyspace),
            Kind.DELETE_RANGE: partial(txn.delete_range, keyspace),
            Kind.TXN: self._txn,
            Kind.COMPACT: self._compact,
            Kind.LEASE_GRANT: self._lease_grant,
            Kind.LEASE_REVOKE: self._lease_revoke,
            Kind.LEASE_CHECKPOINT: self._lease_checkpoint,
            Kind.ALARM: self._alarm,
            Kind.MEMBER: self._member,
            Kind.LEASE_EXPIRE: self._lease_expire,
            Kind.IDENTITY: self._identity,
            Kind.DOWNGRADE: self._downgrade,
            **self.authority.handlers,
        }
        self._unguarded = self.handlers.copy()
        self._checked = self._with_checks()
        self.rights.store.on_change.append(self._guard)
        self._guard()

    def take(self, keyspace: Keyspace, lessor: Lessor) -> None:
        """Takes, in place, the content of another keyspace and its leases: of a snapshot. What this
        one had is in `keyspace` afterwards.
        """
        self.keyspace.exchange(keyspace)
        self.lessor.take(lessor)
        state = self.keyspace.tables.state
        self.membership.reload(state)
        self.authority.reload(state)
        self.rights.forget()
        self.alarms = Alarms(state.get(Alarms.ROW))
        self.downgrade = Downgrade(state.get(Downgrade.ROW))
        self._guard()

    def replay(self, term: int, position: int, data: bytes) -> None:
        """Applies an entry whose callers are gone: after a restart."""
        done = self.keyspace.applied.requests
        for number, (kind, message) in enumerate(decode(data)):
            if kind == Kind.IDENTITY:
                self.caller = decode_identity(message)
                continue
            if number < done:
                continue
            self.at(position, number)
            try:
                self.handlers[kind](PARSE[kind](message))
            except REFUSALS:
                continue
        self.finish(term, position)

    def at(self, position: int, requests: int) -> None:
        """Notes that all before the entry at `position`, and this many of its requests, are
        applied.
        """
        self.keyspace.applied = Applied(self.keyspace.applied.term, position - 1, requests)

    def finish(self, term: int, position: int) -> None:
        """Notes that the entry is applied, and hands everything to the tables."""
        self.keyspace.applied = Applied(term, position)
        began = monotonic()
        self.keyspace.write()
        self.commits.observe(monotonic() - began)
        self.caller = None

    def _identity(self, identity: Identity | None) -> Result:
        self.caller = identity
        return self.keyspace.revision, b""

    def _txn(self, plan: Plan | GuardedPut) -> Result:
        if isinstance(plan, tuple):
            return guarded.apply(self.keyspace, plan)
        if plan.past:
            self.keyspace.write()
        return txn.txn(self.keyspace, plan)

    def _compact(self, request: CompactionRequest) -> Result:
        keyspace = self.keyspace
        if request.revision <= keyspace.compacted:
            raise CompactedError
        if request.revision > keyspace.revision:
            raise FutureRevisionError
        keyspace.compact(request.revision)
        self.on_compact()
        return keyspace.revision, b""

    def _lease_grant(self, request: LeaseGrantRequest) -> Result:
        self.lessor.grant(request.ID, request.TTL, self.keyspace.applied.position + 1)
        self._store_lease(request.ID)
        response = LeaseGrantResponse(ID=request.ID, TTL=request.TTL)
        return self.keyspace.revision, response.SerializeToString()

    def _lease_revoke(self, request: LeaseRevokeRequest) -> Result:
        return self._end_lease(request.ID, self.lessor.revoke(request.ID))

    def _lease_expire(self, expiry: Expiry) -> Result:
        return self._end_lease(expiry.lease, self.lessor.expire(expiry))

    def _end_lease(self, lease: int, keys: list[bytes]) -> Result:
        for key in keys:
            self.keyspace.delete(key)
        self._store_lease(lease)
        return self.keyspace.end(), b""

    def _lease_checkpoint(self, request: LeaseCheckpointRequest) -> Result:
        for checkpoint in request.checkpoints:
            self.lessor.checkpoint(checkpoint.ID, checkpoint.remaining_TTL)
            self._store_lease(checkpoint.ID)
        return self.keyspace.revision, b""

    def _store_lease(self, lease: int) -> None:
        self.keyspace.set_state(self.lessor.row_name(lease), self.lessor.row(lease))

    def _alarm(self, request: AlarmRequest) -> Result:
        raised = self.alarms.apply(request)
        self.keyspace.set_state(Alarms.ROW, self.alarms.row())
        self._guard()
        return self.keyspace.revision, raised

    def _downgrade(self, info: DowngradeInfo) -> Result:
        """Answers with the cluster's version of before, as etcd does."""
        answer = self.downgrade.answer
        self.keyspace.set_state(Downgrade.ROW, self.downgrade.apply(info))
        return self.keyspace.revision, answer

    def _with_checks(self) -> dict[int, Handler]:
        """Handlers of what needs a right. A member may do what it does by itself: what else it
        proposes is no client's to ask for.
        """
        rights = self.rights

        def revoke(caller: Identity | None, request: LeaseRevokeRequest) -> None:
            rights.lease(caller, request.ID)

        def user(caller: Identity | None, _: Any) -> None:
            rights.user(caller)

        def admin(caller: Identity | None, _: Any) -> None:
            if caller is not MEMBER:
                rights.admin(caller)

        checks: dict[int, Callable[[Identity | None, Any], None]] = {
            Kind.PUT: rights.put,
            Kind.DELETE_RANGE: rights.delete_range,
            Kind.TXN: rights.txn,
            Kind.COMPACT: admin,
            Kind.LEASE_GRANT: user,
            Kind.LEASE_REVOKE: revoke,
            Kind.ALARM: admin,
            Kind.DOWNGRADE: admin,
            **dict.fromkeys(ADMIN_KINDS, admin),
        }
        return {kind: self._after(check, self._unguarded[kind]) for kind, check in checks.items()}

    def _after(self, check: Callable[[Identity | None, Any], None], handle: Handler) -> Handler:
        def checked(request: Any) -> Result:
            check(self.caller, request)
            return handle(request)

        return checked

    def _guard(self) -> None:
        """Puts checks before what needs a right while auth is on, and a refusal in place of what
        the alarms forbid: nothing is checked in normal times, and every member refuses the same
        requests. As in etcd since 3.6, alarms are told to whoever asks, and take no check away.
        """
        self.handlers.update(self._unguarded)
        if self.rights.store.enabled:
            self.handlers.update(self._checked)
        refusal = self.alarms.refusal
        if refusal is None:
            return

        def refuse(_: Any) -> Result:
            raise refusal

        if refusal is CorruptError:
            for kind in _CHANGES:
                self.handlers[kind] = refuse
        else:
            self.handlers[Kind.PUT] = self.handlers[Kind.LEASE_GRANT] = refuse
            allowed = self.handlers[Kind.TXN]
            self.handlers[Kind.TXN] = lambda plan: refuse(plan) if _adds(plan) else allowed(plan)

    def change_members(self, change: MemberChange) -> MembershipError | None:
        """Changes the members; returns why not, where the members as they are do not allow it."""
        try:
            self._store(self.membership.apply(change))
        except MembershipError as refusal:
            return refusal
        return None

    def set_conf_state(self, conf_state: ConfState) -> None:
        """Notes the configuration that Raft has now."""
        self._store(self.membership.set_conf_state(conf_state))

    def _store(self, rows: Rows) -> None:
        for name, row in rows:
            self.keyspace.set_state(name, row)

    def _member(self, request: Member) -> Result:
        self._store(self.membership.publish(request))
        return self.keyspace.revision, b""


_CHANGES: Final = (
    Kind.PUT,
    Kind.DELETE_RANGE,
    Kind.TXN,
    Kind.COMPACT,
    Kind.LEASE_GRANT,
    Kind.LEASE_REVOKE,
    Kind.LEASE_EXPIRE,
)


def _adds(plan: Plan | GuardedPut) -> bool:
    """Whether a transaction may put something, whichever branches are taken."""
    return isinstance(plan, tuple) or any(
        kind == txn.PUT or (kind == txn.TXN and _adds(request))
        for kind, request in (*plan.success, *plan.failure)
    )
