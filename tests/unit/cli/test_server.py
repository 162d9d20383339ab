"""The command: help, versions, and starts that are refused as etcd refuses them."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import rusd
from rusd.config import FLAGS
from tests.members import Member, rusd_command


def run(
    command: Sequence[str], args: Sequence[str], folder: Path, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run to the end in `folder`; ETCD_* of whoever runs the tests is left out."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("ETCD_")}
    return subprocess.run(
        [*command, *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=clean | environ,
        timeout=60,
    )


def test_version_has_the_line_that_tools_look_for(tmp_path: Path) -> None:
    done = run(rusd_command(), ["--version"], tmp_path)
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"rusd {rusd.__version__}", f"etcd Version: {rusd.ETCD_VERSION}"]
    assert lines[2].startswith("Python Version: 3.")
    assert lines[3].startswith("rocksdict Version: ")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("flag", ["--help", "-h", "-help"])
def test_help_has_every_flag_in_etcds_groups(flag: str, tmp_path: Path) -> None:
    done = run(rusd_command(), [flag], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for name in FLAGS:
        assert f"  --{name} " in done.stdout
    for group in ("Member:", "Clustering:", "Security:", "Logging:", "Unsafe:"):
        assert f"\n{group}\n" in done.stdout
    assert "(http://localhost:2379)" in done.stdout


def test_help_and_version_load_no_server() -> None:
    program = (
        "import sys; from rusd.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'rocksdict', 'yaml', 'google', 'hpack'} & set(sys.modules)))"
    )
    command = [str(Path(rusd_command()[0]).with_name("python")), "-c", program]
    done = run(command, ["--version"], Path.cwd())
    assert done.stdout.splitlines()[-1] == "[]"


NOT_AT_START = {
    "cryptography",
    "email",
    "grpc",
    "http.client",
    "importlib.metadata",
    "jwt",
    "opentelemetry",
    "prometheus_client",
    "rusd.auth.jwt_tokens",
    "rusd.backup.export",
    "rusd.bbolt",
    "rusd.cli.ctl",
    "rusd.cli.healthcheck",
    "rusd.cli.snapshot",
    "rusd.gateway.gateway",
    "rusd.profiling",
    "rusd.testing",
    "rusd.tls.settings",
    "rusd.tracing",
    "yaml",
}


def test_a_plain_start_loads_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """Of a third of a second, most is imports."""
    member = Member(rusd_command(), tmp_path, environment={"PYTHONPROFILEIMPORTTIME": "1"})
    try:
        member.start()
        lines = member.log.splitlines()
    finally:
        member.close()
    loaded = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert {"rusd.cli.server", "rusd.server", "rocksdict"} <= loaded
    assert loaded & NOT_AT_START == set()


def test_help_names_each_command_that_is_loaded_when_it_is_used(tmp_path: Path) -> None:
    lines = run(rusd_command(), ["--help"], tmp_path).stdout.splitlines()
    section = lines[lines.index("Commands:") + 1 : lines.index("General:")]
    shown = dict(line.split(maxsplit=1) for line in section if line[2:3].strip())
    assert list(shown) == ["healthcheck", "snapshot", "ctl", "check"]
    for name in shown:
        helped = run(rusd_command(), [name, "--help"], tmp_path)
        assert (helped.returncode, helped.stderr) == (0, "")
        assert helped.stdout.startswith(f"Usage: rusd {name} ")


REFUSED = [
    ["--no-such-flag"],
    ["--heartbeat-interval"],
    ["--heartbeat-interval=abc"],
    ["--heartbeat-interval=300"],
    ["--heartbeat-interval=0"],
    ["--election-timeout=60000"],
    ["--pre-vote=maybe"],
    ["--pre-vote", "maybe"],
    ["---name=x"],
    ["--", "x"],
    ["--listen-client-urls=http://127.0.0.1:0"],
    ["--listen-client-urls=http://a.example:1", "--advertise-client-urls=http://a.example:1"],
    ["--listen-client-urls=127.0.0.1:1"],
    ["--listen-client-urls=http://127.0.0.1:1/path"],
    ["--listen-peer-urls=http://a.example:1"],
    ["--advertise-client-urls=ftp://127.0.0.1:1"],
    ["--initial-cluster=bad"],
    ["--initial-cluster=other=http://localhost:2380"],
    ["--initial-cluster=default=http://127.0.0.1:1"],
    ["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"],
    ["--initial-cluster-state=old"],
    ["--auto-compaction-mode=foo"],
    ["--auto-compaction-retention=foo"],
    ["--auth-token=foo"],
    ["--log-level=loud"],
    ["--logger=foo"],
    ["--log-outputs=default,stderr"],
    ["--enable-log-rotation"],
    ["--max-txn-ops=-1"],
    ["--max-concurrent-streams=4294967296"],
    ["--grpc-keepalive-min-time=5"],
    ["--config-file=/does/not/exist.yaml"],
]


@pytest.mark.parametrize("args", REFUSED, ids=" ".join)
def test_what_etcd_refuses_is_refused_with_one_line(
    args: list[str], tmp_path: Path, etcd_command: Sequence[str]
) -> None:
    # Folders of their own: etcd may leave a data folder behind, and rusd would find a member in it.
    for name in ("etcd", "rusd"):
        (tmp_path / name).mkdir()
    theirs = run(etcd_command, args, tmp_path / "etcd")
    assert theirs.returncode in (1, 2)
    ours = run(rusd_command(), args, tmp_path / "rusd")
    assert ours.returncode in (1, 2)
    assert ours.stdout == ""
    assert ours.stderr.startswith("rusd: ")
    assert ours.stderr.count("\n") == 1
    assert list((tmp_path / "rusd").iterdir()) == []


def test_a_line_break_in_a_value_does_not_break_the_line(tmp_path: Path) -> None:
    done = run(rusd_command(), ["--log-level=a\nb"], tmp_path)
    assert done.stderr.count("\n") == 1


def test_a_bad_variable_is_refused_as_etcd_does(
    tmp_path: Path, etcd_command: Sequence[str]
) -> None:
    for command in (etcd_command, rusd_command()):
        done = run(command, [], tmp_path, ETCD_HEARTBEAT_INTERVAL="abc")
        assert done.returncode == 1
        assert "ETCD_HEARTBEAT_INTERVAL: parse error" in done.stderr
        done = run(command, ["--name=a"], tmp_path, ETCD_NAME="b")
        assert done.returncode == 1
        assert "conflicting environment variable" in done.stderr
