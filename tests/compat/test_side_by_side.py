"""Random calls, sent to real etcd and to the server under test, get equal answers and errors."""

from collections.abc import Sequence

import pytest

from tests.compat.side_by_side import FAST, run_seed
from tests.conftest import StartMember

SEEDS = (1, 2, 3, 659819707)
STEPS = 1500


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the seeds that were asked for, else the fixed ones."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", metafunc.config.getoption("--seed") or SEEDS)


def test_random_calls_get_equal_answers(
    seed: int,
    etcd_command: Sequence[str],
    subject_command: Sequence[str],
    start_member: StartMember,
    request: pytest.FixtureRequest,
) -> None:
    """Both servers begin empty; every step's answers, and every watcher's events, are equal."""
    steps = request.config.getoption("--steps") or STEPS
    print(f"--seed {seed} --steps {steps}")
    reference = start_member(etcd_command, *FAST)
    subject = start_member(subject_command)
    run_seed(reference.channel(), subject.channel(), seed, steps)
