"""The Raft core as the node sees it: verbs in, one `Ready` out. No I/O, no clock, no threads.

The node feeds it ticks, messages and requests, takes `ready()` and does what that says, and tells
what it has done: `advance` when it is on disk, `applied_to` and `apply_conf_change` when it is
applied.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from rusd.raft.confchange import ConfChange
from rusd.raft.core import Core
from rusd.raft.message import (
    Config,
    ConfState,
    EntryKind,
    HardState,
    Message,
    Persisted,
    Ready,
    Role,
)
from rusd.raft.progress import Progress

T = TypeVar("T")


class _Write(NamedTuple):
    """A Ready that is not advanced, and the hard state that is on disk once it is."""

    number: int
    hard_state: HardState


class RawNode:
    """See the module."""

    def __init__(self, config: Config, persisted: Persisted) -> None:
        """Raises log.LogError when what was on disk does not fit together."""
        self._core = Core(config, persisted)
        self._number = 0
        self._writes: deque[_Write] = deque()
        self._handed_hard_state = self._durable_hard_state = self._core.hard_state

    # In.

    def tick(self) -> None:
        """A tick of the clock has passed."""
        self._core.tick()

    def step(self, message: Message) -> None:
        """A message came from a peer. Never raises: what makes no sense is ignored."""
        self._core.step(message)

    def propose(self, data: Sequence[bytes]) -> None:
        """Proposes entries, all of them or none; a follower sends them to its leader. Raises
        ProposalDroppedError.
        """
        self._core.propose(data, EntryKind.NORMAL)

    def propose_conf_change(self, change: ConfChange) -> None:
        """Proposes a change of the configuration. Raises ProposalDroppedError, also when another
        may be under way, and on a leader ConfChangeError when it makes no sense. A leader drops
        what comes from a follower and is refused.
        """
        self._core.propose((change.encode(),), EntryKind.CONF_CHANGE)

    def read_index(self, context: bytes) -> bool:
        """Asks from which index on a read is linearizable; a `ReadState` with this context answers
        it, unless the leader or a message is lost: ask again then. Contexts must differ, also from
        those before a restart. Returns False when no leader is known: nothing will come.
        """
        return self._core.read_index(context)

    def transfer_leader(self, to: int) -> None:
        """Asks the leader, if there is one, to be succeeded by a voter."""
        self._core.transfer_leader(to)

    def campaign(self) -> None:
        """Stands for election at once, without a pre-vote. Does nothing when it cannot lead: as a
        learner, or while a committed change of the configuration is not applied.
        """
        self._core.campaign()

    def report_unreachable(self, member: int) -> None:
        """Messages to the member were lost."""
        if self._core.leading is not None:
            self._core.leading.report_unreachable(member)

    def report_snapshot(self, member: int, ok: bool) -> None:
        """The sending of a snapshot has ended. Must follow every SNAPSHOT message."""
        if self._core.leading is not None:
            self._core.leading.report_snapshot(member, ok)

    # Out.

    def has_ready(self) -> bool:
        """Whether `ready()` would hand out anything."""
        core = self._core
        if core.leading is not None:
            core.leading.prepare_messages()
        log = core.log
        return bool(
            core.messages
            or core.promises
            or core.reads
            or log.handed < log.last_index
            or log.snapshot is not None
            or core.has_committed
            or self._must_write_hard_state()
        )

    def ready(self) -> Ready:
        """Hands out what there is to do, each thing once. Several may be under way."""
        core = self._core
        if core.leading is not None:
            core.leading.prepare_messages()
        self._number = number = self._number + 1
        log = core.log
        snapshot, entries = log.snapshot, log.hand_out(number)
        hard_state = None
        if entries or snapshot is not None or self._must_write_hard_state():
            hard_state = self._changed_hard_state()
            if hard_state is not None or entries or snapshot is not None:
                self._writes.append(_Write(number, self._handed_hard_state))
        return Ready(
            number,
            _taken(core.messages),
            _taken(core.promises),
            hard_state,
            entries,
            snapshot,
            core.hand_out_committed(),
            _taken(core.reads),
        )

    def _must_write_hard_state(self) -> bool:
        """Whether it is worth a write by itself. A new commit index alone is not, as a member will
        learn it again; except where it commits a change of the configuration.
        """
        core, handed = self._core, self._handed_hard_state
        return (
            core.term != handed.term
            or core.vote != handed.vote
            or core.log.committed_conf_index > handed.commit
        )

    def _changed_hard_state(self) -> HardState | None:
        hard_state = self._core.hard_state
        if hard_state == self._handed_hard_state:
            return None
        self._handed_hard_state = hard_state
        return hard_state

    def advance(self, ready: Ready) -> None:
        """Entries, hard state and snapshot of this and of all earlier Readys are on disk."""
        writes = self._writes
        while writes and writes[0].number <= ready.number:
            self._durable_hard_state = writes.popleft().hard_state
        self._core.written(ready.number, self._durable_hard_state)

    def applied_to(self, index: int) -> None:
        """The state machine has applied up to `index`. Raises LogError for more than was handed
        out.
        """
        self._core.applied_to(index)

    def apply_conf_change(self, change: ConfChange | None) -> ConfState:
        """The entry with this change is applied, in its turn and before `applied_to`; None when
        the node refused it. Returns the configuration from then on. Raises ConfChangeError, and
        alters nothing, when it cannot be made of the one until then.
        """
        if change is not None:
            self._core.apply_conf_change(change)
        return self._core.conf_state

    def compact(self, index: int) -> None:
        """Forgets entries up to `index`. Raises LogError for more than is applied."""
        self._core.log.compact(index)

    # Looks.

    @property
    def id(self) -> int:
        """This member's."""
        return self._core.id

    @property
    def term(self) -> int:
        """The term that it is in."""
        return self._core.term

    @property
    def role(self) -> Role:
        """What it is in its term."""
        return self._core.role

    @property
    def leader(self) -> int:
        """Whom it knows to lead in its term, or NOBODY."""
        return self._core.leader

    @property
    def commit(self) -> int:
        """What it knows to be committed."""
        return self._core.log.commit

    @property
    def applied(self) -> int:
        """What its state machine has applied."""
        return self._core.log.applied

    @property
    def first_index(self) -> int:
        """Of the entries that are not compacted."""
        return self._core.log.first_index

    @property
    def last_index(self) -> int:
        """Of its log, on disk or not."""
        return self._core.log.last_index

    @property
    def persisted_index(self) -> int:
        """Of its log, what is on disk."""
        return self._core.log.persisted

    @property
    def conf_state(self) -> ConfState:
        """The configuration as of what is applied."""
        return self._core.conf_state

    @property
    def is_learner(self) -> bool:
        """Whether it is a member without a vote."""
        return self._core.id in self._core.conf_state.learners

    @property
    def holds_snapshot(self) -> bool:
        """Whether a snapshot that it was sent waits until what was handed out is applied."""
        return self._core.holds_snapshot

    def log_term(self, index: int) -> int:
        """The term of an entry, or 0 for one that is not in the log or compacted."""
        return self._core.log.term(index)

    def progress(self) -> dict[int, Progress]:
        """What a leader knows of each member, itself included; to look at. Empty on others."""
        return dict(self._core.leading.progress) if self._core.leading is not None else {}


def _taken(items: list[T]) -> tuple[T, ...]:
    """The items, which are taken from the list."""
    if not items:
        return ()
    taken = tuple(items)
    items.clear()
    return taken
