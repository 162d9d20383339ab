"""Long side-by-side runs by hand: `python -m tests.compat --runs 100 --steps 5000`.

Each run has two new servers and the next seed. The first difference is shrunk and printed, and
ends it with status 1.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc

from tests.compat.side_by_side import FAST, KINDS, RunFailedError, differs, run_seed, shrink
from tests.members import running, rusd_command


def main() -> int:
    """Run until a difference shows or the runs are done."""
    options = argparse.ArgumentParser(prog="python -m tests.compat", description=__doc__)
    options.add_argument("--subject", choices=("rusd", "etcd"), default="rusd")
    options.add_argument("--kind", choices=tuple(KINDS), default="kv")
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    options.add_argument("--steps", type=int, default=5000)
    options.add_argument("--runs", type=int, default=1)
    options.add_argument("--shrink", action=argparse.BooleanOptionalAction, default=True)
    chosen = options.parse_args()
    script = Path(__file__).parent.with_name("fetch-etcd")
    programs = subprocess.run([script], check=True, capture_output=True, text=True).stdout.strip()
    etcd = (f"{programs}/etcd",)
    kind = KINDS[chosen.kind]
    subject = etcd if chosen.subject == "etcd" else rusd_command()

    def channels(stack: ExitStack) -> tuple[grpc.Channel, grpc.Channel]:
        """Channels to two new servers, which end with `stack`."""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        flags = kind.flags(folder)
        return (
            stack.enter_context(running(etcd, folder / "reference", FAST + flags)).channel(),
            stack.enter_context(running(subject, folder / "subject", flags)).channel(),
        )

    def difference(steps: Sequence[object]) -> str:
        with ExitStack() as stack:
            return differs(*channels(stack), steps, kind)

    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        started = time.monotonic()
        try:
            with ExitStack() as stack:
                run_seed(*channels(stack), seed, chosen.steps, kind)
        except RunFailedError as error:
            print(error, flush=True)
            if chosen.shrink:
                steps = shrink(error.steps, lambda steps: bool(difference(steps)))
                print("shrunk to:", *steps, sep="\n  ")
                print("which gives:", difference(steps))
            return 1
        seconds = time.monotonic() - started
        print(f"seed {seed}: {chosen.steps} steps equal, {seconds:.1f} s", flush=True)
    return 0


sys.exit(main())
