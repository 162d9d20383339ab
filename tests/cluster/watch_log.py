"""A watcher that logs all it is told and resumes where it stopped, whatever happens to its member.

It asks for every change of a range, from one revision on. What it logs must have no gap and
no repeat: it is held against what the writers were told, and against the logs of other members.
"""

import threading
import time
from collections.abc import Iterator

import grpc

from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc
from tests.cluster.load import Change
from tests.members import Member, wait_for

_RETRY_SECONDS = 0.1


class WatchLog:
    """One watcher on one member. `faults` lists broken promises."""

    def __init__(self, member: Member, key: bytes, range_end: bytes, start: int = 1) -> None:
        """Begin to watch, from revision `start` on."""
        self.member = member
        self.revisions: dict[int, frozenset[Change]] = {}
        self.deleted_at: dict[bytes, float] = {}
        """When (time.monotonic) the log was told that a key is gone."""
        self.faults: list[str] = []
        self.resumes = 0
        self.start = start
        self._range = (key, range_end)
        self._next = start
        self._newest = 0
        self._ended = threading.Event()
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def await_revision(self, revision: int, seconds: float) -> None:
        """Wait until the log has all up to a revision that changes something it watches."""
        wait_for(
            lambda: self._newest >= revision or bool(self.faults),
            seconds,
            f"revision {revision} at a watcher on {self.member.name}, which is at {self._newest}",
        )

    @property
    def newest(self) -> int:
        """The newest revision that the log was told of."""
        return self._newest

    def between(self, first: int, last: int) -> dict[int, frozenset[Change]]:
        """What the log was told of two revisions and those between them."""
        return {
            revision: changes
            for revision, changes in self.revisions.copy().items()
            if first <= revision <= last
        }

    def stop(self) -> None:
        """End the watcher."""
        self._ended.set()
        while self._thread.is_alive():
            if self._call is not None:
                self._call.cancel()
            self._thread.join(0.1)

    def _run(self) -> None:
        while not self._ended.is_set():
            channel = self.member.channel()
            asked = threading.Event()
            try:
                self._read(channel, asked)
            except grpc.RpcError:
                self.resumes += 1
            finally:
                asked.set()
                channel.close()
            self._ended.wait(_RETRY_SECONDS)

    def _read(self, channel: grpc.Channel, asked: threading.Event) -> None:
        create = rpc.WatchCreateRequest(
            key=self._range[0], range_end=self._range[1], start_revision=self._next
        )

        def requests() -> Iterator[rpc.WatchRequest]:
            yield rpc.WatchRequest(create_request=create)
            asked.wait()

        self._call = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )(requests())
        for response in self._call:
            if response.canceled:
                if response.compact_revision:
                    self.faults.append(f"{self.member.name}: compacted at {self._next}: {response}")
                return
            self._take(response)

    def _take(self, response: rpc.WatchResponse) -> None:
        told: dict[int, set[Change]] = {}
        for event in response.events:
            revision = event.kv.mod_revision
            if told and revision < max(told):
                self.faults.append(f"{self.member.name}: {revision} after {max(told)}")
            gone = event.type == kv.Event.DELETE
            told.setdefault(revision, set()).add((event.kv.key, None if gone else event.kv.value))
            if gone:
                self.deleted_at.setdefault(event.kv.key, time.monotonic())
        for revision, changes in told.items():
            if revision < self._next:
                self.faults.append(f"{self.member.name}: revision {revision} again or late")
            self.revisions[revision] = frozenset(changes)
        if told:
            self._newest = max(told)
            self._next = self._newest + 1


def check_logs(logs: list[WatchLog], newest: int) -> None:
    """Hold the logs of several members against each other, up to the revision `newest`: the same
    revisions, the same changes.
    """
    faults = [fault for log in logs for fault in log.faults]
    assert not faults, faults
    first, *others = sorted(logs, key=lambda log: log.start)
    for log in others:
        told = log.between(log.start, newest)
        expected = first.between(log.start, newest)
        if told != expected:
            differing = sorted(
                revision
                for revision in expected.keys() | told.keys()
                if expected.get(revision) != told.get(revision)
            )
            raise AssertionError(
                f"watchers on {first.member.name} and {log.member.name} were told different things"
                f" of {len(differing)} of {len(expected)} revisions, from {differing[0]} to"
                f" {differing[-1]}: {_shown(expected, differing)}, and {_shown(told, differing)}"
            )


def _shown(told: dict[int, frozenset[Change]], revisions: list[int]) -> str:
    """The first of the revisions as a watcher was told of them; of values the beginning."""
    return str(
        [
            (revision, sorted((key, value and value[:20]) for key, value in told[revision]))
            if revision in told
            else (revision, "nothing")
            for revision in revisions[:4]
        ]
    )
