"""The two load generators as subprocesses: h2load, and load.c for what h2load cannot do.

h2load repeats one request; load.c numbers the keys, follows revisions, counts events and can keep
a given rate. Both check that the calls succeed, so that no server is fast at answering errors.
"""

import array
import json
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_SOURCE = Path(__file__).with_name("load.c")
_LIMIT_SECONDS = 600.0


class LoadError(RuntimeError):
    """A generator is missing, failed, or saw calls fail."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What load.c counted: answered calls over seconds; events to all watchers over seconds."""

    calls: int
    failed: int
    in_window: int
    seconds: float
    events: int
    event_seconds: float
    wrong_watchers: int

    @property
    def rate(self) -> float:
        """Answered calls a second, in the measured window."""
        return self.in_window / self.seconds


@dataclass
class Generators:
    """Where the generators are, and the scratch folder for what they read and write."""

    folder: Path
    busiest: float = field(default=0.0, init=False)
    """The largest share of one core that a generator used since this was last set to 0."""

    def __post_init__(self) -> None:
        """Build load.c into the folder."""
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise LoadError("no C compiler (cc) for tests/bench/load.c")
        self._load = self.folder / "load"
        subprocess.run([compiler, "-O2", "-o", self._load, _SOURCE], check=True)

    def h2load(
        self,
        port: int,
        path: str,
        body: bytes,
        connections: int,
        streams: int,
        seconds: float,
        scheme: str = "http",
    ) -> float:
        """Answered calls a second, the same body over and over."""
        program = shutil.which("h2load")
        if program is None:
            raise LoadError("h2load is missing: install nghttp2-client")
        command = [
            *(program, "-D", _ms(seconds), "--warm-up-time", _ms(_warm_up(seconds))),
            *("-c", str(connections), "-m", str(streams), "-d", str(self._file(body))),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            f"{scheme}://127.0.0.1:{port}{path}",
        ]
        with self._watched():
            text = _output(command)
        rate = re.search(r"([\d.]+) req/s", text)
        answers = re.search(r"(\d+) failed, (\d+) errored", text)
        good = re.search(r"status codes: (\d+) 2xx", text)
        data = re.search(r"\((\d+)\) data", text)
        if not (rate and answers and good and data):
            raise LoadError(f"h2load printed {text!r}")
        # An error of gRPC has status 200 too, but no data: a message has five bytes and more.
        if answers.group(1, 2) != ("0", "0") or int(data[1]) < 5 * int(good[1]) or good[1] == "0":
            raise LoadError(f"h2load saw calls fail: {text}")
        return float(rate[1])

    def closed(
        self,
        port: int,
        path: str,
        body: bytes | Sequence[bytes],
        connections: int,
        streams: int,
        *options: str | int | Path,
        seconds: float | None = None,
        count: int | None = None,
    ) -> Counted:
        """load.c with each stream always waiting for an answer, for a time or a count of calls."""
        command = [
            *self._calls(port, path, [body] if isinstance(body, bytes) else body, connections),
            *("--streams", str(streams), *map(str, options)),
        ]
        if seconds is not None:
            command += ["--seconds", str(seconds), "--warm-up", str(_warm_up(seconds))]
        if count is not None:
            command += ["--count", str(count)]
        with self._watched():
            return _flawless(_output(command))

    def paced(
        self,
        port: int,
        path: str,
        body: bytes,
        connections: int,
        rate: int,
        *options: str | int | Path,
    ) -> Counted:
        """load.c with calls at a fixed rate (a second), whatever the server does."""
        command = self._calls(port, path, [body], connections)
        return _flawless(_output([*command, "--rate", str(rate), *map(str, options)]))

    @contextmanager
    def pressing(
        self, port: int, path: str, body: bytes, connections: int, rate: int
    ) -> Iterator["Latencies"]:
        """Calls at a fixed rate for as long as the block lasts; after it, their latencies."""
        command = self._calls(port, path, [body], connections)
        with self._until_told([*command, "--rate", str(rate)]) as latencies:
            yield latencies

    @contextmanager
    def saturating(
        self, port: int, path: str, body: bytes, connections: int, streams: int
    ) -> Iterator["Latencies"]:
        """Closed loop, as `closed`, for as long as the block lasts; after it, the latencies."""
        command = self._calls(port, path, [body], connections)
        with self._until_told([*command, "--streams", str(streams)]) as latencies:
            yield latencies

    @contextmanager
    def _until_told(self, command: list[str]) -> Iterator["Latencies"]:
        file = self.folder / "latencies"
        latencies = Latencies()
        with subprocess.Popen(
            [*command, "--until-stdin", "--records", str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                yield latencies
                out, error = process.communicate(timeout=_LIMIT_SECONDS)
            finally:
                process.kill()
        if process.returncode:
            raise LoadError(error.decode().strip())
        latencies.failed = _counted(out.decode()).failed
        latencies.calls = records(file)

    def echo(
        self, port: int, path: str, bodies: Sequence[bytes], connections: int, seconds: float
    ) -> Counted:
        """load.c with one stream for each body, sent again at each answer."""
        command = [
            *(str(self._load), "--port", str(port), "--echo", path),
            *("--stream-body", str(self._file(b"".join(bodies))), "--held", str(len(bodies))),
            *("--stream-connections", str(connections)),
            *("--seconds", str(seconds), "--warm-up", str(_warm_up(seconds))),
        ]
        with self._watched():
            return _flawless(_output(command))

    def watching(self, path: str, body: bytes, watchers: int, connections: int) -> list[str]:
        """Options that add watchers to a run of load.c."""
        return [
            *("--watch", path, "--stream-body", str(self._file(body))),
            *("--held", str(watchers), "--stream-connections", str(connections)),
        ]

    def _calls(self, port: int, path: str, bodies: Sequence[bytes], connections: int) -> list[str]:
        command = [str(self._load), "--port", str(port), "--path", path]
        for body in bodies:
            command += ["--body", str(self._file(body))]
        return [*command, "--connections", str(connections)]

    def _file(self, body: bytes) -> Path:
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            file.write(body)
        return Path(file.name)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        yield
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.busiest = max(self.busiest, used / (time.monotonic() - begin))


@dataclass
class Latencies:
    """When calls were due (ns, monotonic) and how long after that each was answered (ns)."""

    calls: list[tuple[int, int]] = field(default_factory=list)
    failed: int = 0

    def worst_ms(self, begin: int, end: int) -> float:
        """The slowest of the calls that were in flight at some time from `begin` to `end` (ns)."""
        return max(took for due, took in self.calls if due <= end and due + took >= begin) / 1e6

    def rate(self, begin: int, end: int) -> float:
        """Calls a second that were answered from `begin` to `end` (ns)."""
        return sum(begin <= due + took <= end for due, took in self.calls) / (end - begin) * 1e9


def records(file: Path) -> list[tuple[int, int]]:
    """Pairs (moment, duration) in nanoseconds, as load.c writes them."""
    flat = array.array("q", file.read_bytes())
    return list(zip(flat[::2], flat[1::2], strict=True))


def _warm_up(seconds: float) -> float:
    return max(0.2, seconds / 4)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
    )
    if done.returncode:
        raise LoadError(f"{Path(command[0]).name}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _counted(text: str) -> Counted:
    return Counted(**json.loads(text))


def _flawless(text: str) -> Counted:
    counted = _counted(text)
    if counted.failed:
        raise LoadError(f"{counted.failed} calls failed, {counted.calls} succeeded")
    if counted.wrong_watchers:
        raise LoadError(f"{counted.wrong_watchers} watchers did not get each event once")
    return counted
