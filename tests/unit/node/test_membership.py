"""rusd/node/membership.py. The refusals and their order are those of etcd 3.5.30, as asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.node.membership import (
    Action,
    LastVoterError,
    MemberChange,
    MemberExistsError,
    MemberNotFoundError,
    Membership,
    MembershipError,
    NotLearnerError,
    PeerUrlsExistError,
    TooManyLearnersError,
    decode_conf_state,
    encode_conf_state,
)
from rusd.pb.rpc_pb2 import Member
from rusd.raft.confchange import Change, ChangeKind, ConfChange
from rusd.raft.message import ConfState
from rusd.storage.engine import Engine
from tests.unit.mvcc.opened import fresh_directory


def member(id_: int, *, learner: bool = False, url: str = "") -> Member:
    return Member(
        ID=id_,
        name=f"m{id_}",
        peerURLs=[url or f"http://m{id_}:2380"],
        clientURLs=[f"http://m{id_}:2379"],
        isLearner=learner,
    )


def three() -> Membership:
    members = {id_: member(id_) for id_ in (1, 2, 3)}
    return Membership(77, 2, members, {9}, ConfState(voters=(1, 2, 3)))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (MemberChange(Action.ADD, member(1, url="http://new:1")), MemberExistsError),
        (MemberChange(Action.ADD, member(4, url="http://m1:2380")), PeerUrlsExistError),
        (MemberChange(Action.ADD, member(9)), MemberNotFoundError),
        (MemberChange(Action.ADD_LEARNER, member(9)), MemberNotFoundError),
        (MemberChange(Action.ADD_LEARNER, member(4), 0), TooManyLearnersError),
        (MemberChange(Action.PROMOTE, Member(ID=1)), NotLearnerError),
        (MemberChange(Action.PROMOTE, Member(ID=4)), MemberNotFoundError),
        (MemberChange(Action.UPDATE, member(4)), MemberNotFoundError),
        (MemberChange(Action.UPDATE, member(1, url="http://m2:2380")), PeerUrlsExistError),
        (MemberChange(Action.REMOVE, Member(ID=4)), MemberNotFoundError),
        (MemberChange(Action.REMOVE, Member(ID=9)), MemberNotFoundError),
    ],
)
def test_a_refused_change_changes_nothing(
    change: MemberChange, error: type[MembershipError]
) -> None:
    membership = three()
    with pytest.raises(error):
        membership.check(change)
    with pytest.raises(error):
        membership.apply(change)
    assert membership == three()


def test_the_limit_of_learners_is_of_who_asked() -> None:
    membership = three()
    membership.apply(MemberChange(Action.ADD_LEARNER, member(4), 2))
    membership.apply(MemberChange(Action.ADD_LEARNER, member(5), 2))
    with pytest.raises(TooManyLearnersError):
        membership.apply(MemberChange(Action.ADD_LEARNER, member(6), 2))
    membership.apply(MemberChange(Action.ADD, member(6), 2))
    assert [each.ID for each in membership.learners] == [4, 5]
    assert [each.ID for each in membership.voters] == [1, 2, 3, 6]


def test_the_last_voter_stays_and_the_last_but_one_goes() -> None:
    membership = Membership(77, 1, {1: member(1), 2: member(2)})
    membership.apply(MemberChange(Action.ADD_LEARNER, member(3)))
    membership.apply(MemberChange(Action.REMOVE, Member(ID=1)))
    assert membership.is_removed
    with pytest.raises(LastVoterError):
        membership.apply(MemberChange(Action.REMOVE, Member(ID=2)))
    membership.apply(MemberChange(Action.PROMOTE, Member(ID=3)))
    membership.apply(MemberChange(Action.REMOVE, Member(ID=2)))
    assert membership.members == {3: member(3)}


def test_a_removed_id_never_comes_back() -> None:
    membership = three()
    membership.apply(MemberChange(Action.REMOVE, Member(ID=3)))
    with pytest.raises(MemberNotFoundError):
        membership.apply(MemberChange(Action.ADD, member(3)))
    assert membership.publish(member(3)) == []
    assert 3 not in membership.members


def test_an_update_is_of_peer_urls_and_a_publication_of_the_rest() -> None:
    membership = three()
    membership.apply(MemberChange(Action.ADD_LEARNER, member(4)))
    membership.apply(
        MemberChange(Action.UPDATE, Member(ID=4, name="no", peerURLs=["http://a:1", "http://b:1"]))
    )
    membership.publish(
        Member(ID=4, name="four", peerURLs=["http://no:1"], clientURLs=["http://c:1"])
    )
    assert membership.members[4] == Member(
        ID=4,
        name="four",
        peerURLs=["http://a:1", "http://b:1"],
        clientURLs=["http://c:1"],
        isLearner=True,
    )
    # Its own URLs again are no conflict.
    membership.apply(MemberChange(Action.UPDATE, member(1)))


actions = st.sampled_from(Action)
changes = st.builds(
    MemberChange,
    actions,
    st.builds(
        member,
        st.integers(1, 6),
        learner=st.booleans(),
        url=st.sampled_from(["", "http://m1:2380", "http://x:2380"]),
    ),
    st.integers(0, 2),
)


@given(st.lists(changes, max_size=20))
def test_rows_say_all_that_changes_did(script: list[MemberChange]) -> None:
    """Also in place, and in another member's tables; and an encoded change does the same."""
    with fresh_directory() as directory:
        engine = Engine(directory)
        state = engine.tables.state
        membership, other = three(), three()
        rows = membership.rows()
        for change in script:
            again = MemberChange.decode(change.encode())
            assert again == change
            try:
                rows += membership.apply(change)
            except MembershipError as error:
                with pytest.raises(type(error)):
                    other.apply(again)
                continue
            other.apply(again)
            rows += membership.set_conf_state(
                ConfState(
                    tuple(sorted(each.ID for each in membership.voters)),
                    tuple(sorted(each.ID for each in membership.learners)),
                )
            )
        for name, row in rows:
            if row is None:
                state.delete(name)
            else:
                state.put(name, row)
        assert Membership.load(state) == membership
        other.set_conf_state(membership.conf_state)
        assert other == membership
        receiver = Membership(77, 3, {8: member(8)}, {1}, ConfState())
        receiver.reload(state)
        assert receiver.local_id == 3
        receiver.local_id = 2
        assert receiver == membership
        del state
        engine.close()
        vars(engine).clear()


def test_a_database_of_before_there_were_clusters_has_one_voter() -> None:
    with fresh_directory() as directory:
        engine = Engine(directory)
        state = engine.tables.state
        assert Membership.load(state) is None
        alone = Membership(77, 1, {1: member(1)})
        for name, row in alone.rows():
            if name != alone.conf_state_row()[0]:
                state.put(name, row)
        loaded = Membership.load(state)
        assert loaded is not None
        assert loaded.conf_state == ConfState(voters=(1,))
        del state
        engine.close()
        vars(engine).clear()


@pytest.mark.parametrize(
    ("action", "changes_"),
    [
        (Action.ADD, (Change(ChangeKind.ADD_VOTER, 4),)),
        (Action.ADD_LEARNER, (Change(ChangeKind.ADD_LEARNER, 4),)),
        (Action.PROMOTE, (Change(ChangeKind.ADD_VOTER, 4),)),
        (Action.REMOVE, (Change(ChangeKind.REMOVE, 4),)),
        (Action.UPDATE, ()),
    ],
)
def test_what_an_action_is_to_raft(action: Action, changes_: tuple[Change, ...]) -> None:
    change = MemberChange(action, member(4))
    proposed = ConfChange.decode(change.conf_change(7, 99).encode())
    assert proposed.changes == changes_
    assert MemberChange.of(proposed) == (7, 99, change)
    assert MemberChange.of(ConfChange()) is None


ids = st.lists(st.integers(1, 2**64 - 1), max_size=5).map(tuple)


@given(st.builds(ConfState, ids, ids, ids, ids, st.booleans()))
def test_a_configuration_is_stored_as_it_is(conf_state: ConfState) -> None:
    stored = encode_conf_state(conf_state)
    assert decode_conf_state(stored) == conf_state
    if any(conf_state[:4]):
        with pytest.raises(ValueError, match="ends too early"):
            decode_conf_state(stored[:-8])
