"""Locks and elections: the services, etcdctl's (Go's concurrency package) and both together."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from rusd.pb import election_pb2 as election
from rusd.pb import lock_pb2 as lock
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Answer, Client
from tests.members import Member, wait_for

SECONDS = 30.0


@pytest.fixture(name="client")
def connected(server: Member) -> Iterator[Client]:
    """A client of it."""
    client = Client(server.channel())
    yield client
    client.close()


class Waiting:
    """A call in a thread of its own, which may take its time."""

    def __init__(self, server: Member, method: str, request: Message) -> None:
        self.answer: Answer | None = None
        self._client = Client(server.channel())
        self._thread = threading.Thread(target=self._call, args=(method, request), daemon=True)
        self._thread.start()

    def _call(self, method: str, request: Message) -> None:
        answer = self._client.begin(method, request)
        self.answer = answer()

    def result(self) -> Answer:
        """The answer, which must come."""
        self._thread.join(SECONDS)
        assert self.answer is not None
        self._client.close()
        return self.answer

    def leave(self) -> None:
        """Hang up."""
        self._client.close()


def grant(client: Client, seconds: int = 600) -> int:
    """A new lease."""
    answer = client.call("LeaseGrant", rpc.LeaseGrantRequest(TTL=seconds))
    assert isinstance(answer.response, rpc.LeaseGrantResponse), answer
    return answer.response.ID


def keys(client: Client, name: bytes) -> list[bytes]:
    """The keys of a lock or an election, the oldest first."""
    request = rpc.RangeRequest(
        key=name + b"/",
        range_end=name + b"0",
        sort_target=rpc.RangeRequest.CREATE,
        sort_order=rpc.RangeRequest.ASCEND,
    )
    answer = client.call("Range", request)
    assert isinstance(answer.response, rpc.RangeResponse), answer
    return [item.key for item in answer.response.kvs]


def has_keys(client: Client, name: bytes, count: int) -> bool:
    return len(keys(client, name)) == count


def test_a_lock_passes_on_in_the_order_of_asking(server: Member, client: Client) -> None:
    name = b"order"
    first = client.call("Lock", lock.LockRequest(name=name, lease=grant(client)))
    assert isinstance(first.response, lock.LockResponse), first
    waiting = []
    for number in range(2, 5):
        request = lock.LockRequest(name=name, lease=grant(client))
        waiting.append(Waiting(server, "Lock", request))
        wait_for(partial(has_keys, client, name, number), SECONDS, "its key")
    order = keys(client, name)
    assert order[0] == first.response.key
    for number, (expected, waiter) in enumerate(zip(order[1:], waiting, strict=True)):
        assert all(each.answer is None for each in waiting[number:])
        client.call("Unlock", lock.UnlockRequest(key=keys(client, name)[0]))
        answer = waiter.result().response
        assert isinstance(answer, lock.LockResponse)
        assert answer.key == expected == keys(client, name)[0]
    client.call("Unlock", lock.UnlockRequest(key=order[-1]))


def test_a_lock_is_kept_by_its_lease_and_goes_with_it(server: Member, client: Client) -> None:
    name = b"lease"
    lease = grant(client)
    for _ in range(2):  # the same lease has it already
        held = client.call("Lock", lock.LockRequest(name=name, lease=lease))
        assert isinstance(held.response, lock.LockResponse), held
        assert held.response.key == b"lease/%x" % lease
    waiter = Waiting(server, "Lock", lock.LockRequest(name=name, lease=grant(client)))
    wait_for(partial(has_keys, client, name, 2), SECONDS, "its key")
    client.call("LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
    assert waiter.result().response is not None


def test_a_lock_without_a_lease_gets_one_of_a_minute(client: Client) -> None:
    answer = client.call("Lock", lock.LockRequest(name=b"own"))
    assert isinstance(answer.response, lock.LockResponse), answer
    lease = int(answer.response.key.rpartition(b"/")[2], 16)
    shown = client.call("LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=lease))
    assert isinstance(shown.response, rpc.LeaseTimeToLiveResponse), shown
    assert shown.response.grantedTTL == 60


def test_who_waits_with_a_lease_that_ends_does_not_get_the_lock(
    server: Member, client: Client
) -> None:
    name = b"expired"
    held = client.call("Lock", lock.LockRequest(name=name, lease=grant(client)))
    lease = grant(client)
    waiter = Waiting(server, "Lock", lock.LockRequest(name=name, lease=lease))
    wait_for(partial(has_keys, client, name, 2), SECONDS, "its key")
    client.call("LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
    assert isinstance(held.response, lock.LockResponse), held
    client.call("Unlock", lock.UnlockRequest(key=held.response.key))
    assert waiter.result() == Answer(None, "UNKNOWN", "mutex: session is expired")


def test_who_hangs_up_leaves_the_line(server: Member, client: Client) -> None:
    for name, method, request in (
        (b"left", "Lock", lock.LockRequest(name=b"left")),
        (b"quit", "Campaign", election.CampaignRequest(name=b"quit")),
    ):
        held = client.call(method, request)
        assert held.code == "OK", held
        waiter = Waiting(server, method, request)
        wait_for(partial(has_keys, client, name, 2), SECONDS, "its key")
        waiter.leave()
        wait_for(partial(has_keys, client, name, 1), SECONDS, "its key to be gone")


def test_a_deadline_ends_the_waiting(client: Client, server: Member) -> None:
    name = b"deadline"
    assert client.call("Lock", lock.LockRequest(name=name)).code == "OK"
    with server.channel() as channel:
        call = channel.unary_unary(
            "/v3lockpb.Lock/Lock",
            request_serializer=lock.LockRequest.SerializeToString,
            response_deserializer=lock.LockResponse.FromString,
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(lock.LockRequest(name=name), timeout=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(partial(has_keys, client, name, 1), SECONDS, "its key to be gone")


def test_an_election_goes_from_leader_to_leader(server: Member, client: Client) -> None:
    name = b"vote"
    seen: list[election.LeaderResponse] = []
    channel = server.channel()
    observed = channel.unary_stream(
        "/v3electionpb.Election/Observe",
        request_serializer=election.LeaderRequest.SerializeToString,
        response_deserializer=election.LeaderResponse.FromString,
    )(election.LeaderRequest(name=name))

    def observe() -> None:
        with suppress(grpc.RpcError):
            seen.extend(observed)

    def values(*wanted: bytes) -> bool:
        return [response.kv.value for response in seen] == list(wanted)

    observer = threading.Thread(target=observe)
    observer.start()
    campaign = election.CampaignRequest(name=name, lease=grant(client), value=b"one")
    first = client.call("Campaign", campaign).response
    assert isinstance(first, election.CampaignResponse)
    wait_for(partial(values, b"one"), SECONDS, "the first leader")
    proclaim = election.ProclaimRequest(leader=first.leader, value=b"uno")
    assert client.call("Proclaim", proclaim).code == "OK"
    wait_for(partial(values, b"one", b"uno"), SECONDS, "what it proclaims")
    request = election.CampaignRequest(name=name, lease=grant(client), value=b"two")
    waiter = Waiting(server, "Campaign", request)
    wait_for(partial(has_keys, client, name, 2), SECONDS, "its key")
    leader = client.call("Leader", election.LeaderRequest(name=name)).response
    assert isinstance(leader, election.LeaderResponse)
    assert leader.kv.value == b"uno"
    assert client.call("Resign", election.ResignRequest(leader=first.leader)).code == "OK"
    second = waiter.result().response
    assert isinstance(second, election.CampaignResponse)
    wait_for(partial(values, b"one", b"uno", b"two"), SECONDS, "the second leader")
    again = client.call("Proclaim", election.ProclaimRequest(leader=first.leader, value=b"x"))
    assert again == Answer(None, "UNKNOWN", "election: not leader")
    client.call("Resign", election.ResignRequest(leader=second.leader))
    observed.cancel()
    observer.join(SECONDS)
    channel.close()
    assert [response.kv.create_revision for response in seen] == [
        first.leader.rev,
        first.leader.rev,
        second.leader.rev,
    ]


def test_who_waits_with_a_lease_that_ends_does_not_lead(subject: Member) -> None:
    """Go's package does not look, and reports a leader that is none."""
    name, client = b"void", Client(subject.channel())
    led = client.call("Campaign", election.CampaignRequest(name=name)).response
    assert isinstance(led, election.CampaignResponse)
    lease = grant(client)
    waiter = Waiting(subject, "Campaign", election.CampaignRequest(name=name, lease=lease))
    wait_for(partial(has_keys, client, name, 2), SECONDS, "its key")
    client.call("LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
    client.call("Resign", election.ResignRequest(leader=led.leader))
    assert waiter.result() == Answer(None, "UNKNOWN", "election: not leader")
    client.close()


ERRORS = [
    ("Lock", lock.LockRequest(name=b"n", lease=5), "etcdserver: requested lease not found"),
    ("Unlock", lock.UnlockRequest(), "etcdserver: key is not provided"),
    (
        "Campaign",
        election.CampaignRequest(name=b"n", lease=5),
        "etcdserver: requested lease not found",
    ),
    ("Leader", election.LeaderRequest(name=b"nobody"), "election: no leader"),
    ("Proclaim", election.ProclaimRequest(), '"leader" field must be provided'),
    ("Resign", election.ResignRequest(), '"leader" field must be provided'),
    (
        "Resign",
        election.ResignRequest(leader=election.LeaderKey()),
        "etcdserver: key is not provided",
    ),
]


@pytest.mark.parametrize(("method", "request_", "text"), ERRORS)
def test_errors_have_etcds_text_and_no_code(
    client: Client, method: str, request_: lock.LockRequest, text: str
) -> None:
    assert client.call(method, request_) == Answer(None, "UNKNOWN", text)


# Together with etcdctl


@contextmanager
def etcdctl(programs: Path, server: Member, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A running etcdctl."""
    command = [str(programs / "etcdctl"), "--endpoints", server.target, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def line(running: "subprocess.Popen[str]") -> str:
    """The next line that it prints."""
    assert running.stdout is not None
    return running.stdout.readline().strip()


def test_etcdctl_and_the_service_wait_for_each_other(
    etcd_programs: Path, server: Member, client: Client
) -> None:
    name = b"mixed"
    held = client.call("Lock", lock.LockRequest(name=name)).response
    assert isinstance(held, lock.LockResponse)
    with etcdctl(etcd_programs, server, "lock", "mixed") as running:
        wait_for(partial(has_keys, client, name, 2), SECONDS, "etcdctl's key")
        waiter = Waiting(server, "Lock", lock.LockRequest(name=name))
        wait_for(partial(has_keys, client, name, 3), SECONDS, "the third key")
        client.call("Unlock", lock.UnlockRequest(key=held.key))
        assert line(running).encode() == keys(client, name)[0]
        assert waiter.answer is None
        running.terminate()
        assert waiter.result().response is not None


def test_etcdctl_elects_beside_the_service(
    etcd_programs: Path, server: Member, client: Client
) -> None:
    name = b"office"
    campaign = election.CampaignRequest(name=name, value=b"service")
    led = client.call("Campaign", campaign).response
    assert isinstance(led, election.CampaignResponse)
    with (
        etcdctl(etcd_programs, server, "elect", "--listen", "office") as listening,
        etcdctl(etcd_programs, server, "elect", "office", "etcdctl") as running,
    ):
        assert [line(listening), line(listening)] == [led.leader.key.decode(), "service"]
        wait_for(partial(has_keys, client, name, 2), SECONDS, "etcdctl's key")
        waiter = Waiting(server, "Campaign", campaign)
        wait_for(partial(has_keys, client, name, 3), SECONDS, "the third key")
        client.call("Resign", election.ResignRequest(leader=led.leader))
        key = keys(client, name)[0].decode()
        assert [line(running), line(running)] == [key, "etcdctl"]
        assert [line(listening), line(listening)] == [key, "etcdctl"]
        assert waiter.answer is None
        running.terminate()
        assert waiter.result().response is not None


CONTENDERS = 4
TURNS = 5


def test_a_counter_under_contention_from_many_processes(
    etcd_programs: Path, server: Member, client: Client
) -> None:
    """Each turn reads and writes a counter without a transaction: the lock alone protects it."""
    ctl = f"{etcd_programs}/etcdctl --endpoints {server.target}"
    turn = f"n=$({ctl} get --print-value-only counter); {ctl} put counter $((n+1))"
    script = f"for turn in $(seq {TURNS}); do {ctl} lock counted -- sh -c '{turn}' || exit 1; done"
    client.call("Put", rpc.PutRequest(key=b"counter", value=b"0"))
    shells = [
        subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL) for _ in range(CONTENDERS)
    ]
    try:
        for _ in range(TURNS):
            lease = grant(client, 60)
            mine = client.call("Lock", lock.LockRequest(name=b"counted", lease=lease)).response
            assert isinstance(mine, lock.LockResponse)
            read = client.call("Range", rpc.RangeRequest(key=b"counter")).response
            assert isinstance(read, rpc.RangeResponse)
            value = b"%d" % (int(read.kvs[0].value) + 1)
            client.call("Put", rpc.PutRequest(key=b"counter", value=value))
            client.call("Unlock", lock.UnlockRequest(key=mine.key))
        assert [shell.wait(SECONDS) for shell in shells] == [0] * CONTENDERS
    finally:
        for shell in shells:
            shell.kill()
            shell.wait()
    read = client.call("Range", rpc.RangeRequest(key=b"counter")).response
    assert isinstance(read, rpc.RangeResponse)
    assert int(read.kvs[0].value) == (CONTENDERS + 1) * TURNS
