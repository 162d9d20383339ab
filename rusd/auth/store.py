"""The users, roles and permissions of a cluster, and what they allow.

What changes them comes from the log and is deterministic: every member that applied the same
requests has the same store. A change returns the rows of the state table that it makes.
"""

import struct
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Final, NamedTuple, TypeVar

from rocksdict import Rdict

from rusd.auth.errors import (
    AuthOldRevisionError,
    InvalidAuthMgmtError,
    PermissionDeniedError,
    PermissionNotGrantedError,
    RoleAlreadyExistsError,
    RoleEmptyError,
    RoleNotFoundError,
    RoleNotGrantedError,
    RootRoleNotExistError,
    RootUserNotExistError,
    UserAlreadyExistsError,
    UserEmptyError,
    UserNotFoundError,
)
from rusd.auth.permissions import OPEN, Intervals, is_range
from rusd.mvcc.tables import rows_under
from rusd.pb.auth_pb2 import Permission, Role, User, UserAddOptions

M = TypeVar("M", User, Role)

ROOT: Final = "root"
"""The user without whom auth cannot be on, and the role that may do everything."""

ENABLED_ROW: Final = b"auth/enabled"
"""Is there while auth is on."""
REVISION_ROW: Final = b"auth/revision"
USER_PREFIX: Final = b"auth/user/"
ROLE_PREFIX: Final = b"auth/role/"
"""Before a name, of rows with a serialized authpb.User or Role. A user's password is its hash."""

_ROOTS: Final = Permission(permType=Permission.READWRITE, range_end=b"\0")
_ENABLED: Final = b"\x01"
_REVISION: Final = struct.Struct(">Q")
_FIRST_REVISION: Final = 1

Rows = list[tuple[bytes, bytes | None]]
"""Rows of the state table by name; None for one that goes."""


class Access(IntEnum):
    """What a request does with keys."""

    READ = 0
    WRITE = 1


_ACCESSES: Final = {
    Permission.READ: (Access.READ,),
    Permission.WRITE: (Access.WRITE,),
    Permission.READWRITE: (Access.READ, Access.WRITE),
}


_EVERYTHING: Final = Intervals([(b"", OPEN)])


class Identity(NamedTuple):
    """Who asks, and the store's revision when that was established."""

    user: str
    revision: int


class AuthStore:
    """Users and roles by name. `enabled` and `revision` are read freely and set by changes alone.

    Names are compared, sorted and stored as bytes, as etcd does.
    """

    def __init__(self) -> None:
        self.enabled = False
        self.revision = _FIRST_REVISION
        """Counts the changes. A token that carries an older one is refused with its error."""
        self.on_change: list[Callable[[], None]] = []
        """Called after every change, when the store has changed and the rows are not stored yet."""
        self.on_invalidate: list[Callable[[str], None]] = []
        """Called with the name of a user that is deleted or gets another password, before it is so:
        to who calls, that comes before the loss of rights."""
        self._users: dict[str, User] = {}
        self._roles: dict[str, Role] = {}
        self._rights: dict[str, tuple[Intervals, ...]] = {}
        """By user, then by access. Whatever changes lets go of all."""

    @classmethod
    def load(cls, state: Rdict) -> "AuthStore":
        store = cls()
        store.reload(state)
        return store

    def reload(self, state: Rdict) -> None:
        """Takes everything, in place, from a state table: of a snapshot that was installed."""
        self.enabled = state.get(ENABLED_ROW) is not None
        revision: bytes | None = state.get(REVISION_ROW)
        self.revision = _FIRST_REVISION if revision is None else _REVISION.unpack(revision)[0]
        users = (User.FromString(row) for _, row in rows_under(state, USER_PREFIX))
        self._users = {user.name.decode(): user for user in users}
        roles = (Role.FromString(row) for _, row in rows_under(state, ROLE_PREFIX))
        self._roles = {role.name.decode(): role for role in roles}
        self._changed()

    # What is asked.

    def identity(self, user: str) -> Identity:
        """A user as of now."""
        return Identity(user, self.revision)

    def check(
        self, identity: Identity | None, access: Access, key: bytes, range_end: bytes
    ) -> None:
        """Raises an AuthError unless auth is off or the user may access all of a range."""
        if not self.enabled:
            return
        if identity is None:
            raise UserEmptyError
        name, revision = identity
        if revision < self.revision:
            raise AuthOldRevisionError
        rights = self._rights.get(name)
        if rights is None:
            user = self._users.get(name)
            if user is None:
                raise PermissionDeniedError
            rights = self._rights[name] = self._merged(user)
        if not rights[access].cover(key, range_end):
            raise PermissionDeniedError

    def check_admin(self, identity: Identity | None) -> None:
        """Raises an AuthError unless auth is off or the user has the role root. As in etcd, by what
        is true now, whatever the identity's revision is.
        """
        if not self.enabled:
            return
        if identity is None:
            raise UserEmptyError
        if not self.is_root(identity):
            raise PermissionDeniedError

    def is_root(self, identity: Identity | None) -> bool:
        """Whether who asks has the role root now, whatever the identity's revision is."""
        user = self._users.get(identity.user) if identity is not None else None
        return user is not None and ROOT in user.roles

    def find(self, name: str) -> User | None:
        return self._users.get(name)

    def roles_of(self, name: str) -> list[str]:
        return list(self._user(name).roles)

    def users(self) -> list[str]:
        return sorted(self._users, key=str.encode)

    def roles(self) -> list[str]:
        return sorted(self._roles, key=str.encode)

    def permissions(self, role: str) -> list[Permission]:
        """As they were granted, by key; of the role root, that it may do everything."""
        granted = self._role(role).keyPermission
        return [_ROOTS] if role == ROOT else list(granted)

    # What changes.

    def enable(self) -> Rows:
        if self.enabled:
            return []
        root = self._users.get(ROOT)
        if root is None:
            raise RootUserNotExistError
        if ROOT not in root.roles:
            raise RootRoleNotExistError
        self.enabled = True
        self._changed()
        return [(ENABLED_ROW, _ENABLED)]

    def disable(self) -> Rows:
        if not self.enabled:
            return []
        self.enabled = False
        return self._commit([(ENABLED_ROW, None)])

    def add_user(self, name: str, password: bytes, options: UserAddOptions) -> Rows:
        """`password` is its hash."""
        if not name:
            raise UserEmptyError
        if name in self._users:
            raise UserAlreadyExistsError
        return self._put_users([User(name=name.encode(), password=password, options=options)])

    def delete_user(self, name: str) -> Rows:
        if self.enabled and name == ROOT:
            raise InvalidAuthMgmtError
        self._user(name)
        self._invalidated(name)
        del self._users[name]
        return self._commit([(USER_PREFIX + name.encode(), None)])

    def change_password(self, name: str, password: bytes) -> Rows:
        """`password` is its hash."""
        user = _copy(self._user(name))
        user.password = password
        self._invalidated(name)
        return self._put_users([user])

    def grant_role(self, name: str, role: str) -> Rows:
        user = _copy(self._user(name))
        if role != ROOT:  # which everybody may have, also while there is none
            self._role(role)
        if role in user.roles:
            return []
        user.roles[:] = sorted([*user.roles, role], key=str.encode)
        return self._put_users([user])

    def revoke_role(self, name: str, role: str) -> Rows:
        if self.enabled and name == role == ROOT:
            raise InvalidAuthMgmtError
        user = _copy(self._user(name))
        if role not in user.roles:
            raise RoleNotGrantedError
        user.roles.remove(role)
        return self._put_users([user])

    def add_role(self, name: str) -> Rows:
        if not name:
            raise RoleEmptyError
        if name in self._roles:
            raise RoleAlreadyExistsError
        return self._put_role(Role(name=name.encode()))

    def delete_role(self, name: str) -> Rows:
        """Also from all users who have it."""
        if self.enabled and name == ROOT:
            raise InvalidAuthMgmtError
        self._role(name)
        del self._roles[name]
        users = (self._users[each] for each in self.users())
        having = [_copy(user) for user in users if name in user.roles]
        for user in having:
            user.roles.remove(name)
        return [(ROLE_PREFIX + name.encode(), None), *self._put_users(having)]

    def grant_permission(self, name: str, permission: Permission) -> Rows:
        """Grants it, or changes what is granted for just that range."""
        if not is_range(permission.key, permission.range_end):
            raise InvalidAuthMgmtError
        role = _copy(self._role(name))
        same = [each for each in role.keyPermission if _is_for(each, permission)]
        if same:
            # etcd up to 3.7 looks at the first of a key alone: it would add another, and a right
            # that was to be reduced would stay.
            same[0].permType = permission.permType
        else:
            role.keyPermission.append(permission)
            role.keyPermission.sort(key=lambda each: each.key)
        return self._put_role(role)

    def revoke_permission(self, name: str, key: bytes, range_end: bytes) -> Rows:
        role = _copy(self._role(name))
        revoked = Permission(key=key, range_end=range_end)
        kept = [each for each in role.keyPermission if not _is_for(each, revoked)]
        if len(kept) == len(role.keyPermission):
            raise PermissionNotGrantedError
        del role.keyPermission[:]
        role.keyPermission.extend(kept)
        return self._put_role(role)

    def _user(self, name: str) -> User:
        user = self._users.get(name)
        if user is None:
            raise UserNotFoundError
        return user

    def _role(self, name: str) -> Role:
        role = self._roles.get(name)
        if role is None:
            raise RoleNotFoundError
        return role

    def _merged(self, user: User) -> tuple[Intervals, ...]:
        """A user's rights, by access. Of a role that is gone, and of a type that is none, none."""
        if ROOT in user.roles:
            return tuple(_EVERYTHING for _ in Access)
        granted = [
            permission
            for name in user.roles
            if (role := self._roles.get(name)) is not None
            for permission in role.keyPermission
        ]
        return tuple(
            Intervals(
                (permission.key, permission.range_end)
                for permission in granted
                if access in _ACCESSES.get(permission.permType, ())
            )
            for access in Access
        )

    def _put_users(self, users: Iterable[User]) -> Rows:
        stored: Rows = []
        for user in users:
            self._users[user.name.decode()] = user
            stored.append((USER_PREFIX + user.name, user.SerializeToString(deterministic=True)))
        return self._commit(stored)

    def _put_role(self, role: Role) -> Rows:
        self._roles[role.name.decode()] = role
        return self._commit([(ROLE_PREFIX + role.name, role.SerializeToString(deterministic=True))])

    def _commit(self, stored: Rows) -> Rows:
        self.revision += 1
        self._changed()
        return [*stored, (REVISION_ROW, _REVISION.pack(self.revision))]

    def _changed(self) -> None:
        self._rights.clear()
        for listener in self.on_change:
            listener()

    def _invalidated(self, name: str) -> None:
        for listener in self.on_invalidate:
            listener(name)


def _copy(message: M) -> M:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _is_for(permission: Permission, other: Permission) -> bool:
    return permission.key == other.key and permission.range_end == other.range_end
