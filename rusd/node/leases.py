"""This member's care for leases: it proposes to revoke those that have run out, and checkpoints.

A renewal is no log entry, so the log promises a lease its full TTL until a checkpoint says less.
What a client was told, the log promises too, at every moment: a renewal of a lease that a
checkpoint has reduced, or is about to, is told to the client after an entry that restores its TTL.
"""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from rusd.lease.lessor import Lease, Lessor
from rusd.node.entry import Kind
from rusd.node.pipeline import Pipeline
from rusd.pb.rpc_pb2 import LeaseCheckpoint, LeaseCheckpointRequest

TICK: Final = 0.2
"""Seconds between two looks at the leases; a lease is revoked late by as much."""

_BUSY_TICK: Final = 0.02
_LOOKED_AT: Final = 500
"""Leases that may have run out, looked at in one tick: revocations of an entry or two."""

_ROUND: Final = 5.0
"""Seconds between the beginnings of two rounds through all leases for checkpoints."""

_SLICE: Final = 2000
"""Leases of a round that are looked at in one tick: about a millisecond."""

_BATCH: Final = 1000
"""Checkpoints in a request."""


class Leases:
    """Looks at the leases now and then, from `start` to `stop`, while this member leads."""

    def __init__(self, pipeline: Pipeline, lessor: Lessor, grace: float) -> None:
        """`grace` is the seconds that a lease has more when this member takes the lead from
        another: the one before may have renewed it until its own election timeout was over.
        """
        self._pipeline, self._lessor, self._grace = pipeline, lessor, grace
        self._replica = pipeline.replica
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._round: Iterator[int] = iter(())
        self._round_due = self._loop.time() + _ROUND
        self._replica.on_lead.append(self._take_over)
        if self._replica.in_charge:
            self._take_over()

    def start(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        """Ends the looks, and notes in the log what every lease has left: for an orderly end, when
        clients are gone and the pipeline still works.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._replica.in_charge:
            self._checkpoint(self._lessor)

    def restore(self, lease: Lease, caller: Any) -> None:
        """Makes the log promise a lease its full TTL; `caller` hears of it, with the lease as
        tag.
        """
        self._propose_checkpoints([LeaseCheckpoint(ID=lease.id)], caller, lease.id)

    def _take_over(self) -> None:
        """Begins to be the clock: nobody can know which leases were renewed at the one before."""
        alone = self._pipeline.applier.membership.is_alone
        self._lessor.extend(0 if alone else self._grace)

    def _tick(self) -> None:
        if not self._replica.in_charge:
            self._timer = self._loop.call_later(TICK, self._tick)
            return
        for expiry in self._lessor.expired(_LOOKED_AT):
            self._pipeline.propose(Kind.LEASE_EXPIRE, expiry.encode(), expiry, None, 0)
        self._go_round()
        delay = _BUSY_TICK if self._lessor.behind() else TICK
        self._timer = self._loop.call_later(delay, self._tick)

    def _go_round(self) -> None:
        """Checkpoints leases of the next slice that have lost much time."""
        lessor = self._lessor
        slice_ = [lessor.get(lease) for lease in islice(self._round, _SLICE) if lease in lessor]
        if slice_:
            self._checkpoint(lease for lease in slice_ if lessor.worth_a_checkpoint(lease))
        elif self._round_due <= (now := self._loop.time()):
            self._round, self._round_due = iter(lessor.ids()), now + _ROUND

    def _checkpoint(self, leases: Iterable[Lease]) -> None:
        reduced = ((lease, left) for lease in leases if (left := self._lessor.reduction(lease)))
        while batch := list(islice(reduced, _BATCH)):
            checkpoints = [
                LeaseCheckpoint(ID=lease.id, remaining_TTL=left) for lease, left in batch
            ]
            if self._propose_checkpoints(checkpoints, None, 0):
                for lease, _ in batch:
                    lease.reductions += 1

    def _propose_checkpoints(
        self, checkpoints: list[LeaseCheckpoint], caller: Any, tag: int
    ) -> bool:
        request = LeaseCheckpointRequest(checkpoints=checkpoints)
        return self._pipeline.propose(
            Kind.LEASE_CHECKPOINT, request.SerializeToString(), request, caller, tag
        )
