"""Clients that hold leases, keep them alive through any member, and let them go.

The promise that is checked: after an answer to a grant or a renewal, the lease lives at least its
TTL from the moment the request was sent; and a lease that nobody renews ends.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import grpc

from rusd.pb import rpc_pb2 as rpc
from tests.cluster.calls import Connection
from tests.members import Cluster, wait_for

PREFIX = b"l/"
TTL = 4
HOLDERS = 3
END_SECONDS = 45.0
"""An unrenewed lease ends after its TTL, an election, and the new leader's extension by the TTL."""


@dataclass
class Lease:
    """One lease with one key; times are of time.monotonic()."""

    key: bytes
    id: int
    promised_until: float
    renewals: int = 0
    fault: str = ""


class LeaseHolders:
    """Threads, each holding one lease after the other."""

    def __init__(
        self, cluster: Cluster, deleted_at: Callable[[], Mapping[bytes, float]], seed: int
    ) -> None:
        """Start the holders. `deleted_at` tells when (time.monotonic) a watcher first was told that
        a key is gone.
        """
        self._cluster = cluster
        self._deleted_at = deleted_at
        self._ended = threading.Event()
        self.leases: list[Lease] = []
        self._threads = [
            threading.Thread(
                target=self._run, args=(number, Random(f"{seed}/lease/{number}")), daemon=True
            )
            for number in range(HOLDERS)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let all leases go."""
        self._ended.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a lease holder got no answer and no error"

    def check(self) -> None:
        """Wait until all leases have ended; assert that none ended early."""
        wait_for(
            lambda: self._deleted_at().keys() >= {lease.key for lease in self.leases},
            END_SECONDS,
            "the end of all leases",
        )
        deleted = self._deleted_at()
        early = [
            f"lease {lease.id} of {TTL} s ended {lease.promised_until - deleted[lease.key]:.2f} s"
            f" early, after {lease.renewals} renewals"
            for lease in self.leases
            if deleted[lease.key] < lease.promised_until
        ]
        faults = [lease.fault for lease in self.leases if lease.fault]
        assert not early + faults, early + faults
        assert sum(lease.renewals for lease in self.leases), "no lease was ever renewed"

    def _run(self, number: int, random: Random) -> None:
        connections: dict[str, Connection] = {}

        def connection() -> Connection:
            member = random.choice(self._cluster.members)
            found = connections.get(member.name)
            if found is None or found.member is not member:
                found = connections[member.name] = Connection(member)
            return found

        count = 0
        try:
            while not self._ended.is_set():
                count += 1
                with suppress(grpc.RpcError):
                    self._hold(connection, b"%s%d/%d" % (PREFIX, number, count), random)
                self._ended.wait(random.uniform(0, 1))
        finally:
            for each in connections.values():
                each.close()

    def _hold(self, connection: Callable[[], Connection], key: bytes, random: Random) -> None:
        """Grant a lease, hang the key on it, renew it for a while through any member."""
        sent = time.monotonic()
        answer = connection().ask(rpc.LeaseGrantRequest(TTL=TTL), rpc.LeaseGrantResponse)
        assert answer.TTL == TTL
        connection().ask(rpc.PutRequest(key=key, lease=answer.ID), rpc.PutResponse)
        lease = Lease(key, answer.ID, sent + TTL)
        self.leases.append(lease)
        renewals = random.choice((0, 3, 30))
        while not self._ended.is_set() and renewals > 0:
            renewals -= 1
            self._ended.wait(random.uniform(0.2, TTL / 3))
            sent = time.monotonic()
            try:
                ttl = connection().keep_alive(lease.id, seconds=1.5)
            except grpc.RpcError:
                continue
            if ttl > 0:
                lease.promised_until = sent + ttl
                lease.renewals += 1
                continue
            if time.monotonic() < lease.promised_until:
                lease.fault = f"lease {lease.id} is said to be gone before its time"
            return
