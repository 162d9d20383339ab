"""What was measured, in one run and in the last ones, which docs/benchmarks.json keeps."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.goals import LARGE_STORE, ONE_MEMBER, THREE_MEMBERS, Row

SECTIONS: Mapping[str, tuple[Row, ...]] = {
    "members": (*ONE_MEMBER, *THREE_MEMBERS),
    "large": LARGE_STORE,
}
"""The parts of the page that are measured together, each with a day and a machine of its own."""


@dataclass
class Figures:
    """What each round measured, by row and subject, and what could not be measured."""

    rounds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    generator_bound: set[str] = field(default_factory=set)
    """Rows and subjects in which a load generator used up its core."""
    others: dict[str, float] = field(default_factory=dict)
    """The largest share of the machine that other processes took, by row and subject."""

    def add(self, name: str, subject: str, value: float) -> None:
        """Keep one round's figure."""
        self.rounds.setdefault(name, {}).setdefault(subject, []).append(value)

    def disturb(self, label: str, share: float) -> None:
        """Keep what other processes took in one round."""
        self.others[label] = max(share, self.others.get(label, 0.0))

    def figure(self, row: Row, subject: str) -> float | None:
        """The figure of the row over all rounds, None where nothing was measured."""
        values = self.rounds.get(row.name, {}).get(subject)
        return row.combine(values) if values else None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a section: when, on what (names and values), and what came of it."""

    day: str
    machine: list[tuple[str, str]]
    figures: Figures

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "Run":
        """What `save_runs` wrote of it."""
        figures = Figures(**kept["figures"])
        figures.generator_bound = set(figures.generator_bound)
        return cls(kept["day"], list(kept["machine"].items()), figures)


def load_runs(file: Path) -> dict[str, Run]:
    """The last runs of the sections; none where nothing was kept."""
    if not file.exists():
        return {}
    return {name: Run.from_json(run) for name, run in json.loads(file.read_text()).items()}


def save_runs(file: Path, runs: Mapping[str, Run]) -> None:
    """Keep the last runs."""
    kept = {name: asdict(run) | {"machine": dict(run.machine)} for name, run in runs.items()}
    file.write_text(json.dumps(kept, indent=1, default=sorted) + "\n")  # sorted: of sets
