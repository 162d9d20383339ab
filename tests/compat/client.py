"""A gRPC client that keeps whatever a server answers, made comparable with another server's answer.

Ids of members and clusters, Raft terms and the passing of time differ between two servers that
behave alike; `comparable` takes them out of an answer and leaves the rest.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from rusd.pb import election_pb2 as election
from rusd.pb import kv_pb2 as kv
from rusd.pb import lock_pb2 as lock
from rusd.pb import rpc_pb2 as rpc

ANSWER_SECONDS = 30.0

PATHS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in (rpc.DESCRIPTOR, lock.DESCRIPTOR, election.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
}
"""Every method that rusd's service descriptors name, by its path."""
_METHODS = {
    path.rsplit("/", 1)[1]: path
    for path, method in PATHS.items()
    if not method.client_streaming and not method.server_streaming
}
_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
_WATCH = "/etcdserverpb.Watch/Watch"

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came back with: a response, or a status code and its text."""

    response: Message | None
    code: str = "OK"
    details: str = ""

    def __str__(self) -> str:
        """One line for a report."""
        if self.response is None:
            return f"{self.code}: {self.details}"
        return f"{type(self.response).__name__} {{ {one_line(self.response)} }}"


def one_line(message: Message) -> str:
    """Print a message's fields on one line."""
    return " ".join(str(message).split())


def comparable(message: Message) -> Message:
    """Take out of `message` what may differ between two like servers; returns the same object."""
    if isinstance(message, rpc.ResponseHeader):
        # A header of a nested answer may be without ids, so that one was there is kept.
        message.cluster_id = min(message.cluster_id, 1)
        message.member_id = min(message.member_id, 1)
        message.raft_term = min(message.raft_term, 1)
    elif isinstance(message, rpc.LeaseTimeToLiveResponse):
        message.TTL = min(message.TTL, 1)  # -1 says that there is no such lease
        message.keys[:] = sorted(message.keys)
    elif isinstance(message, rpc.LeaseLeasesResponse):
        message.leases.sort(key=lambda lease: lease.ID)
    elif isinstance(message, rpc.HashKVResponse):
        # The hash is over each server's own storage; hash_revision is younger than etcd 3.5, which
        # at a compacted revision may give a hash that it took before that compaction.
        message.hash = 0
        message.compact_revision = 0
        message.hash_revision = 0
    elif isinstance(message, rpc.AuthenticateResponse):
        message.token = "a token" if message.token else ""
    elif isinstance(message, rpc.MemberListResponse):
        del message.members[:]
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for inner in (value,) if isinstance(value, Message) else value:
                comparable(inner)
    return message


class WatchStream:
    """One Watch call: sends requests, and sorts what arrives by what it tells.

    `controls` are answers to creates and cancels, `progress` those to progress requests, `events`
    has every event by watch id since the watcher with that id was created. `fragments` counts
    answers that the next one continues. `faults` lists broken promises that need no second server
    to see.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        seconds: float = ANSWER_SECONDS,
        metadata: Metadata = (),
    ) -> None:
        """Open the stream; what is awaited on it may take `seconds`."""
        self._seconds = seconds
        self.controls: list[rpc.WatchResponse] = []
        self.progress: list[rpc.WatchResponse] = []
        self.events: dict[int, list[kv.Event]] = {}
        self.faults: list[str] = []
        self.fragments = 0
        self._fragmented: set[int] = set()
        self._changed = threading.Condition()
        self._requests: queue.SimpleQueue[rpc.WatchRequest | None] = queue.SimpleQueue()
        self._call = channel.stream_stream(
            _WATCH,
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )(self._sent(), metadata=metadata)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, request: rpc.WatchRequest) -> None:
        """Send one request."""
        self._requests.put(request)

    def wait(self, done: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until `done`, which is asked after every answer, holds; False if it is too late."""
        with self._changed:
            return self._changed.wait_for(done, self._seconds if seconds is None else seconds)

    def await_controls(self, known: int, at_most: int) -> list[rpc.WatchResponse]:
        """Wait for control answers after the first `known`: `at_most`, or to one that cancels."""

        def done() -> bool:
            new = self.controls[known:]
            return len(new) >= at_most or any(each.canceled for each in new) or bool(self.faults)

        self.wait(done)
        return self.controls[known:]

    def await_events(self, watch_id: int, count: int) -> list[kv.Event]:
        """Wait for `count` events of a watcher; return those that came in time."""
        self.wait(lambda: len(self.events[watch_id]) >= count or bool(self.faults))
        return list(self.events[watch_id])

    def close(self) -> None:
        """Cancel the call and end its threads."""
        self._call.cancel()
        self._requests.put(None)
        self._reader.join(self._seconds)

    def _sent(self) -> Iterator[rpc.WatchRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _read(self) -> None:
        try:
            for response in self._call:
                with self._changed:
                    self._take(response)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                with self._changed:
                    self.faults.append(f"the stream ended: {error.code().name} {error.details()}")
                    self._changed.notify_all()

    def _take(self, response: rpc.WatchResponse) -> None:
        if response.created and not response.canceled:
            self.events[response.watch_id] = []
        if response.created or response.canceled:
            comparable(response)
            self.controls.append(response)
            if response.events:
                self.faults.append(f"a control answer has events: {one_line(response)}")
        elif not response.events:
            self.progress.append(response)
        else:
            self._take_events(response)

    def _take_events(self, response: rpc.WatchResponse) -> None:
        known = self.events.get(response.watch_id)
        if known is None:
            self.faults.append(f"events for an unknown watcher: {one_line(response)}")
            return
        first = response.events[0].kv.mod_revision
        if response.watch_id in self._fragmented:  # goes on where the last answer stopped
            self._fragmented.remove(response.watch_id)
        elif known and first <= known[-1].kv.mod_revision:
            self.faults.append(
                f"watcher {response.watch_id}: revision {first} is split or repeated"
            )
        if response.fragment:
            self._fragmented.add(response.watch_id)
            self.fragments += 1
        known.extend(response.events)
        if response.header.revision < known[-1].kv.mod_revision:
            self.faults.append(f"the header is older than the events: {one_line(response)}")


class Client:
    """All calls to one server, over one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        """Take over the channel, which `close` closes."""
        self._channel = channel
        self._unary = {
            name: channel.unary_unary(
                path,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=GetMessageClass(PATHS[path].output_type).FromString,
            )
            for name, path in _METHODS.items()
        }

    def begin(self, method: str, request: Message, metadata: Metadata = ()) -> Callable[[], Answer]:
        """Send a unary call; what is returned waits for its answer."""
        call = self._unary[method].future(request, timeout=ANSWER_SECONDS, metadata=metadata)
        return lambda: _answer(call.result)

    def call(self, method: str, request: Message, metadata: Metadata = ()) -> Answer:
        """Send a unary call and wait for its answer."""
        return self.begin(method, request, metadata)()

    def login(self, name: str, password: str) -> tuple[Answer, str]:
        """Authenticate; return the answer without the token, and the token, empty for an error."""
        token = ""

        def result() -> Message:
            nonlocal token
            response = self._unary["Authenticate"](
                rpc.AuthenticateRequest(name=name, password=password), timeout=ANSWER_SECONDS
            )
            token = response.token
            answered: Message = response
            return answered

        return _answer(result), token

    def add_user(self, name: str, password: str = "") -> None:
        """Make a user, who has a role of the same name; the name is the password, if there is none.

        Before authentication is on.
        """
        for method, request in (
            ("UserAdd", rpc.AuthUserAddRequest(name=name, password=password or name)),
            ("RoleAdd", rpc.AuthRoleAddRequest(name=name)),
            ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user=name, role=name)),
        ):
            answer = self.call(method, request)
            assert answer.code == "OK", (method, answer)

    def keep_alive(self, lease: int, metadata: Metadata = ()) -> Answer:
        """Refresh one lease on a stream of its own."""
        call = self._channel.stream_stream(
            _KEEP_ALIVE,
            request_serializer=rpc.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=rpc.LeaseKeepAliveResponse.FromString,
        )(iter([rpc.LeaseKeepAliveRequest(ID=lease)]), timeout=ANSWER_SECONDS, metadata=metadata)
        return _answer(lambda: next(call))

    def watch_stream(self, seconds: float = ANSWER_SECONDS, metadata: Metadata = ()) -> WatchStream:
        """Open a Watch stream."""
        return WatchStream(self._channel, seconds, metadata)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _answer(result: Callable[[], Message]) -> Answer:
    try:
        return Answer(comparable(result()))
    except grpc.RpcError as error:
        return Answer(None, error.code().name, error.details())


def eventually(attempt: Callable[[], T | None], seconds: float, every: float) -> T | None:
    """Repeat `attempt` until it gives something, at most for `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := attempt()) is None and time.monotonic() < deadline:
        time.sleep(every)
    return found
