"""rusd/node/damage.py: what was found is said with what to do, and not for every read."""

import errno
import json
from pathlib import Path

import pytest

from rusd.log import Logger
from rusd.mvcc.tables import DamagedTableError
from rusd.node import damage as module
from rusd.node.damage import ADVICE, MAKE_ROOM, Damage, advice
from rusd.storage.wal import DamagedLogError, NoRoomError

DAMAGED = "Corruption: block checksum mismatch in /data/member/keyspace/000012.sst"


def test_damage_is_said_once_and_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    damage = Damage(Logger(outputs=[str(tmp_path / "log")]))
    assert not damage.found
    for _ in range(5):
        damage.report(DamagedTableError(DAMAGED))
        damage.report(DamagedTableError("another"))
    assert damage.found

    def said() -> list[str]:
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        assert {line["advice"] for line in lines} == {ADVICE}
        return [line["error"] for line in lines]

    assert said() == [DAMAGED, "another"]
    now += 61
    damage.report(DamagedTableError(DAMAGED))
    assert said() == [DAMAGED, "another", DAMAGED]


def test_however_much_is_damaged_the_log_gets_so_many_lines(tmp_path: Path) -> None:
    damage = Damage(Logger(outputs=[str(tmp_path / "log")]))
    for number in range(1000):
        damage.report(DamagedTableError(f"block {number}"))
    assert len((tmp_path / "log").read_text().splitlines()) == 100


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DamagedTableError(DAMAGED), {"advice": ADVICE}),
        (DamagedLogError(Path("/data/1.log"), 7, "a frame"), {"advice": ADVICE}),
        (OSError(f"the database in /data cannot be opened: {DAMAGED}"), {"advice": ADVICE}),
        (NoRoomError(errno.ENOSPC, "No space left on device"), {"advice": MAKE_ROOM}),
        (Exception("IO error: No space left on device: While appending"), {"advice": MAKE_ROOM}),
        (OSError(errno.EIO, "Input/output error"), {}),
    ],
)
def test_what_ended_a_member_comes_with_what_to_do(
    error: Exception, expected: dict[str, str]
) -> None:
    assert advice(error) == expected
