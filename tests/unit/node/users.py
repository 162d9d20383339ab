"""A member with auth on: users who call, each with the rights that its role has."""

from typing import Any

from rusd.auth.store import Identity
from rusd.mvcc.txn import Plan
from rusd.node.entry import Kind
from rusd.pb.auth_pb2 import Permission
from rusd.pb.rpc_pb2 import (
    AuthDisableRequest,
    AuthEnableRequest,
    AuthRoleAddRequest,
    AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest,
    AuthUserAddRequest,
    AuthUserDeleteRequest,
    AuthUserGrantRoleRequest,
)
from rusd.wire.grpc import Status
from tests.unit.node.running import Recorder, Running

READ, WRITE, BOTH = Permission.READ, Permission.WRITE, Permission.READWRITE

RIGHTS: dict[str, list[tuple[Permission.Type, bytes, bytes]]] = {
    "nobody": [],
    "reader": [(READ, b"a", b""), (READ, b"p", b"q")],
    "writer": [(WRITE, b"a", b""), (WRITE, b"p", b"q")],
    "both": [(BOTH, b"a", b""), (BOTH, b"p", b"q")],
}
"""Users, each with a role of the same name, from the least on; there is root as well."""


class Calling(Recorder):
    """A client who is a user, or None: one of whom nothing is known."""

    def __init__(self, identity: Identity | None) -> None:
        super().__init__()
        self.identity = identity


class Users:
    """Calls of a member's users, through its log."""

    def __init__(self, member: Running) -> None:
        self.member, self.store = member, member.applier.rights.store

    async def set_up(self) -> None:
        """Makes the users and turns auth on."""
        for user, permissions in RIGHTS.items():
            await self.add(user)
            await self._do(Kind.ROLE_ADD, AuthRoleAddRequest(name=user))
            for each in permissions:
                await self.grant(user, *each)
            await self._do(Kind.USER_GRANT_ROLE, AuthUserGrantRoleRequest(user=user, role=user))
        await self.add("root")
        await self._do(Kind.USER_GRANT_ROLE, AuthUserGrantRoleRequest(user="root", role="root"))
        await self.enable()

    async def enable(self) -> None:
        await self._do(Kind.AUTH_ENABLE, AuthEnableRequest())

    async def disable(self) -> None:
        await self._do(Kind.AUTH_DISABLE, AuthDisableRequest())

    async def add(self, user: str) -> None:
        await self._do(Kind.USER_ADD, AuthUserAddRequest(name=user, hashedPassword="none"))

    async def delete(self, user: str) -> None:
        await self._do(Kind.USER_DELETE, AuthUserDeleteRequest(name=user))

    async def grant(self, role: str, kind: Permission.Type, key: bytes, end: bytes = b"") -> None:
        permission = Permission(permType=kind, key=key, range_end=end)
        await self._do(
            Kind.ROLE_GRANT_PERMISSION, AuthRoleGrantPermissionRequest(name=role, perm=permission)
        )

    async def revoke(self, role: str, key: bytes, end: bytes = b"") -> None:
        request = AuthRoleRevokePermissionRequest(role=role, key=key, range_end=end)
        await self._do(Kind.ROLE_REVOKE_PERMISSION, request)

    def identity(self, user: str | None) -> Identity | None:
        return None if user is None else self.store.identity(user)

    async def ask(self, user: str | None, kind: int, request: Any) -> bytes | Status:
        """The answer to what a user asks for."""
        return await self.ask_as(self.identity(user), kind, request)

    async def ask_as(self, identity: Identity | None, kind: int, request: Any) -> bytes | Status:
        return await self.propose(identity, kind, request).answer()

    def propose(self, identity: Identity | None, kind: int, request: Any) -> Calling:
        """Asks, and returns who waits for the answer, with tag 1."""
        caller = Calling(identity)
        message = request.SerializeToString()
        parsed = Plan(request) if kind == Kind.TXN else request
        self.member.pipeline.propose(kind, message, parsed, caller, 1)
        return caller

    async def _do(self, kind: int, request: Any) -> None:
        answer = await self.ask("root", kind, request)
        assert not isinstance(answer, Status), answer
