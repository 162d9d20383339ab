"""rusd/node/reconfiguration.py. What is refused, and when, is as etcd 3.5.30 was seen to do it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rusd.node.identity import member_id
from rusd.node.membership import (
    Action,
    LastVoterError,
    MemberChange,
    MemberNotFoundError,
    Membership,
    NotLearnerError,
    PeerUrlsExistError,
    TooManyLearnersError,
)
from rusd.node.peer_wire import Method
from rusd.node.peers import PeerCallError, PeerUnreachableError
from rusd.node.pipeline import Pipeline, TimedOutError
from rusd.node.reconfiguration import (
    HEALTH_INTERVAL,
    BadPeerUrlsError,
    LearnerNotReadyError,
    NotEnoughStartedError,
    Reconfiguration,
    UnhealthyError,
)
from rusd.pb.rpc_pb2 import Member, MemberListResponse

Handler = Callable[[int, bytes], Awaitable[bytes]]


def member(id_: int, *, started: bool = True, learner: bool = False) -> Member:
    return Member(
        ID=id_,
        name=f"m{id_}" if started else "",
        peerURLs=[f"http://m{id_}:2380"],
        isLearner=learner,
    )


class Cluster:
    """Member 1 of a cluster, with everything around its `Reconfiguration` as a test sets it:
    who is connected, who leads and how far the others are. Changes are applied at once.
    """

    def __init__(
        self, *members: Member, strict: bool = True, max_learners: int = 1, timeout: float = 30.0
    ) -> None:
        self.membership = Membership(77, 1, {each.ID: each for each in members})
        self.loop = asyncio.get_running_loop()
        long_ago = self.loop.time() - HEALTH_INTERVAL - 1
        self.since: dict[int, float] = {each.ID: long_ago for each in members if each.ID != 1}
        self.match = {each.ID: 100 for each in members}
        self.replica = SimpleNamespace(
            id=1, leader=1, is_leader=True, raw=SimpleNamespace(progress=self._progress)
        )
        self.changes: list[MemberChange] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.handlers: dict[int, Handler] = {}
        self.public: set[int] = set()
        self.calls: list[tuple[int, int, bytes]] = []
        self.answers: list[bytes | Exception] = []
        """What other members answer to calls, in order."""
        pipeline = SimpleNamespace(
            replica=self.replica,
            applier=SimpleNamespace(membership=self.membership),
            limits=SimpleNamespace(request_timeout=timeout),
            change=self._change,
        )
        self.reconfiguration = Reconfiguration(cast(Pipeline, pipeline), self, strict, max_learners)

    def _progress(self) -> dict[int, Any]:
        return {id_: SimpleNamespace(match=match) for id_, match in self.match.items()}

    async def _change(self, change: MemberChange) -> None:
        self.changes.append(change)
        await self.hold.wait()
        self.membership.apply(change)

    def active_since(self, id_: int) -> float | None:
        return self.since.get(id_)

    def serve(self, method: int, handler: Handler, *, public: bool = False) -> None:
        self.handlers[method] = handler
        if public:
            self.public.add(method)

    async def call(self, id_: int, method: int, body: bytes, timeout: float) -> bytes:
        assert 0 < timeout <= 30
        self.calls.append((id_, method, body))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(limited())


URL = ["http://new:2380"]


@pytest.mark.parametrize(
    ("started", "waiting", "allowed"),
    [(1, 0, True), (1, 1, False), (2, 0, True), (2, 1, False), (3, 0, True), (3, 1, True)],
)
def test_a_voter_is_added_while_a_quorum_would_have_been_started(
    started: int, waiting: int, allowed: bool
) -> None:
    async def test() -> None:
        members = [member(n + 1, started=n < started) for n in range(started + waiting)]
        cluster = Cluster(*members)
        if allowed:
            added, after = await cluster.reconfiguration.add(URL, False)
            assert added in after
            assert len(after) == len(members) + 1
        else:
            with pytest.raises(NotEnoughStartedError):
                await cluster.reconfiguration.add(URL, False)
            await cluster.reconfiguration.add(URL, True)
        careless = Cluster(*members, strict=False)
        await careless.reconfiguration.add(URL, False)

    run(test)


@pytest.mark.parametrize("is_learner", [False, True])
@pytest.mark.parametrize("ago", [None, 0.0, HEALTH_INTERVAL - 2])
def test_nobody_is_added_unless_all_voters_have_been_connected_for_a_while(
    is_learner: bool, ago: float | None
) -> None:
    async def test() -> None:
        cluster = Cluster(member(1), member(2), member(3), member(4, learner=True), max_learners=9)
        del cluster.since[4]
        await cluster.reconfiguration.add(["http://fine:1"], is_learner)
        if not is_learner:
            (new,) = [each.ID for each in cluster.membership.voters if each.ID > 3]
            cluster.since[new] = 0.0
        if ago is None:
            del cluster.since[3]
        else:
            cluster.since[3] = cluster.loop.time() - ago
        with pytest.raises(UnhealthyError):
            await cluster.reconfiguration.add(URL, is_learner)

    run(test)


def test_what_is_added_has_normal_urls_and_an_id_of_its_own() -> None:
    """Etcd's id: of the URLs and the time, without the token."""

    async def test() -> None:
        cluster = Cluster(member(1), max_learners=2)
        added, after = await cluster.reconfiguration.add([" http://b:1", "http://a:1"], True)
        assert list(added.peerURLs) == ["http://a:1", "http://b:1"]
        assert added.isLearner
        assert not added.name
        assert [each.ID for each in after] == sorted([1, added.ID])
        now = int(time.time())
        assert added.ID in [member_id(added.peerURLs, "", now - back) for back in range(30)]
        ids = {added.ID}
        for _ in range(3):
            last = max(ids - set(cluster.membership.removed))
            await cluster.reconfiguration.remove(last)
            again, _ = await cluster.reconfiguration.add(["http://a:1", "http://b:1"], True)
            assert again.ID not in ids
            ids.add(again.ID)

    run(test)


@pytest.mark.parametrize(
    "urls",
    [
        [],
        [""],
        ["x"],
        ["127.0.0.1:1"],
        ["http://a"],
        ["http://a:1/x"],
        ["http://a:1/"],
        ["ftp://a:1"],
        ["http://a:1", "zz"],
        ["http://"],
        ["http://a:x"],
    ],
)
def test_what_cannot_be_a_peer_url_is_refused(urls: list[str]) -> None:
    async def test() -> None:
        cluster = Cluster(member(1))
        with pytest.raises(BadPeerUrlsError):
            await cluster.reconfiguration.add(urls, True)
        with pytest.raises(BadPeerUrlsError):
            await cluster.reconfiguration.update(1, urls)
        with pytest.raises(MemberNotFoundError):
            await cluster.reconfiguration.update(5, urls)
        assert cluster.changes == []

    run(test)


def test_what_members_do_not_allow_is_refused_where_it_is_applied() -> None:
    async def test() -> None:
        cluster = Cluster(member(1), member(4, learner=True))
        change = cluster.reconfiguration
        with pytest.raises(TooManyLearnersError):
            await change.add(URL, True)
        with pytest.raises(PeerUrlsExistError):
            await change.add(["http://m1:2380"], False)
        with pytest.raises(PeerUrlsExistError):
            await change.update(1, ["http://m4:2380"])
        with pytest.raises(MemberNotFoundError):
            await change.remove(9)
        with pytest.raises(MemberNotFoundError):
            await change.promote(9)
        with pytest.raises(NotLearnerError):
            await change.promote(1)
        assert len(cluster.changes) == 6

    run(test)


def test_the_limit_of_learners_is_this_members_flag() -> None:
    async def test() -> None:
        cluster = Cluster(member(1), max_learners=3)
        for number in range(3):
            await cluster.reconfiguration.add([f"http://l{number}:1"], True)
        with pytest.raises(TooManyLearnersError):
            await cluster.reconfiguration.add(URL, True)

    run(test)


@pytest.mark.parametrize("strict", [True, False])
def test_the_last_voter_cannot_be_removed(strict: bool) -> None:
    async def test() -> None:
        cluster = Cluster(member(1), member(4, learner=True), strict=strict)
        with pytest.raises(NotEnoughStartedError):
            await cluster.reconfiguration.remove(1)
        assert [each.ID for each in await cluster.reconfiguration.remove(4)] == [1]
        with pytest.raises(LastVoterError):
            cluster.membership.check(MemberChange(Action.REMOVE, Member(ID=1)))

    run(test)


def test_a_removal_leaves_a_connected_quorum() -> None:
    async def test() -> None:
        def three() -> Cluster:
            return Cluster(member(1), member(2), member(3))

        for id_ in (1, 2):
            whole = three()
            await whole.reconfiguration.remove(id_)
            assert id_ not in whole.membership.members
        broken = three()
        del broken.since[3]
        for id_ in (1, 2):
            with pytest.raises(UnhealthyError):
                await broken.reconfiguration.remove(id_)
        # Who is down is not part of the quorum that there is.
        await broken.reconfiguration.remove(3)
        recent = three()
        recent.since[3] = recent.loop.time()
        with pytest.raises(UnhealthyError):
            await recent.reconfiguration.remove(3)
        careless = Cluster(member(1), member(2), member(3), strict=False)
        careless.since.clear()
        await careless.reconfiguration.remove(1)

    run(test)


def test_a_removal_leaves_a_quorum_that_was_started() -> None:
    async def test() -> None:
        cluster = Cluster(member(1), member(2), member(3, started=False))
        with pytest.raises(NotEnoughStartedError):
            await cluster.reconfiguration.remove(2)
        await cluster.reconfiguration.remove(3)

    run(test)


def test_a_learner_is_promoted_when_it_has_nine_tenths_of_the_log() -> None:
    async def test() -> None:
        cluster = Cluster(member(1), member(2), member(4, learner=True))
        for match in (0, 89):
            cluster.match[4] = match
            with pytest.raises(LearnerNotReadyError):
                await cluster.reconfiguration.promote(4)
        cluster.match[4] = 90
        after = await cluster.reconfiguration.promote(4)
        assert [(each.ID, each.isLearner) for each in after] == [(1, False), (2, False), (4, False)]

    run(test)


def test_a_learner_is_not_promoted_among_voters_that_never_started() -> None:
    async def test() -> None:
        waiting = [member(2, started=False), member(3, started=False)]
        cluster = Cluster(member(1), *waiting, member(4, learner=True))
        with pytest.raises(NotEnoughStartedError):
            await cluster.reconfiguration.promote(4)
        careless = Cluster(member(1), *waiting, member(4, learner=True), strict=False)
        await careless.reconfiguration.promote(4)

    run(test)


def test_a_follower_has_the_leader_promote() -> None:
    async def test() -> None:
        leader = Cluster(member(1), member(2), member(4, learner=True))
        follower = Cluster(member(1), member(2), member(4, learner=True))
        follower.replica.is_leader, follower.replica.leader = False, 2
        answer = await leader.handlers[Method.PROMOTE](2, (4).to_bytes(8, "big"))
        # The first that is asked has just lost the lead, the second one is gone.
        follower.answers = [PeerCallError("_NotLeaderError"), PeerUnreachableError("gone"), answer]
        after = await follower.reconfiguration.promote(4)
        assert not any(each.isLearner for each in after)
        assert follower.calls == [(2, Method.PROMOTE, (4).to_bytes(8, "big"))] * 3
        assert follower.changes == []

    run(test)


@pytest.mark.parametrize(
    ("id_", "match", "error"),
    [(4, 3, LearnerNotReadyError), (2, 100, NotLearnerError), (9, 100, MemberNotFoundError)],
)
def test_what_the_leader_refuses_is_told_by_the_follower(
    id_: int, match: int, error: type[Exception]
) -> None:
    async def test() -> None:
        members = [member(1), member(2), member(4, learner=True)]
        leader, follower = Cluster(*members), Cluster(*members)
        leader.match[4] = match
        with pytest.raises(PeerCallError) as refused:
            await leader.handlers[Method.PROMOTE](2, id_.to_bytes(8, "big"))
        follower.replica.is_leader, follower.replica.leader = False, 2
        follower.answers = [refused.value]
        with pytest.raises(error):
            await follower.reconfiguration.promote(id_)

    run(test)


def test_a_promotion_without_a_leader_times_out() -> None:
    async def test() -> None:
        cluster = Cluster(member(1), member(2), member(4, learner=True), timeout=0.2)
        cluster.replica.is_leader, cluster.replica.leader = False, 0
        with pytest.raises(TimedOutError):
            await cluster.reconfiguration.promote(4)
        assert cluster.calls == []

    run(test)


def test_only_a_leader_serves_promotions_and_only_of_ids() -> None:
    async def test() -> None:
        cluster = Cluster(member(1), member(4, learner=True))
        promote = cluster.handlers[Method.PROMOTE]
        for nonsense in (b"", b"1234567", b"123456789"):
            with pytest.raises(PeerCallError, match="not the id"):
                await promote(2, nonsense)
        cluster.match.clear()
        with pytest.raises(PeerCallError, match="_NotLeaderError"):
            await promote(2, (4).to_bytes(8, "big"))
        assert Method.PROMOTE not in cluster.public

    run(test)


def test_whoever_asks_is_told_the_members() -> None:
    async def test() -> None:
        cluster = Cluster(member(3), member(1), member(2, learner=True))
        assert Method.MEMBERS in cluster.public
        answer = await cluster.handlers[Method.MEMBERS](0, b"")
        response = MemberListResponse.FromString(answer)
        assert response.header.cluster_id == 77
        assert list(response.members) == [member(1), member(2, learner=True), member(3)]

    run(test)


def test_one_change_at_a_time_is_proposed() -> None:
    async def test() -> None:
        cluster = Cluster(member(1), member(2), max_learners=9)
        cluster.hold.clear()
        adding = [
            asyncio.ensure_future(cluster.reconfiguration.add([f"http://l{n}:1"], True))
            for n in range(3)
        ]
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(cluster.changes) == 1
        cluster.hold.set()
        await asyncio.gather(*adding)
        assert len(cluster.membership.learners) == 3

    run(test)


def test_who_waits_behind_a_change_that_hangs_is_told_in_time() -> None:
    async def test() -> None:
        cluster = Cluster(member(1), timeout=0.2)
        cluster.hold.clear()
        adding = [
            asyncio.ensure_future(cluster.reconfiguration.add([f"http://l{n}:1"], True))
            for n in range(2)
        ]
        done = await asyncio.gather(*adding, return_exceptions=True)
        assert [type(each) for each in done] == [TimedOutError, TimedOutError]
        assert len(cluster.changes) == 1

    run(test)
