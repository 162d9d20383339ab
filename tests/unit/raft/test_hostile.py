"""Messages that make no sense: of any term, index and sender. A member ignores them, or takes them
for what they may be; it never raises, and what it has committed and promised stays.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from rusd.raft.message import ConfState, Entry, Message, MessageKind, Snapshot
from tests.unit.raft.network import Network

NUMBERS = st.integers(0, 9) | st.sampled_from([2**32, 2**63 - 1])
ENTRIES = st.builds(Entry, NUMBERS, NUMBERS, st.binary(max_size=3), st.integers(0, 2))
IDS = st.sets(st.integers(1, 5), max_size=4).map(sorted).map(tuple)
SNAPSHOTS = st.builds(Snapshot, NUMBERS, NUMBERS, st.builds(ConfState, IDS, IDS, IDS))
MESSAGES = st.builds(
    Message,
    st.sampled_from(MessageKind) | st.integers(15, 99),
    st.integers(1, 3),
    st.integers(0, 5),
    term=NUMBERS,
    log_term=NUMBERS,
    index=NUMBERS,
    commit=NUMBERS,
    reject=st.booleans(),
    hint=NUMBERS,
    entries=st.lists(ENTRIES, max_size=3).map(tuple),
    context=st.binary(max_size=9),
    snapshot=st.none() | SNAPSHOTS,
)


@settings(deadline=None)
@given(st.lists(MESSAGES, max_size=8), st.sampled_from([0, 1, 2]))
def test_no_message_makes_a_member_raise_or_forget(messages: list[Message], leader: int) -> None:
    net = Network()
    if leader:
        net.elect(leader).propose(b"a", b"b")
        net.settle()
    for message in messages:
        node = net[message.to].node
        before = {i: node.log_term(i) for i in range(node.first_index, node.commit + 1)}
        term, vote = net[message.to].disk.hard_state[:2]
        commit = node.commit
        node.step(message)
        assert node.commit >= commit
        if node.first_index <= commit:
            assert {i: node.log_term(i) for i in before} == before
        assert node.first_index - 1 <= node.applied <= node.commit <= node.last_index
        ready = node.ready()
        if ready.hard_state is not None:
            assert ready.hard_state.term >= term
            if ready.hard_state.term == term and vote:
                assert ready.hard_state.vote == vote
        net[message.to].unsynced.append(ready)
        net[message.to].unsynced.clear()
        node.advance(ready)


@given(st.integers(1, 9), st.integers(1, 9))
def test_entries_that_are_no_sequence_are_ignored(index: int, term: int) -> None:
    net = Network.with_logs({1: [1, 1], 2: [], 3: []})
    good = Entry(2, 4, b"good")
    odd = Entry(term, index, b"odd")
    net[1].get(MessageKind.APPEND, 2, term=2, index=3, log_term=1, entries=(good, odd))
    if (index, term) == (5, 2):
        assert net[1].log == [1, 1, 2, 2]
    else:
        assert net[1].log == [1, 1]


def test_acknowledgement_of_what_the_leader_has_not_is_ignored() -> None:
    net = Network()
    net.elect(1)
    net.isolate(2, 3)
    net[1].propose(b"a")
    net[1].get(MessageKind.APPEND_REPLY, 2, index=99)
    assert net[1].node.progress()[2].match == 2
    assert net[1].node.commit == 2


def test_append_that_conflicts_with_what_is_committed_is_ignored() -> None:
    net = Network()
    net.elect(1).propose(b"a", b"b")
    net.settle()
    net.tick()
    other = tuple(Entry(9, index, b"other") for index in (3, 4))
    net[2].get(MessageKind.APPEND, 3, term=9, index=2, log_term=2, entries=other, commit=4)
    assert net[2].values == [b"a", b"b"]
    assert net[2].log == [2, 2, 2]


def test_messages_to_others_and_from_itself_are_ignored() -> None:
    net = Network()
    for to, sender in ((2, 3), (1, 1), (1, 0)):
        net[1].step(Message(MessageKind.HEARTBEAT, to, sender, term=9))
    assert net[1].node.term == 1
    assert net.in_flight == []
