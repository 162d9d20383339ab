"""Users, roles, rights and logins are the cluster's: all members know them, also who was away.

A token that one member gave is good at all; what one applied is refused by all; a member that comes
back, from its log or from a snapshot, knows what was changed meanwhile.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from google.protobuf.message import Message

from rusd.pb import auth_pb2 as auth
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Answer, Client, Metadata
from tests.members import Cluster, Member, running_cluster, rusd_command, wait_for

SECONDS = 60.0
FLAGS = ("--bcrypt-cost", "4")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members with auth on, the leader first; users may read and write [k, l)."""
    folder = tmp_path_factory.mktemp("cluster")
    with running_cluster(rusd_command(), folder, 3, FLAGS) as cluster:
        leader = cluster.leader()  # who leads is told to users alone, when auth is on
        cluster.members.sort(key=lambda member: member is not leader)
        permission = auth.Permission(permType=auth.Permission.READWRITE, key=b"k", range_end=b"l")
        grant = rpc.AuthRoleGrantPermissionRequest(name="own", perm=permission)
        steps: list[tuple[str, Message]] = [
            ("RoleAdd", rpc.AuthRoleAddRequest(name="root")),
            ("RoleAdd", rpc.AuthRoleAddRequest(name="own")),
            ("RoleGrantPermission", grant),
        ]
        for name in ("root", "ann", "bob", "cat"):
            role = "root" if name == "root" else "own"
            steps += [
                ("UserAdd", rpc.AuthUserAddRequest(name=name, password=name)),
                ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user=name, role=role)),
            ]
        steps.append(("AuthEnable", rpc.AuthEnableRequest()))
        for number, (method, request) in enumerate(steps):
            answer = call(cluster.members[number % 3], method, request)
            assert answer.code == "OK", (method, answer)
        yield cluster


def token(member: Member, user: str, password: str = "") -> Metadata:
    with member.channel() as channel:
        answer, text = Client(channel).login(user, password or user)
        assert text, answer
        return (("token", text),)


def call(member: Member, method: str, request: Message, metadata: Metadata = ()) -> Answer:
    with member.channel() as channel:
        return Client(channel).call(method, request, metadata)


def test_a_token_is_good_at_every_member_at_once(cluster: Cluster) -> None:
    """Also at one that has not applied the login yet: it waits for it."""
    with ExitStack() as channels:
        clients = [Client(channels.enter_context(member.channel())) for member in cluster.members]
        for number in range(30):
            answer, text = clients[number % 3].login("ann", "ann")
            assert text, answer
            for client in clients:
                metadata = (("token", text),)
                put = rpc.PutRequest(key=b"k", value=b"%d" % number)
                assert client.call("Put", put, metadata).code == "OK"
                read = rpc.RangeRequest(key=b"k", serializable=True)
                assert client.call("Range", read, metadata).code == "OK"
                denied = client.call("Put", rpc.PutRequest(key=b"z"), metadata)
                assert denied.code == "PERMISSION_DENIED"


def test_what_is_changed_at_one_member_holds_at_all(cluster: Cluster) -> None:
    first, second, third = cluster.members
    root, bob, cat = token(first, "root"), token(second, "bob"), token(third, "cat")
    revoke = rpc.AuthUserRevokeRoleRequest(name="bob", role="own")
    assert call(third, "UserRevokeRole", revoke, root).code == "OK"
    for member in cluster.members:
        # A linearizable read sees what was changed before it, its right included.
        answer = call(member, "Range", rpc.RangeRequest(key=b"k"), bob)
        assert answer.code == "PERMISSION_DENIED"
        assert call(member, "Put", rpc.PutRequest(key=b"k"), bob).code == "PERMISSION_DENIED"
        assert call(member, "Range", rpc.RangeRequest(key=b"k")).code == "INVALID_ARGUMENT"
    change = rpc.AuthUserChangePasswordRequest(name="cat", password="new")
    assert call(second, "UserChangePassword", change, root).code == "OK"

    def refused_everywhere() -> bool:
        request = rpc.RangeRequest(key=b"k")
        answers = {call(member, "Range", request, cat).code for member in cluster.members}
        return answers == {"UNAUTHENTICATED"}

    wait_for(refused_everywhere, SECONDS, "the end of a token at every member")
    for member in cluster.members:
        assert token(member, "cat", "new")


# A member that lacks more than 32 MiB of the log is sent a snapshot.
@pytest.mark.parametrize("puts", [5, 45], ids=["from-the-log", "from-a-snapshot"])
def test_a_member_that_was_away_knows_what_was_changed(cluster: Cluster, puts: int) -> None:
    leader, other, away = cluster.members
    root = token(leader, "root")
    late, gone = f"late-{puts}", f"gone-{puts}"
    for user in (gone, late):
        add = rpc.AuthUserAddRequest(name=user, password=user)
        if user is late:
            away.kill()
        assert call(leader, "UserAdd", add, root).code == "OK"
    with leader.channel() as channel:
        client = Client(channel)
        grant = rpc.AuthUserGrantRoleRequest(user=late, role="own")
        assert client.call("UserGrantRole", grant, root).code == "OK"
        delete = rpc.AuthUserDeleteRequest(name=gone)
        assert client.call("UserDelete", delete, root).code == "OK"
        for number in range(puts):
            size = 1 << 20 if puts > 40 else 1
            put = rpc.PutRequest(key=b"k%d" % (number % 4), value=b"x" * size)
            assert client.call("Put", put, root).code == "OK"
    before = away.log
    away.launch()
    away.wait_ready()
    by_late = token(away, late)
    assert ("snapshot" in away.log[len(before) :]) == (puts > 40)
    for member in (away, leader, other):
        assert (
            call(member, "Range", rpc.RangeRequest(key=b"k0", count_only=True), by_late).code
            == "OK"
        )
        assert call(member, "Put", rpc.PutRequest(key=b"z"), by_late).code == "PERMISSION_DENIED"
    with away.channel() as channel:
        assert Client(channel).login(gone, gone)[0].code == "INVALID_ARGUMENT"
    revisions = set()
    for member in cluster.members:
        status = call(member, "AuthStatus", rpc.AuthStatusRequest(), token(member, "root"))
        assert isinstance(status.response, rpc.AuthStatusResponse), status
        revisions.add(status.response.authRevision)
    assert len(revisions) == 1
