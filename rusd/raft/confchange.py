"""Changes of a configuration: their encoding in log entries, and what they make of a `ConfState`
(thesis, chapter 4).

One change takes one step, as majorities before and after it overlap. Several go through a joint
configuration, in which both majorities must agree until it is left.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from rusd.raft.message import NOBODY, ConfState


class ChangeKind(IntEnum):
    """What happens to a member. The numbers are on disk."""

    ADD_VOTER = 0
    """Also promotes a learner."""
    ADD_LEARNER = 1
    """Also demotes a voter."""
    REMOVE = 2


class Transition(IntEnum):
    """How to get to the new configuration. The numbers are on disk."""

    AUTO = 0
    """In one step where that is safe, otherwise as IMPLICIT."""
    IMPLICIT = 1
    """Through a joint configuration, which the leader leaves by itself."""
    EXPLICIT = 2
    """Through a joint configuration, which somebody must propose to leave."""
    LEAVE = 3
    """Leaves a joint configuration. Encoded as nothing at all."""


class ConfChangeError(ValueError):
    """A change that cannot be made of this configuration, or is not encoded as one."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one member."""

    kind: ChangeKind
    member: int


_HEAD: Final = struct.Struct(">BH")
_CHANGE: Final = struct.Struct(">BQ")


@dataclass(frozen=True, slots=True)
class ConfChange:
    """What is proposed. Without `changes` it alters nothing, though its `context`, which is the
    node's, may mean something. With LEAVE it has neither.
    """

    changes: tuple[Change, ...] = ()
    transition: Transition = Transition.AUTO
    context: bytes = b""

    def encode(self) -> bytes:
        """The data of a CONF_CHANGE entry: transition (1 byte), number of changes (2), then by
        change kind (1) and member (8), big-endian, then the context.
        """
        if self.transition == Transition.LEAVE:
            return b""
        changes = b"".join(_CHANGE.pack(change.kind, change.member) for change in self.changes)
        return _HEAD.pack(self.transition, len(self.changes)) + changes + self.context

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises ConfChangeError."""
        if not data:
            return cls(transition=Transition.LEAVE)
        try:
            transition, count = _HEAD.unpack_from(data)
            end = _HEAD.size + count * _CHANGE.size
            if transition == Transition.LEAVE or len(data) < end:
                raise ConfChangeError("not an encoded configuration change")
            changes = tuple(
                Change(ChangeKind(kind), member)
                for kind, member in _CHANGE.iter_unpack(data[_HEAD.size : end])
            )
            return cls(changes, Transition(transition), data[end:])
        except (struct.error, ValueError) as error:
            raise ConfChangeError("not an encoded configuration change") from error


LEAVE_JOINT: Final = ConfChange(transition=Transition.LEAVE)


def is_joint(state: ConfState) -> bool:
    """Whether two majorities must agree."""
    return bool(state.outgoing)


def members(state: ConfState) -> frozenset[int]:
    """All that take part, learners included."""
    return frozenset((*state.voters, *state.outgoing, *state.learners))


def changed(state: ConfState, change: ConfChange) -> ConfState:
    """The configuration after the change. Raises ConfChangeError."""
    if change.transition == Transition.LEAVE:
        return _left(state)
    if not change.changes:
        return state
    if is_joint(state):
        raise ConfChangeError("the configuration is joint: it must be left first")
    joint = change.transition != Transition.AUTO or len(change.changes) > 1
    voters, learners = set(state.voters), set(state.learners)
    learners_next: set[int] = set()
    outgoing = frozenset(state.voters) if joint else frozenset()
    for one in change.changes:
        if one.member == NOBODY:
            raise ConfChangeError("a member needs an id")
        for group in (voters, learners, learners_next):
            group.discard(one.member)
        if one.kind == ChangeKind.ADD_VOTER:
            voters.add(one.member)
        elif one.kind == ChangeKind.ADD_LEARNER:
            # A voter of the outgoing half stays one until the joint configuration is left.
            (learners_next if one.member in outgoing else learners).add(one.member)
    if not voters:
        raise ConfChangeError("a configuration needs a voter")
    return ConfState(
        tuple(sorted(voters)),
        tuple(sorted(learners)),
        tuple(sorted(outgoing)),
        tuple(sorted(learners_next)),
        joint and change.transition != Transition.EXPLICIT,
    )


def _left(state: ConfState) -> ConfState:
    if not is_joint(state):
        raise ConfChangeError("the configuration is not joint: there is nothing to leave")
    return ConfState(state.voters, tuple(sorted({*state.learners, *state.learners_next})))
