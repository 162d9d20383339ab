"""Random calls of several users, sent to real etcd and to the server under test, get equal answers.

`python -m tests.compat --kind auth --seed N --steps N --runs N` runs longer ones, and shrinks.
"""

from collections.abc import Sequence

import pytest

from tests.compat.side_by_side import AUTH, FAST, run_seed
from tests.conftest import StartMember

SEEDS = (1, 2)
STEPS = 1000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the seeds that were asked for, else the fixed ones."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", metafunc.config.getoption("--seed") or SEEDS)


def test_random_calls_of_users_get_equal_answers(
    seed: int,
    etcd_command: Sequence[str],
    subject_command: Sequence[str],
    start_member: StartMember,
    request: pytest.FixtureRequest,
) -> None:
    """Users, roles and rights change while users read, write, watch and hold leases."""
    steps = request.config.getoption("--steps") or STEPS
    print(f"--kind auth --seed {seed} --steps {steps}")
    reference = start_member(etcd_command, *FAST, *AUTH.flags)
    subject = start_member(subject_command, *AUTH.flags)
    run_seed(reference.channel(), subject.channel(), seed, steps, AUTH)
