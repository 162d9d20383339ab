"""Linearizable reads (thesis, section 6.4)."""

from hypothesis import given
from hypothesis import strategies as st

from rusd.raft.message import ConfState, MessageKind
from rusd.raft.read_index import ReadQueue
from tests.unit.raft.network import ELECTION, Network


def test_thesis_6_4_read_takes_the_commit_index_and_waits_for_a_quorum_of_heartbeats() -> None:
    net = Network(range(1, 6))
    net.elect(1)
    assert net[1].node.read_index(b"r")
    net[1].run()
    assert net[1].reads == []
    net.deliver(MessageKind.HEARTBEAT, to=2)
    net.deliver(MessageKind.HEARTBEAT_REPLY)
    assert net[1].reads == []
    net.deliver(MessageKind.HEARTBEAT, to=3)
    net.deliver(MessageKind.HEARTBEAT_REPLY)
    assert net[1].reads == [(net[1].node.commit, b"r")]


def test_thesis_6_4_heartbeats_from_before_the_read_do_not_confirm_it() -> None:
    net = Network()
    net.elect(1)
    net[1].tick()
    net.deliver(MessageKind.HEARTBEAT)
    net[1].node.read_index(b"r")
    net.deliver(MessageKind.HEARTBEAT_REPLY)
    assert net[1].reads == []


def test_thesis_6_4_heartbeats_of_another_read_do_not_confirm_a_later_one() -> None:
    net = Network()
    net.elect(1)
    net[1].node.read_index(b"1")
    net[1].run()
    net.deliver(MessageKind.HEARTBEAT)
    net[1].node.read_index(b"2")
    net.deliver(MessageKind.HEARTBEAT_REPLY)
    assert [context for _, context in net[1].reads] == [b"1"]


def test_thesis_6_4_later_read_confirms_earlier_ones() -> None:
    net = Network()
    net.elect(1)
    net[1].node.read_index(b"1")
    net[1].run()
    net.drop(MessageKind.HEARTBEAT)
    net[1].node.read_index(b"2")
    net.settle()
    assert [context for _, context in net[1].reads] == [b"1", b"2"]


def test_reads_that_come_together_share_a_round() -> None:
    net = Network()
    net.elect(1)
    for number in range(10):
        net[1].node.read_index(b"%d" % number)
    net[1].run()
    assert len(net.in_flight) == 2
    net.settle()
    assert len(net[1].reads) == 10


def test_thesis_6_4_leader_answers_only_after_it_has_committed_in_its_term() -> None:
    net = Network()
    net.elect(1).propose(b"a")
    net.settle()
    for member in net.members.values():
        member.crash()
    net.loses = lambda message: message.kind == MessageKind.APPEND
    net.elect(2).node.read_index(b"r")
    net.tick(2)
    assert net[2].reads == []
    net.heal()
    net.tick(2)
    assert net[2].reads == [(net[2].node.last_index, b"r")]


def test_thesis_6_4_leader_that_lost_its_place_does_not_answer() -> None:
    net = Network()
    net.elect(1).propose(b"a")
    net.settle()
    net.isolate(1)
    for member in (2, 3):
        net[member].tick(ELECTION)
    net.elect(2).propose(b"b")
    net.settle()
    assert net[1].is_leader
    net[1].node.read_index(b"r")
    net.settle()
    net.heal()
    net.settle()
    net.tick(2)
    assert net[1].is_follower
    assert net[1].reads == []


def test_read_is_confirmed_by_a_later_heartbeat_when_the_first_is_lost() -> None:
    net = Network()
    net.elect(1)
    net[1].node.read_index(b"r")
    net[1].run()
    net.in_flight.clear()
    net.tick()
    assert [context for _, context in net[1].reads] == [b"r"]


def test_follower_and_learner_ask_the_leader() -> None:
    net = Network(learners=(4,))
    net.elect(1).propose(b"a")
    net.settle()
    for member in (2, 4):
        assert net[member].node.read_index(b"r%d" % member)
    net.settle()
    for member in (2, 4):
        assert net[member].reads == [(net[1].node.commit, b"r%d" % member)]
    assert net[1].reads == []


def test_nobody_answers_without_a_leader() -> None:
    net = Network()
    assert not net[1].node.read_index(b"r")


def test_strangers_are_not_answered() -> None:
    net = Network()
    net.elect(1)
    net[1].get(MessageKind.READ_INDEX, 9, context=b"r")
    net.settle()
    assert not any(message.to == 9 for message in net.sent)


def test_round_is_free_for_a_sole_voter() -> None:
    net = Network((1,), learners=(2,))
    net.isolate(2)
    net.elect(1)
    start = len(net.sent)
    net[1].node.read_index(b"r")
    net[1].run()
    assert net[1].reads == [(net[1].node.commit, b"r")]
    assert net.sent[start:] == []


def test_joint_configuration_needs_both_majorities() -> None:
    queue, joint = ReadQueue(), ConfState((1, 2, 3), (), (1, 4, 5))
    queue.add(7, 1, b"r")
    context = queue.heartbeat_context()
    queue.echoed(2, context)
    assert queue.confirmed(joint, 1) == []
    queue.echoed(4, context)
    assert [read.context for read in queue.confirmed(joint, 1)] == [b"r"]
    assert queue.heartbeat_context() == b""


@given(st.lists(st.tuples(st.integers(2, 5), st.binary(max_size=9)), max_size=20))
def test_senseless_contexts_confirm_nothing(echoes: list[tuple[int, bytes]]) -> None:
    queue = ReadQueue()
    queue.add(7, 1, b"r")
    for member, context in echoes:
        if int.from_bytes(context, "big") != 1:
            queue.echoed(member, context)
    assert queue.confirmed(ConfState((1, 2, 3, 4, 5)), 1) == []
