"""Applies what the log says of users, roles and logins.

Whether who asks may do it is judged before, for all requests alike (`Applier`).
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from rocksdict import Rdict

from rusd.auth.errors import AuthFailedError, AuthNotEnabledError, PermissionNotGivenError
from rusd.auth.store import AuthStore, Rows
from rusd.auth.tokens import Login, NoTokens, Tokens
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.txn import Result
from rusd.node.entry import Kind
from rusd.pb import rpc_pb2
from rusd.pb.rpc_pb2 import (
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

PARSE: Final[dict[int, Callable[[bytes], Any]]] = {
    Kind.AUTH_ENABLE: rpc_pb2.AuthEnableRequest.FromString,
    Kind.AUTH_DISABLE: rpc_pb2.AuthDisableRequest.FromString,
    Kind.AUTHENTICATE: Login.decode,
    Kind.USER_ADD: rpc_pb2.AuthUserAddRequest.FromString,
    Kind.USER_DELETE: rpc_pb2.AuthUserDeleteRequest.FromString,
    Kind.USER_CHANGE_PASSWORD: rpc_pb2.AuthUserChangePasswordRequest.FromString,
    Kind.USER_GRANT_ROLE: rpc_pb2.AuthUserGrantRoleRequest.FromString,
    Kind.USER_REVOKE_ROLE: rpc_pb2.AuthUserRevokeRoleRequest.FromString,
    Kind.ROLE_ADD: rpc_pb2.AuthRoleAddRequest.FromString,
    Kind.ROLE_DELETE: rpc_pb2.AuthRoleDeleteRequest.FromString,
    Kind.ROLE_GRANT_PERMISSION: rpc_pb2.AuthRoleGrantPermissionRequest.FromString,
    Kind.ROLE_REVOKE_PERMISSION: rpc_pb2.AuthRoleRevokePermissionRequest.FromString,
}

ADMIN_KINDS: Final = frozenset(PARSE) - {Kind.AUTHENTICATE}
"""What only root may do while auth is on."""


class Authority:
    """The auth store of a member, and the tokens that it knows."""

    def __init__(self, store: AuthStore, keyspace: Keyspace) -> None:
        self.store = store
        self.tokens: Tokens = NoTokens()
        """Set when the member has what was committed, and starts to serve. No login of before makes
        a token known: it would live anew."""
        self._keyspace = keyspace
        self.handlers: dict[int, Callable[[Any], Result]] = {
            Kind.AUTH_ENABLE: self._enable,
            Kind.AUTH_DISABLE: self._disable,
            Kind.AUTHENTICATE: self._authenticate,
            Kind.USER_ADD: self._user_add,
            Kind.USER_DELETE: self._user_delete,
            Kind.USER_CHANGE_PASSWORD: self._user_change_password,
            Kind.USER_GRANT_ROLE: self._user_grant_role,
            Kind.USER_REVOKE_ROLE: self._user_revoke_role,
            Kind.ROLE_ADD: self._role_add,
            Kind.ROLE_DELETE: self._role_delete,
            Kind.ROLE_GRANT_PERMISSION: self._role_grant_permission,
            Kind.ROLE_REVOKE_PERMISSION: self._role_revoke_permission,
        }

    def reload(self, state: Rdict) -> None:
        """Takes what the state table of a snapshot has that was installed. Which tokens were taken
        back on the way there is not in it, so all are.
        """
        self.tokens.clear()
        self.store.reload(state)

    def _enable(self, _: Any) -> Result:
        return self._store(self.store.enable())

    def _disable(self, _: Any) -> Result:
        self.tokens.clear()
        return self._store(self.store.disable())

    def _authenticate(self, login: Login) -> Result:
        """Answers with the token less its letters, which only who asked has."""
        if not self.store.enabled:
            raise AuthNotEnabledError
        user = self.store.find(login.user)
        if user is None or sha256(user.password).digest() != login.checked:
            raise AuthFailedError
        index = self._keyspace.applied.position + 1
        self.tokens.add(login, index)
        response = AuthenticateResponse(token=f".{index}")
        return self._keyspace.revision, response.SerializeToString()

    def _user_add(self, request: AuthUserAddRequest) -> Result:
        hashed = request.hashedPassword.encode()
        return self._store(self.store.add_user(request.name, hashed, request.options))

    def _user_delete(self, request: AuthUserDeleteRequest) -> Result:
        rows = self.store.delete_user(request.name)
        self.tokens.forget(request.name)
        return self._store(rows)

    def _user_change_password(self, request: AuthUserChangePasswordRequest) -> Result:
        rows = self.store.change_password(request.name, request.hashedPassword.encode())
        self.tokens.forget(request.name)
        return self._store(rows)

    def _user_grant_role(self, request: AuthUserGrantRoleRequest) -> Result:
        return self._store(self.store.grant_role(request.user, request.role))

    def _user_revoke_role(self, request: AuthUserRevokeRoleRequest) -> Result:
        return self._store(self.store.revoke_role(request.name, request.role))

    def _role_add(self, request: AuthRoleAddRequest) -> Result:
        return self._store(self.store.add_role(request.name))

    def _role_delete(self, request: AuthRoleDeleteRequest) -> Result:
        return self._store(self.store.delete_role(request.role))

    def _role_grant_permission(self, request: AuthRoleGrantPermissionRequest) -> Result:
        if not request.HasField("perm"):
            raise PermissionNotGivenError
        return self._store(self.store.grant_permission(request.name, request.perm))

    def _role_revoke_permission(self, request: AuthRoleRevokePermissionRequest) -> Result:
        rows = self.store.revoke_permission(request.role, request.key, request.range_end)
        return self._store(rows)

    def _store(self, rows: Rows) -> Result:
        for name, row in rows:
            self._keyspace.set_state(name, row)
        return self._keyspace.revision, b""
