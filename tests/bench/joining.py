"""A fresh member joins a cluster and catches up: on ports that are chosen when it is added."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress

import grpc

from rusd.pb import rpc_pb2 as rpc
from tests.bench.load import LoadError
from tests.bench.site import Site, call, initial_cluster, not_ready, retried, status_of
from tests.members import Member, wait_for

_ADD = "/etcdserverpb.Cluster/MemberAdd"
_LIST = "/etcdserverpb.Cluster/MemberList"
_PROMOTE = "/etcdserverpb.Cluster/MemberPromote"
_REMOVE = "/etcdserverpb.Cluster/MemberRemove"
_RANGE = "/etcdserverpb.KV/Range"
_CATCH_UP_SECONDS = 600.0
_CHANGE_SECONDS = 60.0
_NOT_YET = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION)


def catch_up(site: Site, everything: rpc.RangeRequest, count: int, learner: bool = False) -> float:
    """Add a member; seconds from its start until it has applied all that the leader had by then.

    `everything` is a range of all keys, of which there are `count` then and later.
    """
    return retried(lambda: _attempt(site, everything, count, learner))


def _attempt(site: Site, everything: rpc.RangeRequest, count: int, learner: bool) -> float:
    leader = site.leader()
    fresh = _added(site, learner)
    try:
        then = status_of(leader)
        begin = time.monotonic()
        fresh.launch()
        _wait_for_all(site, fresh, everything, then)
        took = time.monotonic() - begin
        found = call(fresh, _RANGE, everything, rpc.RangeResponse).count
        if found != count:
            raise LoadError(f"the fresh member has {found:,} of {count:,} keys")
        return took
    except BaseException:
        leave(site, fresh)
        raise


def _wait_for_all(
    site: Site, fresh: Member, everything: rpc.RangeRequest, then: rpc.StatusResponse
) -> None:
    with fresh.channel() as channel:
        count = channel.unary_unary(
            _RANGE,
            request_serializer=rpc.RangeRequest.SerializeToString,
            response_deserializer=rpc.RangeResponse.FromString,
        )

        def has_all() -> bool:
            if fresh not in site.running:
                raise not_ready(fresh, "the fresh member ended")
            with suppress(grpc.RpcError):
                if count(everything, timeout=5).header.revision >= then.header.revision:
                    return status_of(fresh).raftAppliedIndex >= then.raftAppliedIndex
            return False

        wait_for(has_all, _CATCH_UP_SECONDS, "the fresh member's catching up")


def _added(site: Site, learner: bool) -> Member:
    """A member that the cluster waits for, not started."""
    first = site.member
    name = f"infra{len(site.members) + 1}"
    fresh = Member(first.command, first.folder.with_name(name), first.flags, name=name)
    fresh.initial_cluster_state = "existing"
    fresh.initial_cluster = initial_cluster([*site.members, fresh])
    addition = rpc.MemberAddRequest(peerURLs=[fresh.peer_url], isLearner=learner)
    _changed(lambda: call(site.leader(), _ADD, addition, rpc.MemberAddResponse))
    site.members.append(fresh)
    return fresh


def promote(site: Site, member: Member) -> None:
    """Let a learner vote, once the leader finds it ready for that."""
    request = rpc.MemberPromoteRequest(ID=_identity(site, member))
    _changed(lambda: call(site.leader(), _PROMOTE, request, rpc.MemberPromoteResponse))


def leave(site: Site, member: Member) -> None:
    """Remove the member, end it, and wipe it."""
    request = rpc.MemberRemoveRequest(ID=_identity(site, member))
    # It is refused for a while after a member's start, as it is not connected for long.
    _changed(lambda: call(site.leader(), _REMOVE, request, rpc.MemberRemoveResponse))
    site.members.remove(member)
    member.close()
    shutil.rmtree(member.folder)


def _identity(site: Site, member: Member) -> int:
    listed = call(site.leader(), _LIST, rpc.MemberListRequest(), rpc.MemberListResponse)
    return next(each.ID for each in listed.members if member.peer_url in each.peerURLs)


def _changed(change: Callable[[], object]) -> None:
    """Change the members; again while the cluster says that it is not ready for it."""

    def changes() -> bool:
        try:
            change()
        except grpc.RpcError as error:
            if error.code() not in _NOT_YET:
                raise
            return False
        return True

    wait_for(changes, _CHANGE_SECONDS, "a change of members")
