"""The simulation notices when the core is broken: what a run of it is worth."""

import pytest

from tests.sim.cluster import Cluster
from tests.sim.mutations import MUTATIONS, mutated

_MOST_SEEDS = 3000


def _first_failure(mutation: str) -> int | None:
    with mutated(mutation):
        for seed in range(_MOST_SEEDS):
            try:
                Cluster(seed).run()
            except Exception:
                return seed
    return None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_core_is_noticed(mutation: str) -> None:
    seed = _first_failure(mutation)
    assert seed is not None, f"{mutation}: not noticed in {_MOST_SEEDS} seeds"
    print(f"{mutation}: noticed in seed {seed}")
    Cluster(seed).run()
