"""How each figure of three members on this machine is measured, at the leader or at a follower."""

import time
from collections.abc import Callable

from rusd.pb import rpc_pb2 as rpc
from tests.bench import requests
from tests.bench.joining import catch_up, leave
from tests.bench.load import LoadError
from tests.bench.site import STREAMS, Group, Site, Workload, nothing, one
from tests.bench.workloads import one_key
from tests.members import Member

_PUT = "/etcdserverpb.KV/Put"
_RANGE = "/etcdserverpb.KV/Range"
_BULK_VALUE = requests.RANDOM * 8192

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
    """Put 1 GB into two members."""
    body = requests.put("bulk", value=_BULK_VALUE)
    leader = site.leader()
    counted = site.generators.closed(
        leader.client_port, _PUT, body, 8, STREAMS, count=site.sizes.bulk_keys
    )
    assert counted.calls == site.sizes.bulk_keys


def _everything(site: Site) -> rpc.RangeRequest:
    return rpc.RangeRequest(
        key=requests.key("bulk", 0),
        range_end=requests.key("bulk", site.sizes.bulk_keys),
        count_only=True,
        serializable=True,
    )


def _catch_up(site: Site) -> float:
    """Seconds from a third member's first start until it has all that the leader had."""
    return catch_up(site, _everything(site), site.sizes.bulk_keys)


def _serving(site: Site) -> float:
    """Percent: puts answered while a fresh member catches up, of those once it has, closed loop.

    Not of those before: two members share this machine then, and three during and after.
    """
    for third in site.members[2:]:
        leave(site, third)
    leader = site.leader()
    body = requests.put("serving")
    with site.generators.saturating(leader.client_port, _PUT, body, 8, STREAMS) as latencies:
        time.sleep(site.sizes.seconds / 2)  # to warm up
        took = catch_up(site, _everything(site), site.sizes.bulk_keys)
        caught_up = time.monotonic_ns()
        time.sleep(site.sizes.seconds / 2)  # what it still lacks of the log
        then = time.monotonic_ns()
        time.sleep(site.sizes.seconds)
        end = time.monotonic_ns()
    if latencies.failed:
        raise LoadError(f"{latencies.failed} puts failed")
    if site.leader() is not leader:
        raise LoadError("the leader changed")
    begin = caught_up - int(took * 1e9)
    return 100 * latencies.rate(begin, caught_up) / latencies.rate(then, end)


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
        members=2,
        # Else changes of the members wait until all were connected for some seconds.
        flags=("--strict-reconfig-check=false",),
        rounds=lambda _: 1,
    ),
)
