"""How each figure is measured on one member: the data that it needs, the load, the number.

Workloads that need the same data form a group and run in order on one fresh member.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rusd.pb import rpc_pb2 as rpc
from tests.bench import requests
from tests.bench.load import LoadError, records
from tests.bench.machine import descendants
from tests.bench.site import STREAMS, Group, Site, Workload, nothing, one

_PUT = "/etcdserverpb.KV/Put"
_TXN = "/etcdserverpb.KV/Txn"
_RANGE = "/etcdserverpb.KV/Range"
_WATCH = "/etcdserverpb.Watch/Watch"
_GRANT = "/etcdserverpb.Lease/LeaseGrant"
_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
_COMPACT = "/etcdserverpb.KV/Compact"
_DEFRAGMENT = "/etcdserverpb.Maintenance/Defragment"
_PACE = 1000
_PACED_CONNECTIONS = 8
_FIRST_LEASE = 10**12
_KEPT_LEASES = 100
_SETTLE_SECONDS = 2.0


def _distinct_puts(name: str, connections: int, streams: int = STREAMS) -> Workload:
    return one(
        name,
        lambda site: (
            site.generators.closed(
                site.port,
                _PUT,
                requests.put(name),
                connections,
                streams,
                seconds=site.sizes.seconds,
            ).rate
        ),
    )


def _repeated(
    name: str, path: str, body: bytes, connections: int, streams: int = STREAMS
) -> Workload:
    return one(name, lambda site: site.repeat(path, body, connections, streams))


def _updates(site: Site) -> float:
    bodies, revision_at = requests.following_puts("update")
    return site.generators.closed(
        *(site.port, _TXN, bodies, 64, STREAMS, "--revision-at", revision_at),
        seconds=site.sizes.seconds,
    ).rate


def _creates(site: Site) -> float:
    body = requests.guarded_put("create", requests.CALL_NUMBER, 0)
    return site.generators.closed(
        site.port, _TXN, body, 64, STREAMS, seconds=site.sizes.seconds
    ).rate


def one_key(site: Site) -> None:
    """Put one key."""
    key = requests.key("one", 0)
    site.call(_PUT, rpc.PutRequest(key=key, value=requests.VALUE), rpc.PutResponse)


def _many_ranges(site: Site) -> None:
    site.fill("range", site.sizes.keys)


def _span(name: str, body: Callable[[int], bytes]) -> Workload:
    """A range over the first keys, given how many there are; 4 connections, one call at a time."""
    return one(name, lambda site: site.repeat(_RANGE, body(site.sizes.keys), 4, 1))


def _fan_out(watchers: int) -> Workload:
    """Events of all watchers, from the first put to the last event that the last of them got."""
    name = f"watch-{watchers}"

    def measure(site: Site) -> float:
        counted = site.generators.closed(
            *(site.port, _PUT, requests.put(name), 8, STREAMS),
            *site.generators.watching(_WATCH, requests.watch(name), watchers, min(watchers, 10)),
            count=site.sizes.watched_puts[watchers],
        )
        return counted.events / counted.event_seconds

    return one(name, measure)


def _delay(site: Site) -> Mapping[str, float]:
    file = site.generators.folder / "events"
    site.generators.paced(
        *(site.port, _PUT, requests.put("delay"), 1, _PACE, "--events", file),
        *("--count", site.sizes.paced_puts),
        *site.generators.watching(_WATCH, requests.watch("delay"), 1, 1),
    )
    # The first tenth warms the connection up.
    delays = [took / 1e6 for _, took in records(file)[site.sizes.paced_puts // 10 :]]
    cuts = statistics.quantiles(delays, n=100)
    return {"delay-p50": cuts[49], "delay-p99": cuts[98]}


def _keep_alives(site: Site) -> float:
    leases = range(_FIRST_LEASE, _FIRST_LEASE + _KEPT_LEASES)
    for lease in leases:
        site.call(_GRANT, rpc.LeaseGrantRequest(TTL=3600, ID=lease), rpc.LeaseGrantResponse)
    bodies = [requests.keep_alive(lease) for lease in leases]
    return site.generators.echo(site.port, _KEEP_ALIVE, bodies, 10, site.sizes.seconds).rate


def resident(pid: int) -> tuple[float, float]:
    """Resident memory of a process and all that it started: (all of it, the anonymous part), MB."""
    whole = anonymous = 0.0
    for process in descendants(pid):
        status = Path(f"/proc/{process}/status").read_text()
        sizes = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        whole += int(sizes["VmRSS"].split()[0]) * 1024 / 1e6
        anonymous += int(sizes["RssAnon"].split()[0]) * 1024 / 1e6
    return whole, anonymous


def _memory(site: Site) -> tuple[float, float]:
    time.sleep(_SETTLE_SECONDS)
    assert site.member.process is not None
    return resident(site.member.process.pid)


def _many_puts(site: Site) -> None:
    site.generators.closed(
        site.port, _PUT, requests.put("many"), 64, STREAMS, count=site.sizes.many_keys
    )


def _many_memory(site: Site) -> Mapping[str, float]:
    whole, anonymous = _memory(site)
    return {"memory-1m": whole, "anon-1m": anonymous}


def _restart(site: Site) -> float:
    site.restart()
    return site.start_seconds


def worst_put(site: Site, during: Callable[[], object], pace: int = _PACE) -> float:
    """The slowest put (ms) of those in flight while `during` ran, at a fixed rate a second."""
    body = requests.put("worst")
    with site.generators.pressing(site.port, _PUT, body, _PACED_CONNECTIONS, pace) as latencies:
        time.sleep(site.sizes.quiet_seconds)
        begin = time.monotonic_ns()
        during()
        end = time.monotonic_ns()
        time.sleep(site.sizes.quiet_seconds / 3)
    if latencies.failed:
        raise LoadError(f"{latencies.failed} puts failed")
    return latencies.worst_ms(begin, end)


def _worst_quiet(site: Site) -> float:
    return worst_put(site, lambda: time.sleep(site.sizes.quiet_seconds))


def _worst_compact(site: Site) -> float:
    """Overwrite each key once, then compact: so many revisions go."""
    keys = site.sizes.many_keys
    counted = site.generators.closed(site.port, _PUT, requests.put("many"), 64, STREAMS, count=keys)
    assert counted.calls == keys
    now = site.call(_RANGE, rpc.RangeRequest(key=b"none"), rpc.RangeResponse).header.revision
    request = rpc.CompactionRequest(revision=now, physical=True)
    return worst_put(site, lambda: site.call(_COMPACT, request, rpc.CompactionResponse))


def _worst_defrag(site: Site) -> float:
    request = rpc.DefragmentRequest()
    return worst_put(site, lambda: site.call(_DEFRAGMENT, request, rpc.DefragmentResponse))


_ONE = requests.get("one", 0)
_ONE_SERIALIZABLE = requests.get("one", 0, serializable=True)

GROUPS: tuple[Group, ...] = (
    Group(
        "start",
        nothing,
        (
            one("start-empty", lambda site: site.start_seconds),
            one("memory-idle", lambda site: _memory(site)[0]),
        ),
    ),
    Group(
        "put",
        nothing,
        (
            _distinct_puts("put-serial", 1, 1),
            _distinct_puts("put-1", 1),
            _distinct_puts("put-8", 8),
            _distinct_puts("put-64", 64),
            _repeated("put-same-8", _PUT, requests.put("same", 0), 8),
            _repeated("put-same-64", _PUT, requests.put("same", 0), 64),
        ),
    ),
    Group(
        "range",
        one_key,
        (
            _repeated("range-8", _RANGE, _ONE, 8),
            _repeated("range-64", _RANGE, _ONE, 64),
            _repeated("serial-8", _RANGE, _ONE_SERIALIZABLE, 8),
            _repeated("serial-64", _RANGE, _ONE_SERIALIZABLE, 64),
        ),
    ),
    Group(
        "tls",
        one_key,
        (
            one("tls-put", lambda site: site.repeat_with_tls(_PUT, requests.put("same", 0), 64)),
            one("tls-range", lambda site: site.repeat_with_tls(_RANGE, _ONE, 64)),
        ),
        tls=True,
    ),
    Group(
        "txn",
        one_key,
        (
            one("txn-update-64", _updates),
            one("txn-create-64", _creates),
            # The key was put once, so its mod revision is at least 2 and never 1.
            _repeated("txn-conflict-64", _TXN, requests.guarded_put("one", 0, 1), 64),
        ),
    ),
    Group(
        "span",
        _many_ranges,
        (
            _span("range-10k", lambda keys: requests.span("range", keys // 10)),
            _span("limit-500", lambda keys: requests.span("range", keys, limit=500)),
            _span("count-only", lambda keys: requests.span("range", keys, count_only=True)),
        ),
    ),
    Group("watch", nothing, (_fan_out(1), _fan_out(100), _fan_out(1000))),
    Group("delay", nothing, (Workload(("delay-p50", "delay-p99"), _delay),)),
    Group(
        "lease",
        nothing,
        (
            _repeated("lease-grant", _GRANT, requests.lease_grant(), 64),
            one("keep-alive", _keep_alives),
        ),
    ),
    Group(
        "many",
        _many_puts,
        (
            Workload(("memory-1m", "anon-1m"), _many_memory),
            one("restart-1m", _restart),
            one("worst-quiet", _worst_quiet),
            one("worst-compact", _worst_compact),
            one("worst-defrag", _worst_defrag),
        ),
        rounds=lambda sizes: sizes.many_rounds,
    ),
)
