"""The launcher of a cluster on this machine: starts all, says how they are, leaves none behind."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from rusd.pb import rpc_pb2 as rpc
from tests.bench.machine import descendants
from tests.certificates import Certificates
from tests.members import wait_for

_ROOT = Path(__file__).parents[2]
_SECONDS = 90.0

Response = TypeVar("Response", bound=Message)


def call(
    port: int, method: str, request: Message, response: type[Response], seconds: float = 30
) -> Response:
    """One call to the member at the port."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        answer = channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )(request, timeout=seconds, wait_for_ready=True)
        assert isinstance(answer, response)
        return answer


def free_pairs(count: int) -> list[int]:
    """Ports that are free, like those after them, below the kernel's range for outgoing ones."""
    found: list[int] = []
    for port in range(26000, 28000, 2):
        with (
            suppress(OSError),
            closing(socket.socket()) as first,
            closing(socket.socket()) as next_,
        ):
            first.bind(("127.0.0.1", port))
            next_.bind(("127.0.0.1", port + 1))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports")


@dataclass
class Launcher:
    """A launcher with its members, and what it printed."""

    process: subprocess.Popen[bytes]
    output: Path
    ports: list[int]

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.output.read_text()

    def latest(self) -> dict[str, list[str]]:
        """The last table that it printed: cells by member."""
        rows = self.text.rpartition("NAME  ")[2].splitlines()[1:]
        cells = [re.split("  +", line) for line in rows]
        return {row[0]: row for row in cells if len(row) == 9}

    def wait_for_members(self, count: int = 3) -> None:
        """Until so many are shown healthy, one of them as the leader."""

        def all_serve() -> bool:
            assert self.process.poll() is None, self.text
            rows = self.latest().values()
            roles, healths = [row[2] for row in rows], [row[3] for row in rows]
            return roles.count("leader") == 1 and healths.count("healthy") == count

        wait_for(all_serve, _SECONDS, f"{count} members:\n{self.text}")

    def members(self) -> list[int]:
        """The process ids of the running members, in order."""
        return [pid for pid in descendants(self.process.pid) if pid != self.process.pid]


Launch = Callable[..., Launcher]


@pytest.fixture
def launch(subject_command: Sequence[str], tmp_path: Path) -> Iterator[Launch]:
    """Starts launchers: `launch(ports, *flags)`; ends what is left of them."""
    started: list[Launcher] = []

    def start(ports: list[int], *flags: str) -> Launcher:
        output = tmp_path / f"output{len(started)}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "cluster.local", "--data", str(tmp_path / "cluster")),
                    *("--client-ports", ",".join(map(str, ports))),
                    *("--command", shlex.join(subject_command), *flags),
                ],
                stdout=file,
                stderr=file,
                cwd=_ROOT,
                start_new_session=True,
            )
        started.append(Launcher(process, output, ports))
        return started[-1]

    yield start
    for launcher in started:
        if launcher.process.poll() is None:
            launcher.process.kill()
            launcher.process.wait()


def exists(pid: int) -> bool:
    """Whether there is such a process, which is not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("send", "number"),
    [(os.kill, signal.SIGINT), (os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)],
    ids=["SIGINT", "SIGINT to the group", "SIGTERM"],
)
def test_a_signal_stops_all_members_in_order(
    launch: Launch, send: Callable[[int, int], None], number: int
) -> None:
    launcher = launch(free_pairs(3))
    launcher.wait_for_members()
    members = launcher.members()
    assert len(members) == 3
    send(launcher.process.pid, number)
    assert launcher.process.wait(_SECONDS) == 0, launcher.text
    assert launcher.text.endswith("all members are stopped\n")
    assert "killed" not in launcher.text
    assert not any(map(exists, members))


@pytest.mark.timeout(300)
def test_all_connections_have_tls_if_asked(launch: Launch, tmp_path: Path) -> None:
    ports = free_pairs(3)
    launcher = launch(ports, "--tls")
    launcher.wait_for_members()
    folder = tmp_path / "cluster" / "certificates"
    assert f"--cacert={folder / 'ca.crt'}" in launcher.text
    certificates = Certificates(folder)
    with pytest.raises(grpc.RpcError):
        call(ports[0], "KV/Put", rpc.PutRequest(key=b"a"), rpc.PutResponse, seconds=2)
    with grpc.secure_channel(f"127.0.0.1:{ports[0]}", certificates.credentials()) as channel:
        status = channel.unary_unary("/etcdserverpb.Maintenance/Status")
        assert status(b"", timeout=_SECONDS)
    for port in ports:
        secured = certificates.context("peer")
        with (
            socket.create_connection(("127.0.0.1", port + 1), _SECONDS) as plain,
            secured.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            assert connection.version() is not None


@pytest.mark.timeout(300)
def test_the_next_start_goes_on_with_the_data(launch: Launch) -> None:
    ports = free_pairs(3)
    first = launch(ports)
    first.wait_for_members()
    call(ports[1], "KV/Put", rpc.PutRequest(key=b"kept", value=b"here"), rpc.PutResponse)
    first.process.terminate()
    first.process.wait(_SECONDS)
    second = launch(ports)
    second.wait_for_members()
    assert [row[-1] for row in second.latest().values()] == [
        row[-1] for row in first.latest().values()
    ]
    found = call(ports[2], "KV/Range", rpc.RangeRequest(key=b"kept"), rpc.RangeResponse)
    assert found.kvs[0].value == b"here"


@pytest.mark.timeout(300)
def test_no_member_outlives_a_launcher_that_is_killed(launch: Launch) -> None:
    launcher = launch(free_pairs(3))
    launcher.wait_for_members()
    members = launcher.members()
    os.kill(members[0], signal.SIGSTOP)
    launcher.process.kill()
    try:
        wait_for(lambda: not any(map(exists, members)), _SECONDS, "the members' end")
    finally:
        for pid in filter(exists, members):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(300)
def test_a_member_that_ends_is_told_and_not_restarted(launch: Launch) -> None:
    launcher = launch(free_pairs(3))
    launcher.wait_for_members()
    members = launcher.members()
    os.kill(members[1], signal.SIGKILL)
    wait_for(lambda: "infra2 ended (killed by SIGKILL)" in launcher.text, _SECONDS, "the report")
    launcher.wait_for_members(2)
    assert launcher.latest()["infra2"][2:4] == ["-", "ended: killed by SIGKILL"]
    assert launcher.members() == [members[0], members[2]]
    os.kill(members[0], signal.SIGKILL)
    os.kill(members[2], signal.SIGKILL)
    assert launcher.process.wait(_SECONDS) == 1
    assert launcher.text.endswith("Error: all members have ended\n")


@pytest.mark.timeout(300)
def test_a_member_that_was_added_is_shown(launch: Launch) -> None:
    launcher = launch(free_pairs(3), "--", "--strict-reconfig-check=false")
    launcher.wait_for_members()
    learner = rpc.MemberAddRequest(peerURLs=["http://127.0.0.1:1"], isLearner=True)
    call(launcher.ports[0], "Cluster/MemberAdd", learner, rpc.MemberAddResponse)
    wait_for(lambda: "(added)" in launcher.latest(), _SECONDS, "the learner")
    assert launcher.latest()["(added)"][1:4] == ["127.0.0.1:1", "-", "not started"]


@pytest.mark.parametrize("which", [2, 5], ids=["a client port", "a peer port"])
def test_a_port_in_use_is_named_before_anything_starts(
    launch: Launch, which: int, tmp_path: Path
) -> None:
    ports = free_pairs(3)
    taken = ports[which // 2] + which % 2
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", taken))
        holder.listen()
        launcher = launch(ports)
        assert launcher.process.wait(_SECONDS) == 1
    assert f"port {taken} of 127.0.0.1 cannot be had for infra{which // 2 + 1}" in launcher.text
    assert not (tmp_path / "cluster").exists()


def test_a_server_that_cannot_be_started_is_named(launch: Launch) -> None:
    launcher = launch(free_pairs(1), "--command", "/no/such/server")
    assert launcher.process.wait(_SECONDS) == 1
    assert "cannot start /no/such/server" in launcher.text


@pytest.mark.timeout(300)
def test_flags_reach_every_member_and_a_refusal_is_shown(launch: Launch) -> None:
    launcher = launch(free_pairs(3), "--", "--no-such-flag")
    assert launcher.process.wait(_SECONDS) == 1
    for member in ("infra1", "infra2", "infra3"):
        assert f"{member} ended (status 2)" in launcher.text
    assert "no-such-flag" in launcher.text
