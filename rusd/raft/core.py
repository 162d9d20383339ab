"""A member of a Raft cluster: its term, vote, role, log and configuration, and what it does as a
follower and as a candidate (paper, figure 2; thesis, chapters 3, 4, 6 and section 9.6). What it
does as a leader is in `leader.py`; what the node sees of it, in `raw_node.py`.
"""

from collections.abc import Callable, Sequence
from typing import Final

from rusd.raft import confchange, quorum
from rusd.raft.confchange import ConfChange
from rusd.raft.leader import Leader
from rusd.raft.log import Log
from rusd.raft.message import (
    NOBODY,
    Config,
    ConfState,
    Entry,
    HardState,
    Message,
    MessageKind,
    Persisted,
    ProposalDroppedError,
    ReadState,
    Role,
    Snapshot,
)
from rusd.raft.quorum import Outcome

TRANSFER: Final = b"transfer"
"""The context of a vote that the leader itself asked for."""

Handler = Callable[[Message], None]

_ASKS_FOR_VOTES: Final = frozenset((MessageKind.VOTE, MessageKind.PRE_VOTE))
_TO_LEADER: Final = frozenset(
    (MessageKind.PROPOSE, MessageKind.READ_INDEX, MessageKind.TRANSFER_LEADER)
)
"""Requests of a member's own clients; they have no term."""
_FROM_LEADER: Final = frozenset(
    (
        MessageKind.APPEND,
        MessageKind.HEARTBEAT,
        MessageKind.SNAPSHOT,
        MessageKind.TIMEOUT_NOW,
        MessageKind.READ_INDEX_REPLY,
    )
)
_REPLIES: Final = frozenset(
    (
        MessageKind.APPEND_REPLY,
        MessageKind.HEARTBEAT_REPLY,
        MessageKind.VOTE_REPLY,
        MessageKind.PRE_VOTE_REPLY,
    )
)


class Core:
    """See the module. What it wants sent and answered piles up in `messages`, `promises` and
    `reads`, which `RawNode` hands out.
    """

    def __init__(self, config: Config, persisted: Persisted) -> None:
        """Raises LogError when what was on disk does not fit together."""
        self.config, self.id = config, config.id
        self.term, self.vote, _ = persisted.hard_state
        self.durable_vote = (self.term, self.vote)
        """Term and vote as they are on disk."""
        self.log = Log(persisted)
        self._configure(persisted.snapshot.conf_state)
        self.leading: Leader | None = None
        """A leader's state, while this member is one."""
        self.messages: list[Message] = []
        self.promises: list[Message] = []
        self.reads: list[ReadState] = []
        self._held_snapshot: Message | None = None
        self._handlers: dict[Role, dict[int, Handler]] = self._handlers_by_role()
        self.become_follower(self.term, NOBODY)

    def _handlers_by_role(self) -> dict[Role, dict[int, Handler]]:
        asked: dict[int, Handler] = {
            MessageKind.VOTE: self._on_vote,
            MessageKind.PRE_VOTE: self._on_pre_vote,
        }
        follower: dict[int, Handler] = {
            **asked,
            MessageKind.APPEND: self._on_append,
            MessageKind.HEARTBEAT: self._on_heartbeat,
            MessageKind.SNAPSHOT: self._on_snapshot,
            MessageKind.TIMEOUT_NOW: self._on_timeout_now,
            MessageKind.READ_INDEX_REPLY: self._on_read_index_reply,
        }
        return {
            Role.FOLLOWER: follower,
            Role.PRE_CANDIDATE: {**follower, MessageKind.PRE_VOTE_REPLY: self._on_pre_vote_reply},
            Role.CANDIDATE: {**follower, MessageKind.VOTE_REPLY: self._on_vote_reply},
            Role.LEADER: asked,
        }

    @property
    def holds_snapshot(self) -> bool:
        """See RawNode."""
        return self._held_snapshot is not None

    @property
    def can_lead(self) -> bool:
        """Learners, removed members, and members without a state machine cannot; but see
        `_maybe_stand_in`.
        """
        return self.is_voter and not self.log.is_installing

    # Time.

    def tick(self) -> None:
        """Time passes."""
        self.elapsed += 1
        if self.leading is not None:
            self.leading.tick()
        elif self.elapsed >= self.timeout and (self.can_lead or self.role is not Role.FOLLOWER):
            self._stand_for_election()

    def _stand_for_election(self) -> None:
        if not self.can_lead or self.log.has_unapplied_conf_change():
            # By a configuration that this member does not have yet, it may not vote any more.
            self.become_follower(self.term, NOBODY)
        elif self.config.pre_vote:
            self.become_pre_candidate()
        else:
            self.become_candidate()

    def campaign(self, context: bytes = b"") -> None:
        """Stands for election at once, unless it cannot."""
        if self.leading is None and self.can_lead and not self.log.has_unapplied_conf_change():
            self.become_candidate(context)

    # Messages.

    def step(self, message: Message) -> None:
        """A message came. Never raises: what makes no sense is ignored."""
        kind, sender = message.kind, message.sender
        if message.to != self.id or sender in (self.id, NOBODY):
            return
        if kind in _TO_LEADER:
            if self.leading is not None and sender in self.members:
                self.leading.step(message)
            return
        if kind in _REPLIES and sender not in self.members:
            return
        if message.term > self.term:
            if not self._meet_newer_term(message):
                return
        elif self.is_stale(message):
            self._answer_stale(message)
            return
        if self.leading is not None and kind in _REPLIES:
            self.leading.step(message)
            return
        handler = self._handlers[self.role].get(kind)
        if handler is not None:
            handler(message)

    def _meet_newer_term(self, message: Message) -> bool:
        """Figure 2, all servers 2: who sees a higher term follows. Returns whether the message is
        to be handled.
        """
        kind = message.kind
        if kind in _ASKS_FOR_VOTES and self._leader_is_near(message):
            return False
        if kind == MessageKind.PRE_VOTE:
            return True
        if kind == MessageKind.PRE_VOTE_REPLY and not message.reject:
            # It says what its sender would do in the next term; nobody is there yet.
            return True
        self.become_follower(message.term, message.sender if kind in _FROM_LEADER else NOBODY)
        return True

    def _leader_is_near(self, message: Message) -> bool:
        """Who has heard of a leader lately does not help to disturb it (thesis, 4.2.3, 9.6),
        except when the leader wants to be succeeded.
        """
        return (
            self.leader != NOBODY
            and self.elapsed < self.config.election_ticks
            and (self.config.check_quorum or message.kind == MessageKind.PRE_VOTE)
            and not message.context
        )

    def is_stale(self, message: Message) -> bool:
        """Whether it is of a term that has passed."""
        return message.term < self.term

    def _answer_stale(self, message: Message) -> None:
        """Figure 2, AppendEntries 1 and RequestVote 1. Its sender learns the term, so that it
        can follow, or stand for election in a term that is new to all.
        """
        reply = _STALE_REPLY.get(message.kind)
        if reply is not None and message.term > 0:
            self.promises.append(
                Message(reply, message.sender, self.id, self.term, index=message.index, reject=True)
            )

    # Roles.

    def become_follower(self, term: int, leader: int) -> None:
        """Follows `leader`, or nobody yet, in `term`."""
        if term > self.term:
            self.term, self.vote = term, NOBODY
        self._become(Role.FOLLOWER, leader)

    def become_pre_candidate(self) -> None:
        """Asks who would vote for it, before it disturbs anyone with a new term (thesis, 9.6)."""
        self._become(Role.PRE_CANDIDATE, NOBODY)
        self._count_vote(self.id, granted=True)
        if self.role is Role.PRE_CANDIDATE:
            self.messages += self._requests_for_votes(MessageKind.PRE_VOTE, self.term + 1, b"")

    def become_candidate(self, context: bytes = b"") -> None:
        """Figure 2, candidates 1. It asks for votes when its log, term and vote are on disk: after
        a crash it might ask again in the same term, with less in its log, and must not be elected
        by the votes that it got for more.
        """
        self.term += 1
        self.vote = self.id
        self._become(Role.CANDIDATE, NOBODY)
        self.promises += self._requests_for_votes(MessageKind.VOTE, self.term, context)
        self._count_own_vote()

    def become_leader(self) -> None:
        """Figure 2, candidates 2."""
        self._become(Role.LEADER, self.id)
        self.leading = Leader(self)
        self.leading.begin()

    def _become(self, role: Role, leader: int) -> None:
        self.role, self.leader = role, leader
        self.leading = None
        self.votes: dict[int, bool] = {}
        self.elapsed = 0
        election_ticks = self.config.election_ticks
        self.timeout = election_ticks + self.config.random_ticks(election_ticks)

    # Votes.

    def _requests_for_votes(self, kind: int, term: int, context: bytes) -> list[Message]:
        index, log_term = self.log.last_index, self.log.last_term
        voters = sorted({*self.conf_state.voters, *self.conf_state.outgoing} - {self.id})
        return [
            Message(kind, voter, self.id, term, log_term, index, context=context)
            for voter in voters
        ]

    def _count_own_vote(self) -> None:
        if self.own_vote_counts():
            self._count_vote(self.id, granted=True)

    def own_vote_counts(self) -> bool:
        """Whether this candidate's vote for itself is on disk."""
        return self.durable_vote == (self.term, self.id)

    def _count_vote(self, member: int, granted: bool) -> None:
        # A member that grants has granted, whatever it said to earlier requests.
        self.votes[member] = granted or self.votes.get(member, False)
        outcome = quorum.vote_result(self.conf_state, self.votes)
        if outcome is Outcome.LOST:
            self.become_follower(self.term, NOBODY)
        elif outcome is Outcome.WON and self.role is Role.PRE_CANDIDATE:
            self.become_candidate()
        elif outcome is Outcome.WON:
            self.become_leader()

    def _on_vote_reply(self, message: Message) -> None:
        self._count_vote(message.sender, not message.reject)

    def _on_pre_vote_reply(self, message: Message) -> None:
        # One that was granted for this term, not the next, was for an earlier candidacy.
        if message.reject or message.term == self.term + 1:
            self._count_vote(message.sender, not message.reject)

    def _on_vote(self, message: Message) -> None:
        """Figure 2, RequestVote 2. Learners vote too when asked: by a configuration that they do
        not have yet, they may be voters.
        """
        granted = self.may_vote_for(message)
        if granted:
            self.vote = message.sender
            self.elapsed = 0
        self.promises.append(
            Message(MessageKind.VOTE_REPLY, message.sender, self.id, self.term, reject=not granted)
        )
        self._maybe_stand_in(message)

    def _maybe_stand_in(self, message: Message) -> None:
        """A member that has no vote any more is asked for one by a voter that does not know so yet,
        and whose log is behind. It may be that nobody can lead without this vote, which cannot be
        given: then this member leads, until the others know (a leader need not be in the
        configuration: thesis, 4.2.2). With a pre-vote: a leader may be near that it does not hear.
        """
        if (
            self.role is Role.FOLLOWER
            and not self.is_voter
            and message.sender in self.conf_state.voters
            and not self.log.is_up_to_date(message.index, message.log_term)
            and not self.log.is_installing
            and not self.log.has_unapplied_conf_change()
        ):
            self.become_pre_candidate()

    def may_vote_for(self, message: Message) -> bool:
        """One vote a term, and none for a log that is behind."""
        return (
            self.vote == message.sender or (self.vote == NOBODY and self.leader == NOBODY)
        ) and self.log.is_up_to_date(message.index, message.log_term)

    def _on_pre_vote(self, message: Message) -> None:
        granted = self.may_pre_vote_for(message)
        # Granted in the term that was asked for; rejected in this, which the sender may not know.
        term = message.term if granted else self.term
        self.messages.append(
            Message(MessageKind.PRE_VOTE_REPLY, message.sender, self.id, term, reject=not granted)
        )
        self._maybe_stand_in(message)

    def may_pre_vote_for(self, message: Message) -> bool:
        """Whether this member would vote, in that later term."""
        return message.term > self.term and self.log.is_up_to_date(message.index, message.log_term)

    # Following.

    def _follow(self, message: Message) -> None:
        """Its sender leads in this term."""
        if self.role is Role.FOLLOWER:
            self.leader, self.elapsed = message.sender, 0
        else:
            self.become_follower(self.term, message.sender)

    def _on_append(self, message: Message) -> None:
        """Figure 2, AppendEntries 2 to 5."""
        self._follow(message)
        log, previous, entries = self.log, message.index, message.entries
        if previous < log.commit:
            # What is committed is the same everywhere.
            self._acknowledge(message, log.commit)
        elif not log.matches(previous, message.log_term):
            self._reject_append(message)
        elif _is_sequence(entries, message) and log.merge(entries):
            last = previous + len(entries)
            log.commit_to(min(message.commit, last))
            self._acknowledge(message, last)

    def _acknowledge(self, message: Message, index: int) -> None:
        self.promises.append(
            Message(
                MessageKind.APPEND_REPLY,
                message.sender,
                self.id,
                self.term,
                index=index,
                commit=self.log.commit,
            )
        )

    def _reject_append(self, message: Message) -> None:
        hint, hint_term = self.log.conflict_hint(message.index, message.log_term)
        self.promises.append(
            Message(
                MessageKind.APPEND_REPLY,
                message.sender,
                self.id,
                self.term,
                hint_term,
                message.index,
                reject=True,
                hint=hint,
            )
        )

    def _on_heartbeat(self, message: Message) -> None:
        """The leader sends at most as commit what it knows to match, and that is on disk here. A
        member that has less has lost some of its disk, and may have lost that it matches.
        """
        self._follow(message)
        if message.commit <= self.log.last_index:
            self.log.commit_to(message.commit)
        self.messages.append(
            Message(
                MessageKind.HEARTBEAT_REPLY,
                message.sender,
                self.id,
                self.term,
                context=message.context,
            )
        )

    def _on_snapshot(self, message: Message) -> None:
        """Figure 13, InstallSnapshot 6 to 8. It waits for entries that are being applied."""
        self._follow(message)
        snapshot, log = message.snapshot, self.log
        if snapshot is None or snapshot.term > message.term:
            return
        if snapshot.index <= log.commit:
            self._acknowledge(message, log.commit)
        elif log.matches(snapshot.index, snapshot.term):
            log.commit_to(snapshot.index)
            self._acknowledge(message, snapshot.index)
        elif self.id not in confchange.members(snapshot.conf_state):
            # Who sends snapshots has their receiver in its configuration.
            return
        elif log.applied < log.applying:
            self._held_snapshot = message
        else:
            self._restore(snapshot)
            self._acknowledge(message, snapshot.index)

    def _restore(self, snapshot: Snapshot) -> None:
        self.log.restore(snapshot)
        self._configure(snapshot.conf_state)

    def _on_timeout_now(self, message: Message) -> None:
        """The leader wants this member to succeed it (thesis, 3.10)."""
        if self.role is Role.FOLLOWER and self.leader in (NOBODY, message.sender):
            self.campaign(TRANSFER)

    def _on_read_index_reply(self, message: Message) -> None:
        self._follow(message)
        self.reads.append(ReadState(message.index, message.context))

    # What the node asks for. What a leader must do goes to the leader.

    def propose(self, data: Sequence[bytes], kind: int) -> None:
        """Raises ProposalDroppedError."""
        if self.leading is not None:
            self.leading.propose(data, kind)
            return
        entries = tuple(Entry(0, 0, one, kind) for one in data)
        if self.leader == NOBODY or self.id not in self.members:
            raise ProposalDroppedError("no leader is known")
        self.messages.append(Message(MessageKind.PROPOSE, self.leader, self.id, entries=entries))

    def read_index(self, context: bytes) -> bool:
        """Returns False when there is nobody to ask."""
        if self.leading is not None:
            self.leading.read(self.id, context)
            return True
        if self.leader == NOBODY or self.id not in self.members:
            return False
        self.messages.append(Message(MessageKind.READ_INDEX, self.leader, self.id, context=context))
        return True

    def transfer_leader(self, to: int) -> None:
        """Does nothing when there is nobody to ask, or `to` cannot lead."""
        if self.leading is not None:
            self.leading.transfer(to)
        elif self.leader != NOBODY:
            context = to.to_bytes(8, "big")
            self.messages.append(
                Message(MessageKind.TRANSFER_LEADER, self.leader, self.id, context=context)
            )

    # What the node has done.

    def written(self, number: int, hard_state: HardState) -> None:
        """Write `number` and all before it are on disk, and this hard state."""
        durable_vote = hard_state[:2]
        self.log.durable_commit = hard_state.commit
        if durable_vote != self.durable_vote:
            self.durable_vote = durable_vote
            if self.role is Role.CANDIDATE:
                self._count_own_vote()
        if self.log.written(number) and self.leading is not None:
            self.leading.own_log_written()

    def applied_to(self, index: int) -> None:
        """The state machine has applied up to `index`. Raises LogError."""
        log = self.log
        log.applied_to(index)
        if self.leading is not None:
            self.leading.maybe_leave_joint()
        if self._held_snapshot is not None and log.applied == log.applying:
            held, self._held_snapshot = self._held_snapshot, None
            self.step(held)

    def apply_conf_change(self, change: ConfChange) -> None:
        """The entry with this change is applied. Raises ConfChangeError."""
        self._configure(confchange.changed(self.conf_state, change))
        if self.leading is not None:
            self.leading.reconfigured()

    def _configure(self, conf_state: ConfState) -> None:
        self.conf_state = conf_state
        self.members = confchange.members(conf_state)
        self.is_voter = self.id in conf_state.voters or self.id in conf_state.outgoing

    # What the node takes.

    @property
    def hard_state(self) -> HardState:
        """Figure 2, persistent state; and the commit index."""
        return HardState(self.term, self.vote, self.log.commit)

    @property
    def has_committed(self) -> bool:
        """Whether there is something to apply."""
        return self._held_snapshot is None and self.log.has_committed

    def hand_out_committed(self) -> tuple[Entry, ...]:
        """What can be applied, and was not handed out to be."""
        if self._held_snapshot is not None:
            return ()
        return self.log.hand_out_committed(self.config.max_committed_bytes)


_STALE_REPLY: Final[dict[int, int]] = {
    MessageKind.APPEND: MessageKind.APPEND_REPLY,
    MessageKind.HEARTBEAT: MessageKind.APPEND_REPLY,
    MessageKind.SNAPSHOT: MessageKind.APPEND_REPLY,
    MessageKind.VOTE: MessageKind.VOTE_REPLY,
    MessageKind.PRE_VOTE: MessageKind.PRE_VOTE_REPLY,
}


def _is_sequence(entries: tuple[Entry, ...], message: Message) -> bool:
    """Whether they follow each other, and the message's previous entry, in index and term."""
    index, term = message.index, message.log_term
    for entry in entries:
        if entry.index != index + 1 or not term <= entry.term <= message.term:
            return False
        index, term = entry.index, entry.term
    return True
