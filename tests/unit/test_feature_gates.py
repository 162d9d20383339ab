"""rusd/feature_gates.py: etcd's way to turn experiments on."""

import pytest

from rusd.config import ConfigError, load
from rusd.feature_gates import COMPACT_HASH_CHECK, INITIAL_CORRUPT_CHECK, parse_feature_gates

BOTH = {COMPACT_HASH_CHECK, INITIAL_CORRUPT_CHECK}


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("", set()),
        ("InitialCorruptCheck=true", {INITIAL_CORRUPT_CHECK}),
        ("InitialCorruptCheck=T, CompactHashCheck=1", BOTH),
        ("InitialCorruptCheck=true,InitialCorruptCheck=false", set()),
        ("AllAlpha=true", BOTH),
        ("CompactHashCheck=false,AllAlpha=true", {INITIAL_CORRUPT_CHECK}),
        ("LeaseCheckpoint=true,AllBeta=false", {"LeaseCheckpoint"}),
    ],
)
def test_the_gates_that_are_on(text: str, on: set[str]) -> None:
    assert parse_feature_gates(text) == on


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Nonsense=true", "unrecognized feature gate: Nonsense"),
        ("InitialCorruptCheck", "missing bool value for feature gate InitialCorruptCheck"),
        ("InitialCorruptCheck=maybe", "invalid value of InitialCorruptCheck: maybe"),
    ],
)
def test_what_is_none_stops_the_start(text: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        load([f"--feature-gates={text}"], {})


def test_a_gate_that_does_nothing_here_is_said_so() -> None:
    config = load(["--feature-gates=LeaseCheckpoint=true,InitialCorruptCheck=true"], {})
    assert config.notices == ("the feature gate LeaseCheckpoint has no meaning here",)
