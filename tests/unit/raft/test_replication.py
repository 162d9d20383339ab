"""Replication beyond figure 2: pipelining, the window, batches, and the leader's own disk (thesis,
sections 10.2.1 and 10.2.2).
"""

import pytest

from rusd.raft.message import Message, MessageKind, ProposalDroppedError
from rusd.raft.progress import ProgressState
from tests.unit.raft.network import Network


def appends(net: Network, to: int) -> list[Message]:
    return [m for m in net.in_flight if m.kind == MessageKind.APPEND and m.to == to]


# The leader's disk.


def test_thesis_10_2_1_leader_sends_before_its_own_disk_is_done() -> None:
    net = Network()
    net.elect(1).disk_is_slow = True
    net[1].propose(b"a")
    assert len(appends(net, to=2)) == 1
    assert net[1].disk_end == 2


def test_thesis_10_2_1_leader_counts_itself_only_when_it_is_on_its_disk() -> None:
    net = Network()
    net.elect(1).disk_is_slow = True
    net.isolate(3)
    net[1].propose(b"a")
    net.settle()
    assert net[1].node.progress()[2].match == 3
    assert net[1].node.commit == 2
    net[1].sync()
    assert net[1].node.commit == 3


def test_thesis_10_2_1_entry_may_be_committed_by_the_others_before() -> None:
    net = Network()
    net.elect(1).disk_is_slow = True
    net[1].propose(b"a")
    net.settle()
    assert net[1].node.commit == 3
    assert net[2].values == [b"a"]
    # The state machine is never ahead of the log on the same disk.
    assert net[1].values == []
    net[1].sync()
    net[1].run()
    assert net[1].values == [b"a"]


def test_sole_voter_commits_when_it_is_on_its_disk() -> None:
    net = Network((1,))
    net.elect(1).disk_is_slow = True
    net[1].propose(b"a")
    assert net[1].node.commit == 2
    net[1].sync()
    assert net[1].node.commit == 3


def test_what_is_not_on_disk_is_lost_in_a_crash_and_comes_again() -> None:
    net = Network()
    net.elect(1)
    net[3].disk_is_slow = True
    net[1].propose(b"a")
    net.settle()
    net[3].disk_is_slow = False
    net[3].crash()
    assert net[3].node.last_index == 2
    net.tick(2)
    assert net[3].values == [b"a"]


# Pipelining and batches.


def test_thesis_10_2_2_entries_are_sent_without_waiting_for_acknowledgements() -> None:
    net = Network()
    net.elect(1)
    for value in (b"a", b"b", b"c"):
        net[1].propose(value)
    assert [[e.data for e in m.entries] for m in appends(net, to=2)] == [[b"a"], [b"b"], [b"c"]]


def test_proposals_that_come_together_are_one_message() -> None:
    net = Network()
    net.elect(1)
    for value in (b"a", b"b", b"c"):
        net[1].node.propose([value])
    net[1].run()
    assert [[e.data for e in m.entries] for m in appends(net, to=2)] == [[b"a", b"b", b"c"]]


def test_message_takes_entries_up_to_its_size_but_at_least_one() -> None:
    net = Network(max_message_bytes=10)
    net.elect(1).propose(b"x" * 20, b"y" * 5, b"z" * 5, b"w")
    assert [len(m.entries) for m in appends(net, to=2)] == [1, 2, 1]


def test_window_bounds_messages_under_way_and_acknowledgements_open_it() -> None:
    net = Network(max_inflight_messages=2)
    net.elect(1)
    for value in (b"a", b"b", b"c", b"d"):
        net[1].propose(value)
    assert len(appends(net, to=2)) == 2
    net[2].step(appends(net, to=2)[0])
    net.deliver(MessageKind.APPEND_REPLY)
    assert [[e.data for e in m.entries] for m in appends(net, to=2)][2:] == [[b"c", b"d"]]


def test_window_bounds_bytes_under_way() -> None:
    net = Network(max_inflight_bytes=10)
    net.elect(1)
    for _ in range(5):
        net[1].propose(b"x" * 6)
    assert len(appends(net, to=2)) == 2


def test_full_window_sends_no_news_of_commitment_either() -> None:
    net = Network(max_inflight_messages=1)
    net.elect(1)
    net.isolate(3)
    start = len(net.sent)
    for value in (b"a", b"b", b"c"):
        net[1].propose(value)
        net.settle()
    assert net[1].node.commit == 5
    assert sum(m.kind == MessageKind.APPEND and m.to == 3 for m in net.sent[start:]) == 1


def test_full_window_of_lost_messages_is_opened_by_heartbeats() -> None:
    net = Network(max_inflight_messages=2)
    net.elect(1)
    net.isolate(3)
    for value in (b"a", b"b", b"c", b"d"):
        net[1].propose(value)
        net.settle()
    net.heal()
    net.tick(2)
    assert net[3].values == [b"a", b"b", b"c", b"d"]


def test_lost_message_is_found_by_the_next_heartbeat() -> None:
    net = Network()
    net.elect(1)
    net.loses = lambda message: message.kind == MessageKind.APPEND and message.to == 3
    net[1].propose(b"a")
    net.settle()
    net.heal()
    assert net[3].node.last_index == 2
    net.tick()
    assert net[3].values == [b"a"]


def test_duplicates_and_reordering_alter_nothing() -> None:
    net = Network()
    net.elect(1)
    for value in (b"a", b"b", b"c"):
        net[1].propose(value)
    net.in_flight = [*net.in_flight, *reversed(net.in_flight)][::-1]
    net.settle()
    net.tick(2)
    assert net[3].values == [b"a", b"b", b"c"]
    assert net[1].node.progress()[3].match == net[1].node.last_index


def test_unreachable_member_is_probed_and_not_flooded() -> None:
    net = Network()
    net.elect(1)
    net.isolate(3)
    net[1].propose(b"a")
    net[1].node.report_unreachable(3)
    start = len(net.sent)
    for _ in range(5):
        net[1].propose(b"b")
    probes = [m for m in net.sent[start:] if m.to == 3 and m.kind == MessageKind.APPEND]
    assert len(probes) == 1
    assert net[1].node.progress()[3].state is ProgressState.PROBE
    net.heal()
    net.tick(2)
    assert net[3].node.last_index == net[1].node.last_index


# News of commitment.


def test_followers_learn_of_commitment_with_the_next_entries_or_at_once() -> None:
    net = Network()
    net.elect(1).propose(b"a")
    net.deliver(MessageKind.APPEND, to=2)
    net.in_flight = [m for m in net.in_flight if m.to == 1]
    net[1].node.propose([b"b"])
    net.deliver(MessageKind.APPEND_REPLY)
    (message,) = appends(net, to=2)
    assert (len(message.entries), message.commit) == (1, 3)
    net.deliver(MessageKind.APPEND, to=2)
    net.in_flight = [m for m in net.in_flight if m.to == 1]
    net.deliver(MessageKind.APPEND_REPLY)
    (message,) = appends(net, to=2)
    assert (len(message.entries), message.commit) == (0, 4)


def test_heartbeats_commit_no_more_than_matches() -> None:
    net = Network()
    net.elect(1)
    net.isolate(3)
    net[1].propose(b"a")
    net.settle()
    net.heal()
    net[1].node.tick()
    net[1].run()
    commits = {m.to: m.commit for m in net.in_flight if m.kind == MessageKind.HEARTBEAT}
    assert commits == {2: 3, 3: 2}


def test_heartbeat_commits_nothing_on_a_member_that_lost_what_it_acknowledged() -> None:
    net = Network.with_logs({1: [1, 1], 2: [], 3: []})
    net[1].get(MessageKind.HEARTBEAT, 2, term=2, commit=9)
    assert net[1].node.commit == 1


def test_member_that_lost_its_disk_is_not_asked_in_a_loop() -> None:
    net = Network()
    net.elect(1).propose(b"a")
    net.settle()
    net.add(3)
    net[1].propose(b"b")
    net.settle()
    net.tick(3)
    assert net[3].values == []
    assert net[2].values == [b"a", b"b"]


# Proposals.


def test_follower_and_learner_send_proposals_to_the_leader() -> None:
    net = Network(learners=(4,))
    net.elect(1)
    net[2].propose(b"a", b"b")
    net[4].propose(b"c")
    net.settle()
    assert net[3].values == [b"a", b"b", b"c"]


def test_proposal_without_a_leader_is_dropped() -> None:
    net = Network()
    with pytest.raises(ProposalDroppedError):
        net[1].propose(b"a")
    net[1].node.campaign()
    with pytest.raises(ProposalDroppedError):
        net[1].propose(b"a")


def test_proposal_of_who_is_no_member_is_dropped() -> None:
    net = Network()
    net.elect(1)
    net.add(4)
    net[4].get(MessageKind.HEARTBEAT, 1, term=2)
    assert net[4].node.leader == 1
    with pytest.raises(ProposalDroppedError):
        net[4].propose(b"a")


def test_follower_drops_what_it_is_asked_to_propose() -> None:
    net = Network()
    net.elect(1)
    net[3].node.propose([b"a"])
    net[3].run()
    (message,) = net.drop(MessageKind.PROPOSE)
    net[2].step(Message(MessageKind.PROPOSE, 2, 3, entries=message.entries))
    net.settle()
    assert net[1].values == []


def test_too_much_that_is_not_committed_is_refused_but_one_proposal_always_fits() -> None:
    net = Network(max_uncommitted_bytes=10)
    net.elect(1)
    net.isolate(1)
    net[1].propose(b"x" * 50)
    last = net[1].node.last_index
    with pytest.raises(ProposalDroppedError):
        net[1].propose(b"y")
    assert net[1].node.last_index == last
    net.heal()
    net.tick(2)
    net[1].propose(b"y" * 5)
    net[1].propose(b"y" * 5)
    with pytest.raises(ProposalDroppedError):
        net[1].propose(b"y")
