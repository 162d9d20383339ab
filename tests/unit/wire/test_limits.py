"""The token bucket: a burst at once, a rate in the long run."""

from rusd.wire.limits import Limits, TokenBucket


def test_a_burst_passes_and_then_the_rate() -> None:
    bucket = TokenBucket(5, 2.0, now=100.0)
    assert [bucket.take(100.0) for _ in range(6)] == [True] * 5 + [False]
    bucket = TokenBucket(5, 2.0, now=0.0)
    assert all(bucket.take(second / 2) for second in range(1000))


def test_rest_earns_no_more_than_the_burst() -> None:
    bucket = TokenBucket(3, 1.0, now=0.0)
    assert [bucket.take(1e6) for _ in range(4)] == [True, True, True, False]


def test_the_operators_stream_limit_is_capped_by_what_memory_it_may_take() -> None:
    assert Limits().streams == Limits().stream_ceiling
    assert Limits(max_concurrent_streams=7).streams == 7
