"""Three members under load, and all that can happen to them: nothing that was promised breaks.

`python -m tests.cluster` draws from the same faults at random, for as long as one likes.
"""

import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from rusd.pb import rpc_pb2 as rpc
from tests.cluster.calls import ask, turn_auth_on
from tests.cluster.child import ChildError
from tests.cluster.faults import (
    SERVED_SECONDS,
    Faults,
)
from tests.cluster.machines import Machines
from tests.cluster.run import Run
from tests.cluster.service import SteadyWriter
from tests.linearizability import Answer, Get, NotLinearizableError, Operation, Put, check
from tests.members import Member, running_cluster, wait_for

WITHOUT_SERVICE_SECONDS = 2.0

pytestmark = pytest.mark.timeout(300)

StartMachines = Callable[..., Machines]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of the test's random choices, printed."""
    given: list[int] | None = request.config.getoption("--seed")
    seed = given[0] if given else random.SystemRandom().randrange(10**6)
    print(f"--seed {seed}")
    return seed


@pytest.fixture
def start_machines(
    subject_command: Sequence[str], tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> Iterator[StartMachines]:
    """Starts three members on machines that end with the test. Real etcd asks for a journal on its
    disks.
    """
    strict = request.config.getoption("--subject") == "rusd"
    with ExitStack() as ending:

        def start(network: bool = False, disks: bool = False, tls: bool = False) -> Machines:
            try:
                machines = Machines(subject_command, tmp_path, seed, network, disks, strict, tls)
            except ChildError as error:
                pytest.skip(str(error))
            ending.callback(machines.close)
            print(f"network: {machines.network or 'loopback'}")
            machines.cluster.start()
            return machines

        yield start


@pytest.fixture
def etcdctl() -> Path | None:
    """The real etcdctl, if it can be had."""
    script = Path(__file__).parents[1] / "fetch-etcd"
    found = subprocess.run([script], capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return Path(found.stdout.strip()) / "etcdctl"
    print(f"no etcdctl among the clients: {found.stderr.strip()}")
    return None


@pytest.fixture
def start_faults(
    start_machines: StartMachines, seed: int, etcdctl: Path | None
) -> Iterator[Callable[..., tuple[Run, Faults]]]:
    """Starts machines and a run on them; faults and loads are the test's to make."""
    with ExitStack() as ending:

        def start(
            network: bool = False, disks: bool = False, tls: bool = False
        ) -> tuple[Run, Faults]:
            machines = start_machines(network, disks, tls)
            run = Run(machines.cluster, seed, etcdctl)
            ending.callback(run.close)
            return run, Faults(run, machines)

        yield start


StartFaults = Callable[..., tuple[Run, Faults]]


def test_killed_paused_and_restarted_members_lose_nothing(start_faults: StartFaults) -> None:
    """Kill -9 of the leader, a follower, and all; a leader that stands still; a rolling restart."""
    run, faults = start_faults()
    run.load()
    faults.kill_the_leader()
    faults.kill_a_follower()
    faults.kill_all()
    run.settle()
    run.load()
    faults.pause_the_leader()
    faults.move_the_leader()
    faults.restart_all_in_turn()
    run.settle()
    run.finish()


def test_with_tls_and_auth_nothing_is_lost_and_nobody_gets_in(start_faults: StartFaults) -> None:
    """Certificates on every connection, those of clients name users; and a follower that needs a
    snapshot, with what it says of them.
    """
    run, faults = start_faults(tls=True)
    turn_auth_on(run.cluster.members[0])
    run.load()
    faults.kill_the_leader()
    faults.pause_the_leader()
    faults.outrun_a_follower()
    run.settle()
    run.finish()
    assert any("installed a snapshot" in member.log for member in run.cluster.members)
    for member in run.cluster.members:
        assert _refused(member, "client") == "etcdserver: user name is empty"
        assert _refused(member, "peer") == "etcdserver: permission denied"


def _refused(member: Member, certificate: str) -> str:
    """What a member says to a read with a certificate that is good, and is not root's."""
    assert member.certificates is not None
    with grpc.secure_channel(
        member.target, member.certificates.credentials(certificate)
    ) as channel:
        read = channel.unary_unary(
            "/etcdserverpb.KV/Range", request_serializer=rpc.RangeRequest.SerializeToString
        )
        with pytest.raises(grpc.RpcError) as refused:
            read(rpc.RangeRequest(key=b"k", serializable=True), timeout=10)
    return str(refused.value.details())


def test_service_is_back_within_two_seconds_of_the_leaders_death(
    subject_command: Sequence[str], tmp_path: Path
) -> None:
    """With default flags, for a client that asks the next member when one does not answer."""
    with running_cluster(subject_command, tmp_path) as cluster:
        writer = SteadyWriter(cluster)
        gaps = []
        for _ in range(3):
            writer.await_writes(50)
            leader = cluster.leader()
            killed = time.monotonic()
            leader.kill()
            writer.await_writes(50)
            gaps.append(writer.longest_gap(killed))
            leader.start()
        writer.stop()
    print(f"seconds without service after the leader's death: {[round(gap, 2) for gap in gaps]}")
    assert sorted(gaps)[1] < WITHOUT_SERVICE_SECONDS, gaps


def test_partitions_one_way_and_both_and_bad_links_lose_nothing(start_faults: StartFaults) -> None:
    """Packets between members are lost, all or some, in one direction or both."""
    run, faults = start_faults(network=True)
    run.load()
    faults.cut_the_leader_off()
    faults.let_the_leader_hear_nothing()
    faults.let_nobody_hear_the_leader()
    run.settle()
    run.load()
    faults.cut_a_follower_off()
    faults.lose_packets()
    faults.slow_the_links()
    run.settle()
    run.finish()


def test_power_losses_full_disks_and_failed_syncs_lose_nothing(start_faults: StartFaults) -> None:
    """Only what was synced is there afterwards, and of the rest a torn part."""
    run, faults = start_faults(disks=True)
    run.load()
    faults.power_fails_at_the_leader()
    faults.power_fails_everywhere()
    faults.power_fails_everywhere()
    run.settle()
    run.load()
    faults.fill_the_leaders_disk()
    faults.use_a_disk_up()
    faults.fail_a_sync()
    faults.kill_while_it_stops()
    run.settle()
    run.finish()


def test_members_that_come_and_go_lose_nothing(start_faults: StartFaults) -> None:
    """A member is wiped and added again; another is added as a learner, promoted, one removed."""
    run, faults = start_faults()
    run.load()
    faults.wipe_a_member()
    faults.outrun_a_follower()
    faults.compact_the_history()
    faults.replace_a_member()
    run.settle()
    run.finish()


def test_a_member_that_is_cut_off_says_so_and_the_check_reports_its_stale_reads(
    start_machines: StartMachines,
) -> None:
    """Linearizable reads get no answer, calls that want a leader an error, streams an end."""
    machines = start_machines(network=True)
    cluster, network = machines.cluster, machines.network
    assert network is not None
    leader = cluster.leader()
    cut = next(member for member in cluster.members if member is not leader)

    def put(value: bytes) -> Operation:
        invoked = time.monotonic()
        request = rpc.PutRequest(key=b"k", value=value)
        revision = ask(leader, request, rpc.PutResponse).header.revision
        return Operation(Put("k", value), invoked, time.monotonic(), Answer(revision))

    def get(serializable: bool) -> Operation:
        invoked = time.monotonic()
        request = rpc.RangeRequest(key=b"k", serializable=serializable)
        answer = ask(cut, request, rpc.RangeResponse)
        found = Answer(answer.header.revision, answer.kvs[0].value, answer.kvs[0].mod_revision)
        return Operation(Get("k"), invoked, time.monotonic(), found)

    history = [put(b"1"), get(serializable=False)]
    check(history)
    with cut.channel() as channel:
        create = rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"k"))
        watch = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )(iter([create]), metadata=[("hasleader", "true")], timeout=SERVED_SECONDS)
        assert next(watch).created
        network.cut_off(machines.hosts[cut], machines.others(cut))
        history += [put(b"2"), get(serializable=True)]
        with pytest.raises(NotLinearizableError):
            check(history)
        with pytest.raises(grpc.RpcError) as unanswered:
            get(serializable=False)
        assert unanswered.value.code() in (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.UNAVAILABLE,
        )
        with pytest.raises(grpc.RpcError) as ended:
            list(watch)
        assert ended.value.details() == "etcdserver: no leader"
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    network.heal()
    wait_for(lambda: _reads(cut, b"2"), SERVED_SECONDS, "a linearizable read of the healed member")


def _reads(member: Member, value: bytes) -> bool:
    try:
        answer = ask(member, rpc.RangeRequest(key=b"k"), rpc.RangeResponse)
    except grpc.RpcError:
        return False
    assert answer.kvs[0].value == value
    return True
