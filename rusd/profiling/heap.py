"""What the process's memory is used for, as far as Python knows."""

import gc
import threading
import tracemalloc
from pathlib import Path
from typing import Final

_LINES: Final = 100
_STATUS: Final = Path("/proc/self/status")


def summary() -> bytes:
    """The system's figures, and the garbage collector's. Costs nothing."""
    try:
        lines = [
            line for line in _STATUS.read_text().splitlines() if line.startswith(("Vm", "Rss"))
        ]
    except OSError:
        lines = []
    lines.append(f"gc: enabled {gc.isenabled()}, thresholds {gc.get_threshold()}")
    lines.append(f"gc: new objects by generation {gc.get_count()}, frozen {gc.get_freeze_count()}")
    lines += [
        f"gc: generation {number}: " + ", ".join(f"{name} {count}" for name, count in each.items())
        for number, each in enumerate(gc.get_stats())
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def allocations(seconds: float, stop: threading.Event) -> bytes:
    """What is allocated within some seconds and still there after them, by line of code.

    Blocks: call it on a thread of its own. Python is up to three times slower meanwhile.
    """
    tracemalloc.start()
    try:
        stop.wait(seconds)
        taken = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    taken = taken.filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)])
    statistics = taken.statistics("lineno")
    total = sum(each.size for each in statistics)
    lines = [f"{total} bytes in {len(statistics)} places after {seconds:g} s"]
    lines += [
        f"{each.size:>12} bytes {each.count:>9} blocks  {each.traceback[0]}"
        for each in statistics[:_LINES]
    ]
    return "".join(f"{line}\n" for line in lines).encode()
