"""What the figures were measured on, in a few lines for the reader of the table."""

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import rusd


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


def description(folder: Path, etcd: Sequence[str] | None) -> list[tuple[str, str]]:
    """Names and values: hardware, kernel, disk under `folder`, versions."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = [
        ("processor", f"{os.cpu_count()} cores, {model[1] if model else platform.machine()}"),
        ("memory", f"{memory / 1e9:.0f} GB"),
        ("kernel", f"{platform.system()} {platform.release()}"),
        ("disk", f"{filesystem(folder)}, {syncs_a_second(folder):,.0f} fdatasync a second"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("rusd", rusd.__version__),
    ]
    for package in ("uvloop", "rocksdict", "protobuf"):
        lines.append((package, importlib.metadata.version(package)))
    if etcd is not None:
        lines.append(("etcd", _first_line([*etcd, "--version"]).removeprefix("etcd Version: ")))
    lines.append(("h2load", _first_line(["h2load", "--version"])))
    return lines


def _first_line(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )[0]
    except FileNotFoundError:
        return "missing"
