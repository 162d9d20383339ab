"""The program that converts: it stops when it should, and says why."""

import os
import random
import shutil
from pathlib import Path

import pytest

from rusd.backup.export import main
from tests.unit.asynchronous import asynchronous
from tests.unit.backup.files import fill
from tests.unit.node.transferring import SENDER, site


@asynchronous
async def test_it_gives_up_for_the_log_and_with_the_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """When the disk is nearly full, and when its parent is another process."""
    monkeypatch.setattr(os, "nice", lambda _: 0)
    checkpoint, target = tmp_path / "checkpoint", tmp_path / "target"
    async with site(tmp_path / "member", SENDER) as member:
        fill(member, random.Random(1))
        member.engine.flush()
        member.engine.checkpoint(checkpoint)
    arguments = [str(checkpoint), str(target)]
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)._replace(free=(64 << 20) - 1)
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        assert main(arguments) == 1
    assert "67108863 bytes of disk space are left" in capfd.readouterr().err
    target.unlink()
    with monkeypatch.context() as patch:
        parents = iter((1, 2))
        patch.setattr(os, "getppid", lambda: next(parents))
        assert main(arguments) == 1
    assert "the member has ended" in capfd.readouterr().err
    target.unlink()
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "File exists" in capfd.readouterr().err
    assert main([str(tmp_path / "nothing"), str(tmp_path / "new")]) == 1
    assert "cannot be opened" in capfd.readouterr().err
