"""`python -m tests.sim`: runs the simulation, seed after seed, until one fails."""

import argparse
import sys
import time
from collections import Counter, deque

from tests.sim.cluster import Cluster
from tests.sim.mutations import MUTATIONS, mutated
from tests.sim.runs import run_seeds


def main() -> int:
    """Returns 1 when a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--seeds", help="run these: N..M, M not included")
    parser.add_argument("--minutes", type=float, help="run fresh seeds for so long")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mutation", choices=sorted(MUTATIONS), help="break the core so")
    parser.add_argument("--failures", type=int, default=1, help="stop after so many")
    parser.add_argument("--trace", action="store_true", help="with --seed: print all that happens")
    options = parser.parse_args()
    if options.seed is not None:
        return _run_one(options.seed, options.trace, options.mutation)
    first, count = int(time.time()) * 1_000_000, None
    if options.seeds:
        low, high = map(int, options.seeds.split(".."))
        first, count = low, high - low
    elif options.minutes is None:
        parser.error("one of --seed, --seeds, --minutes is needed")
    seconds = None if options.minutes is None else options.minutes * 60
    print(f"seeds from {first}", flush=True)
    report = run_seeds(first, count, seconds, options.processes, options.mutation, options.failures)
    print(report)
    return 1 if report.failures else 0


def _run_one(seed: int, trace: bool, mutation: str | None) -> int:
    tail: deque[str] = deque(maxlen=60)
    with mutated(mutation):
        cluster = Cluster(seed, print if trace else tail.append)
        try:
            result = cluster.run()
        except Exception as error:
            print(*tail, sep="\n")
            print(f"seed {seed}: {type(error).__name__}: {error}")
            return 1
    counts = ", ".join(f"{what} {count}" for what, count in sorted(Counter(result.counts).items()))
    print(f"seed {seed}: {result.steps} steps, digest {result.digest:016x}: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
