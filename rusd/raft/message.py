"""The vocabulary of the Raft core: entries, hard state, configurations, messages, `Ready`.

Plain values. The names are those of the Raft paper and thesis, and of etcd's and TiKV's cores.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

NOBODY: Final = 0
"""No member: as a vote, as a leader."""


class EntryKind(IntEnum):
    """Kinds of log entries. The numbers are on disk and on the wire: they never change."""

    NORMAL = 0
    CONF_CHANGE = 1
    """`data` is an encoded `confchange.ConfChange`; empty for one that leaves a joint one."""


@dataclass(slots=True)
class Entry:
    """One entry of the log. Nobody alters one; but frozen ones take four times as long to make."""

    term: int
    index: int
    data: bytes
    kind: int = EntryKind.NORMAL


class HardState(NamedTuple):
    """What must not be forgotten (paper, figure 2): the term, and the vote in it; and how far is
    known to be committed.
    """

    term: int = 0
    vote: int = NOBODY
    commit: int = 0


class ConfState(NamedTuple):
    """A configuration (thesis, 4.3): ids in ascending order. `outgoing` is empty but in a joint
    one; `learners_next` are voters of `outgoing` that become learners when it is left.
    """

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot stands for (paper, section 7): all entries up to `index`. Its content is the
    node's and never passes through the core.
    """

    index: int = 0
    term: int = 0
    conf_state: ConfState = field(default_factory=ConfState)


class MessageKind(IntEnum):
    """Kinds of messages. The numbers are on the wire."""

    APPEND = 1
    APPEND_REPLY = 2
    HEARTBEAT = 3
    HEARTBEAT_REPLY = 4
    PRE_VOTE = 5
    PRE_VOTE_REPLY = 6
    VOTE = 7
    VOTE_REPLY = 8
    SNAPSHOT = 9
    """Install a snapshot. The core sends it with its applied index; the node sends the content, and
    writes into the message what the content really covers, which may be more."""
    PROPOSE = 10
    """From a follower to the leader: append these entries (term and index are 0)."""
    READ_INDEX = 11
    READ_INDEX_REPLY = 12
    TRANSFER_LEADER = 13
    """From a follower to the leader: `context` names the transferee (8 bytes, big-endian)."""
    TIMEOUT_NOW = 14


@dataclass(slots=True)
class Message:
    """A message between two members, which nobody alters. What a field means depends on the kind:

    `log_term`, `index`: APPEND: the entry before `entries`. VOTE, PRE_VOTE: the candidate's last
    entry. APPEND_REPLY: `index` is the last entry that matches, or, when rejected, the index that
    was asked for; then `hint` and `log_term` are index and term of the follower's guess (the
    conflict hint). READ_INDEX_REPLY: `index` is the read index.
    `commit`: APPEND, HEARTBEAT: the leader's commit index, for a heartbeat at most what matches.
    `context`: READ_INDEX and its reply, and heartbeats that confirm reads: opaque. VOTE, PRE_VOTE:
    not empty when leadership is being transferred, which overrides the lease of check-quorum.
    """

    kind: int
    to: int
    sender: int
    term: int = 0
    log_term: int = 0
    index: int = 0
    commit: int = 0
    reject: bool = False
    hint: int = 0
    entries: tuple[Entry, ...] = ()
    context: bytes = b""
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class ReadState:
    """A read index that was asked for with `context`: what is applied up to `index` may be read."""

    index: int
    context: bytes


class Role(IntEnum):
    """What a member is in its term."""

    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class Ready(NamedTuple):
    """What the core asks of the node. In order:

    1. `messages` may be sent at once.
    2. `snapshot`, if any, is installed in place of log and state machine; then `entries` are
       appended (replacing those with the same and higher indexes), and `hard_state`, if any, is
       noted; when all that and all of earlier Readys is on disk,
    3. `promises` (votes and acknowledgements) may be sent, and `RawNode.advance(ready)` is called.
    4. `committed` entries are applied, in order; they are on this member's disk.
    5. `reads` may be answered once `index` is applied.
    """

    number: int
    messages: tuple[Message, ...] = ()
    promises: tuple[Message, ...] = ()
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadState, ...] = ()


@dataclass(frozen=True, slots=True)
class Persisted:
    """What a member had on disk when it stopped, or has when it is new.

    `snapshot` is where its state machine is: everything up to that index is applied. `entries`
    have no gap; they follow it, or begin before it, for the sake of followers that lag.
    """

    snapshot: Snapshot
    hard_state: HardState = field(default_factory=HardState)
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """How a core behaves. Times are in ticks."""

    id: int
    heartbeat_ticks: int = 1
    election_ticks: int = 10
    pre_vote: bool = True
    check_quorum: bool = True
    max_message_bytes: int = 1 << 20
    """An APPEND takes no more entries when it has this many bytes; it always takes one."""
    max_inflight_messages: int = 256
    max_inflight_bytes: int = 64 << 20
    max_uncommitted_bytes: int = 512 << 20
    """Of proposals in the leader's log that are not committed; more are refused."""
    max_committed_bytes: int = 64 << 20
    """Of entries that are handed out to be applied in one Ready; it always has one."""
    random_ticks: Callable[[int], int] = field(default=lambda _: 0, repr=False)
    """Gives a number in [0, bound): the core's only randomness, for election timeouts."""


class ProposalDroppedError(Exception):
    """The core cannot take a proposal now: no leader is known, leadership is being transferred, or
    too much is uncommitted. It will not be committed.
    """
