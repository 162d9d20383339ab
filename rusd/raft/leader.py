"""What a leader knows and does (paper, figure 2: volatile state on leaders, rules for leaders;
thesis, 3.10, 4, 6.2, 6.4). It begins anew with each election, and is gone when another is heard of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from rusd.raft import quorum
from rusd.raft.confchange import LEAVE_JOINT, ConfChange, ConfChangeError, changed, is_joint
from rusd.raft.message import (
    NOBODY,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    ProposalDroppedError,
    ReadState,
    Snapshot,
)
from rusd.raft.progress import Progress, ProgressState, Window
from rusd.raft.quorum import Outcome
from rusd.raft.read_index import Read, ReadQueue

if TYPE_CHECKING:
    from rusd.raft.core import Core

_APPEND: Final = MessageKind.APPEND
_NORMAL: Final = EntryKind.NORMAL
_CONF_CHANGE: Final = EntryKind.CONF_CHANGE

Slices = dict[int, tuple[Entry, ...]]


class Leader:
    """See the module. `core` is the member that leads."""

    def __init__(self, core: Core) -> None:
        self.core, self.log = core, core.log
        self.term = core.term
        self.transferee = NOBODY
        self.reads = ReadQueue()
        self._early_reads: list[tuple[int, bytes]] = []
        """Came before an entry of this term was committed."""
        self._heartbeat_due = False
        self._heartbeat_elapsed = 0
        self._appends_due = False
        self._uncommitted_bytes = 0
        self.last_conf_index = core.log.last_index
        """No configuration change is in the log after this index; there may be one before."""
        self._last_duty = 0
        """Once this leader has no vote any more: what others must know to be committed before it
        steps down."""
        self.progress: dict[int, Progress] = {}
        self._peers: list[tuple[int, Progress]] = []
        self._configure(core.log.last_index + 1, recent_active=False)
        self._handlers: dict[int, Callable[[Message], None]] = {
            MessageKind.APPEND_REPLY: self._on_append_reply,
            MessageKind.HEARTBEAT_REPLY: self._on_heartbeat_reply,
            MessageKind.PROPOSE: self._on_propose,
            MessageKind.READ_INDEX: self._on_read_index,
            MessageKind.TRANSFER_LEADER: self._on_transfer_leader,
        }

    def begin(self) -> None:
        """Begins the term with an empty entry: what is before it can be committed only with it
        (paper, 5.4.2, and section 8).
        """
        self._append((b"",), _NORMAL)
        if not self.core.is_voter:
            self._last_duty = self.log.commit
        self.own_log_written()

    def _configure(self, next_index: int, recent_active: bool) -> None:
        """Keeps the progress of who is a member, and begins that of who is new."""
        core, config = self.core, self.core.config
        for member in core.members - self.progress.keys():
            window = Window(config.max_inflight_messages, config.max_inflight_bytes)
            self.progress[member] = Progress(window, next_index, recent_active=recent_active)
        for member in self.progress.keys() - core.members:
            del self.progress[member]
        self._peers = [pair for pair in sorted(self.progress.items()) if pair[0] != core.id]

    # Time.

    def tick(self) -> None:
        """Time passes. Heartbeats, and once in an election timeout, a look for a quorum."""
        core = self.core
        if core.elapsed >= core.config.election_ticks:
            core.elapsed = 0
            if core.config.check_quorum and core.is_voter and not self._has_active_quorum():
                core.become_follower(core.term, NOBODY)
                return
            self._end_transfer()
        self._heartbeat_elapsed += 1
        if self._heartbeat_elapsed >= core.config.heartbeat_ticks:
            self._heartbeat_due = True

    def _has_active_quorum(self) -> bool:
        """Thesis, 6.2: a leader that a quorum does not hear is none."""
        active = {member: progress.recent_active for member, progress in self.progress.items()}
        active[self.core.id] = True
        for _, progress in self._peers:
            progress.recent_active = False
        return quorum.vote_result(self.core.conf_state, active) is Outcome.WON

    # Messages.

    def step(self, message: Message) -> None:
        """A reply of this term, or a request, from a member."""
        handler = self._handlers.get(message.kind)
        if handler is not None:
            handler(message)

    def _on_append_reply(self, message: Message) -> None:
        progress = self.progress.get(message.sender)
        if progress is None or message.index > self.log.last_index:
            return
        progress.recent_active = True
        if message.reject:
            self._on_rejection(message, progress)
        else:
            self._on_acknowledgement(message, progress)

    def _on_rejection(self, message: Message, progress: Progress) -> None:
        """Figure 2, leaders 3, second part, with the follower's hint."""
        hint = message.hint
        if message.log_term > 0:
            hint, _ = self.log.conflict_hint(hint, message.log_term)
        if progress.rejected(message.index, hint):
            self._appends_due = True

    def _on_acknowledgement(self, message: Message, progress: Progress) -> None:
        """Figure 2, leaders 3, first part."""
        is_news = progress.acknowledged(message.index)
        if progress.state is ProgressState.REPLICATE:
            progress.window.free_to(message.index)
        elif progress.state is ProgressState.PROBE or (progress.match + 1 >= self.log.first_index):
            progress.become_replicate()
        log = self.log
        if (
            progress.next <= log.last_index
            or progress.told_commit < log.commit
            or progress.must_ask
        ):
            self._appends_due = True
        if is_news:
            # What others have made committed needs no count.
            if message.index > log.commit:
                self.maybe_commit()
            if message.sender == self.transferee:
                self._maybe_hand_over(progress)
        if message.commit > progress.commit:
            progress.commit = message.commit
        if self._last_duty:
            self._maybe_step_down()

    def _on_heartbeat_reply(self, message: Message) -> None:
        progress = self.progress.get(message.sender)
        if progress is None:
            return
        progress.recent_active = True
        progress.probe_sent = False
        if progress.window.is_full:
            progress.window.free_one()
        if progress.match < self.log.last_index or self._last_duty:
            progress.must_ask = True
        self._appends_due = True
        if message.context:
            self.reads.echoed(message.sender, message.context)
            self._answer_confirmed_reads()

    # Proposals.

    def propose(self, data: Sequence[bytes], kind: int) -> None:
        """Figure 2, leaders 2. All of `data` or nothing. Raises ProposalDroppedError."""
        self._check_proposals_are_taken()
        size = sum(map(len, data))
        most = self.core.config.max_uncommitted_bytes
        if self._uncommitted_bytes and self._uncommitted_bytes + size > most:
            raise ProposalDroppedError("too much is not committed")
        if kind == _CONF_CHANGE:
            self._check_conf_changes(data)
        self._append(data, kind)
        self._uncommitted_bytes += size

    def _check_proposals_are_taken(self) -> None:
        if self.transferee != NOBODY:
            raise ProposalDroppedError("leadership is being transferred")
        if self._last_duty:
            raise ProposalDroppedError("the leader has no vote any more, and is about to step down")

    def _check_conf_changes(self, data: Sequence[bytes]) -> None:
        """One at a time (thesis, 4.1), and only what can be made of this configuration."""
        if len(data) != 1 or self.has_pending_conf_change():
            raise ProposalDroppedError("another configuration change is under way")
        changed(self.core.conf_state, ConfChange.decode(data[0]))

    def has_pending_conf_change(self) -> bool:
        """Whether one may be in the log that is not applied."""
        return self.last_conf_index > self.log.applied

    def _append(self, data: Sequence[bytes], kind: int) -> None:
        log, term, index = self.log, self.term, self.log.last_index
        log.append([Entry(term, index + number, one, kind) for number, one in enumerate(data, 1)])
        if kind == _CONF_CHANGE:
            self.last_conf_index = log.last_index
        self._appends_due = True

    def _on_propose(self, message: Message) -> None:
        """A follower's clients. It is not told when they are refused; it waits long enough."""
        entries = message.entries
        kinds = {entry.kind for entry in entries}
        if len(kinds) != 1:
            return
        try:
            self.propose([entry.data for entry in entries], kinds.pop())
        except (ProposalDroppedError, ConfChangeError):
            return

    # Sending.

    def prepare_messages(self) -> None:
        """Makes the messages that are due. As late as that, so that all that has come until then
        is in one message to each.
        """
        if self._heartbeat_due:
            self._send_heartbeats()
        if self._appends_due:
            self._appends_due = False
            slices: Slices = {}
            for member, progress in self._peers:
                self._send_appends(member, progress, slices)

    def _send_appends(self, member: int, progress: Progress, slices: Slices) -> None:
        """All that the member may be sent; without entries, if there is only news to tell."""
        log = self.log
        first, last, commit = log.first_index, log.last_index, log.commit
        while not progress.is_paused:
            start = progress.next
            if start < first:
                self._send_snapshot(member, progress)
                return
            if start <= last:
                entries = slices.get(start)
                if entries is None:
                    entries = log.slice(start, self.core.config.max_message_bytes)
                    slices[start] = entries
                end = start + len(entries) - 1
                size = sum([len(entry.data) for entry in entries])
            elif progress.told_commit < commit or progress.must_ask:
                entries, end, size = (), 0, 0
            else:
                return
            previous = start - 1
            self.core.messages.append(
                Message(
                    _APPEND,
                    member,
                    self.core.id,
                    self.term,
                    log.term(previous),
                    previous,
                    commit,
                    entries=entries,
                )
            )
            progress.sent(end, size, commit)

    def _send_snapshot(self, member: int, progress: Progress) -> None:
        """Thesis, 5: what the member needs is compacted. Who is not there is not sent one."""
        if not progress.recent_active:
            return
        core, log = self.core, self.log
        snapshot = Snapshot(log.applied, log.term(log.applied), core.conf_state)
        core.messages.append(
            Message(MessageKind.SNAPSHOT, member, core.id, self.term, snapshot=snapshot)
        )
        progress.become_snapshot(snapshot.index)

    def _send_heartbeats(self) -> None:
        self._heartbeat_due, self._heartbeat_elapsed = False, 0
        core, commit, context = self.core, self.log.commit, self.reads.heartbeat_context()
        for member, progress in self._peers:
            core.messages.append(
                Message(
                    MessageKind.HEARTBEAT,
                    member,
                    core.id,
                    self.term,
                    commit=min(progress.match, commit),
                    context=context,
                )
            )

    def report_unreachable(self, member: int) -> None:
        """What was sent to the member may be lost."""
        progress = self.progress.get(member)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.become_probe()

    def report_snapshot(self, member: int, ok: bool) -> None:
        """The member has the snapshot, or does not get it."""
        progress = self.progress.get(member)
        if progress is None or progress.state is not ProgressState.SNAPSHOT:
            return
        if not ok:
            progress.pending_snapshot = 0
        progress.become_probe()
        # Its acknowledgement is on its way; or it must be heard of before it is sent another.
        progress.probe_sent = True

    # Commitment.

    def own_log_written(self) -> None:
        """Only what is on disk counts for this member's own log (thesis, 10.2.1)."""
        own = self.progress.get(self.core.id)
        if own is not None:
            own.acknowledged(self.log.persisted)
            self.maybe_commit()

    def maybe_commit(self) -> None:
        """Figure 2, leaders 4."""
        progress = self.progress
        index = quorum.agreed_index(self.core.conf_state, lambda voter: progress[voter].match)
        log, before = self.log, self.log.commit
        if index <= before or not self.may_commit(index):
            return
        log.commit_to(index)
        if self._uncommitted_bytes:
            freed = log.bytes_between(before, index)
            self._uncommitted_bytes = max(0, self._uncommitted_bytes - freed)
        self._appends_due = True
        if self._early_reads:
            self._take_early_reads()

    def may_commit(self, index: int) -> bool:
        """Entries of earlier terms are not committed by counting (paper, 5.4.2)."""
        return self.log.term(index) == self.term

    # Reads.

    def read(self, member: int, context: bytes) -> None:
        """A read came, from this member or another (thesis, 6.4)."""
        if self.log.term(self.log.commit) != self.term:
            # Earlier leaders may have committed more than this one knows of.
            self._early_reads.append((member, context))
            return
        self.reads.add(self.log.commit, member, context)
        self._answer_confirmed_reads()
        if self.reads:
            self._heartbeat_due = True

    def _take_early_reads(self) -> None:
        early, self._early_reads = self._early_reads, []
        for member, context in early:
            self.read(member, context)

    def _answer_confirmed_reads(self) -> None:
        for read in self.reads.confirmed(self.core.conf_state, self.core.id):
            self._answer(read)

    def _answer(self, read: Read) -> None:
        core = self.core
        if read.member == core.id:
            core.reads.append(ReadState(read.commit, read.context))
            return
        core.messages.append(
            Message(
                MessageKind.READ_INDEX_REPLY,
                read.member,
                core.id,
                self.term,
                index=read.commit,
                context=read.context,
            )
        )

    def _on_read_index(self, message: Message) -> None:
        self.read(message.sender, message.context)

    # Transfer of leadership.

    def transfer(self, to: int) -> None:
        """Thesis, 3.10. Proposals are held off until it has happened, or an election timeout has
        passed. Nothing happens for who cannot lead.
        """
        progress, conf = self.progress.get(to), self.core.conf_state
        if progress is None or to in (self.core.id, self.transferee):
            return
        if to not in conf.voters and to not in conf.outgoing:
            return
        self.transferee, self.core.elapsed = to, 0
        self._appends_due = True
        self._maybe_hand_over(progress)

    def _maybe_hand_over(self, progress: Progress) -> None:
        if progress.match == self.log.last_index:
            self.core.messages.append(
                Message(MessageKind.TIMEOUT_NOW, self.transferee, self.core.id, self.term)
            )

    def _end_transfer(self) -> None:
        self.transferee = NOBODY
        self.maybe_leave_joint()

    def _on_transfer_leader(self, message: Message) -> None:
        self.transfer(int.from_bytes(message.context, "big"))

    # Membership.

    def reconfigured(self) -> None:
        """A change of the configuration was applied."""
        core = self.core
        # One entry to probe who is new with; and time to be heard of.
        self._configure(max(1, self.log.last_index), recent_active=True)
        self._appends_due = True
        if self.transferee not in (*core.conf_state.voters, *core.conf_state.outgoing):
            self._end_transfer()
        self.maybe_commit()
        self._answer_confirmed_reads()
        if not core.is_voter and not self._last_duty:
            self._last_duty = self.log.commit
            self._maybe_step_down()

    def _maybe_step_down(self) -> None:
        """A leader that has no vote any more steps down (thesis, 4.2.2) when a quorum of the others
        knows, on disk, that the change is committed: until then they might need its vote, which
        it does not give to who has less in its log. Then the longest log succeeds it at once.
        """
        core, progress = self.core, self.progress
        known = quorum.agreed_index(core.conf_state, lambda voter: progress[voter].commit)
        if known < self._last_duty:
            return
        self.prepare_messages()
        successor = max(core.conf_state.voters, key=lambda voter: self.progress[voter].match)
        core.messages.append(Message(MessageKind.TIMEOUT_NOW, successor, core.id, self.term))
        core.become_follower(core.term, NOBODY)

    def maybe_leave_joint(self) -> None:
        """Leaves a joint configuration by itself, once it is applied (thesis, 4.3)."""
        conf = self.core.conf_state
        if not (is_joint(conf) and conf.auto_leave) or self.transferee != NOBODY:
            return
        if not self.has_pending_conf_change():
            self._append((LEAVE_JOINT.encode(),), _CONF_CHANGE)
