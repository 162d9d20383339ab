"""The Auth service: logins, and the management of users, roles and permissions.

Changes are judged where they are applied; what only reads is judged here, after a linearizable read
like any other. A password is hashed before it is in the log, and only for who may set it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from hashlib import sha256
from typing import Any, Final, Protocol, TypeVar

from rusd.api import errors
from rusd.api.answers import Caller, Headers
from rusd.api.identities import identity_of
from rusd.api.parsing import parsed
from rusd.auth.errors import (
    AuthError,
    AuthFailedError,
    AuthNotEnabledError,
    NoPasswordUserError,
)
from rusd.auth.passwords import Passwords, check_length
from rusd.auth.store import Identity
from rusd.auth.tokens import Login, digest, new_secret
from rusd.log import Logger
from rusd.node.authority import PARSE, Authority
from rusd.node.entry import Kind
from rusd.node.pipeline import Pipeline
from rusd.node.reads import Reads
from rusd.pb.rpc_pb2 import (
    AuthenticateRequest,
    AuthenticateResponse,
    AuthRoleGetRequest,
    AuthRoleGetResponse,
    AuthRoleListRequest,
    AuthRoleListResponse,
    AuthStatusRequest,
    AuthStatusResponse,
    AuthUserAddRequest,
    AuthUserChangePasswordRequest,
    AuthUserGetRequest,
    AuthUserGetResponse,
    AuthUserListRequest,
    AuthUserListResponse,
)
from rusd.wire.grpc import Status
from rusd.wire.service import Call, UnaryMethod

_SERVICE: Final = "/etcdserverpb.Auth/"

_CHANGES: Final = {
    "AuthEnable": Kind.AUTH_ENABLE,
    "AuthDisable": Kind.AUTH_DISABLE,
    "UserDelete": Kind.USER_DELETE,
    "UserGrantRole": Kind.USER_GRANT_ROLE,
    "UserRevokeRole": Kind.USER_REVOKE_ROLE,
    "RoleAdd": Kind.ROLE_ADD,
    "RoleDelete": Kind.ROLE_DELETE,
    "RoleGrantPermission": Kind.ROLE_GRANT_PERMISSION,
    "RoleRevokePermission": Kind.ROLE_REVOKE_PERMISSION,
}
"""Methods whose requests go to the log as they came."""

_Request = TypeVar("_Request")


class Response(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


class AuthService:
    """Answers all calls of etcdserverpb.Auth."""

    def __init__(
        self,
        pipeline: Pipeline,
        reads: Reads,
        authority: Authority,
        passwords: Passwords,
        headers: Headers,
        log: Logger,
    ) -> None:
        self._pipeline, self._reads, self._authority = pipeline, reads, authority
        self._store, self._passwords = authority.store, passwords
        self._headers, self._log = headers, log
        self._tasks: set[asyncio.Task[None]] = set()

    def methods(self) -> list[UnaryMethod]:
        changes = [
            UnaryMethod(_SERVICE + name, self._changing(kind)) for name, kind in _CHANGES.items()
        ]
        return [
            *changes,
            self._reading("AuthStatus", AuthStatusRequest.FromString, self._status),
            self._reading("UserGet", AuthUserGetRequest.FromString, self._user_get),
            self._reading("UserList", AuthUserListRequest.FromString, self._user_list),
            self._reading("RoleGet", AuthRoleGetRequest.FromString, self._role_get),
            self._reading("RoleList", AuthRoleListRequest.FromString, self._role_list),
            self._taking_time("UserAdd", AuthUserAddRequest.FromString, self._user_add),
            self._taking_time(
                "UserChangePassword",
                AuthUserChangePasswordRequest.FromString,
                self._user_change_password,
            ),
            self._taking_time("Authenticate", AuthenticateRequest.FromString, self._authenticate),
        ]

    def _changing(self, kind: Kind) -> Callable[[list[Call]], None]:
        """A change that needs nothing before it goes to the log."""

        def handle(calls: list[Call]) -> None:
            for connection, stream, message, request in parsed(calls, PARSE[kind]):
                self._pipeline.propose(kind, message, request, connection, stream)

        return handle

    # Reads.

    def _reading(
        self,
        name: str,
        parse: Callable[[bytes], _Request],
        answer: Callable[[Identity | None, _Request], Response],
    ) -> UnaryMethod:
        """A read, answered as of a moment after it came."""

        def respond(caller: Caller, tag: int, request: _Request, refusal: Exception | None) -> None:
            try:
                if refusal is not None:
                    raise refusal
                response = answer(identity_of(caller), request)
            except errors.REPORTED as error:
                caller.fail(tag, errors.status_of(error))
            else:
                header = self._headers.at(self._pipeline.keyspace.revision)
                caller.reply(tag, header + response.SerializeToString())

        def handle(calls: list[Call]) -> None:
            for connection, stream, _, request in parsed(calls, parse):
                self._reads.wait(partial(respond, connection, stream, request))

        return UnaryMethod(_SERVICE + name, handle)

    def _status(self, _: Identity | None, __: AuthStatusRequest) -> AuthStatusResponse:
        """For everybody, as since etcd 3.6."""
        return AuthStatusResponse(enabled=self._store.enabled, authRevision=self._store.revision)

    def _user_get(
        self, identity: Identity | None, request: AuthUserGetRequest
    ) -> AuthUserGetResponse:
        """Of any user for root, of itself for every other."""
        if request.name != (identity.user if identity is not None else ""):
            self._store.check_admin(identity)
        return AuthUserGetResponse(roles=self._store.roles_of(request.name))

    def _user_list(self, identity: Identity | None, _: AuthUserListRequest) -> AuthUserListResponse:
        self._store.check_admin(identity)
        return AuthUserListResponse(users=self._store.users())

    def _role_get(
        self, identity: Identity | None, request: AuthRoleGetRequest
    ) -> AuthRoleGetResponse:
        """Of any role for root, of those that it has for every other."""
        user = None if identity is None else self._store.find(identity.user)
        if user is None or request.role not in user.roles:
            self._store.check_admin(identity)
        return AuthRoleGetResponse(perm=self._store.permissions(request.role))

    def _role_list(self, identity: Identity | None, _: AuthRoleListRequest) -> AuthRoleListResponse:
        self._store.check_admin(identity)
        return AuthRoleListResponse(roles=self._store.roles())

    # What takes bcrypt's time.

    def _taking_time(
        self,
        name: str,
        parse: Callable[[bytes], _Request],
        work: Callable[[Caller, int, _Request], Coroutine[Any, Any, None]],
    ) -> UnaryMethod:
        async def run(caller: Caller, tag: int, request: _Request) -> None:
            try:
                await work(caller, tag, request)
            except errors.REPORTED as error:
                caller.fail(tag, errors.status_of(error))
            except Exception:
                caller.fail(tag, errors.INTERNAL)
                raise

        def handle(calls: list[Call]) -> None:
            loop = asyncio.get_running_loop()
            for connection, stream, _, request in parsed(calls, parse):
                if self._passwords.busy:
                    # At once: what a flood costs the loop is then little.
                    connection.fail(stream, errors.REQUEST_TOO_MANY_REQUESTS)
                    continue
                task = loop.create_task(run(connection, stream, request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        return UnaryMethod(_SERVICE + name, handle)

    async def _user_add(self, caller: Caller, tag: int, request: AuthUserAddRequest) -> None:
        request.hashedPassword = ""
        if not request.options.no_password:
            request.hashedPassword = await self._hashed(caller, request.password)
        request.password = ""
        self._propose(Kind.USER_ADD, request, caller, tag)

    async def _user_change_password(
        self, caller: Caller, tag: int, request: AuthUserChangePasswordRequest
    ) -> None:
        # With an empty password no login succeeds any more, as with etcd.
        request.hashedPassword = ""
        if request.password:
            request.hashedPassword = await self._hashed(caller, request.password)
        request.password = ""
        self._propose(Kind.USER_CHANGE_PASSWORD, request, caller, tag)

    async def _hashed(self, caller: Caller, password: str) -> str:
        check_length(password)
        # Nobody else gets to use bcrypt's time; what decides is whether the log lets it pass.
        await self._reads.confirm()
        self._store.check_admin(identity_of(caller))
        return (await self._passwords.hash(password)).decode()

    def _propose(
        self,
        kind: Kind,
        request: AuthUserAddRequest | AuthUserChangePasswordRequest,
        caller: Caller,
        tag: int,
    ) -> None:
        self._pipeline.propose(kind, request.SerializeToString(), request, caller, tag)

    async def _authenticate(self, caller: Caller, tag: int, request: AuthenticateRequest) -> None:
        await self._reads.confirm()
        name, tokens = request.name, self._authority.tokens
        try:
            hashed = await self._checked(name, request.password)
        except AuthError as error:
            if not isinstance(error, AuthNotEnabledError):
                # What is no user's name may be a password, in the place of the name.
                known = name if self._store.find(name) is not None else "(unknown)"
                self._log.warn("invalid authentication was requested", user=known)
            raise
        if tokens.signs:
            identity = self._store.identity(name)
            token = await self._passwords.run(lambda: tokens.sign(identity))
            header = self._headers.at(self._pipeline.keyspace.revision)
            caller.reply(tag, header + AuthenticateResponse(token=token).SerializeToString())
            return
        secret = new_secret()
        login = Login(name, digest(secret), sha256(hashed).digest())
        answer = _LoginAnswer(caller, secret)
        self._pipeline.propose(Kind.AUTHENTICATE, login.encode(), login, answer, tag)

    async def _checked(self, name: str, password: str) -> bytes:
        """The hash that a user's password matches. Raises an AuthError."""
        hashed = self._password(name)
        if not await self._passwords.matches(password, hashed) or hashed is None:
            raise AuthFailedError
        if self._password(name) != hashed:
            raise AuthFailedError  # it was changed in the meantime
        return hashed

    def _password(self, name: str) -> bytes | None:
        """The hash of a user's password; None where there is no such user."""
        if not self._store.enabled:
            raise AuthNotEnabledError
        user = self._store.find(name)
        if user is None:
            return None
        if user.options.no_password:
            raise NoPasswordUserError
        return user.password


class _LoginAnswer:
    """Puts a token's letters before its index, which the log decides."""

    identity: Final = None
    """A login needs nobody's right."""

    def __init__(self, caller: Caller, secret: str) -> None:
        self._caller, self._secret = caller, secret

    def reply(self, tag: int, message: bytes, /) -> None:
        response = AuthenticateResponse.FromString(message)
        response.token = self._secret + response.token
        self._caller.reply(tag, response.SerializeToString())

    def fail(self, tag: int, status: Status, /) -> None:
        self._caller.fail(tag, status)
