"""Profiles as files: pprof's (`go tool pprof`, Speedscope, Pyroscope), and collapsed stacks, which
flame graphs are drawn from.
"""

import gzip
from collections import defaultdict
from types import CodeType

from rusd.pb import profile_pb2 as pb
from rusd.profiling.sampler import INTERVAL, Profile, Stack


def collapsed(profile: Profile) -> bytes:
    """One line a stack, outermost first, after its thread: "a;b;c 12", in milliseconds of
    processor time.
    """
    totals: dict[str, int] = defaultdict(int)
    for (thread, stack), cost in profile.costs.items():
        frames = [f"{code.co_qualname} ({_short(code)})" for code, _ in reversed(stack)]
        totals[";".join([thread, *(frames or ["not Python"])]).replace(" ", "_")] += cost.cpu
    lines = [f"{name} {round(cpu / 1e6)}\n" for name, cpu in totals.items() if cpu >= 500_000]
    return "".join(sorted(lines)).encode()


def pprof(profile: Profile) -> bytes:
    """profile.proto, compressed. Its values: samples, processor time, wall-clock time."""
    return _Encoder().encode(profile)


class _Encoder:
    """Gives texts, functions and lines their numbers."""

    def __init__(self) -> None:
        self._profile = pb.Profile(string_table=[""])
        self._texts = {"": 0}
        self._functions: dict[CodeType | str, int] = {}
        self._locations: dict[tuple[CodeType | str, int], int] = {}

    def encode(self, profile: Profile) -> bytes:
        made, text = self._profile, self._text
        for kind, unit in (("samples", "count"), ("cpu", "nanoseconds"), ("wall", "nanoseconds")):
            made.sample_type.add(type=text(kind), unit=text(unit))
        made.period_type.CopyFrom(pb.ValueType(type=text("cpu"), unit=text("nanoseconds")))
        made.period = int(INTERVAL * 1e9)
        made.default_sample_type = text("cpu")
        made.time_nanos, made.duration_nanos = profile.began, profile.took
        for (thread, stack), cost in profile.costs.items():
            sample = made.sample.add(value=(cost.samples, cost.cpu, cost.wall))
            sample.location_id.extend(self._stack(thread, stack))
            sample.label.add(key=text("thread"), str=text(thread))
        return gzip.compress(made.SerializeToString(), 1)

    def _stack(self, thread: str, stack: Stack) -> list[int]:
        if not stack:
            return [self._location(f"not Python: {thread}", 0)]
        return [self._location(code, line) for code, line in stack]

    def _location(self, code: CodeType | str, line: int) -> int:
        known = self._locations.get((code, line))
        if known is None:
            known = self._locations[code, line] = len(self._locations) + 1
            location = self._profile.location.add(id=known)
            location.line.add(function_id=self._function(code), line=line)
        return known

    def _function(self, code: CodeType | str) -> int:
        known = self._functions.get(code)
        if known is None:
            known = self._functions[code] = len(self._functions) + 1
            function = self._profile.function.add(id=known)
            if isinstance(code, str):
                function.name = self._text(code)
            else:
                function.name = self._text(code.co_qualname)
                function.filename = self._text(code.co_filename)
                function.start_line = code.co_firstlineno
            function.system_name = function.name
        return known

    def _text(self, text: str) -> int:
        known = self._texts.get(text)
        if known is None:
            known = self._texts[text] = len(self._profile.string_table)
            self._profile.string_table.append(text)
        return known


def _short(code: CodeType) -> str:
    """The last folder, the file and the line of a function."""
    return "/".join(code.co_filename.split("/")[-2:]) + f":{code.co_firstlineno}"
