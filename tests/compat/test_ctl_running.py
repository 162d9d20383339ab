"""`rusd ctl` where it runs on: watches, locks, elections, mirrors, loads; and where members go."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rusd.cli.ctl import ctl
from tests.conftest import StartMember
from tests.members import Member, free_ports, running, rusd_command

SECONDS = 30.0
DIGEST_BYTES = 32


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """One member of rusd."""
    with running(rusd_command(), tmp_path_factory.mktemp("ctl")) as member:
        yield member


def ctl_of(member: Member, *words: str, stdin: str = "") -> Result:
    """Run a command to its end, in this process."""
    return CliRunner().invoke(ctl, ["--endpoints", member.target, *words], input=stdin)


class Running:
    """A command that runs on, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Take over the process."""
        self.process = process

    def read(self, count: int = 1) -> list[str]:
        """Return the next lines; AssertionError if they do not come in time."""
        assert self.process.stdout is not None
        stop = threading.Timer(SECONDS, self.process.kill)
        stop.start()
        try:
            lines = [self.process.stdout.readline() for _ in range(count)]
        finally:
            stop.cancel()
        assert all(lines), (lines, self.process.poll())
        return [each.rstrip("\n") for each in lines]

    def end(self, number: int) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextmanager
def started(
    member: Member, *words: str, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start a command in a process of its own; nothing is left of it."""
    with subprocess.Popen(
        [*rusd_command(), "ctl", "--endpoints", member.target, *words],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def test_a_watch_prints_events_with_what_was_before(member: Member) -> None:
    """From a revision in the past on, and what happens then."""
    first = json.loads(ctl_of(member, "put", "w1", "a", "-w", "json").output)
    revision = first["header"]["revision"]
    ctl_of(member, "put", "w1", "b")
    with started(member, "watch", "w", "--prefix", "--prev-kv", f"--rev={revision}") as watch:
        assert watch.read(3) == ["PUT", "w1", "a"]
        assert watch.read(5) == ["PUT", "w1", "a", "w1", "b"]
        ctl_of(member, "del", "w1")
        assert watch.read(5) == ["DELETE", "w1", "b", "w1", ""]


def test_a_watch_runs_a_command_for_each_event(member: Member) -> None:
    """It finds the event in its environment; where it fails the watch ends."""
    put = json.loads(ctl_of(member, "put", "x1", 'q"\t', "-w", "json").output)
    revision = put["header"]["revision"]
    script = "env | grep ^ETCD_WATCH_ | sort; exit 3"
    with started(
        member,
        *("watch", f"--rev={revision}", "--", "sh", "-c", script),
        environment={"ETCDCTL_WATCH_KEY": "x1"},
    ) as watch:
        assert watch.read(7) == [
            "PUT",
            "x1",
            'q"\t',
            'ETCD_WATCH_EVENT_TYPE="PUT"',
            'ETCD_WATCH_KEY="x1"',
            f"ETCD_WATCH_REVISION={revision}",
            'ETCD_WATCH_VALUE="q\\"\\t"',
        ]
        assert watch.process.wait(SECONDS) == 1


def test_a_watch_of_what_is_compacted_ends_as_with_etcdctl(member: Member) -> None:
    """With the reason, and etcdctl's code for it."""
    ctl_of(member, "put", "y", "1")
    put = json.loads(ctl_of(member, "put", "y", "2", "-w", "json").output)
    ctl_of(member, "compaction", str(put["header"]["revision"]))
    ended = ctl_of(member, "watch", "y", "--rev=1")
    assert ended.exit_code == 5
    assert ended.stderr == (
        "watch was canceled (etcdserver: mvcc: required revision has been compacted)\n"
        "Error: watch is canceled by the server\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_lock_is_held_until_its_holder_is_told_to_end(member: Member, number: int) -> None:
    """A second one waits, and has it then; nothing is left in the end."""
    with started(member, "lock", "l") as first:
        (key,) = first.read()
        assert key.startswith("l/")
        with started(member, "lock", "l") as second:
            assert ctl_of(member, "get", key, "--keys-only").output.startswith(key)
            assert first.end(number) == 0
            (other,) = second.read()
            assert other != key
            assert second.end(number) == 0
    assert ctl_of(member, "get", "l/", "--prefix").output == ""
    assert ctl_of(member, "lease", "list").output == "found 0 leases\n"


def test_who_is_elected_is_seen_by_who_listens(member: Member) -> None:
    """The proposal of the first, then that of the second when the first is gone."""
    with started(member, "elect", "e", "one") as first, started(member, "elect", "-l", "e") as seen:
        leader = first.read(2)
        assert leader[1] == "one"
        assert seen.read(2) == leader
        with started(member, "elect", "e", "two") as second:
            assert first.end(signal.SIGTERM) == 0
            leader = second.read(2)
            assert leader[1] == "two"
            assert seen.read(2) == leader
            assert second.end(signal.SIGTERM) == 0


def test_an_endpoint_that_nobody_is_at_is_passed_over(member: Member) -> None:
    """Every command goes to one that answers."""
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    endpoints = f"--endpoints={nobody},{member.client_url}"
    put = CliRunner().invoke(ctl, [endpoints, "put", "over", "1"])
    assert put.output == "OK\n"
    health = CliRunner().invoke(ctl, [endpoints, "endpoint", "health", "--command-timeout=1s"])
    assert health.exit_code == 1
    assert f"{nobody} is unhealthy: failed to commit proposal: context" in health.stderr
    assert f"{member.client_url} is healthy" in health.stdout


def test_a_read_and_a_watch_go_on_at_another_endpoint(
    member: Member, start_member: StartMember
) -> None:
    """A watch that loses its member is the other one's, from where it was."""
    lost = start_member(rusd_command())
    put = json.loads(ctl_of(member, "put", "on", "1", "-w", "json").output)
    revision = put["header"]["revision"]
    with started(
        lost, "watch", "on", f"--rev={revision}", f"--endpoints={lost.target},{member.target}"
    ) as watch:
        for each in range(1, revision):  # the last one is the revision that is watched from
            ctl_of(lost, "put", "on", str(each))
        assert watch.read(2) == ["PUT", "on"]
        lost.kill()
        ctl_of(member, "put", "on", "last")
        while watch.read() != ["last"]:
            pass


def test_nobody_at_all_is_an_error_in_time() -> None:
    """After the command's timeout, as etcdctl says it."""
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    ended = CliRunner().invoke(
        ctl, ["get", "a", "--endpoints", nobody, "--command-timeout", "300ms"]
    )
    assert (ended.exit_code, ended.stderr) == (1, "Error: context deadline exceeded\n")


def test_a_read_may_be_of_what_changed_in_some_revisions(member: Member) -> None:
    """The flags that etcdctl has since 3.6, and 3.7's answer in parts."""
    made = json.loads(ctl_of(member, "put", "r1", "a", "-w", "json").output)
    first = made["header"]["revision"]
    ctl_of(member, "put", "r2", "b")
    ctl_of(member, "put", "r1", "c")
    get = ("get", "r", "--prefix", "--keys-only")

    def keys(*flags: str) -> list[str]:
        return ctl_of(member, *get, *flags).output.split()

    assert keys(f"--min-mod-rev={first + 2}") == ["r1"]
    assert keys(f"--max-mod-rev={first + 1}") == ["r2"]
    assert keys(f"--min-create-rev={first + 1}") == ["r2"]
    assert keys(f"--max-create-rev={first}") == ["r1"]
    for form in ("simple", "fields", "json"):
        whole, parts = (
            ctl_of(member, "get", "r", "--prefix", "-w", form, *flags)
            for flags in ((), ("--stream",))
        )
        assert parts.output == whole.output
    assert ctl_of(member, *get, "--stream", "--sort-by=VALUE", "--order=DESCEND").exit_code == 1


def test_messages_have_the_limits_that_are_given(member: Member) -> None:
    """In bytes, of what is sent and of what comes."""
    ctl_of(member, "put", "large", "x" * 1000)
    for words in (
        ("put", "large", "x" * 1000, "--max-request-bytes=100"),
        ("get", "large", "--max-recv-bytes=100"),
    ):
        ended = ctl_of(member, *words)
        assert ended.exit_code == 1
        assert "ResourceExhausted" in ended.stderr


@pytest.mark.parametrize(("consistency", "code"), [("l", 0), ("s", 0), ("x", 4)])
def test_members_are_listed_by_one_or_by_all(member: Member, consistency: str, code: int) -> None:
    """As `get` is answered."""
    assert ctl_of(member, "member", "list", f"--consistency={consistency}").exit_code == code


def test_a_mirror_may_begin_with_a_revision(member: Member, start_member: StartMember) -> None:
    """What was before is not copied; a large revision comes in more than one transaction."""
    other = start_member(rusd_command())
    ctl_of(member, "put", "n/0", "before")
    puts = "".join(f"put n/{each} {each}\n" for each in range(1, 4))
    done = ctl_of(member, "txn", "-w", "json", stdin=f"\n{puts}\n\n")
    revision = json.loads(done.output)["header"]["revision"]
    with (
        started(other, "watch", "n/", "--prefix", "--rev=1") as watch,
        started(
            *(member, "make-mirror", other.target, "--prefix=n/"),
            *(f"--rev={revision}", "--max-txn-ops=2"),
        ),
    ):
        for each in range(1, 4):
            assert watch.read(3) == ["PUT", f"n/{each}", str(each)]
    copied = json.loads(ctl_of(other, "get", "n/", "--prefix", "-w", "json").output)["kvs"]
    assert [each["mod_revision"] for each in copied] == [2, 2, 3]


def test_a_mirror_has_the_keys_and_follows(member: Member, start_member: StartMember) -> None:
    """Below another prefix; what is deleted is deleted there."""
    other = start_member(rusd_command())
    for each in range(5):
        ctl_of(member, "put", f"m/{each}", str(each))
    with (
        started(other, "watch", "copy/", "--prefix", "--rev=1") as watch,
        started(member, "make-mirror", other.target, "--prefix=m/", "--dest-prefix=copy/"),
    ):
        for each in range(5):
            assert watch.read(3) == ["PUT", f"copy/{each}", str(each)]
        ctl_of(member, "put", "m/new", "n")
        assert watch.read(3) == ["PUT", "copy/new", "n"]
        ctl_of(member, "del", "m/0")
        assert watch.read(3) == ["DELETE", "copy/0", ""]


def test_perf_loads_the_cluster_judges_it_and_cleans_up(member: Member) -> None:
    """Some seconds of the small load, which any machine carries."""
    ended = ctl_of(member, "check", "perf", "--seconds=2", "--auto-compact")
    lines = ended.output.splitlines()
    assert any(each.startswith("PASS: Throughput is 1") for each in lines), ended.output
    assert ended.exit_code == (0 if lines[-1] == "PASS" else 1)
    assert ctl_of(member, "get", "/etcdctl-check-perf/", "--prefix").output == ""


def test_perf_touches_no_keys_that_are_there(member: Member) -> None:
    """It would delete them in the end."""
    ctl_of(member, "put", "mine/1", "1")
    ended = ctl_of(member, "check", "perf", "--prefix=mine/")
    assert ended.exit_code == 3
    assert 'prefix "mine/" has keys' in ended.stderr
    assert ctl_of(member, "get", "mine/1").output == "mine/1\n1\n"


def test_data_is_defragmented_when_no_member_has_it(
    start_member: StartMember, tmp_path: Path
) -> None:
    """Nothing is asked; what was killed has all that it had."""
    member = start_member(rusd_command())
    for each in range(20):
        ctl_of(member, "put", f"k{each % 2}", str(each) * 1000)
    defrag = ["defrag", "--data-dir", str(member.data_dir), "--endpoints=127.0.0.1:1"]
    refused = CliRunner().invoke(ctl, defrag)
    assert refused.exit_code == 1
    assert "another process uses the data directory" in refused.stderr
    member.kill()
    done = CliRunner().invoke(ctl, defrag)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Finished defragmenting {member.data_dir}: ")
    member.start()
    assert ctl_of(member, "get", "k1").output == f"k1\n{'19' * 1000}\n"
    assert ctl_of(member, "get", "k1", "--rev=3").output == f"k1\n{'1' * 1000}\n"
    empty = CliRunner().invoke(ctl, ["defrag", "--data-dir", str(tmp_path / "none")])
    assert empty.exit_code == 1
    assert not (tmp_path / "none").exists()


def test_a_snapshot_is_saved_with_the_global_flags(member: Member, tmp_path: Path) -> None:
    """And its status can be seen."""
    path = tmp_path / "backup"
    assert ctl_of(member, "snapshot", "save", str(path)).output == f"Snapshot saved at {path}\n"
    status = CliRunner().invoke(ctl, ["snapshot", "status", str(path), "-w", "json"])
    assert json.loads(status.output)["totalSize"] == path.stat().st_size - DIGEST_BYTES


def test_any_certificate_is_trusted_where_that_is_asked_for(tmp_path: Path) -> None:
    """One that the member made for itself is not, else."""
    (port,) = free_ports(1)
    url = f"https://127.0.0.1:{port}"
    flags = ("--auto-tls", "--listen-client-urls", url, "--advertise-client-urls", url)
    member = Member(rusd_command(), tmp_path / "tls", flags)
    member.launch()
    try:
        words = ["put", "a", "1", "--endpoints", url]
        trusting = [*words, "--insecure-skip-tls-verify", f"--command-timeout={SECONDS:.0f}s"]
        deadline = 60
        while (put := CliRunner().invoke(ctl, trusting)).exit_code and deadline:
            deadline -= 1
        assert put.output == "OK\n"
        assert CliRunner().invoke(ctl, [*words, "--command-timeout=1s"]).exit_code == 1
    finally:
        member.close()
