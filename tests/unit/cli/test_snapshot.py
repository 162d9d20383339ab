"""`rusd snapshot`: what it prints, and which flags go together."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rusd.backup.reading import Status
from rusd.cli.snapshot import human, shown, snapshot
from tests.unit.backup.files import made, record


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup with one key, and its checksum."""
    path = made(tmp_path / "backup", dict([record(2)]))
    data = path.read_bytes()
    path.write_bytes(data + sha256(data).digest())
    return path


def run(*arguments: str | Path, environment: dict[str, str] | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(snapshot, [str(each) for each in arguments], env=environment)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (9, "9 B"),
        (999, "999 B"),
        (53248, "53 kB"),
        (1234567, "1.2 MB"),
        (10**10, "10 GB"),
    ],
)
def test_sizes_are_printed_as_etcdctl_does(size: int, text: str) -> None:
    """Two digits, or whole ones, of a decimal unit."""
    assert human(size) == text


def test_a_status_is_printed_as_etcdutl_does() -> None:
    """In each of its formats."""
    status = Status(0xFD1EBBFD, 10, 22, 53248, "3.6.0")
    assert shown(status, "simple") == "fd1ebbfd, 10, 22, 53 kB, 3.6.0"
    assert json.loads(shown(status, "json")) == {
        "hash": 4246649853,
        "revision": 10,
        "totalKey": 22,
        "totalSize": 53248,
        "version": "3.6.0",
    }
    assert shown(status, "fields").splitlines()[:2] == ['"Hash" : 4246649853', '"Revision" : 10']
    assert shown(status, "table") == "\n".join(
        (
            "┌──────────┬──────────┬────────────┬────────────┬─────────┐",
            "│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │",
            "├──────────┼──────────┼────────────┼────────────┼─────────┤",
            "│ fd1ebbfd │       10 │         22 │      53 kB │   3.6.0 │",
            "└──────────┴──────────┴────────────┴────────────┴─────────┘",
        )
    )


def test_a_whole_backup_passes_and_a_damaged_one_is_named(backup: Path) -> None:
    """With the page, and without a stack."""
    assert run("verify", backup).exit_code == 0
    assert run("status", backup, "-w", "json").exit_code == 0
    data = bytearray(backup.read_bytes())
    data[-1] ^= 1
    backup.write_bytes(data)
    refused = run("verify", backup)
    assert refused.exit_code == 1
    assert "SHA-256" in refused.stderr
    data[3 * 4096] ^= 1
    backup.write_bytes(data)
    refused = run("verify", backup, "--skip-hash-check")
    assert refused.exit_code == 1
    assert f"{backup} is damaged: page 3: it says that it is page 2" in refused.stderr


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--bump-revision", "5"), "--mark-compacted required"),
        (("--revision-bump", "5"), "--mark-compacted required"),
        (("--mark-compacted",), "--mark-compacted required"),
        (("--name", "other"), 'couldn\'t find local name "other"'),
        (("--initial-cluster", "default=http://localhost:1"), "--initial-advertise-peer-urls"),
        (("--initial-cluster", "default=nonsense"), "URL scheme must be"),
    ],
)
def test_a_restore_that_makes_no_sense_is_refused(
    flags: Sequence[str], reason: str, backup: Path
) -> None:
    """As etcdutl does, with nothing left."""
    data = backup.with_name("data")
    refused = run("restore", backup, "--data-dir", data, *flags)
    assert refused.exit_code in (1, 2)
    assert reason in refused.stderr
    assert not data.exists()


def test_a_restore_names_what_it_made(backup: Path) -> None:
    """And is refused a second time."""
    data = backup.with_name("data")
    done = run("restore", backup, "--data-dir", data)
    assert (done.exit_code, done.stdout) == (0, f"Restored revision 2 of {backup} to {data}\n")
    assert "not empty" in run("restore", backup, "--data-dir", data).stderr


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--endpoints", "a:1,b:1"), "one endpoint"),
        (("--endpoints", "ftp://a:1"), "not of the form"),
        (("--command-timeout", "x"), "--command-timeout"),
        (("--cert", __file__), "--cert and --key"),
    ],
)
def test_flags_of_save_are_checked_before_anything_is_asked(
    flags: Sequence[str], reason: str, tmp_path: Path
) -> None:
    """And etcdctl's environment counts as its flags do."""
    refused = run("save", tmp_path / "new", *flags)
    assert refused.exit_code == 2
    assert reason in refused.stderr
    from_environment = run("save", tmp_path / "new", environment={"ETCDCTL_ENDPOINTS": "a:1,b:1"})
    assert "one endpoint" in from_environment.stderr
