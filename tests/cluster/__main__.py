"""Faults drawn at random, on one cluster after the other, for as long as the time given.

    python -m tests.cluster --minutes 60 --seed 1 --faults kill_all,power_fails_everywhere

A round is a load, a few faults and the check of everything. After some rounds the cluster is given
up for a new one, with the next seed, since its history is read as a whole. What went wrong is
printed with the seed; the cluster's files are then left where they are.
"""

import itertools
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import click

from tests.cluster.calls import turn_auth_on
from tests.cluster.child import ChildError
from tests.cluster.faults import (
    ALL_FAULTS,
    DISK_FAULTS,
    NETWORK_FAULTS,
    Faults,
    fault,
)
from tests.cluster.machines import Machines
from tests.cluster.run import Run
from tests.members import rusd_command

ROUNDS = 5
FAULTS_IN_ROUND = 3


@click.command()
@click.option("--minutes", type=float, default=10.0, show_default=True)
@click.option("--seed", type=int, default=lambda: int(time.time()), help="of the first cluster")
@click.option("--faults", default=",".join(ALL_FAULTS), help="to draw from, comma-separated")
@click.option("--command", default=" ".join(rusd_command()), help="the server and its first flags")
@click.option(
    "--journaled-disks", is_flag=True, help="no cluster with disks that keep POSIX's letter alone"
)
@click.option("--tls", is_flag=True, help="TLS and auth in every cluster, not in every third")
def main(
    minutes: float, seed: int, faults: str, command: str, journaled_disks: bool, tls: bool
) -> None:
    """Make faults until the time is over, or something that was promised is broken."""
    names = faults.split(",")
    if unknown := sorted(set(names) - set(ALL_FAULTS)):
        raise click.BadParameter(
            f"{unknown}; there are {', '.join(ALL_FAULTS)}", param_hint="faults"
        )
    end = time.monotonic() + 60 * minutes
    made: Counter[str] = Counter()
    for each in itertools.count(seed):
        folder = Path(tempfile.mkdtemp(prefix="rusd-cluster-"))
        strict = bool(each % 2) and not journaled_disks
        try:
            secured = tls or each % 3 == 0
            _one_cluster(command.split(), folder, each, names, end, made, strict, secured)
        except Exception:
            traceback.print_exc()
            sys.exit(f"--seed {each}: failed; logs are in {folder}; faults made: {dict(made)}")
        shutil.rmtree(folder)
        if time.monotonic() > end:
            break
    print(f"faults made: {dict(made)}; nothing that was promised is broken")


def _one_cluster(
    command: list[str],
    folder: Path,
    seed: int,
    names: list[str],
    end: float,
    made: Counter[str],
    strict: bool,
    secured: bool,
) -> None:
    machines = Machines(
        command,
        folder,
        seed,
        network=_possible("network", names, NETWORK_FAULTS, folder),
        disks=_possible("disks", names, DISK_FAULTS, folder),
        strict_disks=strict,
        tls=secured,
    )
    run = None
    try:
        machines.cluster.start()
        if secured:
            turn_auth_on(machines.cluster.members[0])
        run = Run(machines.cluster, seed)
        faults = Faults(run, machines)
        for _ in range(ROUNDS):
            run.load()
            for _ in range(FAULTS_IN_ROUND):
                name = run.random.choice(names)
                started = time.monotonic()
                fault(faults, name)()
                made[name] += 1
                print(f"--seed {seed}: {name} {time.monotonic() - started:.1f} s", flush=True)
            run.settle()
            if time.monotonic() > end:
                break
        run.finish()
    finally:
        if run is not None:
            run.close()
        machines.close()


def _possible(what: str, names: list[str], of_it: tuple[str, ...], folder: Path) -> bool:
    """Whether any of the faults need it; drops those that do from `names` if it cannot be made."""
    concerned = sorted(set(names) & set(of_it))
    if not concerned:
        return False
    try:
        Machines((), folder / what, 0, what == "network", what == "disks").close()
    except ChildError as error:
        print(f"left out: {', '.join(concerned)}: {error}")
        names[:] = [name for name in names if name not in of_it]
        return False
    return True


if __name__ == "__main__":
    main()
