"""A cluster under load, with everything watched that it promises; and the check of it all.

A test makes faults while the load runs. What it asserts at the end is always the same: nothing
acknowledged is lost or done twice, the history is linearizable, watchers on every member saw every
change once, leases lived as long as promised, and all members have the same keys.
"""

from contextlib import suppress
from pathlib import Path
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

    def __init__(self, cluster: Cluster, seed: int, etcdctl: Path | None = None) -> None:
        """Watch all members; no load yet. `etcdctl` is to be one of the clients."""
        self._etcdctl = etcdctl
        self.cluster = cluster
        self.seed = seed
        self.random = Random(seed)
        self.history = History()
        self._logs: dict[Member, WatchLog] = {}
        self._left: list[WatchLog] = []
        """Logs of members that were removed."""
        self._holders = LeaseHolders(cluster, self._deleted_at, seed)
        self.workload: Workload | None = None
        self._loads = 0
        self._first = 1
        """The first revision that is not compacted."""
        self.watch()

    def watch(self) -> None:
        """Watch the members that are not watched yet, and no longer those that are removed."""
        for member in list(self._logs):
            if member not in self.cluster.members:
                log = self._logs.pop(member)
                log.stop()
                self._left.append(log)
        for member in self.cluster.members:
            if member not in self._logs:
                self._logs[member] = WatchLog(member, LEASES, PREFIX[:-1] + b"0", self._first)

    def load(self, value_bytes: int = 0) -> Workload:
        """Start the clients; wait until they write."""
        assert self.workload is None
        self._loads += 1
        self.workload = Workload(
            self.cluster,
            self.history,
            self.seed,
            str(self._loads),
            value_bytes=value_bytes,
            etcdctl=self._etcdctl,
        )
        self.workload.await_writes(20)
        return self.workload

    def settle(self) -> None:
        """End the load; wait until all members agree; check everything but leases."""
        assert self.workload is not None
        self.workload.await_writes(20)
        self.workload.stop()
        self.workload = None
        newest = self._write_last()
        for log in self._logs.values():
            log.await_revision(newest, CATCH_UP_SECONDS)
        check_logs(list(self._logs.values()), newest)
        await_agreement(self.cluster)
        check(self.history.record, self._written(newest), 1)
        self.history.check()

    def compact(self) -> None:
        """Compact all that every watcher was told of."""
        self._first = max(self._first, min(log.newest for log in self._logs.values()))
        request = rpc.CompactionRequest(revision=self._first, physical=True)
        with suppress(grpc.RpcError):  # done already, or its outcome is not known
            ask(self.random.choice(self.cluster.running), request, rpc.CompactionResponse, 10)

    def _written(self, newest: int) -> dict[int, frozenset[Change]]:
        """What the workload wrote, as all watchers together were told, those that have left too."""
        return {
            revision: changes
            for log in (*self._left, *self._logs.values())
            for revision, changes in log.between(1, newest).items()
            if all(key.startswith(PREFIX) for key, _ in changes)
        }

    def _deleted_at(self) -> dict[bytes, float]:
        """When each key was first told to be gone, on any member."""
        first: dict[bytes, float] = {}
        for log in (*self._logs.values(), *self._left):
            for key, at in log.deleted_at.copy().items():
                first[key] = min(at, first.get(key, at))
        return first

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
        if self.workload is not None:
            self.workload.stop()
        self._holders.stop()
        for log in self._logs.values():
            log.stop()
