"""A disk that fills up: writes end with an error, nothing is lost, and the member goes on later."""

import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import grpc
import pytest

from rusd.mvcc.tables import rows
from rusd.pb import rpc_pb2 as rpc
from rusd.storage.engine import Engine
from tests.cluster.calls import Connection, ask, await_agreement, status
from tests.cluster.child import ChildError
from tests.cluster.small_disk import SmallDisk, small_disk
from tests.members import Cluster, Member, rusd_command, wait_for

pytestmark = pytest.mark.timeout(180)

SIZE, ROOM = 512 << 20, 100 << 20
"""Of the disk, and what is left of it: the log's second segment does not fit."""

VALUE_BYTES = 1 << 20
MOST = 150
"""So many values fill what is left several times."""

NO_SPACE = "RESOURCE_EXHAUSTED etcdserver: mvcc: database space exceeded"
WAITS = "the disk has no room for the log"

NewDisk = Callable[[Path], SmallDisk]


@pytest.fixture
def new_disk() -> Iterator[NewDisk]:
    """Mounts disks that go with the test, after what a test has put on them is stopped."""
    with ExitStack() as disks:

        def mount(folder: Path) -> SmallDisk:
            try:
                return disks.enter_context(small_disk(folder, SIZE))
            except ChildError as error:
                pytest.skip(str(error))

        yield mount


class Load:
    """Puts of large values, and which of them were acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.refusals: list[str] = []
        self._next = 0

    def put(self, member: Member, seconds: float = 20) -> bool:
        """Put the next value; return whether that was acknowledged."""
        number, self._next = self._next, self._next + 1
        request = rpc.PutRequest(key=_key(number), value=_value(number))
        try:
            ask(member, request, rpc.PutResponse, seconds)
        except grpc.RpcError as error:
            self.refusals.append(f"{error.code().name} {error.details()}")
            return False
        self.acknowledged.append(number)
        return True

    def until_refused(self, member: Member) -> str:
        """Put until that is refused; return how."""
        for _ in range(MOST):
            if not self.put(member):
                return self.refusals[-1]
        raise AssertionError(f"{MOST} MiB were written to a disk with {ROOM >> 20} MiB left")

    def until_taken(self, member: Member, seconds: float = 60) -> None:
        """Put until that is acknowledged."""
        wait_for(lambda: self.put(member), seconds, "a put that is acknowledged")

    def assert_there(self, member: Member, serializable: bool = True) -> None:
        """All that was acknowledged is read from a member."""
        connection = Connection(member)
        for number in self.acknowledged:
            request = rpc.RangeRequest(key=_key(number), serializable=serializable)
            found = _until_answered(connection, request).kvs
            assert [each.value for each in found] == [_value(number)], number
        connection.close()


def _until_answered(connection: Connection, request: rpc.RangeRequest) -> rpc.RangeResponse:
    """Read, again where a busy member was too slow to connect to."""
    answers: list[rpc.RangeResponse] = []

    def answered() -> bool:
        with suppress(grpc.RpcError):
            answers.append(connection.ask(request, rpc.RangeResponse, 20))
        return bool(answers)

    wait_for(answered, 60, "a read")
    return answers[0]


def _key(number: int) -> bytes:
    return b"key%06d" % number


def _value(number: int) -> bytes:
    return Random(number).randbytes(VALUE_BYTES)


def _health(member: Member) -> str:
    try:
        with urllib.request.urlopen(f"{member.client_url}/health", timeout=10) as answer:
            return str(answer.read())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def _last(member: Member, text: str) -> str:
    return [line for line in member.log.splitlines() if text in line][-1]


def test_a_member_alone_refuses_writes_while_its_disk_is_full_and_goes_on_by_itself(
    tmp_path: Path, new_disk: NewDisk
) -> None:
    """Where the log finds no room it waits; where the tables find none the member stops."""
    disk = new_disk(tmp_path / "disk")
    member = Member(rusd_command(), tmp_path / "m")
    member.data_dir = disk.folder / "data"
    load = Load()
    try:
        member.start()
        disk.fill(but=ROOM)
        print("first refusal:", load.until_refused(member))
        wait_for(lambda: WAITS in member.log, 20, "a line in the log")
        assert "make room on the disk" in _last(member, WAITS)
        load.put(member)
        assert load.refusals[-1] == NO_SPACE
        assert "NO ROOM FOR THE LOG" in _health(member)
        load.assert_there(member)
        load.assert_there(member, serializable=False)

        disk.empty()
        load.until_taken(member)
        assert "room for the log again" in member.log
        load.assert_there(member)

        # Full to the last byte: what is allocated for the log takes entries, the tables fail.
        disk.fill()
        load.until_refused(member)
        assert member.wait_exit(60) == 1
        stopped = _last(member, "the member stops")
        assert "No space left on device" in stopped
        assert "make room on the disk, and start the member again" in stopped
        disk.empty()
        member.start()
        load.until_taken(member)
        load.assert_there(member)
    finally:
        member.close()


def test_a_leader_whose_disk_is_full_gives_way_and_the_cluster_goes_on(
    tmp_path: Path, new_disk: NewDisk
) -> None:
    """It catches up when there is room, with the data that the others have."""
    disk = new_disk(tmp_path / "disk")
    cluster = Cluster(rusd_command(), tmp_path)
    full, *others = cluster.members
    full.data_dir = disk.folder / "data"
    load = Load()
    try:
        cluster.start()
        _lead(cluster, full)
        disk.fill(but=ROOM)
        load.until_refused(full)
        wait_for(lambda: WAITS in full.log, 20, "a line in the log")
        wait_for(lambda: cluster.leader() is not full, 20, "another leader")
        load.until_taken(others[0], 20)
        for other in others:
            for _ in range(3):
                assert load.put(other), load.refusals[-1]
        load.put(full)
        assert load.refusals[-1] == NO_SPACE
        assert status(full).leader == status(others[0]).leader, "it follows"

        disk.empty()
        load.until_taken(full)
        await_agreement(cluster)
        for member in cluster.members:
            load.assert_there(member)
    finally:
        cluster.close()


FLUSHES = """
import os, sys, time
from pathlib import Path
from rusd.mvcc.tables import new_batch
from rusd.storage.engine import Engine

engine = Engine(Path(sys.argv[1]))
engine.flush()
print("open", flush=True)
sys.stdin.readline()
batch = new_batch()
for number in range(10):
    batch.put(b"%d" % number, os.urandom(1_000_000), engine.tables.events_family)
batch.put(b"number", b"10")
engine.tables.write(batch)
for attempt in range(2):
    try:
        engine.flush()
    except OSError as error:
        print("refused", flush=True)
sys.stdin.readline()
until = time.monotonic() + 60
while True:
    # A flush that is tried while RocksDB goes on by itself would hold that up.
    while engine.tables.events.property_int_value("rocksdb.num-immutable-mem-table"):
        time.sleep(0.1)
        assert time.monotonic() < until
    try:
        engine.flush()
        break
    except OSError:  # all is written, and the error not forgotten yet
        time.sleep(0.1)
        assert time.monotonic() < until
print("flushed", flush=True)
os._exit(0)
"""


def test_a_flush_that_found_no_room_is_made_up_for_by_one_that_does(
    tmp_path: Path, new_disk: NewDisk
) -> None:
    """Without a restart: else the log, which is dropped on the word of a flush, only grew."""
    disk = new_disk(tmp_path / "disk")
    with subprocess.Popen(
        [sys.executable, "-c", FLUSHES, str(disk.folder / "member")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        disk.fill()
        print(file=process.stdin, flush=True)
        assert [process.stdout.readline() for _ in range(2)] == ["refused\n"] * 2
        disk.empty()
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "flushed\n"
    shutil.copytree(disk.folder / "member", tmp_path / "crashed")
    engine = Engine(tmp_path / "crashed")
    assert engine.tables.state.get(b"number") == b"10"
    assert sum(1 for _ in rows(engine.tables.events, b"", None)) == 10
    engine.close()


def _lead(cluster: Cluster, member: Member) -> None:
    """Have a member lead."""
    target = status(member).header.member_id

    def leads() -> bool:
        leader = cluster.leader()
        if leader is not member:
            with suppress(grpc.RpcError):
                ask(leader, rpc.MoveLeaderRequest(targetID=target), rpc.MoveLeaderResponse)
        return leader is member

    wait_for(leads, 30, f"the leadership of {member.name}")
