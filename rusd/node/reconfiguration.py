"""Changes of the members of a running cluster, asked of any member: what is refused beforehand, and
who does it.

Beforehand is what only this moment can tell: who is connected, and how far a learner is. What the
members as they are do not allow is refused where the change is applied.
"""

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

from rusd.config import parse_url
from rusd.node.identity import member_id
from rusd.node.leadership import by_leader
from rusd.node.membership import (
    Action,
    LastVoterError,
    MemberChange,
    MemberNotFoundError,
    MembershipError,
    NotLearnerError,
)
from rusd.node.peer_wire import Method
from rusd.node.peers import PeerCallError, PeerUnreachableError
from rusd.node.pipeline import Pipeline, TimedOutError
from rusd.pb.rpc_pb2 import Member, MemberListResponse, ResponseHeader

HEALTH_INTERVAL: Final = 5.0
"""Seconds that a member must have been connected to count as healthy."""

_READY: Final = 0.9
"""What part of the leader's log a learner must have to be promoted."""

_ID: Final = struct.Struct(">Q")


class ReconfigurationError(Exception):
    """A change of the members that cannot be made at this moment, or at all."""


class BadPeerUrlsError(ReconfigurationError):
    """There are no peer URLs, or one cannot be one."""


class NotEnoughStartedError(ReconfigurationError):
    """Too few voters have ever been started to make a quorum after the change."""


class UnhealthyError(ReconfigurationError):
    """Too few of the voters have been connected for a while."""


class LearnerNotReadyError(ReconfigurationError):
    """The learner lags behind."""


class _NotLeaderError(ReconfigurationError):
    """Only the leader can tell whether a learner is ready."""


_BY_NAME: Final[dict[str, type[Exception]]] = {
    error.__name__: error
    for error in (
        LearnerNotReadyError,
        MemberNotFoundError,
        NotEnoughStartedError,
        NotLearnerError,
        TimedOutError,
    )
}
"""What a leader may answer to one who asks to promote a learner."""


class Peers(Protocol):
    """The other members; `rusd.node.peers.Peers` is this."""

    def active_since(self, member: int) -> float | None: ...
    async def call(self, member: int, method: int, body: bytes, timeout: float) -> bytes: ...
    def serve(
        self,
        method: int,
        handler: Callable[[int, bytes], Awaitable[bytes]],
        *,
        public: bool = False,
    ) -> None: ...


class Reconfiguration:
    """Changes members. Each change returns the members after it, by ascending id; or raises a
    ReconfigurationError, a MembershipError, or what the pipeline raises.
    """

    def __init__(self, pipeline: Pipeline, peers: Peers, strict: bool, max_learners: int) -> None:
        """`strict` is --strict-reconfig-check. Serves the other members' calls from now on."""
        self._pipeline, self._peers = pipeline, peers
        self._replica, self._loop = pipeline.replica, asyncio.get_running_loop()
        self._membership = pipeline.applier.membership
        self._strict, self._max_learners = strict, max_learners
        # Raft takes one change at a time; of two that come together it would drop one.
        self._turn = asyncio.Lock()
        self.promoted = 0
        """Learners that this member, as leader, has made voters."""
        peers.serve(Method.MEMBERS, self._serve_members, public=True)
        peers.serve(Method.PROMOTE, self._serve_promote)

    def members(self) -> list[Member]:
        """All members as of what is applied here, by ascending id."""
        return sorted(self._membership.members.values(), key=lambda member: member.ID)

    async def add(self, peer_urls: Sequence[str], is_learner: bool) -> tuple[Member, list[Member]]:
        """Adds a member, and returns it as well."""
        urls = _normal(peer_urls)
        if self._strict:
            if not is_learner and not _enough_started([*self._voters(), Member()], joining=True):
                raise NotEnoughStartedError
            if self._connected(self._voters()) < len(self._voters()):
                raise UnhealthyError
        member = Member(ID=self._free_id(urls), peerURLs=urls, isLearner=is_learner)
        members = await self._change(Action.ADD_LEARNER if is_learner else Action.ADD, member)
        return member, members

    async def remove(self, id_: int) -> list[Member]:
        if self._strict:
            self._check_removal(id_)
        try:
            return await self._change(Action.REMOVE, Member(ID=id_))
        except LastVoterError:
            raise NotEnoughStartedError from None

    async def update(self, id_: int, peer_urls: Sequence[str]) -> list[Member]:
        """Gives a member other peer URLs."""
        try:
            urls = _normal(peer_urls)
        except BadPeerUrlsError:
            # etcd looks at the id alone, and stores whatever comes as a URL.
            if id_ not in self._membership.members:
                raise MemberNotFoundError from None
            raise
        return await self._change(Action.UPDATE, Member(ID=id_, peerURLs=urls))

    async def promote(self, id_: int) -> list[Member]:
        """Makes a learner a voter: the leader does it, whoever that is or becomes."""
        return await by_leader(
            self._replica,
            self._pipeline.limits.request_timeout,
            lambda: self._promote(id_),
            lambda leader, left: self._have_promoted(leader, id_, left),
            (_NotLeaderError, PeerUnreachableError, TimeoutError),
        )

    async def _promote(self, id_: int) -> list[Member]:
        progress = self._replica.raw.progress()
        if self._replica.id not in progress:
            raise _NotLeaderError
        if id_ in progress and progress[id_].match < _READY * progress[self._replica.id].match:
            raise LearnerNotReadyError
        if self._strict and not _enough_started([*self._voters(), Member(name="promoted")]):
            raise NotEnoughStartedError
        members = await self._change(Action.PROMOTE, Member(ID=id_))
        self.promoted += 1
        return members

    async def _have_promoted(self, leader: int, id_: int, timeout: float) -> list[Member]:
        try:
            answer = await self._peers.call(leader, Method.PROMOTE, _ID.pack(id_), timeout)
        except PeerCallError as error:
            raise _BY_NAME.get(str(error), _NotLeaderError) from None
        return list(MemberListResponse.FromString(answer).members)

    async def _change(self, action: Action, member: Member) -> list[Member]:
        change = MemberChange(action, member, self._max_learners)
        try:
            async with asyncio.timeout(self._pipeline.limits.request_timeout), self._turn:
                await self._pipeline.change(change)
                return self.members()
        except TimeoutError:
            raise TimedOutError from None

    def _free_id(self, urls: Iterable[str]) -> int:
        membership, now = self._membership, int(time.time())
        while True:
            id_ = member_id(urls, "", now)
            if id_ not in membership.members and id_ not in membership.removed:
                return id_
            # These URLs were a member's within this second, which is no reason to refuse them.
            now += 1

    # The checks that --strict-reconfig-check asks for.

    def _voters(self) -> list[Member]:
        return self._membership.voters

    def _check_removal(self, id_: int) -> None:
        member = self._membership.members.get(id_)
        if member is not None and member.isLearner:
            return
        voters = self._voters()
        if not _enough_started([voter for voter in voters if id_ != voter.ID]):
            raise NotEnoughStartedError
        if self._peers.active_since(id_) is None and id_ != self._replica.id:
            return  # without it there is as good a quorum as with it
        if self._connected(voters) - 1 < 1 + (len(voters) - 1) // 2:
            raise UnhealthyError

    def _connected(self, members: Iterable[Member]) -> int:
        """How many of the members have been connected for a while, this one included."""
        moment = self._loop.time() - HEALTH_INTERVAL
        return sum(
            self._replica.id == member.ID
            or ((since := self._peers.active_since(member.ID)) is not None and since < moment)
            for member in members
        )

    # For other members, and for who is going to be one.

    async def _serve_members(self, _member: int, _body: bytes) -> bytes:
        return self._listing(self.members())

    async def _serve_promote(self, _member: int, body: bytes) -> bytes:
        if len(body) != _ID.size:
            raise PeerCallError("not the id of a member")
        try:
            return self._listing(await self._promote(_ID.unpack(body)[0]))
        except (ReconfigurationError, MembershipError, TimedOutError) as error:
            raise PeerCallError(type(error).__name__) from None

    def _listing(self, members: list[Member]) -> bytes:
        header = ResponseHeader(
            cluster_id=self._membership.cluster_id, member_id=self._membership.local_id
        )
        return MemberListResponse(header=header, members=members).SerializeToString()


def _enough_started(voters: Sequence[Member], *, joining: bool = False) -> bool:
    """Whether of these voters, the future ones, a quorum has been started: has told its name."""
    started = sum(bool(voter.name) for voter in voters)
    if joining and started == 1 and len(voters) == 2:
        return True  # else a cluster of one could never grow
    return bool(voters) and started >= len(voters) // 2 + 1


def _normal(urls: Sequence[str]) -> list[str]:
    """The URLs in normal form and order. Raises BadPeerUrlsError."""
    try:
        normal = sorted(parse_url(url).text for url in urls)
    except ValueError:
        normal = []
    if not normal:
        raise BadPeerUrlsError
    return normal
