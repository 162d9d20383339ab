"""A damaged file gives an error that names the page, or the damage is where nothing is lost."""

import random
from pathlib import Path

import pytest

from rusd.bbolt import BboltError, Database
from rusd.bbolt.accounting import Accounting
from rusd.bbolt.layout import (
    BRANCH,
    BUCKET,
    CHECKSUM,
    HEAD,
    KIND_BRANCH,
    KIND_LEAF,
    LEAF,
    META,
    fnv1a,
)
from tests.unit.bbolt.files import SMALL, Buckets, read, written

BUCKETS: Buckets = {
    b"big": {b"key%04d" % number: b"value%d" % number * 5 for number in range(150)},
    b"large": {b"one": b"1" * 3000, b"two": b"2"},
    b"small": {b"a": b"1", b"b": b"2"},
    b"empty": {},
}


@pytest.fixture
def whole(tmp_path: Path) -> bytearray:
    """A file with every kind of page."""
    return bytearray(written(tmp_path / "whole", BUCKETS).read_bytes())


def parts_of(buckets: Buckets) -> list[object]:
    """Names and items in the order of the file."""
    return [part for name in sorted(buckets) for part in (name, *sorted(buckets[name].items()))]


def different(found: Buckets) -> int:
    """How many names and items are not what they were."""
    pairs = zip(parts_of(found), parts_of(BUCKETS), strict=True)
    return sum(1 for seen, wanted in pairs if seen != wanted)


def test_a_flipped_bit_is_found_or_changes_one_item_at_most(
    whole: bytearray, tmp_path: Path
) -> None:
    """Every region of the file, every few bytes, any bit."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    path = tmp_path / "flipped"
    outcomes = {"found": 0, "no page": 0, "the same": 0, "in one item or name": 0}
    for offset in range(chance.randrange(11), len(whole), 11):
        data = bytearray(whole)
        data[offset] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            found = read(path)
        except BboltError as error:
            named = str(error).startswith(f"page {error.page}: ")
            outcomes["found" if named else "no page"] += 1
            continue
        if found == BUCKETS:
            outcomes["the same"] += 1
            continue
        assert different(found) == 1, f"byte {offset}"
        outcomes["in one item or name"] += 1
    print(outcomes)
    assert not outcomes.pop("no page")
    assert all(outcomes.values()), outcomes


def test_a_file_that_ends_too_early_is_found(whole: bytearray, tmp_path: Path) -> None:
    """At any length."""
    path = tmp_path / "short"
    for size in [*range(0, len(whole), 700), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(BboltError, match="page "):
            read(path)


def page_of(whole: bytearray, kind: int) -> int:
    """The first page of a kind."""
    for start in range(2 * SMALL, len(whole), SMALL):
        number, found, _, _ = HEAD.unpack_from(whole, start)
        if found == kind and number == start // SMALL:
            return int(number)
    raise AssertionError(kind)


def expect(whole: bytearray, tmp_path: Path, match: str) -> None:
    """Read a file that must be refused so."""
    path = tmp_path / "damaged"
    path.write_bytes(whole)
    with pytest.raises(BboltError, match=match):
        read(path)


def test_a_tree_with_a_loop_is_not_followed(whole: bytearray, tmp_path: Path) -> None:
    """A branch that has itself, or another page twice, below it."""
    branch = page_of(whole, KIND_BRANCH)
    first = branch * SMALL + HEAD.size
    for child, what in ((branch, "twice"), (page_of(whole, KIND_LEAF), "elsewhere|order|twice")):
        looped = bytearray(whole)
        position, size, _ = BRANCH.unpack_from(looped, first + BRANCH.size)
        BRANCH.pack_into(looped, first + BRANCH.size, position, size, child)
        path = tmp_path / "looped"
        path.write_bytes(looped)
        with Database(path) as database, pytest.raises(BboltError, match=what):
            for _ in database.items(b"big"):
                pass


def test_what_a_page_says_of_itself_is_checked(whole: bytearray, tmp_path: Path) -> None:
    """Its number, its kind, how many items it has and how far it runs on."""
    leaf = page_of(whole, KIND_LEAF)
    start = leaf * SMALL
    number, kind, count, _ = HEAD.unpack_from(whole, start)
    for head, match in (
        ((number + 1, kind, count, 0), f"page {leaf}: it says that it is page {leaf + 1}"),
        ((number, 0x20, count, 0), f"page {leaf}: a 0x20 page within a tree"),
        ((number, kind, 0xFFFF, 0), f"page {leaf}: "),
        ((number, kind, count, 2**31), f"page {leaf}: it runs on over 2147483648 pages"),
        ((number, kind, count, 1), f"page {leaf + 1}: it is used twice"),
        ((number, kind, 0, 0), f"page {leaf}: a leaf without items"),
    ):
        damaged = bytearray(whole)
        HEAD.pack_into(damaged, start, *head)
        expect(damaged, tmp_path, match)


def test_items_lie_one_after_the_other(whole: bytearray, tmp_path: Path) -> None:
    """A position or a size that says otherwise is wrong, even within the page."""
    for kind, head, what in ((KIND_LEAF, LEAF, "item 1"), (KIND_BRANCH, BRANCH, "the key of")):
        page = page_of(whole, kind)
        start = page * SMALL + HEAD.size + head.size
        for field in range(len(head.unpack_from(whole, start))):
            values = list(head.unpack_from(whole, start))
            values[field] += 1
            damaged = bytearray(whole)
            head.pack_into(damaged, start, *values)
            # What comes first of a head is no place or size in a leaf, what comes last in a branch.
            if (kind, field) not in ((KIND_LEAF, 0), (KIND_BRANCH, 2)):
                # A wrong size is seen at the one after it.
                expect(damaged, tmp_path, f"page {page}: ({what}|item 2) ?.* not in its place")


def with_meta(whole: bytearray, **changes: int) -> bytearray:
    """A copy whose meta pages say something else, with the right checksums."""
    names = (
        "magic",
        "version",
        "page_size",
        "flags",
        "root",
        "sequence",
        "freelist",
        "pages",
        "transaction",
    )
    copy = bytearray(whole)
    for number in (0, 1):
        start = number * SMALL + HEAD.size
        values = dict(zip(names, META.unpack_from(copy, start), strict=True)) | changes
        META.pack_into(copy, start, *values.values())
        checksum = fnv1a(bytes(copy[start : start + META.size]))
        CHECKSUM.pack_into(copy, start + META.size, checksum)
    return copy


def test_what_the_meta_pages_say_is_checked(whole: bytearray, tmp_path: Path) -> None:
    """Version, page size, root, freelist and size, each with a checksum that is right."""
    pages = len(whole) // SMALL
    for changes, match in (
        ({"version": 3}, "page 0: format version 3, not 2"),
        ({"page_size": 1000}, "page 0: pages of 1000 bytes"),
        ({"root": pages + 5}, f"page {pages + 5}: outside of the {pages} pages"),
        ({"root": 0}, "page 0: a bucket within this page is cut short"),
        ({"freelist": page_of(whole, KIND_LEAF)}, "a leaf page where the freelist should be"),
        ({"pages": pages + 1}, f"page {pages}: the file ends here"),
        ({"pages": 2**60}, "the file ends here"),
    ):
        expect(with_meta(whole, **changes), tmp_path, match)


def test_one_meta_page_is_enough_but_not_whole(whole: bytearray, tmp_path: Path) -> None:
    """A crash may leave one torn: the file is read, and said to be damaged."""
    for number in (0, 1):
        damaged = bytearray(whole)
        damaged[number * SMALL + 40] ^= 1
        path = tmp_path / f"meta{number}"
        path.write_bytes(damaged)
        assert read(path, strictly=False) == BUCKETS
        with (
            Database(path) as database,
            pytest.raises(BboltError, match=f"page {number}: .*checksum"),
        ):
            Accounting(database)
    damaged = bytearray(whole)
    damaged[40] ^= 1
    damaged[SMALL + 40] ^= 1
    expect(damaged, tmp_path, "page 0: the meta page's checksum is wrong")


def test_pages_in_the_freelist_are_not_used_and_no_page_is_lost(
    whole: bytearray, tmp_path: Path
) -> None:
    """The freelist and the trees divide the pages between them."""
    free = bytearray(whole)
    HEAD.pack_into(free, 2 * SMALL, 2, 0x10, 1, 0)
    free[2 * SMALL + HEAD.size : 2 * SMALL + HEAD.size + 8] = (4).to_bytes(8, "little")
    expect(free, tmp_path, "page 4: it is used, and in the freelist")
    lost = with_meta(whole, pages=len(whole) // SMALL + 1) + bytes(SMALL)
    expect(lost, tmp_path, f"page {len(whole) // SMALL}: it is neither used nor in the freelist")
    many = bytearray(whole)
    HEAD.pack_into(many, 2 * SMALL, 2, 0x10, 0xFFFF, 0)
    many[2 * SMALL + HEAD.size : 2 * SMALL + HEAD.size + 8] = (2**40).to_bytes(8, "little")
    expect(many, tmp_path, "page 2: a freelist of 1099511627776 pages does not fit")


def test_a_bucket_within_a_bucket_is_refused(tmp_path: Path) -> None:
    """The databases of etcd have none."""
    path = written(tmp_path / "db", {b"outer": {b"inner": BUCKET.pack(0, 0)}})
    data = bytearray(path.read_bytes())
    at = data.index(b"inner")
    # The flags of the only item: right before it, in the bucket's own page within the root.
    data[at - 16] |= 1
    path.write_bytes(data)
    with Database(path) as database, pytest.raises(BboltError, match="a bucket within a bucket"):
        list(database.items(b"outer"))
