"""Changes of the membership (thesis, chapter 4), applied when they are committed."""

import pytest

from rusd.raft.confchange import LEAVE_JOINT, Change, ConfChange, ConfChangeError, Transition
from rusd.raft.message import ConfState, EntryKind, Message, MessageKind, ProposalDroppedError
from rusd.raft.progress import ProgressState
from tests.unit.raft.network import (
    ELECTION,
    Network,
    add_learner,
    add_voter,
    entries_of,
    remove,
)


def test_thesis_4_1_change_takes_effect_when_it_is_applied_and_not_before() -> None:
    net = Network()
    net.add(4)
    net.elect(1).change(add_voter(4))
    assert net[1].node.conf_state == ConfState((1, 2, 3))
    assert not any(message.to == 4 for message in net.in_flight)
    net.settle()
    for member in net.members.values():
        assert member.node.conf_state == ConfState((1, 2, 3, 4))


def test_thesis_4_1_one_change_at_a_time() -> None:
    net = Network()
    leader = net.elect(1)
    leader.applies = False
    leader.change(add_voter(4))
    net.settle()
    with pytest.raises(ProposalDroppedError):
        leader.change(add_voter(5))
    leader.apply()
    leader.change(add_voter(5))


def test_thesis_4_1_new_leader_takes_no_change_until_it_has_applied_what_came_before() -> None:
    net = Network()
    net.elect(1)
    net.loses = lambda message: message.kind == MessageKind.APPEND
    for member in net.members.values():
        member.crash()
    with pytest.raises(ProposalDroppedError):
        net.elect(2).change(add_voter(4))
    net.heal()
    net.tick(2)
    net[2].change(add_voter(4))


def test_change_is_proposed_by_any_member() -> None:
    net = Network()
    net.elect(1)
    net[3].change(add_learner(4))
    net.settle()
    assert net[2].node.conf_state == ConfState((1, 2, 3), (4,))


@pytest.mark.parametrize("data", [b"\x00", LEAVE_JOINT.encode(), b"\x00\x00\x01\x00" + b"\0" * 8])
def test_change_of_a_follower_that_makes_no_sense_is_dropped(data: bytes) -> None:
    net = Network()
    net.elect(1)
    last = net[1].node.last_index
    message = Message(MessageKind.PROPOSE, 1, 2, entries=entries_of([0])[:0])
    assert message.entries == ()
    net[1].step(message)
    net[2].node._core.propose((data,), EntryKind.CONF_CHANGE)
    net.settle()
    assert net[1].node.last_index == last


def test_change_that_makes_no_sense_is_refused_by_the_leader() -> None:
    net = Network((1,))
    with pytest.raises(ConfChangeError):
        net.elect(1).change(remove(1))


def test_refused_change_alters_nothing() -> None:
    net = Network()
    assert net[1].node.apply_conf_change(None) == ConfState((1, 2, 3))


def test_change_without_changes_is_replicated_and_alters_nothing() -> None:
    net = Network()
    net.elect(1).node.propose_conf_change(ConfChange(context=b"new name"))
    net.settle()
    for member in net.members.values():
        assert ConfChange.decode(member.applied[-1].data).context == b"new name"
        assert member.node.conf_state == ConfState((1, 2, 3))


# New members.


def test_thesis_4_2_1_learner_is_brought_up_to_date_and_does_not_count() -> None:
    net = Network((1, 2))
    net.add(3)
    net.elect(1).propose(b"a")
    net.settle()
    net[1].change(add_learner(3))
    net.tick(2)
    assert net[3].values == [b"a"]
    assert net[3].node.is_learner
    net.isolate(2)
    net[1].propose(b"b")
    net.settle()
    assert net[1].values == [b"a"]


def test_thesis_4_2_1_learner_is_promoted() -> None:
    net = Network((1, 2), learners=(3,))
    net.elect(1).change(add_voter(3))
    net.settle()
    assert not net[3].node.is_learner
    net.isolate(2)
    net[1].propose(b"b")
    net.settle()
    assert net[3].values == [b"b"]
    net[3].node.transfer_leader(3)
    net.settle()
    assert net[3].is_leader


def test_new_member_is_not_the_reason_to_step_down_before_it_is_heard_of() -> None:
    net = Network((1,))
    net.elect(1)
    net[1].tick(ELECTION - 1)
    net[1].change(add_voter(2))
    net[1].tick()
    assert net[1].is_leader


def test_member_that_comes_back_under_its_id_begins_anew() -> None:
    net = Network()
    net.elect(1).change(remove(3))
    net.settle()
    net.isolate(3)
    net[1].change(add_learner(3))
    net.settle()
    progress = net[1].node.progress()[3]
    assert progress.match == 0
    assert progress.recent_active
    assert progress.state is ProgressState.PROBE


# Removed members.


def test_thesis_4_2_2_leader_that_removes_itself_manages_the_cluster_until_it_is_committed() -> (
    None
):
    net = Network()
    net.elect(1).change(remove(1))
    assert net[1].is_leader
    net.settle()
    assert net[1].is_follower
    for member in (2, 3):
        assert net[member].node.conf_state == ConfState((2, 3))
    assert sum(net[member].is_leader for member in (2, 3)) == 1


def test_thesis_4_2_2_leader_that_removes_itself_does_not_count_itself_after() -> None:
    net = Network()
    net.elect(1)
    net.loses = lambda message: message.sender == 1 and message.commit >= 3
    net[1].change(remove(1))
    net.settle()
    assert net[1].node.conf_state == ConfState((2, 3))
    assert net[1].is_leader
    with pytest.raises(ProposalDroppedError):
        net[1].propose(b"a")
    # Not even when it hears of nobody: none of the others may be able to lead.
    net[1].tick(3 * ELECTION)
    assert net[1].is_leader


def test_leader_that_removed_itself_leads_until_a_quorum_knows_of_it() -> None:
    """With two members, the other needs the vote of the removed one as long as it does not know;
    it would not get it for a log that is shorter.
    """
    net = Network((1, 2))
    net.elect(1)
    net.loses = lambda message: message.sender == 1 and message.commit >= 3
    net[1].change(remove(1))
    net[1].propose(b"a")
    net.settle()
    assert net[1].node.conf_state == ConfState((2,))
    assert net[2].node.conf_state == ConfState((1, 2))
    assert net[1].is_leader
    net.heal()
    net.tick(2)
    assert net[1].is_follower
    assert net[2].is_leader
    assert net[2].values == [b"a"]


@pytest.mark.parametrize("change", [remove(1), add_learner(1)])
@pytest.mark.parametrize("pre_vote", [True, False])
def test_leader_that_removed_itself_and_crashed_stands_in_for_who_needs_its_vote(
    change: Change, pre_vote: bool
) -> None:
    """2 does not know that the change is committed, and 1 has more in its log."""
    net = Network((1, 2), pre_vote=pre_vote)
    net.elect(1)
    net.loses = lambda message: message.sender == 1 and max(message.commit, message.index) >= 3
    net[1].change(change)
    net[1].propose(b"a")
    net.settle()
    net.heal()
    net[1].crash()
    net[1].run()
    assert [net[member].node.is_learner for member in (1, 2)] == [change != remove(1), False]
    assert [len(net[member].node.conf_state.voters) for member in (1, 2)] == [1, 2]
    assert net[1].node.last_index > net[2].node.last_index
    net.tick(5 * ELECTION)
    assert net[2].is_leader
    assert net[2].node.conf_state.voters == (2,)
    assert net[2].log[:2] == net[1].log[:2]


@pytest.mark.parametrize(("sender", "stands_in"), [(2, True), (4, False), (9, False)])
def test_nobody_stands_in_for_who_has_no_vote_either(sender: int, stands_in: bool) -> None:
    net = Network((2, 3), learners=(1, 4))
    net.elect(2)
    net[1].tick(ELECTION)
    net[1].get(MessageKind.PRE_VOTE, sender, term=3, index=1, log_term=1)
    asked = {m.to for m in net.in_flight if m.kind == MessageKind.PRE_VOTE}
    assert asked == ({2, 3} if stands_in else set())
    net[1].tick(3 * ELECTION)
    assert net[1].is_follower


def test_leader_that_becomes_a_learner_steps_down() -> None:
    net = Network()
    net.elect(1).change(add_learner(1))
    net.settle()
    assert net[1].is_follower
    net.tick(3 * ELECTION)
    assert net[1].node.leader in (2, 3)
    assert net[1].node.is_learner


def test_what_waits_for_a_removed_member_is_committed_without_it() -> None:
    net = Network((1, 2))
    net.elect(1).change(remove(2))
    net.deliver(MessageKind.APPEND, to=2)
    net[1].propose(b"a")
    net.drop(MessageKind.APPEND)
    net.deliver(MessageKind.APPEND_REPLY)
    assert net[1].values == [b"a"]
    net.isolate(2)
    net[1].propose(b"b")
    net.settle()
    assert net[1].values == [b"a", b"b"]


def test_removal_is_remembered_through_a_crash() -> None:
    """A member that has applied the removal, and crashes, must not wait for the vote of who may
    be gone for good.
    """
    net = Network((1, 2))
    net.elect(1).change(remove(2))
    net.settle()
    assert net[1].node.conf_state == ConfState((1,))
    net[1].crash()
    net.isolate(2)
    net.tick(2 * ELECTION)
    assert net[1].node.conf_state == ConfState((1,))
    assert net[1].is_leader


def test_change_waits_for_its_commitment_to_be_on_disk() -> None:
    net = Network((1, 2))
    net.elect(1).change(remove(2))
    net.deliver(MessageKind.APPEND, to=2)
    net[1].disk_is_slow = True
    net.deliver(MessageKind.APPEND_REPLY)
    assert net[1].node.commit == 3
    assert net[1].node.conf_state == ConfState((1, 2))
    net[1].sync()
    net[1].run()
    assert net[1].node.conf_state == ConfState((1,))


@pytest.mark.parametrize("pre_vote", [True, False])
def test_thesis_4_2_3_removed_member_does_not_disturb(pre_vote: bool) -> None:
    net = Network(pre_vote=pre_vote)
    net.elect(1)
    # It does not hear that it is removed.
    net.loses = lambda message: message.to == 3
    net[1].change(remove(3))
    net.settle()
    net.heal()
    for _ in range(10 * ELECTION):
        net.tick()
        assert net[1].is_leader
        assert net[1].node.term == 2
    assert net[3].node.conf_state == ConfState((1, 2, 3))


@pytest.mark.parametrize(
    "kind",
    [
        MessageKind.APPEND_REPLY,
        MessageKind.HEARTBEAT_REPLY,
        MessageKind.VOTE_REPLY,
        MessageKind.PROPOSE,
        MessageKind.TRANSFER_LEADER,
    ],
)
def test_leader_ignores_strangers(kind: MessageKind) -> None:
    net = Network()
    net.elect(1)
    before = net[1].node.last_index
    context = (2).to_bytes(8, "big")
    net[1].get(kind, 9, term=99, reject=True, entries=entries_of([0], 0), context=context)
    assert net[1].is_leader
    assert (net[1].node.term, net[1].node.last_index) == (2, before)


def test_follower_follows_a_leader_that_it_does_not_know_yet() -> None:
    net = Network()
    net[1].get(MessageKind.APPEND, 9, term=5, index=1, log_term=1, entries=entries_of([5]))
    assert (net[1].node.leader, net[1].log) == (9, [5])


# Joint consensus.


def test_thesis_4_3_joint_configuration_needs_both_majorities_and_is_left_by_itself() -> None:
    net = Network()
    for member in (4, 5):
        net.add(member)
    net.elect(1)
    net.loses = lambda message: message.to in (4, 5)
    net[1].change(add_voter(4), add_voter(5), remove(2), remove(3))
    net.settle()
    assert net[1].node.conf_state == ConfState((1, 4, 5), (), (1, 2, 3), (), True)
    # The majority of the outgoing has it, but not that of the incoming.
    commit = net[1].node.commit
    net[1].propose(b"a")
    net.tick()
    assert net[1].node.commit == commit
    net.heal()
    net.tick(2)
    assert net[1].node.conf_state == ConfState((1, 4, 5))
    assert net[5].values == [b"a"]
    net.isolate(2, 3)
    net[1].propose(b"b")
    net.settle()
    assert net[5].values == [b"a", b"b"]


def test_thesis_4_3_explicit_joint_configuration_is_left_when_asked() -> None:
    net = Network()
    net.elect(1).change(remove(3), transition=Transition.EXPLICIT)
    net.tick(3)
    joint = ConfState((1, 2), (), (1, 2, 3))
    assert net[1].node.conf_state == joint
    with pytest.raises(ConfChangeError):
        net[1].change(add_voter(4))
    net[1].node.propose_conf_change(LEAVE_JOINT)
    net.settle()
    assert net[2].node.conf_state == ConfState((1, 2))


def test_thesis_4_3_next_leader_leaves_the_joint_configuration() -> None:
    net = Network()
    net.elect(1)
    leave = LEAVE_JOINT.encode()
    net.loses = lambda message: any(
        entry.kind == EntryKind.CONF_CHANGE and entry.data == leave for entry in message.entries
    )
    net[1].change(add_voter(4), add_voter(5))
    net.settle()
    assert net[2].node.conf_state.outgoing == (1, 2, 3)
    net.isolate(1)
    for member in (4, 5):
        net.add(member)
    net.tick(5 * ELECTION)
    assert net[2].node.conf_state == ConfState((1, 2, 3, 4, 5))


def test_thesis_4_3_candidate_in_a_joint_configuration_needs_both_majorities() -> None:
    net = Network()
    net.elect(1)
    net[1].change(add_voter(4), add_voter(5), remove(2), remove(3), transition=Transition.EXPLICIT)
    net.tick(2)
    net[1].crash()
    net[1].run()
    net[1].node.campaign()
    net[1].run()
    assert {m.to for m in net.in_flight if m.kind == MessageKind.VOTE} == {2, 3, 4, 5}
    for voter in (2, 3):
        net[1].get(MessageKind.VOTE_REPLY, voter)
    assert net[1].is_candidate
    net[1].get(MessageKind.VOTE_REPLY, 4)
    assert net[1].is_leader


def test_transfer_to_a_member_that_is_removed_is_given_up() -> None:
    net = Network()
    net.elect(1).change(remove(3))
    net.loses = lambda message: message.kind == MessageKind.TIMEOUT_NOW
    net[1].node.transfer_leader(3)
    net.settle()
    net[1].propose(b"a")
    net.settle()
    assert net[1].values == [b"a"]
