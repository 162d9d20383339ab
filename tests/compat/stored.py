"""All that a client can ask of a store, to compare two that should hold the same."""

from dataclasses import dataclass
from typing import Any

from rusd.pb import rpc_pb2 as rpc
from tests.cluster.calls import ask
from tests.compat.client import Client, WatchStream
from tests.members import Member

SECONDS = 60.0
ALL = b"\0"
"""As key and range end: every key."""


@dataclass
class Content:
    """All that a client can ask of a store."""

    revision: int
    compacted: int
    ranges: list[list[bytes]]
    """The serialized KeyValues of each revision from the compacted one on."""
    events: list[bytes]
    leases: dict[int, tuple[int, list[bytes]]]
    """What each was granted, and its keys."""
    alarms: list[int]


def content(member: Member) -> Content:
    """Ask for it all."""
    client = Client(member.channel())

    def call(method: str, request: Any) -> Any:
        answer = client.call(method, request)
        assert answer.response is not None, answer
        return answer.response

    revision = call("Range", rpc.RangeRequest(key=b"a")).header.revision
    compacted = compacted_revision(member)
    ranges = [
        [
            kv.SerializeToString()
            for kv in call("Range", rpc.RangeRequest(key=ALL, range_end=ALL, revision=at)).kvs
        ]
        for at in range(max(compacted, 1), revision + 1)
    ]
    leases = {}
    for lease in call("LeaseLeases", rpc.LeaseLeasesRequest()).leases:
        living = call("LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=lease.ID, keys=True))
        leases[lease.ID] = (living.grantedTTL, sorted(living.keys))
    alarms = [each.alarm for each in call("Alarm", rpc.AlarmRequest()).alarms]
    found = Content(
        revision, compacted, ranges, events(client, compacted + 1, revision), leases, alarms
    )
    client.close()
    return found


def compacted_revision(member: Member) -> int:
    """As HashKV tells it; -1 when nothing was compacted."""
    return int(ask(member, rpc.HashKVRequest(), rpc.HashKVResponse).compact_revision)


def events(client: Client, start: int, revision: int) -> list[bytes]:
    """Every event from a revision on, as a watcher gets them."""
    stream: WatchStream = client.watch_stream()
    create = rpc.WatchCreateRequest(key=ALL, range_end=ALL, start_revision=max(start, 1))
    stream.send(rpc.WatchRequest(create_request=create))

    def whole() -> bool:
        seen = stream.events.get(0, [])
        return bool(seen and seen[-1].kv.mod_revision >= revision)

    assert stream.wait(whole, SECONDS), stream.faults
    found = [event.SerializeToString() for event in stream.events[0]]
    stream.close()
    return found


def described(member: Member) -> dict[str, Any]:
    """The content, users and roles of a member whose auth is off, as JSON can have them."""
    found = content(member)
    client = Client(member.channel())

    def call(method: str, request: Any) -> Any:
        answer = client.call(method, request)
        assert answer.response is not None, answer
        answer.response.ClearField("header")
        return answer.response

    users = call("UserList", rpc.AuthUserListRequest()).users
    roles = call("RoleList", rpc.AuthRoleListRequest()).roles
    described = {
        "revision": found.revision,
        "compacted": found.compacted,
        "ranges": [[kv.hex() for kv in kvs] for kvs in found.ranges],
        "events": [event.hex() for event in found.events],
        "leases": {
            f"{lease:x}": [ttl, [key.hex() for key in keys]]
            for lease, (ttl, keys) in sorted(found.leases.items())
        },
        "alarms": list(found.alarms),
        "users": {
            name: list(call("UserGet", rpc.AuthUserGetRequest(name=name)).roles) for name in users
        },
        "roles": {
            name: call("RoleGet", rpc.AuthRoleGetRequest(role=name)).SerializeToString().hex()
            for name in roles
            if name != "root"  # which is not stored; from etcd 3.6 on it is answered all the same
        },
    }
    client.close()
    return described
