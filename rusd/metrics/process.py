"""The process as its operating system sees it, beside what prometheus-client tells of it."""

import os
import resource
from pathlib import Path
from typing import Final

from rusd.metrics.family import Family, counter, gauge

_PROC: Final = Path("/proc/self")
_UNLIMITED: Final = 2.0**64 - 1


def process_families() -> list[Family]:
    """Metrics that need no event loop, and are read on a thread."""
    return [
        gauge("os_fd_limit", "The file descriptor limit.", _descriptor_limit),
        gauge("os_fd_used", "The number of used file descriptors.", _descriptors),
        gauge(
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
            _most_memory,
        ),
        counter(
            "process_network_receive_bytes_total",
            "Number of bytes received by the process's network namespace.",
            lambda: _octets("InOctets"),
        ),
        counter(
            "process_network_transmit_bytes_total",
            "Number of bytes sent by the process's network namespace.",
            lambda: _octets("OutOctets"),
        ),
    ]


def _descriptor_limit() -> float:
    return float(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _descriptors() -> float:
    # Without the one that lists them.
    return len(os.listdir(_PROC / "fd")) - 1


def _most_memory() -> float:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return _UNLIMITED if limit == resource.RLIM_INFINITY else float(limit)


def _octets(name: str) -> float:
    """A counter of /proc/self/net/netstat: a line of names before each line of numbers."""
    lines = (_PROC / "net/netstat").read_text().splitlines()
    for names, numbers in zip(lines[::2], lines[1::2], strict=True):
        if names.startswith("IpExt:"):
            return float(dict(zip(names.split(), numbers.split(), strict=True)).get(name, 0))
    return 0.0
