"""rusd/mvcc/tables.py on a database in a directory."""

import subprocess
import sys
from pathlib import Path

import pytest

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
print(len(list({read}(table, b"lease/", b"lease/" + bytes([255]) * 9))))
table.close()
"""


@pytest.mark.parametrize("read", ["rows", "values"])
def test_the_first_read_of_a_process_keeps_its_upper_bound(tmp_path: Path, read: str) -> None:
    """The memory of a bound that nobody holds is used again by the blocks that are read."""
    found = subprocess.run(
        [sys.executable, "-c", FIRST_READ.replace("{read}", read), str(tmp_path / "db")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout == "30\n"
