"""Programs written with well-used client libraries run unchanged, against real etcd and against us.

That they run against real etcd shows that a failure is not the program's.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Client
from tests.members import Member

HERE = Path(__file__).parent
SECONDS = 60.0


@pytest.fixture(params=["reference", "subject"])
def server(request: pytest.FixtureRequest) -> Member:
    """Real etcd, then the server under test, without keys."""
    member: Member = request.getfixturevalue(request.param)
    everything = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
    client = Client(member.channel())
    answer = client.call("DeleteRange", everything)
    client.close()
    assert answer.code == "OK", answer
    return member


def run(command: Sequence[str], folder: Path) -> None:
    """Run a program to its end; it must end with status 0."""
    ended = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


PROGRAMS = (
    "asyncio_aetcd",
    "sync_etcd_sdk",
    "rust_etcd_client",
    "gateway_etcd3gw",
    "gateway_patroni",
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_python_client_works(program: str, server: Member, tmp_path: Path) -> None:
    """Keys, transactions, watches and leases with a library from PyPI."""
    script = HERE / "clients" / f"{program}.py"
    run([sys.executable, str(script), str(server.client_port)], tmp_path)


@pytest.fixture(scope="session")
def npm_folder() -> Path:
    """A folder outside the tree with the locked npm packages installed."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        reason = "node and npm are not there"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "rusd-tests" / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    installed = folder / "installed-lock.json"
    lock = (HERE / "npm" / "package-lock.json").read_bytes()
    if not installed.exists() or installed.read_bytes() != lock:
        installed.unlink(missing_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "npm" / name, folder / name)
        run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        installed.write_bytes(lock)
    return folder


def test_npm_client_works(server: Member, npm_folder: Path) -> None:
    """Keys, transactions, watches, leases and a lock with npm's etcd3."""
    run(["node", str(HERE / "npm" / "etcd3.mjs"), str(server.client_port)], npm_folder)
