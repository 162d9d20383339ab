"""Backups that other versions of etcd have made, which are in `data/backups`, are taken by rusd."""

from pathlib import Path

import pytest

from rusd.backup.reading import Backup
from tests.compat.backup_versions import backup_of, check, restore, said_of, start, versions
from tests.members import Member, rusd_command


def test_there_are_backups_of_each_line_of_versions() -> None:
    """From the oldest that is supported to the newest."""
    assert {version.rsplit(".", 1)[0] for version in versions()} >= {"3.4", "3.5", "3.6", "3.7"}


@pytest.mark.parametrize("version", versions())
def test_rusd_serves_what_an_etcd_of_that_version_had(version: str, tmp_path: Path) -> None:
    """Every key at every revision, events, leases with their keys, users, roles, alarms."""
    backup = backup_of(version, tmp_path)
    with Backup(backup) as opened:
        opened.check_digest(lambda _: None)
        opened.verify(lambda _: None)
    wanted = said_of(version)
    assert wanted["version"] == version
    member = Member(rusd_command(), tmp_path / "member")
    try:
        restore(rusd_command(), backup, member)
        check(start(member), wanted)
        member.stop()
        check(start(member), wanted)
    finally:
        member.close()
