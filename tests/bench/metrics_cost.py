"""What measuring costs a call: `python -m tests.bench.metrics_cost [--rounds N]`.

Three servers run side by side: rusd as it is, rusd without the lines that count and time, and rusd
with --metrics extensive. Each gets the same calls in turn, in an order that changes. What is
compared is the processor time of their threads a call, and not the rate: that tells a hundredth
from what else the machine does. RocksDB's own threads are left out; their work comes when it comes.
Servers are new in each round, since two equal ones differ by where their memory lies.
"""

import argparse
import operator
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import rusd
from tests.bench import requests
from tests.bench.load import Generators
from tests.compat.scrape import of
from tests.members import Member

_PACKAGE: Final = Path(rusd.__file__).parent
_CONNECTIONS: Final = 64
_REPEATS: Final = 4
_SCRAPES: Final = 20
_SCRAPE_SECONDS: Final = 15
"""Between two scrapes, as Prometheus is often set up."""

WITHOUT, USUAL, EXTENSIVE = "without", "usual", "extensive"

_OBSERVE: Final = r"[\w.]+\.observe\(.*\)"
_COUNT: Final = r"(?:keyspace\.)?counters\.\w+ \+= .*"
MEASURING: Final[Mapping[str, tuple[str, ...]]] = {
    "wire/turn.py": (r"tally\.batches\[path\] \+= 1", r"tally\.started\[path\] \+= len\(calls\)"),
    "node/pipeline.py": (
        _OBSERVE,
        r"self\.slow_applies \+= .*",
        r"self\.appended_bytes \+= len\(data\)",
    ),
    "node/apply.py": (_OBSERVE, r"began = monotonic\(\)"),
    "node/reads.py": (_OBSERVE,),
    "node/replica.py": (_OBSERVE, r"self\.late_heartbeats \+= .*"),
    "storage/wal.py": (_OBSERVE, r"began = monotonic\(\)", r"self\.written \+= len\(frame\)"),
    "mvcc/txn.py": (_COUNT,),
    "mvcc/ranges.py": (_COUNT,),
    "api/kv.py": (_COUNT,),
    "mvcc/guarded.py": (_COUNT, r"counters = keyspace\.counters"),
}
"""Statements of calls, entries, syncs and rounds that are there for metrics alone, by file."""


def package(folder: Path, *, measures: bool) -> tuple[str, ...]:
    """A copy of rusd in a folder, and the command that runs it.

    Raises ValueError when a statement to be left out is not found: the list is out of date then.
    """
    copy = folder / "rusd"
    shutil.copytree(_PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, statements in {} if measures else MEASURING.items():
        text = (copy / name).read_text()
        for statement in statements:
            text, found = re.subn(rf"(?m)^( *){statement}$", r"\1pass", text)
            if not found:
                raise ValueError(f"{name} has no {statement}")
        (copy / name).write_text(text)
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from rusd.cli import main; main()"
    return sys.executable, "-c", code


def processor_seconds(member: Member) -> float:
    """Of the member's threads, but those of RocksDB, since they began."""
    assert member.process is not None
    spent = 0
    for task in Path(f"/proc/{member.process.pid}/task").iterdir():
        if not (task / "comm").read_text().startswith("rocksdb"):
            spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9


def _one_round(folder: Path, generators: Generators, count: int) -> dict[tuple[str, str], float]:
    """Microseconds a call of each kind and server; of a scrape too, in milliseconds."""
    spent: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        members = {}
        for name in (WITHOUT, USUAL, EXTENSIVE):
            command = package(folder / name, measures=name != WITHOUT)
            flags = ("--metrics", "extensive") if name == EXTENSIVE else ()
            members[name] = Member(command, folder / name / "member", flags)
            stack.callback(members[name].close)
            members[name].start()
        bodies = {"Put": requests.put("k"), "Range": requests.get("k", 0)}
        for repeat in range(_REPEATS + 1):
            order = list(members)
            random.shuffle(order)
            for kind, body in bodies.items():
                for name in order:
                    member = members[name]
                    before = processor_seconds(member)
                    path = f"/etcdserverpb.KV/{kind}"
                    generators.closed(member.client_port, path, body, _CONNECTIONS, 1, count=count)
                    took = 1e6 * (processor_seconds(member) - before) / count
                    if repeat:  # the first warms up
                        spent.setdefault((kind, name), []).append(took)
        before = processor_seconds(members[USUAL])
        for _ in range(_SCRAPES):
            of(members[USUAL])
        took = processor_seconds(members[USUAL]) - before
    found = {("scrape", USUAL): 1e3 * took / _SCRAPES}
    for (kind, name), times in spent.items():
        # What was measured one right after the other is compared: others' load comes and goes.
        plain = spent[kind, WITHOUT]
        ratio = statistics.median(map(operator.truediv, times, plain))
        found[kind, name] = ratio * statistics.median(plain)
    return found


def measure(rounds: int, count: int) -> list[dict[tuple[str, str], float]]:
    """So many rounds, with so many calls each time."""
    with tempfile.TemporaryDirectory() as scratch:
        generators = Generators(Path(scratch))
        found = []
        for number in range(rounds):
            found.append(_one_round(Path(scratch) / str(number), generators, count))
            shutil.rmtree(Path(scratch) / str(number))
    return found


def report(found: list[dict[tuple[str, str], float]]) -> str:
    """Medians over the rounds, two at least; of differences with the error of the median."""
    lines = []
    for kind in ("Put", "Range"):
        plain = statistics.median(each[kind, WITHOUT] for each in found)
        lines.append(f"{kind}: {plain:.1f} us of processor time a call without measuring")
        for name in (USUAL, EXTENSIVE):
            more = [100 * (each[kind, name] / each[kind, WITHOUT] - 1) for each in found]
            low, middle, high = statistics.quantiles(more, n=4, method="inclusive")
            # Of the median of a normal distribution, whose middle half is 1.35 deviations wide.
            error = 1.25 * (high - low) / 1.35 / len(more) ** 0.5
            lines.append(
                f"  {name}: {middle:+.2f}% +- {error:.2f} "
                f"(half of the rounds from {low:+.2f} to {high:+.2f})"
            )
    scrape = statistics.median(each["scrape", USUAL] for each in found)
    share = scrape / 1e3 / _SCRAPE_SECONDS
    lines.append(f"scrape: {scrape:.1f} ms, {share:.2%} of a core each {_SCRAPE_SECONDS} s")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.metrics_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--count", type=int, default=10_000, help="calls of a kind each time")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("two rounds are the least that have a spread")
    begin = time.monotonic()
    print(report(measure(arguments.rounds, arguments.count)))
    print(f"{arguments.rounds} rounds in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
