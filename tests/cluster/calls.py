"""Unary calls to one member, each with a deadline, for tests in which a member may not answer."""

from typing import TypeVar

import grpc
from google.protobuf.message import Message

from rusd.pb import rpc_pb2 as rpc
from tests.cluster.load import history
from tests.members import Cluster, Member, wait_for

SECONDS = 3.0
"""How long a client waits for an answer, where a test does not say."""
AGREE_SECONDS = 60.0

_PATHS: dict[type[Message], str] = {
    rpc.RangeRequest: "KV/Range",
    rpc.PutRequest: "KV/Put",
    rpc.DeleteRangeRequest: "KV/DeleteRange",
    rpc.TxnRequest: "KV/Txn",
    rpc.CompactionRequest: "KV/Compact",
    rpc.LeaseGrantRequest: "Lease/LeaseGrant",
    rpc.LeaseTimeToLiveRequest: "Lease/LeaseTimeToLive",
    rpc.HashKVRequest: "Maintenance/HashKV",
    rpc.StatusRequest: "Maintenance/Status",
    rpc.MoveLeaderRequest: "Maintenance/MoveLeader",
    rpc.AlarmRequest: "Maintenance/Alarm",
    rpc.MemberAddRequest: "Cluster/MemberAdd",
    rpc.MemberRemoveRequest: "Cluster/MemberRemove",
    rpc.MemberPromoteRequest: "Cluster/MemberPromote",
    rpc.MemberListRequest: "Cluster/MemberList",
}

M = TypeVar("M", bound=Message)


class Connection:
    """One channel to one member."""

    def __init__(self, member: Member) -> None:
        """Connect at the first call."""
        self.member = member
        self.channel = member.channel()

    def ask(self, request: Message, answer: type[M], seconds: float = SECONDS) -> M:
        """Send a request and wait for its answer; raise grpc.RpcError."""
        response: M = self.channel.unary_unary(
            f"/etcdserverpb.{_PATHS[type(request)]}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )(request, timeout=seconds)
        return response

    def keep_alive(self, lease: int, seconds: float = SECONDS) -> int:
        """Renew a lease on a stream of its own; return its TTL in seconds, 0 when it is gone."""
        answers = self.channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=rpc.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=rpc.LeaseKeepAliveResponse.FromString,
        )(iter([rpc.LeaseKeepAliveRequest(ID=lease)]), timeout=seconds)
        try:
            return int(next(answers).TTL)
        finally:
            answers.cancel()

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()


def ask(member: Member, request: Message, answer: type[M], seconds: float = SECONDS) -> M:
    """Ask one member once; raise grpc.RpcError."""
    connection = Connection(member)
    try:
        return connection.ask(request, answer, seconds)
    finally:
        connection.close()


def ask_until(cluster: Cluster, request: Message, answer: type[M], seconds: float) -> M:
    """Ask one running member after the other until one answers; TimeoutError after `seconds`.

    Only for requests that may be carried out more than once.
    """
    found: list[M] = []
    errors: list[str] = []

    def answered() -> bool:
        for member in cluster.running:
            try:
                found.append(ask(member, request, answer))
            except grpc.RpcError as error:
                errors.append(f"{member.name}: {error.code().name} {error.details()}")
            else:
                return True
        return False

    try:
        wait_for(answered, seconds, type(request).__name__)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; {errors[-3:]}") from None
    return found[0]


def status(member: Member) -> rpc.StatusResponse:
    """Return what a member says of itself."""
    return ask(member, rpc.StatusRequest(), rpc.StatusResponse)


def turn_auth_on(member: Member) -> None:
    """Make the user root, whom certificates name, and ask for users from now on."""
    with member.channel() as channel:
        for call, request in (
            ("UserAdd", rpc.AuthUserAddRequest(name="root", options={"no_password": True})),
            ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user="root", role="root")),
            ("AuthEnable", rpc.AuthEnableRequest()),
        ):
            channel.unary_unary(
                f"/etcdserverpb.Auth/{call}", request_serializer=type(request).SerializeToString
            )(request, timeout=10)


def await_agreement(cluster: Cluster) -> tuple[int, int]:
    """Wait until all members answer; assert that HashKV agrees at the newest revision.

    Returns the revision and the hash.
    """
    revision = ask_until(
        cluster, rpc.RangeRequest(key=b"newest"), rpc.RangeResponse, AGREE_SECONDS
    ).header.revision
    hashes: dict[str, int] = {}

    def hashed() -> bool:
        for member in cluster.members:
            if member.name not in hashes:
                try:
                    answer = _hash(member, revision)
                except grpc.RpcError:  # the member is behind, or has just started
                    return False
                hashes[member.name] = answer.hash
        return True

    wait_for(hashed, AGREE_SECONDS, f"the hashes of all members at {revision}; there are {hashes}")
    assert len(set(hashes.values())) == 1, (
        f"hashes at revision {revision} differ: {hashes}; {_differences(cluster, revision)}"
    )
    return revision, hashes.popitem()[1]


def _differences(cluster: Cluster, revision: int) -> str:
    """The keys that members show differently at a revision, for a report."""
    everything = rpc.RangeRequest(key=b"\0", range_end=b"\0", revision=revision, serializable=True)
    shown = {
        member.name: {
            each.key: (each.create_revision, each.mod_revision, each.version, each.lease)
            for each in ask(member, everything, rpc.RangeResponse, AGREE_SECONDS).kvs
        }
        for member in cluster.members
    }
    keys = {key for found in shown.values() for key in found}
    differing = [
        {name: (key, found.get(key)) for name, found in shown.items()}
        for key in sorted(keys)
        if len({found.get(key) for found in shown.values()}) > 1
    ]
    low = max(_hash(member, revision).compact_revision for member in cluster.members)
    high = revision
    while low < high:  # the hash at a revision is of all events up to it
        middle = (low + high) // 2
        if len({_hash(member, middle).hash for member in cluster.members}) > 1:
            high = middle
        else:
            low = middle + 1
    events = {
        member.name: [
            (key, value and (len(value), value[:20]))
            for found, changes in history(Connection(member).channel, low, revision)
            if found == low
            for key, value in changes
        ]
        for member in cluster.members
    }
    return f"{len(differing)} of {len(keys)} keys: {differing[:10]}; revision {low}: {events}"


def _hash(member: Member, revision: int) -> rpc.HashKVResponse:
    return ask(member, rpc.HashKVRequest(revision=revision), rpc.HashKVResponse, AGREE_SECONDS)
