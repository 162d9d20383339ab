"""Profiles show what runs and what it costs; stacks and memory show what there is."""

import asyncio
import gzip
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rusd.pb import profile_pb2 as pb
from rusd.profiling import sampler
from rusd.profiling.formats import collapsed, pprof
from rusd.profiling.heap import allocations, summary
from rusd.profiling.sampler import sample
from rusd.profiling.stacks import stacks

SECONDS = 0.5


def spin(stop: threading.Event) -> None:
    """Uses a core."""
    while not stop.is_set():
        sum(range(1000))


def idle(stop: threading.Event) -> None:
    """Uses none."""
    stop.wait()


@contextmanager
def two_threads() -> Iterator[None]:
    """One that spins and one that waits."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=target, name=target.__name__, args=(stop,))
        for target in (spin, idle)
    ]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


def test_a_profile_tells_who_uses_the_processor() -> None:
    with two_threads():
        profile = sample(SECONDS, threading.Event())
    cpu: Counter[str] = Counter()
    wall: Counter[str] = Counter()
    for (thread, stack), cost in profile.costs.items():
        if stack:
            assert stack[-1][0].co_qualname == "Thread._bootstrap" or thread == "MainThread"
        if thread in ("spin", "idle"):
            assert any(code.co_qualname == thread for code, _ in stack)
        cpu[thread] += cost.cpu
        wall[thread] += cost.wall
    assert 0 < cpu["spin"] <= profile.took + 20_000_000  # the system counts in ticks
    assert cpu["idle"] < cpu["spin"] / 5
    assert wall["idle"] > profile.took / 2
    assert wall["spin"] > profile.took / 2
    assert "profiler" not in cpu
    heaviest = max(collapsed(profile).decode().splitlines(), key=lambda line: int(line.split()[1]))
    assert re.fullmatch(r"spin;.*;spin_\(profiling/test_profiling\.py:\d+\) \d+", heaviest)


def test_a_profile_in_pprofs_format_is_whole() -> None:
    """Each number leads somewhere, and the values add up to what was seen."""
    with two_threads():
        profile = sample(SECONDS, threading.Event())
    made = pb.Profile.FromString(gzip.decompress(pprof(profile)))
    text = made.string_table
    assert text[0] == ""
    assert len(set(text)) == len(text)
    assert [text[each.type] for each in made.sample_type] == ["samples", "cpu", "wall"]
    assert text[made.default_sample_type] == "cpu"
    assert made.duration_nanos == profile.took
    functions = {each.id: each for each in made.function}
    locations = {each.id: each for each in made.location}
    assert len(functions) == len(made.function)
    assert len(locations) == len(made.location)
    found = Counter[str]()
    for each in made.sample:
        (label,) = each.label
        thread = text[label.str]
        leaf = locations[each.location_id[0]]
        lines = [locations[number].line[0] for number in each.location_id]
        names = [text[functions[line.function_id].name] for line in lines]
        if thread == "spin":
            assert "spin" in names
            assert text[functions[leaf.line[0].function_id].filename].endswith(".py")
        found[thread] += each.value[1]
    for thread in ("spin", "idle"):
        costs = [cost.cpu for (name, _), cost in profile.costs.items() if name == thread]
        assert found[thread] == sum(costs)


def test_a_profile_ends_early_and_keeps_to_its_bound() -> None:
    stop = threading.Event()
    begin = time.monotonic()
    threading.Timer(0.1, stop.set).start()
    sample(60, stop)
    assert time.monotonic() - begin < 30
    most, sampler.MOST_STACKS = sampler.MOST_STACKS, 1  # type: ignore[misc]
    try:
        with two_threads():
            profile = sample(0.2, threading.Event())
    finally:
        sampler.MOST_STACKS = most  # type: ignore[misc]
    assert len([1 for _, stack in profile.costs if stack]) == 1
    assert (("idle", sampler.OTHER) in profile.costs) or (("spin", sampler.OTHER) in profile.costs)


def test_stacks_are_of_all_threads_and_tasks() -> None:
    async def wait_for_nothing(event: asyncio.Event) -> None:
        await event.wait()

    async def run() -> str:
        event = asyncio.Event()
        task = asyncio.create_task(wait_for_nothing(event), name="a-task-of-mine")
        await asyncio.sleep(0)
        text = stacks(asyncio.get_running_loop()).decode()
        event.set()
        await task
        return text

    with two_threads():
        text = asyncio.run(run())
    for name in ('"spin"', '"idle"', '"MainThread"', "a-task-of-mine", "in wait_for_nothing"):
        assert name in text, name
    assert "in idle" in text


def test_memory_that_is_kept_is_shown_by_line() -> None:
    kept: list[bytearray] = []
    stop = threading.Event()

    def keep() -> None:
        kept.append(bytearray(5_000_000))
        stop.set()

    timer = threading.Timer(0.1, keep)
    timer.start()
    text = allocations(60, stop).decode()
    timer.join()
    assert kept
    assert re.search(r"\n +50\d{5} bytes .*test_profiling\.py:\d+", text), text
    assert "VmRSS" in summary().decode()
    assert "generation 2" in summary().decode()
