"""What must hold after every step of a run (paper, figure 3, and more), checked as things change,
so that a step costs little.

Log matching is checked where entries go to a disk: that an index and a term always come with the
same entry, after an entry of the same term. By induction, logs that share an entry share all before
it; so elsewhere comparing one term is enough.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING

from rusd.raft.message import (
    NOBODY,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    Ready,
    Role,
    Snapshot,
)
from tests.sim.disk import FIRST_INDEX

if TYPE_CHECKING:
    from tests.sim.member import Member


class ViolationError(AssertionError):
    """Something that must never be."""


def require(condition: bool, *text: object) -> None:
    """Raise ViolationError with the text unless the condition holds."""
    if not condition:
        raise ViolationError(" ".join(str(each) for each in text))


class Invariants:
    """What has been seen in the whole cluster so far."""

    def __init__(self, first: Snapshot) -> None:
        self._first = first
        self.leaders: dict[int, int] = {}
        """By term."""
        self._durable_votes: defaultdict[int, dict[int, int]] = defaultdict(dict)
        """By term: by voter, for whom its vote was synced."""
        self._entries: dict[tuple[int, int], tuple[Entry, int]] = {}
        """By index and term: the entry, and the term of the one before it."""
        self.committed_terms = [0] * FIRST_INDEX + [first.term]
        """By index, of the committed entries."""
        self._commits: list[tuple[int, int]] = [(first.term, first.index)]
        """Term of a leader, and up to where it has committed, ascending in both."""
        self.applied: list[Entry] = [Entry(first.term, index, b"") for index in range(2)]
        """By index, as first applied anywhere."""
        self.conf_states: list[ConfState] = [ConfState(), first.conf_state]
        """By index: the configuration once that is applied."""

    @property
    def commit(self) -> int:
        """The highest committed index."""
        return len(self.committed_terms) - 1

    # Logs and hard states.

    def handed_out(self, member: Member, ready: Ready) -> None:
        """A Ready asks for something to be written."""
        if ready.entries:
            before = ready.entries[0].index - 1
            term = (
                ready.snapshot.term
                if ready.snapshot is not None and ready.snapshot.index == before
                else member.raw.log_term(before)
            )
            known = self._entries
            for entry in ready.entries:
                require(entry.index == before + 1, member, "hands out", entry, "after", before)
                require(term <= entry.term, member, "term falls at", entry)
                seen = known.setdefault((entry.index, entry.term), (entry, term))
                require(
                    seen[1] == term and (seen[0] is entry or seen[0] == entry),
                    "log matching:", member, "has", entry, "after term", term, "not", seen,
                )  # fmt: skip
                before, term = entry.index, entry.term
                if entry.kind == EntryKind.CONF_CHANGE and member.led_term == entry.term:
                    require(
                        not self._changes_between(member, member.applied, before - 1),
                        member, "appends a second change of the configuration:", entry,
                    )  # fmt: skip
        if ready.hard_state is not None:
            self._hard_state(member, member.handed_hard_state, ready.hard_state)
            member.handed_hard_state = ready.hard_state

    def _hard_state(self, member: Member, before: HardState, after: HardState) -> None:
        require(after.term >= before.term, member, "term falls:", before, after)
        require(
            after.term > before.term or before.vote in (NOBODY, after.vote),
            member, "votes twice:", before, after,
        )  # fmt: skip
        require(after.commit >= before.commit, member, "commit falls:", before, after)

    def synced(self, member: Member, hard_state: HardState | None) -> None:
        """Something is on disk, with this hard state."""
        if hard_state is not None and hard_state.vote != NOBODY:
            term, vote, _ = hard_state
            durable = self._durable_votes[term].setdefault(member.id, vote)
            require(durable == vote, member, "votes for", vote, "and", durable, "in term", term)

    def started(self, member: Member) -> None:
        """A member reads its disk."""
        raw, disk = member.raw, member.disk
        require(raw.term >= disk.hard_state.term, member, "forgot its term")
        require(raw.last_index == disk.last_index, member, "forgot some of its log")
        require(raw.commit >= disk.hard_state.commit, member, "forgot what is committed")
        require(raw.role is Role.FOLLOWER, member, "starts as", raw.role)

    def _changes_between(self, member: Member, after: int, last: int) -> list[int]:
        """The changes of the configuration in a member's log."""
        known, term = self._entries, member.raw.log_term
        return [
            index
            for index in range(after + 1, last + 1)
            if known[index, term(index)][0].kind == EntryKind.CONF_CHANGE
        ]

    def written(self, member: Member) -> None:
        """The core was told what is on disk."""
        persisted = member.raw.persisted_index
        require(
            persisted == 0 or member.disk.term(persisted) in (-1, member.raw.log_term(persisted)),
            member, "takes", persisted, "for written",
        )  # fmt: skip

    # Promises.

    def sent(self, member: Member, message: Message) -> None:
        """A message leaves. What it promises must be on disk."""
        if message.reject:
            return
        term, disk = message.term, member.disk
        if message.kind == MessageKind.VOTE_REPLY:
            # A vote of a term that is past on the disk cannot be given again.
            durable = self._durable_votes[term]
            if disk.hard_state.term > term:
                durable.setdefault(member.id, message.to)
            require(
                durable.get(member.id) == message.to,
                member, "promised a vote that it may forget:", message,
            )  # fmt: skip
        elif message.kind == MessageKind.VOTE:
            # Or it might ask again in this term after a crash, with less in its log.
            require(
                disk.hard_state.term >= term,
                member, "asks for votes in a term that it may forget:", message,
            )  # fmt: skip
        elif message.kind == MessageKind.APPEND_REPLY and message.index:
            # In a later term, what it has acknowledged may have been replaced.
            durable_term = disk.hard_state.term
            require(
                durable_term > term or (durable_term == term and disk.last_index >= message.index),
                member, "acknowledged what it may forget:", message,
            )  # fmt: skip

    # Roles, commitment, configurations: after every step.

    def stepped(self, member: Member) -> None:
        """A member's core has done something."""
        raw = member.raw
        term, commit, conf = raw.term, raw.commit, raw.conf_state
        if term != member.seen_term:
            require(term > member.seen_term, member, "term falls to", term)
            member.seen_term = term
            member.seen_leader = NOBODY
        if raw.role is Role.LEADER and member.led_term != term:
            member.led_term = term
            self._elected(member)
        if raw.leader != member.seen_leader:
            member.seen_leader = raw.leader
            require(
                raw.leader in (NOBODY, self.leaders.get(term)),
                member, "follows", raw.leader, "in term", term, "not", self.leaders.get(term),
            )  # fmt: skip
        if raw.role is Role.CANDIDATE and member.stood_term != term:
            member.stood_term = term
            # It may be two configurations behind, with majorities that share no member.
            require(
                not self._changes_between(member, member.applied, commit),
                member, "stands for election by a configuration that is past",
            )  # fmt: skip
        if commit != member.seen_commit:
            require(commit > member.seen_commit, member, "commit falls to", commit)
            self._committed(member, commit)
            member.seen_commit = commit
        if conf is not member.seen_conf:
            member.seen_conf = conf
            applied = max(raw.applied, member.applied)
            require(
                conf == self.conf_states[applied],
                member, "has at", applied, conf, "not", self.conf_states[applied],
            )  # fmt: skip

    def _elected(self, member: Member) -> None:
        raw = member.raw
        term = raw.term
        other = self.leaders.setdefault(term, member.id)
        require(other == member.id, member, "and", other, "lead in term", term)
        votes = self._durable_votes[term]
        for half in _halves(raw.conf_state):
            granted = [voter for voter in half if votes.get(voter) == member.id]
            require(
                2 * len(granted) > len(half),
                member, "leads in term", term, "with votes of", granted, "of", half,
            )  # fmt: skip
        place = bisect_left(self._commits, (term, 0)) - 1
        if place >= 0:
            index = self._commits[place][1]
            require(
                index < raw.first_index or raw.log_term(index) == self.committed_terms[index],
                "leader completeness:", member, "leads in term", term, "without", index,
            )  # fmt: skip

    def _committed(self, member: Member, commit: int) -> None:
        raw, terms = member.raw, self.committed_terms
        if commit < len(terms):
            require(
                commit < raw.first_index - 1 or raw.log_term(commit) == terms[commit],
                member, "has committed", commit, "of term", raw.log_term(commit),
                "not", terms[commit],
            )  # fmt: skip
            return
        term = raw.log_term(commit)
        require(member.led_term == raw.term, member, "commits", commit, "and does not lead")
        require(term == raw.term, member, "commits", commit, "of an earlier term:", term)
        for half in _halves(raw.conf_state):
            having = [each for each in half if member.world.durable_term(each, commit) == term]
            require(
                2 * len(having) > len(half),
                member, "commits", commit, "that only", having, "of", half, "have on disk",
            )  # fmt: skip
        for index in range(len(terms), commit + 1):
            terms.append(raw.log_term(index))
        self._commits.append((raw.term, commit))

    # Applying.

    def applying(self, member: Member, entry: Entry) -> bool:
        """An entry is about to be applied. Returns whether it is for the first time anywhere."""
        index = entry.index
        require(index == member.applied + 1, member, "applies", entry, "after", member.applied)
        require(index <= self.commit, member, "applies", entry, "which is not committed")
        require(
            member.disk.term(index) == entry.term,
            member, "applies", entry, "which is not on its disk",
        )  # fmt: skip
        if index < len(self.applied):
            first = self.applied[index]
            require(
                first is entry or first == entry,
                "state machine safety:", member, "applies", entry, "not", first,
            )  # fmt: skip
            return False
        self.applied.append(entry)
        return True

    def configured(self, member: Member, index: int, conf: ConfState) -> None:
        """The configuration is this once `index` is applied."""
        if index < len(self.conf_states):
            require(
                conf == self.conf_states[index],
                member, "has at", index, conf, "not", self.conf_states[index],
            )  # fmt: skip
            return
        before = self.conf_states[-1]
        require(_is_safe(before, conf), "no common majority:", before, conf)
        self.conf_states.append(conf)


def _halves(conf: ConfState) -> list[tuple[int, ...]]:
    return [half for half in (conf.voters, conf.outgoing) if half]


def _is_safe(before: ConfState, after: ConfState) -> bool:
    """Whether all majorities before share a member with all after (thesis, 4.1 and 4.3)."""
    if before.outgoing:
        return after.voters == before.voters
    if after.outgoing:
        return after.outgoing == before.voters
    return len({*before.voters} ^ {*after.voters}) <= 1
