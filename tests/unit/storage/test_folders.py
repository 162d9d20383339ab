"""rusd/storage/folders.py: which folder is the keyspace, whatever moment a crash comes at."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rusd.storage.folders import current, make_current, remove_leftovers


def test_the_keyspace_is_the_plain_folder_until_another_one_is_named(tmp_path: Path) -> None:
    assert current(tmp_path) == tmp_path / "keyspace"
    for name in ("keyspace-a", "keyspace-b"):
        (tmp_path / name).mkdir()
        make_current(tmp_path / name)
        assert current(tmp_path) == tmp_path / name


@pytest.mark.parametrize("name", ["keyspace-gone", "", "../keyspace-a", "wal"])
def test_a_name_of_no_keyspace_stops_the_start(tmp_path: Path, name: str) -> None:
    """An empty keyspace in its place would be a member that has forgotten what it promised."""
    (tmp_path / "wal").mkdir()
    (tmp_path / "CURRENT").write_text(name)
    with pytest.raises(OSError, match="is not there"):
        current(tmp_path)


class CrashError(Exception):
    """The process ends here."""


def test_a_crash_anywhere_leaves_the_one_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("keyspace-old", "keyspace-new")
    seen: list[str] = []
    for survived in range(100):
        member = tmp_path / str(survived)
        for name in names:
            (member / name).mkdir(parents=True)
        make_current(member / names[0])
        left = survived

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def change(*arguments: object, **named: object) -> object:
                nonlocal left
                if left == 0:
                    raise CrashError
                left -= 1
                return call(*arguments, **named)

            return change

        finished = True
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", counted(os.fsync))
            patched.setattr(Path, "open", counted(Path.open))
            patched.setattr(Path, "rename", counted(Path.rename))
            try:
                make_current(member / names[1])
            except CrashError:
                finished = False
        found = current(member)
        seen.append(found.name)
        removed = remove_leftovers(member)
        assert removed == [member / name for name in names if name != found.name]
        assert current(member) == found
        assert found.is_dir()
        if finished:
            break
    assert seen[-1] == names[1]
    assert set(seen) == set(names)
    assert seen == sorted(seen, key=names.index), "once it is the new one it stays"


def test_only_what_is_left_over_is_removed(tmp_path: Path) -> None:
    kept = {"wal", "keyspace", "other"}
    for name in (*kept, "keyspace-1-a", "checkpoint-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert remove_leftovers(tmp_path) == []
    shutil.rmtree(tmp_path / "keyspace")
    (tmp_path / "keyspace-2").mkdir()
    make_current(tmp_path / "keyspace-2")
    remove_leftovers(tmp_path)
    assert current(tmp_path) == tmp_path / "keyspace-2"
