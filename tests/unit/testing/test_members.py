"""`rusd.testing`: members that other programs' tests start, break and leave to it to clear away."""

import base64
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusd import testing
from rusd.testing import CallFailedError, Gateway, Member, NotReadyError, fork_server
from tests.members import wait_for

SECONDS = 60.0


def text(value: str) -> str:
    """As JSON has bytes."""
    return base64.b64encode(value.encode()).decode()


def put(member: Member, key: str, **more: object) -> None:
    with member.gateway() as gateway:
        gateway.call("kv/put", key=text(key), value=text("1"), **more)


def keys(member: Member) -> list[str]:
    with member.gateway() as gateway:
        found = gateway.call("kv/range", key="AA==", range_end="AA==", keys_only=True)
        return [base64.b64decode(each["key"]).decode() for each in found.get("kvs", ())]


def is_gone(pid: int) -> bool:
    """Whether no process has that id, or only its parent has yet to hear of its end."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def test_a_server_serves_inside_the_block_and_is_gone_after_it() -> None:
    with testing.server() as member:
        put(member, "a")
        assert keys(member) == ["a"]
        assert member.endpoints == [f"{member.host}:{member.port}"]
        assert member.client_urls == [f"http://{member.host}:{member.port}"]
        assert member.data_dir.is_dir()
        assert "ready to serve client requests" in member.log
        pid = member.pid
    assert is_gone(pid)
    assert not member.folder.exists()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((member.host, member.port), SECONDS)


def test_a_member_takes_less_than_a_third_of_a_second_of_the_processor_to_be_ready() -> None:
    """Of the processor, since how much of it there is is not up to the member."""
    with testing.server() as member:
        fields = Path(f"/proc/{member.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        assert ticks / os.sysconf("SC_CLK_TCK") < 0.3


def test_what_was_acknowledged_survives_a_kill_also_without_fsync() -> None:
    with testing.server() as member:
        for number in range(20):
            put(member, f"k{number:02}")
        port = member.port
        member.kill()
        assert not member.is_running
        member.start()
        assert len(keys(member)) == 20
        member.restart()
        assert (member.port, len(keys(member))) == (port, 20)


def test_the_port_of_a_member_that_is_down_is_nobody_elses() -> None:
    with testing.server() as member:
        member.stop()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((member.host, member.port))
        member.start()


def test_flags_are_etcds() -> None:
    with testing.server("--max-txn-ops=1") as member, member.gateway() as gateway:
        read = {"requestRange": {"key": text("a")}}
        gateway.call("kv/txn", success=[read])
        with pytest.raises(CallFailedError, match="too many operations"):
            gateway.call("kv/txn", success=[read, read])


def test_it_waits_for_the_disk_only_where_it_is_asked_to() -> None:
    with testing.server() as member:
        assert "--unsafe-no-fsync" in member.arguments()
    with testing.server(fsync=True) as member:
        assert "--unsafe-no-fsync" not in member.arguments()


def test_a_member_that_cannot_start_says_why() -> None:
    with pytest.raises(NotReadyError, match="flag provided but not defined: --no-such"):
        testing.server("--no-such").__enter__()


def test_a_member_that_is_too_slow_is_ended(tmp_path: Path) -> None:
    member = Member(tmp_path)
    try:
        member.launch()
        pid = member.pid
        member.pause()
        with pytest.raises(NotReadyError, match="did not serve within"):
            member.wait_ready(0.01)
        assert is_gone(pid)
        assert not member.is_running
    finally:
        member.close()


def test_a_member_that_ended_by_itself_is_not_taken_for_a_stopped_one() -> None:
    with testing.server() as member:
        os.kill(member.pid, signal.SIGKILL)
        assert member.wait_exit(SECONDS) == -signal.SIGKILL
        member.start()
        os.kill(member.pid, signal.SIGKILL)
        wait_for(lambda: not member.is_running, SECONDS, "the end")
        with pytest.raises(RuntimeError, match="ended by itself, with status -9"):
            member.stop()


def test_a_paused_member_answers_nothing_until_it_is_resumed() -> None:
    with testing.server() as member:
        member.pause()
        with pytest.raises(TimeoutError), Gateway(member.host, member.port, 0.2) as gateway:
            gateway.call("maintenance/status")
        member.resume()
        assert keys(member) == []


@pytest.fixture(scope="module")
def used() -> Iterator[Member]:
    """One member for the tests of `reset`."""
    with testing.server() as member:
        yield member


def test_a_reset_leaves_no_keys_and_no_leases(used: Member) -> None:
    pid = used.pid
    with used.gateway() as gateway:
        gateway.call("lease/grant", ID="77", TTL="600")
        put(used, "leased", lease="77")
        put(used, "\0")
        used.reset()
        assert keys(used) == []
        assert not gateway.call("lease/leases").get("leases")
    assert used.pid == pid


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("auth/user/add", {"name": "alice", "password": "p"}),
        ("auth/role/add", {"name": "reader"}),
        ("maintenance/alarm", {"action": "ACTIVATE", "memberID": "1", "alarm": "NOSPACE"}),
    ],
)
def test_a_reset_of_one_with_more_than_keys_begins_anew(
    used: Member, path: str, request_: dict[str, str]
) -> None:
    pid = used.pid
    with used.gateway() as gateway:
        gateway.call(path, **request_)
    used.reset()
    assert used.pid != pid
    put(used, "a")
    with used.gateway() as gateway:
        assert not gateway.call("auth/user/list").get("users")
        assert not gateway.call("auth/role/list").get("roles")
        assert not gateway.call("maintenance/alarm").get("alarms")


def test_a_reset_of_one_with_auth_begins_anew(used: Member) -> None:
    with used.gateway() as gateway:
        gateway.call("auth/user/add", name="root", password="p")
        gateway.call("auth/role/add", name="root")
        gateway.call("auth/user/grant", user="root", role="root")
        gateway.call("auth/enable")
    used.reset()
    put(used, "a")
    with used.gateway() as gateway:
        assert not gateway.call("auth/user/list").get("users")


def test_a_reset_of_one_that_was_killed_begins_anew(used: Member) -> None:
    put(used, "a")
    used.kill()
    used.reset()
    assert keys(used) == []


def test_a_cluster_outlives_its_leader() -> None:
    with testing.cluster() as cluster:
        assert len(set(cluster.endpoints)) == len(set(cluster.client_urls)) == 3
        first = cluster.leader()
        put(first, "a")
        first.kill()
        second = cluster.leader()
        assert second is not first
        put(second, "b")
        first.start()
        assert [keys(member) for member in cluster.members] == [["a", "b"]] * 3
        pids = [member.pid for member in cluster.members]
    assert all(map(is_gone, pids))


@pytest.mark.parametrize("how", ["tests", "fork server"])
def test_no_member_outlives_the_tests_however_these_end(how: str) -> None:
    program = (
        "import os, sys, time\n"
        "from rusd import testing\n"
        "with testing.server() as member:\n"
        "    parent = open(f'/proc/{member.pid}/stat').read().rpartition(')')[2].split()[1]\n"
        "    child = os.fork()\n"  # it keeps open what it inherited
        "    if child:\n"
        "        print(member.pid, parent, child, member.folder.parent, flush=True)\n"
        "    time.sleep(600)\n"
    )
    tests = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert tests.stdout is not None
        *pids, folder = tests.stdout.readline().split()
        member, server, child = map(int, pids)
        try:
            if how == "tests":
                tests.kill()
                wait_for(lambda: not Path(folder).exists(), SECONDS, "the folder's end")
                wait_for(lambda: is_gone(server), SECONDS, "the fork server's end")
            else:
                os.kill(server, signal.SIGKILL)
            wait_for(lambda: is_gone(member), SECONDS, "the member's end")
        finally:
            os.kill(child, signal.SIGKILL)
    finally:
        tests.kill()
        tests.communicate()


def test_a_forked_process_has_a_fork_server_of_its_own() -> None:
    mine = fork_server()
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, b"yes" if fork_server() is not mine else b"no")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        assert answer.read() == b"yes"
    os.waitpid(pid, 0)
