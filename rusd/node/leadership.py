"""What only the leader can do, asked of any member."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from rusd.node.pipeline import TimedOutError

T = TypeVar("T")

_AGAIN: Final = 0.05
"""Seconds until a leader is looked for again."""


class Replica(Protocol):
    """Who leads; `rusd.node.replica.Replica` is this."""

    @property
    def is_leader(self) -> bool: ...
    @property
    def leader(self) -> int: ...


async def by_leader(
    replica: Replica,
    timeout: float,
    here: Callable[[], Awaitable[T]],
    there: Callable[[int, float], Awaitable[T]],
    lost: tuple[type[Exception], ...],
) -> T:
    """Has the leader do it, whoever that is or becomes, within `timeout` seconds: `here`, or
    `there(leader, seconds left)`. After one of the errors in `lost`, which say that it has lost the
    lead or is gone, the next one is asked. Raises TimedOutError, and what those two raise.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while (left := deadline - loop.time()) > 0:
        try:
            if replica.is_leader:
                return await here()
            if replica.leader:
                return await there(replica.leader, left)
        except lost:
            pass
        await asyncio.sleep(_AGAIN)
    raise TimedOutError
