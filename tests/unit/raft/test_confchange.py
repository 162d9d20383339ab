"""Changes of a configuration: encoding and effect (thesis, chapter 4)."""

import contextlib
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.raft import confchange
from rusd.raft.confchange import (
    LEAVE_JOINT,
    Change,
    ChangeKind,
    ConfChange,
    ConfChangeError,
    Transition,
    changed,
)
from rusd.raft.message import ConfState
from tests.unit.raft.network import add_learner, add_voter, remove

CHANGES = st.builds(Change, st.sampled_from(ChangeKind), st.integers(1, 5))
CONF_CHANGES = st.builds(
    ConfChange,
    st.lists(CHANGES, max_size=4).map(tuple),
    st.sampled_from([Transition.AUTO, Transition.IMPLICIT, Transition.EXPLICIT]),
    st.binary(max_size=20),
)
THREE = ConfState((1, 2, 3))


@given(CONF_CHANGES | st.just(LEAVE_JOINT))
def test_encoding_is_read_back(change: ConfChange) -> None:
    assert ConfChange.decode(change.encode()) == change


def test_ids_of_64_bits_are_encoded() -> None:
    change = ConfChange((add_voter(0x8E9E05C52164694D),))
    assert ConfChange.decode(change.encode()) == change


def test_nothing_leaves_a_joint_configuration() -> None:
    assert LEAVE_JOINT.encode() == b""
    assert ConfChange.decode(b"") == LEAVE_JOINT


@given(st.binary())
def test_decoding_gives_a_change_or_the_error_for_it(data: bytes) -> None:
    with contextlib.suppress(ConfChangeError):
        assert ConfChange.decode(data).encode() == data


@given(CONF_CHANGES)
def test_truncated_changes_are_refused(change: ConfChange) -> None:
    end = len(change.encode()) - len(change.context)
    for length in range(1, end):
        with pytest.raises(ConfChangeError):
            ConfChange.decode(change.encode()[:length])


def test_one_change_takes_one_step() -> None:
    assert changed(THREE, ConfChange((add_voter(4),))) == ConfState((1, 2, 3, 4))
    assert changed(THREE, ConfChange((remove(2),))) == ConfState((1, 3))
    assert changed(THREE, ConfChange((add_learner(4),))) == ConfState((1, 2, 3), (4,))


def test_learner_is_promoted_and_voter_demoted() -> None:
    learning = ConfState((1, 2), (3,))
    assert changed(learning, ConfChange((add_voter(3),))) == THREE
    assert changed(THREE, ConfChange((add_learner(3),))) == learning


def test_several_changes_go_through_a_joint_configuration() -> None:
    change = ConfChange((add_voter(4), remove(1)))
    joint = changed(THREE, change)
    assert joint == ConfState((2, 3, 4), (), (1, 2, 3), (), True)
    assert changed(joint, LEAVE_JOINT) == ConfState((2, 3, 4))


def test_explicit_joint_configuration_is_not_left_by_itself() -> None:
    joint = changed(THREE, ConfChange((add_voter(4),), Transition.EXPLICIT))
    assert joint == ConfState((1, 2, 3, 4), (), (1, 2, 3))


def test_demoted_voter_learns_only_when_the_joint_configuration_is_left() -> None:
    joint = changed(THREE, ConfChange((add_learner(1), add_voter(4))))
    assert joint == ConfState((2, 3, 4), (), (1, 2, 3), (1,), True)
    assert changed(joint, LEAVE_JOINT) == ConfState((2, 3, 4), (1,))


def test_last_of_several_changes_of_one_member_counts() -> None:
    joint = changed(THREE, ConfChange((add_learner(1), add_voter(1))))
    assert joint == ConfState((1, 2, 3), (), (1, 2, 3), (), True)


def test_change_without_changes_alters_nothing() -> None:
    joint = ConfState((1, 2), (), (2, 3), (), True)
    for state in (THREE, joint):
        assert changed(state, ConfChange(context=b"name")) == state


@pytest.mark.parametrize(
    ("state", "change"),
    [
        (ConfState((1,), (2,)), ConfChange((remove(1),))),
        (ConfState((1,)), ConfChange((add_learner(1),))),
        (ConfState((1, 2), (), (2,)), ConfChange((add_voter(3),))),
        (THREE, LEAVE_JOINT),
        (THREE, ConfChange((add_voter(0),))),
    ],
    ids=["no voter left", "last voter demoted", "joint already", "not joint", "nobody"],
)
def test_impossible_changes_are_refused(state: ConfState, change: ConfChange) -> None:
    with pytest.raises(ConfChangeError):
        changed(state, change)


def _quorums(state: ConfState) -> set[frozenset[int]]:
    """The smallest ones, and some larger."""

    def majorities(half: tuple[int, ...]) -> list[frozenset[int]]:
        size = len(half) // 2 + 1
        return [frozenset(one) for one in combinations(half, size)] or [frozenset()]

    return {a | b for a in majorities(state.voters) for b in majorities(state.outgoing)}


@given(st.sets(st.integers(1, 5), min_size=1), CONF_CHANGES)
def test_quorums_before_and_after_each_step_overlap(voters: set[int], change: ConfChange) -> None:
    before = ConfState(tuple(sorted(voters)))
    try:
        after = changed(before, change)
    except ConfChangeError:
        return
    steps = [before, after]
    if confchange.is_joint(after):
        steps.append(changed(after, LEAVE_JOINT))
    for old, new in pairwise(steps):
        assert all(a & b for a in _quorums(old) for b in _quorums(new))
    final = steps[-1]
    assert not set(final.voters) & set(final.learners)
    assert confchange.members(final) == {*final.voters, *final.learners}
