"""What a member does while its disk has no room for the log: it waits for some.

Nothing is lost, for nothing is acknowledged that is not in the log. Reads of what is applied go on.
"""

import asyncio
from typing import Final

from rusd.log import Logger
from rusd.node.alarms import NoSpaceError
from rusd.node.pipeline import Pipeline
from rusd.node.transfer import Transfer

_AGAIN: Final = 1.0
"""Seconds until a leader that found nobody to take over tries again."""


class Room:
    """Refuses requests with what the NOSPACE alarm refuses them with, though none is raised: the
    other members have room, and go on under one of them.
    """

    def __init__(self, pipeline: Pipeline, transfer: Transfer, log: Logger) -> None:
        self._pipeline, self._transfer, self._log = pipeline, transfer, log
        self._replica = pipeline.replica
        self._leaving: asyncio.Task[None] | None = None
        self._replica.on_room.append(self._changed)

    def stop(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()

    def _changed(self) -> None:
        self.stop()
        missing = self._replica.no_room
        if missing is None:
            self._log.warn("the disk has room for the log again: writes go on")
            self._pipeline.accept()
            return
        self._log.error(
            "the disk has no room for the log: writes wait for it, new ones are refused",
            error=missing,
            advice="make room on the disk; the member goes on by itself",
        )
        self._pipeline.refuse(NoSpaceError)
        self._leaving = asyncio.get_running_loop().create_task(self._leave())

    async def _leave(self) -> None:
        """Has another lead, who can write: entries of a leader reach the others without its own
        disk.
        """
        while True:
            if self._replica.is_leader and not self._replica.sole:
                await self._transfer.away()
            await asyncio.sleep(_AGAIN)
