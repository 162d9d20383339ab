"""A network of hosts on one machine, every packet of which passes through this process.

Each host is a network namespace whose only way out is a TUN device (TCP, its retransmissions and
timeouts are the kernel's own). The process reads IP packets from one and writes them to another, or
loses, delays or slows them down, as it is told for each direction between two hosts. Host 0 is the
machine itself, where the test's clients are. Needs Linux, `ip`, `nsenter` and CAP_NET_ADMIN.
Namespaces and devices vanish with the process.
"""

import ctypes
import errno
import fcntl
import heapq
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tests.cluster.child import Child, say

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_MTU = 16000
_QUEUE_SECONDS = 2.0
"""What would wait longer for its turn on a slow link is lost, as in a router."""


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two hosts."""

    loss: float = 0.0
    """Share of packets that are lost; 1 is a cut."""
    delay: float = 0.0
    """Seconds that a packet takes."""
    jitter: float = 0.0
    """Seconds more at most, drawn for each packet: so they overtake each other."""
    bytes_per_second: float = 0.0
    """0: no limit."""


CUT = Link(loss=1.0)


class Network:
    """The process and what it is told. Hosts are numbered from 0, the machine itself."""

    def __init__(self, hosts: int, seed: int) -> None:
        """Make the network; ChildError if this machine or user cannot."""
        self._child = Child("tests.cluster.network", hosts, seed)
        self._namespaces: list[int] = self._child.made["namespaces"]
        self.addresses: list[str] = self._child.made["addresses"]

    def __str__(self) -> str:
        """Say which kind of network it is."""
        return "network namespaces joined by TUN devices and a packet relay"

    def inside(self, host: int, command: Sequence[str]) -> tuple[str, ...]:
        """Return the command that runs `command` on a host, as the same process."""
        namespace = f"/proc/{self._child.process.pid}/fd/{self._namespaces[host - 1]}"
        return ("nsenter", f"--net={namespace}", "--", *command)

    def set(self, source: int, destination: int, link: Link) -> None:
        """Set one direction between two hosts."""
        self._child.ask([source, destination, asdict(link)])

    def cut_off(
        self, host: int, others: Sequence[int], inbound: bool = True, outbound: bool = True
    ) -> None:
        """Cut a host off from others: both ways, or what comes in only, or what goes out only."""
        for other in others:
            if inbound:
                self.set(other, host, CUT)
            if outbound:
                self.set(host, other, CUT)

    def set_all(self, hosts: Sequence[int], link: Link) -> None:
        """Set both directions between all of the hosts."""
        for source in hosts:
            for destination in hosts:
                if source != destination:
                    self.set(source, destination, link)

    def heal(self) -> None:
        """All links are fast and lose nothing."""
        self._child.ask([])

    def close(self) -> None:
        """End the process, and with it the network."""
        self._child.close()


class _Relay:
    """Moves packets between the devices of all hosts."""

    def __init__(self, devices: list[int], subnet: bytes, seed: int) -> None:
        self._devices = devices
        self._host = {subnet + bytes([number + 1]): number for number in range(len(devices))}
        self._links: dict[tuple[int, int], Link] = {}
        self._free_at: dict[tuple[int, int], float] = {}
        self._late: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._random = random.Random(seed)

    def run(self) -> None:
        """Relay until standard input ends."""
        poll = select.epoll()
        for device in self._devices:
            os.set_blocking(device, False)
            poll.register(device, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        while True:
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else -1
            for ready, _ in poll.poll(wait):
                if ready == 0:
                    if not self._obey(sys.stdin.buffer.readline()):
                        return
                else:
                    self._read(ready)
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _, _, device, packet = heapq.heappop(self._late)
                _write(device, packet)

    def _obey(self, line: bytes) -> bool:
        if not line:
            return False
        rule = json.loads(line)
        if rule:
            source, destination, link = rule
            self._links[source, destination] = Link(**link)
        else:
            self._links.clear()
        say({})
        return True

    def _read(self, device: int) -> None:
        for _ in range(64):
            try:
                packet = os.read(device, _MTU)
            except BlockingIOError:
                return
            source, destination = self._host.get(packet[12:16]), self._host.get(packet[16:20])
            if packet[0] >> 4 == 4 and source is not None and destination is not None:
                link = self._links.get((source, destination))
                if link is None:
                    _write(self._devices[destination], packet)
                else:
                    self._pass(packet, source, destination, link)

    def _pass(self, packet: bytes, source: int, destination: int, link: Link) -> None:
        if self._random.random() < link.loss:
            return
        due = now = time.monotonic()
        if link.bytes_per_second:
            due = max(now, self._free_at.get((source, destination), 0.0))
            if due > now + _QUEUE_SECONDS:
                return
            due += len(packet) / link.bytes_per_second
            self._free_at[source, destination] = due
        due += link.delay + self._random.random() * link.jitter
        self._count += 1
        heapq.heappush(self._late, (due, self._count, self._devices[destination], packet))


def _write(device: int, packet: bytes) -> None:
    try:
        os.write(device, packet)
    except OSError as error:  # a full queue loses packets, as queues do
        if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
            raise


def _device() -> tuple[int, str]:
    """Open a new TUN device in the current namespace."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    name = fcntl.ioctl(
        device, _TUNSETIFF, struct.pack("16sH22x", b"hosts%d", _IFF_TUN | _IFF_NO_PI)
    )
    return device, name[:16].rstrip(b"\0").decode()


def _configure(device: str, address: str) -> None:
    subprocess.run(["ip", "address", "add", f"{address}/24", "dev", device], check=True)
    subprocess.run(["ip", "link", "set", device, "mtu", str(_MTU), "up"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _make(hosts: int) -> tuple[list[int], list[int], str]:
    """Make host 0 and `hosts` more; return devices, namespaces and the subnet's first three bytes.

    The kernel numbers the machine's device; so networks that are up together differ in subnet.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    device, name = _device()
    subnet = f"198.18.{int(name.removeprefix('hosts')) % 256}"  # RFC 2544: for tests of networks
    _configure(name, f"{subnet}.1")
    devices, namespaces = [device], []
    for number in range(1, hosts + 1):
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "a new network namespace")
        namespaces.append(os.open("/proc/self/ns/net", os.O_RDONLY))
        device, name = _device()
        devices.append(device)
        _configure(name, f"{subnet}.{number + 1}")
    libc.setns(home, _CLONE_NEWNET)
    return devices, namespaces, subnet


def main() -> None:
    """Be the network: arguments are the number of hosts and the seed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test, which ends this
    hosts, seed = int(sys.argv[1]), int(sys.argv[2])
    try:
        devices, namespaces, subnet = _make(hosts)
    except (OSError, subprocess.CalledProcessError) as error:
        say({"error": f"no network namespaces: {error}"})
        return
    addresses = [f"{subnet}.{number + 1}" for number in range(hosts + 1)]
    say({"namespaces": namespaces, "addresses": addresses})
    _Relay(devices, bytes(map(int, subnet.split("."))), seed).run()


if __name__ == "__main__":
    main()
