"""Compaction and snapshots (paper, section 7; thesis, chapter 5)."""

import pytest

from rusd.raft.message import ConfState, MessageKind, Snapshot
from rusd.raft.progress import ProgressState
from tests.unit.raft.network import ELECTION, Network, add_learner, entries_of

VALUES = [b"a", b"b", b"c"]


def with_one_behind(member: int = 3) -> Network:
    """A cluster whose leader, 1, has compacted what this member needs."""
    net = Network()
    net.elect(1)
    net.isolate(member)
    net[1].propose(*VALUES)
    net.settle()
    net[1].compact()
    net.heal()
    return net


def test_figure_13_member_that_needs_what_is_compacted_gets_a_snapshot() -> None:
    net = with_one_behind()
    net.tick(2)
    (message,) = [m for m in net.sent if m.kind == MessageKind.SNAPSHOT]
    assert message.snapshot == Snapshot(5, 2, ConfState((1, 2, 3)))
    assert net[3].values == VALUES
    assert net[1].node.progress()[3].state is ProgressState.REPLICATE
    net[1].propose(b"d")
    net.settle()
    assert net[3].values == [*VALUES, b"d"]


def test_member_that_lags_a_little_gets_entries_that_are_kept() -> None:
    net = Network()
    net.elect(1)
    net.isolate(3)
    net[1].propose(*VALUES)
    net.settle()
    net[1].compact(2)
    net.heal()
    net.tick(2)
    assert not any(m.kind == MessageKind.SNAPSHOT for m in net.sent)
    assert net[3].values == VALUES


def test_member_that_is_away_is_sent_no_snapshot() -> None:
    net = with_one_behind()
    net.isolate(3)
    net.tick(2 * ELECTION)
    net[1].node.report_unreachable(3)
    net[1].propose(b"d")
    net.settle()
    assert not any(m.kind == MessageKind.SNAPSHOT for m in net.sent)


def test_nothing_is_sent_while_a_snapshot_is_but_heartbeats() -> None:
    net = with_one_behind()
    net.loses = lambda message: message.kind == MessageKind.SNAPSHOT
    net.tick(2)
    start = len(net.sent)
    net[1].propose(b"d")
    net.tick(3)
    kinds = {m.kind for m in net.sent[start:] if m.to == 3}
    assert kinds == {MessageKind.HEARTBEAT}


def test_failed_snapshot_is_sent_again_when_the_member_is_heard_of() -> None:
    net = with_one_behind()
    net.loses = lambda message: message.kind == MessageKind.SNAPSHOT
    net.tick(2)
    net.heal()
    net[1].node.report_snapshot(3, ok=False)
    assert net[1].node.progress()[3].next == 3
    net[1].propose(b"d")
    assert not any(message.to == 3 for message in net.in_flight)
    net.tick(2)
    assert net[3].values == [*VALUES, b"d"]


def test_sent_snapshot_is_followed_by_a_probe_after_it() -> None:
    net = with_one_behind()
    net.loses = lambda message: message.kind == MessageKind.SNAPSHOT
    net.tick(2)
    net[1].node.report_snapshot(3, ok=True)
    progress = net[1].node.progress()[3]
    assert (progress.state, progress.next) == (ProgressState.PROBE, 6)


def test_nothing_is_applied_until_the_snapshot_is_installed() -> None:
    net = with_one_behind()
    net.loses = lambda message: message.kind == MessageKind.SNAPSHOT
    net.tick(2)
    net.heal()
    net[3].disk_is_slow = True
    net.send([m for m in net.sent if m.kind == MessageKind.SNAPSHOT])
    net.settle()
    assert net[3].node.commit == 5
    net[1].propose(b"d")
    net.settle()
    assert net[3].values == []
    assert not any(m.kind == MessageKind.APPEND_REPLY and m.index == 5 for m in net.in_flight)
    # Without a state machine, it cannot lead either.
    net[3].node.campaign()
    assert net[3].is_follower
    net[3].sync()
    net.tick()
    assert net[3].values == VALUES
    net[3].sync()
    net.settle()
    assert net[3].values == [*VALUES, b"d"]


def test_snapshot_waits_for_what_is_being_applied() -> None:
    net = Network()
    net.elect(1)
    net[3].applies = False
    net[1].propose(b"a")
    net.tick()
    net.isolate(3)
    net[1].propose(b"b", b"c")
    net.settle()
    net[1].compact()
    net.heal()
    net.tick(2)
    assert net[3].node.commit == 3
    assert net[3].values == []
    net[3].applies = True
    net[3].apply()
    net.tick()
    assert net[3].values == VALUES


def test_old_snapshot_is_ignored_and_answered() -> None:
    net = Network()
    net.elect(1).propose(*VALUES)
    net.tick()
    last = net[3].node.last_index
    snapshot = Snapshot(3, 2, ConfState((1, 2, 3)))
    (reply,) = net[3].get(MessageKind.SNAPSHOT, 1, snapshot=snapshot)
    assert (reply.kind, reply.index) == (MessageKind.APPEND_REPLY, net[3].node.commit)
    assert net[3].node.last_index == last
    assert net[3].values == VALUES


def test_figure_13_6_snapshot_of_what_is_in_the_log_only_commits_it() -> None:
    net = Network.with_logs({1: [1, 1, 1], 2: [], 3: []})
    snapshot = Snapshot(3, 1, ConfState((1, 2, 3)))
    net[1].get(MessageKind.SNAPSHOT, 2, term=2, snapshot=snapshot)
    assert net[1].log == [1, 1, 1]
    assert net[1].node.commit == 3
    assert [entry.index for entry in net[1].applied] == [2, 3]


def test_figure_13_7_snapshot_takes_the_place_of_a_log_that_conflicts() -> None:
    net = Network.with_logs({1: [1, 1, 1], 2: [], 3: []})
    snapshot = Snapshot(3, 2, ConfState((1, 2)))
    net[1].get(MessageKind.SNAPSHOT, 2, term=2, snapshot=snapshot)
    assert (net[1].node.first_index, net[1].node.last_index) == (4, 3)
    assert net[1].node.conf_state == ConfState((1, 2))
    assert net[1].disk.snapshot == snapshot
    assert net[1].disk.entries == ()


@pytest.mark.parametrize(
    "snapshot",
    [None, Snapshot(9, 3, ConfState((1, 2))), Snapshot(9, 2, ConfState((2, 3)))],
    ids=["none", "of a later term", "of a configuration without the receiver"],
)
def test_senseless_snapshot_is_ignored(snapshot: Snapshot | None) -> None:
    net = Network()
    sent = net[1].get(MessageKind.SNAPSHOT, 2, term=2, snapshot=snapshot)
    assert sent == []
    assert (net[1].node.last_index, net[1].node.conf_state) == (1, ConfState((1, 2, 3)))


def test_joining_learner_begins_with_a_snapshot() -> None:
    net = Network()
    net.elect(1).propose(*VALUES)
    net.settle()
    net.add(4)
    net[1].change(add_learner(4))
    net.tick(2)
    assert net[4].values == VALUES
    assert net[4].node.conf_state == ConfState((1, 2, 3), (4,))
    net[4].crash()
    net.tick(2)
    assert net[4].values == VALUES


def test_snapshot_that_covers_more_than_was_asked_for_is_taken() -> None:
    """The node writes into the message what the content covers, which may be more."""
    net = with_one_behind()
    net.loses = lambda message: message.kind == MessageKind.SNAPSHOT
    net.tick(2)
    (message,) = [m for m in net.sent if m.kind == MessageKind.SNAPSHOT]
    assert message.snapshot is not None
    net.heal()
    net.isolate(3)
    net[1].propose(b"d")
    net.settle()
    net.heal()
    net[3].get(MessageKind.SNAPSHOT, 1, term=2, snapshot=Snapshot(6, 2, ConfState((1, 2, 3))))
    net.settle()
    assert net[1].node.progress()[3].match == 6
    assert net[3].values == [*VALUES, b"d"]


def test_compacted_member_still_answers_old_messages() -> None:
    net = Network()
    net.elect(1).propose(*VALUES)
    net.tick()
    net[3].compact()
    (reply,) = net[3].get(
        MessageKind.APPEND, 1, index=2, log_term=2, entries=entries_of([2], 3), commit=5
    )
    assert (reply.reject, reply.index) == (False, 5)
