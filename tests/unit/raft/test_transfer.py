"""Transfer of leadership (thesis, section 3.10)."""

import pytest

from rusd.raft.message import MessageKind, ProposalDroppedError
from tests.unit.raft.network import ELECTION, Network


def test_thesis_3_10_up_to_date_follower_succeeds_at_once() -> None:
    net = Network()
    net.elect(1)
    net[1].node.transfer_leader(3)
    net.settle()
    assert net[3].is_leader
    assert net[3].node.term == 3
    assert net[1].is_follower


def test_thesis_3_10_transferee_asks_for_no_pre_vote_and_passes_the_lease() -> None:
    net = Network()
    net.elect(1)
    net[1].node.transfer_leader(3)
    net[1].run()
    net.deliver(MessageKind.TIMEOUT_NOW)
    votes = [message for message in net.in_flight if message.to != 3]
    assert [(m.kind, m.context) for m in votes] == [(MessageKind.VOTE, b"transfer")] * 2


def test_thesis_3_10_follower_that_is_behind_is_brought_up_to_date_first() -> None:
    net = Network()
    net.elect(1)
    net.isolate(3)
    net[1].propose(b"a")
    net.settle()
    net.heal()
    net[1].node.transfer_leader(3)
    net[1].run()
    assert net.drop(MessageKind.TIMEOUT_NOW) == []
    net.tick()
    net.settle()
    assert net[3].is_leader
    assert net[3].values == [b"a"]


def test_thesis_3_10_proposals_are_held_off_meanwhile() -> None:
    net = Network()
    net.elect(1)
    net[1].node.transfer_leader(3)
    for propose in (net[1].propose, net[1].change):
        with pytest.raises(ProposalDroppedError):
            propose()
    last = net[1].node.last_index
    net[2].propose(b"a")
    net.deliver(MessageKind.PROPOSE)
    assert net[1].node.last_index == last


def test_thesis_3_10_leader_goes_on_after_an_election_timeout() -> None:
    net = Network()
    net.elect(1)
    net.loses = lambda message: message.kind == MessageKind.TIMEOUT_NOW
    net[1].node.transfer_leader(3)
    net.tick(ELECTION)
    assert net[1].is_leader
    net[1].propose(b"a")
    net.settle()
    assert net[2].values == [b"a"]


def test_follower_forwards_the_request() -> None:
    net = Network()
    net.elect(1)
    net[2].node.transfer_leader(3)
    net.settle()
    assert net[3].is_leader


def test_later_request_takes_the_place_of_the_earlier() -> None:
    net = Network()
    net.elect(1)
    net.isolate(3)
    net[1].propose(b"a")
    net.settle()
    net[1].node.transfer_leader(3)
    net[1].node.transfer_leader(2)
    net.settle()
    assert net[2].is_leader


@pytest.mark.parametrize("to", [1, 4, 9], ids=["itself", "learner", "stranger"])
def test_only_another_voter_can_succeed(to: int) -> None:
    net = Network(learners=(4,))
    net.elect(1)
    net[1].node.transfer_leader(to)
    net.settle()
    net[1].propose(b"a")
    net.settle()
    assert net[1].is_leader
    assert net[1].values == [b"a"]


@pytest.mark.parametrize("term", [1, 2])
def test_request_to_stand_is_ignored_of_who_cannot_or_may_not(term: int) -> None:
    net = Network(learners=(4,))
    net.elect(1)
    net[4].get(MessageKind.TIMEOUT_NOW, 1, term=term)
    assert net[4].is_follower
    net[2].get(MessageKind.TIMEOUT_NOW, 3, term=term)
    assert net[2].is_follower
