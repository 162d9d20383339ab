"""The log, the database and its backups."""

from collections.abc import Callable
from typing import Final

from rusd.api.maintenance import Maintenance
from rusd.api.snapshot import Snapshot
from rusd.metrics.family import Family, Reading, gauge, histogram
from rusd.node.apply import Applier
from rusd.storage.engine import Engine
from rusd.storage.wal import Wal

_PROPERTIES: Final = {
    "rocksdb.estimate-num-keys": ("rusd_rocksdb_keys", "Rows, about."),
    "rocksdb.total-sst-files-size": ("rusd_rocksdb_file_bytes", "Bytes of table files."),
    "rocksdb.cur-size-all-mem-tables": (
        "rusd_rocksdb_memtable_bytes",
        "Bytes of what is not in table files yet.",
    ),
    "rocksdb.estimate-table-readers-mem": (
        "rusd_rocksdb_table_reader_bytes",
        "Memory of open table files, beside the block cache.",
    ),
    "rocksdb.estimate-pending-compaction-bytes": (
        "rusd_rocksdb_pending_compaction_bytes",
        "Bytes that are to be rewritten.",
    ),
    "rocksdb.num-files-at-level0": (
        "rusd_rocksdb_level0_files",
        "Files that wait to be merged; writes are slowed down from 40 on.",
    ),
    "rocksdb.num-immutable-mem-table": (
        "rusd_rocksdb_immutable_memtables",
        "Tables in memory that wait to be flushed.",
    ),
}
"""By family of columns."""

_OF_ALL: Final = {
    "rocksdb.block-cache-usage": ("rusd_rocksdb_block_cache_bytes", "Bytes in the block cache."),
    "rocksdb.num-running-flushes": ("rusd_rocksdb_running_flushes", "Flushes under way."),
    "rocksdb.num-running-compactions": (
        "rusd_rocksdb_running_compactions",
        "Compactions of the database under way.",
    ),
    "rocksdb.actual-delayed-write-rate": (
        "rusd_rocksdb_delayed_write_rate_bytes",
        "Bytes a second that writes are held to; 0 when they are not.",
    ),
    "rocksdb.is-write-stopped": ("rusd_rocksdb_write_stopped", "Whether writes have to wait."),
    "rocksdb.background-errors": ("rusd_rocksdb_background_errors", "Errors in the background."),
}
"""Of the whole database."""


def disk_families(
    wal: Wal, engine: Engine, applier: Applier, maintenance: Maintenance, snapshot: Snapshot
) -> list[Family]:
    """What is on disk, and what it took to bring it there."""
    return [
        histogram(
            "etcd_disk_wal_fsync_duration_seconds",
            "Time to write and sync what was added to the log at once.",
            lambda: wal.syncs,
        ),
        gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log.", lambda: wal.written),
        gauge("rusd_log_segments", "Files of the log.", lambda: wal.segments),
        histogram(
            "etcd_disk_backend_commit_duration_seconds",
            "Time to hand the changes of an entry to the database.",
            lambda: applier.commits,
        ),
        histogram(
            "etcd_disk_backend_defrag_duration_seconds",
            "Time of a defragmentation.",
            lambda: maintenance.defragmentations,
        ),
        gauge(
            "etcd_disk_defrag_inflight",
            "Whether a defragmentation is under way: 1, or 0.",
            lambda: maintenance.defragments,
        ),
        histogram(
            "etcd_disk_backend_snapshot_duration_seconds",
            "Time to make a backup and to send it.",
            lambda: snapshot.durations,
        ),
        gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the database.", engine.size),
        gauge(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Bytes that would be left after a defragmentation, about.",
            engine.size_in_use,
        ),
        *(
            gauge(name, text, _by_table(engine, key), ("table",))
            for key, (name, text) in _PROPERTIES.items()
        ),
        *(gauge(name, text, _of_all(engine, key)) for key, (name, text) in _OF_ALL.items()),
    ]


def _by_table(engine: Engine, key: str) -> Callable[[], Reading]:
    def read() -> Reading:
        tables = engine.tables  # another's, once a snapshot has come
        by_name = {
            "state": tables.state,
            "latest": tables.latest,
            "events": tables.events,
            "history": tables.history,
        }
        return {(name,): table.property_int_value(key) or 0 for name, table in by_name.items()}

    return read


def _of_all(engine: Engine, key: str) -> Callable[[], Reading]:
    return lambda: engine.tables.state.property_int_value(key) or 0
