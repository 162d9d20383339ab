"""What goes wrong in a run, and how the members are configured, drawn from its seed.

Swarm testing: each run has only some kinds of faults, each with a rate of its own, so that a fault
that hides another does not do so in every run. Times are in thousandths of a tick.
"""

from dataclasses import dataclass
from random import Random
from typing import Final

TICK: Final = 1000


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run's. Fields that end in `_rate` are probabilities an opportunity."""

    members: int
    ticks: int
    """How long things go wrong."""
    heartbeat_ticks: int
    election_ticks: int
    pre_vote: bool
    check_quorum: bool
    max_message_bytes: int
    max_inflight_messages: int
    max_inflight_bytes: int
    max_uncommitted_bytes: int
    max_committed_bytes: int
    drift: float
    """A member's ticks are off by up to this."""
    delay: int
    """Most of a message's way."""
    long_delay_rate: float
    drop_rate: float
    duplicate_rate: float
    sync_delay: int
    sync_failure_rate: float
    apply_delay: int
    """0: what is committed is applied at once."""
    settle_delay: int
    """0: the node looks for a Ready after every input; otherwise several may come before."""
    flush_rate: float
    compact_rate: float
    kept_entries: int
    """The most entries that a compaction leaves for followers that lag."""
    snapshot_delay: int
    snapshot_loss_rate: float
    fault_gap: int
    """Mean time between two faults."""
    faults: tuple[str, ...]
    """Kinds of faults, each as often as it is named."""
    rejects_removed: bool
    """Whether members refuse to hear those that they know to be removed."""
    stops_removed: bool
    """Whether a member ends some time after it applied its own removal."""
    clients: int
    client_pause: int
    value_bytes: int
    disturbance: str
    """At the end: "leader" crashes; or a member is cut off, "both" ways or only "in", or in a
    "crash", and comes back.
    """

    @property
    def is_calming(self) -> bool:
        """Whether members do not disturb a leader that works (thesis, 4.2.3 and 9.6)."""
        return self.pre_vote and self.check_quorum


def draw_schedule(draw: Random) -> Schedule:
    """Draws what a run is like."""

    def sometimes(chance: float, low: float, high: float) -> float:
        return low + (high - low) * draw.random() if draw.random() < chance else 0.0

    def between(low: int, high: int) -> int:
        return draw.randint(low, high)

    heartbeat_ticks, election_ticks = draw.choice(((1, 10), (1, 5), (2, 10), (1, 4), (3, 10)))
    faults: list[str] = []
    for kind, chance, most in (
        ("crash", 0.6, 4),
        ("crash all", 0.15, 1),
        ("isolate", 0.5, 3),
        ("split", 0.3, 2),
        ("one way", 0.4, 3),
        ("pause", 0.3, 2),
        ("slow disk", 0.3, 2),
        ("transfer", 0.4, 2),
        ("membership", 0.6, 6),
        ("campaign", 0.2, 2),
    ):
        if draw.random() < chance:
            faults += [kind] * between(1, most)
    safe = draw.random() < 0.85
    return Schedule(
        members=draw.choice((3, 3, 3, 3, 5, 5, 5, 1, 2, 4)),
        ticks=between(80, 240),
        heartbeat_ticks=heartbeat_ticks,
        election_ticks=election_ticks,
        pre_vote=safe or draw.random() < 0.5,
        check_quorum=safe or draw.random() < 0.5,
        max_message_bytes=draw.choice((0, 60, 300, 1 << 20)),
        max_inflight_messages=draw.choice((1, 2, 4, 256)),
        max_inflight_bytes=draw.choice((1, 200, 64 << 20)),
        max_uncommitted_bytes=draw.choice((100, 64 << 20, 64 << 20)),
        max_committed_bytes=draw.choice((0, 100, 64 << 20)),
        drift=sometimes(0.6, 0.0, 0.4),
        delay=between(50, draw.choice((200, 600, 3000))),
        long_delay_rate=sometimes(0.4, 0.0, 0.05),
        drop_rate=sometimes(0.5, 0.0, draw.choice((0.05, 0.3))),
        duplicate_rate=sometimes(0.4, 0.0, 0.1),
        sync_delay=between(20, draw.choice((100, 1000, 5000))),
        sync_failure_rate=sometimes(0.3, 0.0, 0.01),
        apply_delay=draw.choice((0, 0, 300, 3000)),
        settle_delay=draw.choice((0, 0, 100, 1000)),
        flush_rate=sometimes(0.7, 0.0, 0.5),
        compact_rate=sometimes(0.7, 0.0, 0.5),
        kept_entries=draw.choice((0, 0, 3, 20)),
        snapshot_delay=draw.choice((500, 3000, 20000)),
        snapshot_loss_rate=sometimes(0.5, 0.0, 0.5),
        fault_gap=draw.choice((2, 5, 10, 20)) * TICK,
        faults=tuple(faults),
        rejects_removed=draw.random() < 0.5,
        stops_removed=draw.random() < 0.5,
        clients=between(1, 5),
        client_pause=draw.choice((100, 1000, 5000)),
        value_bytes=draw.choice((0, 0, 50, 500)),
        disturbance=draw.choice(("leader", "both", "in", "crash")),
    )
