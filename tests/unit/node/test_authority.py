"""rusd/node/authority.py: what the log makes of users, roles and logins, and what is stored."""

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from rusd.api import errors
from rusd.auth.errors import InvalidAuthTokenError
from rusd.auth.store import Identity
from rusd.auth.tokens import Login, SimpleTokens, TokenAheadError, Tokens, digest
from rusd.node.authority import ADMIN_KINDS, PARSE
from rusd.node.entry import Kind
from rusd.pb.auth_pb2 import Permission, UserAddOptions
from rusd.pb.rpc_pb2 import (
    AuthDisableRequest,
    AuthEnableRequest,
    AuthenticateResponse,
    AuthRoleAddRequest,
    AuthRoleDeleteRequest,
    AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest,
    AuthUserAddRequest,
    AuthUserChangePasswordRequest,
    AuthUserDeleteRequest,
    AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest,
)
from rusd.wire.grpc import Status
from tests.unit.node.running import Recorder, Running, running
from tests.unit.node.trio import Stage, Trio, stage

__all__ = ["stage"]

HASH = "$2b$04$" + "x" * 53
LETTERS = "AbcdefghIjklmnoP"


class Root(Recorder):
    """A caller who is root as of now."""

    def __init__(self, member: Running) -> None:
        super().__init__()
        self.identity: Identity | None = member.applier.authority.store.identity("root")


async def ask(member: Running, kind: int, request: Any) -> bytes | Status:
    """Proposes a request as root, and waits for its answer."""
    caller = Root(member)
    member.pipeline.propose(kind, request.SerializeToString(), request, caller, 1)
    return await caller.answer()


async def forget(member: Running) -> None:
    """Takes back what `prepare` has made."""
    for kind, request in (
        (Kind.AUTH_DISABLE, AuthDisableRequest()),
        (Kind.USER_DELETE, AuthUserDeleteRequest(name="alice")),
        (Kind.USER_DELETE, AuthUserDeleteRequest(name="root")),
        (Kind.ROLE_DELETE, AuthRoleDeleteRequest(role="r")),
    ):
        assert isinstance(await ask(member, kind, request), bytes)


async def log_in(member: Running, user: str, password: str = HASH) -> bytes | Status:
    login = Login(user, digest(LETTERS), sha256(password.encode()).digest())
    caller = Recorder()
    member.pipeline.propose(Kind.AUTHENTICATE, login.encode(), login, caller, 1)
    return await caller.answer()


FIRST = (
    (Kind.USER_ADD, AuthUserAddRequest(name="root", hashedPassword=HASH)),
    (Kind.USER_GRANT_ROLE, AuthUserGrantRoleRequest(user="root", role="root")),
    (Kind.USER_ADD, AuthUserAddRequest(name="alice", hashedPassword=HASH)),
    (Kind.ROLE_ADD, AuthRoleAddRequest(name="r")),
    (
        Kind.ROLE_GRANT_PERMISSION,
        AuthRoleGrantPermissionRequest(name="r", perm=Permission(key=b"a", range_end=b"c")),
    ),
    (Kind.USER_GRANT_ROLE, AuthUserGrantRoleRequest(user="alice", role="r")),
)


def serve(member: Running) -> Tokens:
    """Lets logins make tokens known."""
    authority, replica = member.applier.authority, member.pipeline.replica
    authority.tokens = SimpleTokens(authority.store, lambda: replica.applied, member.clock)
    return authority.tokens


async def prepare(member: Running, enable: bool = True) -> None:
    """Makes root and alice, who may read [a, c), and turns auth on."""
    serve(member)
    for kind, request in FIRST:
        assert isinstance(await ask(member, kind, request), bytes)
    if enable:
        assert isinstance(await ask(member, Kind.AUTH_ENABLE, AuthEnableRequest()), bytes)


def content(member: Running) -> object:
    store = member.applier.authority.store
    return (
        store.enabled,
        store.revision,
        [store.find(name) for name in store.users()],
        [(name, store.permissions(name)) for name in store.roles()],
    )


def test_every_kind_is_applied_and_refused_with_its_error(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as member:
            await prepare(member)
            for kind, request, refusal in (
                (Kind.USER_ADD, AuthUserAddRequest(name="alice"), errors.USER_ALREADY_EXIST),
                (Kind.USER_DELETE, AuthUserDeleteRequest(name="x"), errors.USER_NOT_FOUND),
                (
                    Kind.USER_CHANGE_PASSWORD,
                    AuthUserChangePasswordRequest(name="x"),
                    errors.USER_NOT_FOUND,
                ),
                (
                    Kind.USER_GRANT_ROLE,
                    AuthUserGrantRoleRequest(user="alice", role="x"),
                    errors.ROLE_NOT_FOUND,
                ),
                (
                    Kind.USER_REVOKE_ROLE,
                    AuthUserRevokeRoleRequest(name="alice", role="x"),
                    errors.ROLE_NOT_GRANTED,
                ),
                (Kind.ROLE_ADD, AuthRoleAddRequest(), errors.ROLE_EMPTY),
                (Kind.ROLE_DELETE, AuthRoleDeleteRequest(role="x"), errors.ROLE_NOT_FOUND),
                (
                    Kind.ROLE_GRANT_PERMISSION,
                    AuthRoleGrantPermissionRequest(name="x"),
                    errors.PERMISSION_NOT_GIVEN,
                ),
                (
                    Kind.ROLE_REVOKE_PERMISSION,
                    AuthRoleRevokePermissionRequest(role="r", key=b"a"),
                    errors.PERMISSION_NOT_GRANTED,
                ),
                (
                    Kind.ROLE_REVOKE_PERMISSION,
                    AuthRoleRevokePermissionRequest(role="r", key=b"a", range_end=b"c"),
                    b"",
                ),
                (Kind.USER_REVOKE_ROLE, AuthUserRevokeRoleRequest(name="alice", role="r"), b""),
                (Kind.ROLE_DELETE, AuthRoleDeleteRequest(role="r"), b""),
                (
                    Kind.USER_CHANGE_PASSWORD,
                    AuthUserChangePasswordRequest(name="alice", hashedPassword="new"),
                    b"",
                ),
                (Kind.USER_DELETE, AuthUserDeleteRequest(name="alice"), b""),
                (Kind.AUTH_DISABLE, AuthDisableRequest(), b""),
            ):
                answer = await ask(member, kind, request)
                if isinstance(refusal, Status):
                    assert answer == refusal
                else:
                    assert answer == member.headers.at(member.keyspace.revision)
            store = member.applier.authority.store
            assert (store.users(), store.roles(), store.enabled) == (["root"], [], False)

    asyncio.run(run())


def test_what_was_applied_is_there_after_a_restart_and_a_kill(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path / "a") as member:
            await prepare(member)
            before = content(member)
            # Nothing is flushed: the log is replayed, with the checks that it was applied with.
            killed = member.crash_copy(tmp_path / "b")
        for directory in (tmp_path / "a", killed):
            async with running(directory) as member:
                assert content(member) == before

    asyncio.run(run())


def test_all_kinds_but_a_login_are_roots(tmp_path: Path) -> None:
    """A request of every kind, by nobody and by alice."""

    async def run() -> None:
        async with running(tmp_path) as member:
            await prepare(member)
            before = content(member)
            for kind in sorted(ADMIN_KINDS):
                for identity, refusal in (
                    (None, errors.USER_EMPTY),
                    (member.applier.authority.store.identity("alice"), errors.PERMISSION_DENIED),
                ):
                    caller = Root(member)
                    caller.identity = identity
                    member.pipeline.propose(kind, b"", PARSE[kind](b""), caller, 1)
                    assert await caller.answer() == refusal
            assert content(member) == before
        assert set(PARSE) - ADMIN_KINDS == {Kind.AUTHENTICATE}

    asyncio.run(run())


def test_a_login_makes_a_token_known_and_answers_without_its_letters(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as member:
            await prepare(member)
            answer = await log_in(member, "alice")
            assert isinstance(answer, bytes)
            index = AuthenticateResponse.FromString(answer).token
            assert index == f".{member.pipeline.replica.applied}"
            tokens, store = member.applier.authority.tokens, member.applier.authority.store
            assert tokens.resolve(LETTERS + index) == Identity("alice", store.revision)

    asyncio.run(run())


def test_a_login_by_a_password_that_is_no_longer_the_users_fails(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as member:
            await prepare(member, enable=False)
            assert await log_in(member, "alice") == errors.AUTH_NOT_ENABLED
            await ask(member, Kind.AUTH_ENABLE, AuthEnableRequest())
            assert await log_in(member, "nobody") == errors.AUTH_FAILED
            assert await log_in(member, "alice", "another") == errors.AUTH_FAILED
            # A change that is none of the password takes nothing from a login.
            await ask(member, Kind.ROLE_ADD, AuthRoleAddRequest(name="more"))
            assert isinstance(await log_in(member, "alice"), bytes)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("kind", "request_", "ends"),
    [
        (
            Kind.USER_CHANGE_PASSWORD,
            AuthUserChangePasswordRequest(name="alice", hashedPassword=HASH),
            True,
        ),
        (Kind.USER_DELETE, AuthUserDeleteRequest(name="alice"), True),
        (Kind.AUTH_DISABLE, AuthDisableRequest(), True),
        (Kind.USER_CHANGE_PASSWORD, AuthUserChangePasswordRequest(name="root"), False),
        (Kind.USER_REVOKE_ROLE, AuthUserRevokeRoleRequest(name="alice", role="r"), False),
        (Kind.ROLE_DELETE, AuthRoleDeleteRequest(role="r"), False),
    ],
)
def test_which_changes_end_a_users_tokens(
    kind: int, request_: Any, ends: bool, tmp_path: Path
) -> None:
    async def run() -> None:
        async with running(tmp_path) as member:
            await prepare(member)
            answer = await log_in(member, "alice")
            assert isinstance(answer, bytes)
            token = LETTERS + AuthenticateResponse.FromString(answer).token
            tokens = member.applier.authority.tokens
            tokens.resolve(token)
            assert isinstance(await ask(member, kind, request_), bytes)
            if ends:
                with pytest.raises(InvalidAuthTokenError):
                    tokens.resolve(token)
            else:
                tokens.resolve(token)

    asyncio.run(run())


def test_a_restart_makes_no_old_token_live_anew(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path / "a") as member:
            await prepare(member)
            answer = await log_in(member, "alice")
            assert isinstance(answer, bytes)
            token = LETTERS + AuthenticateResponse.FromString(answer).token
            killed = member.crash_copy(tmp_path / "b")
        async with running(killed) as member:
            with pytest.raises(InvalidAuthTokenError):
                serve(member).resolve(token)

    asyncio.run(run())


def test_a_snapshot_brings_users_and_roles_and_ends_all_tokens(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path / "a") as sender, running(tmp_path / "b") as member:
            await prepare(sender)
            await prepare(member)
            answer = await log_in(member, "alice")
            assert isinstance(answer, bytes)
            token = LETTERS + AuthenticateResponse.FromString(answer).token
            await ask(sender, Kind.USER_DELETE, AuthUserDeleteRequest(name="alice"))
            await ask(
                sender,
                Kind.USER_ADD,
                AuthUserAddRequest(name="bob", options=UserAddOptions(no_password=True)),
            )
            expected = content(sender)
            authority = member.applier.authority
            authority.reload(sender.keyspace.tables.state)
            assert content(member) == expected
            with pytest.raises(InvalidAuthTokenError):
                authority.tokens.resolve(token)

    asyncio.run(run())


def test_the_letters_of_a_token_are_not_on_disk(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as member:
            await prepare(member)
            assert isinstance(await log_in(member, "alice"), bytes)

    asyncio.run(run())
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert digest(LETTERS) in stored, "the login itself is"
    assert LETTERS.encode() not in stored


def test_all_members_know_what_one_was_told(stage: Stage) -> None:
    """Also who turned auth on, and who has logged in, through a follower."""

    async def test(trio: Trio) -> None:
        for member in trio:
            serve(member)
        await prepare(trio[2])
        answer = await log_in(trio[3], "alice")
        assert isinstance(answer, bytes)
        token = LETTERS + AuthenticateResponse.FromString(answer).token
        await trio.level()
        expected = content(trio[1])
        for member in trio:
            store = member.applier.authority.store
            assert content(member) == expected
            assert store.enabled
            found = member.applier.authority.tokens.resolve(token)
            assert found == Identity("alice", store.revision)
        await forget(trio[3])
        await trio.level()
        assert not any(member.applier.authority.store.enabled for member in trio)

    stage.play(test)


def test_a_member_that_is_behind_does_not_refuse_a_token_that_may_come(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await prepare(trio[1])
        await trio.level()
        tokens = serve(trio[3])
        trio.cut_off(3)
        answer = await log_in(trio[2], "alice")
        assert isinstance(answer, bytes)
        token = LETTERS + AuthenticateResponse.FromString(answer).token
        with pytest.raises(TokenAheadError):
            tokens.resolve(token)
        trio.heal()
        await trio.level()
        assert tokens.resolve(token).user == "alice"
        await forget(trio[1])

    stage.play(test)
