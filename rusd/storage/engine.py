"""Opens and tends the keyspace's RocksDB database.

It has no write-ahead log of its own: what is not flushed is rebuilt from the Raft log. Its column
families flush together, so that after a crash they show one moment.
"""

from pathlib import Path
from typing import Final

from rocksdict import (
    BlockBasedOptions,
    Cache,
    Checkpoint,
    CompactOptions,
    DBCompressionType,
    Env,
    Options,
    Rdict,
)

from rusd.mvcc.tables import EVENTS, HISTORY, LATEST, Tables

_MIB: Final = 1 << 20
_BLOCK_CACHE: Final = 32 * _MIB
_MEMTABLE: Final = 32 * _MIB
_DIRECTORY: Final = "keyspace"
_LAST: Final = b"\xff" * 16
"""After all rows of the state table."""
_ERRORS: Final = "rocksdb.background-errors"


class Engine:
    """The database of one member, under `directory`/keyspace.

    Raises OSError, with the database's own words, when it cannot be opened.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / _DIRECTORY
        self.path.mkdir(parents=True, exist_ok=True)
        cache = Cache(_BLOCK_CACHE)
        options = _options(cache)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        # One moment for all families after a crash: see the module's docstring.
        options.set_atomic_flush(True)
        options.set_max_background_jobs(2)
        options.set_env(_modest_threads())
        options.set_bytes_per_sync(_MIB)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(8 * _MIB)
        options.set_stats_dump_period_sec(0)
        options.set_max_open_files(512)
        families = {name: _options(cache) for name in (LATEST, EVENTS, HISTORY)}
        try:
            self._db = Rdict(str(self.path), options, families)
        except Exception as error:  # rocksdict has no class of its own for it
            raise OSError(f"the database in {self.path} cannot be opened: {error}") from error
        self.tables = Tables.of(self._db)
        self._beside_others = CompactOptions()
        self._beside_others.set_exclusive_manual_compaction(False)

    def flush(self) -> None:
        """Writes all memtables to disk, those of all families as of one moment.

        Blocks; releases the GIL; for a worker thread. Raises OSError when it may not all be on
        disk; that stays so until the database is opened anew.
        """
        # `Rdict.flush` writes one family alone, and a checkpoint, which writes all, holds the GIL.
        # Before RocksDB compacts a range it flushes as `atomic_flush` says; this range is empty.
        self._db.compact_range(_LAST, None, self._beside_others)
        # That reports no error. One of an earlier flush counts: it may be why nothing was flushed.
        if self._db.property_int_value(_ERRORS):
            raise OSError(f"the database in {self.path} could not be flushed")

    def compact(self) -> None:
        """Rewrites the whole database without what is deleted. Blocks; for a worker thread."""
        for table in self._all():
            table.compact_range(None, None)

    def checkpoint(self, path: Path) -> None:
        """Makes a copy of the database at `path`, which must not exist, of hard links."""
        Checkpoint(self._db).create_checkpoint(str(path))

    def size(self) -> int:
        """Bytes of all files and memtables."""
        return self._sum("rocksdb.total-sst-files-size") + self._sum(
            "rocksdb.cur-size-all-mem-tables"
        )

    def size_in_use(self) -> int:
        """An estimate, in bytes, of what would be left after `compact`."""
        return min(
            self.size(),
            self._sum("rocksdb.estimate-live-data-size")
            + self._sum("rocksdb.cur-size-all-mem-tables"),
        )

    def close(self) -> None:
        """Closes without a flush. Iterators and snapshots must be gone, or files stay open."""
        for table in self._all():
            table.close()

    def _sum(self, name: str) -> int:
        return sum(table.property_int_value(name) or 0 for table in self._all())

    def _all(self) -> tuple[Rdict, ...]:
        tables = self.tables
        return tables.state, tables.latest, tables.events, tables.history


def _modest_threads() -> Env:
    """Background threads that give way to the event loop and to the log's syncs."""
    env = Env()
    env.lower_thread_pool_cpu_priority()
    env.lower_thread_pool_io_priority()
    env.lower_high_priority_thread_pool_cpu_priority()
    env.lower_high_priority_thread_pool_io_priority()
    return env


def _options(cache: Cache) -> Options:
    options = Options(raw_mode=True)
    options.set_write_buffer_size(_MEMTABLE)
    options.set_max_write_buffer_number(4)
    options.set_target_file_size_base(32 * _MIB)
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(80)
    options.set_compression_type(DBCompressionType.lz4())
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_block_size(8 * 1024)
    blocks.set_bloom_filter(10, False)
    blocks.set_format_version(5)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
    options.set_block_based_table_factory(blocks)
    return options
