"""The rules of figure 2 of the Raft paper, one by one.

Every log begins with index 2; index 1, term 1 is the snapshot that all members begin with.
"""

import pytest

from rusd.raft.message import NOBODY, Message, MessageKind, Role
from tests.unit.raft.network import ELECTION, Network, entries_of


def one(messages: list[Message], kind: MessageKind) -> Message:
    """The only message of a kind."""
    (message,) = [message for message in messages if message.kind == kind]
    return message


# RequestVote.


def test_figure_2_requestvote_1_refuses_an_earlier_term() -> None:
    net = Network.with_logs({1: [1, 3], 2: [], 3: []})
    replies = net[1].get(MessageKind.VOTE, 2, term=2, index=99, log_term=2)
    reply = one(replies, MessageKind.VOTE_REPLY)
    assert reply.reject
    assert reply.term == 3


def test_figure_2_requestvote_2_votes_once_a_term() -> None:
    net = Network()
    ask = {"term": 2, "index": 1, "log_term": 1}
    assert not one(net[1].get(MessageKind.VOTE, 2, **ask), MessageKind.VOTE_REPLY).reject
    assert one(net[1].get(MessageKind.VOTE, 3, **ask), MessageKind.VOTE_REPLY).reject
    assert not one(net[1].get(MessageKind.VOTE, 2, **ask), MessageKind.VOTE_REPLY).reject
    ask["term"] = 3
    assert not one(net[1].get(MessageKind.VOTE, 3, **ask), MessageKind.VOTE_REPLY).reject


def test_figure_2_requestvote_2_remembers_its_vote_through_a_crash() -> None:
    net = Network()
    ask = {"term": 2, "index": 1, "log_term": 1}
    net[1].get(MessageKind.VOTE, 2, **ask)
    net[1].crash()
    assert one(net[1].get(MessageKind.VOTE, 3, **ask), MessageKind.VOTE_REPLY).reject


def test_figure_2_requestvote_2_promises_a_vote_only_when_it_is_on_disk() -> None:
    net = Network()
    net[1].disk_is_slow = True
    assert net[1].get(MessageKind.VOTE, 2, term=2, index=1, log_term=1) == []
    assert net[1].disk.hard_state.vote == NOBODY
    net[1].sync()
    assert net[1].disk.hard_state.vote == 2
    assert not one(net.in_flight, MessageKind.VOTE_REPLY).reject


@pytest.mark.parametrize(
    ("log_term", "index", "granted"),
    [(3, 4, True), (3, 5, True), (4, 2, True), (3, 3, False), (2, 9, False)],
    ids=["the same", "longer", "later term", "shorter", "longer of an earlier term"],
)
def test_figure_2_requestvote_2_votes_only_for_a_log_as_up_to_date_as_its_own(
    log_term: int, index: int, granted: bool
) -> None:
    net = Network.with_logs({1: [1, 2, 3], 2: [], 3: []})
    replies = net[1].get(MessageKind.VOTE, 2, term=9, index=index, log_term=log_term)
    assert one(replies, MessageKind.VOTE_REPLY).reject is not granted


# AppendEntries.


def test_figure_2_appendentries_1_refuses_an_earlier_term() -> None:
    net = Network.with_logs({1: [1, 3], 2: [], 3: []})
    replies = net[1].get(
        MessageKind.APPEND, 2, term=2, index=3, log_term=3, entries=entries_of([2], 4)
    )
    reply = one(replies, MessageKind.APPEND_REPLY)
    assert reply.reject
    assert reply.term == 3
    assert net[1].log == [1, 3]
    assert net[1].node.leader == NOBODY


@pytest.mark.parametrize(("index", "log_term"), [(4, 3), (3, 2)], ids=["gap", "other term"])
def test_figure_2_appendentries_2_refuses_what_does_not_follow_a_match(
    index: int, log_term: int
) -> None:
    net = Network.with_logs({1: [1, 1], 2: [], 3: []})
    entries = entries_of([3], index + 1)
    replies = net[1].get(
        MessageKind.APPEND, 2, term=3, index=index, log_term=log_term, entries=entries
    )
    assert one(replies, MessageKind.APPEND_REPLY).reject
    assert net[1].log == [1, 1]


def test_figure_2_appendentries_3_deletes_conflicting_entries_and_what_follows() -> None:
    net = Network.with_logs({1: [1, 2, 2, 2], 2: [], 3: []})
    entries = entries_of([3], 3)
    net[1].get(MessageKind.APPEND, 2, term=3, index=2, log_term=1, entries=entries)
    assert net[1].log == [1, 3]


def test_figure_2_appendentries_3_keeps_what_follows_a_match() -> None:
    """An old message, which comes late, deletes nothing."""
    net = Network.with_logs({1: [1, 2, 2, 2], 2: [], 3: []})
    entries = entries_of([2], 3)
    replies = net[1].get(MessageKind.APPEND, 2, term=2, index=2, log_term=1, entries=entries)
    assert net[1].log == [1, 2, 2, 2]
    assert one(replies, MessageKind.APPEND_REPLY).index == 3


def test_figure_2_appendentries_4_appends_what_is_new() -> None:
    net = Network.with_logs({1: [1], 2: [], 3: []})
    entries = entries_of([1, 2, 2], 2)
    replies = net[1].get(MessageKind.APPEND, 2, term=2, index=1, log_term=1, entries=entries)
    assert net[1].log == [1, 2, 2]
    reply = one(replies, MessageKind.APPEND_REPLY)
    assert not reply.reject
    assert reply.index == 4


def test_figure_2_appendentries_4_acknowledges_only_what_is_on_disk() -> None:
    net = Network()
    net[1].disk_is_slow = True
    entries = entries_of([2], 2)
    sent = net[1].get(MessageKind.APPEND, 2, term=2, index=1, log_term=1, entries=entries)
    assert sent == []
    net[1].sync()
    assert net[1].disk.entries == entries
    assert one(net.in_flight, MessageKind.APPEND_REPLY).index == 2


@pytest.mark.parametrize(("leader_commit", "commit"), [(3, 3), (9, 4)])
def test_figure_2_appendentries_5_commits_what_the_leader_has_and_the_message_shows_to_match(
    leader_commit: int, commit: int
) -> None:
    net = Network.with_logs({1: [1, 1, 1, 1, 1], 2: [], 3: []})
    net[1].get(
        MessageKind.APPEND,
        2,
        term=2,
        index=2,
        log_term=1,
        entries=entries_of([1, 1], 3),
        commit=leader_commit,
    )
    assert net[1].node.commit == commit


# Rules for servers: all.


def test_figure_2_all_servers_1_applies_what_is_committed_in_order() -> None:
    net = Network()
    net.elect(1).propose(b"a", b"b")
    net[1].propose(b"c")
    net.settle()
    for member in net.members.values():
        assert member.values == [b"a", b"b", b"c"]


@pytest.mark.parametrize("kind", [MessageKind.APPEND, MessageKind.HEARTBEAT, MessageKind.SNAPSHOT])
def test_figure_2_all_servers_2_follows_a_leader_of_a_later_term(kind: MessageKind) -> None:
    net = Network()
    net.elect(1)
    net[1].get(kind, 2, term=9)
    assert (net[1].node.role, net[1].node.term, net[1].node.leader) == (Role.FOLLOWER, 9, 2)
    assert net[1].disk.hard_state[:2] == (9, NOBODY)


@pytest.mark.parametrize(
    "kind", [MessageKind.APPEND_REPLY, MessageKind.HEARTBEAT_REPLY, MessageKind.VOTE_REPLY]
)
def test_figure_2_all_servers_2_steps_down_at_a_reply_of_a_later_term(kind: MessageKind) -> None:
    net = Network()
    net.elect(1)
    net[1].get(kind, 2, term=9, reject=True)
    assert (net[1].node.role, net[1].node.term, net[1].node.leader) == (Role.FOLLOWER, 9, NOBODY)


# Followers.


def test_figure_2_followers_1_respond_to_leaders_and_candidates() -> None:
    net = Network()
    net[1].node.campaign()
    net[1].run()
    assert net.deliver(MessageKind.VOTE, to=2) == 1
    assert net.deliver(MessageKind.VOTE_REPLY, to=1, sender=2) == 1
    assert net.deliver(MessageKind.APPEND, to=2) == 1
    assert net.deliver(MessageKind.APPEND_REPLY, to=1, sender=2) == 1


def test_figure_2_followers_2_stand_for_election_when_they_hear_nothing() -> None:
    net = Network(pre_vote=False, random_ticks=lambda _: 0)
    net[1].tick(ELECTION - 1)
    assert net[1].is_follower
    net[1].tick()
    assert net[1].is_candidate


@pytest.mark.parametrize("kind", [MessageKind.APPEND, MessageKind.HEARTBEAT])
def test_figure_2_followers_2_wait_again_when_they_hear_of_the_leader(kind: MessageKind) -> None:
    net = Network(pre_vote=False, random_ticks=lambda _: 0)
    for _ in range(3):
        net[1].tick(ELECTION - 1)
        net[1].get(kind, 2, term=2)
    assert net[1].is_follower


def test_figure_2_followers_2_wait_again_when_they_grant_a_vote_and_not_when_they_refuse() -> None:
    net = Network.with_logs({1: [1], 2: [], 3: []}, pre_vote=False, random_ticks=lambda _: 0)
    net[1].get(MessageKind.HEARTBEAT, 2, term=2)
    net[1].get(MessageKind.HEARTBEAT_REPLY, 2, term=3)  # Term 3, and no leader in it.
    net[1].tick(ELECTION - 1)
    net[1].get(MessageKind.VOTE, 2, term=3, index=2, log_term=1)
    net[1].tick(ELECTION - 1)
    net[1].get(MessageKind.VOTE, 3, term=3, index=2, log_term=1)
    assert net[1].is_follower
    net[1].tick()
    assert net[1].is_candidate


# Candidates.


def test_figure_2_candidates_1_begin_an_election() -> None:
    net = Network.with_logs({1: [1, 2], 2: [], 3: []})
    net[1].node.campaign()
    net[1].run()
    assert (net[1].node.role, net[1].node.term, net[1].node.leader) == (Role.CANDIDATE, 3, NOBODY)
    assert net[1].disk.hard_state[:2] == (3, 1)
    assert net.in_flight == [
        Message(MessageKind.VOTE, to, 1, term=3, log_term=2, index=3) for to in (2, 3)
    ]


def test_figure_2_candidates_1_ask_for_votes_when_term_vote_and_log_are_on_disk() -> None:
    """After a crash, a candidate could stand again in a term that it has forgotten, with a log
    that has lost what was not synced, and be elected by the votes for the log that it had.
    """
    net = Network()
    net[1].disk_is_slow = True
    net[1].node.campaign()
    net[1].run()
    assert net.in_flight == []
    net[1].sync()
    assert {message.to for message in net.in_flight} == {2, 3}


def test_figure_2_candidates_1_count_their_own_vote_when_it_is_on_disk() -> None:
    net = Network((1,))
    net[1].disk_is_slow = True
    net[1].node.campaign()
    net[1].run()
    assert net[1].is_candidate
    net[1].sync()
    assert net[1].is_leader


def test_figure_2_candidates_2_lead_with_votes_of_a_majority() -> None:
    net = Network(range(1, 6))
    net[1].node.campaign()
    net[1].run()
    net.deliver(MessageKind.VOTE, to=2)
    net.deliver(MessageKind.VOTE_REPLY)
    assert net[1].is_candidate
    net.deliver(MessageKind.VOTE, to=3)
    net.deliver(MessageKind.VOTE_REPLY)
    assert net[1].is_leader


def test_figure_2_candidates_2_count_each_voter_once() -> None:
    net = Network(range(1, 6))
    net[1].node.campaign()
    net[1].run()
    for _ in range(3):
        net[1].get(MessageKind.VOTE_REPLY, 2)
    assert net[1].is_candidate


def test_figure_2_candidates_2_count_only_voters() -> None:
    net = Network(learners=(4, 5))
    net[1].node.campaign()
    net[1].run()
    for stranger in (4, 5, 9):
        net[1].get(MessageKind.VOTE_REPLY, stranger)
    assert net[1].is_candidate


def test_figure_2_candidates_2_do_not_count_votes_of_an_earlier_term() -> None:
    net = Network()
    net[1].node.campaign()
    net[1].run()
    net[1].node.campaign()
    net[1].run()
    assert net[1].node.term == 3
    net[1].get(MessageKind.VOTE_REPLY, 2, term=2)
    assert net[1].is_candidate


def test_figure_2_candidates_2_give_up_when_a_majority_refuses() -> None:
    net = Network()
    net[1].node.campaign()
    net[1].run()
    for voter in (2, 3):
        net[1].get(MessageKind.VOTE_REPLY, voter, reject=True)
    assert net[1].is_follower


@pytest.mark.parametrize("kind", [MessageKind.APPEND, MessageKind.HEARTBEAT, MessageKind.SNAPSHOT])
@pytest.mark.parametrize("pre_vote", [True, False])
def test_figure_2_candidates_3_follow_the_leader_of_their_term(
    kind: MessageKind, pre_vote: bool
) -> None:
    net = Network(pre_vote=pre_vote)
    net[1].tick(2 * ELECTION)
    assert net[1].node.role in (Role.PRE_CANDIDATE, Role.CANDIDATE)
    net[1].get(kind, 2)
    assert (net[1].node.role, net[1].node.leader) == (Role.FOLLOWER, 2)


def test_figure_2_candidates_4_stand_again_when_nobody_wins() -> None:
    net = Network(pre_vote=False, random_ticks=lambda _: 0)
    net[1].tick(ELECTION)
    assert net[1].node.term == 2
    net[1].tick(ELECTION)
    assert (net[1].node.term, net[1].node.role) == (3, Role.CANDIDATE)


# Leaders.


def test_figure_2_leaders_1_announce_themselves_at_once() -> None:
    net = Network()
    net[1].node.campaign()
    net[1].run()
    net.deliver(MessageKind.VOTE)
    net.deliver(MessageKind.VOTE_REPLY, sender=2)
    appends = [message for message in net.in_flight if message.kind == MessageKind.APPEND]
    assert {message.to for message in appends} == {2, 3}


def test_figure_2_leaders_1_send_heartbeats_while_idle() -> None:
    net = Network(heartbeat_ticks=2)
    net.elect(1)
    net[1].tick()
    assert net.in_flight == []
    net[1].tick()
    assert [message.kind for message in net.in_flight] == [MessageKind.HEARTBEAT] * 2


def test_figure_2_leaders_2_append_and_apply_when_committed() -> None:
    net = Network()
    net.elect(1).propose(b"a")
    assert net[1].node.last_index == 3
    assert net[1].values == []
    net.deliver(MessageKind.APPEND, to=2)
    net.deliver(MessageKind.APPEND_REPLY)
    assert net[1].values == [b"a"]


def test_figure_2_leaders_3_send_what_follows_and_note_what_matches() -> None:
    net = Network()
    net.elect(1)
    progress = net[1].node.progress()[2]
    assert (progress.match, progress.next) == (2, 3)
    net[1].propose(b"a", b"b")
    append = net.drop(MessageKind.APPEND, to=2)[0]
    assert (append.index, append.log_term) == (2, 2)
    assert [entry.data for entry in append.entries] == [b"a", b"b"]
    assert progress.match == 2
    net[2].step(append)
    net.deliver(MessageKind.APPEND_REPLY)
    assert (progress.match, progress.next) == (4, 5)


def test_figure_2_leaders_3_go_back_and_try_again_when_it_does_not_match() -> None:
    net = Network.with_logs({1: [1, 2, 3], 2: [1, 2, 3], 3: [1]})
    net.elect(1)
    assert net[3].log == [1, 2, 3, 4]
    assert any(m.reject for m in net.sent if m.kind == MessageKind.APPEND_REPLY)


def test_figure_2_leaders_4_commit_what_a_majority_has_on_disk() -> None:
    net = Network(range(1, 6))
    net.elect(1).propose(b"a")
    net.deliver(MessageKind.APPEND, to=2)
    net.deliver(MessageKind.APPEND_REPLY)
    assert net[1].node.commit == 2
    net.deliver(MessageKind.APPEND, to=3)
    net.deliver(MessageKind.APPEND_REPLY)
    assert net[1].node.commit == 3


def test_figure_2_leaders_4_do_not_count_learners() -> None:
    net = Network((1, 2, 3), learners=(4, 5))
    net.elect(1).propose(b"a")
    for learner in (4, 5):
        net.deliver(MessageKind.APPEND, to=learner)
    net.deliver(MessageKind.APPEND_REPLY)
    assert net[1].node.commit == 2


def test_section_5_4_2_never_commits_an_old_terms_entry_by_counting() -> None:
    net = Network.with_logs({1: [2], 2: [2], 3: []})
    net[1].node.campaign()
    net[1].run()
    net.deliver(MessageKind.VOTE)
    net.deliver(MessageKind.VOTE_REPLY)
    net.drop(MessageKind.APPEND)
    # The entry of term 2 is on a majority, and acknowledged; that of term 3 is not.
    net[1].get(MessageKind.APPEND_REPLY, 2, index=2)
    assert net[1].node.progress()[2].match == 2
    assert net[1].node.commit == 1
    net[1].get(MessageKind.APPEND_REPLY, 2, index=3)
    assert net[1].node.commit == 3


def test_acknowledgement_of_an_earlier_term_does_not_count() -> None:
    """The entry that it is about may have been replaced since."""
    net = Network.with_logs({1: [1], 2: [1], 3: [1]})
    net.elect(1)
    net.isolate(1)
    net[1].propose(b"a")
    net[1].get(MessageKind.APPEND_REPLY, 2, term=1, index=4)
    assert net[1].node.progress()[2].match == 3
    assert net[1].node.commit == 3
