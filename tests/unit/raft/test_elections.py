"""Elections beyond figure 2: pre-vote, check-quorum, and members that come back (thesis, sections
3.4, 4.2.3, 6.2 and 9.6).
"""

import pytest

from rusd.raft.message import NOBODY, MessageKind, Role
from tests.unit.raft.network import ELECTION, Network


@pytest.mark.parametrize("random", [0, 1, ELECTION - 1])
def test_thesis_3_4_election_timeouts_are_random_between_one_and_two(random: int) -> None:
    bounds: list[int] = []

    def random_ticks(bound: int) -> int:
        bounds.append(bound)
        return random

    net = Network(pre_vote=False, random_ticks=random_ticks)
    net[1].tick(ELECTION + random - 1)
    assert net[1].is_follower
    net[1].tick()
    assert net[1].is_candidate
    assert set(bounds) == {ELECTION}


def test_sole_voter_leads_at_once() -> None:
    net = Network((1,))
    net.elect(1).propose(b"a")
    assert net[1].values == [b"a"]


def test_sole_voter_leads_after_an_election_timeout() -> None:
    net = Network((1,))
    net[1].tick(2 * ELECTION)
    assert net[1].is_leader


def test_sole_voter_leads_beside_learners_that_are_away() -> None:
    net = Network((1,), learners=(2,))
    net.isolate(2)
    net.elect(1).propose(b"a")
    assert net[1].values == [b"a"]


def test_leader_ignores_another_election_of_its_own() -> None:
    net = Network()
    net.elect(1)
    net[1].node.campaign()
    net.settle()
    assert net[1].is_leader
    assert net[1].node.term == 2


# Pre-vote.


def test_thesis_9_6_pre_vote_changes_neither_term_nor_vote() -> None:
    net = Network()
    net[1].tick(2 * ELECTION)
    assert net[1].node.role is Role.PRE_CANDIDATE
    assert net[1].disk.hard_state[:2] == (1, NOBODY)
    requests = [m for m in net.in_flight if m.kind == MessageKind.PRE_VOTE]
    assert {(m.to, m.term) for m in requests} == {(2, net[1].node.term + 1), (3, 2)}
    before = net[2].disk.hard_state
    net.deliver(MessageKind.PRE_VOTE)
    assert net[2].disk.hard_state == before
    net.deliver(MessageKind.PRE_VOTE_REPLY)
    assert net[1].is_candidate
    assert net[1].node.term == 2


def test_thesis_9_6_pre_vote_goes_only_to_a_log_as_up_to_date() -> None:
    net = Network.with_logs({1: [1], 2: [1, 1], 3: [1, 1]})
    net[1].tick(2 * ELECTION)
    net.settle()
    assert net[1].is_follower
    assert {member.node.term for member in net.members.values()} == {1}


def test_thesis_9_6_isolated_member_does_not_disturb_when_it_is_back() -> None:
    net = Network()
    net.elect(1)
    net.isolate(3)
    net.tick(5 * ELECTION)
    assert net[3].node.term == 2
    net.heal()
    net.tick(5 * ELECTION)
    assert net[1].is_leader
    assert net[1].node.term == 2
    assert net[3].node.leader == 1


def test_without_pre_vote_an_isolated_member_brings_a_new_term() -> None:
    """So the test above can fail."""
    net = Network(pre_vote=False)
    net.elect(1)
    net.isolate(3)
    net.tick(5 * ELECTION)
    net.heal()
    net.tick(5 * ELECTION)
    assert net[1].node.term > 2


def test_thesis_9_6_who_hears_of_a_leader_gives_no_pre_vote() -> None:
    net = Network(check_quorum=False)
    net.elect(1)
    assert net[2].get(MessageKind.PRE_VOTE, 3, term=3, index=9, log_term=2) == []
    net[2].tick(ELECTION)
    replies = net[2].get(MessageKind.PRE_VOTE, 3, term=3, index=9, log_term=2)
    assert [(m.kind, m.reject) for m in replies] == [(MessageKind.PRE_VOTE_REPLY, False)]


def test_pre_votes_for_an_earlier_candidacy_do_not_count() -> None:
    net = Network()
    net[1].tick(2 * ELECTION)
    term = net[1].node.term
    net[1].get(MessageKind.PRE_VOTE_REPLY, 2, term=term)
    assert net[1].node.role is Role.PRE_CANDIDATE
    net[1].get(MessageKind.PRE_VOTE_REPLY, 2, term=term + 1)
    assert net[1].is_candidate


def test_granted_pre_vote_is_no_new_term() -> None:
    net = Network()
    net[1].get(MessageKind.PRE_VOTE_REPLY, 2, term=9)
    assert net[1].node.term < 9


def test_pre_candidate_gives_way_to_another_candidate() -> None:
    net = Network()
    net[1].tick(2 * ELECTION)
    net[2].tick(2 * ELECTION)
    net.settle()
    assert sum(member.is_leader for member in net.members.values()) == 1


def test_vote_that_was_granted_counts_whatever_else_its_member_has_said() -> None:
    """A refusal may be the answer to a request of an earlier term."""
    net = Network(range(1, 6))
    net[1].node.campaign()
    net[1].run()
    net[1].get(MessageKind.VOTE_REPLY, 2, reject=True)
    net[1].get(MessageKind.VOTE_REPLY, 2)
    net[1].get(MessageKind.VOTE_REPLY, 2, reject=True)
    net[1].get(MessageKind.VOTE_REPLY, 3)
    assert net[1].is_leader


# Check-quorum and the lease that it gives.


def test_thesis_6_2_leader_without_a_quorum_steps_down_within_two_election_timeouts() -> None:
    net = Network()
    net.elect(1)
    net.isolate(1)
    net[1].tick(2 * ELECTION)
    assert net[1].is_follower
    assert net[1].node.leader == NOBODY


def test_thesis_6_2_leader_stays_while_a_quorum_answers() -> None:
    net = Network(range(1, 6))
    net.elect(1)
    net.isolate(4, 5)
    net.tick(5 * ELECTION)
    assert net[1].is_leader


def test_thesis_6_2_learners_are_no_quorum() -> None:
    net = Network(learners=(4, 5, 6))
    net.elect(1)
    net.isolate(2, 3)
    net.tick(2 * ELECTION)
    assert net[1].is_follower


def test_leader_without_check_quorum_stays() -> None:
    net = Network(check_quorum=False)
    net.elect(1)
    net.isolate(1)
    net[1].tick(5 * ELECTION)
    assert net[1].is_leader


def test_thesis_4_2_3_who_hears_of_a_leader_does_not_vote() -> None:
    net = Network()
    net.elect(1)
    ask = {"term": 9, "index": 9, "log_term": 9}
    assert net[2].get(MessageKind.VOTE, 3, **ask) == []
    assert net[1].get(MessageKind.VOTE, 3, **ask) == []
    assert {member.node.term for member in net.members.values()} == {2}
    net[2].tick(ELECTION)
    (reply,) = [m for m in net[2].get(MessageKind.VOTE, 3, **ask) if m.to == 3]
    assert (reply.kind, reply.reject) == (MessageKind.VOTE_REPLY, False)


def test_thesis_4_2_3_vote_that_the_leader_asked_for_passes_the_lease() -> None:
    net = Network()
    net.elect(1)
    ask = {"term": 3, "index": 9, "log_term": 2, "context": b"transfer"}
    (reply,) = net[2].get(MessageKind.VOTE, 3, **ask)
    assert (reply.kind, reply.reject) == (MessageKind.VOTE_REPLY, False)


# Members that would be stuck.


@pytest.mark.parametrize("kind", [MessageKind.APPEND, MessageKind.HEARTBEAT, MessageKind.SNAPSHOT])
def test_leader_of_an_earlier_term_learns_of_the_later(kind: MessageKind) -> None:
    """Else a member with a higher term could neither join, for the leader's term is stale to it,
    nor be elected, for the others hear of the leader.
    """
    net = Network()
    net.elect(1)
    net[3].get(MessageKind.VOTE_REPLY, 2, term=9, reject=True)
    net.in_flight.clear()
    net[3].get(kind, 1, term=2)
    net.settle()
    assert net[1].node.term >= 9


def test_pre_candidate_of_an_earlier_term_learns_of_the_later() -> None:
    net = Network.with_logs({1: [1, 1, 1], 2: [1], 3: [1]})
    for member in (2, 3):
        net[member].get(MessageKind.HEARTBEAT_REPLY, 1, term=5)
    net[1].tick(2 * ELECTION)
    net.settle()
    assert net[1].node.term >= 5
    net[1].tick(2 * ELECTION)
    net.settle()
    assert net[1].is_leader


def test_candidate_whose_log_is_behind_lets_the_other_one_be_elected() -> None:
    net = Network.with_logs({1: [1], 2: [1, 1]})
    for _ in range(3):
        net[1].node.campaign()
        net.settle()
    assert net[1].is_follower
    net.tick(2 * ELECTION)
    assert net[2].is_leader


def test_member_of_a_higher_term_comes_back_into_a_cluster_with_check_quorum() -> None:
    net = Network(pre_vote=False)
    net.elect(1)
    net.isolate(3)
    net.tick(10 * ELECTION)
    assert net[3].node.term > 5
    net.heal()
    net.tick(4 * ELECTION)
    leaders = [member for member in net.members.values() if member.is_leader]
    assert len(leaders) == 1
    leaders[0].propose(b"a")
    net.settle()
    assert net[3].values == [b"a"]


# Who does not stand for election.


def test_learner_does_not_stand_for_election_but_votes_when_asked() -> None:
    net = Network(learners=(4,))
    net[4].tick(5 * ELECTION)
    net[4].node.campaign()
    net[4].run()
    assert net[4].is_follower
    assert net.in_flight == []
    (reply,) = net[4].get(MessageKind.VOTE, 1, term=2, index=1, log_term=1)
    assert not reply.reject


def test_member_without_a_configuration_does_not_stand_for_election() -> None:
    net = Network()
    net.add(4)
    net[4].tick(5 * ELECTION)
    assert net[4].is_follower
    assert net.in_flight == []


def test_member_with_a_committed_change_that_it_has_not_applied_does_not_stand() -> None:
    net = Network()
    net[2].applies = False
    net.elect(1).change()
    net.settle()
    net[2].node.campaign()
    assert net[2].is_follower
    net[2].tick(3 * ELECTION)
    assert net[2].is_follower
    assert net[2].node.leader == NOBODY
    net[2].apply()
    net[2].node.campaign()
    assert net[2].is_candidate
