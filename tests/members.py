"""Members of real etcd and of rusd as processes of their own: start, stop, kill, always reaped.

Every test that needs a server takes one from here, so that "ready", "free port" and "gone" mean
the same thing everywhere.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc

from rusd.pb import rpc_pb2 as rpc
from tests.certificates import Certificates

READY_LINE = b"ready to serve client requests"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
_POLL_SECONDS = 0.02
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NotReadyError(RuntimeError):
    """A member ended, or did not serve, before its deadline; the text has the end of its log."""


def wait_for(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll `done` until it holds; raise TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(_POLL_SECONDS)


_given: deque[int] = deque(maxlen=4000)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on.

    They lie below the range that the kernel gives to outgoing connections (32768 on), and are not
    given twice soon, so that nothing else takes one of them before its member listens, or while
    that is down between kill and restart.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(16000, 32000)
        if port in _given:
            continue
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        _given.append(port)
    return ports


def rusd_command() -> tuple[str, ...]:
    """The `rusd` script of the environment that runs the tests."""
    return (str(Path(sys.executable).with_name("rusd")),)


@dataclass(eq=False)
class Member:
    """One server process and what it needs: a data directory, two ports, a log file.

    `command` is the program with its leading arguments; etcd's flags are added to it. Without
    `initial_cluster` it is the only member of its cluster.
    """

    command: Sequence[str]
    folder: Path
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    name: str = "default"
    host: str = "127.0.0.1"
    initial_cluster: str = ""
    initial_cluster_state: str = "new"
    certificates: Certificates | None = None
    """Serves clients and members with TLS alone, and asks both for certificates."""

    def __post_init__(self) -> None:
        """Take the ports; they stay the member's own over restarts."""
        self.client_port, self.peer_port = free_ports(2)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data_dir = self.folder / "data"
        self.log_file = self.folder / "log"

    @property
    def target(self) -> str:
        """`host:port` of the client API."""
        return f"{self.host}:{self.client_port}"

    @property
    def client_url(self) -> str:
        """The advertised client URL."""
        return f"{self._scheme}://{self.target}"

    @property
    def peer_url(self) -> str:
        """The advertised peer URL."""
        return f"{self._scheme}://{self.host}:{self.peer_port}"

    @property
    def _scheme(self) -> str:
        return "http" if self.certificates is None else "https"

    @property
    def log(self) -> str:
        """All that the member wrote, over all its starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def arguments(self) -> list[str]:
        """The whole command line."""
        return [
            *self.command,
            *("--name", self.name, "--data-dir", str(self.data_dir)),
            *("--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url),
            *("--listen-peer-urls", self.peer_url),
            *("--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", self.initial_cluster or f"{self.name}={self.peer_url}"),
            *("--initial-cluster-state", self.initial_cluster_state),
            *(self.certificates.flags if self.certificates else ()),
            *self.flags,
        ]

    def launch(self) -> None:
        """Start the process; return at once, ready or not."""
        assert self.process is None, "the member is running"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("ETCD")
        }
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment, **self.environment},
                cwd=self.folder,
            )

    def start(self, seconds: float = START_SECONDS) -> Self:
        """Start the process and wait until it serves: its log says so and /health answers true."""
        self.launch()
        return self.wait_ready(seconds)

    def wait_ready(self, seconds: float = START_SECONDS, healthy: bool = True) -> Self:
        """Wait until the launched process serves; one with an alarm is never `healthy`."""
        try:
            wait_for(self._says_ready, seconds, "the ready line")
            if healthy:
                wait_for(self._healthy, seconds, "/health")
        except (TimeoutError, NotReadyError) as error:
            self.close()
            raise NotReadyError(f"{self.name}: {error}; log:\n{self.log[-4000:]}") from None
        return self

    def wait_exit(self, seconds: float = START_SECONDS) -> int:
        """Wait until the process ends by itself; return its exit status."""
        assert self.process is not None, "the member is not running"
        status = self.process.wait(seconds)
        self.process = None
        return status

    def stop(self) -> None:
        """Ask the process to end (SIGTERM) and wait until it has; it must end in time."""
        self.terminate()
        self.wait_exit(STOP_SECONDS)

    def terminate(self) -> None:
        """SIGTERM: ask the process to end; return at once."""
        assert self.process is not None, "the member is not running"
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill -9, and reap."""
        assert self.process is not None, "the member is not running"
        self.process.kill()
        self.wait_exit(STOP_SECONDS)

    def pause(self) -> None:
        """SIGSTOP: the process stands still until `resume`."""
        assert self.process is not None, "the member is not running"
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None, "the member is not running"
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Leave no process behind, whatever state it is in."""
        if self.process is not None:
            self.kill()

    def channel(self) -> grpc.Channel:
        """A new gRPC channel to the member; the caller closes it."""
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
        ]
        if self.certificates is None:
            return grpc.insecure_channel(self.target, options)
        return grpc.secure_channel(self.target, self.certificates.credentials(), options)

    def _says_ready(self) -> bool:
        assert self.process is not None, "the member is not running"
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            if READY_LINE in log.read():
                return True
        if (status := self.process.poll()) is not None:
            self.process = None
            raise NotReadyError(f"ended with status {status} before it was ready")
        return False

    def _healthy(self) -> bool:
        opener = _direct
        if self.certificates is not None:
            handler = urllib.request.HTTPSHandler(context=self.certificates.context())
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
        with suppress(OSError), opener.open(f"{self.client_url}/health", timeout=5) as answer:
            return answer.status == 200 and b'"true"' in answer.read()
        return False


@contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Member]:
    """A member that is ready inside the `with` block and gone after it."""
    member = Member(command, folder, flags, environment or {})
    try:
        yield member.start()
    finally:
        member.close()


class Cluster:
    """Members that form one cluster, by static bootstrap. `members` may be changed by a test."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        size: int = 3,
        flags: Sequence[str] = (),
        certificates: Certificates | None = None,
    ) -> None:
        """Make the members, named m1 to m<size>; none is started."""
        self.certificates = certificates
        self.members = [
            Member(
                command, folder / f"m{number}", flags, name=f"m{number}", certificates=certificates
            )
            for number in range(1, size + 1)
        ]
        self.name_members()

    def name_members(self) -> None:
        """Tell every member who the members are, to begin a new cluster with."""
        everyone = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            member.initial_cluster = everyone

    @property
    def running(self) -> list[Member]:
        """The members that have a process."""
        return [member for member in self.members if member.process is not None]

    @property
    def endpoints(self) -> str:
        """As `etcdctl --endpoints` takes them."""
        return ",".join(member.target for member in self.members)

    def start(self, seconds: float = START_SECONDS) -> Self:
        """Start all members that are not running, and wait until every one serves."""
        for member in self.members:
            if member.process is None:
                member.launch()
        for member in self.members:
            member.wait_ready(seconds)
        return self

    def leader(self, seconds: float = START_SECONDS) -> Member:
        """The running member that leads, as it says itself; waits until there is one."""
        found: list[tuple[int, Member]] = []

        def leads() -> bool:
            for member in self.running:
                with suppress(grpc.RpcError), member.channel() as channel:
                    status: rpc.StatusResponse = channel.unary_unary(
                        "/etcdserverpb.Maintenance/Status",
                        request_serializer=rpc.StatusRequest.SerializeToString,
                        response_deserializer=rpc.StatusResponse.FromString,
                    )(rpc.StatusRequest(), timeout=1)
                    if status.leader == status.header.member_id:
                        found.append((status.raftTerm, member))
            return bool(found)

        wait_for(leads, seconds, "a leader")
        return max(found, key=lambda each: each[0])[1]

    def close(self) -> None:
        """Leave no process behind."""
        for member in self.members:
            member.close()


@contextmanager
def running_cluster(
    command: Sequence[str],
    folder: Path,
    size: int = 3,
    flags: Sequence[str] = (),
    certificates: Certificates | None = None,
) -> Iterator[Cluster]:
    """A cluster that is ready inside the `with` block and gone after it."""
    cluster = Cluster(command, folder, size, flags, certificates)
    try:
        yield cluster.start()
    finally:
        cluster.close()
