"""The steps of a side-by-side run with users, and the seeded generator of them.

Few users, roles, ranges and passwords, so that grants meet revocations, logins meet deleted users,
and requests meet rights that cover a part of what they ask for. Where etcd 3.5 lacks a fix that
newer etcd has, the generator stays away; each place says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import Message

from rusd.pb import auth_pb2 as auth
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import one_line
from tests.compat.steps import Generator, World, prefix_end

ROOT, ANYBODY, FORGED = "root", "", "?"
"""The administrator; a caller without a token; a caller whose token nobody gave out."""
USERS = ("ann", "bob", "eve", "stranger")
ROLES = ("reads", "writes", "both", "root")
PASSWORDS = ("one", "two")
LEASES = (1, 2, 3)
# Each key once: where two permissions of a role have one key, etcd up to 3.7 may add a second one
# for the same range in place of changing the first (etcd's pull request 21845).
SPANS = (
    (b"\0", b"\0"),
    (b"a", b"b"),
    (b"a\0", b""),
    (b"aa", b""),
    (b"ab", b"ba"),
    (b"b", b"\0"),
    (b"ba", b"c"),
    (b"c", b""),
    (b"\xff", b"\0"),
)
BAD_SPANS = ((b"b", b"a"), (b"", b""), (b"", b"\0"), (b"b", b"b"))


@dataclass(frozen=True, slots=True)
class Act:
    """A unary call by a user, with the newest token that this user got."""

    user: str
    method: str
    request: Message

    def __str__(self) -> str:
        """One line for a report."""
        return f"{self.user or 'anybody'}: {self.method} {{ {one_line(self.request)} }}"


@dataclass(frozen=True, slots=True)
class Login:
    """A user's attempt to get a token; one that fails leaves the token it had."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class KeepAliveBy:
    """One refresh of a lease by a user, on a stream of its own."""

    user: str
    lease: int


@dataclass(frozen=True, slots=True)
class WatchBy:
    """The creation of a watcher by a user, on a stream of its own, which ends with the answer."""

    user: str
    request: rpc.WatchCreateRequest

    def __str__(self) -> str:
        """One line for a report."""
        return f"{self.user or 'anybody'}: Watch {{ {one_line(self.request)} }}"


AuthStep = Act | Login | KeepAliveBy | WatchBy


class AuthWorld(World, Protocol):
    """What the generator knows of the servers' state."""

    @property
    def enabled(self) -> bool:
        """Whether authentication is on."""

    def refused(self, user: str) -> bool:
        """Whether the user's token was refused when it was last used."""


def beginning() -> list[AuthStep]:
    """Steps that make root, turn authentication on, and give everybody a little."""
    made: list[tuple[str, Message]] = [
        ("UserAdd", rpc.AuthUserAddRequest(name=ROOT, password=PASSWORDS[0])),
        ("RoleAdd", rpc.AuthRoleAddRequest(name="root")),
        ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user=ROOT, role="root")),
    ]
    for role, kind in (
        ("reads", auth.Permission.READ),
        ("writes", auth.Permission.WRITE),
        ("both", auth.Permission.READWRITE),
    ):
        permission = auth.Permission(permType=kind, key=b"a", range_end=b"b")
        grant = rpc.AuthRoleGrantPermissionRequest(name=role, perm=permission)
        made += [("RoleAdd", rpc.AuthRoleAddRequest(name=role)), ("RoleGrantPermission", grant)]
    for user, role in (("ann", "both"), ("bob", "reads"), ("eve", "writes")):
        made += [
            ("UserAdd", rpc.AuthUserAddRequest(name=user, password=PASSWORDS[0])),
            ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user=user, role=role)),
        ]
    steps: list[AuthStep] = [Act(ANYBODY, method, request) for method, request in made]
    steps.append(Act(ANYBODY, "AuthEnable", rpc.AuthEnableRequest()))
    return steps + [Login(user, PASSWORDS[0]) for user in (ROOT, "ann", "bob", "eve")]


class AuthGenerator(Generator):
    """Draws steps of several users, the same ones for the same seed and the same answers."""

    def __init__(self, seed: int, world: AuthWorld) -> None:
        """Begin from `seed`, looking at `world` before each step."""
        super().__init__(seed, world)
        self._auth_world = world
        self._beginning = iter(beginning())

    def auth_step(self) -> AuthStep:
        """Draw the next step."""
        first = next(self._beginning, None)
        if first is not None:
            return first
        draws: dict[Callable[[], AuthStep], float] = {
            self._keys: 36,
            self._login: 14,
            self._user: 12,
            self._role: 14,
            self._switch: 0.6 if self._auth_world.enabled else 20,
            self._leases: 10,
            self._watching: 8,
            self._maintain: 6,
        }
        return self._random.choices(list(draws), list(draws.values()))[0]()

    def _lease_id(self) -> int:
        return self._random.choice(LEASES)

    def _span(self) -> tuple[bytes, bytes]:
        """Draw a key and a range end, which is not before the key.

        Whether etcd allows a request for a range that ends before it begins, and so for no key,
        depends on the form of the tree in which it keeps the user's rights.
        """
        key, end = super()._span()
        return key, prefix_end(key) if end not in (b"", b"\0") and end < key else end

    def _anybody(self, administrator: float) -> str:
        """Draw who does it: root with that probability, else anyone, mostly with a token."""
        for _ in range(2):
            user = self._drawn(administrator)
            if not self._auth_world.refused(user):
                break
        return user

    def _drawn(self, administrator: float) -> str:
        if self._chance(administrator):
            return ROOT
        return self._random.choice((*USERS, *USERS, *USERS, ROOT, ANYBODY, FORGED))

    def _keys(self) -> AuthStep:
        method = self._random.choices(
            ("Range", "Put", "DeleteRange", "Txn", "Compact"), (30, 30, 15, 30, 1.5)
        )[0]
        user = self._anybody(0.05)
        request: Message
        match method:
            case "Range":
                request = self._range_request()
            case "Put":
                request = self._put_request(self._key())
            case "DeleteRange":
                key, end = self._span()
                prev_kv = self._chance(0.3)
                request = rpc.DeleteRangeRequest(key=key, range_end=end, prev_kv=prev_kv)
            case "Txn":
                request = self._txn().request
            case _:
                request = rpc.CompactionRequest(revision=self._any_revision())
        return Act(user, method, request)

    def _login(self) -> AuthStep:
        users = (ROOT, *USERS)
        refused = [user for user in users if self._auth_world.refused(user)]
        return Login(self._random.choice(refused or users), self._password())

    def _password(self) -> str:
        return self._random.choices((*PASSWORDS, "", "x" * 73), (60, 30, 2, 1))[0]

    def _name(self, names: tuple[str, ...]) -> str:
        return self._random.choice(("", "nobody") if self._chance(0.05) else names)

    def _user(self) -> AuthStep:
        name, role = self._name((*USERS, *USERS, ROOT)), self._name(ROLES)
        if role == "root" and self._chance(0.7):
            role = "reads"
        method = self._random.choices(
            (
                *("UserAdd", "UserDelete", "UserChangePassword", "UserGrantRole"),
                *("UserRevokeRole", "UserGet", "UserList"),
            ),
            (24, 4, 5, 30, 14, 14, 4),
        )[0]
        request: Message
        match method:
            case "UserAdd":
                request = rpc.AuthUserAddRequest(name=name, password=self._password())
                if self._chance(0.03):
                    request.options.no_password = True
            case "UserDelete":
                request = rpc.AuthUserDeleteRequest(name=name)
            case "UserChangePassword":
                # Root keeps a password that runs can log in with.
                password = PASSWORDS[0] if name == ROOT else self._password()
                request = rpc.AuthUserChangePasswordRequest(name=name, password=password)
            case "UserGrantRole":
                request = rpc.AuthUserGrantRoleRequest(user=name, role=role)
            case "UserRevokeRole":
                request = rpc.AuthUserRevokeRoleRequest(name=name, role=role)
            case "UserGet":
                request = rpc.AuthUserGetRequest(name=name)
            case _:
                request = rpc.AuthUserListRequest()
        reads = method.endswith(("Get", "List"))
        return Act(self._anybody(0.4 if reads else 0.85), method, request)

    def _role(self) -> AuthStep:
        role = self._name(ROLES)
        method = self._random.choices(
            (
                *("RoleAdd", "RoleDelete", "RoleGrantPermission", "RoleRevokePermission"),
                *("RoleGet", "RoleList"),
            ),
            (14, 5, 40, 20, 16, 4),
        )[0]
        request: Message
        match method:
            case "RoleAdd":
                request = rpc.AuthRoleAddRequest(name=role)
            case "RoleDelete":
                request = rpc.AuthRoleDeleteRequest(role=role)
            case "RoleGrantPermission":
                request = rpc.AuthRoleGrantPermissionRequest(name=role)
                if not self._chance(0.05):
                    key, end = self._permitted()
                    request.perm.key, request.perm.range_end = key, end
                    request.perm.permType = self._random.choice(
                        (auth.Permission.READ, auth.Permission.WRITE, auth.Permission.READWRITE)
                    )
            case "RoleRevokePermission":
                key, end = self._permitted()
                request = rpc.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=end)
            case "RoleGet":
                request = rpc.AuthRoleGetRequest(role=role)
            case _:
                request = rpc.AuthRoleListRequest()
        reads = method.endswith(("RoleGet", "List"))
        return Act(self._anybody(0.4 if reads else 0.85), method, request)

    def _permitted(self) -> tuple[bytes, bytes]:
        return self._random.choice(BAD_SPANS if self._chance(0.05) else SPANS)

    def _switch(self) -> AuthStep:
        method = self._random.choice(
            ("AuthDisable", "AuthEnable") if self._auth_world.enabled else ("AuthEnable",)
        )
        request = rpc.AuthEnableRequest() if method == "AuthEnable" else rpc.AuthDisableRequest()
        return Act(self._anybody(0.8), method, request)

    def _leases(self) -> AuthStep:
        user, lease = self._anybody(0.1), self._lease_id()
        method = self._random.choices(
            ("LeaseGrant", "LeaseRevoke", "LeaseTimeToLive", "LeaseLeases", "keep"),
            (40, 12, 25, 10, 15),
        )[0]
        match method:
            case "LeaseGrant":
                return Act(user, method, rpc.LeaseGrantRequest(TTL=100_000 + lease % 7, ID=lease))
            case "LeaseRevoke":
                return Act(user, method, rpc.LeaseRevokeRequest(ID=lease))
            case "LeaseTimeToLive":
                keys = self._chance(0.7)
                return Act(user, method, rpc.LeaseTimeToLiveRequest(ID=lease, keys=keys))
            case "LeaseLeases":
                return Act(user, method, rpc.LeaseLeasesRequest())
            case _:
                return KeepAliveBy(user, lease)

    def _watching(self) -> AuthStep:
        user, create = self._anybody(0.05), self._create_request()
        if create.range_end == b"\0":
            # GHSA-xg4h-6gfc-h4m8, which 3.5.30 has: a right to the key was one to all after it.
            create.range_end = prefix_end(create.key)
        if create.range_end == b"\0":
            create.ClearField("range_end")
        return WatchBy(user, create)

    def _maintain(self) -> AuthStep:
        calls: tuple[tuple[str, Message], ...] = (
            ("AuthStatus", rpc.AuthStatusRequest()),
            ("AuthStatus", rpc.AuthStatusRequest()),
            ("MemberList", rpc.MemberListRequest(linearizable=self._chance(0.5))),
            ("MemberRemove", rpc.MemberRemoveRequest(ID=5)),
            ("MemberUpdate", rpc.MemberUpdateRequest(ID=5, peerURLs=["http://127.0.0.1:1"])),
            ("MemberPromote", rpc.MemberPromoteRequest(ID=5)),
            ("Alarm", rpc.AlarmRequest()),
            ("Alarm", rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, alarm=rpc.NOSPACE)),
            ("Defragment", rpc.DefragmentRequest()),
            ("HashKV", rpc.HashKVRequest()),
            ("MoveLeader", rpc.MoveLeaderRequest(targetID=5)),
        )
        return Act(self._anybody(0.2), *self._random.choice(calls))
