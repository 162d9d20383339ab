"""What a metric is, and what is read for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from rusd.histogram import Histogram

Value: TypeAlias = float | Histogram
Reading: TypeAlias = Value | Mapping[tuple[str, ...], Value]
"""One value, or one for each combination of label values."""


class Kind(Enum):
    """The types of Prometheus' text format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: what it is called, and where its values come from."""

    kind: Kind
    name: str
    help: str
    read: Callable[[], Reading]
    """Called on the event loop, at each scrape: it looks up numbers, and does no work."""
    labels: tuple[str, ...] = ()


def counter(
    name: str, text: str, read: Callable[[], Reading], labels: tuple[str, ...] = ()
) -> Family:
    """A number that only grows, from 0 at the start of the process."""
    return Family(Kind.COUNTER, name, text, read, labels)


def gauge(
    name: str, text: str, read: Callable[[], Reading], labels: tuple[str, ...] = ()
) -> Family:
    """A number as it is now."""
    return Family(Kind.GAUGE, name, text, read, labels)


def histogram(
    name: str, text: str, read: Callable[[], Reading], labels: tuple[str, ...] = ()
) -> Family:
    """Numbers that were observed."""
    return Family(Kind.HISTOGRAM, name, text, read, labels)
