"""rusd/node/bootstrap.py: who a new member is. Ids and texts are etcd 3.5.30's, as asked."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from rusd.config import load
from rusd.node.bootstrap import BootstrapError, Identity, identify
from rusd.node.peer_inbound import PeerCallError
from rusd.node.peer_outbound import PeerUnreachableError
from rusd.node.peer_wire import Method
from rusd.pb.rpc_pb2 import Member, MemberListResponse, ResponseHeader

M1, M2, M3 = 0xA276B26B93DDE400, 0xA6328F4C8EA6650F, 0x30167845879B00C6
"""Ids of the members of CLUSTER, with etcd's default token."""
CLUSTER_ID = 0xCEC83DEF7EEFD5C4
CLUSTER = "m1=http://127.0.0.1:23101,m2=http://127.0.0.1:23102,m3=http://127.0.0.1:23103"

Asked = list[tuple[Sequence[str], int]]


def answering(
    answer: MemberListResponse | Exception, asked: Asked | None = None
) -> Callable[[Sequence[str], int, bytes, float], Awaitable[bytes]]:
    async def ask(urls: Sequence[str], method: int, body: bytes, timeout: float) -> bytes:
        assert body == b""
        assert 0 < timeout <= 10
        if asked is not None:
            asked.append((urls, method))
        if isinstance(answer, Exception):
            raise answer
        return answer.SerializeToString()

    return ask


NOBODY = PeerUnreachableError("nobody")


def who(
    answer: MemberListResponse | Exception = NOBODY,
    name: str = "m3",
    cluster: str = CLUSTER,
    state: str = "new",
    asked: Asked | None = None,
) -> Identity:
    urls = [part.partition("=")[2] for part in cluster.split(",") if part.startswith(f"{name}=")]
    config = load(
        [
            f"--name={name}",
            f"--initial-advertise-peer-urls={','.join(urls)}",
            f"--initial-cluster={cluster}",
            f"--initial-cluster-state={state}",
        ],
        {},
    )
    config.check_bootstrap()
    return asyncio.run(identify(config, answering(answer, asked)))


def member(id_: int, number: int, *, started: bool = True, learner: bool = False) -> Member:
    return Member(
        ID=id_,
        name=f"m{number}" if started else "",
        peerURLs=[f"http://127.0.0.1:2310{number}"],
        clientURLs=[f"http://127.0.0.1:2300{number}"] if started else [],
        isLearner=learner,
    )


def running(*members: Member) -> MemberListResponse:
    return MemberListResponse(header=ResponseHeader(cluster_id=CLUSTER_ID), members=members)


@pytest.mark.parametrize(
    "error", [NOBODY, PeerCallError("no"), TimeoutError(), PeerUnreachableError("refused")]
)
def test_founding_members_agree_on_all_ids(error: Exception) -> None:
    for name, id_ in (("m1", M1), ("m2", M2), ("m3", M3)):
        identity = who(error, name)
        assert (identity.cluster_id, identity.member.ID) == (CLUSTER_ID, id_)
        assert not identity.joins
        assert identity.member.name == name
        everyone = {identity.member.ID, *(other.ID for other in identity.others)}
        assert everyone == {M1, M2, M3}


def test_one_of_many_urls_makes_the_id_whatever_their_order() -> None:
    one = who(cluster="m3=http://127.0.0.1:2,m3=http://127.0.0.1:1")
    other = who(cluster="m3=http://127.0.0.1:1,m3=http://127.0.0.1:2")
    assert one == other
    assert list(one.member.peerURLs) == ["http://127.0.0.1:1", "http://127.0.0.1:2"]


def test_only_the_others_are_asked_and_one_alone_asks_nobody() -> None:
    asked: Asked = []
    who(asked=asked)
    assert asked == [(["http://127.0.0.1:23101", "http://127.0.0.1:23102"], Method.MEMBERS)]
    who(cluster="m3=http://127.0.0.1:23103", asked=asked)
    assert len(asked) == 1


def test_a_member_that_the_cluster_has_seen_does_not_begin_again() -> None:
    """It may have voted, and acknowledged entries, that its empty directory knows nothing of."""
    everyone = running(member(M1, 1), member(M2, 2), member(M3, 3))
    for state in ("new", "existing"):
        with pytest.raises(BootstrapError) as caught:
            who(everyone, state=state)
        assert str(caught.value) == "member 30167845879b00c6 has already been bootstrapped"


def test_a_founder_that_starts_late_begins() -> None:
    late = running(member(M1, 1), member(M2, 2), member(M3, 3, started=False))
    assert who(late).member.ID == M3
    assert not who(late).joins
    assert who(running(member(M1, 1), member(M2, 2))).member.ID == M3


def test_who_was_added_takes_the_id_that_the_cluster_gave() -> None:
    added = member(77, 3, started=False, learner=True)
    identity = who(running(member(M1, 1), added, member(M2, 2)), state="existing")
    assert identity == Identity(CLUSTER_ID, added, (member(M1, 1), member(M2, 2)), True)


def test_members_are_matched_by_peer_urls_and_not_by_name() -> None:
    cluster = CLUSTER.replace("m1=", "other=")
    added = member(77, 3, started=False)
    identity = who(running(member(M1, 1), member(M2, 2), added), cluster=cluster, state="existing")
    assert (identity.member, identity.others[0].name) == (added, "m1")


EXISTING = (
    "error validating peerURLs {ClusterID:cec83def7eefd5c4 "
    "Members:[&{ID:30167845879b00c6 RaftAttributes:{PeerURLs:[http://127.0.0.1:23103] "
    "IsLearner:false} Attributes:{Name:m3 ClientURLs:[http://127.0.0.1:23003]}} "
    "&{ID:a276b26b93dde400 RaftAttributes:{PeerURLs:[http://127.0.0.1:23101] "
    "IsLearner:false} Attributes:{Name:m1 ClientURLs:[http://127.0.0.1:23001]}} "
    "&{ID:a6328f4c8ea6650f RaftAttributes:{PeerURLs:[http://127.0.0.1:23102] "
    "IsLearner:false} Attributes:{Name:m2 ClientURLs:[http://127.0.0.1:23002]}}] "
    "RemovedMemberIDs:[]}: "
)


@pytest.mark.parametrize(
    ("answer", "cluster", "text"),
    [
        (
            NOBODY,
            CLUSTER + ",m4=http://127.0.0.1:23104",
            "cannot fetch cluster info from peer urls: "
            "could not retrieve cluster information from the given URLs",
        ),
        (
            NOBODY,
            "m4=http://127.0.0.1:23104",
            "cannot fetch cluster info from peer urls: "
            "could not retrieve cluster information from the given URLs",
        ),
        (
            running(member(M3, 3), member(M1, 1), member(M2, 2)),
            CLUSTER + ",m4=http://127.0.0.1:23104",
            EXISTING + "member count is unequal",
        ),
        (
            running(member(M3, 3), member(M1, 1), member(M2, 2)),
            CLUSTER.replace("m3=http://127.0.0.1:23103", "m4=http://127.0.0.1:23104"),
            EXISTING + "PeerURLs: no match found for existing member (30167845879b00c6, "
            "[http://127.0.0.1:23103]), last resolver error "
            '(resolved urls: "http://127.0.0.1:23103" != "http://127.0.0.1:23104")',
        ),
    ],
)
def test_who_was_not_added_does_not_join(
    answer: MemberListResponse | Exception, cluster: str, text: str
) -> None:
    with pytest.raises(BootstrapError) as caught:
        who(answer, "m4", cluster, "existing")
    assert str(caught.value) == text
