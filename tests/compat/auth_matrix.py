"""Who may call what while auth is on: a row for every method, and what each kind of caller gets.

`user` has the rights that a row's request needs: it may read and write the keys of [k, l).
`stranger` is a user too, who may read and write [x, y). `root` has the role root. A user who says
who it is by a certificate gets what it gets with a token. A token that has expired is like one that
never was.

The expected answers are rusd's. `etcd` has what real etcd 3.5.30 answers otherwise, because a newer
one was fixed, or because rusd looks at a token before it looks at the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict, Unpack

from google.protobuf.message import Message

from rusd.pb import auth_pb2 as auth
from rusd.pb import election_pb2 as election
from rusd.pb import lock_pb2 as lock
from rusd.pb import rpc_pb2 as rpc

OK = "OK"
NOBODY = "INVALID_ARGUMENT etcdserver: user name is empty"
UNKNOWN_TOKEN = "UNAUTHENTICATED etcdserver: invalid auth token"
DENIED = "PERMISSION_DENIED etcdserver: permission denied"

CALLERS = (
    "anonymous",
    "bad_token",
    "expired_token",
    "stranger",
    "user",
    "root",
    "certificate",
)

Step = tuple[str, Message]


@dataclass(frozen=True, slots=True)
class Row:
    """A request, and what each caller gets for it: OK, or a status code and its text."""

    path: str
    what: str
    request: Message
    stranger: str = DENIED
    user: str = OK
    root: str = OK
    anonymous: str = NOBODY
    bad_token: str = UNKNOWN_TOKEN
    """Also with a token that has expired."""
    etcd: Mapping[str, str] = field(default_factory=dict)
    """By caller, `bad_token` for the expired one too."""
    before: tuple[Step, ...] = ()
    """What root does first."""
    after: tuple[Step, ...] = ()
    in_etcd: bool = True
    """False for what etcd 3.5 does not have."""

    def expected(self, caller: str) -> str:
        """What rusd answers a caller."""
        found: str = getattr(self, _alike(caller))
        return found

    def expected_of_etcd(self, caller: str) -> str:
        """What etcd 3.5.30 answers a caller."""
        return self.etcd.get(_alike(caller), self.expected(caller))

    def __str__(self) -> str:
        """The row's name."""
        return f"{self.path.rsplit('/', 1)[1]}-{self.what}"


def _alike(caller: str) -> str:
    return {"expired_token": "bad_token", "certificate": "user"}.get(caller, caller)


class _Expected(TypedDict, total=False):
    """What a row may say beside its request."""

    stranger: str
    user: str
    root: str
    anonymous: str
    bad_token: str
    etcd: Mapping[str, str]
    before: tuple[Step, ...]
    after: tuple[Step, ...]
    in_etcd: bool


# etcd 3.5 forgets to turn these errors into gRPC's (etcd's pull request 15759).
_BARE = {
    "anonymous": "UNKNOWN auth: user name is empty",
    "bad_token": "UNKNOWN auth: invalid auth token",
    "stranger": "UNKNOWN auth: permission denied",
    "user": "UNKNOWN auth: permission denied",
}
# These services call KV and Lease for their callers, and say UNKNOWN where those say why.
_THROUGH: _Expected = {
    "anonymous": "UNKNOWN etcdserver: user name is empty",
    "bad_token": "UNKNOWN etcdserver: invalid auth token",
    "stranger": "UNKNOWN etcdserver: permission denied",
}


def _kv(method: str, what: str, request: Message, **expected: Unpack[_Expected]) -> Row:
    return Row(f"/etcdserverpb.KV/{method}", what, request, **expected)


def _lease(method: str, what: str, request: Message, **expected: Unpack[_Expected]) -> Row:
    return Row(f"/etcdserverpb.Lease/{method}", what, request, **expected)


def _watch(what: str, create: rpc.WatchCreateRequest, **expected: Unpack[_Expected]) -> Row:
    request = rpc.WatchRequest(create_request=create)
    return Row("/etcdserverpb.Watch/Watch", what, request, **expected)


def _root(
    service: str, method: str, what: str, request: Message, **expected: Unpack[_Expected]
) -> Row:
    """A row of what root alone may do."""
    row = Row(f"/etcdserverpb.{service}/{method}", what, request, user=DENIED)
    return replace(row, **expected)


def _any(
    service: str, method: str, what: str, request: Message, **expected: Unpack[_Expected]
) -> Row:
    """A row of what every user may do."""
    row = Row(f"/etcdserverpb.{service}/{method}", what, request, stranger=OK)
    return replace(row, **expected)


def _through(
    service: str, method: str, what: str, request: Message, **expected: Unpack[_Expected]
) -> Row:
    """A row of a service that calls others for its caller."""
    return replace(Row(f"/{service}/{method}", what, request, **_THROUGH), **expected)


def _txn(*operations: rpc.RequestOp, otherwise: tuple[rpc.RequestOp, ...] = ()) -> rpc.TxnRequest:
    return rpc.TxnRequest(success=operations, failure=otherwise)


def _range(key: bytes, end: bytes = b"") -> rpc.RequestOp:
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key, range_end=end))


def _put(key: bytes, lease: int = 0, prev_kv: bool = False) -> rpc.RequestOp:
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, lease=lease, prev_kv=prev_kv))


def _delete(key: bytes, prev_kv: bool = False) -> rpc.RequestOp:
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, prev_kv=prev_kv))


def _compare(key: bytes, end: bytes = b"") -> rpc.TxnRequest:
    return rpc.TxnRequest(compare=[rpc.Compare(key=key, range_end=end)])


# Leases: 10 has no key, 11 has k-leased; 12, which comes and goes, has z-leased.
_OTHERS_LEASE: tuple[Step, ...] = (
    ("LeaseGrant", rpc.LeaseGrantRequest(ID=12, TTL=9000)),
    ("Put", rpc.PutRequest(key=b"z-leased", lease=12)),
)
_NO_OTHERS_LEASE: tuple[Step, ...] = (("LeaseRevoke", rpc.LeaseRevokeRequest(ID=12)),)
_LEASE_EXISTS = "FAILED_PRECONDITION etcdserver: lease already exists"
_NO_SUCH_LEASE = "NOT_FOUND etcdserver: requested lease not found"
_NO_SUCH_MEMBER = "NOT_FOUND etcdserver: member not found"
_NO_SUCH_USER = "FAILED_PRECONDITION etcdserver: user name not found"
_NO_SUCH_ROLE = "FAILED_PRECONDITION etcdserver: role name not found"
_NO_KEY = "INVALID_ARGUMENT etcdserver: key is not provided"
_BAD_MANAGEMENT = "INVALID_ARGUMENT etcdserver: invalid auth management"
_FUTURE = "OUT_OF_RANGE etcdserver: mvcc: required revision is a future revision"
_BAD_URLS = "INVALID_ARGUMENT etcdserver: given member URLs are invalid"

_LEADER_KEY = election.LeaderKey(name=b"k-election", key=b"k-election/a", rev=1, lease=10)
_CAMPAIGN = election.CampaignRequest(name=b"k-election", lease=10, value=b"v")
_LEADS: tuple[Step, ...] = (("Campaign", _CAMPAIGN),)

ROWS: tuple[Row, ...] = (
    _kv("Range", "own key", rpc.RangeRequest(key=b"k1")),
    _kv("Range", "own key serializable", rpc.RangeRequest(key=b"k1", serializable=True)),
    _kv("Range", "own range", rpc.RangeRequest(key=b"k", range_end=b"l")),
    _kv("Range", "beyond", rpc.RangeRequest(key=b"k", range_end=b"m"), user=DENIED),
    _kv("Range", "from key on", rpc.RangeRequest(key=b"k", range_end=b"\0"), user=DENIED),
    _kv("Range", "count", rpc.RangeRequest(key=b"z", count_only=True), user=DENIED),
    _kv(
        "Range",
        "future revision",
        rpc.RangeRequest(key=b"k1", revision=10**6),
        user=_FUTURE,
        root=_FUTURE,
    ),
    _kv(
        "Range",
        "no key",
        rpc.RangeRequest(),
        anonymous=_NO_KEY,
        stranger=_NO_KEY,
        user=_NO_KEY,
        root=_NO_KEY,
        etcd={"bad_token": _NO_KEY},
    ),
    _kv("RangeStream", "own range", rpc.RangeRequest(key=b"k", range_end=b"l"), in_etcd=False),
    _kv(
        "RangeStream",
        "from key on",
        rpc.RangeRequest(key=b"k", range_end=b"\0"),
        user=DENIED,
        in_etcd=False,
    ),
    _kv("Put", "own key", rpc.PutRequest(key=b"k2")),
    _kv("Put", "prev_kv", rpc.PutRequest(key=b"k2", prev_kv=True)),
    _kv("Put", "other key", rpc.PutRequest(key=b"z"), user=DENIED),
    _kv("Put", "own lease", rpc.PutRequest(key=b"k2", lease=11)),
    _kv(
        "Put",
        "others' lease",
        rpc.PutRequest(key=b"k2", lease=12),
        user=DENIED,
        before=_OTHERS_LEASE,
        after=(("Put", rpc.PutRequest(key=b"k2")), *_NO_OTHERS_LEASE),
    ),
    _kv(
        "Put",
        "no such lease",
        rpc.PutRequest(key=b"k2", lease=99),
        user=_NO_SUCH_LEASE,
        root=_NO_SUCH_LEASE,
    ),
    _kv("DeleteRange", "own key", rpc.DeleteRangeRequest(key=b"k9")),
    _kv("DeleteRange", "prev_kv", rpc.DeleteRangeRequest(key=b"k9", prev_kv=True)),
    _kv("DeleteRange", "beyond", rpc.DeleteRangeRequest(key=b"k9", range_end=b"m"), user=DENIED),
    _kv(
        "DeleteRange",
        "from key on",
        rpc.DeleteRangeRequest(key=b"zz", range_end=b"\0"),
        user=DENIED,
    ),
    # There is nothing in it that anybody could have no right to.
    _kv("Txn", "empty", rpc.TxnRequest(), anonymous=OK, stranger=OK),
    _kv("Txn", "compare", _compare(b"k1")),
    _kv("Txn", "compare other key", _compare(b"z"), user=DENIED),
    _kv("Txn", "compare from key on", _compare(b"k", b"\0"), user=DENIED),
    _kv("Txn", "range", _txn(_range(b"k1"))),
    _kv("Txn", "range from key on", _txn(_range(b"k", b"\0")), user=DENIED),
    _kv("Txn", "put", _txn(_put(b"k1", prev_kv=True))),
    _kv("Txn", "delete", _txn(_delete(b"k9", prev_kv=True))),
    _kv("Txn", "branch not taken", _txn(_put(b"k1"), otherwise=(_put(b"z"),)), user=DENIED),
    _kv("Txn", "nested", _txn(rpc.RequestOp(request_txn=_txn(_range(b"k1"))))),
    _kv("Txn", "nested other", _txn(rpc.RequestOp(request_txn=_txn(_range(b"z")))), user=DENIED),
    _kv(
        "Txn",
        "others' lease",
        _txn(_put(b"k2", lease=12)),
        user=DENIED,
        before=_OTHERS_LEASE,
        after=(("Put", rpc.PutRequest(key=b"k2")), *_NO_OTHERS_LEASE),
    ),
    _kv("Compact", "to 1", rpc.CompactionRequest(revision=10**6), user=DENIED, root=_FUTURE),
    _watch("own key", rpc.WatchCreateRequest(key=b"k1")),
    _watch("own range", rpc.WatchCreateRequest(key=b"k", range_end=b"l")),
    _watch("beyond", rpc.WatchCreateRequest(key=b"k", range_end=b"m"), user=DENIED),
    # GHSA-xg4h-6gfc-h4m8: fixed in etcd 3.5.33.
    _watch(
        "from key on",
        rpc.WatchCreateRequest(key=b"k", range_end=b"\0"),
        user=DENIED,
        etcd={"user": OK},
    ),
    _watch("everything", rpc.WatchCreateRequest(key=b"\0", range_end=b"\0"), user=DENIED),
    _watch("no key", rpc.WatchCreateRequest(), user=DENIED),
    _any(
        "Lease",
        "LeaseGrant",
        "id in use",
        rpc.LeaseGrantRequest(TTL=9, ID=10),
        stranger=_LEASE_EXISTS,
        user=_LEASE_EXISTS,
        root=_LEASE_EXISTS,
    ),
    _any("Lease", "LeaseGrant", "new", rpc.LeaseGrantRequest(TTL=9)),
    _lease(
        "LeaseRevoke",
        "own",
        rpc.LeaseRevokeRequest(ID=13),
        before=(
            ("LeaseGrant", rpc.LeaseGrantRequest(ID=13, TTL=9000)),
            ("Put", rpc.PutRequest(key=b"k-13", lease=13)),
        ),
    ),
    _lease(
        "LeaseRevoke",
        "others'",
        rpc.LeaseRevokeRequest(ID=12),
        user=DENIED,
        before=_OTHERS_LEASE,
        after=_NO_OTHERS_LEASE,
    ),
    _lease(
        "LeaseRevoke",
        "none",
        rpc.LeaseRevokeRequest(ID=99),
        stranger=_NO_SUCH_LEASE,
        user=_NO_SUCH_LEASE,
        root=_NO_SUCH_LEASE,
    ),
    _lease("LeaseKeepAlive", "own", rpc.LeaseKeepAliveRequest(ID=11)),
    _lease(
        "LeaseKeepAlive",
        "others'",
        rpc.LeaseKeepAliveRequest(ID=12),
        user=DENIED,
        before=_OTHERS_LEASE,
        after=_NO_OTHERS_LEASE,
    ),
    _any("Lease", "LeaseKeepAlive", "without keys", rpc.LeaseKeepAliveRequest(ID=10)),
    _any("Lease", "LeaseKeepAlive", "none", rpc.LeaseKeepAliveRequest(ID=99)),
    _any("Lease", "LeaseTimeToLive", "time", rpc.LeaseTimeToLiveRequest(ID=11)),
    _any("Lease", "LeaseTimeToLive", "none", rpc.LeaseTimeToLiveRequest(ID=99, keys=True)),
    _lease("LeaseTimeToLive", "own keys", rpc.LeaseTimeToLiveRequest(ID=11, keys=True)),
    _lease(
        "LeaseTimeToLive",
        "others' keys",
        rpc.LeaseTimeToLiveRequest(ID=12, keys=True),
        user=DENIED,
        before=_OTHERS_LEASE,
        after=_NO_OTHERS_LEASE,
    ),
    _lease("LeaseLeases", "with own keys", rpc.LeaseLeasesRequest()),
    _lease(
        "LeaseLeases",
        "with others' keys",
        rpc.LeaseLeasesRequest(),
        user=DENIED,
        before=_OTHERS_LEASE,
        after=_NO_OTHERS_LEASE,
    ),
    _any("Cluster", "MemberList", "plain", rpc.MemberListRequest()),
    _any("Cluster", "MemberList", "linearizable", rpc.MemberListRequest(linearizable=True)),
    _root(
        "Cluster",
        "MemberAdd",
        "no URL",
        rpc.MemberAddRequest(),
        root=_BAD_URLS,
        etcd=dict.fromkeys(("anonymous", "bad_token", "stranger", "user"), _BAD_URLS),
    ),
    _root(
        "Cluster",
        "MemberRemove",
        "none",
        rpc.MemberRemoveRequest(ID=5),
        root=_NO_SUCH_MEMBER,
    ),
    _root(
        "Cluster",
        "MemberUpdate",
        "none",
        rpc.MemberUpdateRequest(ID=5, peerURLs=["http://127.0.0.1:1"]),
        root=_NO_SUCH_MEMBER,
    ),
    _root(
        "Cluster",
        "MemberPromote",
        "none",
        rpc.MemberPromoteRequest(ID=5),
        root=_NO_SUCH_MEMBER,
    ),
    _any("Maintenance", "Alarm", "get", rpc.AlarmRequest()),
    _root(
        "Maintenance",
        "Alarm",
        "deactivate",
        rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, alarm=rpc.NOSPACE),
    ),
    _root(
        "Maintenance",
        "Alarm",
        "activate",
        rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, alarm=rpc.CORRUPT, memberID=5),
        after=(
            (
                "Alarm",
                rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, alarm=rpc.CORRUPT, memberID=5),
            ),
        ),
    ),
    # Any user's since etcd 3.5.32 and 3.6.13 (etcd's pull request 21666).
    _any(
        "Maintenance",
        "Status",
        "plain",
        rpc.StatusRequest(),
        etcd={"stranger": DENIED, "user": DENIED},
    ),
    _root("Maintenance", "Defragment", "plain", rpc.DefragmentRequest(), etcd=_BARE),
    _root("Maintenance", "Hash", "plain", rpc.HashRequest(), etcd=_BARE),
    _root("Maintenance", "HashKV", "plain", rpc.HashKVRequest(), etcd=_BARE),
    _root("Maintenance", "Snapshot", "plain", rpc.SnapshotRequest(), etcd=_BARE),
    _root(
        "Maintenance",
        "MoveLeader",
        "to none",
        rpc.MoveLeaderRequest(targetID=5),
        root="FAILED_PRECONDITION etcdserver: bad leader transferee",
    ),
    _root(
        "Maintenance",
        "Downgrade",
        "cancel",
        rpc.DowngradeRequest(action=rpc.DowngradeRequest.CANCEL),
        root="FAILED_PRECONDITION etcdserver: no inflight downgrade job",
    ),
    _root("Auth", "AuthEnable", "again", rpc.AuthEnableRequest()),
    _root(
        "Auth",
        "AuthDisable",
        "plain",
        rpc.AuthDisableRequest(),
        after=(("AuthEnable", rpc.AuthEnableRequest()),),
    ),
    Row(
        "/etcdserverpb.Auth/AuthStatus",
        "plain",
        rpc.AuthStatusRequest(),
        anonymous=OK,
        stranger=OK,
        etcd={"anonymous": NOBODY, "stranger": DENIED, "user": DENIED},
    ),
    Row(
        "/etcdserverpb.Auth/Authenticate",
        "right password",
        rpc.AuthenticateRequest(name="user", password="password of user"),
        anonymous=OK,
        bad_token=OK,
        stranger=OK,
    ),
    _root(
        "Auth",
        "UserAdd",
        "exists",
        rpc.AuthUserAddRequest(name="user"),
        root="FAILED_PRECONDITION etcdserver: user name already exists",
    ),
    _root("Auth", "UserAdd", "no name", rpc.AuthUserAddRequest(), root=NOBODY),
    Row("/etcdserverpb.Auth/UserGet", "oneself", rpc.AuthUserGetRequest(name="user")),
    _root("Auth", "UserGet", "other", rpc.AuthUserGetRequest(name="root")),
    _root("Auth", "UserGet", "none", rpc.AuthUserGetRequest(name="none"), root=_NO_SUCH_USER),
    _root("Auth", "UserList", "plain", rpc.AuthUserListRequest()),
    _root("Auth", "UserDelete", "none", rpc.AuthUserDeleteRequest(name="none"), root=_NO_SUCH_USER),
    _root(
        "Auth", "UserDelete", "root", rpc.AuthUserDeleteRequest(name="root"), root=_BAD_MANAGEMENT
    ),
    _root(
        "Auth",
        "UserChangePassword",
        "none",
        rpc.AuthUserChangePasswordRequest(name="none", password="x"),
        root=_NO_SUCH_USER,
    ),
    _root(
        "Auth",
        "UserGrantRole",
        "none",
        rpc.AuthUserGrantRoleRequest(user="none", role="none"),
        root=_NO_SUCH_USER,
    ),
    _root(
        "Auth",
        "UserRevokeRole",
        "root's",
        rpc.AuthUserRevokeRoleRequest(name="root", role="root"),
        root=_BAD_MANAGEMENT,
    ),
    _root(
        "Auth",
        "RoleAdd",
        "exists",
        rpc.AuthRoleAddRequest(name="own"),
        root="FAILED_PRECONDITION etcdserver: role name already exists",
    ),
    Row("/etcdserverpb.Auth/RoleGet", "own", rpc.AuthRoleGetRequest(role="own")),
    _root("Auth", "RoleGet", "other", rpc.AuthRoleGetRequest(role="root")),
    _root("Auth", "RoleGet", "none", rpc.AuthRoleGetRequest(role="none"), root=_NO_SUCH_ROLE),
    _root("Auth", "RoleList", "plain", rpc.AuthRoleListRequest()),
    _root("Auth", "RoleDelete", "none", rpc.AuthRoleDeleteRequest(role="none"), root=_NO_SUCH_ROLE),
    _root(
        "Auth", "RoleDelete", "root", rpc.AuthRoleDeleteRequest(role="root"), root=_BAD_MANAGEMENT
    ),
    _root(
        "Auth",
        "RoleGrantPermission",
        "none",
        rpc.AuthRoleGrantPermissionRequest(name="none", perm=auth.Permission(key=b"a")),
        root=_NO_SUCH_ROLE,
    ),
    _root(
        "Auth",
        "RoleRevokePermission",
        "none",
        rpc.AuthRoleRevokePermissionRequest(role="none", key=b"a"),
        root=_NO_SUCH_ROLE,
    ),
    _through("v3lockpb.Lock", "Lock", "own", lock.LockRequest(name=b"k-lock", lease=10)),
    _through(
        "v3lockpb.Lock",
        "Lock",
        "other",
        lock.LockRequest(name=b"z-lock", lease=14),
        user=_THROUGH["stranger"],
        before=(("LeaseGrant", rpc.LeaseGrantRequest(ID=14, TTL=9000)),),
        after=(("LeaseRevoke", rpc.LeaseRevokeRequest(ID=14)),),
    ),
    _through("v3lockpb.Lock", "Unlock", "own", lock.UnlockRequest(key=b"k-lock/a")),
    _through("v3electionpb.Election", "Campaign", "own", _CAMPAIGN),
    _through(
        "v3electionpb.Election",
        "Proclaim",
        "not leader",
        election.ProclaimRequest(leader=_LEADER_KEY, value=b"2"),
        user="UNKNOWN election: not leader",
        root="UNKNOWN election: not leader",
    ),
    _through(
        "v3electionpb.Election",
        "Leader",
        "own",
        election.LeaderRequest(name=b"k-election"),
        before=_LEADS,
    ),
    _through(
        "v3electionpb.Election",
        "Resign",
        "own",
        election.ResignRequest(leader=_LEADER_KEY),
    ),
    # etcd ends the stream without saying why.
    _through(
        "v3electionpb.Election",
        "Observe",
        "own",
        election.LeaderRequest(name=b"k-election"),
        before=_LEADS,
        etcd=dict.fromkeys(("anonymous", "bad_token", "stranger"), "END"),
    ),
)
