"""rusd/node/downgrade.py: which targets there are, and that the job outlives the process."""

import asyncio
from pathlib import Path

import pytest

import rusd
from rusd.node.downgrade import (
    Downgrade,
    InProgressError,
    InvalidTargetError,
    NotInProgressError,
    cluster_version,
)
from rusd.node.entry import Kind
from rusd.pb.rpc_pb2 import DowngradeInfo, DowngradeResponse
from tests.unit.node.running import running

ON = DowngradeInfo(enabled=True, targetVersion="3.6.0")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("3.6", "3.6.0"),
        ("3.6.4", "3.6.0"),
        ("03.06.00", "3.6.0"),
        ("3.6.0-rc.1+b", "3.6.0"),
        ("3.6-rc.1", None),
        ("3.6\n", None),
        ("٣.٦", None),
        ("3.99999999999999999999", None),
        ("3", None),
        ("", None),
    ],
)
def test_a_version_is_one_of_a_cluster(text: str, version: str | None) -> None:
    assert cluster_version(text) == version


def test_only_the_minor_version_before_is_a_target_and_only_once() -> None:
    downgrade = Downgrade(None)
    assert downgrade.cluster_version == cluster_version(rusd.ETCD_VERSION) == "3.7.0"
    for target in ("3.7.0", "3.5.0", "3.8.0", "2.6.0"):
        with pytest.raises(InvalidTargetError):
            downgrade.check_target(target)
    downgrade.check_target("3.6.0")
    with pytest.raises(NotInProgressError):
        downgrade.check_cancel()
    row = downgrade.apply(ON)
    for same in (downgrade, Downgrade(row)):
        assert same.cluster_version == "3.6.0"
        for target in ("3.6.0", "3.5.0"):
            with pytest.raises(InProgressError):
                same.check_target(target)
        with pytest.raises(InvalidTargetError):
            same.check_target("3.7.0")
        same.check_cancel()
    downgrade.apply(DowngradeInfo())
    assert downgrade.cluster_version == "3.7.0"
    downgrade.check_target("3.6.0")


def test_it_is_in_the_log_and_in_the_tables(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path / "first") as member:
            answer = await member.propose(Kind.DOWNGRADE, ON)
            assert isinstance(answer, bytes)
            assert DowngradeResponse.FromString(answer).version == "3.7"
            assert member.applier.downgrade.cluster_version == "3.6.0"
            killed = member.crash_copy(tmp_path / "killed")
        for directory in (tmp_path / "first", killed):
            async with running(directory) as member:
                assert member.applier.downgrade.info == ON
                answer = await member.propose(Kind.DOWNGRADE, DowngradeInfo())
                assert isinstance(answer, bytes)
                assert DowngradeResponse.FromString(answer).version == "3.6"
                assert member.applier.downgrade.cluster_version == "3.7.0"

    asyncio.run(run())
