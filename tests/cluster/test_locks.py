"""Locks of three members while the leader is killed: at most one has the lock at any time."""

import itertools
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from google.protobuf.message import Message

from rusd.pb import lock_pb2 as lock
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Client
from tests.members import Cluster, running_cluster, rusd_command, wait_for

SECONDS = 60.0
CONTENDERS = 3
TURNS = 6
TTL = 60
"""Of the leases, in seconds: none ends before the test does, so a lock is never lost."""


@pytest.fixture(name="cluster", scope="module")
def three_members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for both tests; each leaves three members running."""
    with running_cluster(rusd_command(), tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


class Contender:
    """Takes turns with a counter, at whichever member answers."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self._clients = [Client(member.channel()) for member in cluster.members]
        self._next = itertools.cycle(self._clients[number:] + self._clients[:number])
        self.lease = 1000 + number
        self.turns = 0
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _call(self, method: str, request: Message) -> object:
        """The response to a call that may be made again; others than this one know its effect."""
        deadline = time.monotonic() + SECONDS
        while True:
            answer = next(self._next).call(method, request)
            if answer.response is not None:
                return answer.response
            assert time.monotonic() < deadline, answer
            time.sleep(0.05)

    def _run(self) -> None:
        try:
            for _ in range(TURNS):
                self._turn()
                self.turns += 1
        except BaseException as error:
            self.failure = error

    def _turn(self) -> None:
        # Asked again with the same lease, the lock is taken once.
        held = self._call("Lock", lock.LockRequest(name=b"turn", lease=self.lease))
        assert isinstance(held, lock.LockResponse)
        read = self._call("Range", rpc.RangeRequest(key=b"counter"))
        assert isinstance(read, rpc.RangeResponse)
        value = b"%d" % (int(read.kvs[0].value) + 1)
        self._call("Put", rpc.PutRequest(key=b"counter", value=value))
        self._call("Unlock", lock.UnlockRequest(key=held.key))


def counter(cluster: Cluster) -> int:
    with closing(Client(cluster.members[0].channel())) as client:
        read = client.call("Range", rpc.RangeRequest(key=b"counter")).response
    assert isinstance(read, rpc.RangeResponse)
    return int(read.kvs[0].value)


def test_a_lock_is_exclusive_across_the_death_of_the_leader(cluster: Cluster) -> None:
    with closing(Client(cluster.leader().channel())) as client:
        client.call("Put", rpc.PutRequest(key=b"counter", value=b"0"))
        for number in range(CONTENDERS):
            client.call("LeaseGrant", rpc.LeaseGrantRequest(ID=1000 + number, TTL=TTL))
    contenders = [Contender(cluster, number) for number in range(CONTENDERS)]
    for contender in contenders:
        contender.thread.start()

    wait_for(lambda: sum(each.turns for each in contenders) > CONTENDERS, SECONDS, "turns")
    leader = cluster.leader()
    leader.kill()
    leader.start()
    for contender in contenders:
        contender.thread.join(SECONDS)
        contender.close()
        assert contender.failure is None, contender.failure
        assert contender.turns == TURNS
    assert counter(cluster) == CONTENDERS * TURNS


def test_etcdctl_waits_for_a_lock_across_the_death_of_the_leader(
    cluster: Cluster, etcd_programs: Path
) -> None:
    """Go's client waits by a watch, which goes on at another member."""
    with closing(Client(cluster.leader().channel())) as client:
        held = client.call("Lock", lock.LockRequest(name=b"l")).response
    assert isinstance(held, lock.LockResponse)
    command = [str(etcd_programs / "etcdctl"), "--endpoints", cluster.endpoints, "lock", "l"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        try:
            wait_for(lambda: _waiting(cluster), SECONDS, "etcdctl's key")
            leader = cluster.leader()
            leader.kill()
            cluster.leader()
            others = [member for member in cluster.members if member is not leader]
            with closing(Client(others[0].channel())) as client:
                request = lock.UnlockRequest(key=held.key)
                wait_for(_succeeds(client, request), SECONDS, "the lock to be released")
            assert waiting.stdout.readline().startswith("l/")
            leader.start()
        finally:
            waiting.kill()


def _waiting(cluster: Cluster) -> bool:
    request = rpc.RangeRequest(key=b"l/", range_end=b"l0", count_only=True)
    with closing(Client(cluster.members[0].channel())) as client:
        answer = client.call("Range", request).response
    return isinstance(answer, rpc.RangeResponse) and answer.count == 2


def _succeeds(client: Client, request: lock.UnlockRequest) -> Callable[[], bool]:
    return lambda: client.call("Unlock", request).response is not None
