"""The measured figures as a table for the terminal and as a page for the documentation."""

from collections.abc import Mapping, Sequence

from tests.bench.figures import Figures, Run
from tests.bench.goals import BY_NAME, LARGE_STORE, ONE_MEMBER, THREE_MEMBERS, Row

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
* Catching up: two members take 125,000 puts of 8 KiB of random bytes; the time is from the first
  start of a third that was added, until it has applied what the leader had and answers with its
  revision. Then it is removed, wiped and added again, and catches up under puts to the leader,
  closed loop: their rate meanwhile, as a percentage of that in the seconds after, when the newcomer
  takes its part of the cores too.
"""

_LARGE = """\
* One member takes the puts, then every tenth key again. Values are random bytes. Both servers run
  with their defaults (fsync on), but for the quota.
* Cold: the page cache was dropped before the row, if the table above says so; each call is for
  other keys, one at a time. The kernel keeps what a process has mapped, so as long as memory
  suffices etcd has all of its file that it read at its start: its store is warm then.
* Restart: SIGTERM, the page cache dropped, and `/health` answering true.
* Compaction is `physical`, so the call ends with the work. What both calls gave back is by what
  Status says; the data directory is what its files take on the disk.
* The backup goes to a client in Python (grpcio), which counts the bytes and drops them. The time
  is from its call to the last byte. rusd writes the file before it sends it, on its data's disk.
  Resident memory is the largest VmRSS of the process and all that it started, of samples every
  50 ms; etcd's holds the mapped pages of its file, so the anonymous part stands beside it.
* Catching up: from the first start of a learner that was added, until it has applied what the
  leader had and has all keys. Then it is made a voter, and its HashKV must be the leader's.
"""


def _cells(figures: Figures, row: Row) -> tuple[str, ...]:
    """The row's line of the table."""
    etcd, rusd = figures.figure(row, "etcd"), figures.figure(row, "rusd")
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
    lines = [_HEADINGS, *(_cells(figures, BY_NAME[name]) for name in names)]
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


def page(runs: Mapping[str, Run]) -> str:
    """The whole of docs/benchmarks.md, of the last runs of the sections."""
    lines = [
        "# Benchmarks",
        "",
        "rusd beside real etcd. A ratio above 1 says that rusd is so many times as fast, or as "
        "small. Absolute figures move from run to run and machine to machine; the ratios count.",
        "",
    ]
    if run := runs.get("members"):
        lines += [
            *("## One member", "", f"On {run.day}, by `make bench`.", ""),
            *(_rows(run, ONE_MEMBER), ""),
            *("## Three members on one machine", ""),
            *(_rows(run, THREE_MEMBERS), ""),
            *_notes(run),
            *("### Machine", "", *_machine(run), ""),
            *("### What is measured", "", _LOADS),
        ]
    if run := runs.get("large"):
        lines += [
            *("## A large store", "", f"On {run.day}, by `make bench LARGE=10`, 10 being the GB."),
            *(f"It had {dict(run.machine)['store']}.", ""),
            *(_rows(run, LARGE_STORE), ""),
            *_notes(run),
            *("### Machine and store", "", *_machine(run), ""),
            *("### How it is measured", "", _LARGE),
        ]
    return "\n".join(lines)


def _rows(run: Run, rows: Sequence[Row]) -> str:
    return table(run.figures, [row.name for row in rows])


def _notes(run: Run) -> list[str]:
    lines = [f"* {note}" for note in notes(run.figures)]
    return [*lines, ""] if lines else []


def _machine(run: Run) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in run.machine)]
