"""Files to test with: what went into them, and reading all of it."""

from pathlib import Path

from rusd.bbolt import Database, Writer
from rusd.bbolt.accounting import Accounting

Buckets = dict[bytes, dict[bytes, bytes]]

SMALL = 1024
"""A page size at which little data makes a deep tree."""


def written(path: Path, buckets: Buckets, page_size: int = SMALL) -> Path:
    """Write a file, with every bucket's items in order."""
    with path.open("wb") as file:
        writer = Writer(file, page_size)
        for name, items in buckets.items():
            writer.bucket(name, sorted(items.items()))
        size = writer.finish()
    assert path.stat().st_size == size
    return path


def read(path: Path, *, strictly: bool = True) -> Buckets:
    """Read everything; `strictly`, with every page accounted for."""
    with Database(path) as database:
        accounting = Accounting(database) if strictly else None
        visit = None if accounting is None else accounting.visit
        found = {name: dict(database.items(name, visit)) for name in database.buckets}
        if accounting is not None:
            accounting.finish()
    return found
