"""Every method, called by every kind of caller, gives what the matrix says, in rusd and in etcd."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cluster.tls.__main__ import write_all
from rusd.pb import auth_pb2 as auth
from rusd.pb import rpc_pb2 as rpc
from tests.certificates import Certificates
from tests.compat.auth_matrix import CALLERS, OK, ROWS, Row, Step
from tests.compat.client import ANSWER_SECONDS, PATHS, Client, Metadata
from tests.members import Member, free_ports

TTL = 3
"""Seconds that a token lives; each call has a new one."""


@dataclass
class Site:
    """A server with users, rights and leases as the matrix says, and its callers."""

    member: Member
    plain: grpc.Channel
    with_certificate: grpc.Channel
    expired: str = ""

    def prepare(self) -> None:
        """Make the users, and turn auth on."""
        grants = (("own", b"k", b"l"), ("others", b"x", b"y"))
        for name, role in (("root", "root"), ("user", "own"), ("stranger", "others")):
            self.do(
                ("UserAdd", rpc.AuthUserAddRequest(name=name, password=f"password of {name}")),
                ("RoleAdd", rpc.AuthRoleAddRequest(name=role)),
                ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user=name, role=role)),
            )
        for role, key, end in grants:
            permission = auth.Permission(permType=auth.Permission.READWRITE, key=key, range_end=end)
            grant = rpc.AuthRoleGrantPermissionRequest(name=role, perm=permission)
            self.do(("RoleGrantPermission", grant))
        self.do(
            ("Put", rpc.PutRequest(key=b"k1")),
            ("Put", rpc.PutRequest(key=b"z")),
            ("LeaseGrant", rpc.LeaseGrantRequest(ID=10, TTL=9000)),
            ("LeaseGrant", rpc.LeaseGrantRequest(ID=11, TTL=9000)),
            ("Put", rpc.PutRequest(key=b"k-leased", lease=11)),
            ("AuthEnable", rpc.AuthEnableRequest()),
        )
        self.expired = self.token("user")

    def do(self, *steps: Step, metadata: Metadata = ()) -> None:
        """Make calls that must succeed."""
        client = Client(self.plain)
        for method, request in steps:
            answer = client.call(method, request, metadata)
            assert answer.code == "OK", (method, answer)

    def as_root(self, steps: Sequence[Step]) -> None:
        """Make calls as root; one that changes nothing more may fail."""
        client = Client(self.plain)
        for method, request in steps:
            client.call(method, request, self.metadata("root"))

    def token(self, user: str) -> str:
        """A new token; none while auth is off."""
        answer, token = Client(self.plain).login(user, f"password of {user}")
        assert token or "not enabled" in answer.details, answer
        return token

    def metadata(self, caller: str) -> Metadata:
        """What a caller sends along."""
        match caller:
            case "anonymous" | "certificate":
                return ()
            case "bad_token":
                return (("token", "x.y"),)
            case "expired_token":
                return (("token", self.expired),)
            case _:
                token = self.token(caller)
                return (("token", token),) if token else ()

    def outcome(self, row: Row, caller: str) -> str:
        """What a caller gets for a row's request."""
        self.as_root(row.before)
        channel = self.with_certificate if caller == "certificate" else self.plain
        try:
            return _called(channel, row.path, row.request, self.metadata(caller))
        finally:
            self.as_root(row.after)


def _called(channel: grpc.Channel, path: str, request: Message, metadata: Metadata) -> str:
    method = PATHS[path]
    kind = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming]
    call = kind(
        path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    sent = iter([request]) if method.client_streaming else request
    try:
        answer = call(sent, timeout=ANSWER_SECONDS, metadata=metadata)
        if method.server_streaming:
            stream, answer = answer, next(answer)
            stream.cancel()
    except StopIteration:
        return "END"
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"
    if isinstance(answer, rpc.WatchResponse) and answer.canceled:
        return _reason(answer)
    return OK


def _reason(answer: rpc.WatchResponse) -> str:
    """A watcher that is refused is answered in one message, and the stream goes on."""
    assert answer.created, answer
    assert answer.watch_id == -1, answer
    found = re.fullmatch(r"rpc error: code = (\w+) desc = (.*)", answer.cancel_reason)
    assert found is not None, answer
    code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", found[1]).upper()
    return f"{code} {found[2]}"


def _site(
    command: Sequence[str], folder: Path, certificates: Certificates, stack: ExitStack
) -> Site:
    """A server that listens with TLS and without."""
    member = Member(command, folder)
    port = free_ports(1)[0]
    member.flags = (
        *("--listen-client-urls", f"{member.client_url},https://127.0.0.1:{port}"),
        *certificates.pair("server"),
        *("--trusted-ca-file", certificates["ca.crt"]),
        *("--client-cert-auth", "--bcrypt-cost", "4", "--auth-token-ttl", str(TTL)),
    )
    stack.callback(member.close)
    member.start()
    secure = grpc.secure_channel(
        f"127.0.0.1:{port}", certificates.credentials(), options=[("grpc.enable_http_proxy", 0)]
    )
    return Site(
        member,
        stack.enter_context(member.channel()),
        stack.enter_context(secure),
    )


@pytest.fixture(scope="module")
def sites(
    etcd_command: Sequence[str],
    subject_command: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Site, Site]]:
    """Real etcd and the server under test, after the time in which a token expires."""
    folder = tmp_path_factory.mktemp("matrix")
    write_all(folder / "certificates", users=("user",))
    certificates = Certificates(folder / "certificates", client="user-user")
    with ExitStack() as stack:
        both = (
            _site(etcd_command, folder / "etcd", certificates, stack),
            _site(subject_command, folder / "subject", certificates, stack),
        )
        for site in both:
            site.prepare()
        # Only time makes a token expire: to ask whether it has would renew it.
        time.sleep(TTL + 2)
        yield both


def test_no_method_is_without_a_row() -> None:
    assert {row.path for row in ROWS} == set(PATHS)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_caller_gets_what_the_matrix_says(row: Row, sites: tuple[Site, Site]) -> None:
    reference, subject = sites
    seen = {caller: subject.outcome(row, caller) for caller in CALLERS}
    assert seen == {caller: row.expected(caller) for caller in CALLERS}
    if row.in_etcd:
        seen = {caller: reference.outcome(row, caller) for caller in CALLERS}
        assert seen == {caller: row.expected_of_etcd(caller) for caller in CALLERS}
