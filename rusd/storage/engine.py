"""Opens and tends the keyspace's RocksDB database.

It has no write-ahead log of its own: what is not flushed is rebuilt from the Raft log. Its column
families flush together, so that after a crash they show one moment.
"""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    CompactOptions,
    DBCompressionType,
    Env,
    IngestExternalFileOptions,
    Options,
    Rdict,
    SstFileWriter,
)

from rusd.mvcc.tables import EVENTS, HISTORY, LATEST, Tables
from rusd.storage.folders import CHECKPOINT, current, make_directory

_MIB: Final = 1 << 20
_BLOCK_CACHE: Final = 32 * _MIB
_MEMTABLE: Final = 32 * _MIB
_LAST: Final = b"\xff" * 16
"""After all rows of the state table."""
_ERRORS: Final = "rocksdb.background-errors"


class Engine:
    """The database of one member.

    Raises OSError, with the database's own words, when it cannot be opened.
    """

    def __init__(self, directory: Path, folder: Path | None = None) -> None:
        """Opens the keyspace in a member's directory, or the one in `folder`."""
        self.path = current(directory) if folder is None else folder
        make_directory(directory)
        make_directory(self.path)
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
        with _told(f"the database in {self.path} cannot be opened"):
            self._db = Rdict(str(self.path), options, families)
        self.tables = Tables.of(self._db)
        self._overcome: dict[Path, int | None] = {}
        """By database: how many errors it had when all was flushed after them."""
        self._beside_others = CompactOptions()
        self._beside_others.set_exclusive_manual_compaction(False)

    def flush(self) -> None:
        """Writes all memtables to disk, those of all families as of one moment.

        Blocks; releases the GIL; for a worker thread. Raises OSError when it may not all be on
        disk. Where the disk was full RocksDB goes on by itself, once it has room again.
        """
        # `Rdict.flush` writes one family alone, and a checkpoint, which writes all, holds the GIL.
        # Before RocksDB compacts a range it flushes as `atomic_flush` says; this range is empty.
        db, path = self._db, self.path
        errors = db.property_int_value(_ERRORS)
        db.compact_range(_LAST, None, self._beside_others)
        # That reports no error, and one of an earlier flush may be why nothing was flushed.
        if db.property_int_value(_ERRORS) != self._overcome.get(path, 0):
            self._flush_by_checkpoint(db, path)
            self._overcome[path] = errors

    def take(self, table: str, path: Path) -> None:
        """Moves a `SortedFile` into a table, where its rows replace others. Then it is on
        disk. Raises OSError.
        """
        options = IngestExternalFileOptions()
        options.set_move_files(True)
        with _told(f"{path} cannot be taken by the database"):
            self._db.get_column_family(table).ingest_external_file([str(path)], options)

    def _flush_by_checkpoint(self, db: Rdict, path: Path) -> None:
        """Flushes as a checkpoint does, which reports errors, and holds the GIL."""
        checkpoint = path.parent / f"{CHECKPOINT}-{secrets.token_hex(8)}"
        try:
            with _told(f"the database in {path} could not be flushed"):
                Checkpoint(db).create_checkpoint(str(checkpoint))
        finally:
            shutil.rmtree(checkpoint, ignore_errors=True)

    def compact(self) -> None:
        """Rewrites the whole database without what is deleted. Blocks; for a worker thread."""
        for table in self._all():
            table.compact_range(None, None)

    def checkpoint(self, path: Path) -> None:
        """Makes a copy of the database at `path`, which must not exist, of hard links.

        It flushes, and holds the GIL meanwhile: for about 5 ms right after `flush`. Raises OSError.
        """
        with _told(f"no checkpoint of the database in {self.path}"):
            Checkpoint(self._db).create_checkpoint(str(path))

    def exchange(self, other: "Engine") -> None:
        """Takes the other's database, and gives it this one's. What is under way on either goes on
        where it began.
        """
        self._db, other._db = other._db, self._db
        self.path, other.path = other.path, self.path
        self.tables, other.tables = other.tables, self.tables

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
        """Flushes and closes; where it cannot flush, leaves on disk what the last flush brought
        there. Iterators and snapshots must be gone, or files stay open.
        """
        # `Rdict.close` flushes its family, and only that: so nothing may be left to flush by then,
        # or families would show different moments after a crash or an error between two of them.
        try:
            self.flush()
        except OSError:
            self._db.cancel_all_background(wait=True)
        for table in self._all():
            with suppress(Exception):  # it is closed even where that flush fails
                table.close()

    def _sum(self, name: str) -> int:
        return sum(table.property_int_value(name) or 0 for table in self._all())

    def _all(self) -> tuple[Rdict, ...]:
        tables = self.tables
        return tables.state, tables.latest, tables.events, tables.history


class SortedFile:
    """A file of rows in key order, one or more, for `Engine.take`: RocksDB then does not log them,
    nor hold and sort them in memory. What it raises is an OSError with the database's own words.
    """

    def __init__(self, path: Path) -> None:
        self._failure = f"{path} cannot be written"
        self._writer = SstFileWriter(_options(Cache(0)))
        with _told(self._failure):
            self._writer.open(str(path))

    def write(self, rows: list[tuple[bytes, bytes | None]]) -> None:
        """Adds rows after those that are there. None removes a row."""
        writer = self._writer
        with _told(self._failure):
            for key, value in rows:
                if value is None:
                    del writer[key]
                else:
                    writer[key] = value

    def finish(self) -> None:
        """Brings the file to disk."""
        with _told(self._failure):
            self._writer.finish()


@contextmanager
def _told(failure: str) -> Iterator[None]:
    """Makes an OSError, with what has failed and RocksDB's words, of what rocksdict raises, which
    has no class of its own for it.
    """
    try:
        yield
    except Exception as error:
        raise OSError(f"{failure}: {error}") from error


@contextmanager
def state_table(path: Path) -> Iterator[Rdict]:
    """The state table of a database that nobody writes to: of a checkpoint. Raises OSError."""
    with _opened_to_read(path, {}) as db:
        yield db


@contextmanager
def tables_of(path: Path) -> Iterator[Tables]:
    """All tables of a database that nobody writes to: of a checkpoint. Raises OSError."""
    families = dict.fromkeys((LATEST, EVENTS, HISTORY), Options(raw_mode=True))
    with _opened_to_read(path, families) as db:
        yield Tables.of(db)


@contextmanager
def _opened_to_read(path: Path, families: dict[str, Options]) -> Iterator[Rdict]:
    with _told(f"the database in {path} cannot be opened"):
        db = Rdict(str(path), Options(raw_mode=True), families, AccessType.read_only())
    try:
        yield db
    finally:
        db.close()


def destroy(path: Path) -> bool:
    """Removes a database that is not open in this process. Returns whether it is gone."""
    try:
        Rdict.destroy(str(path))
    except Exception:  # rocksdict has no class of its own for it
        return not path.exists()
    return True


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
