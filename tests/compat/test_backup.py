"""Backups go both ways: real etcd serves what rusd had, and rusd serves what real etcd had.

What is compared is all that a client can ask of a store: every key at every revision that is not
compacted, every event of a watch, leases with their keys, users, roles and alarms.
"""

import json
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rusd.pb import rpc_pb2 as rpc
from tests.certificates import Certificates
from tests.cluster.calls import ask
from tests.compat.client import Client
from tests.compat.stored import ALL, SECONDS, content
from tests.members import Cluster, Member, rusd_command


def run(*command: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; it must exit with `code`."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass(frozen=True)
class Tools:
    """The programs that handle backups: etcd's and ours."""

    etcd: Path
    """The folder of etcd, etcdctl and etcdutl."""

    def etcdctl(self, member: Member, *arguments: str | Path) -> str:
        return run(self.etcd / "etcdctl", "--endpoints", member.client_url, *arguments).stdout

    def etcdutl(self, *arguments: str | Path) -> str:
        return run(self.etcd / "etcdutl", *arguments).stdout

    def older_than_36(self) -> bool:
        """Whether etcdutl is."""
        return self.etcdutl("version").split()[2] < "3.6"

    def rusd(self, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        return run(*rusd_command(), "snapshot", *arguments, code=code)

    def restore(self, program: str, backup: Path, member: Member, *flags: str) -> None:
        """Make a member's data directory of a backup, with etcdutl or with rusd."""
        arguments: tuple[str | Path, ...] = (
            *("restore", backup, "--data-dir", member.data_dir, "--name", member.name),
            *("--initial-cluster", member.initial_cluster or f"{member.name}={member.peer_url}"),
            *("--initial-advertise-peer-urls", member.peer_url, *flags),
        )
        if program == "etcdutl":
            self.etcdutl("snapshot", *arguments)
        else:
            self.rusd(*arguments)


@pytest.fixture
def tools(etcd_programs: Path) -> Tools:
    """Where the programs are."""
    return Tools(etcd_programs)


Make = Callable[..., Member]


@pytest.fixture
def make(tmp_path: Path, etcd_command: Sequence[str]) -> Iterator[Make]:
    """Makes members that are not started yet: `make("etcd")`, `make("rusd")`."""
    made: list[Member] = []

    def one(program: str) -> Member:
        command = etcd_command if program == "etcd" else rusd_command()
        made.append(Member(command, tmp_path / f"{program}{len(made)}"))
        return made[-1]

    yield one
    for member in made:
        member.close()


def fill(member: Member, seed: int, steps: int = 300, compactions: int = 2) -> None:
    """Give a store history: puts, deletes, transactions, leases, large values, compactions."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    keys = [b"key%02d" % number for number in range(40)] + [b"\x00odd\xff", b"\xff\xff"]
    client = Client(member.channel())
    leases: list[int] = []

    def call(method: str, request: Any) -> Any:
        answer = client.call(method, request)
        assert answer.response is not None, answer
        return answer.response

    def put() -> rpc.PutRequest:
        size = chance.choice((0, 10, 200, 5000, 20000))
        lease = chance.choice((0, 0, *leases[-2:]))
        return rpc.PutRequest(key=chance.choice(keys), value=chance.randbytes(size), lease=lease)

    for step in range(steps):
        match chance.randrange(10):
            case 0:
                call("DeleteRange", rpc.DeleteRangeRequest(key=chance.choice(keys)))
            case 1:
                start = chance.randrange(40)
                end = b"key%02d" % (start + 3)
                call("DeleteRange", rpc.DeleteRangeRequest(key=b"key%02d" % start, range_end=end))
            case 2:
                puts = {request.key: request for request in (put() for _ in range(6))}
                call(
                    "Txn",
                    rpc.TxnRequest(success=[rpc.RequestOp(request_put=p) for p in puts.values()]),
                )
            case 3 if len(leases) < 6:
                lease = chance.randrange(1, 1 << 62)
                call(
                    "LeaseGrant", rpc.LeaseGrantRequest(ID=lease, TTL=chance.randrange(1000, 9000))
                )
                leases.append(lease)
            case _:
                call("Put", put())
        if compactions and step == steps // 2:
            call("LeaseRevoke", rpc.LeaseRevokeRequest(ID=leases.pop()))
            revision = call("Put", put()).header.revision
            call("Compact", rpc.CompactionRequest(revision=revision - 20, physical=True))
            if compactions > 1:
                # At a delete: the tombstone of the compacted revision itself stays.
                call("Put", rpc.PutRequest(key=b"gone", value=b"1"))
                deleted = call("DeleteRange", rpc.DeleteRangeRequest(key=b"gone")).header.revision
                call("Compact", rpc.CompactionRequest(revision=deleted, physical=True))
    client.close()


def hash_kv(member: Member, revision: int = 0) -> tuple[int, int]:
    """The hash of a store's history, and its compacted revision."""
    answer = ask(member, rpc.HashKVRequest(revision=revision), rpc.HashKVResponse)
    return answer.hash, answer.compact_revision


def start_alarmed(member: Member) -> None:
    """Start a member that has an alarm, so that its /health never says true."""
    member.launch()
    member.wait_ready(SECONDS, healthy=False)


def same_status(tools: Tools, backup: Path) -> dict[str, Any]:
    """What both tools say of a backup, which must be the same."""
    theirs = json.loads(tools.etcdutl("snapshot", "status", backup, "-w", "json"))
    ours: dict[str, Any] = json.loads(tools.rusd("status", backup, "-w", "json").stdout)
    printed = (tools.etcdutl("snapshot", "status", backup), tools.rusd("status", backup).stdout)
    words = [text.strip(", \n").split(", ") for text in printed]
    if tools.older_than_36():
        # There it is every item of every bucket.
        del theirs["totalKey"], words[0][2], words[1][2]
    assert {name: ours[name] for name in theirs} == theirs
    assert words[1] == words[0]
    return ours


def test_real_etcd_serves_what_rusd_had(tmp_path: Path, tools: Tools, make: Make) -> None:
    """From rusd, by etcdctl save and etcdutl restore, to etcd: all its history."""
    ours = make("rusd").start()
    fill(ours, seed=random.SystemRandom().randrange(1 << 32))
    wanted = content(ours)
    backup = tmp_path / "backup"
    tools.etcdctl(ours, "snapshot", "save", backup)
    ours.stop()
    status = same_status(tools, backup)
    assert (status["revision"], status["totalKey"]) == (wanted.revision, len(wanted.ranges[-1]))
    etcd = make("etcd")
    tools.restore("etcdutl", backup, etcd)
    etcd.start()
    assert content(etcd) == wanted
    tools.etcdctl(etcd, "put", "written", "later")
    assert content(etcd).revision == wanted.revision + 1
    tools.etcdctl(etcd, "defrag")
    etcd.stop()
    tools.etcdutl("defrag", "--data-dir", etcd.data_dir)
    etcd.start()
    assert content(etcd).revision == wanted.revision + 1


def test_rusd_serves_what_real_etcd_had_and_gives_it_back(
    tmp_path: Path, tools: Tools, make: Make
) -> None:
    """From etcd to rusd and back: rusd answers as etcd did, and in the end HashKV is the same."""
    etcd = make("etcd").start()
    fill(etcd, seed=random.SystemRandom().randrange(1 << 32))
    ask(
        etcd,
        rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, alarm=rpc.NOSPACE),
        rpc.AlarmResponse,
    )
    wanted, hashed = content(etcd), hash_kv(etcd)
    first, second = tmp_path / "first", tmp_path / "second"
    tools.etcdctl(etcd, "snapshot", "save", first)
    etcd.stop()
    same_status(tools, first)
    ours = make("rusd")
    tools.restore("rusd", first, ours)
    start_alarmed(ours)
    assert content(ours) == wanted
    assert wanted.alarms == [rpc.NOSPACE]
    tools.rusd("save", second, "--endpoints", ours.client_url)
    ours.stop()
    tools.rusd("verify", second)
    start_alarmed(ours)
    assert content(ours) == wanted
    again = make("etcd")
    tools.restore("etcdutl", second, again)
    start_alarmed(again)
    assert content(again) == wanted
    assert hash_kv(again) == hashed


def test_users_and_roles_survive_both_ways(tmp_path: Path, tools: Tools, make: Make) -> None:
    """Who may do what, and with which password, is the same after each step."""
    etcd = make("etcd")
    etcd.flags = ("--bcrypt-cost", "4")  # of all hashes, which the backups keep
    etcd.start()
    root = ("--user", "root:secret")
    for command in (
        "put allowed 1",
        "put forbidden 1",
        "user add root:secret",
        "user add ann:hers",
        "user add bob --no-password",
        "role add root",
        "role add reader",
        "role grant-permission reader read allowed",
        "role grant-permission reader readwrite box/ --prefix",
        "user grant-role root root",
        "user grant-role ann reader",
        "auth enable",
    ):
        tools.etcdctl(etcd, *command.split())
    shown = [("user", "get", "ann"), ("user", "get", "bob"), ("role", "get", "reader")]

    def check(member: Member) -> list[str]:
        ann = ("--user", "ann:hers")
        assert tools.etcdctl(member, *ann, "get", "allowed").split() == ["allowed", "1"]
        tools.etcdctl(member, *ann, "put", "box/1", "2")
        refused = run(
            tools.etcd / "etcdctl",
            "--endpoints",
            member.client_url,
            *ann,
            "get",
            "forbidden",
            code=1,
        )
        assert "permission denied" in refused.stderr
        return [tools.etcdctl(member, *root, *command) for command in shown]

    wanted = check(etcd)
    first, second = tmp_path / "first", tmp_path / "second"
    tools.etcdctl(etcd, *root, "snapshot", "save", first)
    etcd.stop()
    ours = make("rusd")
    tools.restore("rusd", first, ours)
    ours.start()
    assert check(ours) == wanted
    refused = tools.rusd("save", second, "--endpoints", ours.target, code=1)
    assert "user name is empty" in refused.stderr
    assert not list(tmp_path.glob("second*"))
    tools.rusd("save", second, "--endpoints", ours.target, *root)
    ours.stop()
    again = make("etcd")
    tools.restore("etcdutl", second, again)
    again.start()
    assert check(again) == wanted


def test_a_backup_under_load_is_of_one_revision(tmp_path: Path, tools: Tools, make: Make) -> None:
    """While clients write, a backup has exactly what was there at its revision."""
    ours = make("rusd").start()
    fill(ours, seed=1, steps=60)
    stop = threading.Event()

    def write(number: int) -> None:
        client = Client(ours.channel())
        count = 0
        while not stop.is_set():
            count += 1
            ops = [
                rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=b"%d" % count))
                for key in (b"one%d" % number, b"two%d" % number, b"load%d/%d" % (number, count))
            ]
            assert client.call("Txn", rpc.TxnRequest(success=ops)).code == "OK"
        client.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    backup = tmp_path / "backup"
    tools.rusd("save", backup, "--endpoints", ours.target)
    stop.set()
    for writer in writers:
        writer.join()
    revision = same_status(tools, backup)["revision"]
    assert revision < everything(ours).header.revision
    restored = make("rusd")
    tools.restore("rusd", backup, restored)
    restored.start()
    assert everything(restored, revision) == everything(ours, revision)
    assert everything(restored).header.revision == revision


def everything(member: Member, revision: int = 0) -> rpc.RangeResponse:
    """All keys, without what is the member's own; at a revision, without the newest one's too."""
    request = rpc.RangeRequest(key=ALL, range_end=ALL, revision=revision)
    answer = ask(member, request, rpc.RangeResponse, SECONDS)
    newest = answer.header.revision
    answer.ClearField("header")
    if not revision:
        answer.header.revision = newest
    return answer


def test_a_bumped_revision_tells_old_watchers_that_they_are_late(
    tmp_path: Path, tools: Tools, make: Make
) -> None:
    """--bump-revision and --mark-compacted: as etcdutl has it, but for the record it leaves."""
    source = make("rusd").start()
    fill(source, seed=2, steps=100, compactions=1)
    before = content(source)
    backup = tmp_path / "backup"
    tools.etcdctl(source, "snapshot", "save", backup)
    source.stop()
    refused = tools.rusd(
        "restore", backup, "--data-dir", tmp_path / "no", "--bump-revision", "1", code=2
    )
    assert "--mark-compacted" in refused.stderr
    flags = ("--bump-revision", "1000000", "--mark-compacted")
    etcd, ours = make("etcd"), make("rusd")
    tools.restore("etcdutl", backup, etcd, *flags)
    tools.restore("rusd", backup, ours, *flags)
    for member in (etcd.start(), ours.start()):
        client = Client(member.channel())
        now = everything(member)
        assert now.header.revision == before.revision + 1_000_000
        assert [each.SerializeToString() for each in now.kvs if each.key] == before.ranges[-1]
        past = client.call("Range", rpc.RangeRequest(key=b"key01", revision=before.revision))
        assert "has been compacted" in past.details
        stream = client.watch_stream()
        late = rpc.WatchCreateRequest(key=b"key01", start_revision=before.revision)
        stream.send(rpc.WatchRequest(create_request=late))
        _, cancelled = stream.await_controls(0, 2)
        assert cancelled.canceled
        assert cancelled.compact_revision == now.header.revision
        stream.close()
        client.close()
    # What etcd has made of it comes back, with the record that etcdutl left.
    second = tmp_path / "second"
    tools.etcdctl(etcd, "snapshot", "save", second)
    tools.rusd("verify", second)
    etcd.stop()
    third = make("rusd")
    tools.restore("rusd", second, third)
    assert everything(third.start()) == everything(ours)


def test_members_restored_from_one_backup_agree(tmp_path: Path, tools: Tools, make: Make) -> None:
    """Three members, each with a data directory of its own, are one cluster with one content."""
    etcd = make("etcd").start()
    fill(etcd, seed=3, steps=100)
    wanted = content(etcd)
    backup = tmp_path / "backup"
    tools.etcdctl(etcd, "snapshot", "save", backup)
    etcd.stop()
    cluster = Cluster(rusd_command(), tmp_path / "three", flags=("--strict-reconfig-check=false",))
    try:
        for member in cluster.members:
            tools.restore("rusd", backup, member)
        cluster.start()
        assert [content(member) for member in cluster.members] == [wanted] * 3
        assert len({hash_kv(member, wanted.revision) for member in cluster.members}) == 1
        put = rpc.PutRequest(key=b"written", value=b"later")
        revision = ask(cluster.members[2], put, rpc.PutResponse, SECONDS).header.revision
        assert [everything(member).header.revision for member in cluster.members] == [revision] * 3
        added = Member(rusd_command(), tmp_path / "fourth", name="m4")
        cluster.members.append(added)
        tools.etcdctl(cluster.members[0], "member", "add", "m4", f"--peer-urls={added.peer_url}")
        cluster.name_members()
        added.initial_cluster_state = "existing"
        added.start()
        assert everything(added) == everything(cluster.members[0])
    finally:
        for member in cluster.members:
            member.close()


def test_a_copy_of_a_data_directory_is_taken_without_its_checksum(
    tmp_path: Path, tools: Tools, make: Make
) -> None:
    """The db file of a stopped etcd has none: it needs --skip-hash-check, as for etcdutl."""
    etcd = make("etcd").start()
    fill(etcd, seed=4, steps=100)
    wanted = content(etcd)
    etcd.stop()
    copy = Path(shutil.copy(etcd.data_dir / "member" / "snap" / "db", tmp_path / "db"))
    same_status(tools, copy)
    ours = make("rusd")
    refused = tools.rusd("restore", copy, "--data-dir", ours.data_dir, code=1)
    assert "no checksum at its end" in refused.stderr
    assert not ours.data_dir.exists()
    tools.rusd("verify", copy, "--skip-hash-check")
    tools.restore("rusd", copy, ours, "--skip-hash-check")
    assert content(ours.start()) == wanted
    again = tools.rusd("restore", copy, "--skip-hash-check", "--data-dir", ours.data_dir, code=1)
    assert "not empty" in again.stderr


def test_a_damaged_backup_is_refused_and_leaves_nothing(
    tmp_path: Path, tools: Tools, make: Make
) -> None:
    """A flipped byte is found by the checksum; without that, by what the pages promise."""
    ours = make("rusd").start()
    fill(ours, seed=5, steps=50)
    backup = tmp_path / "backup"
    tools.rusd("save", backup, "--endpoints", ours.client_url)
    whole = backup.read_bytes()
    assert len(whole) % 512 == 32
    restore: tuple[str | Path, ...] = ("restore", backup, "--data-dir", tmp_path / "data")
    for offset in (4096 * 4 + 8, len(whole) - 1):
        backup.write_bytes(whole[:offset] + bytes((whole[offset] ^ 4,)) + whole[offset + 1 :])
        refused = tools.rusd(*restore, code=1)
        assert "SHA-256" in refused.stderr
    backup.write_bytes(whole[: len(whole) // 4096 * 4096 - 4096])
    for command in (("verify", backup), restore):
        refused = tools.rusd(*command, "--skip-hash-check", code=1)
        assert "page " in refused.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("data")] == []


def test_a_member_that_is_not_there_gives_no_backup(tmp_path: Path, tools: Tools) -> None:
    """The error says so, and no file is left."""
    refused = tools.rusd("save", tmp_path / "backup", "--endpoints", "127.0.0.1:1", code=1)
    assert "no backup of 127.0.0.1:1" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_backup_is_saved_over_tls(tmp_path: Path, tools: Tools) -> None:
    """With etcdctl's flags; without a certificate there is no backup."""
    certificates = Certificates.made(tmp_path / "certificates")
    member = Member(rusd_command(), tmp_path / "member", certificates=certificates)
    backup = tmp_path / "backup"
    try:
        member.start()
        ca = ("--cacert", certificates["ca.crt"])
        pair = ("--cert", certificates["client.crt"], "--key", certificates["client.key"])
        save = ("save", backup, "--endpoints", member.target)
        refused = tools.rusd(*save, *ca, "--command-timeout", "5s", code=1)
        assert "no backup of" in refused.stderr
        tools.rusd(*save, *ca, *pair)
        tools.rusd("verify", backup)
    finally:
        member.close()
