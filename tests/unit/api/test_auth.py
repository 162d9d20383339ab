"""rusd/api/auth.py. Codes and texts are etcd's, as asked with etcdctl 3.5.30."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from rusd.api import errors
from rusd.api.auth import AuthService
from rusd.auth.errors import VerifyOnlyError
from rusd.auth.passwords import Passwords
from rusd.auth.store import Identity
from rusd.auth.tokens import NoTokens, SimpleTokens
from rusd.log import Logger
from rusd.pb import rpc_pb2
from rusd.pb.auth_pb2 import Permission, UserAddOptions
from rusd.pb.rpc_pb2 import (
    AuthDisableRequest,
    AuthEnableRequest,
    AuthenticateRequest,
    AuthenticateResponse,
    AuthRoleAddRequest,
    AuthRoleDeleteRequest,
    AuthRoleGetRequest,
    AuthRoleGetResponse,
    AuthRoleGrantPermissionRequest,
    AuthRoleListRequest,
    AuthRoleListResponse,
    AuthRoleRevokePermissionRequest,
    AuthStatusRequest,
    AuthStatusResponse,
    AuthUserAddRequest,
    AuthUserChangePasswordRequest,
    AuthUserDeleteRequest,
    AuthUserGetRequest,
    AuthUserGetResponse,
    AuthUserGrantRoleRequest,
    AuthUserListRequest,
    AuthUserListResponse,
    AuthUserRevokeRoleRequest,
)
from rusd.wire.grpc import Code, Status
from tests.unit.api.fakes import call
from tests.unit.node.running import CLUSTER_ID, MEMBER_ID, Recorder, Running, running

CHEAP = 4
TOO_LONG = "p" * 73


class Caller(Recorder):
    """A connection whose caller is known."""

    def __init__(self, identity: Identity | None) -> None:
        super().__init__()
        self.identity = identity


class Service:
    """The service of a member, asked by name of the method."""

    def __init__(self, member: Running, passwords: Passwords, log: Logger) -> None:
        self.member, self.passwords = member, passwords
        self.authority = member.applier.authority
        self.store = self.authority.store
        self.authority.tokens = SimpleTokens(
            self.store, lambda: member.pipeline.replica.applied, member.clock
        )
        self.service = AuthService(
            member.pipeline, member.reads, self.authority, passwords, member.headers, log
        )
        self.methods = {method.path.rpartition("/")[2]: method for method in self.service.methods()}

    async def ask(self, request: Any, user: str | None = None) -> Any:
        """The response, or the status that the call failed with. With a user, as that one."""
        name = type(request).__name__.removesuffix("Request")
        if name not in ("Authenticate", "AuthEnable", "AuthDisable", "AuthStatus"):
            name = name.removeprefix("Auth")
        return await self.send(name, request, user)

    async def send(self, name: str, request: Any, user: str | None = None) -> Any:
        caller = Caller(None if user is None else self.store.identity(user))
        self.methods[name].handle([call(caller, 1, request)])
        answer = await caller.answer()
        if isinstance(answer, Status):
            return answer
        kind = name if name.startswith("Auth") else f"Auth{name}"
        response = getattr(rpc_pb2, f"{kind}Response").FromString(answer)
        assert response.header.cluster_id == CLUSTER_ID
        assert response.header.member_id == MEMBER_ID
        assert response.header.revision == self.member.keyspace.revision
        assert response.header.raft_term == self.member.pipeline.term
        response.ClearField("header")
        return response

    async def do(self, *requests: Any, user: str | None = None) -> None:
        for request in requests:
            answer = await self.ask(request, user)
            assert not isinstance(answer, Status), (request, answer)

    async def log_in(self, name: str, password: str) -> Any:
        return await self.ask(AuthenticateRequest(name=name, password=password))


@asynccontextmanager
async def serving(directory: Path, queued: int = 100) -> AsyncIterator[Service]:
    log = Logger(outputs=(str(directory / "log"),))
    passwords = Passwords(CHEAP, queued)
    async with running(directory / "data") as member:
        yield Service(member, passwords, log)
    passwords.stop()
    log.close()


def served(work: Callable[[Service], Awaitable[None]], directory: Path, queued: int = 100) -> None:
    async def run() -> None:
        async with serving(directory, queued) as service:
            await work(service)

    asyncio.run(run())


ROOT = (
    AuthUserAddRequest(name="root", password="root"),
    AuthRoleAddRequest(name="root"),
    AuthUserGrantRoleRequest(user="root", role="root"),
)
ALICE = (
    AuthUserAddRequest(name="alice", password="secret"),
    AuthRoleAddRequest(name="r"),
    AuthRoleGrantPermissionRequest(name="r", perm=Permission(key=b"a", range_end=b"c")),
    AuthUserGrantRoleRequest(user="alice", role="r"),
)
ENABLE = AuthEnableRequest()


def test_it_has_every_method(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        described = rpc_pb2.DESCRIPTOR.services_by_name["Auth"]
        assert set(service.methods) == {method.name for method in described.methods}
        assert len(service.methods) == 17
        assert all(
            method.path == f"/etcdserverpb.Auth/{name}" for name, method in service.methods.items()
        )

    served(work, tmp_path)


def test_a_malformed_request_is_told_so(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        for name, method in service.methods.items():
            recorder = Recorder()
            method.handle([call(recorder, 1, b"\xff\xff")])
            assert await recorder.answer() == errors.MALFORMED, name

    served(work, tmp_path)


def test_users_and_roles_are_made_shown_changed_and_removed(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        ask = service.ask
        await service.do(*ROOT, *ALICE)
        assert await ask(AuthUserListRequest()) == AuthUserListResponse(users=["alice", "root"])
        assert await ask(AuthRoleListRequest()) == AuthRoleListResponse(roles=["r", "root"])
        assert await ask(AuthUserGetRequest(name="alice")) == AuthUserGetResponse(roles=["r"])
        assert await ask(AuthRoleGetRequest(role="r")) == AuthRoleGetResponse(
            perm=[Permission(key=b"a", range_end=b"c")]
        )
        assert await ask(AuthRoleGetRequest(role="root")) == AuthRoleGetResponse(
            perm=[Permission(permType=Permission.READWRITE, range_end=b"\0")]
        )
        assert await ask(AuthStatusRequest()) == AuthStatusResponse(enabled=False, authRevision=8)
        await service.do(
            AuthRoleRevokePermissionRequest(role="r", key=b"a", range_end=b"c"),
            AuthUserRevokeRoleRequest(name="alice", role="r"),
            AuthRoleDeleteRequest(role="r"),
            AuthUserDeleteRequest(name="alice"),
            ENABLE,
        )
        for user in (None, "root", "alice"):
            assert await ask(AuthStatusRequest(), user) == AuthStatusResponse(
                enabled=True, authRevision=12
            )
        await service.do(AuthDisableRequest(), user="root")
        assert await ask(AuthUserListRequest()) == AuthUserListResponse(users=["root"])

    served(work, tmp_path)


def test_auth_cannot_be_turned_on_without_root(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        assert await service.ask(ENABLE) == errors.ROOT_USER_NOT_EXIST
        await service.do(ROOT[0])
        assert await service.ask(ENABLE) == errors.ROOT_ROLE_NOT_EXIST

    served(work, tmp_path)


MANAGEMENT = (
    ENABLE,
    AuthDisableRequest(),
    AuthUserAddRequest(name="alice", password="x"),
    AuthUserAddRequest(name="new", options=UserAddOptions(no_password=True)),
    AuthUserGetRequest(name="root"),
    AuthUserGetRequest(name="nobody"),
    AuthUserListRequest(),
    AuthUserDeleteRequest(name="alice"),
    AuthUserChangePasswordRequest(name="alice", password="new"),
    AuthUserChangePasswordRequest(name="alice"),
    AuthUserGrantRoleRequest(user="alice", role="root"),
    AuthUserRevokeRoleRequest(name="alice", role="r"),
    AuthRoleAddRequest(name="more"),
    AuthRoleGetRequest(role="root"),
    AuthRoleGetRequest(role="nothing"),
    AuthRoleListRequest(),
    AuthRoleDeleteRequest(role="r"),
    AuthRoleGrantPermissionRequest(name="r", perm=Permission(key=b"x")),
    AuthRoleRevokePermissionRequest(role="r", key=b"a", range_end=b"c"),
)


def test_management_is_roots_alone(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await service.do(*ROOT, *ALICE, ENABLE)
        asked = {type(request).__name__ for request in MANAGEMENT}
        assert len(asked) == 15, "all but Authenticate and AuthStatus"
        for request in MANAGEMENT:
            assert await service.ask(request) == errors.USER_EMPTY, request
            assert await service.ask(request, "alice") == errors.PERMISSION_DENIED, request
            assert await service.ask(request, "gone") == errors.PERMISSION_DENIED, request
        assert service.store.revision == 8

    served(work, tmp_path)


def test_users_may_see_themselves(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await service.do(*ROOT, *ALICE, ENABLE)
        assert await service.ask(AuthUserGetRequest(name="alice"), "alice") == AuthUserGetResponse(
            roles=["r"]
        )
        shown = await service.ask(AuthRoleGetRequest(role="r"), "alice")
        assert shown == AuthRoleGetResponse(perm=[Permission(key=b"a", range_end=b"c")])
        # etcd's quirk: who is nobody may ask for the user without a name, who is not there.
        assert await service.ask(AuthUserGetRequest()) == errors.USER_NOT_FOUND

    served(work, tmp_path)


# Passwords.


def test_a_password_is_hashed_before_it_is_in_the_log(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await service.do(
            *ROOT,
            AuthUserAddRequest(name="alice", password="first-password"),
            AuthUserChangePasswordRequest(name="alice", password="other-password"),
            ENABLE,
        )
        user = service.store.find("alice")
        assert user is not None
        assert user.password.startswith(b"$2b$04$")
        assert bcrypt.checkpw(b"other-password", user.password)
        for password in ("other-password", "wrong-password"):
            await service.log_in("alice", password)

    served(work, tmp_path)
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"alice" in stored
    for password in (b"first-password", b"other-password", b"wrong-password"):
        assert password not in stored


def test_a_clients_own_hash_is_not_taken(tmp_path: Path) -> None:
    """While etcd 3.5 takes it where the password is empty, against its own documentation."""

    async def work(service: Service) -> None:
        planted = bcrypt.hashpw(b"planted", bcrypt.gensalt(CHEAP)).decode()
        await service.do(
            *ROOT,
            AuthUserAddRequest(name="alice", password="real", hashedPassword=planted),
            AuthUserAddRequest(
                name="bob", hashedPassword=planted, options=UserAddOptions(no_password=True)
            ),
            AuthUserAddRequest(name="carol", hashedPassword=planted),
            AuthUserAddRequest(name="dave", password="x"),
            AuthUserChangePasswordRequest(name="dave", hashedPassword=planted),
            ENABLE,
        )
        bob = service.store.find("bob")
        assert bob is not None
        assert not bob.password
        for name in ("alice", "bob", "carol", "dave"):
            assert isinstance(await service.log_in(name, "planted"), Status)
        assert isinstance(await service.log_in("alice", "real"), AuthenticateResponse)
        assert isinstance(await service.log_in("carol", ""), AuthenticateResponse)

    served(work, tmp_path)


def test_passwords_that_bcrypt_would_cut_are_refused_before_all_else(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        too_long = Status(Code.UNKNOWN, "bcrypt: password length exceeds 72 bytes")
        await service.do(*ROOT, ENABLE)
        for request in (
            AuthUserAddRequest(password=TOO_LONG),
            AuthUserAddRequest(name="root", password=TOO_LONG),
            AuthUserChangePasswordRequest(name="nobody", password=TOO_LONG),
        ):
            for user in (None, "root"):
                assert await service.ask(request, user) == too_long

    served(work, tmp_path)


def test_no_login_succeeds_with_a_password_that_was_emptied(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await service.do(*ROOT, *ALICE, AuthUserChangePasswordRequest(name="alice"), ENABLE)
        for password in ("", "secret"):
            assert await service.log_in("alice", password) == errors.AUTH_FAILED

    served(work, tmp_path)


def test_only_who_may_set_a_password_has_it_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(service: Service) -> None:
        await service.do(*ROOT, *ALICE, ENABLE)
        hashed: list[str] = []

        async def hash_(password: str) -> bytes:
            hashed.append(password)
            return b"hash"

        monkeypatch.setattr(service.passwords, "hash", hash_)
        for user in (None, "alice"):
            for request in (
                AuthUserAddRequest(name="new", password="x"),
                AuthUserChangePasswordRequest(name="alice", password="x"),
            ):
                assert isinstance(await service.ask(request, user), Status)
        assert not hashed

    served(work, tmp_path)


# Logins.


def test_a_login_gives_a_token_of_etcds_form(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await service.do(*ROOT, *ALICE, ENABLE)
        token = (await service.log_in("alice", "secret")).token
        letters, _, index = token.partition(".")
        assert len(letters) == 16
        assert letters.isalpha()
        assert int(index) == service.member.pipeline.replica.applied
        assert service.authority.tokens.resolve(token) == service.store.identity("alice")
        assert (await service.log_in("alice", "secret")).token != token

    served(work, tmp_path)


def test_logins_that_fail(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        assert await service.log_in("root", "root") == errors.AUTH_NOT_ENABLED
        await service.do(
            *ROOT,
            AuthUserAddRequest(name="np", options=UserAddOptions(no_password=True)),
            ENABLE,
        )
        for name, password in (("root", "toor"), ("root", ""), ("nobody", "root"), ("", "")):
            assert await service.log_in(name, password) == errors.AUTH_FAILED
        no_password = Status(
            Code.UNKNOWN,
            "auth: authentication failed, password was given for no password user",
        )
        for password in ("", "x"):
            assert await service.log_in("np", password) == no_password

    served(work, tmp_path)
    log = (tmp_path / "log").read_text()
    assert log.count("invalid authentication was requested") == 6
    assert "toor" not in log


@pytest.mark.parametrize("signs", [False, True])
def test_a_login_with_a_password_that_changes_meanwhile_fails(signs: bool, tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await service.do(*ROOT, *ALICE, ENABLE)
        if signs:
            service.authority.tokens = Signing("key")
        release = threading.Event()
        blocked = [
            asyncio.ensure_future(service.passwords.run(release.wait))
            for _ in service.passwords._threads
        ]
        login = asyncio.ensure_future(service.log_in("alice", "secret"))
        while service.passwords._waiting <= len(blocked):
            await asyncio.sleep(0.001)
        await service.do(AuthUserDeleteRequest(name="alice"), user="root")
        release.set()
        await asyncio.gather(*blocked)
        assert await login == errors.AUTH_FAILED

    served(work, tmp_path)


def test_beyond_what_bcrypt_gets_through_logins_are_refused_at_once(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await service.do(*ROOT, ENABLE)
        release = threading.Event()
        blocked = [
            asyncio.ensure_future(service.passwords.run(release.wait))
            for _ in range(5 * len(service.passwords._threads))
        ]
        await asyncio.sleep(0)
        for request in (
            AuthenticateRequest(name="root", password="root"),
            AuthUserAddRequest(name="x", password="x"),
            AuthUserChangePasswordRequest(name="root", password="x"),
        ):
            caller = Caller(service.store.identity("root"))
            name = type(request).__name__.removesuffix("Request")
            method = service.methods[name if name in service.methods else name[len("Auth") :]]
            method.handle([call(caller, 1, request)])
            assert caller.answers == {1: errors.REQUEST_TOO_MANY_REQUESTS}
        # What needs no bcrypt goes on.
        await service.do(AuthRoleAddRequest(name="x"), user="root")
        release.set()
        await asyncio.gather(*blocked)
        assert isinstance(await service.log_in("root", "root"), AuthenticateResponse)

    served(work, tmp_path, queued=5)


class Signing(NoTokens):
    """Signs with a name; without one only verifies."""

    def __init__(self, key: str) -> None:
        self._key = key

    def sign(self, identity: Identity) -> str:
        if not self._key:
            raise VerifyOnlyError
        return f"{self._key}:{identity.user}:{identity.revision}"


def test_a_token_that_is_signed_needs_no_entry(tmp_path: Path) -> None:
    async def work(service: Service) -> None:
        await service.do(*ROOT, *ALICE, ENABLE)
        before = service.member.pipeline.index
        service.authority.tokens = Signing("key")
        assert (await service.log_in("alice", "secret")).token == "key:alice:8"
        assert await service.log_in("alice", "wrong") == errors.AUTH_FAILED
        service.authority.tokens = Signing("")
        assert await service.log_in("alice", "secret") == Status(
            Code.UNKNOWN, "auth: token signing attempted with verify-only key"
        )
        service.authority.tokens = NoTokens()
        assert await service.log_in("alice", "secret") == errors.AUTH_FAILED
        assert service.member.pipeline.index == before

    served(work, tmp_path)
