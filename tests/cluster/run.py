"""A cluster under load, with everything watched that it promises; and the check of it all.

A test makes faults while the load runs. What it asserts at the end is always the same: nothing
acknowledged is lost or done twice, the history is linearizable, watchers on every member saw every
change once, leases lived as long as promised, and all members have the same keys.
"""

from contextlib import suppress
from random import Random

import grpc

from rusd.pb import rpc_pb2 as rpc
from tests.cluster.calls import ask, await_agreement
from tests.cluster.lease_holders import PREFIX as LEASES
from tests.cluster.lease_holders import LeaseHolders
from tests.cluster.load import Change, check
from tests.cluster.watch_log import WatchLog, check_logs
from tests.cluster.workload import PREFIX, History, Workload
from tests.members import Cluster, Member, wait_for

CATCH_UP_SECONDS = 60.0


class Run:
    """Workloads, one after the other, on one cluster with its watchers and lease holders."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        """Watch all members; no load yet."""
        self.cluster = cluster
        self.seed = seed
        self.random = Random(seed)
        self.history = History()
        self._logs: dict[Member, WatchLog] = {}
        self._lease_log = WatchLog(cluster.members[0], LEASES)
        self._holders = LeaseHolders(cluster, self._lease_log, seed)
        self._workload: Workload | None = None
        self._loads = 0
        self.watch()

    def watch(self) -> None:
        """Watch the members that are not watched yet, and no longer those that are removed."""
        for member in list(self._logs):
            if member not in self.cluster.members:
                self._logs.pop(member).stop()
        for member in self.cluster.members:
            if member not in self._logs:
                self._logs[member] = WatchLog(member, PREFIX)

    def load(self, value_bytes: int = 0) -> Workload:
        """Start the clients; wait until they write."""
        assert self._workload is None
        self._loads += 1
        self._workload = Workload(
            self.cluster, self.history, self.seed, str(self._loads), value_bytes=value_bytes
        )
        self._workload.await_writes(20)
        return self._workload

    def settle(self) -> None:
        """End the load; wait until all members agree; check everything but leases."""
        assert self._workload is not None
        self._workload.await_writes(20)
        self._workload.stop()
        self._workload = None
        newest = self._write_last()
        await_agreement(self.cluster)
        for log in self._logs.values():
            log.await_revision(newest, CATCH_UP_SECONDS)
        check_logs(list(self._logs.values()), newest)
        told = min(self._logs.values(), key=lambda log: log.start)
        check(self.history.record, told.revisions, 1)
        self.history.check()

    def _write_last(self) -> int:
        """Put a key; return the revision. What comes after it was asked for before, and is late."""
        changes: frozenset[Change] = frozenset({(PREFIX + b"last", b"%d" % self._loads)})
        revisions: list[int] = []

        def written() -> bool:
            member = self.random.choice(self.cluster.running)
            self.history.record.attempt(changes)
            request = rpc.PutRequest(key=PREFIX + b"last", value=b"%d" % self._loads)
            with suppress(grpc.RpcError):
                revisions.append(ask(member, request, rpc.PutResponse).header.revision)
            return bool(revisions)

        wait_for(written, CATCH_UP_SECONDS, "the last write")
        self.history.record.acknowledge(revisions[0], changes)
        return revisions[0]

    def finish(self) -> None:
        """Let the leases go, and check them."""
        self._holders.stop()
        self._holders.check()
        print(
            f"{self.history}; {len(self._holders.leases)} leases,"
            f" {sum(log.resumes for log in self._logs.values())} watches resumed;"
            f" errors: {self.history.errors}"
        )

    def close(self) -> None:
        """End all threads, whatever state they are in."""
        if self._workload is not None:
            self._workload.stop()
        self._holders.stop()
        for log in (*self._logs.values(), self._lease_log):
            log.stop()
