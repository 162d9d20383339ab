"""Where the members' time goes: py-spy beside each of them while a figure is measured."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.load import LoadError
from tests.bench.site import Site

_RATE = "200"
_WRITE_SECONDS = 60.0


@contextmanager
def profiled(folder: Path, label: str, site: Site) -> Iterator[None]:
    """Write folded stacks with counts of samples, a file for each member that runs.

    They are named after the row, the member, and whether it led at the beginning.
    """
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which(
        "py-spy"
    )
    if program is None:
        raise LoadError("py-spy is missing: pip install py-spy")
    folder.mkdir(parents=True, exist_ok=True)
    leader = site.leader()
    spies = []
    for member, pid in zip(site.running, site.pids, strict=True):
        role = "leader" if member is leader else "follower"
        file = folder / f"{label}-{member.folder.name}-{role}.txt"
        options = ("--pid", str(pid), "--rate", _RATE, "--format", "raw", "--output", str(file))
        spies.append(subprocess.Popen([program, "record", *options], stdout=subprocess.DEVNULL))
    try:
        yield
    finally:
        for spy in spies:
            spy.send_signal(signal.SIGINT)  # as its user would end it: it writes its file
        for spy in spies:
            spy.wait(_WRITE_SECONDS)
