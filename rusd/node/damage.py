"""Damage on this member's disk, as reads find it: said in the log, with the file and what to do.

A block that fails its checksum is never served: who asked is told of it. The member goes on with
all else, and stops where it cannot: when an entry of the log, or a compaction, needs what is lost.
"""

import errno
import os
from time import monotonic
from typing import Final

from rusd.log import Logger
from rusd.mvcc.tables import DamagedTableError
from rusd.storage.wal import DamagedLogError

ADVICE: Final = "replace this member: see 'Replace a member' in docs/operations.md"

MAKE_ROOM: Final = (
    "make room on the disk, and start the member again: what was acknowledged is not lost"
)

_AGAIN: Final = 60.0
"""Seconds after which the same damage is worth another line."""

_REMEMBERED: Final = 100


def advice(error: Exception) -> dict[str, str]:
    """What to do about an error that ended a member, as a field of a log line, if that is known."""
    if isinstance(error, (DamagedTableError, DamagedLogError)) or "Corruption" in str(error):
        return {"advice": ADVICE}
    if os.strerror(errno.ENOSPC) in str(error):
        return {"advice": MAKE_ROOM}
    return {}


class Damage:
    """What was found since the start."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._said: dict[str, float] = {}

    @property
    def found(self) -> bool:
        return bool(self._said)

    def report(self, error: DamagedTableError) -> None:
        """Logs it, unless it did lately."""
        text, now = str(error), monotonic()
        if text in self._said or len(self._said) < _REMEMBERED:
            if self._said.get(text, -_AGAIN) + _AGAIN > now:
                return
            self._said[text] = now
            self._log.error("a read failed: damaged data", error=text, advice=ADVICE)
