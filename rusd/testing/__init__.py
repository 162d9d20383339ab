"""Members for other programs' tests: `server()` and `cluster()`, for any runner. The pytest plugin
(`rusd.testing.plugin`) has them as fixtures.

    with rusd.testing.server() as member:
        client = connect(member.host, member.port)

They listen on free ports of 127.0.0.1, without TLS, and do not wait for the disk. All that is
started here ends with the process that started it, however that ends. Linux only.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from rusd.testing.cluster import Cluster
from rusd.testing.gateway import CallFailedError, Gateway
from rusd.testing.member import Member
from rusd.testing.processes import NotReadyError, fork_server

__all__ = [
    "CallFailedError",
    "Cluster",
    "Gateway",
    "Member",
    "NotReadyError",
    "cluster",
    "fork_server",
    "server",
]


@contextmanager
def server(*flags: str, fsync: bool = False) -> Iterator[Member]:
    """One member, ready inside the `with` block and gone with its data after it.

    `flags` are etcd's, as `--quota-backend-bytes=16777216`. `fsync=True` lets it wait for the disk,
    as a member that is not for tests does. Raises NotReadyError.
    """
    folder = fork_server().make_folder("server")
    member = Member(folder, flags, fsync=fsync)
    try:
        yield member.start()
    finally:
        member.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster(size: int = 3, *flags: str, fsync: bool = False) -> Iterator[Cluster]:
    """Members of one cluster, all ready inside the `with` block; the rest is as with `server`."""
    folder = fork_server().make_folder("cluster")
    members = Cluster(folder, size, flags, fsync=fsync)
    try:
        yield members.start()
    finally:
        members.close()
        shutil.rmtree(folder, ignore_errors=True)
