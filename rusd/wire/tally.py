"""How many calls there were of each method, how they ended, and how many messages they had.

What a unary call costs here is its share of one addition a batch: calls are counted when they are
handed over together, and those that end otherwise than with OK as they do. How many ended with OK
is what is left, once somebody asks.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sized
from typing import NamedTuple, Protocol

from rusd.wire.grpc import Code


class Tallied(Protocol):
    """A connection whose calls are counted."""

    @property
    def bytes_received(self) -> int:
        """Of DATA, since it was made."""

    @property
    def bytes_sent(self) -> int:
        """As `bytes_received`."""

    def add_open(self, counts: "Counts") -> None:
        """Adds the calls that are under way."""


class Counts(NamedTuple):
    """Numbers by method's path."""

    started: Counter[bytes]
    ended: Counter[tuple[bytes, int]]
    """By path and code."""
    open: Counter[bytes]
    received: Counter[bytes]
    """Messages, of streaming calls."""
    sent: Counter[bytes]


class Tally:
    """Counts calls, from any connection and from inside."""

    def __init__(self) -> None:
        self.started: Counter[bytes] = Counter()
        """Calls handed over, unary ones and streams."""
        self.batches: Counter[bytes] = Counter()
        """Batches of unary calls."""
        self.failed: Counter[tuple[bytes, int]] = Counter()
        """Of those started, by path and code, which is not OK."""
        self.inside: Counter[bytes] = Counter()
        """Calls from inside that are under way."""
        self.received: Counter[bytes] = Counter()
        """Messages of streaming calls that are over."""
        self.sent: Counter[bytes] = Counter()
        self.bytes_received = 0
        """Of connections that are gone."""
        self.bytes_sent = 0

    def ended(self, path: bytes, code: int, received: int = 0, sent: int = 0) -> None:
        """A call that was started is over. The messages are a stream's."""
        if code != Code.OK:
            self.failed[path, code] += 1
        if received:
            self.received[path] += received
        if sent:
            self.sent[path] += sent

    def gone(self, connection: Tallied) -> None:
        """A connection has ended, and its calls before it."""
        self.bytes_received += connection.bytes_received
        self.bytes_sent += connection.bytes_sent

    def counts(self, connections: Iterable[Tallied], waiting: Mapping[bytes, Sized]) -> Counts:
        """Everything until now, with what is under way on `connections`, and the calls that are
        `waiting` to be handed over.
        """
        counts = Counts(
            self.started.copy(),
            Counter(self.failed),
            self.inside.copy(),
            self.received.copy(),
            self.sent.copy(),
        )
        for connection in connections:
            connection.add_open(counts)
        for path, calls in waiting.items():
            counts.started[path] += len(calls)
        failed: Counter[bytes] = Counter()
        for (path, _), number in counts.ended.items():
            failed[path] += number
        for path, number in counts.started.items():
            counts.ended[path, Code.OK] = number - failed[path] - counts.open[path]
        return counts
