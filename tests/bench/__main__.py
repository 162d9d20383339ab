"""Measure rusd beside real etcd: `python -m tests.bench --help`.

Both run in turn, round by round, each time as fresh members on empty directories. A complete run
writes docs/benchmarks.md; the rows of the large store, which take long, only run when they are
asked for, and stay in it when the others are run again.
"""

import argparse
import datetime
import fnmatch
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.bench import large, three, workloads
from tests.bench.figures import SECTIONS, Figures, Run, load_runs, save_runs
from tests.bench.goals import BY_NAME, LARGE_STORE, ROWS
from tests.bench.load import Generators
from tests.bench.machine import Others, description, filesystem
from tests.bench.profile import profiled
from tests.bench.report import notes, page, shown, table
from tests.bench.site import SHORT, Group, Site, Sizes, Workload, members_of, retried
from tests.members import NotReadyError, rusd_command

GROUPS = (*workloads.GROUPS, *three.GROUPS, *large.GROUPS)

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "benchmarks.md"
_RUNS = _PAGE.with_suffix(".json")
_FLAGS = ("--quota-backend-bytes", str(8 << 30))
_BUSY = 0.9


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="small sizes, one round: a smoke test")
    parser.add_argument(
        "--only", metavar="ROW,...", help="these rows, or patterns such as 'three-*'; see --list"
    )
    parser.add_argument("--list", action="store_true", help="print the rows and their goals")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures")
    parser.add_argument(
        "--store-gb", type=float, metavar="GB", help="how large the large store is (default: 10)"
    )
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
    left_out = () if arguments.only or arguments.short else {row.name for row in LARGE_STORE}
    if arguments.profile and not arguments.rusd_only:
        parser.error("--profile needs --rusd-only: py-spy can look into Python alone")
    if unknown := [each for each in wanted if not fnmatch.filter(BY_NAME, each)]:
        parser.error(f"no such row: {', '.join(unknown)}")
    arguments.names = [
        name
        for name in BY_NAME
        if name not in left_out and any(fnmatch.fnmatch(name, each) for each in wanted)
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


@contextmanager
def fresh_site(
    group: Group, command: Sequence[str], generators: Generators, sizes: Sizes
) -> Iterator[Site]:
    """Fresh members with the data of the group; they and it are gone afterwards."""
    with ExitStack() as stack:

        def attempt() -> Site:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=generators.folder))
            flags = (*_FLAGS, *group.flags)  # the last of equal flags counts
            members = members_of(command, Path(scratch), flags, group.members)
            site = Site(members, generators, sizes)
            stack.callback(site.close)
            if group.tls:
                site.serve_tls()
            try:
                site.start()
            except NotReadyError:
                site.close()
                raise
            return site

        site = retried(attempt)
        begin, others = time.monotonic(), Others(site.pids)
        group.prepare(site)
        site.prepare_seconds = time.monotonic() - begin
        site.prepare_others = others.share(site.pids)
        yield site


def measure_group(
    group: Group,
    subject: str,
    fresh: Callable[[], AbstractContextManager[Site]],
    names: Sequence[str],
    figures: Figures,
    profiles: Path | None,
) -> None:
    """One round of a group; what fails is kept as a failure, and the rest goes on.

    It goes on with the same members, or with fresh ones if not all of them run any more.
    """
    left = [work for work in group.workloads if not set(work.rows).isdisjoint(names)]
    while left:
        begun = len(left)
        try:
            with fresh() as site:
                figures.disturb(f"the filling for {group.name} of {subject}", site.prepare_others)
                while left and (len(left) == begun or len(site.running) >= group.members):
                    _measure_workload(left.pop(0), subject, site, figures, profiles)
        except Exception as error:  # not even a mistake of the benchmark's may lose other rows
            rows = [name for work in left for name in work.rows]
            _fail(figures, ", ".join(rows) or f"the end of {group.name}", subject, error)
            return


def _measure_workload(
    work: Workload, subject: str, site: Site, figures: Figures, profiles: Path | None
) -> None:
    label = ", ".join(work.rows)
    site.generators.busiest = 0.0
    others = Others(site.pids)
    try:
        with profiled(profiles, "+".join(work.rows), site) if profiles else nullcontext():
            measured = work.measure(site)
        for name, value in measured.items():
            figures.add(name, subject, value)
            print(f"{name} {subject} {shown(value, BY_NAME[name].unit)}", file=sys.stderr)
    except Exception as error:  # as above
        _fail(figures, label, subject, error)
    if site.generators.busiest > _BUSY:
        figures.generator_bound.add(f"{label} of {subject}")
    figures.disturb(f"{label} of {subject}", others.share(site.pids))


def _fail(figures: Figures, label: str, subject: str, error: BaseException) -> None:
    # The end of a server's log says why it ended.
    reason = " ".join(str(error).split())[-300:] or type(error).__name__
    text = f"{label} of {subject}: {reason}"
    print(text, file=sys.stderr)
    figures.failures.append(text)


def measure(
    figures: Figures,
    subjects: Mapping[str, Sequence[str]],
    names: Sequence[str],
    sizes: Sizes,
    folder: Path,
    profiles: Path | None = None,
) -> None:
    """All rounds of all groups that hold a wanted row, the subjects in turn in each round.

    With a folder for profiles, the last round's are left there.
    """
    generators = Generators(folder)
    for group in GROUPS:
        for _ in range(group.rounds(sizes)):
            for subject, command in subjects.items():
                fresh = partial(fresh_site, group, command, generators, sizes)
                measure_group(group, subject, fresh, names, figures, profiles)


def main(given: Sequence[str] | None = None) -> int:
    """Run as the arguments say; 1 when something could not be measured."""
    arguments = _arguments(given)
    if arguments.list:
        for row in ROWS:
            print(f"{row.name:20} {row.goal or ''!s:10} {row.work}")
        return 0
    folder = arguments.folder or Path(tempfile.gettempdir())
    sections = _sections(arguments)
    whole = _whole(arguments, sections)
    if whole and filesystem(folder) == "tmpfs":
        raise SystemExit(f"{folder} is in memory, where fsync costs nothing: give --folder")
    if whole and shutil.which("h2load") is None:
        raise SystemExit("h2load is missing: install nghttp2-client")
    begin = time.monotonic()
    subjects = _subjects(arguments)
    machine = description(folder, subjects.get("etcd"))
    sizes = _sizes(arguments)
    runs: dict[str, Run] = {}
    ended = False
    for section, names in sections.items():
        if ended:
            break
        figures = Figures()
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        store = large.description(sizes) if section == "large" else []
        try:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                measure(figures, subjects, names, sizes, Path(scratch), arguments.profile)
        except KeyboardInterrupt:
            ended = True
            figures.failures.append("all that is missing: the run was ended early")
            if section != "large":  # which takes so long that a part of it is worth keeping
                whole -= {section}
        runs[section] = Run(day, [*machine, *store], figures)
        print(table(figures, names))
        for note in notes(figures):
            print(note)
        if section in whole:
            kept = load_runs(_RUNS) | {section: runs[section]}
            save_runs(_RUNS, kept)
            _PAGE.write_text(page(kept))
    print(f"{time.monotonic() - begin:.0f} s", file=sys.stderr)
    if arguments.short:
        print("A short run: sizes are smaller than the rows say.")
    if arguments.json:
        save_runs(arguments.json, runs)
    return 1 if any(run.figures.failures for run in runs.values()) else 0


def _sections(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The sections of the page and which rows of them are wanted."""
    wanted = {
        section: [row.name for row in rows if row.name in arguments.names]
        for section, rows in SECTIONS.items()
    }
    return {section: names for section, names in wanted.items() if names}


def _whole(arguments: argparse.Namespace, sections: Mapping[str, Sequence[str]]) -> set[str]:
    """The sections that are measured as they stand in the page."""
    if arguments.short or arguments.seconds or arguments.subject == "etcd":
        return set()
    if arguments.rusd_only or arguments.etcd_only:
        return set()
    return {section for section, names in sections.items() if len(names) == len(SECTIONS[section])}


def _sizes(arguments: argparse.Namespace) -> Sizes:
    sizes = SHORT if arguments.short else Sizes()
    if arguments.seconds:
        sizes = replace(sizes, seconds=arguments.seconds)
    if arguments.store_gb:
        sizes = replace(sizes, store_gb=arguments.store_gb)
    return sizes


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
