"""Small backups of several versions of etcd, and what they hold, as that etcd said it.

    python -m tests.compat.backup_versions make FOLDER   # a backup of the etcd there, for the tests
    python -m tests.compat.backup_versions back FOLDER   # has it restore backups of rusd, and serve

FOLDER has etcd and etcdctl, and from 3.5 on etcdutl.
"""

import json
import lzma
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from rusd.pb import auth_pb2 as auth
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Client
from tests.compat.stored import SECONDS, described
from tests.members import Member, rusd_command

DATA: Final = Path(__file__).with_name("data") / "backups"
ROOT: Final = ("root", "secret")
ANN: Final = ("ann", "hers")


def versions() -> list[str]:
    """Those of which there are backups."""
    return sorted(path.name.removesuffix(".db.xz") for path in DATA.glob("*.db.xz"))


def backup_of(version: str, folder: Path) -> Path:
    """The backup of a version, as a file in a folder."""
    path = folder / f"{version}.db"
    path.write_bytes(lzma.decompress((DATA / f"{version}.db.xz").read_bytes()))
    return path


def said_of(version: str) -> dict[str, Any]:
    """What that etcd said it had, with its version."""
    document: dict[str, Any] = json.loads(
        lzma.decompress((DATA / f"{version}.json.xz").read_bytes())
    )
    return document


def call(member: Member, method: str, request: Any, token: str = "") -> Any:
    """The response, which must be one."""
    client = Client(member.channel())
    answer = client.call(method, request, (("token", token),) if token else ())
    client.close()
    assert answer.response is not None, (method, answer)
    return answer.response


def login(member: Member, name: str, password: str) -> str:
    """A token."""
    client = Client(member.channel())
    answer, token = client.login(name, password)
    client.close()
    assert token, answer
    return token


def fill(member: Member) -> None:
    """Give a store some of everything."""

    def put(key: bytes, value: bytes = b"", lease: int = 0) -> None:
        call(member, "Put", rpc.PutRequest(key=key, value=value, lease=lease))

    def delete(key: bytes, end: bytes = b"") -> int:
        request = rpc.DeleteRangeRequest(key=key, range_end=end)
        return int(call(member, "DeleteRange", request).header.revision)

    # The greatest id of all etcd forgets when it starts.
    for lease, ttl in ((0x1234, 9_000_000), (2**63 - 2, 5_000_000), (5, 8_000_000)):
        call(member, "LeaseGrant", rpc.LeaseGrantRequest(ID=lease, TTL=ttl))
    for number in range(5):
        put(b"gone/%d" % number)
        put(b"changed", b"%d" % number)
    put(b"before the compaction", b"leased", 0x1234)
    # Of what is compacted, the tombstone of the very revision is a case of its own.
    compacted = delete(b"gone/", b"gone0")
    for number in range(6):
        put(b"range/%d" % number, b"value", (0, 0x1234, 5)[number % 3])
    call(member, "Compact", rpc.CompactionRequest(revision=compacted, physical=True))
    put(b"changed", b"since")
    delete(b"range/1", b"range/4")
    put(b"range/2", b"again")
    delete(b"range/2")
    put(b"range/2", b"and again", 5)
    call(member, "LeaseRevoke", rpc.LeaseRevokeRequest(ID=5))
    puts = [rpc.PutRequest(key=b"\x00odd\xff", value=b"\x00"), rpc.PutRequest(key=b"k" * 300)]
    ops = [rpc.RequestOp(request_put=each) for each in puts]
    ops.append(rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=b"range/0")))
    call(member, "Txn", rpc.TxnRequest(success=ops))
    put(b"large", b"large" * 2000)
    delete(b"before the compaction")


def add_users(member: Member) -> None:
    """Users and roles, which do not count yet, and an alarm."""
    requests: list[tuple[str, Any]] = [
        ("UserAdd", rpc.AuthUserAddRequest(name=ROOT[0], password=ROOT[1])),
        ("UserAdd", rpc.AuthUserAddRequest(name=ANN[0], password=ANN[1])),
        (
            "UserAdd",
            rpc.AuthUserAddRequest(name="bob", options=auth.UserAddOptions(no_password=True)),
        ),
        ("RoleAdd", rpc.AuthRoleAddRequest(name="root")),
        ("RoleAdd", rpc.AuthRoleAddRequest(name="reader")),
        ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user="root", role="root")),
        ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user="ann", role="reader")),
    ]
    requests += [
        (
            "RoleGrantPermission",
            rpc.AuthRoleGrantPermissionRequest(
                name="reader", perm=auth.Permission(permType=kind, key=key, range_end=end)
            ),
        )
        for kind, key, end in (
            (auth.Permission.READ, b"changed", b""),
            (auth.Permission.READWRITE, b"range/", b"range0"),
        )
    ]
    alarm = rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, memberID=7, alarm=rpc.NOSPACE)
    for method, request in (*requests, ("Alarm", alarm)):
        call(member, method, request)


def check(member: Member, wanted: dict[str, Any]) -> None:
    """Users count, and with that off the member has all of what it should have."""
    client = Client(member.channel())
    key = rpc.RangeRequest(key=b"changed")
    assert "user name is empty" in client.call("Range", key).details
    token = login(member, *ANN)
    assert client.call("Range", key, (("token", token),)).code == "OK"
    refused = client.call("Range", rpc.RangeRequest(key=b"large"), (("token", token),))
    assert refused.code == "PERMISSION_DENIED", refused
    client.close()
    call(member, "AuthDisable", rpc.AuthDisableRequest(), login(member, *ROOT))
    found = described(member)
    for name, what in found.items():
        assert what == wanted[name], (name, what, wanted[name])
    call(member, "AuthEnable", rpc.AuthEnableRequest())


def start(member: Member) -> Member:
    """Start one that may have an alarm, with which /health is never true."""
    member.launch()
    return member.wait_ready(SECONDS, healthy=False)


def run(*command: str | Path) -> str:
    """Run a program to its end; returns what it printed."""
    return subprocess.run(
        [str(part) for part in command],
        check=True,
        timeout=SECONDS,
        stdout=subprocess.PIPE,
        text=True,
        env={"ETCDCTL_API": "3"},
    ).stdout


def restore(program: tuple[str | Path, ...], backup: Path, member: Member) -> None:
    """Make a member's data directory."""
    run(
        *(*program, "snapshot", "restore", backup, "--data-dir", member.data_dir),
        *("--name", member.name, "--initial-cluster", f"{member.name}={member.peer_url}"),
        *("--initial-advertise-peer-urls", member.peer_url),
    )


def make(etcd: Path, folder: Path) -> None:
    """Make a backup of an etcd, and a note of what is in it, for the tests."""
    version = run(etcd / "etcd", "--version").split()[2]
    member = Member((str(etcd / "etcd"), "--bcrypt-cost", "4"), folder / "etcd")
    backup = folder / "backup"
    try:
        member.start()
        fill(member)
        add_users(member)
        document = {"version": version, **described(member)}
        call(member, "AuthEnable", rpc.AuthEnableRequest())
        root = ("--user", ":".join(ROOT))
        run(etcd / "etcdctl", "--endpoints", member.client_url, *root, "snapshot", "save", backup)
    finally:
        member.close()
    DATA.mkdir(parents=True, exist_ok=True)
    for suffix, data in (("db", backup.read_bytes()), ("json", json.dumps(document).encode())):
        packed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
        (DATA / f"{version}.{suffix}.xz").write_bytes(packed)
        print(f"{version}.{suffix}.xz: {len(packed)} bytes")


def back(etcd: Path, folder: Path) -> None:
    """Have an etcd restore and serve the backups that rusd makes of all of the tests'."""
    tool = etcd / "etcdutl" if (etcd / "etcdutl").exists() else etcd / "etcdctl"
    print(run(etcd / "etcd", "--version").splitlines()[0])
    for version in versions():
        ours = Member(rusd_command(), folder / f"rusd-{version}")
        theirs = Member((str(etcd / "etcd"), "--bcrypt-cost", "4"), folder / f"etcd-{version}")
        backup = folder / f"{version}.back"
        try:
            restore((*rusd_command(),), backup_of(version, folder), ours)
            check(start(ours), said_of(version))
            endpoint = ("--endpoints", ours.client_url, "--user", ":".join(ROOT))
            run(etcd / "etcdctl", *endpoint, "snapshot", "save", backup)
            status = run(tool, "snapshot", "status", backup).strip()
            restore((tool,), backup, theirs)
            check(start(theirs), said_of(version))
            theirs.stop()
            check(start(theirs), said_of(version))
            print(f"  of {version}, by rusd: {status}: served")
        finally:
            ours.close()
            theirs.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        {"make": make, "back": back}[sys.argv[1]](Path(sys.argv[2]).resolve(), Path(temporary))
