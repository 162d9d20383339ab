"""How each figure of three members on this machine is measured, at the leader or at a follower."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress

import grpc

from rusd.pb import rpc_pb2 as rpc
from tests.bench import requests
from tests.bench.load import LoadError
from tests.bench.site import STREAMS, Group, Site, Workload, call, nothing, one, status_of
from tests.bench.workloads import one_key
from tests.members import Member, NotReadyError, wait_for

_PUT = "/etcdserverpb.KV/Put"
_RANGE = "/etcdserverpb.KV/Range"
_MEMBER_ADD = "/etcdserverpb.Cluster/MemberAdd"
_MEMBER_LIST = "/etcdserverpb.Cluster/MemberList"
_MEMBER_REMOVE = "/etcdserverpb.Cluster/MemberRemove"
_BULK_VALUE = requests.RANDOM * 8192
_CATCH_UP_SECONDS = 240.0
_CHANGE_SECONDS = 60.0

Aim = Callable[[Site], Member]


def _aimed(name: str, aim: Aim, measure: Callable[[Site, int], float]) -> Workload:
    """A row of load on one member, by its port; a change of leader meanwhile fails it."""

    def steady(site: Site) -> float:
        leader = site.leader()
        figure = measure(site, aim(site).client_port)
        if site.leader() is not leader:
            raise LoadError("the leader changed")
        return figure

    return one(name, steady)


def _puts(name: str, aim: Aim, connections: int, streams: int = STREAMS) -> Workload:
    return _aimed(
        name,
        aim,
        lambda site, port: (
            site.generators.closed(
                port, _PUT, requests.put(name), connections, streams, seconds=site.sizes.seconds
            ).rate
        ),
    )


def _ranges(name: str, aim: Aim, connections: int) -> Workload:
    body = requests.get("one", 0)
    return _aimed(
        name, aim, lambda site, port: site.repeat(_RANGE, body, connections, STREAMS, port)
    )


def _bulk(site: Site) -> None:
    """Put 1 GB into two of three members."""
    body = requests.put("bulk", value=_BULK_VALUE)
    leader = site.leader()
    counted = site.generators.closed(
        leader.client_port, _PUT, body, 8, STREAMS, count=site.sizes.bulk_keys
    )
    assert counted.calls == site.sizes.bulk_keys


def _catch_up(site: Site) -> float:
    """Seconds from the third member's first start until it has all that the leader had."""
    return _caught_up(site, site.members[-1])


def _caught_up(site: Site, fresh: Member) -> float:
    revision = status_of(site.leader()).header.revision
    begin = time.monotonic()
    fresh.launch()
    with fresh.channel() as channel:
        count = channel.unary_unary(
            _RANGE,
            request_serializer=rpc.RangeRequest.SerializeToString,
            response_deserializer=rpc.RangeResponse.FromString,
        )
        everything = rpc.RangeRequest(
            key=requests.key("bulk", 0),
            range_end=requests.key("bulk", site.sizes.bulk_keys),
            count_only=True,
            serializable=True,
        )

        def has_all() -> bool:
            if fresh not in site.running:
                raise NotReadyError(f"the fresh member ended; log:\n{fresh.log[-2000:]}")
            with suppress(grpc.RpcError):
                return bool(count(everything, timeout=5).header.revision >= revision)
            return False

        wait_for(has_all, _CATCH_UP_SECONDS, "the fresh member's catching up")
        took = time.monotonic() - begin
        if count(everything, timeout=5).count != site.sizes.bulk_keys:
            raise LoadError("the fresh member does not have all keys")
    return took


def _serving(site: Site) -> float:
    """Percent: puts answered while a fresh member catches up, of those once it has, closed loop.

    Not of those before: two members share this machine then, and three during and after.
    """
    fresh = site.members[-1]
    _renew(site, fresh)
    leader = site.leader()
    body = requests.put("serving")
    with site.generators.saturating(leader.client_port, _PUT, body, 8, STREAMS) as latencies:
        time.sleep(site.sizes.seconds / 2)  # to warm up
        begin = time.monotonic_ns()
        _caught_up(site, fresh)
        caught_up = time.monotonic_ns()
        time.sleep(site.sizes.seconds / 2)  # what it still lacks of the log
        then = time.monotonic_ns()
        time.sleep(site.sizes.seconds)
        end = time.monotonic_ns()
    if latencies.failed:
        raise LoadError(f"{latencies.failed} puts failed")
    if site.leader() is not leader:
        raise LoadError("the leader changed")
    return 100 * latencies.rate(begin, caught_up) / latencies.rate(then, end)


def _renew(site: Site, member: Member) -> None:
    """Remove the member, wipe it, and add it again, not started."""
    leader = site.leader()
    members = call(leader, _MEMBER_LIST, rpc.MemberListRequest(), rpc.MemberListResponse).members
    (identity,) = (each.ID for each in members if member.peer_url in each.peerURLs)
    removal = rpc.MemberRemoveRequest(ID=identity)
    addition = rpc.MemberAddRequest(peerURLs=[member.peer_url])
    # The first is refused for a while after a member's start, as it is not connected for long.
    _changed(lambda: call(leader, _MEMBER_REMOVE, removal, rpc.MemberRemoveResponse))
    member.close()
    shutil.rmtree(member.data_dir)
    _changed(lambda: call(leader, _MEMBER_ADD, addition, rpc.MemberAddResponse))
    member.flags = (*member.flags, "--initial-cluster-state", "existing")


def _changed(change: Callable[[], object]) -> None:
    """Change the members; again while the cluster says that it is not healthy enough for it."""

    def changes() -> bool:
        try:
            change()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True

    wait_for(changes, _CHANGE_SECONDS, "a change of members")


GROUPS: tuple[Group, ...] = (
    Group(
        "three-put",
        nothing,
        (
            _puts("three-serial", Site.leader, 1, 1),
            _puts("three-8", Site.leader, 8),
            _puts("three-64", Site.leader, 64),
            _puts("three-follower-64", Site.follower, 64),
        ),
        members=3,
    ),
    Group(
        "three-range",
        one_key,
        (
            _ranges("three-range-64", Site.leader, 64),
            _ranges("three-range-follower-64", Site.follower, 64),
        ),
        members=3,
    ),
    Group(
        "bulk",
        _bulk,
        (one("catch-up", _catch_up), one("serving", _serving)),
        members=3,
        absent=1,
        rounds=lambda _: 1,
    ),
)
