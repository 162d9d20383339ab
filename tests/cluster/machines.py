"""The machines that members run on: a host of a network each, and a disk each, both of which a test
can break. Either may be left out, for tests that need only processes.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.certificates import Certificates
from tests.cluster.disk import Disk
from tests.cluster.network import Network
from tests.members import Cluster, Member

SPARE_HOSTS = 6
"""So many members can be added over the life of one cluster."""


class Machines:
    """A cluster of three, and hosts and disks for it and for members that are added."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        seed: int,
        network: bool = False,
        disks: bool = False,
        strict_disks: bool = False,
        tls: bool = False,
    ) -> None:
        """Make what is asked for; start no member. ChildError if it cannot be made here. With TLS,
        every client has the certificate of the user root.
        """
        self._command = command
        self._folder = folder
        self._seed = seed
        self._strict = strict_disks
        self._has_disks = disks
        self._made = 0
        self.disks: dict[Member, Disk] = {}
        self.hosts: dict[Member, int] = {}
        self.network = Network(3 + SPARE_HOSTS, seed) if network else None
        hosts = self.network.addresses if self.network is not None else ()
        certificates = (
            Certificates.made(folder / "certificates", hosts, client="user-root") if tls else None
        )
        self.cluster = Cluster(command, folder, size=0, certificates=certificates)
        try:
            self.cluster.members = [self.new_member() for _ in range(3)]
        except BaseException:
            self.close()
            raise
        self.cluster.name_members()

    def new_member(self) -> Member:
        """Make a member on a machine of its own."""
        self._made += 1
        name = f"m{self._made}"
        certificates = self.cluster.certificates
        member = Member(self._command, self._folder / name, name=name, certificates=certificates)
        self.hosts[member] = self._made
        if self.network is not None:
            member.command = self.network.inside(self._made, self._command)
            member.host = self.network.addresses[self._made]
        if self._has_disks:
            disk = self._folder / name / "disk"
            self.disks[member] = Disk(disk, self._seed + self._made, self._strict)
            member.data_dir = disk / "data"
        return member

    def others(self, member: Member) -> list[int]:
        """The hosts of the other members."""
        return [self.hosts[each] for each in self.cluster.members if each is not member]

    @staticmethod
    def wipe(member: Member) -> None:
        """Remove a member's data directory, for good: no power loss brings parts of it back."""
        shutil.rmtree(member.data_dir)
        folder = os.open(member.data_dir.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def close(self) -> None:
        """Leave no process, no mount and no network behind."""
        for member in self.hosts:
            member.close()
        for disk in self.disks.values():
            disk.close()
        if self.network is not None:
            self.network.close()
