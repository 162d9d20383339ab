"""Work in other processes: what it raises is raised here, and nothing of it is left running."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import pytest

from rusd.backup.forks import Forks

SECONDS = 30.0


def test_work_begins_with_what_is_in_memory_and_all_of_it_is_done(tmp_path: Path) -> None:
    """More than run at the same time."""

    def write(name: str) -> None:
        (tmp_path / name).write_text(name)

    names = [str(number) for number in range(5)]
    with Forks(2) as forks:
        for name in names:
            forks.start(partial(write, name))
        forks.finish()
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == names


def one(work: Callable[[], None]) -> None:
    """Have one thing done."""
    with Forks(1) as forks:
        forks.start(work)
        forks.start(lambda: None)
        forks.finish()


def test_what_it_raises_is_raised_here() -> None:
    """With its text."""

    def fail() -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        one(fail)


def test_a_process_that_is_killed_is_an_error() -> None:
    """As one may be that takes too much memory."""
    with pytest.raises(OSError, match="was killed"):
        one(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_who_gives_up_leaves_no_process() -> None:
    """Whatever it is about."""

    def give_up() -> None:
        with Forks(2) as forks:
            forks.start(lambda: time.sleep(SECONDS))
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        give_up()
    assert not active_children()
