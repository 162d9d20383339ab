"""The log in memory: what conflicts, what is on disk, what is applied."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.raft.log import Log, LogError
from rusd.raft.message import Entry, EntryKind, HardState, Persisted, Snapshot


def entries(first: int, *terms: int, kind: int = EntryKind.NORMAL) -> tuple[Entry, ...]:
    return tuple(Entry(term, index, b"x", kind) for index, term in enumerate(terms, first))


def log_of(*terms: int, base: int = 1, commit: int = 0) -> Log:
    """A log of these terms after a snapshot of index `base`, term 1, all on disk."""
    return Log(Persisted(Snapshot(base, 1), HardState(9, 0, commit), entries(base + 1, *terms)))


def terms(log: Log) -> list[int]:
    return [log.term(index) for index in range(log.first_index, log.last_index + 1)]


def test_log_begins_after_its_snapshot() -> None:
    log = log_of(1, 2, base=7)
    assert (log.first_index, log.last_index, log.last_term) == (8, 9, 2)
    assert [log.term(index) for index in (6, 7, 8, 9, 10)] == [0, 1, 1, 2, 0]
    assert (log.commit, log.applied, log.persisted) == (7, 7, 9)


def test_entries_before_what_is_applied_stay_for_who_lags() -> None:
    log = Log(Persisted(Snapshot(4, 2), HardState(2, 0, 4), entries(2, 1, 1, 2, 2)))
    assert (log.first_index, log.last_index) == (3, 5)
    assert (log.commit, log.applied) == (4, 4)


@pytest.mark.parametrize(
    "persisted",
    [
        Persisted(Snapshot(1, 1), entries=entries(3, 1)),
        Persisted(Snapshot(1, 1), entries=(*entries(2, 1), *entries(4, 1))),
        Persisted(Snapshot(1, 1), HardState(1, 0, 5), entries(2, 1)),
        Persisted(Snapshot(5, 1), entries=entries(2, 1)),
    ],
    ids=["gap at the start", "gap", "ends before the commit index", "ends before the snapshot"],
)
def test_disk_that_does_not_fit_together_is_refused(persisted: Persisted) -> None:
    with pytest.raises(LogError):
        Log(persisted)


def test_merge_keeps_what_is_there_and_appends_what_is_new() -> None:
    log = log_of(1, 2, 2)
    assert log.merge(entries(3, 2, 2, 3))
    assert terms(log) == [1, 2, 2, 3]
    assert log.persisted == 4


def test_merge_of_an_old_message_deletes_nothing() -> None:
    log = log_of(1, 2, 2)
    assert log.merge(entries(2, 1))
    assert terms(log) == [1, 2, 2]


def test_merge_deletes_from_the_first_conflict_on() -> None:
    log = log_of(1, 2, 2)
    assert log.merge(entries(3, 3))
    assert terms(log) == [1, 3]
    assert log.persisted == 2


def test_merge_never_alters_what_is_committed() -> None:
    log = log_of(1, 2, 2, commit=3)
    assert not log.merge(entries(3, 3, 3))
    assert terms(log) == [1, 2, 2]


LOGS = st.lists(st.integers(0, 2), max_size=8).map(
    lambda steps: [1 + sum(steps[: i + 1]) for i in range(len(steps))]
)


@given(LOGS, LOGS, st.integers(0, 8))
def test_conflict_hint_never_passes_over_what_two_logs_share(
    ours: list[int], theirs: list[int], shared: int
) -> None:
    """With the same term at an index, all before is the same (figure 3): so make it so."""
    shared = min(shared, len(ours), len(theirs))
    theirs = ours[:shared] + [term + 20 for term in theirs[shared:]]
    follower, leader = log_of(*ours), log_of(*theirs)
    hint, term = follower.conflict_hint(leader.last_index, leader.last_term)
    answer, _ = leader.conflict_hint(hint, term)
    assert 1 + shared <= hint
    assert 1 + shared <= answer <= hint


def test_conflict_hint_skips_terms_that_cannot_be_shared() -> None:
    follower = log_of(1, 4, 4, 5, 5, 5)
    assert follower.conflict_hint(6, 4) == (4, 4)
    assert follower.conflict_hint(6, 3) == (2, 1)
    assert follower.conflict_hint(99, 9) == (7, 5)


def test_slice_takes_at_least_one_entry_and_at_most_the_bytes() -> None:
    log = log_of(1, 1, 1, 1)
    assert [entry.index for entry in log.slice(2, 0)] == [2]
    assert [entry.index for entry in log.slice(2, 3)] == [2, 3, 4]
    assert [entry.index for entry in log.slice(4, 100)] == [4, 5]
    assert log.slice(6, 100) == ()


def test_entries_are_handed_out_once_and_on_disk_when_written() -> None:
    log = log_of()
    log.append(entries(2, 1, 1))
    assert len(log.hand_out(1)) == 2
    assert log.hand_out(2) == ()
    log.append(entries(4, 1))
    assert [entry.index for entry in log.hand_out(3)] == [4]
    assert log.persisted == 1
    assert log.written(1)
    assert log.persisted == 3
    assert log.written(3)
    assert log.persisted == 4


def test_a_later_write_answers_for_the_earlier() -> None:
    log = log_of()
    for number in (1, 2, 3):
        log.append(entries(1 + number, 1))
        log.hand_out(number)
    log.written(2)
    assert log.persisted == 3


def test_write_from_before_a_truncation_does_not_count_what_was_replaced() -> None:
    log = log_of(1)
    log.append(entries(3, 1, 1))
    log.hand_out(1)
    log.merge(entries(3, 2, 2))
    log.hand_out(2)
    log.written(1)
    assert log.persisted == 2
    log.written(2)
    assert log.persisted == 4


def test_write_does_not_count_even_when_the_terms_look_as_before() -> None:
    """Entries of term 2 are replaced by some of term 3, and these by the ones of term 2 again:
    a write of the first does not say that the last are on disk, as the second may be over them.
    """
    log = log_of(1)
    log.append(entries(3, 2, 2))
    log.hand_out(1)
    log.merge(entries(3, 3))
    log.hand_out(2)
    log.merge(entries(3, 2, 2))
    log.hand_out(3)
    log.written(1)
    assert log.persisted == 2
    log.written(2)
    assert log.persisted == 2
    log.written(3)
    assert log.persisted == 4


def test_only_what_is_on_disk_is_applied() -> None:
    log = log_of()
    log.append(entries(2, 1, 1))
    log.hand_out(1)
    log.commit_to(3)
    assert not log.has_committed
    log.written(1)
    assert [entry.index for entry in log.hand_out_committed(100)] == [2, 3]
    assert not log.has_committed
    assert log.hand_out_committed(100) == ()


def test_commit_past_the_end_is_misuse() -> None:
    with pytest.raises(LogError):
        log_of(1).commit_to(3)


def test_commit_index_never_falls() -> None:
    log = log_of(1, 1, commit=3)
    assert not log.commit_to(2)
    assert log.commit == 3


def test_conf_change_waits_until_it_is_on_disk_that_it_is_committed() -> None:
    log = log_of()
    log.append((*entries(2, 1), *entries(3, 1, kind=EntryKind.CONF_CHANGE), *entries(4, 1)))
    log.hand_out(1)
    log.written(1)
    log.commit_to(4)
    assert [entry.index for entry in log.hand_out_committed(100)] == [2]
    assert not log.has_committed
    log.durable_commit = 4
    assert [entry.index for entry in log.hand_out_committed(100)] == [3, 4]


def test_compaction_keeps_the_term_of_the_last_that_it_takes() -> None:
    log = log_of(1, 2, 2, commit=4)
    log.hand_out_committed(100)
    log.applied_to(3)
    log.compact(3)
    assert (log.first_index, log.last_index, terms(log)) == (4, 4, [2])
    assert log.term(3) == 2
    assert log.matches(3, 2)
    assert not log.matches(2, 1)
    log.compact(2)
    assert log.first_index == 4


def test_compaction_of_what_is_not_applied_is_misuse() -> None:
    with pytest.raises(LogError):
        log_of(1, 1, commit=3).compact(2)


def test_applying_what_was_not_handed_out_is_misuse() -> None:
    with pytest.raises(LogError):
        log_of(1, 1, commit=3).applied_to(2)


def test_snapshot_takes_the_place_of_the_log() -> None:
    log = log_of(1, 1, 1)
    log.append(entries(5, 2))
    log.hand_out(1)
    log.restore(Snapshot(20, 3))
    assert (log.first_index, log.last_index, log.last_term) == (21, 20, 3)
    assert (log.commit, log.applied) == (20, 20)
    log.written(1)
    assert log.is_installing
    log.merge(entries(21, 3))
    log.commit_to(21)
    log.hand_out(2)
    assert not log.has_committed
    log.written(2)
    assert not log.is_installing
    assert [entry.index for entry in log.hand_out_committed(100)] == [21]


def test_up_to_date_is_by_last_term_and_then_by_length() -> None:
    log = log_of(1, 3)
    assert log.is_up_to_date(2, 4)
    assert log.is_up_to_date(3, 3)
    assert log.is_up_to_date(4, 3)
    assert not log.is_up_to_date(2, 3)
    assert not log.is_up_to_date(9, 2)


def test_write_from_before_a_snapshot_does_not_count_as_its_installation() -> None:
    log = log_of(1)
    log.append(entries(3, 2, 2, 2, 2))
    log.hand_out(1)
    log.restore(Snapshot(4, 3))
    log.written(1)
    assert log.is_installing
