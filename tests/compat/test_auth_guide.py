"""The commands of etcd's guide to role-based access control, typed against rusd and real etcd.

https://etcd.io/docs/v3.6/op-guide/authentication/rbac/ and the section on auth of etcd's demo.
"""

import subprocess
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rusd.pb.rpc_pb2 import RangeRequest
from tests.compat.client import Client
from tests.compat.test_etcdctl import Etcdctl
from tests.conftest import StartMember

COST = ("--bcrypt-cost", "4")
Typed = Callable[..., Any]


@pytest.fixture
def typed(
    etcd_programs: Path,
    etcd_command: Sequence[str],
    subject_command: Sequence[str],
    start_member: StartMember,
    request: pytest.FixtureRequest,
) -> Typed:
    """Types a command to both and returns what rusd's showed, which must be what etcd's did."""
    flags = getattr(request, "param", ())
    both = [
        Etcdctl(etcd_programs / "etcdctl", start_member(command, *COST, *flags))
        for command in (etcd_command, subject_command)
    ]

    def run(*arguments: str, stdin: str = "") -> list[Any]:
        expected, seen = (each.transcript(arguments, stdin) for each in both)
        assert seen == expected, f"etcdctl {' '.join(arguments)}"
        return seen

    return run


def test_users_roles_and_rights_as_the_guide_types_them(typed: Typed) -> None:
    assert typed("user", "list") == [0, ""]
    password = ("--interactive=false",)
    assert typed("user", "add", "myusername", *password, stdin="secret\n") == [
        0,
        "User myusername created\n",
    ]
    typed("user", "add", "other", "--new-user-password=secret")
    typed("user", "add", "certified", "--no-password")
    typed("user", "add", "myusername:again")
    typed("user", "grant-role", "myusername", "foo")
    for role in ("foo", "bar", "myrolename"):
        assert typed("role", "add", role) == [0, f"Role {role} created\n"]
    typed("user", "grant-role", "myusername", "foo")
    typed("user", "grant-role", "myusername", "bar")
    typed("user", "revoke-role", "myusername", "bar")
    typed("user", "revoke-role", "myusername", "bar")
    assert typed("user", "get", "myusername") == [0, "User: myusername\nRoles: foo\n"]
    typed("user", "passwd", "myusername", *password, stdin="new\n")
    typed("user", "delete", "other")
    typed("user", "delete", "other")
    assert typed("user", "list") == [0, "certified\nmyusername\n"]
    assert typed("role", "list") == [0, "bar\nfoo\nmyrolename\n"]
    typed("role", "grant-permission", "myrolename", "read", "/foo")
    typed("role", "grant-permission", "myrolename", "--prefix=true", "read", "/foo/")
    typed("role", "grant-permission", "myrolename", "write", "/foo/bar")
    typed("role", "grant-permission", "myrolename", "readwrite", "key1", "key5")
    typed("role", "grant-permission", "myrolename", "--prefix=true", "readwrite", "/pub/")
    typed("role", "grant-permission", "myrolename", "--from-key=true", "read", "z")
    shown = typed("role", "get", "myrolename")[1]
    assert "[/pub/, /pub0) (prefix /pub/)" in shown
    assert "[key1, key5)" in shown
    for output in ("json", "fields", "table"):
        typed("role", "get", "myrolename", "-w", output)
        typed("user", "get", "myusername", "--detail", "-w", output)
    typed("user", "get", "myusername", "--detail")
    typed("role", "revoke-permission", "myrolename", "/foo/bar")
    typed("role", "revoke-permission", "myrolename", "/foo/bar")
    typed("role", "revoke-permission", "myrolename", "--prefix=true", "/foo/")
    typed("role", "get", "myrolename")
    assert typed("role", "delete", "myrolename") == [0, "Role myrolename deleted\n"]
    typed("role", "get", "myrolename")


def test_turning_auth_on_and_off_as_the_guide_types_it(typed: Typed) -> None:
    typed("auth", "enable")
    typed("user", "add", "root:rootpw")
    typed("role", "add", "root")
    typed("user", "grant-role", "root", "root")
    typed("role", "add", "role0")
    typed("role", "grant-permission", "role0", "readwrite", "foo")
    typed("user", "add", "user0:123")
    typed("user", "grant-role", "user0", "role0")
    assert typed("auth", "status")[1].startswith("Authentication Status: false")
    assert typed("auth", "enable") == [0, "Authentication Enabled\n"]
    assert typed("--user=user0:123", "put", "foo", "bar") == [0, "OK\n"]
    assert typed("get", "foo")[0] != 0, "nobody may"
    assert typed("--user=user0:123", "get", "foo") == [0, "foo\nbar\n"]
    assert "permission denied" in typed("--user=user0:123", "get", "foo1")[2]
    assert typed("--user=user0", "--password=123", "get", "foo")[0] == 0
    assert "authentication failed" in typed("--user=user0:wrong", "get", "foo")[2]
    lines: tuple[tuple[str, ...], ...] = (
        ("--user=user0:123", "get", "foo", "--prefix"),
        ("--user=user0:123", "del", "foo", "--prev-kv"),
        ("--user=user0:123", "user", "get", "user0"),
        ("--user=user0:123", "user", "list"),
        ("--user=user0:123", "role", "get", "role0"),
        ("--user=user0:123", "role", "list"),
        ("--user=user0:123", "auth", "disable"),
        ("--user=user0:123", "member", "list"),
        ("--user=user0:123", "alarm", "list"),
        ("--user=user0:123", "alarm", "disarm"),
        ("--user=user0:123", "compact", "1"),
        ("--user=user0:123", "lease", "list"),
        ("--user=root:rootpw", "user", "list"),
        ("--user=root:rootpw", "role", "list"),
        ("--user=root:rootpw", "role", "delete", "root"),
        ("--user=root:rootpw", "user", "delete", "root"),
        ("--user=root:rootpw", "user", "revoke-role", "root", "root"),
        ("--user=root:rootpw", "auth", "status"),
        ("--user=root:rootpw", "user", "passwd", "user0", "--interactive=false"),
    )
    for line in lines:
        typed(*line, stdin="456\n")
    assert "authentication failed" in typed("--user=user0:123", "get", "foo")[2]
    assert typed("--user=root:rootpw", "auth", "disable") == [0, "Authentication Disabled\n"]
    assert typed("get", "foo")[0] == 0


def test_web_tokens_as_the_guide_sets_them_up(
    tmp_path: Path,
    etcd_programs: Path,
    etcd_command: Sequence[str],
    subject_command: Sequence[str],
    start_member: StartMember,
) -> None:
    """Keys that openssl makes; a token of either server is good at the other."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    make = (("genrsa", "-out", private, "2048"), ("rsa", "-in", private, "-pubout", "-out", public))
    for arguments in make:
        subprocess.run(("openssl", *arguments), check=True, capture_output=True)
    option = f"jwt,pub-key={public},priv-key={private},sign-method=RS512,ttl=10m"
    both = [
        Etcdctl(etcd_programs / "etcdctl", start_member(command, *COST, "--auth-token", option))
        for command in (etcd_command, subject_command)
    ]
    lines: tuple[tuple[str, ...], ...] = (
        ("user", "add", "root:rootpw"),
        ("user", "grant-role", "root", "root"),
        ("auth", "enable"),
        ("--user=root:rootpw", "put", "foo", "bar"),
        ("--user=root:rootpw", "get", "foo"),
        ("--user=root:rootpw", "user", "add", "another:pw"),
        ("--user=root:rootpw", "get", "foo"),
        ("--user=another:pw", "get", "foo"),
        ("get", "foo"),
    )
    for line in lines:
        expected, seen = (each.transcript(line) for each in both)
        assert seen == expected, line
    channels = [each.member.channel() for each in both]
    tokens = [Client(channel).login("root", "rootpw")[1] for channel in channels]
    for channel, token in product(channels, tokens):
        answer = Client(channel).call("Range", RangeRequest(key=b"foo"), (("token", token),))
        assert answer.code == "OK", answer
    for channel in channels:
        channel.close()
