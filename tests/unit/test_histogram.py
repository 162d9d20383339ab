"""rusd/histogram.py: each value is counted once, in the bucket that its size asks for."""

from hypothesis import given
from hypothesis import strategies as st

from rusd.histogram import DISK_SECONDS, Histogram, exponential


def test_a_bound_is_in_its_bucket_and_what_is_larger_in_the_next() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 4.001, 100):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1, 2]
    assert histogram.total == 112.501


@given(st.lists(st.floats(-1e9, 1e9)))
def test_cumulative_counts_are_those_of_values_up_to_the_bound(values: list[float]) -> None:
    histogram = Histogram(DISK_SECONDS)
    for value in values:
        histogram.observe(value)
    for position, bound in enumerate(DISK_SECONDS):
        assert sum(histogram.counts[: position + 1]) == sum(value <= bound for value in values)
    assert sum(histogram.counts) == len(values)


def test_a_copy_stays_as_it_was() -> None:
    histogram = Histogram((1,))
    histogram.observe(1)
    copy = histogram.copy()
    histogram.observe(5)
    assert (copy.counts, copy.total, copy.bounds) == ([1, 0], 1, (1,))


def test_bounds_have_no_rounding_errors() -> None:
    assert exponential(0.0001, 2, 4) == (0.0001, 0.0002, 0.0004, 0.0008)
    assert exponential(0.1, 2, 13)[-1] == 409.6
