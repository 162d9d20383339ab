"""What passes between this member and another, counted."""

from dataclasses import dataclass, field
from typing import Final

from rusd.histogram import Histogram, exponential

_ROUND_TRIPS: Final = exponential(0.0001, 2, 16)
_SNAPSHOT_SECONDS: Final = exponential(0.1, 2, 10)


@dataclass(slots=True)
class Transfers:
    """Snapshots that went one way."""

    succeeded: int = 0
    failed: int = 0
    under_way: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(_SNAPSHOT_SECONDS))
    """That each of those that succeeded took."""


@dataclass(slots=True)
class Traffic:
    """All connections with one member, those that are gone too."""

    sent: int = 0
    """Bytes, but for snapshots."""
    received: int = 0
    dropped: int = 0
    """Messages to it that could not be sent."""
    losses: int = 0
    """How often it was connected, and was lost."""
    round_trips: Histogram = field(default_factory=lambda: Histogram(_ROUND_TRIPS))
    """Seconds from a ping to its answer."""
