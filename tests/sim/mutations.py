"""Ways to break the core, each of which the simulation must notice: a test of the test."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

from rusd.raft import quorum
from rusd.raft.confchange import ConfChange, ConfChangeError
from rusd.raft.core import Core
from rusd.raft.leader import Leader
from rusd.raft.log import Log
from rusd.raft.message import (
    NOBODY,
    Config,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    Persisted,
    Ready,
    Role,
)
from rusd.raft.raw_node import RawNode
from rusd.raft.read_index import Read, ReadQueue

Patch = tuple[object, str, object]
"""In what, which name, by what it is replaced."""


def _count_unsynced_own_vote() -> list[Patch]:
    return [(Core, "own_vote_counts", lambda _: True)]


def _count_unsynced_own_log() -> list[Patch]:
    append = Leader._append

    def append_and_count(self: Leader, data: Sequence[bytes], kind: int) -> None:
        append(self, data, kind)
        own = self.progress.get(self.core.id)
        if own is not None:
            own.acknowledged(self.log.last_index)
            self.maybe_commit()

    return [(Leader, "_append", append_and_count)]


def _commit_entries_of_earlier_terms() -> list[Patch]:
    return [(Leader, "may_commit", lambda *_: True)]


def _take_replies_of_earlier_terms() -> list[Patch]:
    step = Core.step

    def step_without_term(self: Core, message: Message) -> None:
        replies = (MessageKind.APPEND_REPLY, MessageKind.VOTE_REPLY)
        if message.kind in replies and message.term < self.term:
            message = replace(message, term=self.term)
        step(self, message)

    return [(Core, "step", step_without_term)]


def _take_messages_of_earlier_leaders() -> list[Patch]:
    step = Core.step

    def step_without_term(self: Core, message: Message) -> None:
        if message.kind == MessageKind.APPEND and message.term < self.term:
            message = replace(message, term=self.term)
        step(self, message)

    return [(Core, "step", step_without_term)]


def _stand_without_pre_vote() -> list[Patch]:
    return [(Core, "become_pre_candidate", lambda self: self.become_candidate())]


def _grant_every_pre_vote() -> list[Patch]:
    return [
        (Core, "may_pre_vote_for", lambda *_: True),
        (Core, "_leader_is_near", lambda *_: False),
    ]


def _apply_changes_when_appended() -> list[Patch]:
    append = Leader._append

    def append_and_apply(self: Leader, data: Sequence[bytes], kind: int) -> None:
        append(self, data, kind)
        if kind == EntryKind.CONF_CHANGE:
            try:
                self.core.apply_conf_change(ConfChange.decode(data[0]))
            except ConfChangeError:
                return

    return [(Leader, "_append", append_and_apply)]


def _several_changes_at_a_time() -> list[Patch]:
    return [(Leader, "has_pending_conf_change", lambda _: False)]


def _promise_before_the_sync() -> list[Patch]:
    ready = RawNode.ready

    def hasty(self: RawNode) -> Ready:
        careful = ready(self)
        return careful._replace(messages=careful.messages + careful.promises, promises=())

    return [(RawNode, "ready", hasty)]


def _forget_the_vote() -> list[Patch]:
    begin = RawNode.__init__

    def forget(self: RawNode, config: Config, persisted: Persisted) -> None:
        term, _, commit = persisted.hard_state
        begin(self, config, replace(persisted, hard_state=HardState(term, NOBODY, commit)))

    return [(RawNode, "__init__", forget)]


def _vote_twice_in_a_term() -> list[Patch]:
    def willing(self: Core, message: Message) -> bool:
        return self.log.is_up_to_date(message.index, message.log_term)

    return [(Core, "may_vote_for", willing)]


def _vote_for_logs_that_are_behind() -> list[Patch]:
    return [(Log, "is_up_to_date", lambda *_: True)]


def _answer_reads_unconfirmed() -> list[Patch]:
    def all_of_them(self: ReadQueue, _: ConfState, __: int) -> list[Read]:
        reads = list(self._waiting)
        self._waiting.clear()
        return reads

    return [(ReadQueue, "confirmed", all_of_them)]


def _read_before_a_commit_in_the_term() -> list[Patch]:
    def hasty(self: Leader, member: int, context: bytes) -> None:
        self.reads.add(self.log.commit, member, context)
        self._answer_confirmed_reads()
        self._heartbeat_due = True

    return [(Leader, "read", hasty)]


def _keep_entries_that_conflict() -> list[Patch]:
    def only_append(self: Log, entries: Sequence[Entry]) -> bool:
        self.append([entry for entry in entries if entry.index > self.last_index])
        return True

    return [(Log, "merge", only_append)]


def _accept_entries_after_others() -> list[Patch]:
    def reaches(self: Log, index: int, _: int) -> bool:
        return self.compacted <= index <= self.last_index

    return [(Log, "matches", reaches)]


def _take_snapshots_of_what_is_committed() -> list[Patch]:
    handle = Core._on_snapshot

    def take(self: Core, message: Message) -> None:
        snapshot = message.snapshot
        if snapshot is not None and snapshot.index <= self.log.commit and not self.leading:
            self._restore(snapshot)
        else:
            handle(self, message)

    return [(Core, "_on_snapshot", take)]


def _tell_the_commit_index_to_all() -> list[Patch]:
    send = Leader._send_heartbeats

    def tell(self: Leader) -> None:
        sent = len(self.core.messages)
        send(self)
        messages = self.core.messages
        messages[sent:] = [replace(each, commit=self.log.commit) for each in messages[sent:]]

    return [(Leader, "_send_heartbeats", tell)]


def _apply_before_the_sync() -> list[Patch]:
    def hasty(self: Log, max_bytes: int) -> tuple[Entry, ...]:
        entries = self._slice(self.applying + 1, self.commit, max_bytes)
        self.applying += len(entries)
        return entries

    return [(Log, "hand_out_committed", hasty)]


def _take_a_write_for_one_of_what_replaced_it() -> list[Patch]:
    def truncate(self: Log, last: int) -> None:
        del self._entries[last - self.compacted :]
        self.last_index = last
        self.handed = min(self.handed, last)
        self.persisted = min(self.persisted, last)

    return [(Log, "_truncate", truncate)]


def _half_of_a_joint_configuration() -> list[Patch]:
    agreed, votes = quorum.agreed_index, quorum.vote_result

    def incoming(config: ConfState) -> ConfState:
        return config._replace(outgoing=())

    return [
        (quorum, "agreed_index", lambda config, reached: agreed(incoming(config), reached)),
        (quorum, "vote_result", lambda config, given: votes(incoming(config), given)),
    ]


def _learners_count() -> list[Patch]:
    agreed = quorum.agreed_index

    def all_members(config: ConfState) -> ConfState:
        return config._replace(voters=(*config.voters, *config.learners))

    return [(quorum, "agreed_index", lambda config, reached: agreed(all_members(config), reached))]


def _stay_leader_in_a_newer_term() -> list[Patch]:
    become = Core.become_follower

    def stay(self: Core, term: int, leader: int) -> None:
        if self.leading is not None and term > self.term:
            self.term, self.vote = term, NOBODY
        else:
            become(self, term, leader)

    return [(Core, "become_follower", stay)]


def _begin_a_term_with_nothing() -> list[Patch]:
    return [(Leader, "begin", lambda self: setattr(self, "_heartbeat_due", True))]


def _never_hear_that_a_snapshot_was_lost() -> list[Patch]:
    report = Leader.report_snapshot

    def hopeful(self: Leader, member: int, ok: bool) -> None:
        if ok:
            report(self, member, ok)

    return [(Leader, "report_snapshot", hopeful)]


def _never_probe_again() -> list[Patch]:
    def lazy(self: Leader, message: Message) -> None:
        progress = self.progress.get(message.sender)
        if progress is not None:
            progress.recent_active = True
            if message.context:
                self.reads.echoed(message.sender, message.context)
                self._answer_confirmed_reads()

    return [(Leader, "_on_heartbeat_reply", lazy)]


def _transfer_for_ever() -> list[Patch]:
    return [(Leader, "_end_transfer", lambda _: None)]


def _lead_after_removal() -> list[Patch]:
    reconfigured = Leader.reconfigured

    def stay(self: Leader) -> None:
        voter, self.core.is_voter = self.core.is_voter, True
        try:
            reconfigured(self)
        finally:
            self.core.is_voter = voter

    return [(Leader, "reconfigured", stay)]


def _stand_while_a_change_is_not_applied() -> list[Patch]:
    return [(Log, "has_unapplied_conf_change", lambda _: False)]


def _ask_for_votes_before_the_sync() -> list[Patch]:
    become = Core.become_candidate

    def hasty(self: Core, context: bytes = b"") -> None:
        become(self, context)
        if self.role is Role.CANDIDATE:
            votes = [each for each in self.promises if each.kind == MessageKind.VOTE]
            self.promises = [each for each in self.promises if each.kind != MessageKind.VOTE]
            self.messages += votes

    return [(Core, "become_candidate", hasty)]


MUTATIONS: Final[dict[str, Callable[[], list[Patch]]]] = {
    function.__name__.strip("_").replace("_", "-"): function
    for function in (
        _count_unsynced_own_vote,
        _count_unsynced_own_log,
        _commit_entries_of_earlier_terms,
        _take_replies_of_earlier_terms,
        _take_messages_of_earlier_leaders,
        _stand_without_pre_vote,
        _grant_every_pre_vote,
        _apply_changes_when_appended,
        _several_changes_at_a_time,
        _promise_before_the_sync,
        _forget_the_vote,
        _vote_twice_in_a_term,
        _vote_for_logs_that_are_behind,
        _answer_reads_unconfirmed,
        _read_before_a_commit_in_the_term,
        _keep_entries_that_conflict,
        _accept_entries_after_others,
        _take_snapshots_of_what_is_committed,
        _tell_the_commit_index_to_all,
        _apply_before_the_sync,
        _take_a_write_for_one_of_what_replaced_it,
        _half_of_a_joint_configuration,
        _learners_count,
        _stay_leader_in_a_newer_term,
        _begin_a_term_with_nothing,
        _never_hear_that_a_snapshot_was_lost,
        _never_probe_again,
        _transfer_for_ever,
        _lead_after_removal,
        _stand_while_a_change_is_not_applied,
        _ask_for_votes_before_the_sync,
    )
}


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """The core, broken in one way; as it is when there is no name."""
    with ExitStack() as patches:
        for target, attribute, replacement in MUTATIONS[name]() if name else ():
            found: Any = patch.object(target, attribute, replacement)
            patches.enter_context(found)
        yield
