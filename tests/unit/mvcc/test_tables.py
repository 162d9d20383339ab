"""rusd/mvcc/tables.py on a database in a directory."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from rusd.mvcc.tables import DamagedTableError, get, rows, values

FIRST_READ = """
import sys
from rocksdict import Options, Rdict
from rusd.mvcc.tables import rows, values

table = Rdict(sys.argv[1], Options(raw_mode=True))
for i in range(30):
    table.put(b"lease/" + i.to_bytes(8, "big"), b"v" * 24)
table.put(b"member", b"v")
table.flush()
table.close()
del table
table = Rdict(sys.argv[1], Options(raw_mode=True))
print(len(list({read}(table, b"lease/", b"lease/" + bytes([255]) * 9{more}))))
table.close()
"""


@pytest.mark.parametrize(("read", "more"), [("rows", ""), ("values", ", 30")])
def test_the_first_read_of_a_process_keeps_its_upper_bound(
    tmp_path: Path, read: str, more: str
) -> None:
    """The memory of a bound that nobody holds is used again by the blocks that are read."""
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            FIRST_READ.replace("{read}", read).replace("{more}", more),
            str(tmp_path / "db"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout == "30\n"


ROWS = 2000


def fill(folder: Path) -> None:
    """A database of one table, in one file of many blocks."""
    table = Rdict(str(folder), Options(raw_mode=True))
    for number in range(ROWS):
        table.put(b"%08d" % number, random.Random(number).randbytes(100))
    table.flush()
    table.close()


def flip_a_bit(folder: Path) -> Path:
    """Change what is in the middle of the database's largest file, which is returned."""
    largest = max(folder.glob("*.sst"), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    return largest


def all_rows(table: Rdict) -> int:
    return sum(1 for _ in rows(table, b"", None))


def all_values(table: Rdict) -> int:
    return sum(1 for _ in values(table, b"", None, ROWS))


def all_by_key(table: Rdict) -> int:
    return sum(get(table, b"%08d" % number) is not None for number in range(ROWS))


def around_the_end(table: Rdict) -> int:
    return sum(1 for _ in rows(table, b"%08d" % (ROWS - 5), b"%08d" % (ROWS + 5)))


@pytest.mark.parametrize("read", [all_rows, all_values, all_by_key])
def test_a_read_that_meets_a_damaged_block_names_the_file(
    tmp_path: Path, read: Callable[[Rdict], int]
) -> None:
    """It does not end there as if there were no more."""
    fill(tmp_path / "db")
    table = Rdict(str(tmp_path / "db"), Options(raw_mode=True))
    assert read(table) == ROWS
    table.close()
    del table
    damaged = flip_a_bit(tmp_path / "db")
    table = Rdict(str(tmp_path / "db"), Options(raw_mode=True))
    with pytest.raises(DamagedTableError, match=re.escape(str(damaged))):
        read(table)
    assert around_the_end(table) == 5, "what is not damaged can be read"
    table.close()


def test_rows_are_those_of_the_moment_in_which_they_were_asked_for(tmp_path: Path) -> None:
    """Also where the last of them is gone when the end is looked at."""
    table = Rdict(str(tmp_path / "db"), Options(raw_mode=True))
    for key in (b"a", b"b", b"c"):
        table.put(key, b"v")
    found = rows(table, b"", None)
    assert next(found) == (b"a", b"v")
    table.delete(b"c")
    table.put(b"d", b"v")
    table.flush()
    assert [key for key, _ in found] == [b"b", b"c"]
    assert [key for key, _ in rows(table, b"", None)] == [b"a", b"b", b"d"]
    table.close()
