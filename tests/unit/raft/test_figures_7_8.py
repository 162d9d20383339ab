"""Figures 7 and 8 of the Raft paper, as transcripts. What they call index 1 is index 2 here."""

import pytest

from rusd.raft.message import MessageKind
from tests.unit.raft.network import Network

LEADER = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
FOLLOWERS = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


def figure_7() -> Network:
    """The leader of term 8 is elected by a, b, e and f."""
    logs = dict(enumerate([LEADER, *FOLLOWERS.values()], 1))
    net = Network.with_logs(logs)
    for member in net.members.values():
        # All that have not voted in it know of term 7.
        member.get(MessageKind.HEARTBEAT_REPLY, member.id % 7 + 1, term=7)
    net[1].node.campaign()
    net[1].run()
    assert net[1].node.term == 8
    return net


def test_figure_7_leader_is_elected_by_those_that_have_no_more_than_it() -> None:
    net = figure_7()
    net.deliver(MessageKind.VOTE)
    refused = {m.sender for m in net.in_flight if m.kind == MessageKind.VOTE_REPLY and m.reject}
    assert refused == {list("_abcdef").index(name) + 1 for name in "cd"}
    net.deliver(MessageKind.VOTE_REPLY)
    assert net[1].is_leader


def test_figure_7_leader_makes_all_logs_as_its_own() -> None:
    net = figure_7()
    net.settle()
    for member in net.members.values():
        assert member.log == [*LEADER, 8]
        assert member.node.commit == 12


@pytest.mark.parametrize(
    ("name", "probes"), [("a", 2), ("b", 2), ("c", 1), ("d", 1), ("e", 2), ("f", 2)]
)
def test_section_5_3_conflict_hints_find_the_match_with_few_messages(
    name: str, probes: int
) -> None:
    """At most one for each term in conflict; most take one hint."""
    net = figure_7()
    net.settle()
    member = list("_abcdef").index(name) + 1
    rejections = [
        m
        for m in net.sent
        if m.kind == MessageKind.APPEND_REPLY and m.sender == member and m.reject
    ]
    assert len(rejections) == probes - 1


def figure_8_c() -> Network:
    """S1 led in term 2, and S5, which had not its entry, in term 3; S1 leads again, in term 4. Its
    entry of term 2 is on a majority: S1, S2 and S3 now.
    """
    # A message takes one entry.
    net = Network.with_logs({1: [2], 2: [2], 3: [], 4: [], 5: [3]}, max_message_bytes=0)
    for member in (1, 2, 3, 4):
        net[member].get(MessageKind.HEARTBEAT_REPLY, 5, term=3)
    net.isolate(4, 5)
    net[1].node.campaign()
    net[1].run()
    assert net[1].node.term == 4
    net.deliver(MessageKind.VOTE)
    net.deliver(MessageKind.VOTE_REPLY)
    assert net[1].is_leader
    net.deliver(MessageKind.APPEND, to=3)
    net.drop(MessageKind.APPEND, to=2)
    net.deliver(MessageKind.APPEND_REPLY)  # S3 has not what is before the entry of term 4.
    net.deliver(MessageKind.APPEND, to=3)
    assert net[3].log == [2]
    net[1].get(MessageKind.APPEND_REPLY, 2, index=2)
    net.deliver(MessageKind.APPEND_REPLY)
    net.in_flight.clear()
    return net


def test_figure_8_c_entry_of_an_old_term_on_a_majority_is_not_committed() -> None:
    net = figure_8_c()
    assert [net[member].log for member in (1, 2, 3)] == [[2, 4], [2], [2]]
    assert [net[1].node.progress()[member].match for member in (1, 2, 3)] == [3, 2, 2]
    assert net[1].node.commit == 1


def test_figure_8_d_it_may_be_overwritten() -> None:
    net = figure_8_c()
    net.isolate(1)
    for member in (2, 3):
        net[member].crash()
    net[5].get(MessageKind.HEARTBEAT_REPLY, 2, term=4)
    net.elect(5)
    assert [net[member].log for member in (2, 3, 4, 5)] == [[3, 5]] * 4
    net.heal()
    net.tick()
    assert net[1].log == [3, 5]


def test_figure_8_e_it_is_committed_with_one_of_the_new_term() -> None:
    net = figure_8_c()
    net.tick()
    assert net[1].node.commit == 3
    assert [net[member].log for member in (1, 2, 3)] == [[2, 4]] * 3
    net.isolate(1)
    for member in (2, 3):
        net[member].crash()
    net[5].get(MessageKind.HEARTBEAT_REPLY, 2, term=4)
    net[5].node.campaign()
    net.settle()
    assert not net[5].is_leader
