"""The quota, reached under load on three members: what is refused then, what is served, what helps.

Each test runs against real etcd, which checks the test itself, and then against the subject.
"""

import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
import pytest
from google.protobuf.message import Message

from rusd.pb import rpc_pb2 as rpc
from tests.cluster.calls import Connection, ask, await_agreement, status
from tests.members import Cluster, Member, running_cluster, wait_for

pytestmark = pytest.mark.timeout(180)

QUOTA, VALUE_BYTES = 16 << 20, 20_000
WRITERS = 2
"""Of each member."""

MOST = 2 * QUOTA // VALUE_BYTES
"""Puts of all writers by which the quota is reached."""

NO_SPACE = "RESOURCE_EXHAUSTED etcdserver: mvcc: database space exceeded"


@pytest.fixture(params=["etcd_command", "subject_command"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """Three members with a small quota: of real etcd, then of the server under test."""
    command = request.getfixturevalue(request.param)
    flags = ("--quota-backend-bytes", str(QUOTA))
    with running_cluster(command, tmp_path, flags=flags) as started:
        yield started


@dataclass
class Load:
    """Clients that put as fast as they are answered, until they are refused."""

    acknowledged: dict[bytes, bytes] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)

    def run(self, cluster: Cluster) -> None:
        """Put at all members until every client is refused."""
        threads = [
            threading.Thread(target=self._write, args=(member, f"{member.name}/{number}"))
            for member in cluster.members
            for number in range(WRITERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _write(self, member: Member, name: str) -> None:
        random, connection = Random(name), Connection(member)
        for number in range(MOST):
            key, value = f"{name}/{number}".encode(), random.randbytes(VALUE_BYTES)
            try:
                connection.ask(rpc.PutRequest(key=key, value=value), rpc.PutResponse, 30)
            except grpc.RpcError as error:
                self.refusals[f"{error.code().name} {error.details()}"] += 1
                break
            self.acknowledged[key] = value
        connection.close()


def _refusal(member: Member, request: Message, answer: type[Message]) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        ask(member, request, answer, 30)
    return f"{refused.value.code().name} {refused.value.details()}"


def _holds(member: Member) -> dict[bytes, bytes]:
    everything = rpc.RangeRequest(key=b"m", range_end=b"n", serializable=True)
    return {each.key: each.value for each in ask(member, everything, rpc.RangeResponse, 30).kvs}


def _etcdctl(programs: Path, cluster: Cluster, *arguments: str) -> list[str]:
    """The lines that etcdctl prints, sorted, with names for the members' ids."""
    done = subprocess.run(
        [str(programs / "etcdctl"), "--endpoints", cluster.endpoints, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    ids = {str(status(member).header.member_id): member.name for member in cluster.members}
    return sorted(
        re.sub(r"\d{10,}", lambda found: ids.get(found[0], found[0]), line)
        for line in done.stdout.splitlines()
    )


def test_at_the_quota_what_adds_is_refused_and_what_frees_is_served_until_puts_go_on(
    cluster: Cluster, etcd_programs: Path
) -> None:
    load, clients = Load(), WRITERS * len(cluster.members)
    load.run(cluster)
    assert load.refusals == {NO_SPACE: clients}
    assert len(load.acknowledged) * VALUE_BYTES > QUOTA // 4

    # Each member may find out for itself.
    alarms = _etcdctl(etcd_programs, cluster, "alarm", "list")
    assert alarms
    assert set(alarms) <= {f"memberID:{member.name} alarm:NOSPACE " for member in cluster.members}
    put = rpc.PutRequest(key=b"m", value=b"1")
    adds: tuple[tuple[Message, type[Message]], ...] = (
        (put, rpc.PutResponse),
        (rpc.TxnRequest(success=[rpc.RequestOp(request_put=put)]), rpc.TxnResponse),
        (rpc.LeaseGrantRequest(TTL=60), rpc.LeaseGrantResponse),
    )
    for member in cluster.members:
        assert [_refusal(member, *request) for request in adds] == [NO_SPACE] * len(adds)
        assert any("alarm:NOSPACE" in each for each in status(member).errors)
        assert status(member).dbSizeQuota in (QUOTA, 0), "etcd says it since 3.6"

    # Reads, deletes and compactions are served, on every member.
    is_etcd = cluster.members[0].command[0].endswith("etcd")
    for member in cluster.members:
        held = _holds(member)
        assert {key: held.get(key) for key in load.acknowledged} == load.acknowledged
        # etcd applies a put that finds the quota reached on its way, and refuses it all the same.
        assert len(held) - len(load.acknowledged) <= (clients if is_etcd else 0)
        linearizable = rpc.RangeRequest(key=b"m", range_end=b"n", count_only=True)
        assert ask(member, linearizable, rpc.RangeResponse, 30).count == len(held)
    for member in cluster.members:
        prefix = f"{member.name}/".encode()
        delete = rpc.DeleteRangeRequest(key=prefix, range_end=prefix[:-1] + b"0")
        assert ask(member, delete, rpc.DeleteRangeResponse, 30).deleted > 0
        compact = rpc.CompactionRequest(revision=status(member).header.revision, physical=True)
        ask(member, compact, rpc.CompactionResponse, 30)

    # Room alone ends no alarm; to disarm without room only raises it again.
    assert _refusal(cluster.members[0], *adds[0]) == NO_SPACE
    lines = _etcdctl(etcd_programs, cluster, "defrag")
    assert [re.sub(r"\[.*\]|, took.*", "", line) for line in lines] == [
        "Finished defragmenting etcd member"
    ] * len(cluster.members)
    wait_for(
        lambda: all(status(member).dbSize < QUOTA / 2 for member in cluster.members),
        30,
        "room on all members",
    )
    alarms = _etcdctl(etcd_programs, cluster, "alarm", "list")
    assert _etcdctl(etcd_programs, cluster, "alarm", "disarm") == alarms
    assert _etcdctl(etcd_programs, cluster, "alarm", "list") == []
    for number, member in enumerate(cluster.members):
        again = rpc.PutRequest(key=b"m%d" % number, value=b"again")
        ask(member, again, rpc.PutResponse, 30)
    await_agreement(cluster)
    for member in cluster.members:
        assert sorted(_holds(member)) == [b"m%d" % number for number in range(3)]
