"""rusd/auth/permissions.py, compared with a set of all keys that there could be."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.auth.permissions import Intervals, is_range

_LETTERS = b"\0ab\xff"
KEYS = sorted(bytes(letters) for size in (1, 2, 3) for letters in product(_LETTERS, repeat=size))
"""Every key of up to three of four letters. Ranges have keys and ends of up to two, so that where
one begins or ends there is a key, and what is not covered shows."""

keys = st.sampled_from([key for key in KEYS if len(key) < 3])
ends = st.one_of(st.just(b""), st.just(b"\0"), keys)
granted = st.tuples(keys, ends).filter(lambda pair: is_range(*pair))


def within(key: bytes, range_end: bytes) -> set[bytes]:
    """The keys of a range, by its definition on the wire."""
    if not range_end:
        return {key}
    if range_end == b"\0":
        return {each for each in KEYS if each >= key}
    return {each for each in KEYS if key <= each < range_end}


@given(st.lists(granted, max_size=6), keys, ends)
def test_a_range_is_covered_when_every_key_of_it_is(
    ranges: list[tuple[bytes, bytes]], key: bytes, range_end: bytes
) -> None:
    allowed = {each for pair in ranges for each in within(*pair)}
    asked = within(key, range_end) or {key}
    assert Intervals(ranges).cover(key, range_end) == (asked <= allowed)


@given(st.lists(granted, max_size=6), keys, ends)
def test_the_order_of_grants_does_not_count(
    ranges: list[tuple[bytes, bytes]], key: bytes, range_end: bytes
) -> None:
    assert Intervals(ranges).cover(key, range_end) == Intervals(ranges[::-1]).cover(key, range_end)


@pytest.mark.parametrize(
    ("ranges", "key", "range_end", "covered"),
    [
        # One key is no right to what comes after it.
        ([(b"b", b"")], b"b", b"", True),
        ([(b"b", b"")], b"b\0", b"", False),
        ([(b"b", b"")], b"b", b"b\0", True),
        ([(b"b", b"")], b"b", b"b\0\0", False),
        ([(b"b", b"")], b"b", b"c", False),
        ([(b"b", b"")], b"b", b"\0", False),
        # What touches is one.
        ([(b"a", b"b"), (b"b", b"c")], b"a", b"c", True),
        ([(b"a", b"b"), (b"b\0", b"c")], b"a", b"c", False),
        ([(b"a", b""), (b"a\0", b"c")], b"a", b"c", True),
        # No end covers everything from there on, and only that covers no end.
        ([(b"b", b"\0")], b"b", b"\0", True),
        ([(b"b", b"\0")], b"\xff\xff\xff", b"", True),
        ([(b"b", b"\0")], b"a", b"\0", False),
        ([(b"a", b"\xff\xff")], b"a", b"\0", False),
        ([(b"a", b"c"), (b"b", b"\0"), (b"x", b"y")], b"a", b"\0", True),
        ([(b"\0", b"\0")], b"\0", b"\0", True),
        # The end itself is not in it.
        ([(b"a", b"c")], b"c", b"", False),
        # The empty key is before every key that can be granted.
        ([(b"\0", b"\0")], b"", b"\0", False),
        ([(b"\0", b"\0")], b"", b"", False),
        ([], b"a", b"", False),
        # A range without keys: where it begins counts. As seen on etcd 3.5.30.
        ([(b"c", b"f")], b"e", b"d", True),
        ([(b"c", b"f")], b"d", b"a", True),
        ([(b"c", b"f")], b"d", b"d", True),
        ([(b"c", b"f")], b"f", b"d", False),
        ([(b"c", b"f")], b"f", b"f", False),
        ([(b"c", b"f")], b"x", b"a", False),
    ],
)
def test_covers(
    ranges: list[tuple[bytes, bytes]], key: bytes, range_end: bytes, covered: bool
) -> None:
    assert Intervals(ranges).cover(key, range_end) is covered


@pytest.mark.parametrize(
    ("key", "range_end", "valid"),
    [
        (b"a", b"", True),
        (b"a", b"b", True),
        (b"a", b"\0", True),
        (b"\0", b"\0", True),
        (b"a", b"a", False),
        (b"b", b"a", False),
        (b"z", b"\0\0", False),
        (b"", b"", False),
        (b"", b"a", False),
        (b"", b"\0", False),
    ],
)
def test_ranges_that_can_be_granted(key: bytes, range_end: bytes, valid: bool) -> None:
    assert is_range(key, range_end) is valid
