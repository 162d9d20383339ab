"""Renewals of leases, and looks at the time that they have left: done by the leader, whoever is
asked.

A leader answers after a quorum has confirmed that it still is one: another may have let the lease
run out otherwise.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

from rusd.lease.lessor import Lessor, NoSuchLeaseError
from rusd.node.leadership import by_leader
from rusd.node.leases import Leases
from rusd.node.peer_wire import Method
from rusd.node.peers import PeerCallError, Peers, PeerUnreachableError
from rusd.node.pipeline import Pipeline, TimedOutError
from rusd.node.reads import LeaderChangedError, Reads, TimedOutReadError
from rusd.pb.rpc_pb2 import LeaseTimeToLiveRequest, LeaseTimeToLiveResponse

_LEASE: Final = struct.Struct(">q")
_MOST_AT_ONCE: Final = 10_000
"""Leases that one call between members renews."""

_UNKNOWN: Final = -1
"""TTL in the answer about a lease that does not exist."""


class NoLeaderError(TimedOutError):
    """There was no leader for as long as a request waits."""


class Renewals:
    """One member's way to the clock of the leader."""

    def __init__(
        self,
        pipeline: Pipeline,
        reads: Reads,
        peers: Peers,
        lessor: Lessor,
        leases: Leases,
    ) -> None:
        self._pipeline, self._reads, self._peers = pipeline, reads, peers
        self._replica = pipeline.replica
        self._lessor, self._leases = lessor, leases
        self._waiting: list[tuple[int, Callable[[int | Exception], None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        peers.serve(Method.KEEP_ALIVE, self._serve_renew)
        peers.serve(Method.TIME_TO_LIVE, self._serve_time_to_live)

    def renew(self, lease: int, done: Callable[[int | Exception], None]) -> None:
        """Renews a lease; `done` gets its TTL in seconds, 0 when there is none of that id, or
        what made it fail: TimedOutError.
        """
        self._waiting.append((lease, done))
        if len(self._waiting) == 1:
            self._start(self._renew_waiting())

    def time_to_live(
        self,
        request: LeaseTimeToLiveRequest,
        done: Callable[[LeaseTimeToLiveResponse | Exception], None],
    ) -> None:
        """Looks at a lease; `done` gets the answer, without a header, or a TimedOutError."""
        self._start(self._time_to_live(request, done))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), _MOST_AT_ONCE):
            part = waiting[first : first + _MOST_AT_ONCE]
            leases = list(dict.fromkeys(lease for lease, _ in part))
            try:
                renewed = dict(zip(leases, await self._renew(leases), strict=True))
            except TimedOutError as error:
                for _, done in part:
                    done(error)
            else:
                for lease, done in part:
                    done(renewed[lease])

    async def _renew(self, leases: list[int]) -> list[int]:
        body = b"".join(map(_LEASE.pack, leases))
        return _numbers(await self._led(Method.KEEP_ALIVE, body, self._serve_renew))

    async def _time_to_live(
        self,
        request: LeaseTimeToLiveRequest,
        done: Callable[[LeaseTimeToLiveResponse | Exception], None],
    ) -> None:
        # The keys, which may be more than a call between members takes, are known here as well.
        asked = LeaseTimeToLiveRequest(ID=request.ID)
        try:
            response = LeaseTimeToLiveResponse.FromString(
                await self._led(
                    Method.TIME_TO_LIVE, asked.SerializeToString(), self._serve_time_to_live
                )
            )
            if request.keys and response.TTL != _UNKNOWN:
                async with asyncio.timeout(self._pipeline.limits.request_timeout):
                    await self._reads.barrier()
                response.keys.extend(self._lessor.get(request.ID).keys)
        except NoSuchLeaseError:
            done(_unknown(request.ID))
        except TimeoutError:
            done(TimedOutError())
        except TimedOutError as error:
            done(error)
        else:
            done(response)

    async def _led(
        self, method: Method, body: bytes, here: Callable[[int, bytes], Awaitable[bytes]]
    ) -> bytes:
        """Has the leader do it, whoever that is or becomes. Raises TimedOutError, NoLeaderError."""
        replica, peers = self._replica, self._peers
        try:
            return await by_leader(
                replica,
                self._pipeline.limits.request_timeout,
                lambda: here(replica.id, body),
                lambda leader, left: peers.call(leader, method, body, left),
                (PeerUnreachableError, PeerCallError, LeaderChangedError),
            )
        except (TimedOutReadError, TimeoutError, TimedOutError):
            raise (TimedOutError if replica.leader else NoLeaderError) from None

    # The leader's side.

    async def _serve_renew(self, _member: int, body: bytes) -> bytes:
        leases = _numbers(body)
        renewed: dict[int, int] = {}
        while left := [lease for lease in leases if lease not in renewed]:
            await self._confirm()
            restored = []
            for lease in left:
                try:
                    found = self._lessor.renew(lease)
                except NoSuchLeaseError:
                    renewed[lease] = 0
                    continue
                if found.logged_in_full:
                    renewed[lease] = found.ttl
                else:
                    restored.append(_Restored())
                    self._leases.restore(found, restored[-1])
            # A lease counts as renewed once the log promises it its full TTL.
            for each in restored:
                await each.done
        return b"".join([_LEASE.pack(renewed[lease]) for lease in leases])

    async def _serve_time_to_live(self, _member: int, body: bytes) -> bytes:
        request = LeaseTimeToLiveRequest.FromString(body)
        await self._confirm()
        return time_to_live(self._lessor, request).SerializeToString()

    async def _confirm(self) -> None:
        """Returns while this member is the leader for certain."""
        if not self._replica.sole:
            await self._reads.confirm()
        if not self._replica.is_leader:
            raise LeaderChangedError


class _Restored:
    """Waits for the log's promise."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def reply(self, _tag: int, _message: bytes, /) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, _tag: int, _status: object, /) -> None:
        if not self.done.done():
            self.done.set_exception(LeaderChangedError())


def time_to_live(lessor: Lessor, request: LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse:
    """What the leader knows of a lease."""
    try:
        lease = lessor.get(request.ID)
    except NoSuchLeaseError:
        return _unknown(request.ID)
    return LeaseTimeToLiveResponse(
        ID=lease.id,
        TTL=max(0, int(lessor.left(lease))),
        grantedTTL=lease.ttl,
        keys=lease.keys if request.keys else (),
    )


def _unknown(lease: int) -> LeaseTimeToLiveResponse:
    return LeaseTimeToLiveResponse(ID=lease, TTL=_UNKNOWN)


def _numbers(packed: bytes) -> list[int]:
    return [number for (number,) in _LEASE.iter_unpack(packed)]
