"""What rights a request needs: to keys, to all keys that hang on a lease, or root's.

Used where a write is applied, on every member alike, and where a read is answered, only while auth
is on.
"""

from collections.abc import Generator, Iterable
from typing import Final, Protocol

from rusd.auth.errors import AuthOldRevisionError, PermissionDeniedError, UserEmptyError
from rusd.auth.store import Access, AuthStore, Identity
from rusd.lease.lessor import Lease, Lessor
from rusd.mvcc.guarded import GuardedPut
from rusd.mvcc.txn import DELETE_RANGE, PUT, RANGE, TXN, Operation, Plan
from rusd.pb.rpc_pb2 import DeleteRangeRequest, PutRequest

_SLICE: Final = 2000
"""Keys checked in a slice: about two milliseconds."""

_MOST_WRITABLE: Final = 10_000
"""Leases and users of which it is known that all keys may be written."""

READ, WRITE = Access.READ, Access.WRITE


class Span(Protocol):
    """What has a range: RangeRequest, DeleteRangeRequest, Compare, WatchCreateRequest."""

    @property
    def key(self) -> bytes: ...
    @property
    def range_end(self) -> bytes: ...


class Rights:
    """Checks requests against the users and roles as they are applied here.

    Every check returns, or raises the AuthError that etcd has for it.
    """

    def __init__(self, store: AuthStore, lessor: Lessor) -> None:
        self.store, self._lessor = store, lessor
        self._writable: dict[tuple[int, int, str], _Writable] = {}
        """By lease, position of its grant, and user."""

    def user(self, identity: Identity | None) -> None:
        """Somebody has to ask, it does not matter who. As in etcd, what was true of the user when
        the token was made does not count, but the user has to be there.
        """
        if identity is None:
            raise UserEmptyError
        if self.store.find(identity.user) is None:
            raise PermissionDeniedError

    def admin(self, identity: Identity | None) -> None:
        """Only who has the role root may."""
        self.store.check_admin(identity)

    def range(self, identity: Identity | None, request: Span) -> None:
        """Reading a range needs the right to the whole of it."""
        self.store.check(identity, READ, request.key, request.range_end)

    def put(self, identity: Identity | None, request: PutRequest) -> None:
        """To read what was there needs the right to read it. What is attached to a lease goes when
        another key's owner lets it go: so only who may write all of its keys may add one.
        """
        check, key = self.store.check, request.key
        check(identity, WRITE, key, b"")
        if request.lease:
            self._attach(identity, request.lease, key)
        if request.prev_kv:
            check(identity, READ, key, b"")

    def delete_range(self, identity: Identity | None, request: DeleteRangeRequest) -> None:
        self.store.check(identity, WRITE, request.key, request.range_end)
        if request.prev_kv:
            self.store.check(identity, READ, request.key, request.range_end)

    def txn(self, identity: Identity | None, plan: Plan | GuardedPut) -> None:
        """All compares and all operations of both branches, however deep, as if each came by
        itself: which branch is taken tells, too, what is there.
        """
        if isinstance(plan, tuple):
            self._guarded_put(identity, plan)
            return
        if not (plan.compares or plan.success or plan.failure):
            self._current(identity)
        for compare in plan.compares:
            self.range(identity, compare)
        for branch in (plan.success, plan.failure):
            for operation in branch:
                self._operation(identity, operation)

    def _current(self, identity: Identity | None) -> None:
        """What needs no right is everybody's, but for who is of an earlier revision: as in etcd."""
        if identity is not None and identity.revision < self.store.revision:
            raise AuthOldRevisionError

    def _operation(self, identity: Identity | None, operation: Operation) -> None:
        kind, request = operation
        if kind == RANGE:
            self.range(identity, request)
        elif kind == PUT:
            self.put(identity, request)
        elif kind == DELETE_RANGE:
            self.delete_range(identity, request)
        elif kind == TXN:
            self.txn(identity, request)

    def _guarded_put(self, identity: Identity | None, request: GuardedPut) -> None:
        guard, _, key, _, lease, read = request
        check = self.store.check
        check(identity, READ, guard, b"")
        check(identity, WRITE, key, b"")
        if lease:
            self._attach(identity, lease, key)
        if read and read != guard:
            check(identity, READ, read, b"")

    def forget(self) -> None:
        """What was found so far says nothing any more: the leases are those of a snapshot."""
        self._writable.clear()

    # Leases.

    def lease(self, identity: Identity | None, lease: int) -> None:
        """Whether a lease may be revoked or kept alive: by who may write all of its keys. A lease
        that does not exist is for others to tell. As in etcd, root may do everything with leases,
        of whatever revision it is.
        """
        self.user(identity)
        if lease in self._lessor and not self.store.is_root(identity):
            self._write_all(identity, self._lessor.get(lease))

    def shown(
        self, identity: Identity | None, keys: Iterable[Iterable[bytes]]
    ) -> Generator[None, None, None]:
        """Whether leases may be shown, each with its keys: to who may read all of these. Works in
        slices.
        """
        self.user(identity)
        if self.store.is_root(identity):
            return
        check, left = self.store.check, _SLICE
        for of_one in keys:
            left -= 1
            for key in of_one:
                check(identity, READ, key, b"")
                left -= 1
                if left <= 0:
                    left = _SLICE
                    yield

    def _attach(self, identity: Identity | None, lease: int, key: bytes) -> None:
        """Whether a key that its user may write may be attached to a lease, if there is one."""
        if lease in self._lessor:
            found = self._lessor.get(lease)
            known = self._write_all(identity, found)
            if key not in found.keys:
                known.coming.add(key)

    def _write_all(self, identity: Identity | None, lease: Lease) -> "_Writable":
        """Checks all keys of a lease, once: a lease of very many would cost as much for each that
        is added.
        """
        name = (lease.id, lease.granted, identity.user if identity is not None else "")
        known = self._writable.get(name)
        revision = self.store.revision
        # What is known of a user is not known of who was that user at an earlier revision.
        is_old = identity is None or identity.revision < revision
        if known is None or is_old or not known.holds(lease, revision):
            check = self.store.check
            for key in lease.keys:
                check(identity, WRITE, key, b"")
            if len(self._writable) >= _MOST_WRITABLE:
                self._writable.clear()
            known = self._writable[name] = _Writable(revision, lease.attached)
        return known


class _Writable:
    """All keys of a lease were found to be one user's to write."""

    __slots__ = ("attached", "coming", "revision")

    def __init__(self, revision: int, attached: int) -> None:
        self.revision, self.attached = revision, attached
        self.coming: set[bytes] = set()
        """Keys that the user may write, of requests that would attach them; some may have failed,
        and others may have attached other keys meanwhile."""

    def holds(self, lease: Lease, revision: int) -> bool:
        """Whether it is so still: what was attached since is just what was expected."""
        if self.revision != revision:
            return False
        if self.attached + len(self.coming) != lease.attached or not self.coming <= lease.keys:
            return self.attached == lease.attached
        self.attached = lease.attached
        self.coming.clear()
        return True
