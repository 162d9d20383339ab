"""Times calls, from when they are handed over until they are answered: for --metrics extensive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from rusd.histogram import Histogram
from rusd.wire.grpc import Status
from rusd.wire.service import Call

if TYPE_CHECKING:
    from rusd.wire.connection import Connection

_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Timer:
    """The times of calls, by method's path."""

    def __init__(self) -> None:
        self.seconds: defaultdict[bytes, Histogram] = defaultdict(lambda: Histogram(_BOUNDS))

    def time(self, path: bytes, calls: list[Call]) -> list[Call]:
        """The calls, on connections that take the time when they are answered."""
        histogram, now = self.seconds[path], monotonic()
        timed: dict[Connection, Connection] = {}
        for connection, _, _, _ in calls:
            if connection not in timed:
                timed[connection] = cast("Connection", _Timed(connection, histogram, now))
        return [
            (timed[connection], stream, head, message)
            for connection, stream, head, message in calls
        ]

    def began(self, path: bytes) -> Callable[[], None]:
        """A streaming call has begun; what is returned is to be called when it ends."""
        histogram, since = self.seconds[path], monotonic()
        return lambda: histogram.observe(monotonic() - since)


class _Timed:
    """What a service may ask of a connection."""

    __slots__ = ("_connection", "_histogram", "_since")

    def __init__(self, connection: Connection, histogram: Histogram, since: float) -> None:
        self._connection, self._histogram, self._since = connection, histogram, since

    @property
    def common_name(self) -> str | None:
        return self._connection.common_name

    def reply(self, stream_id: int, message: bytes) -> None:
        self._histogram.observe(monotonic() - self._since)
        self._connection.reply(stream_id, message)

    def fail(self, stream_id: int, status: Status) -> None:
        self._histogram.observe(monotonic() - self._since)
        self._connection.fail(stream_id, status)
