"""The form `fields`: a line `"Name" : value` for each field of an answer."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from google.protobuf.message import Message

from rusd.cli.ctl.errors import unsupported
from rusd.pb import auth_pb2 as auth
from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc


def lines(answer: Message) -> str:
    """Return the fields of an answer; raise Exit where etcdctl has none for it."""
    if type(answer) in _BODIES:
        body = _BODIES[type(answer)](answer)
    elif type(answer) in _HEADERS_ONLY:
        body = iter(())
    else:
        raise unsupported("fields")
    return "".join(f"{each}\n" for each in (*header(answer), *body))


def header(answer: Any) -> Iterator[str]:
    """Return the fields of an answer's header."""
    yield f'"ClusterID" : {answer.header.cluster_id}'
    yield f'"MemberID" : {answer.header.member_id}'
    yield f'"Revision" : {answer.header.revision}'
    yield f'"RaftTerm" : {answer.header.raft_term}'


def quoted(data: bytes | str) -> str:
    """Quote as Go's %q does: what cannot be printed is escaped."""
    if isinstance(data, str):
        data = data.encode()
    return '"' + "".join(map(_escaped, data.decode(errors="surrogateescape"))) + '"'


_NAMED: Final = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    '"': '\\"', "\\": "\\\\",
}  # fmt: skip


def _escaped(letter: str) -> str:
    code = ord(letter)
    if letter in _NAMED:
        return _NAMED[letter]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if letter == " " or (letter.isprintable() and not letter.isspace()):
        return letter
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _pair(prefix: str, each: kv.KeyValue) -> Iterator[str]:
    yield f'"{prefix}Key" : {quoted(each.key)}'
    yield f'"{prefix}CreateRevision" : {each.create_revision}'
    yield f'"{prefix}ModRevision" : {each.mod_revision}'
    yield f'"{prefix}Version" : {each.version}'
    yield f'"{prefix}Value" : {quoted(each.value)}'
    yield f'"{prefix}Lease" : {each.lease}'


def _pairs(prefix: str, pairs: Iterable[kv.KeyValue]) -> Iterator[str]:
    for each in pairs:
        yield from _pair(prefix, each)


def _range(answer: rpc.RangeResponse) -> Iterator[str]:
    yield from _pairs("", answer.kvs)
    yield f'"More" : {_truth(answer.more)}'
    yield f'"Count" : {answer.count}'


def _put(answer: rpc.PutResponse) -> Iterator[str]:
    if answer.HasField("prev_kv"):
        yield from _pair("Prev", answer.prev_kv)


def _delete(answer: rpc.DeleteRangeResponse) -> Iterator[str]:
    yield f'"Deleted" : {answer.deleted}'
    yield from _pairs("Prev", answer.prev_kvs)


def _txn(answer: rpc.TxnResponse) -> Iterator[str]:
    yield f'"Succeeded" : {_truth(answer.succeeded)}'
    for each in answer.responses:
        inner = getattr(each, each.WhichOneof("response") or "")
        yield from header(inner)
        yield from _BODIES[type(inner)](inner)


def _watch(answer: rpc.WatchResponse) -> Iterator[str]:
    for event in answer.events:
        yield f'"Type" : {kv.Event.EventType.Name(event.type)}'
        if event.HasField("prev_kv"):
            yield from _pair("Prev", event.prev_kv)
        yield from _pair("", event.kv)


def _grant(answer: rpc.LeaseGrantResponse | rpc.LeaseKeepAliveResponse) -> Iterator[str]:
    yield f'"ID" : {answer.ID}'
    yield f'"TTL" : {answer.TTL}'


def _time_to_live(answer: rpc.LeaseTimeToLiveResponse) -> Iterator[str]:
    yield f'"ID" : {answer.ID}'
    yield f'"TTL" : {answer.TTL}'
    yield f'"GrantedTTL" : {answer.grantedTTL}'
    for key in answer.keys:
        yield f'"Key" : {quoted(key)}'


def _leases(answer: rpc.LeaseLeasesResponse) -> Iterator[str]:
    return (f'"ID" : {each.ID}' for each in answer.leases)


def _members(answer: rpc.MemberListResponse) -> Iterator[str]:
    for each in answer.members:
        yield f'"ID" : {each.ID}'
        yield f'"Name" : {quoted(each.name)}'
        yield from (f'"PeerURL" : {quoted(url)}' for url in each.peerURLs)
        yield from (f'"ClientURL" : {quoted(url)}' for url in each.clientURLs)
        yield f'"IsLearner" : {_truth(each.isLearner)}'
        yield ""


def _alarms(answer: rpc.AlarmResponse) -> Iterator[str]:
    for each in answer.alarms:
        yield f'"MemberID" : {each.memberID}'
        yield f'"AlarmType" : {rpc.AlarmType.Name(each.alarm)}'
        yield ""


def _role(answer: rpc.AuthRoleGetResponse) -> Iterator[str]:
    for each in answer.perm:
        yield f'"PermType" :  {auth.Permission.Type.Name(each.permType)}'
        yield f'"Key" : {quoted(each.key)}'
        yield f'"RangeEnd" : {quoted(each.range_end)}'


def _roles(answer: rpc.AuthRoleListResponse) -> Iterator[str]:
    yield '"Roles" :' + "".join(f" {quoted(each)}" for each in answer.roles)


def _truth(value: bool) -> str:
    return str(value).lower()


_BODIES: Final[dict[type[Message], Callable[[Any], Iterator[str]]]] = {
    rpc.RangeResponse: _range,
    rpc.PutResponse: _put,
    rpc.DeleteRangeResponse: _delete,
    rpc.TxnResponse: _txn,
    rpc.WatchResponse: _watch,
    rpc.LeaseGrantResponse: _grant,
    rpc.LeaseKeepAliveResponse: _grant,
    rpc.LeaseTimeToLiveResponse: _time_to_live,
    rpc.LeaseLeasesResponse: _leases,
    rpc.MemberListResponse: _members,
    rpc.AlarmResponse: _alarms,
    rpc.AuthRoleGetResponse: _role,
    rpc.AuthRoleListResponse: _roles,
}
_HEADERS_ONLY: Final = frozenset(
    (
        rpc.LeaseRevokeResponse,
        rpc.AuthRoleAddResponse,
        rpc.AuthRoleDeleteResponse,
        rpc.AuthRoleGrantPermissionResponse,
        rpc.AuthRoleRevokePermissionResponse,
        rpc.AuthUserAddResponse,
        rpc.AuthUserDeleteResponse,
        rpc.AuthUserChangePasswordResponse,
        rpc.AuthUserGrantRoleResponse,
        rpc.AuthUserRevokeRoleResponse,
    )
)
