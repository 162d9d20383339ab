"""rusd/api/cluster.py. Codes and texts are etcd's, as asked with etcdctl 3.5.30."""

import asyncio
from typing import Any, cast

import pytest

from rusd.api import errors
from rusd.api.answers import Headers
from rusd.api.cluster import Cluster
from rusd.node.membership import (
    MemberExistsError,
    MemberNotFoundError,
    NotLearnerError,
    PeerUrlsExistError,
    TooManyLearnersError,
)
from rusd.node.pipeline import LeaderLostError, StoppedError, TimedOutError
from rusd.node.reads import Done, LeaderChangedError
from rusd.node.reconfiguration import (
    BadPeerUrlsError,
    LearnerNotReadyError,
    NotEnoughStartedError,
    Reconfiguration,
    UnhealthyError,
)
from rusd.pb.rpc_pb2 import (
    Member,
    MemberAddRequest,
    MemberAddResponse,
    MemberListRequest,
    MemberListResponse,
    MemberPromoteRequest,
    MemberPromoteResponse,
    MemberRemoveRequest,
    MemberRemoveResponse,
    MemberUpdateRequest,
    MemberUpdateResponse,
)
from rusd.wire.grpc import Code, Status
from tests.unit.api.fakes import call
from tests.unit.node.running import Recorder

MEMBERS = [
    Member(ID=2, name="b", peerURLs=["http://b:2380"], clientURLs=["http://b:2379"]),
    Member(ID=3, name="a", peerURLs=["http://a:2380"], isLearner=True),
]
ADDED = Member(ID=7, peerURLs=["http://x:1"], isLearner=True)


class Changing:
    """Does as told: has the members, or an error, and keeps what it was asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._error = error

    def members(self) -> list[Member]:
        return MEMBERS

    async def add(self, urls: Any, is_learner: bool) -> tuple[Member, list[Member]]:
        return ADDED, await self._do("add", list(urls), is_learner)

    async def remove(self, id_: int) -> list[Member]:
        return await self._do("remove", id_)

    async def update(self, id_: int, urls: Any) -> list[Member]:
        return await self._do("update", id_, list(urls))

    async def promote(self, id_: int) -> list[Member]:
        return await self._do("promote", id_)

    async def _do(self, *asked: Any) -> list[Member]:
        self.asked.append(asked)
        await asyncio.sleep(0)
        if self._error is not None:
            raise self._error
        return MEMBERS


class Confirming:
    """Reads that are confirmed when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Done] = []

    def wait(self, done: Done) -> None:
        self.waiting.append(done)


def run(
    changing: Changing, *requests: tuple[str, Any], reads: Confirming | None = None
) -> Recorder:
    """Calls methods, with tags from 1 on, and waits for the answers of those that change."""
    recorder = Recorder()

    async def calls() -> None:
        headers = Headers(10, 2)
        headers.set_term(4)
        cluster = Cluster(cast(Reconfiguration, changing), reads or Confirming(), headers)
        handlers = {method.path.rsplit("/", 1)[1]: method.handle for method in cluster.methods()}
        for tag, (method, request) in enumerate(requests, 1):
            handlers[method]([call(recorder, tag, request)])
        for tag, (method, _) in enumerate(requests, 1):
            if method != "MemberList":
                await recorder.answer(tag)

    asyncio.run(calls())
    return recorder


def check_header(response: Any) -> None:
    header = response.header
    assert (header.cluster_id, header.member_id, header.raft_term, header.revision) == (10, 2, 4, 0)


def test_lists_members_by_id_and_names_no_revision() -> None:
    local = MemberListRequest()
    recorder = run(Changing(), ("MemberList", local), ("MemberList", b"\xff"))
    answer = recorder.answers[1]
    assert isinstance(answer, bytes)
    response = MemberListResponse.FromString(answer)
    assert list(response.members) == MEMBERS
    check_header(response)
    assert recorder.answers[2] == errors.MALFORMED


def test_a_linearizable_list_waits_for_the_quorum() -> None:
    reads, wanted = Confirming(), MemberListRequest(linearizable=True)
    recorder = run(Changing(), ("MemberList", wanted), ("MemberList", wanted), reads=reads)
    assert recorder.answers == {}
    reads.waiting[0](None)
    reads.waiting[1](LeaderChangedError())
    answer = recorder.answers[1]
    assert isinstance(answer, bytes)
    assert list(MemberListResponse.FromString(answer).members) == MEMBERS
    assert recorder.answers[2] == errors.LEADER_CHANGED


CHANGES: list[tuple[str, Any, Any]] = [
    ("MemberAdd", MemberAddRequest(peerURLs=["http://x:1"], isLearner=True), MemberAddResponse),
    ("MemberRemove", MemberRemoveRequest(ID=3), MemberRemoveResponse),
    ("MemberUpdate", MemberUpdateRequest(ID=3, peerURLs=["http://y:1"]), MemberUpdateResponse),
    ("MemberPromote", MemberPromoteRequest(ID=3), MemberPromoteResponse),
]


def test_a_change_is_answered_with_the_members_after_it() -> None:
    changing = Changing()
    recorder = run(changing, *((method, request) for method, request, _ in CHANGES))
    assert changing.asked == [
        ("add", ["http://x:1"], True),
        ("remove", 3),
        ("update", 3, ["http://y:1"]),
        ("promote", 3),
    ]
    for tag, (_, _, kind) in enumerate(CHANGES, 1):
        answer = recorder.answers[tag]
        assert isinstance(answer, bytes)
        response = kind.FromString(answer)
        assert list(response.members) == MEMBERS
        check_header(response)
        if isinstance(response, MemberAddResponse):
            assert response.member == ADDED


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MemberExistsError(), 9, "etcdserver: member ID already exist"),
        (PeerUrlsExistError(), 9, "etcdserver: Peer URLs already exists"),
        (MemberNotFoundError(), 5, "etcdserver: member not found"),
        (NotLearnerError(), 9, "etcdserver: can only promote a learner member"),
        (TooManyLearnersError(), 9, "etcdserver: too many learner members in cluster"),
        (BadPeerUrlsError(), 3, "etcdserver: given member URLs are invalid"),
        (
            NotEnoughStartedError(),
            9,
            "etcdserver: re-configuration failed due to not enough started members",
        ),
        (UnhealthyError(), 14, "etcdserver: unhealthy cluster"),
        (
            LearnerNotReadyError(),
            9,
            "etcdserver: can only promote a learner member which is in sync with leader",
        ),
        (TimedOutError(), 14, "etcdserver: request timed out"),
        (
            LeaderLostError(),
            14,
            "etcdserver: request timed out, possibly due to previous leader failure",
        ),
        (StoppedError(), 14, "etcdserver: server stopped"),
    ],
)
def test_a_change_that_is_refused_has_etcds_error(error: Exception, code: int, text: str) -> None:
    recorder = run(Changing(error), *((method, request) for method, request, _ in CHANGES))
    for tag in range(1, len(CHANGES) + 1):
        assert recorder.answers[tag] == Status(Code(code), text)


def test_a_change_that_cannot_be_read_is_refused() -> None:
    recorder = run(Changing(), *((method, b"\xff") for method, _, _ in CHANGES))
    assert set(recorder.answers.values()) == {errors.MALFORMED}
