"""Compacts by itself: keeps the history of a period, or so many revisions."""

import asyncio
from collections import deque
from typing import Final, Protocol

from rusd.log import Logger
from rusd.node.entry import MEMBER, Kind
from rusd.node.pipeline import Pipeline
from rusd.pb.rpc_pb2 import CompactionRequest

_HOUR: Final = 3600.0
_REVISION_INTERVAL: Final = 300.0


class Policy(Protocol):
    """Decides when to compact, and where."""

    interval: float
    """Seconds between two calls of `due`."""

    def due(self, now: float, revision: int, /) -> int:
        """The revision to compact at now, or 0. `revision` is the keyspace's."""

    def compacted(self, now: float, revision: int, /) -> None:
        """Notes that a compaction that was due has succeeded."""


class Periodic:
    """Keeps the history of the last period: compacts when it has passed since the start, then once
    in a period, or once an hour where that is more often (--auto-compaction-mode=periodic).
    """

    def __init__(self, period: float, now: float) -> None:
        """Both in seconds."""
        self.interval = min(period, _HOUR) / 10
        self._period, self._pause = period, min(period, _HOUR)
        self._samples: deque[tuple[float, int]] = deque()
        self._compacted_at, self._compacted = now, 0

    def due(self, now: float, revision: int) -> int:
        samples = self._samples
        samples.append((now, revision))
        while len(samples) > 1 and samples[1][0] <= now - self._period:
            samples.popleft()
        sampled_at, target = samples[0]
        if (
            sampled_at > now - self._period
            or now - self._compacted_at < self._pause
            or target == self._compacted
        ):
            return 0
        return target

    def compacted(self, now: float, revision: int) -> None:
        self._compacted_at, self._compacted = now, revision


class Revisions:
    """Keeps so many revisions, compacting every five minutes (--auto-compaction-mode=revision)."""

    interval = _REVISION_INTERVAL

    def __init__(self, retention: int) -> None:
        self._retention, self._compacted = retention, 0

    def due(self, _now: float, revision: int, /) -> int:
        target = revision - self._retention
        return target if target > self._compacted else 0

    def compacted(self, _now: float, revision: int, /) -> None:
        self._compacted = revision


class AutoCompaction:
    """Proposes the compactions that a policy calls for, from `start` to `stop`."""

    def __init__(self, policy: Policy, pipeline: Pipeline, log: Logger) -> None:
        self._policy, self._pipeline, self._log = policy, pipeline, log
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.check(self._loop.time())
        self._timer = self._loop.call_later(self._policy.interval, self.start)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def check(self, now: float) -> None:
        """Proposes a compaction if one is due and this member leads."""
        keyspace = self._pipeline.keyspace
        target = self._policy.due(now, keyspace.revision)
        if not target:
            return
        if target <= keyspace.compacted:
            self._policy.compacted(now, target)
            return
        if not self._pipeline.replica.is_leader:
            return
        self._log.info("starting auto compaction", revision=target)
        request = CompactionRequest(revision=target)
        self._pipeline.propose(
            Kind.COMPACT, request.SerializeToString(), request, _Proposal(self, now), target
        )

    def succeeded(self, now: float, revision: int) -> None:
        self._policy.compacted(now, revision)
        self._log.info("completed auto compaction", revision=revision)

    def failed(self, revision: int, reason: str) -> None:
        self._log.warn("failed auto compaction; it is tried again", revision=revision, error=reason)


class _Proposal:
    """Waits for the answer to a compaction; the tag is its revision."""

    identity = MEMBER

    def __init__(self, owner: AutoCompaction, now: float) -> None:
        self._owner, self._now = owner, now

    def reply(self, tag: int, _message: bytes, /) -> None:
        self._owner.succeeded(self._now, tag)

    def fail(self, tag: int, status: object, /) -> None:
        self._owner.failed(tag, str(status))
