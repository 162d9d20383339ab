"""What a leader knows of a member's log, and its window."""

from hypothesis import given
from hypothesis import strategies as st

from rusd.raft.progress import Progress, ProgressState, Window


def _progress(match: int = 0, next_index: int = 10) -> Progress:
    return Progress(Window(max_messages=3, max_bytes=100), next_index, match)


@given(
    st.integers(1, 4),
    st.integers(1, 30),
    st.lists(st.tuples(st.sampled_from(["add", "to", "one"]), st.integers(0, 9))),
)
def test_window_counts_what_is_not_acknowledged(
    most: int, most_bytes: int, steps: list[tuple[str, int]]
) -> None:
    window, expected, last = Window(most, most_bytes), list[tuple[int, int]](), 0
    for step, number in steps:
        if step == "add":
            if window.is_full:
                continue
            last += 1 + number
            window.add(last, number)
            expected.append((last, number))
        elif step == "to":
            window.free_to(last - number)
            expected = [pair for pair in expected if pair[0] > last - number]
        else:
            window.free_one()
            expected = expected[1:]
        assert len(window) == len(expected)
        assert window.bytes == sum(size for _, size in expected)
        assert window.is_full == (len(expected) >= most or window.bytes >= most_bytes)


def test_probe_is_one_message_at_a_time() -> None:
    progress = _progress()
    assert not progress.is_paused
    progress.sent(12, 5, commit=1)
    assert progress.is_paused
    assert progress.next == 10


def test_acknowledged_probe_goes_on() -> None:
    progress = _progress()
    progress.sent(12, 5, commit=1)
    assert progress.acknowledged(12)
    assert (progress.match, progress.next) == (12, 13)
    assert not progress.is_paused


def test_replicate_does_not_wait_for_acknowledgements_until_the_window_is_full() -> None:
    progress = _progress(match=9)
    progress.become_replicate()
    for last in (10, 11, 12):
        assert not progress.is_paused
        progress.sent(last, 1, commit=9)
        assert progress.next == last + 1
    assert progress.is_paused
    progress.window.free_to(10)
    assert not progress.is_paused


def test_replicate_stops_at_a_window_full_of_bytes() -> None:
    progress = _progress(match=9)
    progress.become_replicate()
    progress.sent(10, 99, commit=9)
    assert not progress.is_paused
    progress.sent(11, 1, commit=9)
    assert progress.is_paused


def test_rejected_probe_goes_back_to_the_hint_but_not_below_match() -> None:
    progress = _progress(match=3)
    assert progress.rejected(9, hint=5)
    assert progress.next == 6
    assert progress.rejected(5, hint=0)
    assert progress.next == 4


def test_rejected_probe_goes_back_at_least_by_one() -> None:
    progress = _progress()
    assert progress.rejected(9, hint=20)
    assert progress.next == 9


def test_rejection_of_another_probe_is_old_news() -> None:
    progress = _progress()
    progress.sent(10, 1, commit=0)
    assert not progress.rejected(7, hint=3)
    assert (progress.next, progress.is_paused) == (10, True)


def test_rejection_while_replicating_probes_after_match() -> None:
    progress = _progress(match=5)
    progress.become_replicate()
    progress.sent(8, 1, commit=5)
    assert progress.rejected(7, hint=6)
    assert (progress.state, progress.next) == (ProgressState.PROBE, 6)
    assert len(progress.window) == 0


def test_rejection_of_what_is_acknowledged_is_old_news() -> None:
    progress = _progress(match=5)
    progress.become_replicate()
    assert not progress.rejected(5, hint=2)
    assert progress.state is ProgressState.REPLICATE


def test_snapshot_pauses_and_is_followed_by_a_probe_after_it() -> None:
    progress = _progress(match=2)
    progress.become_snapshot(40)
    assert progress.is_paused
    assert not progress.rejected(40, hint=0)
    progress.become_probe()
    assert progress.next == 41
    assert not progress.is_paused


def test_snapshot_that_failed_is_followed_by_a_probe_after_match() -> None:
    progress = _progress(match=2)
    progress.become_snapshot(40)
    progress.pending_snapshot = 0
    progress.become_probe()
    assert progress.next == 3


def test_acknowledgement_never_moves_backwards() -> None:
    progress = _progress()
    assert progress.acknowledged(12)
    assert not progress.acknowledged(11)
    assert not progress.acknowledged(12)
    assert (progress.match, progress.next) == (12, 13)


def test_member_that_lost_what_it_acknowledged_is_not_asked_again_at_once() -> None:
    progress = _progress(match=9)
    progress.sent(0, 0, commit=0)
    assert not progress.rejected(9, hint=2)
    assert (progress.next, progress.is_paused) == (10, True)
