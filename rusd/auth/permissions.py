r"""Intervals of keys: what the permissions of a user's roles add up to.

Ranges are as on the wire: a range end of b"" means one key, b"\0" all keys from the first on. A
right to one key is a right to the interval from it to the next possible key, and to no other key.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

OPEN: Final = b"\0"
"""As a range end: no end."""


def is_range(key: bytes, range_end: bytes) -> bool:
    """Whether a permission can be for this: it has a key, and an end that is after it."""
    return bool(key) and (range_end in (b"", OPEN) or key < range_end)


class Intervals:
    """The union of ranges. Two that touch are one: [a, b) and [b, c) cover [a, c)."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[bytes, bytes]]) -> None:
        """`ranges` are keys and range ends, in any order."""
        self._starts: list[bytes] = []
        self._ends: list[bytes | None] = []
        """None for no end, which only the last may have."""
        for start, end in sorted(map(_bounds, ranges), key=lambda bounds: bounds[0]):
            last = self._ends[-1] if self._ends else b""
            if self._ends and (last is None or start <= last):
                if last is not None and (end is None or end > last):
                    self._ends[-1] = end
            else:
                self._starts.append(start)
                self._ends.append(end)

    def cover(self, key: bytes, range_end: bytes) -> bool:
        """Whether every key of a range is in here. Of a range without keys, whose end is not after
        its first key, that first key has to be: as in etcd.
        """
        if not range_end:  # one key, which nearly every request is about
            at = bisect_right(self._starts, key) - 1
            if at < 0:
                return False
            last = self._ends[at]
            return last is None or key < last
        start, end = _bounds((key, range_end))
        at = bisect_right(self._starts, start) - 1
        if at < 0:
            return False
        last = self._ends[at]
        return last is None or (end is not None and start < last and end <= last)


def _bounds(given: tuple[bytes, bytes]) -> tuple[bytes, bytes | None]:
    """First key, and the first key after it that is not in the range; None for no such."""
    key, range_end = given
    if not range_end:
        return key, key + b"\0"
    return key, None if range_end == OPEN else range_end
