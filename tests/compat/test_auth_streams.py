"""Streams whose user loses its rights, or is no more, end; those of others go on.

Real etcd lets a watcher live on whatever becomes of its user's rights: rusd does not.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from rusd.pb import auth_pb2 as auth
from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Client, Metadata, WatchStream
from tests.members import Member, running, rusd_command

DENIED = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
BAD_TOKEN = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
NOBODY = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
SECONDS = 20.0


class Site:
    """A member with auth on; ann and bob may read and write [k, l)."""

    def __init__(self, member: Member) -> None:
        self.channel = member.channel()
        self.client = Client(self.channel)
        self.root: Metadata = ()

    def begin(self) -> None:
        """Turn auth off; make the users anew."""
        if self.root:
            self.do("AuthDisable", rpc.AuthDisableRequest())
            self.root = ()
        for name in ("root", "ann", "bob"):
            self.client.call("UserDelete", rpc.AuthUserDeleteRequest(name=name))
        for name in ("root", "both"):
            self.client.call("RoleAdd", rpc.AuthRoleAddRequest(name=name))
        permission = auth.Permission(permType=auth.Permission.READWRITE, key=b"k", range_end=b"l")
        self.do(
            "RoleGrantPermission", rpc.AuthRoleGrantPermissionRequest(name="both", perm=permission)
        )
        for name, role in (("root", "root"), ("ann", "both"), ("bob", "both")):
            self.do("UserAdd", rpc.AuthUserAddRequest(name=name, password=name))
            self.do("UserGrantRole", rpc.AuthUserGrantRoleRequest(user=name, role=role))

    def enable(self) -> None:
        """Turn auth on."""
        self.do("AuthEnable", rpc.AuthEnableRequest())
        self.root = self.token("root")

    def token(self, user: str) -> Metadata:
        return (("token", self.client.login(user, user)[1]),)

    def do(self, method: str, request: Message) -> None:
        """Do as root what must succeed."""
        answer = self.client.call(method, request, self.root)
        assert answer.code == "OK", (method, answer)

    @contextmanager
    def watching(self, metadata: Metadata) -> Iterator[WatchStream]:
        """A stream with a watcher of [k, l)."""
        stream = self.client.watch_stream(SECONDS, metadata)
        create = rpc.WatchCreateRequest(key=b"k", range_end=b"l")
        stream.send(rpc.WatchRequest(create_request=create))
        assert len(stream.await_controls(0, 1)) == 1
        try:
            yield stream
        finally:
            stream.close()


class KeepAlives:
    """A keep-alive stream: send a lease's id, and wait for what comes."""

    def __init__(self, channel: grpc.Channel, metadata: Metadata) -> None:
        self._sent: queue.SimpleQueue[rpc.LeaseKeepAliveRequest | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._call = channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=rpc.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=rpc.LeaseKeepAliveResponse.FromString,
        )(iter(self._sent.get, None), metadata=metadata)
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, lease: int) -> None:
        self._sent.put(rpc.LeaseKeepAliveRequest(ID=lease))

    def close(self) -> None:
        self._call.cancel()
        self._sent.put(None)

    def _read(self) -> None:
        try:
            for answer in self._call:
                self.answers.put(f"TTL {answer.TTL}")
        except grpc.RpcError as error:
            self.answers.put(f"{error.code().name} {error.details()}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One member for all tests."""
    folder = tmp_path_factory.mktemp("streams")
    with running(rusd_command(), folder, ("--bcrypt-cost", "4")) as member:
        site = Site(member)
        yield site
        site.client.close()


@pytest.fixture
def site(served: Site) -> Site:
    """The member, with its users made anew, and auth off."""
    served.begin()
    return served


Change = Callable[[Site], None]


def _revoke_role(site: Site) -> None:
    site.do("UserRevokeRole", rpc.AuthUserRevokeRoleRequest(name="ann", role="both"))


def _delete_user(site: Site) -> None:
    site.do("UserDelete", rpc.AuthUserDeleteRequest(name="ann"))


def _change_password(site: Site) -> None:
    site.do("UserChangePassword", rpc.AuthUserChangePasswordRequest(name="ann", password="new"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [(_revoke_role, DENIED), (_delete_user, BAD_TOKEN), (_change_password, BAD_TOKEN)],
)
def test_a_watch_ends_with_its_users_right(site: Site, change: Change, reason: str) -> None:
    site.enable()
    with site.watching(site.token("ann")) as ann, site.watching(site.token("bob")) as bob:
        site.do("Put", rpc.PutRequest(key=b"k1", value=b"before"))
        assert len(ann.await_events(0, 1)) == 1
        change(site)
        site.do("Put", rpc.PutRequest(key=b"k1", value=b"after"))
        assert len(bob.await_events(0, 2)) == 2
        (ended,) = ann.await_controls(1, 1)
        assert ended.canceled
        assert ended.cancel_reason == reason
        assert [event.kv.value for event in ann.events[0]] == [b"before"]
        assert len(bob.controls) == 1, "others watch on"


def test_a_watch_of_a_role_whose_permission_is_revoked_ends(site: Site) -> None:
    site.enable()
    with site.watching(site.token("ann")) as ann, site.watching(site.root) as root:
        revoke = rpc.AuthRoleRevokePermissionRequest(role="both", key=b"k", range_end=b"l")
        site.do("RoleRevokePermission", revoke)
        (ended,) = ann.await_controls(1, 1)
        assert ended.canceled
        assert ended.cancel_reason == DENIED
        assert len(root.controls) == 1


def test_a_watch_of_nobody_ends_when_auth_begins(site: Site) -> None:
    with site.watching(()) as watching:
        site.enable()
        (ended,) = watching.await_controls(1, 1)
        assert ended.canceled
        assert ended.cancel_reason == NOBODY


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (_revoke_role, "PERMISSION_DENIED etcdserver: permission denied"),
        (_delete_user, "UNAUTHENTICATED etcdserver: invalid auth token"),
        (_change_password, "UNAUTHENTICATED etcdserver: invalid auth token"),
    ],
)
def test_a_keep_alive_ends_with_its_users_right(site: Site, change: Change, status: str) -> None:
    site.enable()
    site.do("LeaseGrant", rpc.LeaseGrantRequest(ID=7, TTL=600))
    site.do("Put", rpc.PutRequest(key=b"k1", lease=7))
    ann = KeepAlives(site.channel, site.token("ann"))
    bob = KeepAlives(site.channel, site.token("bob"))
    for each in (ann, bob):
        each.send(7)
        assert each.answers.get(timeout=SECONDS) == "TTL 600"
    change(site)
    bob.send(7)
    ann.send(7)
    assert ann.answers.get(timeout=SECONDS) == status
    if change is not _revoke_role:
        assert bob.answers.get(timeout=SECONDS) == "TTL 600"
    for each in (ann, bob):
        each.close()
    site.do("LeaseRevoke", rpc.LeaseRevokeRequest(ID=7))


def test_nothing_ends_while_auth_is_off(site: Site) -> None:
    with site.watching(()) as watching:
        _revoke_role(site)
        _delete_user(site)
        site.do("Put", rpc.PutRequest(key=b"k1"))
        assert len(watching.await_events(0, 1)) == 1
        assert len(watching.controls) == 1


def test_a_lease_of_a_user_ends_by_itself(site: Site) -> None:
    """It is the member that takes the keys away then, whoever may write them."""
    site.enable()
    ann = site.token("ann")
    grant = rpc.LeaseGrantRequest(ID=8, TTL=2)
    assert site.client.call("LeaseGrant", grant, ann).code == "OK"
    with site.watching(site.root) as watching:
        put = rpc.PutRequest(key=b"k-leased", lease=8)
        assert site.client.call("Put", put, ann).code == "OK"
        events = watching.await_events(0, 2)
        assert [event.type for event in events] == [kv.Event.PUT, kv.Event.DELETE]


def test_a_web_token_of_who_is_no_more_is_nobodys(tmp_path: Path) -> None:
    """To etcd it is a user's, where any user will do: to grant leases, or to see the members."""
    secret = tmp_path / "secret"
    secret.write_text("s" * 40)
    option = f"jwt,sign-method=HS256,priv-key={secret},ttl=1h"
    flags = ("--bcrypt-cost", "4", "--auth-token", option)
    with running(rusd_command(), tmp_path / "member", flags) as member:
        site = Site(member)
        site.begin()
        site.enable()
        ann = site.token("ann")
        with site.watching(ann) as watching:
            _delete_user(site)
            (ended,) = watching.await_controls(1, 1)
            assert ended.canceled
        calls: tuple[tuple[str, Message], ...] = (
            ("LeaseGrant", rpc.LeaseGrantRequest(TTL=60)),
            ("MemberList", rpc.MemberListRequest()),
            ("Alarm", rpc.AlarmRequest()),
            ("LeaseLeases", rpc.LeaseLeasesRequest()),
            ("Compact", rpc.CompactionRequest(revision=1)),
        )
        for method, request in calls:
            assert site.client.call(method, request, ann).code == "PERMISSION_DENIED", method
        assert site.client.call("AuthStatus", rpc.AuthStatusRequest(), ann).code == "OK"
        old = site.client.call("Range", rpc.RangeRequest(key=b"k"), ann)
        assert old.details == "etcdserver: revision of auth store is old"
        site.client.close()
