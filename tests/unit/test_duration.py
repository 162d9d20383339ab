"""Durations are read and written as Go reads and writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.duration import LONGEST, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("100ms", 0.1),
        ("5s", 5.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("-5s", -5.0),
        ("+5s", 5.0),
        ("3us", 3e-6),
        ("3\u00b5s", 3e-6),
        ("1h1m1s1ms1us1ns", 3661.001001001),
    ],
)
def test_go_syntax_is_understood(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5x", "5 s", " 5s", "5s ", "1h-3m", ".s", "--5s", "1e3s", "\u0665s"]
)
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


def test_more_than_292_years_is_refused() -> None:
    assert parse_duration("2562047h") < LONGEST
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration("2562048h")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.1, "100ms"),
        (0.0012, "1.2ms"),
        (1.5, "1.5s"),
        (60.0, "1m0s"),
        (7200.0, "2h0m0s"),
        (3661.25, "1h1m1.25s"),
        (-0.25, "-250ms"),
        (1e-9, "1ns"),
        (3.5e-6, "3.5\u00b5s"),
        (59.9999999999, "1m0s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=-(10**15), max_value=10**15))
def test_reading_what_was_written_gives_the_same_nanoseconds(nanoseconds: int) -> None:
    assert round(parse_duration(format_duration(nanoseconds / 1e9)) * 1e9) == nanoseconds
