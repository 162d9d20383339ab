"""Many runs on several processes."""

import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.pool import AsyncResult

from tests.sim.cluster import Cluster
from tests.sim.mutations import mutated

_AT_ONCE = 8


@dataclass
class Report:
    """What came of some seeds. `failures` has, by seed, what was violated."""

    seeds: int = 0
    steps: int = 0
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, 0)
    """Processor seconds, and the seed that took them."""
    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Some lines for people."""
        lines = [
            f"{self.seeds} seeds, {self.steps / 1e6:.2f} million steps, {self.seconds:.0f} s: "
            f"{self.seeds / max(self.seconds, 1e-9):.1f} seeds/s; the slowest took "
            f"{self.slowest[0]:.1f} s: {self.slowest[1]}",
            ", ".join(f"{what} {count}" for what, count in sorted(self.counts.items())),
        ]
        for seed, text in sorted(self.failures.items()):
            lines.append(f"FAILED seed {seed}: {text}")
            lines.append(f"  replay it: python -m tests.sim --seed {seed}")
        return "\n".join(lines)


def run_seeds(
    first: int,
    count: int | None,
    seconds: float | None,
    processes: int,
    mutation: str | None = None,
    most_failures: int = 1,
) -> Report:
    """Runs `count` seeds from `first`, or for so many seconds, or until so many have failed."""
    started = time.monotonic()
    report = Report()
    end = None if count is None else first + count

    def pieces() -> Iterator[tuple[int, int, str | None]]:
        seed = first
        while len(report.failures) < most_failures and (end is None or seed < end):
            if seconds is not None and time.monotonic() - started > seconds:
                return
            stop = seed + _AT_ONCE if end is None else min(seed + _AT_ONCE, end)
            yield seed, stop, mutation
            seed = stop

    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        waiting: deque[AsyncResult[Report]] = deque()
        for piece in pieces():
            waiting.append(pool.apply_async(_run_piece, piece))
            while len(waiting) > processes:
                _add(report, waiting.popleft().get())
        for each in waiting:
            _add(report, each.get())
    report.seconds = time.monotonic() - started
    return report


def _add(report: Report, part: Report) -> None:
    report.seeds += part.seeds
    report.steps += part.steps
    report.counts += part.counts
    report.slowest = max(report.slowest, part.slowest)
    report.failures |= part.failures


def _run_piece(first: int, stop: int, mutation: str | None) -> Report:
    report = Report()
    with mutated(mutation):
        for seed in range(first, stop):
            started = time.process_time()
            cluster = Cluster(seed)
            try:
                cluster.run()
            except Exception as error:
                report.failures[seed] = f"{type(error).__name__}: {error}"
            report.seeds += 1
            report.steps += cluster.steps
            report.counts += cluster.counts
            report.slowest = max(report.slowest, (time.process_time() - started, seed))
    return report
