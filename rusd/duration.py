"""Durations in Go's syntax, which etcd's flags, files and log lines have: `100ms`, `1h30m`."""

import re

_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_UNIT = "|".join(sorted(_SECONDS, key=len, reverse=True))
_PART = re.compile(rf"([0-9]+\.?[0-9]*|\.[0-9]+)({_UNIT})")
_WHOLE = re.compile(rf"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:{_UNIT}))+")

LONGEST = (2**63 - 1) / 1e9
"""The longest duration, in seconds, that etcd can hold (nanoseconds in 64 bits, 292 years)."""


def parse_duration(text: str) -> float:
    """Return the seconds that `text` means; ValueError where Go's ParseDuration has an error."""
    if text in ("0", "+0", "-0"):
        return 0.0
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"invalid duration {text!r}")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    if seconds > LONGEST:
        raise ValueError(f"invalid duration {text!r}")
    return -seconds if text[0] == "-" else seconds


def format_duration(seconds: float) -> str:
    """Write `seconds` as Go's Duration.String does: `1.5s`, `2h0m0s`, `30.25ms`, `0s`."""
    nanoseconds = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 and nanoseconds else ""
    if not nanoseconds:
        return "0s"
    for unit, size in (("ns", 1), ("\u00b5s", 10**3), ("ms", 10**6)):
        if nanoseconds < size * 1000:
            return f"{sign}{_decimal(nanoseconds, size)}{unit}"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    text = f"{_decimal(rest, 10**9)}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return sign + text


def _decimal(count: int, size: int) -> str:
    """Write count / size exactly, without trailing zeros; `size` is a power of ten."""
    whole, rest = divmod(count, size)
    if not rest:
        return str(whole)
    digits = len(str(size)) - 1
    return f"{whole}.{str(rest).zfill(digits).rstrip('0')}"
