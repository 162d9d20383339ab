"""Writers that remember what they were told, and the check of a server's history against it.

Every put has a value of its own. So the history, which a watcher reads from the server, shows for
each attempt whether it was applied, at which revision, and how often.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import grpc

from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import ANSWER_SECONDS, Client
from tests.members import Member

Change = tuple[bytes, bytes | None]
"""A key and its new value, or None where it is deleted."""


@dataclass
class Record:
    """What all writers attempted and what was acknowledged."""

    acknowledged: dict[int, frozenset[Change]] = field(default_factory=dict)
    """The changes by the revision that the answer named."""
    attempted: Counter[Change] = field(default_factory=Counter)
    repeated: list[str] = field(default_factory=list)
    """Revisions that two answers named."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def attempt(self, changes: frozenset[Change]) -> None:
        """Note that the changes are about to be sent."""
        with self._lock:
            self.attempted.update(changes)

    def acknowledge(self, revision: int, changes: frozenset[Change]) -> None:
        """Note that the changes were acknowledged as made at `revision`."""
        with self._lock:
            if revision in self.acknowledged:
                self.repeated.append(f"{revision}: {self.acknowledged[revision]} and {changes}")
            self.acknowledged[revision] = changes


class Writers:
    """Threads that write to one member as fast as it answers, until it is gone."""

    def __init__(self, member: Member, record: Record, count: int, run: int, seed: int) -> None:
        """Start `count` writers; `run` makes the values of this run differ from other runs'."""
        self._threads = [
            threading.Thread(target=_write, args=(member, record, number, run, seed), daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all writers have seen that the member is gone."""
        for thread in self._threads:
            thread.join(ANSWER_SECONDS)
            assert not thread.is_alive(), "a writer did not see that the member is gone"


def _write(member: Member, record: Record, number: int, run: int, seed: int) -> None:
    random = Random(f"{seed}/{run}/{number}")
    client = Client(member.channel())
    try:
        for count in itertools.count():
            value = b"%d/%d/%d " % (run, number, count) + bytes(random.randrange(200))
            key = b"w%d/%d" % (number, random.randrange(20))
            changes: frozenset[Change]
            request: rpc.PutRequest | rpc.TxnRequest | rpc.DeleteRangeRequest
            kind = random.random()
            if kind < 0.8:
                changes = frozenset({(key, value)})
                request = rpc.PutRequest(key=key, value=value)
            elif kind < 0.9:
                changes = frozenset({(key, value), (key + b"+", value)})
                request = rpc.TxnRequest(
                    success=[
                        rpc.RequestOp(request_put=rpc.PutRequest(key=changed, value=value))
                        for changed, value in changes
                        if value is not None
                    ]
                )
            else:
                changes = frozenset({(key, None)})
                request = rpc.DeleteRangeRequest(key=key)
            record.attempt(changes)
            method = type(request).__name__.removesuffix("Request")
            answer = client.call(method, request)
            response = answer.response
            if response is None:
                return
            if isinstance(response, rpc.DeleteRangeResponse) and not response.deleted:
                continue
            assert isinstance(response, rpc.PutResponse | rpc.TxnResponse | rpc.DeleteRangeResponse)
            record.acknowledge(response.header.revision, changes)
    finally:
        client.close()


def history(channel: grpc.Channel, start: int, end: int) -> Iterator[tuple[int, frozenset[Change]]]:
    """Read the changes from revision `start` to `end`, both included, as a watcher sees them."""
    if start > end:
        return
    create = rpc.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=start)
    asked = threading.Event()

    def requests() -> Iterator[rpc.WatchRequest]:
        yield rpc.WatchRequest(create_request=create)
        asked.wait()

    call = channel.stream_stream(
        "/etcdserverpb.Watch/Watch",
        request_serializer=rpc.WatchRequest.SerializeToString,
        response_deserializer=rpc.WatchResponse.FromString,
    )(requests(), timeout=2 * ANSWER_SECONDS)
    try:
        newest, changes = start, set[Change]()
        for response in call:
            assert not response.canceled, response
            for event in response.events:
                revision = event.kv.mod_revision
                assert revision >= newest, f"revision {revision} after {newest}"
                if revision != newest:
                    yield newest, frozenset(changes)
                    newest, changes = revision, set()
                put = event.type == kv.Event.PUT
                changes.add((event.kv.key, event.kv.value if put else None))
            if response.events and newest >= end:
                yield newest, frozenset(changes)
                return
    finally:
        asked.set()
        call.cancel()


def check(record: Record, seen: dict[int, frozenset[Change]], start: int) -> None:
    """Hold the history `seen`, from revision `start` on, against what was acknowledged.

    Every acknowledged write is there at its revision. Nothing is there that was not attempted, or
    more often than it was attempted; no two answers named the same revision.
    """
    assert not record.repeated, record.repeated
    for revision, changes in record.acknowledged.items():
        if revision >= start:
            assert seen.get(revision) == changes, f"revision {revision}: {changes} was acknowledged"
    applied = Counter(change for changes in seen.values() for change in changes)
    too_often = {change: n for change, n in applied.items() if n > record.attempted[change]}
    assert not too_often, f"applied more often than attempted: {too_often}"
