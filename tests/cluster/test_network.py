"""The network of namespaces, held to what it is told."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.cluster.child import ChildError
from tests.cluster.network import CUT, Link, Network
from tests.members import wait_for

_ECHO = """
import socket
with socket.create_server(("0.0.0.0", 7000)) as server:
    while True:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    """Two hosts; host 1 echoes on port 7000."""
    try:
        network = Network(2, seed=1)
    except ChildError as error:
        pytest.skip(str(error))
    echo = subprocess.Popen(network.inside(1, [sys.executable, "-c", _ECHO]))
    try:
        wait_for(lambda: answers(network), 30, "the echo")
        yield network
    finally:
        echo.kill()
        echo.wait()
        network.close()


def connect(network: Network, seconds: float = 10.0) -> socket.socket:
    """Connect this machine, host 0, with host 1."""
    return socket.create_connection((network.addresses[1], 7000), timeout=seconds)


def answers(network: Network) -> bool:
    """Whether host 1 echoes."""
    try:
        with connect(network) as connection:
            return echoed(connection, b"1")
    except OSError:
        return False


def echoed(connection: socket.socket, data: bytes) -> bool:
    """Whether data comes back within the connection's time-out."""
    connection.sendall(data)
    got = b""
    try:
        while len(got) < len(data):
            got += connection.recv(65536)
    except TimeoutError:
        return False
    return got == data


@pytest.mark.parametrize("direction", [(0, 1), (1, 0)])
def test_a_cut_holds_in_one_direction_and_heals(
    network: Network, direction: tuple[int, int]
) -> None:
    """Nothing gets through, and nothing is lost for good: TCP sends it again."""
    with connect(network) as connection:
        network.set(*direction, CUT)
        connection.settimeout(0.5)
        assert not echoed(connection, b"cut")
        network.heal()
        connection.settimeout(10)
        assert connection.recv(3) == b"cut"
        network.set(0, 2, CUT)
        assert echoed(connection, b"another link")


def test_links_delay_lose_and_slow_down(network: Network) -> None:
    """All data arrives, as late as the link is slow."""
    with connect(network, 60) as connection:
        network.set(0, 1, Link(delay=0.1))
        started = time.monotonic()
        assert echoed(connection, b"late")
        assert time.monotonic() - started >= 0.1
        network.set(0, 1, Link(bytes_per_second=100_000))
        started = time.monotonic()
        assert echoed(connection, bytes(50_000))
        assert time.monotonic() - started >= 0.4
        network.set(0, 1, Link(loss=0.2, jitter=0.01))
        assert all(echoed(connection, b"%d" % number) for number in range(20))


def test_hosts_see_each_other_only_through_the_network(network: Network) -> None:
    """Host 2 reaches host 1, and no more when that link is cut."""
    ask = (
        "import socket, sys\n"
        "c = socket.create_connection((sys.argv[1], 7000), timeout=2)\n"
        "c.sendall(b'x'); sys.exit(c.recv(1) != b'x')"
    )
    command = network.inside(2, [sys.executable, "-c", ask, network.addresses[1]])
    assert subprocess.run(command, check=False).returncode == 0
    network.cut_off(2, [1], inbound=False)
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 1
