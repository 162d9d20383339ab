"""What a `Ready` asks of the node, and when."""

import pytest

from rusd.raft.log import LogError
from rusd.raft.message import MessageKind
from tests.unit.raft.network import ELECTION, Network


def test_nothing_is_asked_of_a_member_that_has_nothing_to_do() -> None:
    net = Network()
    net.elect(1)
    for member in net.members.values():
        assert not member.node.has_ready()


def test_everything_is_handed_out_once() -> None:
    net = Network()
    node = net.elect(1).node
    node.propose([b"a"])
    assert node.has_ready()
    first = node.ready()
    assert (len(first.entries), len(first.messages)) == (1, 2)
    assert not node.has_ready()
    second = node.ready()
    assert (second.entries, second.messages, second.committed) == ((), (), ())
    assert second.number > first.number


def test_several_may_be_under_way_and_one_advance_answers_for_the_earlier() -> None:
    net = Network((1,))
    node = net.elect(1).node
    readies = []
    for value in (b"a", b"b", b"c"):
        node.propose([value])
        readies.append(node.ready())
    assert node.persisted_index == 2
    node.advance(readies[1])
    assert node.persisted_index == 4
    assert node.commit == 4
    assert [entry.data for entry in node.ready().committed] == [b"a", b"b"]
    node.advance(readies[2])
    assert [entry.data for entry in node.ready().committed] == [b"c"]


def test_hard_state_is_handed_out_when_term_or_vote_change() -> None:
    net = Network()
    node = net[1].node
    node.campaign()
    ready = node.ready()
    assert ready.hard_state == (2, 1, 1)
    assert ready.messages == ()
    assert {message.kind for message in ready.promises} == {MessageKind.VOTE}


def test_commit_index_goes_to_disk_with_the_next_entries_only() -> None:
    net = Network()
    net.elect(1).propose(b"a")
    net.settle()
    assert net[2].node.commit == 3
    assert net[2].disk.hard_state.commit < 3
    net[1].propose(b"b")
    net.settle()
    assert net[2].disk.hard_state.commit == 3


def test_commit_index_on_disk_is_known_after_a_crash() -> None:
    net = Network((1,))
    net.elect(1).propose(b"a")
    net[1].propose(b"b")
    net[1].crash()
    net[1].run()
    assert net[1].values == [b"a"]


def test_committed_entries_are_handed_out_within_their_bytes_but_at_least_one() -> None:
    net = Network((1,), max_committed_bytes=10)
    node = net.elect(1).node
    node.propose([b"x" * 20, b"y" * 5, b"z" * 5, b"w"])
    node.advance(node.ready())
    handed = []
    while node.has_ready():
        handed.append(len(node.ready().committed))
    assert handed == [1, 2, 1]


def test_misuse_by_the_node_is_told() -> None:
    net = Network((1,))
    node = net.elect(1).node
    with pytest.raises(LogError):
        node.applied_to(node.commit + 1)
    with pytest.raises(LogError):
        node.compact(node.applied + 1)


def test_looks() -> None:
    net = Network(learners=(4,))
    net.elect(1).propose(b"a")
    net.settle()
    node = net[1].node
    assert (node.id, node.term, node.leader, node.commit, node.applied) == (1, 2, 1, 3, 3)
    assert (node.first_index, node.last_index, node.persisted_index) == (2, 3, 3)
    assert [node.log_term(index) for index in (0, 1, 2, 3, 4)] == [0, 1, 2, 2, 0]
    assert {member: p.match for member, p in node.progress().items()} == dict.fromkeys(
        (1, 2, 3, 4), 3
    )
    assert net[2].node.progress() == {}
    assert [member.node.is_learner for member in net.members.values()] == [False] * 3 + [True]


def test_activity_of_members_is_forgotten_when_a_quorum_is_looked_for() -> None:
    net = Network()
    net.elect(1)
    assert net[1].node.progress()[3].recent_active
    net.isolate(3)
    net.tick(2 * ELECTION)
    assert not net[1].node.progress()[3].recent_active
