"""A sampling profile of the process: which code its threads ran, and how much processor time they
used, for some seconds.
"""

import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, TypeAlias

INTERVAL: Final = 0.01
"""Seconds between samples, as in Go."""
MOST_STACKS: Final = 20_000
"""Different stacks that a profile may have; what is more is counted as `OTHER`."""
_DEEPEST: Final = 200
_TASKS: Final = Path("/proc/self/task")

Stack: TypeAlias = tuple[tuple[CodeType, int], ...]
"""Code and line, the innermost first. Empty for a thread that runs no Python."""
OTHER: Final[Stack] = ()


@dataclass(slots=True)
class Cost:
    """What one stack of one thread was seen with."""

    samples: int = 0
    wall: int = 0
    """Nanoseconds between the samples that saw it."""
    cpu: int = 0
    """Nanoseconds of processor time that its thread used between them."""


@dataclass(slots=True)
class Profile:
    """What was seen, by the thread's name and the stack."""

    began: int
    """Nanoseconds since 1970."""
    took: int = 0
    """Nanoseconds."""
    costs: dict[tuple[str, Stack], Cost] = field(default_factory=lambda: defaultdict(Cost))


def sample(seconds: float, stop: threading.Event) -> Profile:
    """Samples the process for `seconds`, or until `stop`. Blocks: call it on a thread of its own.

    A sample is taken where the interpreter changes threads, so code that holds it for long, as an
    extension does, is seen as its caller's line. Costs a few percent of one core.
    """
    profile = Profile(time.time_ns())
    begin = last = time.monotonic_ns()
    end = begin + int(seconds * 1e9)
    before = _processor_times()
    own = threading.get_ident()
    python: set[int] = {threading.get_native_id()}
    while last < end and not stop.wait(min(INTERVAL, (end - last) / 1e9)):
        now, frames = time.monotonic_ns(), sys._current_frames()
        threads = {each.ident: each for each in threading.enumerate()}
        for ident, frame in frames.items():
            thread = threads.get(ident)
            if ident == own or thread is None or thread.native_id is None:
                continue
            python.add(thread.native_id)
            used = _processor_time(thread.native_id)
            known = before.get(thread.native_id, used)
            before[thread.native_id] = used
            _add(profile, thread.name, _stack(frame), now - last, used - known)
        last = now
        # A frame that is kept keeps all that its function refers to.
        del frames
    after = _processor_times()
    for task in after.keys() - python:
        if (used := after[task] - before.get(task, 0)) > 0:
            _add(profile, _name(task), OTHER, last - begin, used)
    profile.took = time.monotonic_ns() - begin
    return profile


def _add(profile: Profile, name: str, stack: Stack, wall: int, cpu: int) -> None:
    key = name, stack
    if key not in profile.costs and len(profile.costs) >= MOST_STACKS:
        key = name, OTHER
    cost = profile.costs[key]
    cost.samples += 1
    cost.wall += wall
    cost.cpu += cpu


def _stack(frame: FrameType | None) -> Stack:
    stack: list[tuple[CodeType, int]] = []
    while frame is not None and len(stack) < _DEEPEST:
        stack.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(stack)


def _processor_times() -> dict[int, int]:
    """Of every thread, by its id for the system; empty where the system does not tell."""
    try:
        tasks = [int(path.name) for path in _TASKS.iterdir()]
    except OSError:
        return {}
    return {task: _processor_time(task) for task in tasks}


def _processor_time(task: int) -> int:
    """Nanoseconds; 0 when the thread is gone."""
    try:
        return int((_TASKS / str(task) / "schedstat").read_bytes().split()[0])
    except (OSError, IndexError, ValueError):
        return 0


def _name(task: int) -> str:
    try:
        return (_TASKS / str(task) / "comm").read_text().strip()
    except OSError:
        return "thread"
