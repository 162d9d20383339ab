"""`rusd --help` reads as a manual page, and is true."""

import re
from pathlib import Path

import pytest

from rusd.cli.manual import SECTIONS, WITHOUT_EFFECT
from rusd.config import FLAGS, load
from tests.members import rusd_command
from tests.unit.cli.test_server import run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is written where nobody looks."""
    return run(rusd_command(), ["--help"], tmp_path_factory.mktemp("help")).stdout


def test_flags_without_effect_stand_apart(page: str) -> None:
    _, _, apart = page.partition(f"{WITHOUT_EFFECT}:")
    apart, _, _ = apart.partition(f"{next(iter(SECTIONS))}:")
    shown = set(re.findall(r"^  --([a-z0-9-]+) ", apart, flags=re.M))
    assert shown == {name for name, flag in FLAGS.items() if flag.ignored}


def test_no_line_is_longer_than_a_page_is_wide(page: str) -> None:
    assert max(map(len, page.splitlines())) <= 100


def test_every_command_has_a_whole_sentence(page: str) -> None:
    _, _, commands = page.partition("Commands:\n")
    commands, _, _ = commands.partition("\n\n")
    assert "healthcheck" in commands
    assert "..." not in commands


def test_what_it_says_of_flags_holds() -> None:
    assert load(["-name", "a", "--name=m1"], {}).name == "m1"
    assert load([], {"ETCD_NAME": "m1"}).name == "m1"
    assert load(["--pre-vote=false"], {}).pre_vote is False
    assert load(["--force-new-cluster"], {}).force_new_cluster is True
    assert load(["--corrupt-check-time", "1h30m"], {}).corrupt_check_time == 5400


def test_what_it_says_of_exit_statuses_holds(tmp_path: Path) -> None:
    assert run(rusd_command(), ["--no-such"], tmp_path).returncode == 2
    assert run(rusd_command(), ["--election-timeout=1"], tmp_path).returncode == 1
    assert run(rusd_command(), ["--help"], tmp_path).returncode == 0
