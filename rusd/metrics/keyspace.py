"""The keyspace, its watchers and its leases."""

from rusd.metrics.family import Family, counter, gauge
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.watch import Watchers


def keyspace_families(keyspace: Keyspace, watchers: Watchers) -> list[Family]:
    """What the keyspace counts."""
    counters = keyspace.counters
    return [
        counter(
            "etcd_mvcc_put_total",
            "Total number of puts seen by this member.",
            lambda: counters.puts,
        ),
        counter(
            "etcd_mvcc_delete_total",
            "Total number of deletes seen by this member.",
            lambda: counters.deletes,
        ),
        counter(
            "etcd_mvcc_range_total",
            "Total number of ranges seen by this member.",
            lambda: counters.ranges,
        ),
        counter(
            "etcd_debugging_mvcc_range_total",
            "Total number of ranges seen by this member.",
            lambda: counters.ranges,
        ),
        counter(
            "etcd_mvcc_txn_total",
            "Total number of txns seen by this member.",
            lambda: counters.txns,
        ),
        gauge(
            "etcd_debugging_mvcc_keys_total",
            "Total number of keys.",
            lambda: len(keyspace),
        ),
        gauge(
            "etcd_debugging_mvcc_current_revision",
            "The current revision of store.",
            lambda: keyspace.revision,
        ),
        gauge(
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction in store.",
            lambda: keyspace.compacted,
        ),
        gauge(
            "etcd_debugging_mvcc_watcher_total",
            "Total number of watchers.",
            lambda: len(watchers),
        ),
    ]
