"""The methods of etcd's API that `rusd ctl` calls, and what goes in and out."""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from rusd.pb import election_pb2 as election
from rusd.pb import lock_pb2 as lock
from rusd.pb import rpc_pb2 as rpc

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """A method: its path, its messages, and whether it may be sent a second time."""

    path: str
    request: type[Request]
    response: type[Response]
    repeatable: bool = False
    """It changes nothing: when a member is lost, another one may be asked."""


def _method(
    path: str, request: type[Request], response: type[Response], repeatable: bool = False
) -> Method[Request, Response]:
    return Method(f"/{path}", request, response, repeatable)


_KV: Final = "etcdserverpb.KV"
RANGE: Final = _method(f"{_KV}/Range", rpc.RangeRequest, rpc.RangeResponse, True)
RANGE_STREAM: Final = _method(f"{_KV}/RangeStream", rpc.RangeRequest, rpc.RangeStreamResponse, True)
PUT: Final = _method(f"{_KV}/Put", rpc.PutRequest, rpc.PutResponse)
DELETE_RANGE: Final = _method(f"{_KV}/DeleteRange", rpc.DeleteRangeRequest, rpc.DeleteRangeResponse)
TXN: Final = _method(f"{_KV}/Txn", rpc.TxnRequest, rpc.TxnResponse)
COMPACT: Final = _method(f"{_KV}/Compact", rpc.CompactionRequest, rpc.CompactionResponse)

WATCH: Final = _method("etcdserverpb.Watch/Watch", rpc.WatchRequest, rpc.WatchResponse)

_LEASE: Final = "etcdserverpb.Lease"
GRANT: Final = _method(f"{_LEASE}/LeaseGrant", rpc.LeaseGrantRequest, rpc.LeaseGrantResponse)
REVOKE: Final = _method(f"{_LEASE}/LeaseRevoke", rpc.LeaseRevokeRequest, rpc.LeaseRevokeResponse)
KEEP_ALIVE: Final = _method(
    f"{_LEASE}/LeaseKeepAlive", rpc.LeaseKeepAliveRequest, rpc.LeaseKeepAliveResponse
)
TIME_TO_LIVE: Final = _method(
    f"{_LEASE}/LeaseTimeToLive", rpc.LeaseTimeToLiveRequest, rpc.LeaseTimeToLiveResponse, True
)
LEASES: Final = _method(
    f"{_LEASE}/LeaseLeases", rpc.LeaseLeasesRequest, rpc.LeaseLeasesResponse, True
)

_CLUSTER: Final = "etcdserverpb.Cluster"
MEMBER_LIST: Final = _method(
    f"{_CLUSTER}/MemberList", rpc.MemberListRequest, rpc.MemberListResponse, True
)
MEMBER_ADD: Final = _method(f"{_CLUSTER}/MemberAdd", rpc.MemberAddRequest, rpc.MemberAddResponse)
MEMBER_REMOVE: Final = _method(
    f"{_CLUSTER}/MemberRemove", rpc.MemberRemoveRequest, rpc.MemberRemoveResponse
)
MEMBER_UPDATE: Final = _method(
    f"{_CLUSTER}/MemberUpdate", rpc.MemberUpdateRequest, rpc.MemberUpdateResponse
)
MEMBER_PROMOTE: Final = _method(
    f"{_CLUSTER}/MemberPromote", rpc.MemberPromoteRequest, rpc.MemberPromoteResponse
)

_MAINTENANCE: Final = "etcdserverpb.Maintenance"
STATUS: Final = _method(f"{_MAINTENANCE}/Status", rpc.StatusRequest, rpc.StatusResponse, True)
HASH_KV: Final = _method(f"{_MAINTENANCE}/HashKV", rpc.HashKVRequest, rpc.HashKVResponse, True)
ALARM: Final = _method(f"{_MAINTENANCE}/Alarm", rpc.AlarmRequest, rpc.AlarmResponse)
DEFRAGMENT: Final = _method(
    f"{_MAINTENANCE}/Defragment", rpc.DefragmentRequest, rpc.DefragmentResponse
)
SNAPSHOT: Final = _method(
    f"{_MAINTENANCE}/Snapshot", rpc.SnapshotRequest, rpc.SnapshotResponse, True
)
MOVE_LEADER: Final = _method(
    f"{_MAINTENANCE}/MoveLeader", rpc.MoveLeaderRequest, rpc.MoveLeaderResponse
)

_AUTH: Final = "etcdserverpb.Auth"
AUTH_ENABLE: Final = _method(f"{_AUTH}/AuthEnable", rpc.AuthEnableRequest, rpc.AuthEnableResponse)
AUTH_DISABLE: Final = _method(
    f"{_AUTH}/AuthDisable", rpc.AuthDisableRequest, rpc.AuthDisableResponse
)
AUTH_STATUS: Final = _method(
    f"{_AUTH}/AuthStatus", rpc.AuthStatusRequest, rpc.AuthStatusResponse, True
)
AUTHENTICATE: Final = _method(
    f"{_AUTH}/Authenticate", rpc.AuthenticateRequest, rpc.AuthenticateResponse, True
)
USER_ADD: Final = _method(f"{_AUTH}/UserAdd", rpc.AuthUserAddRequest, rpc.AuthUserAddResponse)
USER_GET: Final = _method(f"{_AUTH}/UserGet", rpc.AuthUserGetRequest, rpc.AuthUserGetResponse, True)
USER_LIST: Final = _method(
    f"{_AUTH}/UserList", rpc.AuthUserListRequest, rpc.AuthUserListResponse, True
)
USER_DELETE: Final = _method(
    f"{_AUTH}/UserDelete", rpc.AuthUserDeleteRequest, rpc.AuthUserDeleteResponse
)
USER_CHANGE_PASSWORD: Final = _method(
    f"{_AUTH}/UserChangePassword",
    rpc.AuthUserChangePasswordRequest,
    rpc.AuthUserChangePasswordResponse,
)
USER_GRANT_ROLE: Final = _method(
    f"{_AUTH}/UserGrantRole", rpc.AuthUserGrantRoleRequest, rpc.AuthUserGrantRoleResponse
)
USER_REVOKE_ROLE: Final = _method(
    f"{_AUTH}/UserRevokeRole", rpc.AuthUserRevokeRoleRequest, rpc.AuthUserRevokeRoleResponse
)
ROLE_ADD: Final = _method(f"{_AUTH}/RoleAdd", rpc.AuthRoleAddRequest, rpc.AuthRoleAddResponse)
ROLE_GET: Final = _method(f"{_AUTH}/RoleGet", rpc.AuthRoleGetRequest, rpc.AuthRoleGetResponse, True)
ROLE_LIST: Final = _method(
    f"{_AUTH}/RoleList", rpc.AuthRoleListRequest, rpc.AuthRoleListResponse, True
)
ROLE_DELETE: Final = _method(
    f"{_AUTH}/RoleDelete", rpc.AuthRoleDeleteRequest, rpc.AuthRoleDeleteResponse
)
ROLE_GRANT: Final = _method(
    f"{_AUTH}/RoleGrantPermission",
    rpc.AuthRoleGrantPermissionRequest,
    rpc.AuthRoleGrantPermissionResponse,
)
ROLE_REVOKE: Final = _method(
    f"{_AUTH}/RoleRevokePermission",
    rpc.AuthRoleRevokePermissionRequest,
    rpc.AuthRoleRevokePermissionResponse,
)

LOCK: Final = _method("v3lockpb.Lock/Lock", lock.LockRequest, lock.LockResponse)
UNLOCK: Final = _method("v3lockpb.Lock/Unlock", lock.UnlockRequest, lock.UnlockResponse)
CAMPAIGN: Final = _method(
    "v3electionpb.Election/Campaign", election.CampaignRequest, election.CampaignResponse
)
OBSERVE: Final = _method(
    "v3electionpb.Election/Observe", election.LeaderRequest, election.LeaderResponse
)
RESIGN: Final = _method(
    "v3electionpb.Election/Resign", election.ResignRequest, election.ResignResponse
)
