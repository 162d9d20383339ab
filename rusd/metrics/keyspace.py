"""The keyspace, its watchers, its leases, and what tends it."""

from rusd.api.maintenance import Maintenance
from rusd.api.watch import Watch
from rusd.lease.lessor import Lessor
from rusd.metrics.family import Family, counter, gauge, histogram
from rusd.mvcc.watch import Watchers
from rusd.node.apply import Applier
from rusd.node.compactor import Compactor


def keyspace_families(
    applier: Applier,
    watchers: Watchers,
    watch: Watch,
    lessor: Lessor,
    compactor: Compactor,
    maintenance: Maintenance,
) -> list[Family]:
    """What is counted of keys and of what hangs on them."""
    keyspace, counters = applier.keyspace, applier.keyspace.counters
    return [
        counter("etcd_mvcc_put_total", "Keys that were put.", lambda: counters.puts),
        counter("etcd_mvcc_delete_total", "Keys that were deleted.", lambda: counters.deletes),
        counter("etcd_mvcc_range_total", "Ranges that were read.", lambda: counters.ranges),
        counter(
            "etcd_debugging_mvcc_range_total",
            "Ranges that were read; the older name.",
            lambda: counters.ranges,
        ),
        counter("etcd_mvcc_txn_total", "Transactions that were applied.", lambda: counters.txns),
        gauge("etcd_debugging_mvcc_keys_total", "Live keys.", lambda: len(keyspace)),
        gauge(
            "etcd_debugging_mvcc_current_revision",
            "The keyspace's revision.",
            lambda: keyspace.revision,
        ),
        gauge(
            "etcd_debugging_auth_revision",
            "The revision of users and roles.",
            lambda: applier.rights.store.revision,
        ),
        histogram(
            "etcd_mvcc_hash_duration_seconds",
            "Time to hash the latest revision.",
            lambda: maintenance.hashes,
        ),
        histogram(
            "etcd_mvcc_hash_rev_duration_seconds",
            "Time to hash a revision.",
            lambda: maintenance.hashes_at,
        ),
        *_watching(watchers, watch),
        *_leases(lessor),
        *_compaction(applier, compactor),
    ]


def _watching(watchers: Watchers, watch: Watch) -> list[Family]:
    return [
        gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", lambda: len(watchers)),
        gauge(
            "etcd_debugging_mvcc_slow_watcher_total",
            "Watchers that have not seen all there is.",
            lambda: watchers.lagging,
        ),
        gauge(
            "etcd_debugging_mvcc_watch_stream_total",
            "Streams of watchers.",
            lambda: len(watch.streams),
        ),
        counter(
            "etcd_debugging_mvcc_events_total",
            "Events that were sent, to each of their watchers.",
            lambda: watchers.delivered,
        ),
    ]


def _leases(lessor: Lessor) -> list[Family]:
    return [
        counter(
            "etcd_debugging_lease_granted_total",
            "Leases that were granted.",
            lambda: sum(lessor.ttls.counts),
        ),
        counter(
            "etcd_debugging_lease_revoked_total",
            "Leases that ended, revoked or expired.",
            lambda: lessor.revoked,
        ),
        counter(
            "etcd_debugging_lease_renewed_total",
            "Renewals of leases, which the leader does.",
            lambda: lessor.renewed,
        ),
        counter(
            "etcd_debugging_server_lease_expired_total",
            "Leases that ran out.",
            lambda: lessor.expiries,
        ),
        histogram(
            "etcd_debugging_lease_ttl_total",
            "Seconds for which leases were granted.",
            lambda: lessor.ttls,
        ),
        gauge("rusd_leases", "Live leases.", lambda: len(lessor)),
    ]


def _compaction(applier: Applier, compactor: Compactor) -> list[Family]:
    keyspace, counters = applier.keyspace, applier.keyspace.counters
    return [
        gauge(
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction, -1 for none.",
            lambda: keyspace.compacted,
        ),
        gauge(
            "etcd_debugging_mvcc_db_compaction_last",
            "When the last compaction since the start was done, in seconds since the epoch.",
            lambda: compactor.finished_at,
        ),
        counter(
            "etcd_debugging_mvcc_db_compaction_keys_total",
            "Changes of keys that compactions have looked at.",
            lambda: counters.swept,
        ),
        histogram(
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Time of a compaction, pauses and all.",
            lambda: compactor.durations,
        ),
        histogram(
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "Time that a step of a compaction held up other work.",
            lambda: compactor.slices,
        ),
    ]
