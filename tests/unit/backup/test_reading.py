"""What a backup's status says, and what is said of a damaged one."""

import random
import re
from hashlib import sha256
from pathlib import Path

import pytest

from rusd.backup import schema
from rusd.backup.reading import Backup, DigestError
from rusd.bbolt import BboltError, Database
from rusd.bbolt.layout import (
    BRANCH,
    CHECKSUM,
    HEAD,
    KIND_BRANCH,
    KIND_FREELIST,
    KIND_LEAF,
    LEAF,
    META,
)
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


def regions(path: Path) -> dict[str, list[int]]:
    """The places of bytes of each kind in a backup that some other byte can contradict."""
    found: dict[str, list[int]] = {}
    with Database(path) as database:
        size = database.meta.page_size
        for number in (0, 1):
            # Not the count and the overflow, which mean nothing there.
            used = (*range(10), *range(HEAD.size, HEAD.size + META.size + CHECKSUM.size))
            found[f"meta page {number}"] = [number * size + place for place in used]
        page = 2
        while page < database.meta.pages:
            _, kind, items, pages, _ = database.page(page)
            start = page * size
            name, item = {
                KIND_FREELIST: ("freelist", 0),
                KIND_BRANCH: ("branch", BRANCH.size),
                KIND_LEAF: ("leaf", LEAF.size),
            }[kind]
            found.setdefault(f"head of a {name} page", []).extend(range(start, start + HEAD.size))
            if item:
                # Not the last item: its size has nothing after it.
                heads = range(start + HEAD.size, start + HEAD.size + item * (items - 1))
                found.setdefault(f"heads of items of a {name} page", []).extend(heads)
            page += pages
    return found


def verify(path: Path) -> None:
    """As `rusd snapshot verify --skip-hash-check` does."""
    with Backup(path) as backup:
        backup.verify(lambda _: None)


def check_digest(path: Path) -> None:
    """As every other command does first."""
    with Backup(path) as backup:
        backup.check_digest(lambda _: None)


def test_a_flipped_byte_in_each_region_is_found_and_its_page_is_named(tmp_path: Path) -> None:
    """By the checksum, and where that does not count, by what pages promise of each other."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = made(tmp_path / "backup", dict(record(main, b"k%d" % main) for main in range(2, 900)))
    whole = path.read_bytes()
    whole += sha256(whole).digest()
    found = regions(path)
    assert len(found) == 7, found
    for region, places in found.items():
        for _ in range(10):
            data, place = bytearray(whole), chance.choice(places)
            data[place] ^= 1 << chance.randrange(8)
            path.write_bytes(data)
            with pytest.raises(BboltError) as told:
                verify(path)
            assert re.match(r"page \d+: ", str(told.value)), (region, place)
            with (
                pytest.raises((DigestError, BboltError), match=r"page \d+: "),
                Backup(path) as backup,
            ):
                backup.check_digest(lambda _: None)
    # In what no page tells, a value and the checksum itself, the checksum does.
    for place in (whole.rindex(b"k899") + 1, len(whole) - 1):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(DigestError, match="no page or record tells where"):
            check_digest(path)
