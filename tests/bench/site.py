"""Where a figure is measured: fresh members of one cluster, the load, how much of it."""

import http.client
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from rusd.pb import rpc_pb2 as rpc
from tests.bench import requests
from tests.bench.load import Generators
from tests.certificates import Certificates
from tests.members import Member, NotReadyError, free_ports, wait_for

STREAMS = 16
_STATUS = "/etcdserverpb.Maintenance/Status"
_TXN = "/etcdserverpb.KV/Txn"
_PUTS_A_TXN = 100
_CALL_SECONDS = 600.0
_READY_SECONDS = 240.0
_PORT_ATTEMPTS = 3

Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done; the defaults are what the table names."""

    rounds: int = 3
    many_rounds: int = 2
    seconds: float = 2.0
    keys: int = 100_000
    many_keys: int = 1_000_000
    bulk_keys: int = 125_000
    """Keys with values of 8 KiB, so 1 GB."""
    store_gb: float = 10
    """Values of the large store, in 10^9 bytes."""
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
    bulk_keys=2_000,
    store_gb=0.02,
    watched_puts={1: 4_000, 100: 500, 1000: 100},
    paced_puts=1_000,
    quiet_seconds=0.5,
)


class PortTakenError(NotReadyError):
    """A member could not listen: something took one of its ports since it was found free."""


def not_ready(member: Member, what: str) -> NotReadyError:
    """What to raise when a member ended or does not serve, with the end of its log."""
    log = member.log[-2000:]
    taken = "address already in use" in log.lower()
    return (PortTakenError if taken else NotReadyError)(f"{what}; log:\n{log}")


def retried(attempt: Callable[[], Result]) -> Result:
    """Do it; again where a port was taken, as each attempt takes other ports, a few times."""
    for _ in range(_PORT_ATTEMPTS - 1):
        with suppress(PortTakenError):
            return attempt()
    return attempt()


def members_of(
    command: Sequence[str], folder: Path, flags: Sequence[str], count: int
) -> list[Member]:
    """The members of one new cluster, not started."""
    names = [f"infra{number}" for number in range(1, count + 1)]
    members = [Member(command, folder / name, flags, name=name) for name in names]
    ports = free_ports(2 * count)  # found together: what is found one by one may be found twice
    for member in members:
        member.client_port, member.peer_port = ports.pop(), ports.pop()
    for member in members:
        member.initial_cluster = initial_cluster(members)
    return members


def initial_cluster(members: Sequence[Member]) -> str:
    """Names and peer URLs, as the flag takes them."""
    return ",".join(f"{member.name}={member.peer_url}" for member in members)


def status_of(member: Member) -> rpc.StatusResponse:
    """What the member says of itself; raises grpc.RpcError."""
    return call(member, _STATUS, rpc.StatusRequest(), rpc.StatusResponse, seconds=5)


def call(
    member: Member,
    path: str,
    request: Message,
    response: type[Response],
    seconds: float = _CALL_SECONDS,
) -> Response:
    """One call through the official client; raises grpc.RpcError."""
    with member.channel() as channel:
        method = channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        # A busy machine may take longer to connect than the channel waits for one attempt.
        answer = method(request, timeout=seconds, wait_for_ready=True)
        assert isinstance(answer, response)
        return answer


@dataclass
class Site:
    """The members of a cluster, and what measures them."""

    members: list[Member]
    generators: Generators
    sizes: Sizes
    start_seconds: float = 0.0
    prepare_seconds: float = 0.0
    """How long it took to put the data of the group into the members."""
    prepare_others: float = 0.0
    """The share of the machine that other processes took meanwhile."""
    tls_port: int = 0
    """Where the first member serves clients with TLS, if it does."""

    @property
    def member(self) -> Member:
        """The only member, or the first."""
        return self.members[0]

    @property
    def port(self) -> int:
        """Where that member serves clients."""
        return self.member.client_port

    @property
    def running(self) -> list[Member]:
        """The members that were started and did not end."""
        return [each for each in self.members if each.process and each.process.poll() is None]

    @property
    def pids(self) -> list[int]:
        """Their processes."""
        return [each.process.pid for each in self.running if each.process]

    def start(self) -> None:
        """Start all; keep how long it took until /health answered true."""
        begin = time.monotonic()
        for member in self.members:
            member.launch()
        for member in self.members:
            while not _healthy(member):
                self._check_running()
                if time.monotonic() - begin > _READY_SECONDS:
                    raise not_ready(member, f"{member.name} is not healthy")
                time.sleep(0.002)
        self.start_seconds = time.monotonic() - begin
        # What answered may have been another server on a port that was taken.
        self._check_running()

    def _check_running(self) -> None:
        for member in self.members:
            if member not in self.running:
                raise not_ready(member, f"{member.name} ended")

    def restart(self, between: Callable[[], object] = lambda: None) -> None:
        """Stop the only member, do what is to be done in between, and start it again."""
        (member,) = self.members
        member.stop()
        between()

        def attempt() -> None:
            try:
                self.start()
            except PortTakenError:
                member.close()
                # One that has its data goes by its own notes of where the members are.
                member.client_port, member.peer_port = free_ports(2)
                member.initial_cluster = initial_cluster(self.members)
                raise

        retried(attempt)

    def close(self) -> None:
        """End all members."""
        for member in self.members:
            member.close()

    def leader(self) -> Member:
        """The member that leads the others; waits until there is one."""
        found: list[Member] = []

        def leads() -> bool:
            for member in self.running:
                with suppress(grpc.RpcError):
                    status = status_of(member)
                    if status.leader and status.leader == status.header.member_id:
                        found.append(member)
            return bool(found)

        wait_for(leads, _READY_SECONDS, "a leader")
        return found[0]

    def follower(self) -> Member:
        """A member that runs and does not lead."""
        leader = self.leader()
        return next(member for member in self.running if member is not leader)

    def call(self, path: str, request: Message, response: type[Response]) -> Response:
        """One call to the first member through the official client; raises grpc.RpcError."""
        return call(self.member, path, request, response)

    def repeat(
        self,
        path: str,
        body: bytes,
        connections: int,
        streams: int = STREAMS,
        port: int | None = None,
    ) -> float:
        """Calls a second with one body, by h2load."""
        return self.generators.h2load(
            port or self.port, path, body, connections, streams, self.sizes.seconds
        )

    def repeat_with_tls(self, path: str, body: bytes, connections: int) -> float:
        """The same with TLS."""
        return self.generators.h2load(
            self.tls_port, path, body, connections, STREAMS, self.sizes.seconds, "https"
        )

    def serve_tls(self) -> None:
        """Let the first member, which does not run yet, serve clients with TLS too."""
        (self.tls_port,) = free_ports(1)
        member = self.member
        certificates = Certificates.made(member.folder / "certificates")
        urls = f"{member.client_url},https://{member.host}:{self.tls_port}"
        member.flags = (
            *member.flags,
            *("--listen-client-urls", urls),
            *certificates.pair("server"),
        )

    def fill(self, folder: str, keys: int) -> None:
        """Put so many distinct keys, in transactions."""
        body = requests.puts(folder, _PUTS_A_TXN)
        self.generators.closed(self.port, _TXN, body, 8, 4, count=keys // _PUTS_A_TXN)


def _healthy(member: Member) -> bool:
    with (
        closing(
            http.client.HTTPConnection("127.0.0.1", member.client_port, timeout=5)
        ) as connection,
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
    """Workloads on the same data, which `prepare` puts into fresh members."""

    name: str
    prepare: Callable[[Site], None]
    workloads: tuple[Workload, ...]
    members: int = 1
    flags: tuple[str, ...] = ()
    """What the members need beside the flags that all have."""
    tls: bool = False
    """Whether the first member serves clients with TLS too."""
    rounds: Callable[[Sizes], int] = lambda sizes: sizes.rounds


def nothing(site: Site) -> None:
    """Leave the members empty."""


def one(name: str, measure: Callable[[Site], float]) -> Workload:
    """A workload that gives one row."""
    return Workload((name,), lambda site: {name: measure(site)})
