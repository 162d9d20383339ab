"""etcdctl changes a cluster's members, and gets from it what it gets from real etcd.

The same operations run against both, through any of their members; what etcdctl prints, how it
exits and who the members are then is compared, with ids and addresses replaced by names.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.members import Cluster, Member, wait_for

SECONDS = 60.0
_UNHEALTHY = "etcdserver: unhealthy cluster"
_INITIAL_CLUSTER = re.compile(r'(?<=INITIAL_CLUSTER=")[^"]*')
_TOO_EARLY = (_UNHEALTHY, "in sync with leader")


class Operator:
    """Runs etcdctl against one cluster, and writes down what comes of it."""

    def __init__(self, etcdctl: Path, cluster: Cluster) -> None:
        self.cluster = cluster
        self.transcript: list[tuple[str, int, str]] = []
        """What was asked, how etcdctl exited, and what it printed."""
        self._etcdctl = etcdctl
        self._ids: dict[str, str] = {}
        """Every member's id, which may have changed, by its name."""

    def id(self, name: str) -> str:
        return self._ids[name]

    def note(self, asked: str, outcome: int, text: str) -> None:
        self.transcript.append((asked, outcome, self._named(text)))

    def members(self, through: Member) -> None:
        """Lists the members, and learns their ids."""
        listing = json.loads(self._run(through, ("member", "list", "-w", "json")).stdout)
        by_url = {member.peer_url: member.name for member in self.cluster.members}
        for member in listing["members"]:
            self._ids[by_url[member["peerURLs"][0]]] = f"{member['ID']:x}"
        listing["members"].sort(key=lambda member: str(member["peerURLs"]))
        named = [
            (
                by_url[member["peerURLs"][0]],
                member.get("name"),
                len(member["peerURLs"]),
                member.get("clientURLs"),
                member.get("isLearner", False),
            )
            for member in listing["members"]
        ]
        self.note(f"{through.name}: member list", 0, str(sorted(map(str, named))))
        assert "revision" not in listing["header"]

    def do(self, through: Member, *arguments: str) -> None:
        """Runs a command once."""
        done = self._run(through, arguments)
        self.note(f"{through.name}: {self._named(' '.join(arguments))}", *_outcome(done))

    def do_in_time(self, through: Member, *arguments: str, shown: str = "") -> None:
        """Runs a command until it is not too early for it. `shown` is who is asked, where that
        differs from run to run.
        """
        done: list[subprocess.CompletedProcess[str]] = []

        def tried() -> bool:
            done[:] = [self._run(through, arguments)]
            return not any(text in done[0].stderr for text in _TOO_EARLY)

        wait_for(tried, SECONDS, " ".join(arguments))
        shown = shown or through.name
        self.note(f"{shown}: {self._named(' '.join(arguments))}", *_outcome(done[0]))

    def _run(self, through: Member, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._etcdctl, "--endpoints", through.client_url, *arguments],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def _named(self, text: str) -> str:
        for name, id_ in self._ids.items():
            text = re.sub(rf" *\b{id_}\b", f" <{name}>", text)
        for member in self.cluster.members:
            text = text.replace(member.peer_url, f"<{member.name}'s peer URL>")
            text = text.replace(member.client_url, f"<{member.name}'s client URL>")
            text = text.replace(f"localhost:{member.peer_port}", f"<{member.name}'s peer host>")
        # etcdctl pads a short id with spaces.
        text = re.sub(r" *\b(?=[0-9a-f]*\d)[0-9a-f]{13,16}\b", " <id>", text)
        # etcdctl lists the members in the order of their ids, which differs.
        return _INITIAL_CLUSTER.sub(lambda found: ",".join(sorted(found[0].split(","))), text)


def _outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Exit status and text, without the client's own log lines about its retries."""
    errors = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return done.returncode, "\n".join([done.stdout.strip(), *errors])


def fatal(member: Member) -> tuple[int, str]:
    """How a member ends that does not start, and what it says, without the list of members."""
    status = member.wait_exit(SECONDS)
    (error,) = [
        json.loads(line)["error"] for line in member.log.splitlines() if '"level":"fatal"' in line
    ]
    return status, error.rpartition("]}: ")[2].rpartition("[]}: ")[2]


def operate(operator: Operator, command: Sequence[str], folder: Path) -> None:
    """All of it, on a cluster of three that has just started."""
    cluster = operator.cluster
    m1, m2, m3 = cluster.members
    m4 = Member(command, folder / "m4", name="m4", initial_cluster_state="existing")
    cluster.members.append(m4)
    operator.members(m1)
    refusals(operator)

    # A learner comes and is promoted.
    operator.do_in_time(m2, "member", "add", "m4", "--learner", "--peer-urls", m4.peer_url)
    operator.members(m3)
    operator.do(m3, "member", "add", "m5", "--learner", "--peer-urls", "http://127.0.0.1:1")
    for member in (m1, m2, m3):
        operator.do(member, "member", "promote", operator.id("m4"))
    m4.initial_cluster = ",".join(f"{each.name}={each.peer_url}" for each in (m1, m2, m4))
    m4.launch()
    operator.note("m4 forgets m3", *fatal(m4))
    cluster.name_members()
    m4.launch()
    wait_for(lambda: "learner" in status(operator, m4), SECONDS, "m4 to serve as a learner")
    operator.do(m4, "put", "key", "value")
    operator.do(m4, "member", "add", "m5", "--peer-urls", "http://127.0.0.1:1")
    asked = follower(operator, (m1, m2, m3))
    operator.do_in_time(asked, "member", "promote", operator.id("m4"), shown="a follower")
    m4.wait_ready()
    operator.do(m4, "member", "promote", operator.id("m4"))
    operator.do(m4, "put", "key", "value")
    for member in cluster.members:
        operator.members(member)

    # Its URLs change, and it goes.
    both = f"{m4.peer_url},http://localhost:{m4.peer_port}"
    operator.do(m1, "member", "update", operator.id("m4"), "--peer-urls", both)
    operator.members(m2)
    operator.do(m1, "member", "update", operator.id("m4"), "--peer-urls", m4.peer_url)
    # Asked itself, it may be gone before etcd's answer is sent.
    operator.do_in_time(m1, "member", "remove", operator.id("m4"))
    operator.note("m4 stops", m4.wait_exit(SECONDS), "")
    assert "the member has been permanently removed from the cluster" in m4.log
    operator.do(m3, "member", "remove", operator.id("m4"))
    operator.members(m1)

    # One loses its data: it does not come back as who it was.
    m3.kill()
    cluster.leader()
    shutil.rmtree(m3.data_dir)
    m3.launch()
    operator.note("m3 is wiped", *fatal(m3))
    operator.do_in_time(m1, "member", "remove", operator.id("m3"))
    before = operator.id("m3")
    operator.do_in_time(m2, "member", "add", "m3", "--peer-urls", m3.peer_url)
    cluster.members.remove(m4)
    cluster.name_members()
    shutil.rmtree(m3.data_dir, ignore_errors=True)
    m3.initial_cluster_state = "existing"
    m3.start()
    operator.members(m3)
    assert operator.id("m3") != before
    operator.do(m3, "get", "key")

    # The leadership moves.
    leader, other = cluster.leader(), follower(operator, cluster.members)
    done = operator._run(leader, ("move-leader", operator.id(other.name)))
    assert done.returncode == 0, done.stderr
    wait_for(lambda: cluster.leader() is other, SECONDS, f"{other.name} to lead")


def refusals(operator: Operator) -> None:
    """What no cluster allows, whatever its health."""
    for member in operator.cluster.members[:3]:
        operator.do(member, "member", "promote", operator.id("m1"))
        operator.do(member, "member", "promote", "1234")
        operator.do(member, "member", "remove", "1234")
        operator.do(member, "member", "update", "1234", "--peer-urls", "http://127.0.0.1:1")
        operator.do(
            member,
            *("member", "update", operator.id("m1")),
            *("--peer-urls", operator.cluster.members[1].peer_url),
        )
        operator.do(member, "member", "add", "x", "--peer-urls", "127.0.0.1:1")
        operator.do_in_time(
            member, "member", "add", "x", "--peer-urls", operator.cluster.members[2].peer_url
        )
        operator.members(member)


def status(operator: Operator, member: Member) -> str:
    """What the member says it is."""
    done = operator._run(member, ("endpoint", "status", "-w", "json"))
    if done.returncode:
        return "nothing"
    return "learner" if json.loads(done.stdout)[0]["Status"].get("isLearner") else "voter"


def follower(operator: Operator, members: Sequence[Member]) -> Member:
    leader = operator.cluster.leader()
    return next(member for member in members if member is not leader)


@pytest.mark.timeout(600)
def test_members_change_as_in_etcd(
    subject_command: tuple[str, ...],
    etcd_command: tuple[str, ...],
    etcd_programs: Path,
    tmp_path: Path,
) -> None:
    def transcript(command: Sequence[str], folder: Path) -> list[tuple[str, int, str]]:
        cluster = Cluster(command, folder)
        operator = Operator(etcd_programs / "etcdctl", cluster)
        everyone = list(cluster.members)
        try:
            cluster.start()
            operate(operator, command, folder)
        finally:
            cluster.close()
            for member in everyone:
                member.close()
        return operator.transcript

    with ThreadPoolExecutor(2) as threads:  # both wait most of the time
        folders = tmp_path / "subject", tmp_path / "etcd"
        transcripts = threads.map(transcript, (subject_command, etcd_command), folders)
    for ours, theirs in zip(*transcripts, strict=True):
        assert ours == theirs
