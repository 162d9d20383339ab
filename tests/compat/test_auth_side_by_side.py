"""Random calls of several users, sent to real etcd and to the server under test, get equal answers.

`python -m tests.compat --kind auth --seed N --steps N --runs N` runs longer ones, and shrinks;
`--kind jwt` with tokens that tell the revision of users and roles that they are of.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.compat.side_by_side import FAST, KINDS, run_seed
from tests.conftest import StartMember

SEEDS = (1, 2)
STEPS = 800


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the seeds that were asked for, else the fixed ones."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", metafunc.config.getoption("--seed") or SEEDS)


@pytest.mark.parametrize("kind", ["auth", "jwt"])
def test_random_calls_of_users_get_equal_answers(
    seed: int,
    kind: str,
    etcd_command: Sequence[str],
    subject_command: Sequence[str],
    start_member: StartMember,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Users, roles and rights change while users read, write, watch and hold leases."""
    steps = request.config.getoption("--steps") or STEPS
    print(f"--kind {kind} --seed {seed} --steps {steps}")
    flags = KINDS[kind].flags(tmp_path)
    reference = start_member(etcd_command, *FAST, *flags)
    subject = start_member(subject_command, *flags)
    run_seed(reference.channel(), subject.channel(), seed, steps, KINDS[kind])
