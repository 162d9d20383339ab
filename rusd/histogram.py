"""Counts of what was observed, by size: what a Prometheus histogram is made of.

It is kept without the library: an observation costs a third of a microsecond, and the library is
imported only when somebody asks for metrics.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final


class Histogram:
    """Observations, counted in buckets. One thread at a time may observe; any may `copy`."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the buckets' upper ends, ascending; what is larger has a bucket too."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bucket, not cumulative."""
        self.total = 0.0
        """Sum of what was observed."""

    def observe(self, value: float) -> None:
        """Counts a value in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> "Histogram":
        """The same, unchanged by what is observed later."""
        copied = Histogram(self.bounds)
        copied.counts, copied.total = self.counts.copy(), self.total
        return copied


def exponential(first: float, factor: float, count: int) -> tuple[float, ...]:
    """So many bounds, each `factor` times the one before."""
    return tuple(round(first * factor**power, 12) for power in range(count))


DISK_SECONDS: Final = exponential(0.001, 2, 14)
"""Of a write or a sync, as etcd's: 1 ms to 8 s."""

LONG_SECONDS: Final = exponential(0.1, 2, 13)
"""Of work on the whole database: 100 ms to 7 minutes."""

SIZES: Final = exponential(1, 2, 12)
"""Of batches: 1 to 2048."""
