"""The measured figures as a table for the terminal, as a page for the documentation, as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.goals import BY_NAME, ONE_MEMBER, THREE_MEMBERS, Row

_HEADINGS = ("work", "etcd", "rusd", "ratio", "goal", "met?")

_LOADS = """\
The load generators and the servers share the machine's cores. `h2load` (nghttp2) sends the rows
that repeat one request, as `h2load -D SECONDS --warm-up-time SECONDS -c CONNECTIONS -m 16 -d BODY
-H 'content-type: application/grpc' -H 'te: trailers' http://127.0.0.1:PORT/etcdserverpb.KV/Range`.
`tests/bench/load.c` sends those that h2load cannot: distinct keys, Txns that follow the revision of
their key, a fixed rate, watchers, streams. With the same Put of one key and 64 connections, h2load
got 42,600 answers a second from etcd and load.c 45,400; load.c itself takes half a microsecond of a
core for a call.

* 31-byte keys, 256-byte values, 16 streams a connection unless the row says otherwise. Both servers
  run with their defaults (fsync on), but for a quota of 8 GiB. A call that fails fails the row.
* Each round starts fresh members on empty data directories, etcd and rusd in turn. A figure is the
  median of the rounds, for "worst put" the worst of them.
* Ranges of many keys: 4 connections, one request at a time.
* Kubernetes' update: 1,024 keys, each written by one stream that puts the revision of its last
  write into the next comparison, so every one succeeds. Create: a new key each. Conflict: every
  comparison fails, so every call is the range.
* Watchers sit on up to 10 streams, one connection each, and the writer has 8 connections. The rate
  is all events of all watchers over the time from the first put to the last event of the last
  watcher; each watcher is checked to have got each event once.
* Put to event and worst put are open loop: a put counts from the moment when it was due.
* Keep-alives: 10 connections with 10 streams, one message in flight on each.
* Ready is `/health` answering true. Restart follows a SIGTERM. Resident memory is VmRSS of the
  process and all that it started, two seconds after the load; etcd's holds the mapped pages of its
  database file, so the anonymous part stands beside it.
* Compaction removes 1,000,000 overwritten revisions (`physical`, so the call ends with the work).
* Three members share the cores with each other and with the load. All load of a row goes to the
  leader, or to one follower; a row fails if the leader changes meanwhile.
* Catching up: two of three members take 125,000 puts of 8 KiB of random bytes; the time is from
  the third's first start until it answers with the leader's revision. Then it is removed, wiped and
  added again, and catches up under puts to the leader, closed loop: their rate meanwhile, as a
  percentage of that in the seconds after, when the newcomer takes its part of the cores too.
"""


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

    def cells(self, row: Row) -> tuple[str, ...]:
        """The row's line of the table."""
        etcd, rusd = self.figure(row, "etcd"), self.figure(row, "rusd")
        ratio = row.ratio(etcd, rusd) if etcd is not None and rusd is not None else None
        met = row.met(etcd, rusd) if rusd is not None else None
        return (
            row.work,
            shown(etcd, row.unit),
            shown(rusd, row.unit),
            "" if ratio is None else f"{ratio:.2f}",
            str(row.goal or ""),
            "" if met is None else "yes" if met else "**no**",
        )


def shown(value: float | None, unit: str) -> str:
    """A figure with its unit and about three digits."""
    if value is None:
        return "-"
    if unit == "/s":
        return f"{value:,.0f}{unit}"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def table(figures: Figures, names: Sequence[str]) -> str:
    """A table that is Markdown, and lined up for a terminal."""
    lines = [_HEADINGS, *(figures.cells(BY_NAME[name]) for name in names)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def notes(figures: Figures) -> list[str]:
    """What the reader of the table must know besides."""
    lines = [f"not measured: {failure}" for failure in figures.failures]
    if figures.generator_bound:
        rows = ", ".join(sorted(figures.generator_bound))
        lines.append(f"the load generator used over 0.9 of a core, which may bound: {rows}")
    if disturbed := {label: share for label, share in figures.others.items() if share > 0.1}:
        rows = ", ".join(f"{label} ({share:.0%})" for label, share in disturbed.items())
        lines.append(
            "other processes took over a tenth of the machine, which costs etcd, with more "
            f"threads, more than rusd: run again on a quiet machine. It was during: {rows}"
        )
    return lines


def page(figures: Figures, machine: Sequence[tuple[str, str]], day: str) -> str:
    """The whole of docs/benchmarks.md."""
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"rusd beside real etcd, on {day}. Written by `make bench`.",
            "",
            "A ratio above 1 says that rusd is so many times as fast, or as small.",
            "",
            "## One member",
            "",
            table(figures, [row.name for row in ONE_MEMBER]),
            "",
            "## Three members on one machine",
            "",
            table(figures, [row.name for row in THREE_MEMBERS]),
            "",
            *(f"* {note}" for note in notes(figures)),
            "",
            "## Machine",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in machine),
            "",
            "Absolute figures move from run to run and machine to machine; the ratios count.",
            "",
            "## What is measured",
            "",
            _LOADS,
        ]
    )


def as_json(figures: Figures, machine: Mapping[str, str]) -> str:
    """All rounds of all rows, for a program."""
    return json.dumps(
        {
            "machine": machine,
            "rounds": figures.rounds,
            "failures": figures.failures,
            "others": figures.others,
            "generator_bound": sorted(figures.generator_bound),
        },
        indent=1,
    )
