"""How a member ends when it is asked to: what it took is answered, what it did not take is not
done, streams end with an error that clients try again, and the process's status is etcd's.
"""

import queue
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import pytest

from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Answer, Client
from tests.conftest import StartMember
from tests.members import Member, running_cluster, wait_for

SECONDS = 30.0
CLIENTS = 5
WINDOW = 20
"""Requests that a client has under way."""


@pytest.fixture(params=["etcd", "subject"], name="member")
def each_member(request: pytest.FixtureRequest, start_member: StartMember) -> Member:
    """Real etcd, which checks the test itself, then the server under test; new ones."""
    command: Sequence[str] = request.getfixturevalue(f"{request.param}_command")
    return start_member(command)


class Writer:
    """Puts keys of its own, `WINDOW` at a time, until a put fails; then no more."""

    def __init__(self, member: Member, number: int) -> None:
        self.answers: dict[bytes, Answer] = {}
        self._client = Client(member.channel())
        wait_for(self._connected, SECONDS, "a connection")
        self._number = number
        self._failed = threading.Event()
        self._threads = [threading.Thread(target=self._put, args=(each,)) for each in range(WINDOW)]

    def start(self) -> None:
        """Begins."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Waits until all is answered."""
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        self._client.close()

    def _connected(self) -> bool:
        return self._client.call("Status", rpc.StatusRequest()).code == "OK"

    def _put(self, lane: int) -> None:
        number = 0
        while not self._failed.is_set():
            key = b"%d-%d-%d" % (self._number, lane, number)
            answer = self._client.call("Put", rpc.PutRequest(key=key, value=b"v" * 100))
            self.answers[key] = answer
            number += 1
            if answer.code != "OK":
                self._failed.set()


def keys_of(member: Member) -> set[bytes]:
    """All that it has."""
    client = Client(member.channel())
    everything = rpc.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True)
    found = client.call("Range", everything).response
    client.close()
    assert isinstance(found, rpc.RangeResponse)
    return {pair.key for pair in found.kvs}


def test_what_was_taken_is_answered_and_what_was_not_is_not_done(member: Member) -> None:
    """Under load from several clients: of every put it is known whether it was made."""
    writers = [Writer(member, number) for number in range(CLIENTS)]
    for writer in writers:
        writer.start()
    wait_for(lambda: all(len(each.answers) > 100 for each in writers), SECONDS, "load")
    begin = time.monotonic()
    member.terminate()
    assert member.wait_exit(SECONDS) == -signal.SIGTERM
    print("ended in", time.monotonic() - begin, "s")
    for writer in writers:
        writer.join()
    answers = {key: answer for writer in writers for key, answer in writer.answers.items()}
    print(Counter(f"{each.code} {each.details}" for each in answers.values() if each.code != "OK"))
    assert {answer.code for answer in answers.values()} == {"OK", "UNAVAILABLE"}
    member.start()
    assert keys_of(member) == {key for key, answer in answers.items() if answer.code == "OK"}


def test_a_leader_hands_over_and_answers_what_it_took(
    tmp_path: Path, subject_command: Sequence[str]
) -> None:
    """Its clients know of every put, though others end it, and no put that was made is lost."""
    with running_cluster(subject_command, tmp_path) as cluster:
        leader = cluster.leader()
        writers = [Writer(leader, number) for number in range(CLIENTS)]
        for writer in writers:
            writer.start()
        wait_for(lambda: all(len(each.answers) > 100 for each in writers), SECONDS, "load")
        leader.terminate()
        assert leader.wait_exit(SECONDS) == -signal.SIGTERM
        for writer in writers:
            writer.join()
        answers = {key: answer for writer in writers for key, answer in writer.answers.items()}
        print(Counter(str(each) for each in answers.values() if each.code != "OK"))
        assert {answer.code for answer in answers.values()} == {"OK", "UNAVAILABLE"}
        made = keys_of(cluster.leader())
        acknowledged = {key for key, answer in answers.items() if answer.code == "OK"}
        print(len(made - acknowledged), "made without an answer")
        assert made >= acknowledged


def test_streams_end_with_an_error_that_clients_try_again(
    start_member: StartMember, subject_command: Sequence[str]
) -> None:
    """A watcher has all events that were acknowledged before, then UNAVAILABLE; keep-alives too.

    Who opens another stream at once does not hold the member up. etcd 3.5 ends so as well, but
    waits for its request timeout, 7 s, while a stream is open.
    """
    member = start_member(subject_command)
    with ExitStack() as stack:
        channel = stack.enter_context(member.channel())
        client = Client(channel)
        stream = client.watch_stream()
        create = rpc.WatchCreateRequest(key=b"\0", range_end=b"\0")
        stream.send(rpc.WatchRequest(create_request=create))
        assert stream.await_controls(0, 1)
        lease = client.call("LeaseGrant", rpc.LeaseGrantRequest(TTL=600)).response
        assert isinstance(lease, rpc.LeaseGrantResponse)
        ended: queue.Queue[grpc.RpcError] = queue.Queue()
        keeper = threading.Thread(target=partial(_keep_alive, channel, lease.ID, ended))
        keeper.start()
        again = threading.Thread(target=partial(_watch_again, channel))
        again.start()
        for number in range(20):
            assert client.call("Put", rpc.PutRequest(key=b"%d" % number)).code == "OK"
        begin = time.monotonic()
        member.terminate()
        assert member.wait_exit(SECONDS) == -signal.SIGTERM
        print("ended in", time.monotonic() - begin, "s")
        assert stream.wait(lambda: bool(stream.faults), SECONDS)
        assert len(stream.events[0]) == 20
        (fault,) = stream.faults
        assert fault.startswith("the stream ended: UNAVAILABLE")
        error = ended.get(timeout=SECONDS)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        for thread in (keeper, again):
            thread.join(SECONDS)
            assert not thread.is_alive()


def _keep_alive(channel: grpc.Channel, lease: int, ended: "queue.Queue[grpc.RpcError]") -> None:
    done = threading.Event()

    def requests() -> Iterator[rpc.LeaseKeepAliveRequest]:
        yield rpc.LeaseKeepAliveRequest(ID=lease)
        done.wait(SECONDS)

    call = channel.stream_stream(
        "/etcdserverpb.Lease/LeaseKeepAlive",
        request_serializer=rpc.LeaseKeepAliveRequest.SerializeToString,
        response_deserializer=rpc.LeaseKeepAliveResponse.FromString,
    )(requests())
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        ended.put(error)
    done.set()


def _watch_again(channel: grpc.Channel) -> None:
    """Watches, and watches again when that ends, as clients do, until there is no server."""
    while True:
        done = threading.Event()

        def requests(done: threading.Event = done) -> Iterator[rpc.WatchRequest]:
            yield rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"again"))
            done.wait(SECONDS)

        call = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )(requests())
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            if "onnect" in (error.details() or ""):
                return
        finally:
            done.set()


def test_the_status_is_the_signals(member: Member) -> None:
    """Who waits for the process sees which signal ended it, as with etcd."""
    assert member.process is not None
    member.process.send_signal(signal.SIGINT)
    assert member.wait_exit(SECONDS) == -signal.SIGINT


def test_a_second_signal_ends_it_at_once(
    start_member: StartMember, subject_command: Sequence[str]
) -> None:
    """An impatient operator need not look for kill -9; what was acknowledged stays."""
    member = start_member(subject_command)
    client = Client(member.channel())
    assert client.call("Put", rpc.PutRequest(key=b"k")).code == "OK"
    # A client that never answers holds the member up.
    with socket.create_connection(("127.0.0.1", member.client_port)) as silent:
        silent.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5))
        assert silent.recv(100)
        member.terminate()
        wait_for(lambda: "shutting down" in member.log, SECONDS, "the first signal")
        begin = time.monotonic()
        member.terminate()
        assert member.wait_exit(SECONDS) == -signal.SIGTERM
        assert time.monotonic() - begin < 3
    client.close()
    member.start()
    client = Client(member.channel())
    answer = client.call("Range", rpc.RangeRequest(key=b"k")).response
    assert isinstance(answer, rpc.RangeResponse)
    assert answer.count == 1
    client.close()
