"""Which programs can read a data directory: a number in its file FORMAT.

    format 1
    program rusd 0.1.0

The second line names the program that made the directory so. A program opens what has its own
number or a lower one, and gives it its own before it changes anything else: from then on an older
program refuses it, whatever was changed. What a lower number lacks is found and added where it is
read (as `rusd.node.bootstrap` does), so that a crash halfway is no other case. Directories that
were made before there was a number have none: they count as 0.
"""

import os
import re
from pathlib import Path
from typing import Final

import rusd
from rusd.storage.folders import sync_directory

FORMAT: Final = 1
"""To be raised with every change that an older program would not understand."""
_FILE: Final = "FORMAT"


def claim(data: Path) -> int | None:
    """Makes sure that this program can read `data`, and says in it that it does; on disk when this
    returns. Returns the lower number that it had; None where nothing changes, or all is new.

    Raises OSError, and leaves everything as it is, for the data of a newer program, or of etcd.
    """
    found = _found(data)
    if found == FORMAT:
        return None
    unfinished = data / f"{_FILE}.next"
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(f"format {FORMAT}\nprogram rusd {rusd.__version__}\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(data / _FILE)
    sync_directory(data)
    return found


def _found(data: Path) -> int | None:
    try:
        text = (data / _FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if (data / "member" / "snap" / "db").exists():
            raise OSError(
                f"{data} is the data directory of an etcd: make a backup of it with "
                "`etcdctl snapshot save`, and a directory for rusd with `rusd snapshot restore`"
            ) from None
        return 0 if (data / "member").exists() else None
    matched = re.match(r"format ([0-9]{1,9})\n(?:program (.{1,100})\n)?", text)
    if matched is None:
        raise OSError(f"{data / _FILE} does not say which format the data directory has")
    number = int(matched[1])
    if number > FORMAT:
        made_by = matched[2] or "a newer rusd"
        raise OSError(
            f"the data directory {data} has format {number}, made by {made_by}; "
            f"this is rusd {rusd.__version__}, which reads up to format {FORMAT}"
        )
    return number
