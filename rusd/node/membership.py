"""Who is in the cluster, who has left it, and which of them this member is.

What changes the members is applied from the log and is deterministic: every member that applied the
same entries knows the same members.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice
from typing import Final, NamedTuple

from rocksdict import Rdict

from rusd.mvcc.tables import rows_under
from rusd.pb.rpc_pb2 import Member
from rusd.raft.confchange import Change, ChangeKind, ConfChange
from rusd.raft.message import ConfState

CLUSTER_ROW: Final = b"cluster"
_CONF_STATE_ROW: Final = b"conf_state"
_MEMBER: Final = b"member/"
_REMOVED: Final = b"removed/"
_ID: Final = struct.Struct(">Q")
_CLUSTER: Final = struct.Struct(">QQ")
_CONF_STATE: Final = struct.Struct("<?HHHH")
_CHANGE: Final = struct.Struct("<BI")
_ORIGIN: Final = struct.Struct("<QQ")

Rows = list[tuple[bytes, bytes | None]]
"""Rows of the state table by name; None for one that goes."""


class MembershipError(Exception):
    """A change that the members as they are do not allow."""


class MemberExistsError(MembershipError):
    """There is a member of that id."""


class PeerUrlsExistError(MembershipError):
    """A member has one of the peer URLs."""


class MemberNotFoundError(MembershipError):
    """There is no member of that id, or it was removed for good."""


class NotLearnerError(MembershipError):
    """The member to promote is a voter."""


class TooManyLearnersError(MembershipError):
    """The cluster has as many learners as it may."""


class LastVoterError(MembershipError):
    """Without that member there would be no voter."""


class Action(IntEnum):
    """What happens to a member. The numbers are in the log: they never change."""

    ADD = 1
    ADD_LEARNER = 2
    PROMOTE = 3
    UPDATE = 4
    """Its peer URLs; the configuration of Raft stays."""
    REMOVE = 5


_KINDS: Final = {
    Action.ADD: ChangeKind.ADD_VOTER,
    Action.ADD_LEARNER: ChangeKind.ADD_LEARNER,
    Action.PROMOTE: ChangeKind.ADD_VOTER,
    Action.REMOVE: ChangeKind.REMOVE,
}


class MemberChange(NamedTuple):
    """A change of one member. Of `member`, only what the action needs counts."""

    action: Action
    member: Member
    max_learners: int = 1
    """How many learners there may be: the flag of who asks, so that all members judge alike."""

    def conf_change(self, origin: int, sequence: int) -> ConfChange:
        """What is proposed. It says who waits for it: a member, and that member's number for it."""
        kind = _KINDS.get(self.action)
        changes = () if kind is None else (Change(kind, self.member.ID),)
        return ConfChange(changes, context=_ORIGIN.pack(origin, sequence) + self.encode())

    @classmethod
    def of(cls, change: ConfChange) -> "tuple[int, int, MemberChange] | None":
        """Origin, sequence and what happens to a member; None for a change of Raft's alone."""
        context = change.context
        if not context:
            return None
        origin, sequence = _ORIGIN.unpack_from(context)
        return origin, sequence, cls.decode(context[_ORIGIN.size :])

    def encode(self) -> bytes:
        return _CHANGE.pack(self.action, self.max_learners) + self.member.SerializeToString(
            deterministic=True
        )

    @classmethod
    def decode(cls, data: bytes) -> "MemberChange":
        """Raises ValueError when the data is none."""
        try:
            action, max_learners = _CHANGE.unpack_from(data)
        except struct.error:
            raise ValueError("a change of a member ends too early") from None
        member = Member.FromString(data[_CHANGE.size :])
        return cls(Action(action), member, max_learners)


@dataclass(slots=True)
class Membership:
    """The cluster's members by id, those that were removed, and Raft's configuration."""

    cluster_id: int
    local_id: int
    members: dict[int, Member] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    """Ids that were members' and never are again."""
    conf_state: ConfState = field(default_factory=ConfState)

    @classmethod
    def load(cls, state: Rdict) -> "Membership | None":
        """What the state table says; None when it says nothing: the member is new."""
        stored: bytes | None = state.get(CLUSTER_ROW)
        if stored is None:
            return None
        membership = cls(*_CLUSTER.unpack(stored))
        membership.reload(state)
        return membership

    @staticmethod
    def has_conf_state(state: Rdict) -> bool:
        """Whether the state table is of a version that stores Raft's configuration."""
        return state.get(_CONF_STATE_ROW) is not None

    def reload(self, state: Rdict) -> None:
        """Takes members and configuration, in place, from the state table of another keyspace: of a
        snapshot that was installed. Who this member is stays.
        """
        self.members.clear()
        for _, row in rows_under(state, _MEMBER):
            member = Member.FromString(row)
            self.members[member.ID] = member
        self.removed.clear()
        self.removed.update(_ID.unpack_from(name, -8)[0] for name, _ in rows_under(state, _REMOVED))
        stored: bytes | None = state.get(_CONF_STATE_ROW)
        # Without the row it is of a time when a cluster had one member.
        self.conf_state = (
            ConfState(voters=(self.local_id,)) if stored is None else decode_conf_state(stored)
        )

    def rows(self) -> Rows:
        """All rows, for a member that has none yet."""
        return [
            self.cluster_row(),
            *(_member_row(member) for member in self.members.values()),
            *((_REMOVED + _ID.pack(member), b"") for member in self.removed),
            self.conf_state_row(),
        ]

    def cluster_row(self) -> tuple[bytes, bytes]:
        """The one row that differs between members: the cluster's id and this member's. It is
        written over the sender's in a snapshot that was received, before that is put in place.
        """
        return CLUSTER_ROW, _CLUSTER.pack(self.cluster_id, self.local_id)

    def conf_state_row(self) -> tuple[bytes, bytes]:
        return _CONF_STATE_ROW, encode_conf_state(self.conf_state)

    @property
    def is_removed(self) -> bool:
        """Whether this member was removed from the cluster."""
        return self.local_id in self.removed

    @property
    def is_alone(self) -> bool:
        """Whether there is no other member."""
        return len(self.members) == 1

    @property
    def is_learner(self) -> bool:
        """Whether this member has no vote yet. Not while it has not heard of itself."""
        local = self.members.get(self.local_id)
        return local is not None and local.isLearner

    @property
    def voters(self) -> list[Member]:
        return [member for member in self.members.values() if not member.isLearner]

    @property
    def learners(self) -> list[Member]:
        return [member for member in self.members.values() if member.isLearner]

    def check(self, change: MemberChange) -> None:
        """Raises a MembershipError when the change cannot be."""
        action, member = change.action, change.member
        if member.ID in self.removed:
            raise MemberNotFoundError
        known = self.members.get(member.ID)
        if action in (Action.ADD, Action.ADD_LEARNER):
            if known is not None:
                raise MemberExistsError
            self._check_peer_urls(member)
            if action == Action.ADD_LEARNER and len(self.learners) >= change.max_learners:
                raise TooManyLearnersError
            return
        if known is None:
            raise MemberNotFoundError
        if action == Action.PROMOTE and not known.isLearner:
            raise NotLearnerError
        if action == Action.UPDATE:
            self._check_peer_urls(member)
        if action == Action.REMOVE and [voter.ID for voter in self.voters] == [member.ID]:
            raise LastVoterError

    def _check_peer_urls(self, member: Member) -> None:
        urls = set(member.peerURLs)
        for other in self.members.values():
            if other.ID != member.ID and not urls.isdisjoint(other.peerURLs):
                raise PeerUrlsExistError

    def apply(self, change: MemberChange) -> Rows:
        """Makes the change, and returns what is to be stored of it. Raises a MembershipError."""
        self.check(change)
        action, id_ = change.action, change.member.ID
        if action == Action.REMOVE:
            del self.members[id_]
            self.removed.add(id_)
            return [(_MEMBER + _ID.pack(id_), None), (_REMOVED + _ID.pack(id_), b"")]
        member = Member()
        member.CopyFrom(self.members.get(id_, change.member))
        if action == Action.UPDATE:
            member.peerURLs[:] = change.member.peerURLs
        else:
            member.isLearner = action == Action.ADD_LEARNER
        return self._put(member)

    def publish(self, published: Member) -> Rows:
        """Takes a member's name and client URLs, as it has told them. Of one that is not a member,
        or no longer, nothing.
        """
        known = self.members.get(published.ID)
        if known is None:
            return []
        member = Member()
        member.CopyFrom(known)
        member.name = published.name
        member.clientURLs[:] = published.clientURLs
        return self._put(member)

    def set_conf_state(self, conf_state: ConfState) -> Rows:
        """Takes the configuration that Raft has now."""
        self.conf_state = conf_state
        return [self.conf_state_row()]

    def _put(self, member: Member) -> Rows:
        self.members[member.ID] = member
        return [_member_row(member)]


def encode_conf_state(conf_state: ConfState) -> bytes:
    """Whether to leave by itself, four counts, then the ids."""
    *parts, auto_leave = conf_state
    return _CONF_STATE.pack(auto_leave, *map(len, parts)) + b"".join(
        _ID.pack(member) for part in parts for member in part
    )


def decode_conf_state(data: bytes) -> ConfState:
    """Raises struct.error or ValueError when the data is none."""
    auto_leave, *counts = _CONF_STATE.unpack_from(data)
    ids = iter([member for (member,) in _ID.iter_unpack(data[_CONF_STATE.size :])])
    voters, learners, outgoing, learners_next = (_take(ids, count) for count in counts)
    return ConfState(voters, learners, outgoing, learners_next, auto_leave)


def _take(ids: Iterator[int], count: int) -> tuple[int, ...]:
    taken = tuple(islice(ids, count))
    if len(taken) < count:
        raise ValueError("a configuration ends too early")
    return taken


def _member_row(member: Member) -> tuple[bytes, bytes]:
    return _MEMBER + _ID.pack(member.ID), member.SerializeToString(deterministic=True)
