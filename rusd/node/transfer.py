"""Moves the leadership to a member that was named, and waits until it is there."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from rusd.node.membership import Membership
from rusd.node.replica import Replica

_FAREWELL: Final = 1.0
"""Seconds that a leader which stops waits for its successor."""


class TransferError(Exception):
    """Leadership was not moved."""


class NotLeaderError(TransferError):
    """Only the leader can pass it on."""


class BadTransfereeError(TransferError):
    """The target is no voter, or cannot be reached."""


class TransferTimedOutError(TransferError):
    """The target did not take over in time."""


class Transfer:
    """Leadership transfers (thesis, 3.10) that somebody waits for."""

    def __init__(
        self,
        replica: Replica,
        membership: Membership,
        timeout: float,
        is_reachable: Callable[[int], bool],
    ) -> None:
        """`timeout` is in seconds."""
        self._replica, self._membership, self._timeout = replica, membership, timeout
        self._is_reachable = is_reachable

    async def to(self, target: int) -> None:
        """Returns when the member leads. Raises a TransferError."""
        replica = self._replica
        if not replica.is_leader:
            raise NotLeaderError
        member = self._membership.members.get(target)
        if member is None or member.isLearner:
            raise BadTransfereeError
        if target == replica.id:
            return
        arrived = asyncio.Event()

        def look() -> None:
            if replica.leader == target:
                arrived.set()

        replica.on_leader_change.append(look)
        try:
            replica.raw.transfer_leader(target)
            replica.run()
            async with asyncio.timeout(self._timeout):
                await arrived.wait()
        except TimeoutError:
            raise TransferTimedOutError from None
        finally:
            replica.on_leader_change.remove(look)

    async def away(self) -> None:
        """Has another voter take over from this leader before it stops, if there is one. What waits
        for it is better served there; that it fails does no harm.
        """
        replica = self._replica
        best = max(
            (
                (progress.match, member)
                for member, progress in replica.raw.progress().items()
                if member in replica.raw.conf_state.voters
                and member != replica.id
                and self._is_reachable(member)
            ),
            default=None,
        )
        if best is not None:
            with suppress(TransferError, TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self.to(best[1])
