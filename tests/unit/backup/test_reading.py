"""What a backup's status says."""

from pathlib import Path

import pytest

from rusd.backup import schema
from rusd.backup.reading import Backup
from rusd.pb.kv_pb2 import KeyValue
from tests.unit.backup.files import Items, made, record


def tombstone(main: int, key: bytes) -> Items:
    """One delete."""
    return {schema.pack_revision(main) + schema.TOMBSTONE: KeyValue(key=key).SerializeToString()}


@pytest.mark.parametrize(
    ("records", "revision", "keys"),
    [
        ({}, 0, 0),
        (dict([record(2, b"a"), record(3, b"b"), record(4, b"a")]), 4, 2),
        (dict([record(2, b"a"), record(3, b"b")]) | tombstone(4, b"b"), 4, 1),
        (dict([record(2, b"a"), record(5, b"b")]) | tombstone(4, b"b"), 5, 2),
        (dict([record(2, b"a")]) | tombstone(4, b"b"), 4, 1),
        (dict([record(2, b"a"), (schema.pack_revision(9), b"")]), 9, 2),
    ],
)
def test_a_status_counts_the_keys_that_live(
    records: Items, revision: int, keys: int, tmp_path: Path
) -> None:
    """As etcdutl 3.6 and 3.7 do of the same records, with the one that has no key."""
    with Backup(made(tmp_path / "backup", records)) as backup:
        status = backup.status(lambda _: None)
    assert (status.revision, status.total_key) == (revision, keys)
