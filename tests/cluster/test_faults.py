"""Three members under load, and what can happen to processes: nothing that was promised breaks."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.run import Run
from tests.cluster.service import SteadyWriter
from tests.members import running_cluster

ELECTION_SECONDS = 2.0
"""The election timeout, 1 s, doubled: the longest that a follower waits for its leader."""
WITHOUT_SERVICE_SECONDS = 2.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of the test's random choices, printed."""
    given: list[int] | None = request.config.getoption("--seed")
    seed = given[0] if given else random.SystemRandom().randrange(10**6)
    print(f"--seed {seed}")
    return seed


@pytest.fixture
def start_run(
    subject_command: Sequence[str], tmp_path: Path, seed: int
) -> Iterator[Callable[[], Run]]:
    """Starts a cluster of three and a run on it, which end with the test."""
    with ExitStack() as ending:

        def start() -> Run:
            cluster = ending.enter_context(running_cluster(subject_command, tmp_path))
            run = Run(cluster, seed)
            ending.callback(run.close)
            return run

        yield start


def test_killed_members_come_back_and_nothing_acknowledged_is_lost(
    start_run: Callable[[], Run],
) -> None:
    """Kill -9 of the leader, a follower, and all, under load; a leader that stands still."""
    run = start_run()
    cluster = run.cluster
    load = run.load()

    leader = cluster.leader()
    leader.kill()
    load.await_writes(50)
    leader.start()

    follower = next(member for member in cluster.members if member is not cluster.leader())
    follower.kill()
    load.await_writes(50)
    follower.start()

    for member in cluster.members:
        member.kill()
    cluster.start()
    load.await_writes(50)
    run.settle()

    load = run.load()
    stopped = cluster.leader()
    stopped.pause()
    time.sleep(run.random.uniform(ELECTION_SECONDS, 2 * ELECTION_SECONDS))  # the fault itself
    stopped.resume()
    load.await_writes(50)
    assert cluster.leader() is not stopped
    run.settle()
    run.finish()


def test_service_is_back_within_two_seconds_of_the_leaders_death(
    subject_command: Sequence[str], tmp_path: Path
) -> None:
    """With default flags, for a client that asks the next member when one does not answer."""
    with running_cluster(subject_command, tmp_path) as cluster:
        writer = SteadyWriter(cluster)
        gaps = []
        for _ in range(3):
            writer.await_writes(50)
            leader = cluster.leader()
            killed = time.monotonic()
            leader.kill()
            writer.await_writes(50)
            gaps.append(writer.longest_gap(killed))
            leader.start()
        writer.stop()
    print(f"seconds without service after the leader's death: {[round(gap, 2) for gap in gaps]}")
    assert sorted(gaps)[1] < WITHOUT_SERVICE_SECONDS, gaps


def test_a_rolling_restart_loses_nothing(start_run: Callable[[], Run]) -> None:
    """One member after the other ends in order and starts again, under load."""
    run = start_run()
    load = run.load()
    for member in run.cluster.members:
        member.stop()
        load.await_writes(20)
        member.start()
        load.await_writes(20)
    run.settle()
    run.finish()
