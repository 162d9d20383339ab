"""Users, roles, rights and logins are the cluster's: every member knows them, also one that was away.

A token that one member gave is good at all; what one applied is refused by all; a member that comes
back, from its log or from a snapshot, knows what was changed meanwhile.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rusd.pb import auth_pb2 as auth
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Answer, Client, Metadata
from tests.members import Cluster, Member, running_cluster, rusd_command, wait_for

SECONDS = 60.0
FLAGS = ("--bcrypt-cost", "4", "--snapshot-count", "200")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three members with auth on; ann may read and write [k, l)."""
    with running_cluster(rusd_command(), tmp_path, 3, FLAGS) as cluster:
        permission = auth.Permission(permType=auth.Permission.READWRITE, key=b"k", range_end=b"l")
        steps = [
            ("RoleAdd", rpc.AuthRoleAddRequest(name="root")),
            ("RoleAdd", rpc.AuthRoleAddRequest(name="own")),
            (
                "RoleGrantPermission",
                rpc.AuthRoleGrantPermissionRequest(name="own", perm=permission),
            ),
        ]
        for name, role in (("root", "root"), ("ann", "own")):
            steps += [
                ("UserAdd", rpc.AuthUserAddRequest(name=name, password=name)),
                ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user=name, role=role)),
            ]
        steps.append(("AuthEnable", rpc.AuthEnableRequest()))
        for number, (method, request) in enumerate(steps):
            with cluster.members[number % 3].channel() as channel:
                answer = Client(channel).call(method, request)
                assert answer.code == "OK", (method, answer)
        yield cluster


def token(member: Member, user: str, password: str = "") -> Metadata:
    with member.channel() as channel:
        answer, text = Client(channel).login(user, password or user)
        assert text, answer
        return (("token", text),)


def call(member: Member, method: str, request: object, metadata: Metadata = ()) -> Answer:
    with member.channel() as channel:
        return Client(channel).call(method, request, metadata)  # type: ignore[arg-type]


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
    root, ann = token(first, "root"), token(second, "ann")
    revoke = rpc.AuthUserRevokeRoleRequest(name="ann", role="own")
    assert call(third, "UserRevokeRole", revoke, root).code == "OK"
    for member in cluster.members:
        # A linearizable read sees what was changed before it, its right included.
        answer = call(member, "Range", rpc.RangeRequest(key=b"k"), ann)
        assert answer.code == "PERMISSION_DENIED"
        assert call(member, "Put", rpc.PutRequest(key=b"k"), ann).code == "PERMISSION_DENIED"
        assert call(member, "Range", rpc.RangeRequest(key=b"k")).code == "INVALID_ARGUMENT"
    change = rpc.AuthUserChangePasswordRequest(name="root", password="new")
    assert call(second, "UserChangePassword", change, root).code == "OK"

    def refused_everywhere() -> bool:
        request = rpc.RangeRequest(key=b"k")
        answers = [call(member, "Range", request, root).code for member in cluster.members]
        return set(answers) == {"UNAUTHENTICATED"}

    wait_for(refused_everywhere, SECONDS, "the end of a token at every member")
    for member in cluster.members:
        assert token(member, "root", "new")


@pytest.mark.parametrize("puts", [5, 700], ids=["from-the-log", "from-a-snapshot"])
def test_a_member_that_was_away_knows_what_was_changed(cluster: Cluster, puts: int) -> None:
    leader = cluster.leader()
    away, other = (member for member in cluster.members if member is not leader)
    root = token(leader, "root")
    away.kill()
    with leader.channel() as channel:
        client = Client(channel)
        add = rpc.AuthUserAddRequest(name="late", password="late")
        assert client.call("UserAdd", add, root).code == "OK"
        grant = rpc.AuthUserGrantRoleRequest(user="late", role="own")
        assert client.call("UserGrantRole", grant, root).code == "OK"
        delete = rpc.AuthUserDeleteRequest(name="ann")
        assert client.call("UserDelete", delete, root).code == "OK"
        for number in range(puts):
            put = rpc.PutRequest(key=b"k%d" % number, value=b"x")
            assert client.call("Put", put, root).code == "OK"
    away.launch()
    away.wait_ready()
    late = token(away, "late")
    for member in (away, leader, other):
        assert call(member, "Range", rpc.RangeRequest(key=b"k0"), late).code == "OK"
        assert call(member, "Put", rpc.PutRequest(key=b"z"), late).code == "PERMISSION_DENIED"
    with away.channel() as channel:
        assert Client(channel).login("ann", "ann")[0].code == "INVALID_ARGUMENT"
    status = [
        call(member, "AuthStatus", rpc.AuthStatusRequest(), token(member, "root"))
        for member in cluster.members
    ]
    revisions = {getattr(answer.response, "authRevision", None) for answer in status}
    assert len(revisions) == 1, status
    assert _hashes(cluster), "the members hold the same"


def _hashes(cluster: Cluster) -> bool:
    """Whether all members come to one hash at the newest revision."""

    def equal() -> bool:
        answers = [
            call(member, "HashKV", rpc.HashKVRequest(), token(member, "root"))
            for member in cluster.members
        ]
        found = {
            (answer.code, getattr(getattr(answer.response, "header", None), "revision", None))
            for answer in answers
        }
        return len(found) == 1 and all(answer.code == "OK" for answer in answers)

    until = time.monotonic() + SECONDS
    while not equal():
        if time.monotonic() > until:
            return False
    return True
