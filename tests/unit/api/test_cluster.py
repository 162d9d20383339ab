"""rusd/api/cluster.py."""

import asyncio

import pytest

from rusd.api import errors
from rusd.api.answers import Headers
from rusd.api.cluster import Cluster
from rusd.node.membership import Membership
from rusd.pb.rpc_pb2 import Member, MemberListRequest, MemberListResponse
from tests.unit.api.fakes import call
from tests.unit.node.running import Recorder


@pytest.mark.parametrize("linearizable", [True, False])
def test_lists_members_by_peer_url_and_names_no_revision(linearizable: bool) -> None:
    async def answers() -> Recorder:
        recorder = Recorder()
        cluster.member_list(
            [
                call(recorder, 1, MemberListRequest(linearizable=linearizable)),
                call(recorder, 2, b"\xff"),
            ]
        )
        return recorder

    members = [
        Member(ID=2, name="b", peerURLs=["http://b:2380"], clientURLs=["http://b:2379"]),
        Member(ID=3, name="a", peerURLs=["http://a:2380"], isLearner=True),
    ]
    headers = Headers(10, 2)
    headers.set_term(4)
    cluster = Cluster(Membership(10, 2, {member.ID: member for member in members}), headers)
    recorder = asyncio.run(answers())
    answer = recorder.answers[1]
    assert isinstance(answer, bytes)
    response = MemberListResponse.FromString(answer)
    assert list(response.members) == members[::-1]
    header = response.header
    assert (header.cluster_id, header.member_id, header.raft_term, header.revision) == (10, 2, 4, 0)
    assert recorder.answers[2] == errors.MALFORMED
