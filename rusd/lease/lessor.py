"""The leases of a cluster, as the log made them, and this member's clock for their expiry.

What the log decides (grants, revocations, checkpoints, attached keys) is the same on every member.
When a lease runs out is this member's view, on a monotonic clock; it only ever proposes a
revocation. After a restart a lease has at least the time left that it was last promised.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from struct import Struct
from typing import Final

_ROW: Final = Struct(">qq")
MAX_TTL: Final = 9_000_000_000
"""Seconds; etcd's bound."""


class LeaseError(Exception):
    """A lease request that is refused; nothing has changed."""


class LeaseExistsError(LeaseError):
    """A grant of an id that a live lease has."""


class NoSuchLeaseError(LeaseError):
    """No live lease has the id."""


@dataclass(slots=True)
class Lease:
    """A live lease."""

    id: int
    ttl: int
    """Seconds, as granted."""
    remaining: int
    """Seconds left at the last checkpoint; `ttl` when it was never checkpointed or was renewed."""
    expires: float
    """When it runs out, on the lessor's clock."""
    keys: set[bytes] = field(default_factory=set)


class Lessor:
    """All leases. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._leases: dict[int, Lease] = {}
        self._queue: list[tuple[float, int]] = []
        """Heap of (not before, lease): a renewal moves a lease's expiry without moving its row."""

    def __contains__(self, lease: int) -> bool:
        return lease in self._leases

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> "Iterable[Lease]":
        return iter(self._leases.values())

    def get(self, lease: int) -> Lease:
        """A live lease. Raises NoSuchLeaseError."""
        try:
            return self._leases[lease]
        except KeyError:
            raise NoSuchLeaseError from None

    # What the log decides.

    def grant(self, lease: int, ttl: int) -> None:
        """Adds a lease of `ttl` seconds. Raises LeaseExistsError."""
        if lease in self._leases:
            raise LeaseExistsError
        self._add(lease, ttl, ttl)

    def revoke(self, lease: int) -> list[bytes]:
        """Removes a lease. Returns the keys that hung on it, sorted. Raises NoSuchLeaseError."""
        keys = sorted(self.get(lease).keys)
        del self._leases[lease]
        return keys

    def checkpoint(self, lease: int, remaining: int) -> None:
        """Notes how many seconds a lease has left; 0 stands for all. Unknown leases are skipped."""
        found = self._leases.get(lease)
        if found is not None:
            found.remaining = remaining or found.ttl

    def attach(self, lease: int, key: bytes) -> None:
        self._leases[lease].keys.add(key)

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
        return None if found is None else _ROW.pack(found.ttl, found.remaining)

    def load(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Takes the leases from their rows; each has the time left that it was last promised."""
        for name, row in rows:
            ttl, remaining = _ROW.unpack(row)
            lease = int.from_bytes(name[len(ROW_PREFIX) :], "big", signed=True)
            self._add(lease, ttl, remaining)

    # This member's clock.

    def renew(self, lease: int) -> int:
        """Starts a lease's time anew. Returns its TTL. Raises NoSuchLeaseError."""
        found = self.get(lease)
        found.expires = self._now() + found.ttl
        return found.ttl

    def left(self, lease: Lease) -> float:
        """Seconds that a lease has left; negative when it has run out."""
        return lease.expires - self._now()

    def expired(self, limit: int) -> list[int]:
        """Up to `limit` leases that have run out. Each is named again after a second, in case its
        revocation came to nothing.
        """
        now = self._now()
        found: list[int] = []
        while self._queue and self._queue[0][0] <= now and len(found) < limit:
            _, lease = heappop(self._queue)
            live = self._leases.get(lease)
            if live is None:
                continue
            if live.expires > now:
                heappush(self._queue, (live.expires, lease))
            else:
                heappush(self._queue, (now + 1.0, lease))
                found.append(lease)
        return found

    def extend(self, seconds: float) -> None:
        """Gives every lease its remaining time from now, and `seconds` more (a new leader cannot
        know which were renewed).
        """
        now = self._now()
        for lease in self._leases.values():
            lease.expires = max(lease.expires, now + lease.remaining + seconds)
        self._queue = [(lease.expires, lease.id) for lease in self._leases.values()]
        heapify(self._queue)

    def _add(self, lease: int, ttl: int, remaining: int) -> None:
        expires = self._now() + remaining
        self._leases[lease] = Lease(lease, ttl, remaining, expires)
        heappush(self._queue, (expires, lease))


ROW_PREFIX: Final = b"lease/"
