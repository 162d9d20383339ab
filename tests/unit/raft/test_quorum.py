"""Quorums: of one majority, and of two that must agree."""

from hypothesis import given
from hypothesis import strategies as st

from rusd.raft.message import ConfState
from rusd.raft.quorum import Outcome, agreed_index, majority_index, vote_result

MEMBERS = st.lists(st.integers(1, 7), unique=True, max_size=7).map(sorted).map(tuple)
CONFIGS = st.builds(lambda voters, outgoing: ConfState(voters, (), outgoing), MEMBERS, MEMBERS)
INDEXES = st.dictionaries(st.integers(1, 7), st.integers(0, 9))
VOTES = st.dictionaries(st.integers(1, 9), st.booleans())


def _is_majority(count: int, voters: tuple[int, ...]) -> bool:
    return 2 * count > len(voters)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_majority_index_is_the_highest_that_more_than_half_have_reached(indexes: list[int]) -> None:
    def reached(index: int) -> int:
        return sum(one >= index for one in indexes)

    index = majority_index(indexes)
    assert 2 * reached(index) > len(indexes)
    assert 2 * reached(index + 1) <= len(indexes)


@given(CONFIGS, INDEXES)
def test_an_index_is_agreed_upon_when_both_majorities_have_reached_it(
    config: ConfState, indexes: dict[int, int]
) -> None:
    def has_quorum(index: int) -> bool:
        return all(
            _is_majority(sum(indexes.get(v, 0) >= index for v in half), half)
            for half in (config.voters, config.outgoing)
            if half
        )

    agreed = agreed_index(config, lambda voter: indexes.get(voter, 0))
    if not config.voters:
        assert agreed == 0
    else:
        assert agreed == max(index for index in range(10) if has_quorum(index))


@given(CONFIGS, VOTES)
def test_a_vote_is_won_when_both_halves_are_and_lost_when_one_cannot_be(
    config: ConfState, votes: dict[int, bool]
) -> None:
    halves = [half for half in (config.voters, config.outgoing) if half]
    won = [_is_majority(sum(votes.get(v, False) for v in half), half) for half in halves]
    open_ = [_is_majority(sum(votes.get(v, True) for v in half), half) for half in halves]
    if not halves or not all(open_):
        assert vote_result(config, votes) is Outcome.LOST
    elif all(won):
        assert vote_result(config, votes) is Outcome.WON
    else:
        assert vote_result(config, votes) is Outcome.PENDING


@given(CONFIGS, st.sets(st.integers(1, 7)))
def test_two_quorums_of_a_configuration_have_a_voter_in_common(
    config: ConfState, granted: set[int]
) -> None:
    ayes = dict.fromkeys(granted, True)
    others = dict.fromkeys({*config.voters, *config.outgoing} - granted, True)
    both = {vote_result(config, ayes), vote_result(config, others)}
    assert both != {Outcome.WON}


def test_half_of_an_even_number_is_no_majority() -> None:
    four = ConfState((1, 2, 3, 4))
    assert vote_result(four, {1: True, 2: True}) is Outcome.PENDING
    assert vote_result(four, {1: False, 2: False}) is Outcome.LOST
    assert majority_index([9, 9, 5, 5]) == 5
