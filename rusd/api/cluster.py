"""The Cluster service: who the members are."""

from typing import Final

from rusd.api.answers import Headers
from rusd.api.parsing import parsed
from rusd.node.membership import Membership
from rusd.pb.rpc_pb2 import MemberListRequest, MemberListResponse
from rusd.wire.service import Call, UnaryMethod

_NO_REVISION: Final = 0
"""etcd's answers about members name no revision."""


class Cluster:
    """Lists the members."""

    def __init__(self, membership: Membership, headers: Headers) -> None:
        self._membership, self._headers = membership, headers

    def methods(self) -> list[UnaryMethod]:
        return [UnaryMethod("/etcdserverpb.Cluster/MemberList", self.member_list)]

    def member_list(self, calls: list[Call]) -> None:
        """Answers linearizable requests as others: what the only voter has applied is what is
        committed.
        """
        for connection, stream, _, _ in parsed(calls, MemberListRequest.FromString):
            members = sorted(
                self._membership.members.values(), key=lambda member: list(member.peerURLs)
            )
            response = MemberListResponse(members=members)
            header = self._headers.at(_NO_REVISION)
            connection.reply(stream, header + response.SerializeToString())
