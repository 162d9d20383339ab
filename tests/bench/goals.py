"""What is measured, and what rusd must reach: one row for each line of the benchmark's table."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Better = Literal["more", "less"]


@dataclass(frozen=True, slots=True)
class Ratio:
    """rusd is at least so many times as good as etcd; `strict` leaves out the equal."""

    least: float
    strict: bool = False

    def __str__(self) -> str:
        """As the table shows it."""
        return f"{'>' if self.strict else '≥'} {self.least:.1f}"


@dataclass(frozen=True, slots=True)
class Under:
    """rusd's figure is below a bound, in the row's unit, whatever etcd's is."""

    bound: float
    unit: str

    def __str__(self) -> str:
        """As the table shows it."""
        return f"< {self.bound:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class AtLeast:
    """rusd's figure reaches a bound, in the row's unit, whatever etcd's is."""

    bound: float
    unit: str

    def __str__(self) -> str:
        """As the table shows it."""
        return f"≥ {self.bound:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table; `combine` makes one of those of all rounds."""

    name: str
    work: str
    unit: str
    goal: Ratio | Under | AtLeast | None
    better: Better = "more"
    combine: Callable[[Sequence[float]], float] = statistics.median

    def ratio(self, etcd: float, rusd: float) -> float:
        """How many times as good rusd is: above 1, rusd is faster or smaller."""
        over, under = (rusd, etcd) if self.better == "more" else (etcd, rusd)
        return over / under if under else float("inf")

    def met(self, etcd: float | None, rusd: float) -> bool | None:
        """Whether the goal is reached; None where there is none, or nothing to compare with."""
        match self.goal:
            case Under(bound):
                return rusd < bound
            case AtLeast(bound):
                return rusd >= bound
            case Ratio(least, strict) if etcd is not None:
                ratio = self.ratio(etcd, rusd)
                return ratio > least if strict else ratio >= least
        return None


_PER_SECOND = "/s"

ONE_MEMBER: tuple[Row, ...] = (
    Row("put-serial", "Put, one request at a time", _PER_SECOND, Ratio(1.2)),
    Row("put-1", "Put, 1 connection", _PER_SECOND, Ratio(1.5)),
    Row("put-8", "Put, 8 connections", _PER_SECOND, Ratio(2.0)),
    Row("put-64", "Put, 64 connections", _PER_SECOND, Ratio(2.0)),
    Row("put-same-8", "Put of one and the same key (h2load), 8 connections", _PER_SECOND, None),
    Row("put-same-64", "Put of one and the same key (h2load), 64 connections", _PER_SECOND, None),
    Row("range-8", "Range of one key, linearizable, 8 connections", _PER_SECOND, Ratio(1.5)),
    Row("range-64", "Range of one key, linearizable, 64 connections", _PER_SECOND, Ratio(1.5)),
    Row("serial-8", "Range of one key, serializable, 8 connections", _PER_SECOND, Ratio(1.5)),
    Row("serial-64", "Range of one key, serializable, 64 connections", _PER_SECOND, Ratio(1.5)),
    Row("tls-put", "put-same-64 with TLS 1.3", _PER_SECOND, None),
    Row("tls-range", "range-64 with TLS 1.3", _PER_SECOND, None),
    Row(
        "txn-update-64",
        "Kubernetes' update: Txn (compare mod revision, put, else range), 64 connections",
        _PER_SECOND,
        Ratio(2.0),
    ),
    Row(
        "txn-create-64",
        "Kubernetes' create: the same Txn with mod revision 0, new keys, 64 connections",
        _PER_SECOND,
        Ratio(2.0),
    ),
    Row(
        "txn-conflict-64",
        "Kubernetes' conflict: the same Txn with an old mod revision, 64 connections",
        _PER_SECOND,
        None,
    ),
    Row("range-10k", "Range of 10,000 keys of 256 bytes", _PER_SECOND, Ratio(1.0)),
    Row("limit-500", "Range with limit 500 over 100,000 keys", _PER_SECOND, Ratio(3.0)),
    Row("count-only", "Range with count_only over 100,000 keys", _PER_SECOND, Ratio(10.0)),
    Row("watch-1", "Events delivered to 1 watcher", _PER_SECOND, Ratio(1.5)),
    Row("watch-100", "Events delivered to 100 watchers", _PER_SECOND, Ratio(1.2)),
    Row("watch-1000", "Events delivered to 1,000 watchers", _PER_SECOND, Ratio(1.0)),
    Row("delay-p50", "Put to event, 1,000 puts a second, p50", "ms", Ratio(1.0), "less"),
    Row("delay-p99", "Put to event, 1,000 puts a second, p99", "ms", Ratio(1.0), "less"),
    Row("lease-grant", "LeaseGrant, 64 connections", _PER_SECOND, Ratio(1.5)),
    Row("keep-alive", "LeaseKeepAlive on 100 streams", _PER_SECOND, Ratio(1.0)),
    Row("start-empty", "Start of an empty member to ready", "s", Ratio(1.0, True), "less"),
    Row("memory-idle", "Resident memory, idle", "MB", Under(60, "MB"), "less"),
    Row("memory-1m", "Resident memory after 1,000,000 puts", "MB", Ratio(1.0), "less"),
    Row("anon-1m", "of which not mapped files", "MB", None, "less"),
    Row("restart-1m", "Restart with 1,000,000 keys to ready", "s", Ratio(1.0, True), "less"),
    Row("worst-quiet", "Worst put at 1,000 puts a second", "ms", None, "less", max),
    Row(
        "worst-compact",
        "Worst put at 1,000 puts a second while 1,000,000 revisions are compacted",
        "ms",
        Under(20, "ms"),
        "less",
        max,
    ),
    Row(
        "worst-defrag",
        "Worst put at 1,000 puts a second during defragmentation",
        "ms",
        Under(20, "ms"),
        "less",
        max,
    ),
)

THREE_MEMBERS: tuple[Row, ...] = (
    Row("three-serial", "Put to the leader, one request at a time", _PER_SECOND, Ratio(1.0)),
    Row("three-8", "Put to the leader, 8 connections", _PER_SECOND, Ratio(2.0)),
    Row("three-64", "Put to the leader, 64 connections", _PER_SECOND, Ratio(2.0)),
    Row("three-follower-64", "Put to a follower, 64 connections", _PER_SECOND, Ratio(2.0)),
    Row(
        "three-range-64",
        "Range of one key, linearizable, to the leader, 64 connections",
        _PER_SECOND,
        Ratio(1.5),
    ),
    Row(
        "three-range-follower-64",
        "Range of one key, linearizable, to a follower, 64 connections",
        _PER_SECOND,
        Ratio(1.5),
    ),
    Row("catch-up", "A fresh follower catches up 1 GB", "s", Ratio(1.0), "less"),
    Row(
        "serving",
        "Puts to the leader, 8 connections, while a fresh follower catches up 1 GB: "
        "of those once it has",
        "%",
        AtLeast(90, "%"),
    ),
)

LARGE_STORE: tuple[Row, ...] = (
    Row("large-fill", "Puts of 10 KiB, 64 connections, until the store is full", "MB/s", None),
    Row("large-size", "Size that Status tells", "GB", None, "less"),
    Row("large-restart", "Restart of a cold member to ready", "s", None, "less"),
    Row("large-get", "Range of one cold key, p50", "ms", None, "less"),
    Row("large-get-1000", "Range of 1,000 cold keys in the middle, p50", "ms", None, "less"),
    Row("large-count", "Range with count_only over all keys, p50", "ms", None, "less"),
    Row("large-compact", "Compaction of a tenth, which was overwritten", "s", None, "less"),
    Row("large-defrag", "Defragmentation after it", "s", None, "less"),
    Row("large-freed", "Given back by both", "GB", None),
    Row("large-disk", "The data directory then, with the log", "GB", None, "less"),
    Row("large-backup", "Backup (Maintenance.Snapshot) to a client", "s", None, "less"),
    Row("large-backup-rate", "of which the client got", "MB/s", None),
    Row("large-backup-memory", "Peak resident memory during the backup", "MB", None, "less"),
    Row("large-backup-anon", "of which not mapped files", "MB", None, "less"),
    Row("large-backup-worst", "Worst put at 200 puts a second meanwhile", "ms", None, "less", max),
    Row("large-hash", "HashKV over all", "s", None, "less"),
    Row("large-catch-up", "A fresh learner catches up", "s", None, "less"),
)

ROWS = (*ONE_MEMBER, *THREE_MEMBERS, *LARGE_STORE)
BY_NAME = {row.name: row for row in ROWS}
