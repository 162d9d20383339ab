"""`rusd ctl` prints what etcdctl prints, byte for byte, ends with its code, and names its errors.

Two servers of a kind, with the same ids, get the same commands: one from etcdctl, one from
`rusd ctl`. What is compared is all that was printed, but for leases' ids, times, Raft's indexes and
client addresses. etcdctl's log lines, and its help after a line that cannot be read, are left out.
"""

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from rusd.cli.ctl import ctl
from tests.members import Member, free_ports, rusd_command

SECONDS = 30.0
FORMATS = ("simple", "fields", "json", "protobuf", "table")
CHEAP = ("--bcrypt-cost", "4")
_WITHOUT_JSON = ("simple", "fields", "protobuf", "table")


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: bytes
    errors: bytes


class Line(NamedTuple):
    """A command line, and what is typed into it; `{lease}` is the lease granted last."""

    words: Sequence[str]
    stdin: str = ""

    def __str__(self) -> str:
        """Return it as it would be typed."""
        return " ".join(self.words) + (f" <<< {self.stdin!r}" if self.stdin else "")


def line(text: str, stdin: str = "") -> Line:
    """Split at single spaces; '' is an empty word."""
    return Line(["" if each == "''" else each for each in text.split(" ")], stdin)


def each_format(*texts: str, stdin: str = "", formats: Sequence[str] = FORMATS) -> list[Line]:
    """Return these lines in each output format."""
    return [line(f"{text} -w {form}", stdin) for form in formats for text in texts]


@dataclass
class Side:
    """One of the two programs with the server that it talks to."""

    member: Member
    run: Callable[[Sequence[str], str], Outcome]
    lease: str = "7fffffffffffffff"
    others: dict[str, bytes] = field(default_factory=dict)

    def do(self, given: Line) -> Outcome:
        """Run a line; return what is to be the same on both sides."""
        words = [each.replace("{lease}", self.lease) for each in given.words]
        outcome = self.run(["--endpoints", self.member.target, *words], given.stdin)
        if granted := re.match(rb"lease (\w{16}) granted with TTL\(\d+s\)\n", outcome.out):
            self.lease = granted[1].decode()
        return Outcome(outcome.code, *map(self._shared, outcome[1:]))

    def _shared(self, text: bytes) -> bytes:
        text = text.replace(self.member.target.encode(), b"<client>")
        text = text.replace(self.lease.encode(), b"<lease>")
        text = text.replace(str(int(self.lease, 16)).encode(), b"<lease>")
        for pattern, name in _OWN:
            text = pattern.sub(name, text)
        return text


_OWN = (
    (re.compile(rb"\b\d+(\.\d+)?(ms|\xc2\xb5s|s)\b"), b"<time>"),
    (re.compile(rb" *<time> *"), b"<time>"),
    # Titles are in the middle of what is below them.
    (re.compile(rb"(?<=TOOK) +|(?<=HASH) +|(?<=\xe2\x94\x82) +(?=TOOK|HASH)"), b""),
    (re.compile(rb"(\xe2\x94\x80)+"), b"-"),
    # Whether it leads, whether it learns, Raft's term, two indexes.
    (re.compile(rb"((true|false)( \xe2\x94\x82|,) +\d+)\3 +\d+\3 +\d+"), rb"\1<indexes>"),
    (re.compile(rb'(?i)(?<=index" : )\d+|(?<=index":)\d+'), b"<index>"),
    (re.compile(rb"\b\d{5,10}\b"), b"<hash>"),
    (re.compile(rb'(?i)[\d.]+ [kM]?B\b|(?<=size" : )\d+'), b"<size>"),
)


def _etcdctl(program: Path) -> Callable[[Sequence[str], str], Outcome]:
    def run(words: Sequence[str], stdin: str) -> Outcome:
        done = subprocess.run(
            [program, *words],
            input=stdin.encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        out = b"" if done.stdout.startswith(b"NAME:") else done.stdout
        return Outcome(done.returncode, out, _errors(done.stderr))

    return run


def _ctl(words: Sequence[str], stdin: str) -> Outcome:
    done = CliRunner().invoke(ctl, list(words), input=stdin)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Outcome(done.exit_code, done.stdout_bytes, _errors(done.stderr_bytes))


def _errors(text: bytes) -> bytes:
    """Return errors once each, without log lines and by whom they are."""
    text = re.sub(rb'for "(etcdctl|ctl)', rb'for "', text)
    lines = dict.fromkeys(each for each in text.splitlines() if each.startswith(b"Error: "))
    return b"\n".join(lines)


@pytest.fixture(scope="module", params=["rusd", "etcd"])
def sides(
    request: pytest.FixtureRequest, etcd_programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Side, Side]]:
    """Two sides: etcdctl, `rusd ctl`, each with a new server; the servers have the same ids."""
    kind = rusd_command() if request.param == "rusd" else (str(etcd_programs / "etcd"),)
    folder = tmp_path_factory.mktemp("ctl")
    first = Member(kind, folder / "etcdctl", CHEAP)
    second = Member(kind, folder / "ctl")
    second.peer_port = first.peer_port  # what it says, and what its id is made from
    second.flags = (*CHEAP, "--listen-peer-urls", f"http://127.0.0.1:{free_ports(1)[0]}")
    members = first, second
    try:
        for each in members:
            each.launch()
        for each in members:
            each.wait_ready()
        yield Side(first, _etcdctl(etcd_programs / "etcdctl")), Side(second, _ctl)
    finally:
        for each in members:
            each.close()


def compare(sides: tuple[Side, Side], lines: Sequence[Line]) -> None:
    """Run all lines on both sides; name all those that differ."""
    differences = []
    for each in lines:
        expected, seen = (side.do(each) for side in sides)
        if expected != seen:
            differences.append(f"{each}\n  etcdctl:  {expected}\n  rusd ctl: {seen}")
    assert not differences, "\n".join(differences)


KEYS = [
    line("put a 1"),
    line("put a b c"),
    line("put a"),
    line("put"),
    line("put a", "from stdin\n"),
    line("put --ignore-value a"),
    line("put --ignore-value a x"),
    line("put --ignore-lease a 5 --prev-kv"),
    line("put b ''"),
    line("put a 1 --lease=xyz"),
    line("put a 1 --lease=123"),
    line("put a 1 --lease"),
    line("put a 1 --prev-kv=maybe"),
    line("put a 1 --bogus"),
    line("put -- a -b"),
    line("put a 1 -w=json"),
    line("put a 1 -wjson"),
    line("put a 1 -w xml"),
    Line(["put", "c\u00e4\u20ac", 'tab\t"q"\\ \u2028<&>\x7f']),
    *each_format("put a 2", "put a 2 --prev-kv", "put a 3 --prev-kv --hex"),
    *each_format(
        "get a",
        "get b --hex",
        "get '' --prefix",
        "get '' --from-key --sort-by=value --order=descend",
        "get a z --limit 1",
        "get a --prefix --keys-only",
        "get none",
        "get a --count-only",
        "get a --print-value-only",
    ),
    line("get a z --sort-by version --order ascend"),
    line("get a z --sort-by create"),
    line("get a z --sort-by key --order DESCEND"),
    line("get a --sort-by=x"),
    line("get a --order=x"),
    line("get a --consistency=s"),
    line("get a --consistency=x"),
    line("get a --from-key --prefix"),
    line("get a b --prefix"),
    line("get a b --from-key"),
    line("get a b c"),
    line("get"),
    line("get ''"),
    line("get --keys-only a --count-only"),
    line("get a --rev=1000"),
    line("get a --rev=2"),
    line("get a --rev=-1"),
    line("get a --limit=x"),
    line("get a --limit=0x10"),
    line("get a --limit=99999999999999999999"),
    line("get --prefix=false a"),
    line("get -Z"),
    line("ge a"),
    line("get a --command-timeout=x"),
    line("bogus"),
    *each_format("compaction 3"),
    line("compaction 5 --physical"),
    line("compaction 5000"),
    line("compaction x"),
    line("compaction"),
    line("get a --rev=2"),
    line("put d1 1"),
    line("put d2 2"),
    *each_format("del d --prefix --prev-kv", "del d", "put d1 1"),
    line("del a b --prefix"),
    line("del --from-key z"),
    line("del --from-key --prefix z"),
    line("del"),
    line("del a b c"),
    line("del a z --range"),
]

LEASES = [
    line("lease list"),
    line("lease grant 1000"),
    line("put leased v --lease={lease}"),
    *each_format(
        "lease timetolive {lease}",
        "lease timetolive {lease} --keys",
        "lease keep-alive {lease} --once",
        "lease timetolive 1234",
        "lease keep-alive 1234 --once",
        "lease keep-alive 1234",
        "lease list",
    ),
    *each_format("get leased", formats=("simple", "fields", "json")),
    line("lease revoke {lease}"),
    line("lease revoke {lease}"),
    line("lease revoke"),
    line("lease revoke xx"),
    line("lease grant"),
    line("lease grant x"),
    line("lease grant -1"),
    line("lease grant 99999999999"),
    line("lease timetolive"),
    line("lease timetolive xx"),
    line("lease keep-alive"),
    line("lease keep-alive xx"),
    line("lease list x"),
]

MEMBERS = [
    *each_format("member list", "endpoint health", "alarm list"),
    # A newer server has more to say in JSON than etcdctl 3.5 knows of.
    *each_format("endpoint status", "endpoint hashkv", formats=_WITHOUT_JSON),
    line("endpoint health --cluster"),
    line("endpoint status --cluster"),
    line("endpoint --cluster health"),
    line("endpoint --cluster status"),
    line("endpoint hashkv --cluster --rev 2"),
    line("endpoint hashkv --rev 3000"),
    line("member add"),
    line("member add x"),
    line("member add x --peer-urls=bogus"),
    line("member remove"),
    line("member remove xx"),
    line("member remove 1234"),
    line("member update"),
    line("member update 1234"),
    line("member update 1234 --peer-urls=http://127.0.0.1:9"),
    line("member promote 1234"),
    line("member list -w simple x"),
    line("alarm disarm"),
    line("alarm list x"),
    line("defrag"),
    line("defrag --cluster"),
    line("move-leader"),
    line("move-leader xx"),
    line("move-leader 1234"),
]


def test_keys_are_put_read_deleted_and_compacted_as_with_etcdctl(sides: tuple[Side, Side]) -> None:
    """`get`, `put`, `del`, `compaction`: flags, forms, refusals."""
    compare(sides, KEYS)


def test_leases_live_and_end_as_with_etcdctl(sides: tuple[Side, Side]) -> None:
    """`lease`."""
    compare(sides, LEASES)


def test_members_and_endpoints_are_shown_as_with_etcdctl(sides: tuple[Side, Side]) -> None:
    """`member`, `endpoint`, `alarm`, `defrag`, `move-leader`."""
    compare(sides, MEMBERS)


COMPARES = (
    'mod("a") > "0"\ncreate("a") = "0"\nver("a") != "5"\nval("a") < "x"\n\n'
    "put a 1\nget b\n\n"
    'put q 1 --prev-kv\nget zz --prefix\nput b "x y"\ndel dd --prev-kv\n\n'
)
TXNS = [
    *each_format("txn", stdin=COMPARES),
    *each_format("txn", stdin='\nput c 1 \nget "a"\nget q\ndel b --prev-kv\n\n\n'),
    line("txn --hex", 'value("a") = "q"\n\n\nget q --keys-only\nget c\n\n'),
    line("txn -i", '\nput "a\\nb" "c\\td"\nget "a\\nb"\nput k \'x y\'\nget k\n\n\n'),
    line("txn -i", 'version("none") = "0"\n\nput a 1\n\nget a\n\n'),
    line("txn", 'val("\\x61\\u00e4") = "\\""\n\n\n\n'),
    line("txn", "\n\n"),
    line("txn"),
    line("txn", "foo\n\n"),
    line("txn", "mod(a) > 0\n\n"),
    line("txn", 'mod(a) > "x"\n\n'),
    line("txn", 'xxx("a") > "0"\n\n'),
    line("txn", "\nfoo a\n\n"),
    line("txn", "\nput a\n\n"),
    line("txn", "\nget\n\n"),
    line("txn", "\nget a --consistency=x\n\n\n"),
    line("txn", "\nget a --bogus\n\n\n"),
    line("txn", "\nput same 1\nput same 2\n\n\n"),
    line("txn x"),
]

USERS = [
    *each_format("user list", "role list", "auth status"),
    line("user add"),
    line("user add alice:pw"),
    line("user add alice:pw"),
    line("user add bob --no-password"),
    line("user add carol --new-user-password=pp"),
    line("user add dave --interactive=false", "pw1\n"),
    line("user add erin", "one\n"),
    line("user add erin", "one\none\n"),
    line("user add ''", ""),
    line("user add :x"),
    line("user passwd"),
    line("user passwd dave --interactive=false", "pw2\n"),
    line("user passwd none --interactive=false", "pw2\n"),
    line("user get"),
    line("user get none"),
    line("role add"),
    line("role add r1"),
    line("role add r1"),
    line("role add r2"),
    line("role grant-permission"),
    line("role grant-permission r1 read"),
    line("role grant-permission r1 bad foo"),
    line("role grant-permission r1 read foo"),
    line("role grant-permission r1 readwrite a b"),
    line("role grant-permission r1 write p --prefix"),
    line("role grant-permission r1 write q --from-key"),
    line("role grant-permission r1 write q z --from-key"),
    line("role grant-permission r1 write q z --prefix"),
    line("role grant-permission r1 write q --from-key --prefix"),
    line("role grant-permission r1 write '' --prefix"),
    line("role grant-permission r1 read '' --from-key"),
    line("role grant-permission none read x"),
    line("user grant-role"),
    line("user grant-role alice r1"),
    line("user grant-role alice none"),
    line("user grant-role none r1"),
    *each_format("role get r1", "user get alice", "user list", "role list"),
    *each_format("user get alice --detail", formats=("simple", "fields", "json")),
    *each_format(
        "role add x",
        "user add x:pw",
        "user grant-role x x",
        "role grant-permission x read y",
        "role revoke-permission x y",
        "user revoke-role x x",
        "user delete x",
        "role delete x",
        formats=("fields", "json", "protobuf"),
    ),
    line("role get r2"),
    line("role get none"),
    line("role get"),
    line("user revoke-role alice"),
    line("user revoke-role alice r2"),
    line("user revoke-role alice r1"),
    line("role revoke-permission r1"),
    line("role revoke-permission r1 foo"),
    line("role revoke-permission r1 none"),
    line("role revoke-permission r1 a b"),
    line("role revoke-permission r1 p --prefix"),
    line("role revoke-permission r1 q --from-key"),
    line("role revoke-permission r1 q z --from-key"),
    line("user delete none"),
    line("role delete none"),
    line("role delete r2"),
    line("auth enable"),
    line("auth enable x"),
    line("user add root:rp"),
    line("auth enable"),
    line("get a"),
    line("get a --user root:rp"),
    line("get a --user root --password rp"),
    line("get a --user root", "rp\n"),
    line("get a --user root:bad"),
    line("put a 1 --user alice:pw"),
    line("get a --user alice:"),
    line("auth status --user root:rp -w json"),
    line("endpoint health --user alice:pw"),
    line("auth disable --user root:rp"),
    line("auth disable"),
    line("get a --user root:rp"),
]

WATCHES = [
    line("watch"),
    line("watch -- echo"),
    line("watch a --"),
    line("watch -i", "watch w --rev 5000\nbogus\n\nwatch\ncancel 1\n"),
    line("lock"),
    line("lock l1 --ttl=x"),
    line("lock l1 -- true"),
    Line(["lock", "l1", "--", "sh", "-c", "exit 7"]),
    line("elect"),
    line("elect e"),
    line("elect -l e x"),
    line("snapshot save"),
    line("make-mirror"),
    line("check perf --load=zz"),
]


def test_transactions_are_read_and_shown_as_with_etcdctl(sides: tuple[Side, Side]) -> None:
    """`txn`: comparisons, requests in quotes, what cannot be read."""
    compare(sides, TXNS)


def test_users_and_roles_are_changed_and_shown_as_with_etcdctl(sides: tuple[Side, Side]) -> None:
    """`auth`, `user`, `role`; with auth on, who may do what."""
    compare(sides, USERS)


def test_what_runs_on_refuses_what_etcdctl_refuses(sides: tuple[Side, Side]) -> None:
    """`watch`, `lock`, `elect`, `make-mirror`, `check`: lines that end at once."""
    compare(sides, WATCHES)
