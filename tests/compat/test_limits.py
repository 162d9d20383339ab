"""Answers at the edges that random calls do not reach, the same from real etcd and from us."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from google.protobuf.message import Message

from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import ANSWER_SECONDS, Answer, Client, WatchStream
from tests.conftest import StartMember
from tests.members import Member


def emptied(member: Member) -> Iterator[Client]:
    """Connect to a server whose keys are removed."""
    client = Client(member.channel())
    everything = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
    assert client.call("DeleteRange", everything).code == "OK"
    yield client
    client.close()


@pytest.fixture(name="etcd")
def etcd_client(reference: Member) -> Iterator[Client]:
    """Real etcd."""
    yield from emptied(reference)


@pytest.fixture(name="ours")
def subject_client(subject: Member) -> Iterator[Client]:
    """The server under test."""
    yield from emptied(subject)


@dataclass
class Servers:
    """Both servers."""

    etcd: Client
    ours: Client

    def same(self, method: str, request: Message) -> Answer:
        """Call both; the answers must be equal but for the revision."""
        answers = []
        for client in (self.etcd, self.ours):
            answer = client.call(method, request)
            if answer.response is not None:
                answer.response.ClearField("header")
            answers.append(answer)
        assert answers[1] == answers[0]
        return answers[1]


@pytest.fixture
def both(etcd: Client, ours: Client) -> Servers:
    """Both servers, empty."""
    return Servers(etcd, ours)


@pytest.mark.parametrize("ttl", [0, -5, 1, 2, 9_000_000_000, 9_000_000_001, 2**62])
def test_a_lease_gets_the_same_time_to_live(both: Servers, ttl: int) -> None:
    """Short ones are made longer, very long ones refused."""
    both.same("LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl, ID=5))
    both.same("LeaseRevoke", rpc.LeaseRevokeRequest(ID=5))


def test_a_lease_without_id_gets_a_positive_one(ours: Client) -> None:
    """And never the same twice."""
    ids = set()
    for _ in range(100):
        granted = ours.call("LeaseGrant", rpc.LeaseGrantRequest(TTL=100)).response
        assert isinstance(granted, rpc.LeaseGrantResponse)
        assert granted.ID > 0
        ids.add(granted.ID)
    assert len(ids) == 100


def watching(client: Client, create: rpc.WatchCreateRequest) -> WatchStream:
    """Open a stream with one watcher, which is there when this returns."""
    stream = client.watch_stream()
    stream.send(rpc.WatchRequest(create_request=create))
    assert stream.await_controls(0, 1)[0].created
    return stream


def test_an_expired_lease_deletes_its_keys_in_one_revision_and_not_early(
    etcd: Client, ours: Client
) -> None:
    """Watchers see the deletes together, no sooner than the time to live after the grant."""
    for client in (etcd, ours):
        stream = watching(client, rpc.WatchCreateRequest(key=b"\0", range_end=b"\0"))
        assert client.call("LeaseGrant", rpc.LeaseGrantRequest(TTL=3, ID=8)).code == "OK"
        granted = time.monotonic()
        for key in (b"a", b"b", b"c"):
            assert client.call("Put", rpc.PutRequest(key=key, lease=8)).code == "OK"
        deletes = stream.await_events(0, 6)[3:]
        elapsed = time.monotonic() - granted
        assert [event.type for event in deletes] == [kv.Event.DELETE] * 3
        assert {event.kv.key for event in deletes} == {b"a", b"b", b"c"}
        assert len({event.kv.mod_revision for event in deletes}) == 1
        # The grant's answer took time to come back; the lease began no later than that.
        assert elapsed > 3 - 0.1, f"a lease of 3 s lived {elapsed:.2f} s"
        gone = client.call("LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=8)).response
        assert isinstance(gone, rpc.LeaseTimeToLiveResponse)
        assert gone.TTL == -1
        stream.close()


@pytest.mark.parametrize("size", [1_500_000, 1_572_864, 1_600_000, 3_000_000])
def test_a_request_that_is_too_large_gets_the_same_code(
    etcd: Client, ours: Client, size: int
) -> None:
    """Over the request limit: etcd's error; over the message limit: gRPC's, in any words."""
    request = rpc.PutRequest(key=b"large", value=bytes(size))
    expected, seen = (client.call("Put", request) for client in (etcd, ours))
    assert seen.code == expected.code
    if expected.code == "INVALID_ARGUMENT":
        assert seen.details == expected.details


@pytest.mark.parametrize("fragment", [False, True])
def test_a_large_history_arrives_whole(etcd: Client, ours: Client, fragment: bool) -> None:
    """Eight values, larger together than a message may be; no answer is a fragment unasked."""
    for client in (etcd, ours):
        first = client.call("Put", rpc.PutRequest(key=b"large")).response
        assert isinstance(first, rpc.PutResponse)
        for number in range(8):
            put = rpc.PutRequest(key=b"large", value=bytes([number]) * 1_000_000)
            assert client.call("Put", put).code == "OK"
        start = first.header.revision
        create = rpc.WatchCreateRequest(key=b"large", start_revision=start, fragment=fragment)
        stream = watching(client, create)
        events = stream.await_events(0, 9)
        assert [event.kv.value[:1] for event in events] == [b"", *(bytes([n]) for n in range(8))]
        assert fragment or not stream.fragments
        assert not stream.faults
        stream.close()


@pytest.mark.parametrize("fragment", [False, True])
def test_a_large_revision_is_one_answer_unless_the_watcher_takes_fragments(
    etcd: Client, ours: Client, fragment: bool
) -> None:
    """The deletes of 30 keys with their previous values are more than a message may be."""
    for client in (etcd, ours):
        for number in range(30):
            put = rpc.PutRequest(key=b"%02d" % number, value=bytes(100_000))
            assert client.call("Put", put).code == "OK"
        create = rpc.WatchCreateRequest(key=b"\0", range_end=b"\0", prev_kv=True, fragment=fragment)
        stream = watching(client, create)
        everything = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
        assert client.call("DeleteRange", everything).code == "OK"
        events = stream.await_events(0, 30)
        assert [event.kv.key for event in events] == [b"%02d" % number for number in range(30)]
        assert all(len(event.prev_kv.value) == 100_000 for event in events)
        assert (stream.fragments > 0) == fragment
        assert not stream.faults
        stream.close()


def test_progress_is_told_while_nothing_happens(
    start_member: StartMember,
    etcd_command: Sequence[str],
    subject_command: Sequence[str],
    request: pytest.FixtureRequest,
) -> None:
    """A watcher that asked for it hears of the revision that it has reached, again and again."""
    old = "--experimental-watch-progress-notify-interval"  # its name before etcd 3.6
    ours_is_etcd = request.config.getoption("--subject") == "etcd"
    ours = old if ours_is_etcd else "--watch-progress-notify-interval"
    for command, flag in ((etcd_command, old), (subject_command, ours)):
        client = Client(start_member(command, flag, "1s").channel())
        stream = watching(client, rpc.WatchCreateRequest(key=b"k", progress_notify=True))
        silent = watching(client, rpc.WatchCreateRequest(key=b"k"))
        assert client.call("Put", rpc.PutRequest(key=b"other")).code == "OK"

        def told(stream: WatchStream = stream) -> bool:
            return sum(each.header.revision == 2 for each in stream.progress) >= 2

        assert stream.wait(told, ANSWER_SECONDS)
        assert {each.watch_id for each in stream.progress} == {0}
        assert not silent.progress
        for each in (stream, silent):
            each.close()
        client.close()


OURS_ONLY = pytest.mark.usefixtures("not_real_etcd")


@pytest.fixture
def not_real_etcd(request: pytest.FixtureRequest) -> None:
    """Skip where real etcd is the server under test: it has the defect."""
    if request.config.getoption("--subject") == "etcd":
        pytest.skip("etcd's defect, which rusd does not share")


@OURS_ONLY
@pytest.mark.parametrize("field", ["sort_target", "sort_order"])
def test_an_unknown_sort_option_is_an_error(ours: Client, field: str) -> None:
    """An unknown target crashes etcd 3.5; 3.6 and later know the error for an unknown order."""
    request = rpc.RangeRequest(key=b"a", range_end=b"b")
    setattr(request, field, 9)
    answer = ours.call("Range", request)
    assert (answer.code, answer.details) == (
        "INVALID_ARGUMENT",
        "etcdserver: invalid sort option",
    )


@OURS_ONLY
@pytest.mark.parametrize("ignore_lease", [False, True])
def test_a_put_inside_a_delete_from_a_key_on_is_a_duplicate(
    ours: Client, ignore_lease: bool
) -> None:
    """Etcd 3.5 accepts it, and with ignore_lease it then panics, again after every restart."""
    assert ours.call("Put", rpc.PutRequest(key=b"b")).code == "OK"
    delete = rpc.DeleteRangeRequest(key=b"a", range_end=b"\0")
    put = rpc.PutRequest(key=b"b", ignore_lease=ignore_lease)
    operations = [rpc.RequestOp(request_delete_range=delete), rpc.RequestOp(request_put=put)]
    for order in (operations, operations[::-1]):
        answer = ours.call("Txn", rpc.TxnRequest(success=order))
        assert (answer.code, answer.details) == (
            "INVALID_ARGUMENT",
            "etcdserver: duplicate key given in txn request",
        )


@OURS_ONLY
def test_a_watcher_that_compaction_cancelled_frees_its_id_and_holds_nothing_back(
    ours: Client,
) -> None:
    """Etcd keeps the id until the client cancels it, and answers no progress request until then."""
    for _ in range(3):
        put = ours.call("Put", rpc.PutRequest(key=b"k")).response
    assert isinstance(put, rpc.PutResponse)
    assert ours.call("Compact", rpc.CompactionRequest(revision=put.header.revision)).code == "OK"
    stream = watching(ours, rpc.WatchCreateRequest(key=b"k"))
    below = rpc.WatchCreateRequest(key=b"k", start_revision=1, watch_id=7)
    stream.send(rpc.WatchRequest(create_request=below))
    created, canceled = stream.await_controls(1, 2)
    assert (created.created, created.watch_id) == (True, 7)
    assert (canceled.canceled, canceled.compact_revision) == (True, put.header.revision)
    stream.send(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
    assert stream.wait(lambda: bool(stream.progress))
    stream.send(rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"k", watch_id=7)))
    [again] = stream.await_controls(3, 1)
    assert (again.created, again.canceled, again.watch_id) == (True, False, 7)
    stream.close()
