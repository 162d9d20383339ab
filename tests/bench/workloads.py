"""How each figure is measured on one member: the data that it needs, the load, the number.

Workloads that need the same data form a group and run in order on one fresh member.
"""

import http.client
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from rusd.pb import rpc_pb2 as rpc
from tests.bench import requests
from tests.bench.load import Generators, LoadError, records
from tests.bench.machine import descendants
from tests.members import Member, NotReadyError

STREAMS = 16
_PUT = "/etcdserverpb.KV/Put"
_TXN = "/etcdserverpb.KV/Txn"
_RANGE = "/etcdserverpb.KV/Range"
_WATCH = "/etcdserverpb.Watch/Watch"
_GRANT = "/etcdserverpb.Lease/LeaseGrant"
_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
_COMPACT = "/etcdserverpb.KV/Compact"
_DEFRAGMENT = "/etcdserverpb.Maintenance/Defragment"
_PUTS_A_TXN = 100
_PACE = 1000
_PACED_CONNECTIONS = 8
_FIRST_LEASE = 10**12
_KEPT_LEASES = 100
_SETTLE_SECONDS = 2.0
_CALL_SECONDS = 300.0
_READY_SECONDS = 120.0

Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done; the defaults are what the table names."""

    rounds: int = 3
    many_rounds: int = 2
    seconds: float = 2.0
    keys: int = 100_000
    many_keys: int = 1_000_000
    watched_puts: Mapping[int, int] = field(
        default_factory=lambda: {1: 60_000, 100: 20_000, 1000: 5_000}
    )
    paced_puts: int = 5_000
    quiet_seconds: float = 3.0


SHORT = Sizes(
    rounds=1,
    many_rounds=1,
    seconds=0.5,
    keys=10_000,
    many_keys=20_000,
    watched_puts={1: 4_000, 100: 500, 1000: 100},
    paced_puts=1_000,
    quiet_seconds=0.5,
)


@dataclass
class Site:
    """A member, and what measures it."""

    member: Member
    generators: Generators
    sizes: Sizes
    start_seconds: float = 0.0

    @property
    def port(self) -> int:
        """Where the member serves clients."""
        return self.member.client_port

    @property
    def pid(self) -> int | None:
        """The member's process."""
        return None if self.member.process is None else self.member.process.pid

    def start(self) -> None:
        """Start the member; keep how long it took until /health answered true."""
        begin = time.monotonic()
        self.member.launch()
        while not self._healthy():
            assert self.member.process is not None
            if (status := self.member.process.poll()) is not None:
                raise NotReadyError(f"ended with status {status}; log:\n{self.member.log[-2000:]}")
            if time.monotonic() - begin > _READY_SECONDS:
                raise NotReadyError(f"not healthy; log:\n{self.member.log[-2000:]}")
            time.sleep(0.002)
        self.start_seconds = time.monotonic() - begin

    def call(self, path: str, request: Message, response: type[Response]) -> Response:
        """One call through the official client; raises grpc.RpcError."""
        with self.member.channel() as channel:
            method = channel.unary_unary(
                path,
                request_serializer=type(request).SerializeToString,
                response_deserializer=response.FromString,
            )
            answer = method(request, timeout=_CALL_SECONDS)
            assert isinstance(answer, response)
            return answer

    def repeat(self, path: str, body: bytes, connections: int, streams: int = STREAMS) -> float:
        """Calls a second with one body, by h2load."""
        return self.generators.h2load(
            self.port, path, body, connections, streams, self.sizes.seconds
        )

    def fill(self, folder: str, keys: int) -> None:
        """Put so many distinct keys, in transactions."""
        body = requests.puts(folder, _PUTS_A_TXN)
        self.generators.closed(self.port, _TXN, body, 8, 4, count=keys // _PUTS_A_TXN)

    def _healthy(self) -> bool:
        with (
            closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection,
            suppress(OSError, http.client.HTTPException),
        ):
            connection.request("GET", "/health")
            return b'"true"' in connection.getresponse().read()
        return False


Measure = Callable[[Site], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows of the table that one run of the load gives."""

    rows: tuple[str, ...]
    measure: Measure


@dataclass(frozen=True, slots=True)
class Group:
    """Workloads on the same data, which `prepare` puts into a fresh member."""

    name: str
    prepare: Callable[[Site], None]
    workloads: tuple[Workload, ...]
    many: bool = False


def _nothing(site: Site) -> None:
    """Leave the member empty."""


def _one(name: str, measure: Callable[[Site], float]) -> Workload:
    return Workload((name,), lambda site: {name: measure(site)})


def _distinct_puts(name: str, connections: int, streams: int = STREAMS) -> Workload:
    return _one(
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
    return _one(name, lambda site: site.repeat(path, body, connections, streams))


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


def _one_key(site: Site) -> None:
    with site.member.channel() as channel:
        channel.unary_unary(_PUT)(requests.put("one", 0)[5:], timeout=_CALL_SECONDS)


def _many_ranges(site: Site) -> None:
    site.fill("range", site.sizes.keys)


def _span(name: str, body: Callable[[int], bytes]) -> Workload:
    """A range over the first keys, given how many there are; 4 connections, one call at a time."""
    return _one(name, lambda site: site.repeat(_RANGE, body(site.sizes.keys), 4, 1))


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

    return _one(name, measure)


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
    site.member.stop()
    site.start()
    return site.start_seconds


def _worst_put(site: Site, during: Callable[[], object]) -> float:
    """The slowest put (ms) of those that were in flight while `during` ran, at a fixed rate."""
    body = requests.put("worst")
    with site.generators.pressing(site.port, _PUT, body, _PACED_CONNECTIONS, _PACE) as latencies:
        time.sleep(site.sizes.quiet_seconds)
        begin = time.monotonic_ns()
        during()
        end = time.monotonic_ns()
        time.sleep(site.sizes.quiet_seconds / 3)
    if latencies.failed:
        raise LoadError(f"{latencies.failed} puts failed")
    return latencies.worst_ms(begin, end)


def _worst_quiet(site: Site) -> float:
    return _worst_put(site, lambda: time.sleep(site.sizes.quiet_seconds))


def _worst_compact(site: Site) -> float:
    """Overwrite each key once, then compact: so many revisions go."""
    keys = site.sizes.many_keys
    counted = site.generators.closed(site.port, _PUT, requests.put("many"), 64, STREAMS, count=keys)
    assert counted.calls == keys
    now = site.call(_RANGE, rpc.RangeRequest(key=b"none"), rpc.RangeResponse).header.revision
    request = rpc.CompactionRequest(revision=now, physical=True)
    return _worst_put(site, lambda: site.call(_COMPACT, request, rpc.CompactionResponse))


def _worst_defrag(site: Site) -> float:
    request = rpc.DefragmentRequest()
    return _worst_put(site, lambda: site.call(_DEFRAGMENT, request, rpc.DefragmentResponse))


_ONE = requests.get("one", 0)
_ONE_SERIALIZABLE = requests.get("one", 0, serializable=True)

GROUPS: tuple[Group, ...] = (
    Group(
        "start",
        _nothing,
        (
            _one("start-empty", lambda site: site.start_seconds),
            _one("memory-idle", lambda site: _memory(site)[0]),
        ),
    ),
    Group(
        "put",
        _nothing,
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
        _one_key,
        (
            _repeated("range-8", _RANGE, _ONE, 8),
            _repeated("range-64", _RANGE, _ONE, 64),
            _repeated("serial-8", _RANGE, _ONE_SERIALIZABLE, 8),
            _repeated("serial-64", _RANGE, _ONE_SERIALIZABLE, 64),
        ),
    ),
    Group(
        "txn",
        _one_key,
        (
            _one("txn-update-64", _updates),
            _one("txn-create-64", _creates),
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
    Group("watch", _nothing, (_fan_out(1), _fan_out(100), _fan_out(1000))),
    Group("delay", _nothing, (Workload(("delay-p50", "delay-p99"), _delay),)),
    Group(
        "lease",
        _nothing,
        (
            _repeated("lease-grant", _GRANT, requests.lease_grant(), 64),
            _one("keep-alive", _keep_alives),
        ),
    ),
    Group(
        "many",
        _many_puts,
        (
            Workload(("memory-1m", "anon-1m"), _many_memory),
            _one("restart-1m", _restart),
            _one("worst-quiet", _worst_quiet),
            _one("worst-compact", _worst_compact),
            _one("worst-defrag", _worst_defrag),
        ),
        many=True,
    ),
)
