"""rusd/storage/engine.py: what a crash leaves of the database is one moment."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rusd.mvcc.tables import Tables, new_batch, rows
from rusd.storage.engine import Engine, destroy, state_table, tables_of

FILL_ROWS, VALUE = 100, b"v" * 20_000
FULL = 24
"""Fills after which RocksDB has flushed by itself."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = Engine(tmp_path / "member")
    yield opened
    opened.close()


def fill(tables: Tables, number: int) -> None:
    """One write to all families; `number` tells which was the last that a copy has."""
    batch = new_batch()
    for family in (tables.latest_family, tables.events_family, tables.history_family):
        for row in range(FILL_ROWS):
            batch.put(b"%08d%04d" % (number, row), VALUE, family)
    batch.put(b"number", b"%d" % number)
    tables.write(batch)


def found(tables: Tables) -> tuple[int, list[int]]:
    """The last fill that the state table knows of, and the fills that each other table has."""
    number = int(tables.state.get(b"number") or b"-1")
    return number, [
        sum(1 for _ in rows(table, b"", None)) // FILL_ROWS
        for table in (tables.latest, tables.events, tables.history)
    ]


def crashed(engine: Engine, target: Path) -> Tables:
    """The tables that a crash at this moment would leave."""
    shutil.copytree(engine.path.parent, target)
    return Engine(target).tables


def test_what_was_not_flushed_is_gone_after_a_crash_and_all_of_it(
    engine: Engine, tmp_path: Path
) -> None:
    fill(engine.tables, 0)
    assert found(crashed(engine, tmp_path / "copy")) == (-1, [0, 0, 0])


def test_a_flush_writes_all_families(engine: Engine, tmp_path: Path) -> None:
    """A state row that names more of the log than the other tables have would lose writes."""
    for number in range(3):
        fill(engine.tables, number)
        engine.flush()
        expected = (number, [number + 1] * 3)
        assert found(crashed(engine, tmp_path / f"copy{number}")) == expected
    fill(engine.tables, 3)
    assert found(crashed(engine, tmp_path / "copy")) == (2, [3, 3, 3])


def test_a_full_memtable_takes_all_families_with_it(engine: Engine, tmp_path: Path) -> None:
    for number in range(FULL):
        fill(engine.tables, number)
    deadline = time.monotonic() + 60
    while not engine.tables.latest.property_int_value("rocksdb.total-sst-files-size"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    number, others = found(crashed(engine, tmp_path / "copy"))
    assert number >= 0
    assert others == [number + 1] * 3


def test_a_closed_database_opens_with_all_that_was_written(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    fill(engine.tables, 0)
    engine.close()
    del engine
    assert found(Engine(tmp_path).tables) == (0, [1, 1, 1])


def test_a_checkpoint_is_a_database_of_that_moment(engine: Engine, tmp_path: Path) -> None:
    fill(engine.tables, 0)
    (tmp_path / "copy").mkdir()
    engine.checkpoint(tmp_path / "copy" / "keyspace")
    fill(engine.tables, 1)
    assert found(Engine(tmp_path / "copy").tables) == (0, [1, 1, 1])
    assert found(engine.tables) == (1, [2, 2, 2])


def test_the_state_of_a_checkpoint_can_be_read_without_a_change_to_it(
    engine: Engine, tmp_path: Path
) -> None:
    fill(engine.tables, 7)
    engine.checkpoint(tmp_path / "copy")
    with state_table(tmp_path / "copy") as state:
        assert state.get(b"number") == b"7"
    assert found(Engine(tmp_path, tmp_path / "copy").tables) == (7, [1, 1, 1])


@pytest.mark.parametrize("opened", [state_table, tables_of])
def test_what_is_no_checkpoint_is_named(
    opened: Callable[[Path], AbstractContextManager[object]], tmp_path: Path
) -> None:
    message = f"the database in {tmp_path} cannot be opened"
    with pytest.raises(OSError, match=message), opened(tmp_path):
        pass


def test_databases_are_exchanged_under_those_who_use_them(tmp_path: Path) -> None:
    """A read that is under way ends on what it began with, and then the database can go."""
    engine = Engine(tmp_path / "member")
    fill(engine.tables, 0)
    other = Engine(tmp_path / "member", tmp_path / "member" / "keyspace-other")
    fill(other.tables, 1)
    fill(other.tables, 2)
    reading = rows(engine.tables.latest, b"", None)
    first = next(reading)
    old, new = engine.path, other.path
    engine.exchange(other)
    assert (engine.path, other.path) == (new, old)
    assert found(engine.tables) == (2, [2, 2, 2])
    assert found(other.tables) == (0, [1, 1, 1])
    assert engine.size() > other.size()
    engine.flush()
    other.flush()
    other.close()
    vars(other).clear()
    assert not destroy(old), "it is still read"
    assert len([first, *reading]) == FILL_ROWS
    del reading
    assert destroy(old)
    assert found(engine.tables) == (2, [2, 2, 2])
    assert not destroy(new), "it is open"
    engine.close()


def test_compaction_gives_the_space_of_deleted_rows_back(engine: Engine) -> None:
    tables = engine.tables
    fill(tables, 0)
    engine.flush()
    before = engine.size()
    batch = new_batch()
    for row in range(FILL_ROWS):
        batch.delete(b"%08d%04d" % (0, row), tables.latest_family)
        batch.delete(b"%08d%04d" % (0, row), tables.events_family)
        batch.delete(b"%08d%04d" % (0, row), tables.history_family)
    tables.write(batch)
    engine.compact()
    assert engine.size() < before / 2
    assert found(tables) == (0, [0, 0, 0])


FAILING_FLUSH = """
import os, resource, sys
from pathlib import Path
from rusd.mvcc.tables import new_batch
from rusd.storage.engine import Engine

engine = Engine(Path(sys.argv[1]))
batch = new_batch()
for row in range(1000):
    batch.put(b"%08d" % row, os.urandom(1000), engine.tables.latest_family)
engine.tables.write(batch)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for attempt in range(2):
    try:
        engine.flush()
    except OSError as error:
        print("refused:", error)
sys.stdout.flush()
os._exit(0)
"""


def test_a_flush_that_fails_is_never_taken_for_one_that_did_not(tmp_path: Path) -> None:
    """The log would be dropped on the word of it. The limit on file sizes stands for a full disk;
    the second attempt must not pass because the first has taken the error.
    """
    done = subprocess.run(
        [sys.executable, "-c", FAILING_FLUSH, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.count("refused: ") == 2


FAILING_CLOSE = """
import os, resource, sys
from pathlib import Path
from rusd.mvcc.tables import new_batch
from rusd.storage.engine import Engine

def write(number):
    batch = new_batch()
    batch.put(b"number", b"%d" % number)
    batch.put(b"%d" % number, os.urandom(1_000_000), engine.tables.events_family)
    engine.tables.write(batch)

engine = Engine(Path(sys.argv[1]))
write(1)
engine.flush()
write(2)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
engine.close()
os._exit(0)
"""


def test_a_close_that_cannot_flush_all_families_flushes_none(tmp_path: Path) -> None:
    """Else the state table would say that the log was applied further than the other tables know.
    The state's row would fit on the disk, the event does not.
    """
    subprocess.run([sys.executable, "-c", FAILING_CLOSE, str(tmp_path)], check=True, timeout=60)
    engine = Engine(tmp_path)
    assert engine.tables.state.get(b"number") == b"1"
    assert [row for row, _ in rows(engine.tables.events, b"", None)] == [b"1"]
    engine.close()
