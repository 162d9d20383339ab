"""What the figures were measured on, in a few lines for the reader of the table."""

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import rusd

_TELLING_SECONDS = 0.2  # the kernel counts in hundredths


def filesystem(folder: Path) -> str:
    """The type of the file system that holds the folder, such as ext4."""
    best, kind = -1, "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, type_, *_ = line.split()
        if folder.resolve().is_relative_to(mount) and len(mount) > best:
            best, kind = len(mount), type_
    return kind


def syncs_a_second(folder: Path) -> float:
    """Appends of 350 bytes, each made durable by fdatasync, in half a second."""
    file = folder / "syncs"
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        begin, count = time.monotonic(), 0
        while time.monotonic() - begin < 0.5:
            os.write(descriptor, bytes(350))
            os.fdatasync(descriptor)
            count += 1
        return count / (time.monotonic() - begin)
    finally:
        os.close(descriptor)
        file.unlink()


def descendants(pid: int) -> Iterator[int]:
    """The process and all that it started and that still runs."""
    yield pid
    gone = suppress(FileNotFoundError, ProcessLookupError)  # threads and processes come and go
    threads: list[Path] = []
    with gone:
        threads += Path(f"/proc/{pid}/task").iterdir()
    for thread in threads:
        children = ""
        with gone:
            children = (thread / "children").read_text()
        for child in children.split():
            yield from descendants(int(child))


class Others:
    """How much of the machine other processes took: what was busy, less what is ours.

    Ours are this process, the children that it has reaped, and the members that run.
    """

    def __init__(self, members: Sequence[int]) -> None:
        """Begin to measure."""
        self._begin, self._before = time.monotonic(), self._seconds(members)

    def share(self, members: Sequence[int]) -> float:
        """The share of all cores, 0 to 1, since the beginning; 0 if that is too short to tell."""
        elapsed = time.monotonic() - self._begin
        if elapsed < _TELLING_SECONDS:
            return 0.0
        used = self._seconds(members) - self._before
        return min(1.0, max(0.0, used / elapsed / (os.cpu_count() or 1)))

    @staticmethod
    def _seconds(members: Sequence[int]) -> float:
        # proc(5): user, nice and system time of all cores come first, in ticks. Of a process, its
        # own user and system time are followed by those of the children that it has reaped.
        busy = sum(map(int, Path("/proc/stat").read_text().split()[1:4]))
        for pid in chain.from_iterable(map(descendants, members)):
            with suppress(FileNotFoundError, ProcessLookupError):  # a child may have ended
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                busy -= sum(map(int, fields[11:15]))
        ours = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            used = resource.getrusage(who)
            ours += used.ru_utime + used.ru_stime
        return busy / os.sysconf("SC_CLK_TCK") - ours


def description(folder: Path, etcd: Sequence[str] | None) -> list[tuple[str, str]]:
    """Names and values: hardware, kernel, disk under `folder`, versions."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = [
        ("processor", f"{os.cpu_count()} cores, {model[1] if model else platform.machine()}"),
        ("memory", f"{memory / 1e9:.0f} GB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("disk", f"{filesystem(folder)}, {syncs_a_second(folder):,.0f} fdatasync a second"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}, {build()}"),
        ("rusd", rusd.__version__),
    ]
    for package in ("uvloop", "rocksdict", "protobuf"):
        lines.append((package, importlib.metadata.version(package)))
    if etcd is not None:
        lines.append(("etcd", _first_line([*etcd, "--version"]).removeprefix("etcd Version: ")))
    lines.append(("h2load", _first_line(["h2load", "--version"])))
    return lines


def build() -> str:
    """How the interpreter was built, as far as it tells: a plain build is slower by 5 to 10 %."""
    told = " ".join(
        str(sysconfig.get_config_var(name) or "")
        for name in ("CONFIG_ARGS", "PY_CORE_CFLAGS", "PY_CORE_LDFLAGS", "CFLAGS", "OPT")
    )
    # PGO_PROF_USE_FLAG says nothing: it has what a build with profiles would use.
    profiled = "--enable-optimizations" in told or "-fprofile-use" in told
    linked = "--with-lto" in told or "-flto" in told
    # Distributions build with both, by options to make that are not kept.
    kept = not (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists()
    kept = kept and sys.base_prefix != "/usr" and bool(sysconfig.get_config_var("CONFIG_ARGS"))
    words = {True: "with", False: "configured without" if kept else "not told whether with"}
    if profiled == linked:
        lines = [f"{words[profiled]} PGO and LTO"]
    else:
        lines = [f"{words[profiled]} PGO", f"{words[linked]} LTO"]
    lines.append(f"libpython {_linkage()}")
    return ", ".join(lines)


def _linkage() -> str:
    try:
        done = subprocess.run(["ldd", sys.executable], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "not told whether shared"
    return "shared" if "libpython" in done.stdout else "static"


def _first_line(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )[0]
    except FileNotFoundError:
        return "missing"
