"""Measure rusd beside real etcd: `python -m tests.bench --help`.

Both run in turn, round by round, each time as fresh members on empty directories. A complete run
writes docs/benchmarks.md.
"""

import argparse
import datetime
import fnmatch
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import grpc

from tests.bench import three, workloads
from tests.bench.goals import BY_NAME, ROWS
from tests.bench.load import Generators, LoadError
from tests.bench.machine import Others, description, filesystem
from tests.bench.profile import profiled
from tests.bench.report import Figures, as_json, notes, page, shown, table
from tests.bench.site import SHORT, Group, Site, Sizes, members_of
from tests.members import NotReadyError, rusd_command

GROUPS = (*workloads.GROUPS, *three.GROUPS)

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "benchmarks.md"
_FLAGS = ("--quota-backend-bytes", str(8 << 30))
_BUSY = 0.9
_FAILURES = (LoadError, NotReadyError, grpc.RpcError, OSError, subprocess.SubprocessError)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="small sizes, one round: a smoke test")
    parser.add_argument(
        "--only", metavar="ROW,...", help="these rows, or patterns such as 'three-*'; see --list"
    )
    parser.add_argument("--list", action="store_true", help="print the rows and their goals")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures")
    parser.add_argument("--seconds", type=float, help="how long a rate is measured, each time")
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FOLDER",
        help="run py-spy beside the members; needs --rusd-only",
    )
    parser.add_argument("--folder", type=Path, help="where the members keep data (default: temp)")
    parser.add_argument(
        "--subject", choices=("rusd", "etcd"), default="rusd", help="what runs as rusd"
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--rusd-only", action="store_true")
    one.add_argument("--etcd-only", action="store_true")
    arguments = parser.parse_args(given)
    wanted = arguments.only.split(",") if arguments.only else ["*"]
    if arguments.profile and not arguments.rusd_only:
        parser.error("--profile needs --rusd-only: py-spy can look into Python alone")
    if unknown := [each for each in wanted if not fnmatch.filter(BY_NAME, each)]:
        parser.error(f"no such row: {', '.join(unknown)}")
    arguments.names = [
        name for name in BY_NAME if any(fnmatch.fnmatch(name, each) for each in wanted)
    ]
    return arguments


def _etcd_command() -> tuple[str, ...]:
    script = _ROOT / "tests" / "fetch-etcd"
    folder = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    return (str(Path(folder) / "etcd"),)


def _subjects(arguments: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    subjects: dict[str, tuple[str, ...]] = {}
    if not arguments.rusd_only:
        subjects["etcd"] = _etcd_command()
    if not arguments.etcd_only:
        subjects["rusd"] = rusd_command() if arguments.subject == "rusd" else _etcd_command()
    return subjects


def _measure_group(
    group: Group,
    subject: str,
    site: Site,
    names: Sequence[str],
    figures: Figures,
    profiles: Path | None,
) -> None:
    """One round of a group on fresh members; what fails is kept as a failure and passed over."""
    wanted = [work for work in group.workloads if not set(work.rows).isdisjoint(names)]
    label = group.name
    try:
        if group.tls:
            site.serve_tls()
        site.start(group.absent)
        group.prepare(site)
        for work in wanted:
            label = ", ".join(work.rows)
            site.generators.busiest = 0.0
            others = Others(site.pids)
            try:
                with profiled(profiles, "+".join(work.rows), site) if profiles else nullcontext():
                    measured = work.measure(site)
                for name, value in measured.items():
                    figures.add(name, subject, value)
                    print(f"{name} {subject} {shown(value, BY_NAME[name].unit)}", file=sys.stderr)
            except _FAILURES as error:
                _fail(figures, label, subject, error)
                if len(site.running) < group.members - group.absent:
                    return
            if site.generators.busiest > _BUSY:
                figures.generator_bound.add(f"{label} of {subject}")
            figures.disturb(f"{label} of {subject}", others.share(site.pids))
    except _FAILURES as error:
        _fail(figures, label, subject, error)
    finally:
        site.close()


def _fail(figures: Figures, label: str, subject: str, error: BaseException) -> None:
    # The end of a server's log says why it ended.
    text = f"{label} of {subject}: {' '.join(str(error).split())[-300:]}"
    print(text, file=sys.stderr)
    figures.failures.append(text)


def measure(
    subjects: Mapping[str, Sequence[str]],
    names: Sequence[str],
    sizes: Sizes,
    folder: Path,
    profiles: Path | None = None,
) -> Figures:
    """All rounds of all groups that hold a wanted row, the subjects in turn in each round.

    With a folder for profiles, the last round's are left there.
    """
    figures = Figures()
    generators = Generators(folder)
    for group in GROUPS:
        if not any(set(work.rows) & set(names) for work in group.workloads):
            continue
        for _ in range(group.rounds(sizes)):
            for subject, command in subjects.items():
                with tempfile.TemporaryDirectory(dir=folder) as scratch:
                    members = members_of(command, Path(scratch), _FLAGS, group.members)
                    site = Site(members, generators, sizes)
                    _measure_group(group, subject, site, names, figures, profiles)
    return figures


def main(given: Sequence[str] | None = None) -> int:
    """Run as the arguments say; 1 when something could not be measured."""
    arguments = _arguments(given)
    if arguments.list:
        for row in ROWS:
            print(f"{row.name:16} {row.goal or ''!s:10} {row.work}")
        return 0
    folder = arguments.folder or Path(tempfile.gettempdir())
    complete = not (arguments.short or arguments.only or arguments.subject == "etcd")
    complete = complete and not (arguments.rusd_only or arguments.etcd_only or arguments.seconds)
    if complete and filesystem(folder) == "tmpfs":
        raise SystemExit(f"{folder} is in memory, where fsync costs nothing: give --folder")
    if complete and shutil.which("h2load") is None:
        raise SystemExit("h2load is missing: install nghttp2-client")
    begin = time.monotonic()
    subjects = _subjects(arguments)
    machine = description(folder, subjects.get("etcd"))
    sizes = SHORT if arguments.short else Sizes()
    if arguments.seconds:
        sizes = replace(sizes, seconds=arguments.seconds)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        figures = measure(subjects, arguments.names, sizes, Path(scratch), arguments.profile)
    print(table(figures, arguments.names))
    for note in notes(figures):
        print(note)
    print(f"{time.monotonic() - begin:.0f} s", file=sys.stderr)
    if arguments.short:
        print("A short run: sizes are smaller than the rows say.")
    if arguments.json:
        arguments.json.write_text(as_json(figures, dict(machine)))
    if complete:
        _PAGE.write_text(
            page(figures, machine, datetime.datetime.now(datetime.UTC).date().isoformat())
        )
    return 1 if figures.failures else 0


if __name__ == "__main__":
    sys.exit(main())
