"""etcdctl gets from the server under test what it gets from real etcd, in each output format.

The same commands run against both; what they print is compared with addresses, ids, sizes, terms
and times replaced by names.
"""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.members import Member

SECONDS = 30.0
FORMATS = ("simple", "json", "fields", "table")

# What two like servers answer differently, by the name that etcdctl prints for it.
_OWN = re.compile(
    r"^(cluster_?id|member_?id|id|raft_?term|raft_?index|raft_?applied_?index|leader|version"
    r"|db_?size|db_?size_?in_?use|hash|took|ttl)$",
    re.IGNORECASE,
)
_OWN_FIELD = re.compile(r'^"(\w+)" : (?!0$)(?!-1$)\S+$', re.MULTILINE)
_OWN_TEXT = (
    (re.compile(r"\b3\.\d+\.\d+\b"), "<version>"),
    (re.compile(r"\b[\d.]+ [kMG]?B\b"), "<size>"),
    (re.compile(r"\b[\d.]+(ms|µs|s)\b"), "<time>"),
    (re.compile(r"\b\d{7,10}\b"), "<hash>"),
    # Whether it leads, whether it learns, then the Raft term and two indexes.
    (re.compile(r"(true|false)( *[│,]) +(\d+\2 +){2}\d+"), r"\1\2 <raft>"),
    (re.compile(r"remaining\(\d+s\)"), "remaining(<time>)"),
    (re.compile(r" +"), " "),
    (re.compile("─+"), "─"),
)


@dataclass
class Etcdctl:
    """etcdctl, talking to one server."""

    program: Path
    member: Member
    names: dict[str, str] = field(default_factory=dict)
    """What to print for this server's ids and addresses."""

    def __post_init__(self) -> None:
        """Learn the server's ids."""
        header = json.loads(self.run("get", "none", "-w", "json").stdout)["header"]
        for name in ("member_id", "cluster_id"):
            self.names[str(header[name])] = self.names[f"{header[name]:x}"] = f"<{name}>"
        self.names[self.member.client_url] = "<client URL>"
        self.names[self.member.peer_url] = "<peer URL>"

    def command(self, *arguments: str) -> list[str]:
        """Return the whole command line."""
        return [str(self.program), "--endpoints", self.member.client_url, *arguments]

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def named(self, text: str) -> str:
        """Replace what is this server's own by names."""
        for own, name in self.names.items():
            text = re.sub(rf"(?<!\w){re.escape(own)}\b", name, text)
        return text

    def transcript(self, arguments: Sequence[str], stdin: str = "") -> list[Any]:
        """Run a command; return the parts of what it did that like servers share."""
        ended = self.run(*arguments, stdin=stdin)
        if (granted := re.match(r"lease (\w{16}) granted", ended.stdout)) is not None:
            self.names[granted[1]] = f"<lease {len(self.names)}>"
        errors = [line for line in ended.stderr.splitlines() if line.startswith("Error:")]
        return [ended.returncode, self.shared(ended.stdout), *map(self.named, errors)]

    def shared(self, output: str) -> Any:
        """Return `output` without what is the server's own."""
        try:
            return self.masked(json.loads(output))
        except ValueError:
            return _plain(self.named(output))

    def masked(self, value: Any) -> Any:
        """Replace the values of a JSON document that differ between like servers."""
        if isinstance(value, list):
            return [self.masked(each) for each in value]
        if not isinstance(value, dict):
            return self.names.get(str(value), value)
        return {
            # A key's version counts its puts; a server's version is a text.
            name: "<own>"
            if _OWN.match(name) and inner not in (0, -1) and (name, type(inner)) != ("version", int)
            else self.masked(inner)
            for name, inner in value.items()
        }


def _plain(text: str) -> str:
    def own_field(found: re.Match[str]) -> str:
        return f'"{found[1]}" : <own>' if _OWN.match(found[1]) else found[0]

    text = _OWN_FIELD.sub(own_field, text)
    for pattern, name in _OWN_TEXT:
        text = pattern.sub(name, text)
    return text


@pytest.fixture(scope="module")
def both(etcd_programs: Path, reference: Member, subject: Member) -> tuple[Etcdctl, Etcdctl]:
    """Etcdctl to real etcd and to the server under test."""
    program = etcd_programs / "etcdctl"
    return Etcdctl(program, reference), Etcdctl(program, subject)


@dataclass
class Same:
    """Runs commands against both and fails where what they print differs."""

    both: tuple[Etcdctl, Etcdctl]
    format: str

    def __call__(self, *arguments: str, stdin: str = "") -> None:
        """Run one command on both, in the format."""
        line = (*arguments, "-w", self.format)
        expected, seen = (each.transcript(line, stdin) for each in self.both)
        assert seen == expected, f"etcdctl {' '.join(line)}"

    def lease(self, ttl: int) -> list[str]:
        """Grant a lease on both; return its two ids."""
        ids = []
        for each in self.both:
            granted = each.run("lease", "grant", str(ttl)).stdout
            found = re.match(rf"lease (\w{{16}}) granted with TTL\({ttl}s\)$", granted)
            assert found, granted
            each.names[found[1]] = each.names[str(int(found[1], 16))] = "<lease>"
            ids.append(found[1])
        return ids

    def with_lease(self, ids: Sequence[str], *arguments: str) -> None:
        """Run a command on both; `{lease}` in it is the lease's id there."""
        lines = [
            [each.replace("{lease}", lease) for each in (*arguments, "-w", self.format)]
            for lease in ids
        ]
        expected, seen = (
            each.transcript(line) for each, line in zip(self.both, lines, strict=True)
        )
        assert seen == expected, f"etcdctl {' '.join(arguments)}"


@pytest.fixture(params=FORMATS)
def same(request: pytest.FixtureRequest, both: tuple[Etcdctl, Etcdctl]) -> Same:
    """The comparison, in each output format, on an emptied keyspace."""
    for each in both:
        each.run("del", "", "--prefix")
    return Same(both, request.param)


def test_put_get_and_del_print_the_same(same: Same) -> None:
    """Every option of the three."""
    same("put", "a", "1")
    same("put", "a", "2", "--prev-kv")
    same("put", "b", "with spaces")
    same("put", "bb", stdin="from stdin")
    same("put", "c", "", "--ignore-value")
    same("put", "a", "--ignore-value")
    same("put", "a", "3", "--lease=123")
    same("put", "", "3")
    same("get", "a")
    same("get", "a", "c")
    same("get", "b", "--prefix")
    same("get", "", "--prefix", "--keys-only")
    same("get", "", "--prefix", "--count-only")
    same("get", "", "--prefix", "--print-value-only")
    same("get", "", "--prefix", "--limit=1")
    same("get", "", "--from-key", "--sort-by=VERSION", "--order=DESCEND")
    same("get", "a", "--from-key", "--sort-by=MODIFY", "--order=ASCEND")
    same("get", "a", "--from-key", "--sort-by=VALUE", "--order=DESCEND", "--limit=2")
    same("get", "a", "--consistency=s")
    same("get", "a", "--rev=2")
    same("get", "a", "--rev=1000000")
    same("get", "a", "--hex")
    same("get", "none")
    same("del", "a", "--prev-kv")
    same("del", "none")
    same("del", "b", "--prefix", "--prev-kv")
    same("del", "", "--from-key")
    same("get", "", "--prefix")


def test_txn_prints_the_same(same: Same) -> None:
    """Both branches, each compare, and the errors."""
    same("put", "k", "v")
    same("txn", stdin='value("k") = "v"\n\nput d 4\nget k\n\ndel k\n\n')
    same("txn", stdin='mod("k") > "1000000"\n\nput d 4\n\nget k\nget "" --prefix\ndel d\n\n')
    same("txn", stdin='ver("k") = "1"\nlease("k") = "0"\ncreate("x") < "1"\n\nget k\n\n\n')
    same("txn", stdin='val("k") != "w"\n\nput a 1\nput a 2\n\n\n')
    same("txn", stdin="\n\n\n")


def test_leases_print_the_same(same: Same) -> None:
    """Grant, list, time to live with keys, keep-alive once, revoke, and unknown leases."""
    ids = same.lease(1000)
    same.with_lease(ids, "lease", "list")
    same.with_lease(ids, "put", "leased", "1", "--lease={lease}")
    same.with_lease(ids, "get", "leased")
    same.with_lease(ids, "lease", "timetolive", "{lease}")
    same.with_lease(ids, "lease", "timetolive", "{lease}", "--keys")
    same.with_lease(ids, "lease", "keep-alive", "--once", "{lease}")
    same.with_lease(ids, "lease", "revoke", "{lease}")
    same.with_lease(ids, "lease", "timetolive", "{lease}", "--keys")
    same.with_lease(ids, "lease", "keep-alive", "--once", "{lease}")
    same.with_lease(ids, "lease", "revoke", "{lease}")
    same("lease", "grant", "99999999999")
    same("get", "leased")


def test_compaction_and_reads_below_it_print_the_same(same: Same) -> None:
    """Compaction, the same again, in the future, and a read of what is gone."""
    for value in "123":
        same("put", "k", value)
    [found] = json.loads(same.both[0].run("get", "k", "-w", "json").stdout)["kvs"]
    newest = found["mod_revision"]
    same("compaction", str(newest - 1))
    same("compaction", str(newest - 1))
    same("compaction", str(newest), "--physical")
    same("compaction", str(newest + 1000))
    same("get", "k", f"--rev={newest - 1}")
    same("get", "k", f"--rev={newest}")


def test_maintenance_prints_the_same(same: Same) -> None:
    """Endpoints, members, alarms and defragmentation."""
    same("put", "k", "v")
    same("endpoint", "status")
    same("endpoint", "health")
    same("endpoint", "hashkv")
    same("member", "list")
    same("alarm", "list")
    same("alarm", "disarm")
    same("defrag")
    same("get", "k")


def _events(format_: str, output: str) -> Any:
    """Return the events that `etcdctl watch` printed, however many responses they came in."""
    match format_:
        case "json":
            lines = map(json.loads, output.splitlines())
            return [event for line in lines for event in line.get("Events") or ()]
        case "fields":
            event = re.compile(r'"(Type|\w*Key|\w*Value|\w*Version|\w+Revision|\w*Lease)" : ')
            return [line for line in output.splitlines() if event.match(line)]
        case _:
            return output.splitlines()


def _until(process: subprocess.Popen[str], last: str) -> str:
    """Read a program's output up to a line with `last` in it."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if last in line:
            break
    return "".join(lines)


Spawn = Callable[[Sequence[str]], "subprocess.Popen[str]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Programs that run beside the test and end with it."""
    programs = []

    def start(command: Sequence[str]) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        programs.append(program)
        return program

    yield start
    for program in programs:
        with program:
            program.kill()


@pytest.mark.parametrize("options", [(), ("--prev-kv",), ("--progress-notify",)])
@pytest.mark.parametrize("format_", ["simple", "json", "fields"])
def test_watch_prints_the_same_events(
    both: tuple[Etcdctl, Etcdctl], spawn: Spawn, format_: str, options: tuple[str, ...]
) -> None:
    """From a revision on: history, then what is written while it watches."""
    printed = []
    for each in both:
        each.run("del", "w", "--prefix")
        start = json.loads(each.run("put", "w", "0", "-w", "json").stdout)["header"]["revision"]
        each.run("put", "w/1", "1")
        line = ("watch", "w", "--prefix", f"--rev={start}", "-w", format_, *options)
        watching = spawn(each.command(*line))
        each.run("put", "w/1", "2")
        each.run("txn", stdin="\n\nput w/2 2\nput w/3 3\nput x 1\n\n\n")
        each.run("del", "w/", "--prefix")
        each.run("put", "w/9", "last")
        # The value is the last line of an event but for -w fields, where the lease follows.
        last = {"json": "bGFzdA==", "fields": '"w/9"'}.get(format_, "last")
        printed.append(_events(format_, _until(watching, last)))
    assert printed[1] == printed[0]
    assert "w/1" in str(printed[1]) or "dy8x" in str(printed[1])


def test_watch_below_a_compaction_ends_with_the_same_error(both: tuple[Etcdctl, Etcdctl]) -> None:
    """The watcher is told that it is cancelled, and why."""
    ended = []
    for each in both:
        for value in "12":
            put = json.loads(each.run("put", "k", value, "-w", "json").stdout)
        each.run("compaction", str(put["header"]["revision"]))
        watched = each.run("watch", "k", "--rev=1")
        ended.append((watched.returncode, watched.stdout, watched.stderr.splitlines()[-1]))
    assert re.sub(r"\d+", "N", str(ended[1])) == re.sub(r"\d+", "N", str(ended[0]))


def test_lock_runs_its_command_only_while_it_holds_the_lock(
    both: tuple[Etcdctl, Etcdctl], spawn: Spawn
) -> None:
    """A second holder waits for the first, and gets the lock when that ends."""
    for each in both:
        assert each.run("lock", "alone", "echo", "held").stdout == "held\n"
        first = spawn(each.command("lock", "shared"))
        assert first.stdout is not None
        key = first.stdout.readline()
        assert re.match(r"shared/[0-9a-f]+$", key), key
        second = spawn(each.command("lock", "shared", "echo", "second"))
        deadline = time.monotonic() + SECONDS
        while each.run("get", "shared/", "--prefix", "--keys-only").stdout.count("shared/") < 2:
            assert time.monotonic() < deadline, "the second does not queue up"
        assert second.poll() is None
        first.send_signal(signal.SIGINT)
        assert second.communicate(timeout=SECONDS)[0] == "second\n"


def test_elect_follows_a_campaign_and_the_next_one(
    both: tuple[Etcdctl, Etcdctl], spawn: Spawn
) -> None:
    """Observers see the leader; when it resigns, the candidate that waits becomes it."""
    for each in both:
        candidates = [spawn(each.command("elect", "office", "first"))]
        assert candidates[0].stdout is not None
        assert candidates[0].stdout.readline().startswith("office/")
        assert candidates[0].stdout.readline() == "first\n"
        observer = spawn(each.command("elect", "--listen", "office"))
        assert observer.stdout is not None
        assert observer.stdout.readline().startswith("office/")
        assert observer.stdout.readline() == "first\n"
        candidates.append(spawn(each.command("elect", "office", "second")))
        candidates[0].send_signal(signal.SIGINT)
        assert candidates[1].stdout is not None
        assert candidates[1].stdout.readline().startswith("office/")
        assert candidates[1].stdout.readline() == "second\n"
        assert observer.stdout.readline().startswith("office/")
        assert observer.stdout.readline() == "second\n"
