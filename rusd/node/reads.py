"""Linearizable reads: those that arrive together share one round of the leader with its quorum.

A read may be answered when this member has applied what was committed when the read came (thesis,
6.4). One round is under way at a time; what arrives meanwhile goes with the next.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from rusd.histogram import SIZES, Histogram
from rusd.node.pipeline import StoppedError
from rusd.node.replica import Replica
from rusd.raft.message import ReadState

Done = Callable[[Exception | None], None]
"""Called with None when the read may be answered, or with why it cannot be."""

_RETRY: Final = 0.5
"""Seconds after which a round counts as lost."""


class TimedOutReadError(Exception):
    """No quorum confirmed the read in time."""


class LeaderChangedError(Exception):
    """The leader that was asked is no longer the leader."""


class FailedReadError(Exception):
    """A defect kept a read from being answered."""


UNCONFIRMED: Final = (TimedOutReadError, LeaderChangedError, FailedReadError, StoppedError)
"""What a read that cannot be answered is told."""


class Reads:
    """Reads that wait for a confirmation, of one member."""

    def __init__(self, replica: Replica, timeout: float) -> None:
        """`timeout` is the seconds that a read waits at most."""
        self._replica, self._timeout = replica, timeout
        self._loop = replica.loop
        self._waiting: list[tuple[float, Done]] = []
        self._round: list[tuple[float, Done]] = []
        self._asked = 0.0
        self._asked_of = (0, 0)
        # Unlike every other round's of any member, also after a restart.
        self._context = random.SystemRandom().getrandbits(96)
        self._unapplied: list[tuple[int, list[tuple[float, Done]]]] = []
        self._scheduled = False
        self.rounds = Histogram(SIZES)
        """Reads that shared a round."""
        self.repeated = 0
        """How often a round was repeated, since it took long or was lost."""
        self.failures = 0
        """Reads that timed out, or were lost with their leader."""
        self.after_answers: Callable[[], None] = lambda: None
        """Called when several reads were let go on."""
        replica.read_index = self._confirmed
        replica.after_apply = self._let_go
        replica.on_leader_change.append(self._leader_changed)
        self._loop.call_later(_RETRY / 2, self._look)

    @property
    def waiting(self) -> int:
        """Reads that wait for a round, or for its index to be applied."""
        unapplied = sum(len(reads) for _, reads in self._unapplied)
        return len(self._waiting) + len(self._round) + unapplied

    def wait(self, done: Done) -> None:
        """Calls `done`, never at once."""
        self._waiting.append((self._loop.time(), done))
        if not self._round and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._ask)

    async def confirm(self) -> None:
        """Returns when a read may be answered; raises why it cannot be."""
        confirmed: asyncio.Future[None] = self._loop.create_future()

        def done(error: Exception | None) -> None:
            if confirmed.done():
                return
            if error is None:
                confirmed.set_result(None)
            else:
                confirmed.set_exception(error)

        self.wait(done)
        await confirmed

    async def barrier(self) -> None:
        """Returns when this member has applied all that was acknowledged before. Waits for a leader
        as long as it takes.
        """
        while True:
            with suppress(*UNCONFIRMED):
                await self.confirm()
                return

    def give_up(self) -> None:
        """Fails all that wait: this member stops."""
        waiting = [*self._round, *self._waiting]
        self._round, self._waiting = [], []
        self._finish(waiting, StoppedError())

    def _ask(self) -> None:
        """Begins a round for all that wait."""
        self._scheduled = False
        if self._round or not self._waiting:
            return
        replica = self._replica
        if not replica.leader:
            return
        self._round, self._waiting = self._waiting, []
        self._asked, self._asked_of = self._loop.time(), (replica.raw.term, replica.leader)
        self._context += 1
        self.rounds.observe(len(self._round))
        self._repeat()

    def _repeat(self) -> None:
        # With the same context: whichever answer comes is of after the round began.
        self._replica.raw.read_index(self._context.to_bytes(16, "big"))
        self._replica.run()

    def _confirmed(self, state: ReadState) -> None:
        if int.from_bytes(state.context, "big") != self._context or not self._round:
            return
        confirmed, self._round = self._round, []
        # In order: later rounds have no lower index, for the commit index only grows.
        self._unapplied.append((state.index, confirmed))
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._let_go()
        self._ask()

    def _let_go(self) -> None:
        """Lets reads go on whose index is applied."""
        waiting, index = self._unapplied, self._replica.applied
        if not waiting or waiting[0][0] > index:
            return
        while waiting and waiting[0][0] <= index:
            self._finish(waiting.pop(0)[1], None)
        self.after_answers()

    def _leader_changed(self) -> None:
        """Reads that were asked of a leader that is gone fail, as in etcd; the others go on."""
        replica = self._replica
        if self._round and replica.leader and self._asked_of != (replica.raw.term, replica.leader):
            lost, self._round = self._round, []
            self._finish(lost, LeaderChangedError())
        if not self._round:
            self._ask()

    def _look(self) -> None:
        """Repeats a round that was lost, and gives up on what waits for too long."""
        self._loop.call_later(_RETRY / 2, self._look)
        now = self._loop.time()
        overdue = now - self._timeout
        late: list[tuple[float, Done]] = []
        for reads in (self._round, self._waiting, *(each for _, each in self._unapplied)):
            if reads and reads[0][0] < overdue:
                late += [read for read in reads if read[0] < overdue]
                reads[:] = [read for read in reads if read[0] >= overdue]
        self._finish(late, TimedOutReadError())
        if self._round and now - self._asked > _RETRY:
            self._asked = now
            self.repeated += 1
            self._repeat()
        elif not self._round:
            self._ask()

    def _finish(self, reads: list[tuple[float, Done]], error: Exception | None) -> None:
        if error is not None:
            self.failures += len(reads)
        for _, done in reads:
            try:
                done(error)
            except Exception as defect:
                # Of this read; the others, and the replication, are not to suffer.
                self._loop.call_exception_handler({"message": "a read failed", "exception": defect})
                with suppress(Exception):
                    done(FailedReadError())
