"""What each method asks of its caller before its service sees the call, while auth is on.

A method that is not in this table is root's alone: what is forgotten is closed.
"""

from enum import Enum, auto
from typing import Final

from rusd.auth.store import Identity
from rusd.node.rights import Rights


class Need(Enum):
    """Who may call a method."""

    NOTHING = auto()
    """Everybody, also with a token that is none."""
    READ = auto()
    """As OWN; its service finds out who calls, when it answers."""
    OWN = auto()
    """Whom the service, or whoever applies the request, lets: it depends on what is asked for."""
    USER = auto()
    """Every user."""
    ROOT = auto()
    """Who has the role root."""


# As in etcd since the fixes of CVE-2026-33413: earlier ones let everybody list the members, raise
# alarms and compact.
NEEDS: Final = {
    "/etcdserverpb.KV/Range": Need.READ,
    "/etcdserverpb.KV/RangeStream": Need.OWN,
    "/etcdserverpb.KV/Put": Need.OWN,
    "/etcdserverpb.KV/DeleteRange": Need.OWN,
    "/etcdserverpb.KV/Txn": Need.OWN,
    "/etcdserverpb.KV/Compact": Need.OWN,
    "/etcdserverpb.Watch/Watch": Need.OWN,
    "/etcdserverpb.Lease/LeaseGrant": Need.USER,
    "/etcdserverpb.Lease/LeaseRevoke": Need.OWN,
    "/etcdserverpb.Lease/LeaseKeepAlive": Need.OWN,
    "/etcdserverpb.Lease/LeaseTimeToLive": Need.USER,
    "/etcdserverpb.Lease/LeaseLeases": Need.USER,
    "/etcdserverpb.Cluster/MemberList": Need.USER,
    "/etcdserverpb.Cluster/MemberAdd": Need.ROOT,
    "/etcdserverpb.Cluster/MemberRemove": Need.ROOT,
    "/etcdserverpb.Cluster/MemberUpdate": Need.ROOT,
    "/etcdserverpb.Cluster/MemberPromote": Need.ROOT,
    # A user may see the alarms; to raise or clear one needs root, which is seen when it is applied.
    "/etcdserverpb.Maintenance/Alarm": Need.USER,
    "/etcdserverpb.Maintenance/Status": Need.USER,  # root's alone before etcd 3.7.1
    "/etcdserverpb.Maintenance/Defragment": Need.ROOT,
    "/etcdserverpb.Maintenance/Hash": Need.ROOT,
    "/etcdserverpb.Maintenance/HashKV": Need.ROOT,
    "/etcdserverpb.Maintenance/Snapshot": Need.ROOT,
    "/etcdserverpb.Maintenance/MoveLeader": Need.ROOT,
    "/etcdserverpb.Maintenance/Downgrade": Need.ROOT,
    "/etcdserverpb.Auth/Authenticate": Need.NOTHING,
    "/etcdserverpb.Auth/AuthEnable": Need.OWN,
    "/etcdserverpb.Auth/AuthDisable": Need.OWN,
    "/etcdserverpb.Auth/AuthStatus": Need.OWN,  # everybody's; root's alone before etcd 3.6
    "/etcdserverpb.Auth/UserAdd": Need.OWN,
    "/etcdserverpb.Auth/UserGet": Need.OWN,
    "/etcdserverpb.Auth/UserList": Need.OWN,
    "/etcdserverpb.Auth/UserDelete": Need.OWN,
    "/etcdserverpb.Auth/UserChangePassword": Need.OWN,
    "/etcdserverpb.Auth/UserGrantRole": Need.OWN,
    "/etcdserverpb.Auth/UserRevokeRole": Need.OWN,
    "/etcdserverpb.Auth/RoleAdd": Need.OWN,
    "/etcdserverpb.Auth/RoleGet": Need.OWN,
    "/etcdserverpb.Auth/RoleList": Need.OWN,
    "/etcdserverpb.Auth/RoleDelete": Need.OWN,
    "/etcdserverpb.Auth/RoleGrantPermission": Need.OWN,
    "/etcdserverpb.Auth/RoleRevokePermission": Need.OWN,
    # These make calls of the services above for their callers, with the callers' tokens.
    "/v3lockpb.Lock/Lock": Need.NOTHING,
    "/v3lockpb.Lock/Unlock": Need.NOTHING,
    "/v3electionpb.Election/Campaign": Need.NOTHING,
    "/v3electionpb.Election/Proclaim": Need.NOTHING,
    "/v3electionpb.Election/Leader": Need.NOTHING,
    "/v3electionpb.Election/Observe": Need.NOTHING,
    "/v3electionpb.Election/Resign": Need.NOTHING,
    # These tell nothing of what is stored.
    "/grpc.health.v1.Health/Check": Need.NOTHING,
    "/grpc.health.v1.Health/Watch": Need.NOTHING,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Need.NOTHING,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Need.NOTHING,
}


def need(path: str) -> Need:
    """What a method needs."""
    return NEEDS.get(path, Need.ROOT)


def check(rights: Rights, need: Need, identity: Identity | None) -> None:
    """Raises an AuthError unless a caller is what is needed."""
    if need is Need.USER:
        rights.user(identity)
    elif need is Need.ROOT:
        rights.admin(identity)
