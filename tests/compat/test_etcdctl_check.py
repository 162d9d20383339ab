"""`etcdctl check` finds a member of rusd fast enough, and cleans up behind itself."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import StartMember
from tests.members import Member, rusd_command

SECONDS = 180.0
IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


def etcdctl(programs: Path, member: Member, *arguments: str) -> str:
    """What it prints; it must succeed."""
    done = subprocess.run(
        [programs / "etcdctl", "--endpoints", member.target, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    output = done.stdout.replace("\r", "\n") + done.stderr
    assert done.returncode == 0, output[-2000:]
    return output


def test_datascale(etcd_programs: Path, start_member: StartMember) -> None:
    member = start_member(rusd_command())
    output = etcdctl(etcd_programs, member, "check", "datascale", "--load", "s")
    assert "PASS: Approximate system memory used" in output
    assert '"Count" : 0' in etcdctl(
        etcd_programs, member, "get", "/etcdctl-check-datascale/", "--prefix", "-w", "fields"
    )


@pytest.mark.skipif(not IS_LONG, reason="it takes a minute a load: HYPOTHESIS_PROFILE=long runs it")
@pytest.mark.parametrize("load", ["s", "m"])
def test_perf(load: str, etcd_programs: Path, start_member: StartMember) -> None:
    """The small load is 150 writes a second of 50 clients, the next one 1000 of 200."""
    member = start_member(rusd_command())
    output = etcdctl(etcd_programs, member, "check", "perf", "--load", load)
    assert output.splitlines()[-1] == "PASS", output[-2000:]
    assert '"Count" : 0' in etcdctl(
        etcd_programs, member, "get", "/etcdctl-check-perf/", "--prefix", "-w", "fields"
    )
