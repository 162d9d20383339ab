"""The folders of a member's data: which of them is the keyspace, and which are left over.

The keyspace is `keyspace`, or the folder that the file `CURRENT` names: a snapshot's content is put
in place of it by replacing that file, so that a crash leaves either the one or the other.
"""

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

KEYSPACE: Final = "keyspace"
CHECKPOINT: Final = "checkpoint"
_POINTER: Final = "CURRENT"


def current(member: Path) -> Path:
    """The folder of the keyspace. Raises OSError when the one that is named is not there: then what
    is here is not this member's state.
    """
    pointer = member / _POINTER
    if not pointer.exists():
        return member / KEYSPACE
    name = pointer.read_text(encoding="utf-8").strip()
    folder = member / name
    if not name.startswith(KEYSPACE) or "/" in name or not folder.is_dir():
        raise OSError(f"{pointer} names {name!r} as the keyspace, which is not there")
    return folder


def make_current(folder: Path) -> None:
    """Makes a folder, whose files are synced, the keyspace; returns when that is on disk."""
    member = folder.parent
    sync_directory(folder)
    # Its name is there before it is told to be the one.
    sync_directory(member)
    unfinished = member / (_POINTER + ".next")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(folder.name + "\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(member / _POINTER)
    sync_directory(member)


def remove_leftovers(member: Path) -> list[Path]:
    """Removes what a crash left of snapshots: all keyspaces but the current one, and checkpoints.
    Returns what was removed. To be called while nothing else uses the folder.
    """
    kept = current(member)
    leftovers = [
        path
        for pattern in (KEYSPACE + "*", CHECKPOINT + "*")
        for path in sorted(member.glob(pattern))
        if path != kept
    ]
    for path in leftovers:
        shutil.rmtree(path)
    return leftovers


def lock_directory(data: Path) -> int:
    """Makes sure that a member's data has one user; makes the folder, unless it is there.

    Returns a descriptor: the lock ends when that is closed, or with the process. Raises OSError.
    """
    make_directory(data, 0o700)
    lock = os.open(data / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise OSError(f"another process uses the data directory {data}") from None
    return lock


def make_directory(path: Path, mode: int = 0o777) -> None:
    """Makes a folder, unless it is there, and those above it that are missing; returns when its
    name is on disk, for what is synced in a folder that has no name there is lost with it.
    """
    if not path.parent.exists():
        make_directory(path.parent, mode)
    path.mkdir(mode, exist_ok=True)
    # Whose parent may not be read did not make it: then it is as durable as it will be.
    with suppress(PermissionError):
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Syncs the names in a folder."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
