"""The leases of a cluster, as the log made them, and this member's clock for their expiry.

What the log decides (grants, revocations, checkpoints, attached keys) is the same on every member.
When a lease runs out is this member's view, on a monotonic clock; it only ever proposes a
revocation. After a restart a lease has at least the time left that it was last promised: the log
never promises less than clients were told.

A lease that has run out stays so: it cannot be renewed any more, for its revocation may be on its
way.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import ceil
from struct import Struct
from typing import Final, NamedTuple

from rusd.histogram import Histogram, exponential

_TTLS: Final = exponential(1, 2, 24)
_ROW: Final = Struct(">qqQ")
_EXPIRY: Final = Struct(">qQ")
MAX_TTL: Final = 9_000_000_000
"""Seconds; etcd's bound."""


class LeaseError(Exception):
    """A lease request that is refused; nothing has changed."""


class LeaseExistsError(LeaseError):
    """A grant of an id that a live lease has."""


class NoSuchLeaseError(LeaseError):
    """No live lease has the id."""


class Expiry(NamedTuple):
    """A request to revoke a lease because it has run out: it, and not another of its id that was
    granted since.
    """

    lease: int
    granted: int
    """Position of the log entry that granted it."""

    def encode(self) -> bytes:
        return _EXPIRY.pack(*self)

    @classmethod
    def decode(cls, message: bytes) -> "Expiry":
        return cls._make(_EXPIRY.unpack(message))


@dataclass(slots=True)
class Lease:
    """A live lease."""

    id: int
    ttl: int
    """Seconds, as granted."""
    granted: int
    """Position of the log entry that granted it."""
    remaining: int
    """Seconds left at the last checkpoint; `ttl` when it was never checkpointed or was renewed."""
    expires: float
    """When it runs out, on the lessor's clock."""
    queued: float = 0.0
    """Where its row is in the lessor's queue."""
    reductions: int = 0
    """Checkpoints below the full TTL that this member proposed and that are not applied yet."""
    keys: set[bytes] = field(default_factory=set)
    attached: int = 0
    """How often a key was added to `keys`."""

    @property
    def logged_in_full(self) -> bool:
        """Whether the log promises the full TTL, so that a renewal needs no entry."""
        return self.remaining == self.ttl and not self.reductions


class Lessor:
    """All leases. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._leases: dict[int, Lease] = {}
        self._queue: list[tuple[float, int]] = []
        """Heap of (not before, lease): a renewal moves a lease's expiry without moving its row.
        Only the row that `Lease.queued` names counts."""
        self.ttls = Histogram(_TTLS)
        """Seconds of the leases that were granted."""
        self.renewed = self.revoked = self.expiries = 0
        """Leases that were; those that ran out are revoked too."""

    def __contains__(self, lease: int) -> bool:
        return lease in self._leases

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def ids(self) -> list[int]:
        return list(self._leases)

    def get(self, lease: int) -> Lease:
        """A live lease. Raises NoSuchLeaseError."""
        try:
            return self._leases[lease]
        except KeyError:
            raise NoSuchLeaseError from None

    # What the log decides.

    def grant(self, lease: int, ttl: int, position: int) -> None:
        """Adds a lease of `ttl` seconds, at a position of the log. Raises LeaseExistsError."""
        if lease in self._leases:
            raise LeaseExistsError
        self.ttls.observe(ttl)
        self._add(lease, ttl, ttl, position)

    def revoke(self, lease: int) -> list[bytes]:
        """Removes a lease. Returns the keys that hung on it, sorted. Raises NoSuchLeaseError."""
        keys = sorted(self.get(lease).keys)
        del self._leases[lease]
        self.revoked += 1
        return keys

    def expire(self, expiry: Expiry) -> list[bytes]:
        """Removes a lease that has run out, as `revoke` does. Raises NoSuchLeaseError."""
        if self.get(expiry.lease).granted != expiry.granted:
            raise NoSuchLeaseError
        keys = self.revoke(expiry.lease)
        self.expiries += 1
        return keys

    def checkpoint(self, lease: int, remaining: int) -> None:
        """Notes how many seconds a lease has left; 0 stands for all. Unknown leases are skipped."""
        found = self._leases.get(lease)
        if found is not None:
            found.remaining = remaining or found.ttl
            if remaining and found.reductions:
                found.reductions -= 1

    def attach(self, lease: int, key: bytes) -> None:
        found = self._leases[lease]
        if key not in found.keys:
            found.keys.add(key)
            found.attached += 1

    def detach(self, lease: int, key: bytes) -> None:
        found = self._leases.get(lease)
        if found is not None:
            found.keys.discard(key)

    # Rows that keep leases over a restart.

    @staticmethod
    def row_name(lease: int) -> bytes:
        return ROW_PREFIX + lease.to_bytes(8, "big", signed=True)

    def row(self, lease: int) -> bytes | None:
        """What is stored of a lease; None when there is none."""
        found = self._leases.get(lease)
        return None if found is None else _ROW.pack(found.ttl, found.remaining, found.granted)

    def load(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Takes the leases from their rows; each has the time left that it was last promised."""
        for name, row in rows:
            lease = int.from_bytes(name[len(ROW_PREFIX) :], "big", signed=True)
            self._add(lease, *_ROW.unpack(row))

    def take(self, other: "Lessor") -> None:
        """Takes the other's leases in place of these. A lease that both have goes on for no shorter
        time than it had here.
        """
        known, self._leases = self._leases, other._leases
        now = self._now()
        for lease in self._leases.values():
            lease.expires = now + lease.remaining
            before = known.get(lease.id)
            if before is not None and before.granted == lease.granted:
                lease.expires = max(lease.expires, before.expires)
        self._rebuild()

    # This member's clock.

    def renew(self, lease: int) -> Lease:
        """Starts a lease's time anew. Raises NoSuchLeaseError, also when the lease has run out.

        The client may be told only when the log promises the full TTL: `Lease.logged_in_full`.
        """
        found = self.get(lease)
        now = self._now()
        if found.expires <= now:
            raise NoSuchLeaseError
        # Never earlier than it was: after `extend`, it may be later than a renewal makes it.
        found.expires = max(found.expires, now + found.ttl)
        self.renewed += 1
        return found

    def left(self, lease: Lease) -> float:
        """Seconds that a lease has left; negative when it has run out."""
        return lease.expires - self._now()

    def expired(self, limit: int) -> list[Expiry]:
        """Leases that have run out, after a look at up to `limit` that may have. Each is named
        again after a second, in case its revocation came to nothing.
        """
        now = self._now()
        queue = self._queue
        found: list[Expiry] = []
        while queue and queue[0][0] <= now and limit:
            limit -= 1
            due, lease = heappop(queue)
            live = self._leases.get(lease)
            if live is None or live.queued != due:
                continue
            if live.expires > now:
                self._enqueue(live, live.expires)
            else:
                self._enqueue(live, now + _AGAIN)
                found.append(Expiry(lease, live.granted))
        return found

    def behind(self) -> bool:
        """Whether `expired` has more to look at now."""
        return bool(self._queue) and self._queue[0][0] <= self._now()

    def reduction(self, lease: Lease) -> int:
        """The seconds that a lease has left, rounded up, when they are fewer than the log promises;
        otherwise 0.
        """
        left = max(1, ceil(self.left(lease)))
        return left if left < lease.remaining else 0

    def worth_a_checkpoint(self, lease: Lease) -> bool:
        """Whether a lease has lost half of what the log promises, or five minutes.

        A lease that is renewed in good time never has, so that its renewals stay out of the log.
        """
        left = self.left(lease)
        lost = lease.remaining - left
        much = lost >= _LEAST_LOSS and (lost >= left or lost >= _LARGE_LOSS)
        return much and left > 0 and not lease.reductions

    def extend(self, seconds: float) -> None:
        """Gives every lease the time that the log promises, from now on, and `seconds` more: after
        a restart, or when this member becomes the leader and cannot know which were renewed.
        """
        now = self._now()
        for lease in self._leases.values():
            lease.expires = now + lease.remaining + seconds
            lease.reductions = 0
        self._rebuild()

    def _add(self, lease: int, ttl: int, remaining: int, granted: int) -> None:
        added = Lease(lease, ttl, granted, remaining, self._now() + remaining)
        self._leases[lease] = added
        self._enqueue(added, added.expires)
        # Rows of leases that were revoked early pile up otherwise.
        if len(self._queue) > 2 * len(self._leases) + _LEAST_QUEUE:
            self._rebuild()

    def _enqueue(self, lease: Lease, due: float) -> None:
        lease.queued = due
        heappush(self._queue, (due, lease.id))

    def _rebuild(self) -> None:
        for lease in self._leases.values():
            lease.queued = lease.expires
        self._queue = [(lease.expires, lease.id) for lease in self._leases.values()]
        heapify(self._queue)


_AGAIN: Final = 1.0
_LEAST_LOSS: Final = 5.0
_LARGE_LOSS: Final = 300.0
_LEAST_QUEUE: Final = 64
ROW_PREFIX: Final = b"lease/"
