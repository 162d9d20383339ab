"""Which path is which method, and what its messages are."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from google.protobuf.descriptor import Descriptor, FileDescriptor

from rusd.pb import election_pb2, lock_pb2, rpc_pb2

_SERVICES: Final[tuple[FileDescriptor, ...]] = (
    rpc_pb2.DESCRIPTOR,
    lock_pb2.DESCRIPTOR,
    election_pb2.DESCRIPTOR,
)

# etcd's names, below /v3/.
_PATHS: Final = {
    "etcdserverpb.KV": {
        "Range": ["kv/range"],
        "Put": ["kv/put"],
        "DeleteRange": ["kv/deleterange"],
        "Txn": ["kv/txn"],
        "Compact": ["kv/compaction"],
    },
    "etcdserverpb.Watch": {"Watch": ["watch"]},
    "etcdserverpb.Lease": {
        "LeaseGrant": ["lease/grant"],
        "LeaseRevoke": ["lease/revoke", "kv/lease/revoke"],
        "LeaseKeepAlive": ["lease/keepalive"],
        "LeaseTimeToLive": ["lease/timetolive", "kv/lease/timetolive"],
        "LeaseLeases": ["lease/leases", "kv/lease/leases"],
    },
    "etcdserverpb.Cluster": {
        "MemberAdd": ["cluster/member/add"],
        "MemberRemove": ["cluster/member/remove"],
        "MemberUpdate": ["cluster/member/update"],
        "MemberList": ["cluster/member/list"],
        "MemberPromote": ["cluster/member/promote"],
    },
    "etcdserverpb.Maintenance": {
        "Alarm": ["maintenance/alarm"],
        "Status": ["maintenance/status"],
        "Defragment": ["maintenance/defragment"],
        "Hash": ["maintenance/hash"],
        "HashKV": ["maintenance/hashkv"],
        "Snapshot": ["maintenance/snapshot"],
        "MoveLeader": ["maintenance/transfer-leadership"],
        "Downgrade": ["maintenance/downgrade"],
    },
    "etcdserverpb.Auth": {
        "AuthEnable": ["auth/enable"],
        "AuthDisable": ["auth/disable"],
        "AuthStatus": ["auth/status"],
        "Authenticate": ["auth/authenticate"],
        "UserAdd": ["auth/user/add"],
        "UserGet": ["auth/user/get"],
        "UserList": ["auth/user/list"],
        "UserDelete": ["auth/user/delete"],
        "UserChangePassword": ["auth/user/changepw"],
        "UserGrantRole": ["auth/user/grant"],
        "UserRevokeRole": ["auth/user/revoke"],
        "RoleAdd": ["auth/role/add"],
        "RoleGet": ["auth/role/get"],
        "RoleList": ["auth/role/list"],
        "RoleDelete": ["auth/role/delete"],
        "RoleGrantPermission": ["auth/role/grant"],
        "RoleRevokePermission": ["auth/role/revoke"],
    },
    "v3lockpb.Lock": {"Lock": ["lock/lock"], "Unlock": ["lock/unlock"]},
    "v3electionpb.Election": {
        "Campaign": ["election/campaign"],
        "Proclaim": ["election/proclaim"],
        "Leader": ["election/leader"],
        "Observe": ["election/observe"],
        "Resign": ["election/resign"],
    },
}


class Route(NamedTuple):
    """A method behind a path."""

    method: bytes
    """As in `:path`: "/package.Service/Method"."""
    request: Descriptor
    response: Descriptor
    client_streaming: bool
    server_streaming: bool


def _routes() -> Mapping[str, Route]:
    found = {}
    for file in _SERVICES:
        for service in file.services_by_name.values():
            for name, paths in _PATHS.get(service.full_name, {}).items():
                method = service.methods_by_name[name]
                route = Route(
                    f"/{service.full_name}/{name}".encode(),
                    method.input_type,
                    method.output_type,
                    method.client_streaming,
                    method.server_streaming,
                )
                found.update(dict.fromkeys(("/v3/" + path for path in paths), route))
    return found


ROUTES: Final = _routes()
"""By path. "/v3beta/", which etcd 3.5 still takes, is for the caller to translate."""
