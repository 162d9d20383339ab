"""What `--feature-gates` says: which of etcd's experiments are on."""

from typing import Final

INITIAL_CORRUPT_CHECK: Final = "InitialCorruptCheck"
COMPACT_HASH_CHECK: Final = "CompactHashCheck"

MEANINGFUL: Final = frozenset((INITIAL_CORRUPT_CHECK, COMPACT_HASH_CHECK))

_ALL: Final = ("AllAlpha", "AllBeta")
_KNOWN: Final = MEANINGFUL | {
    *_ALL,
    "DistributedTracing",
    "FastLeaseKeepAlive",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "PriorityRequest",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
}
_BOOLS: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def parse_feature_gates(text: str) -> frozenset[str]:
    """The gates that are on, of `Name=true,Other=false`; the last of a name counts. AllAlpha stands
    for both that mean something here. Raises ValueError.
    """
    given: dict[str, bool] = {}
    for pair in filter(None, (each.strip() for each in text.split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise ValueError(f"missing bool value for feature gate {name}")
        if name not in _KNOWN:
            raise ValueError(f"unrecognized feature gate: {name}")
        if value not in _BOOLS:
            raise ValueError(f"invalid value of {name}: {value}")
        given[name] = _BOOLS[value]
    on = {name for name, is_on in given.items() if is_on and name not in _ALL}
    if given.get("AllAlpha"):
        on |= {name for name in MEANINGFUL if given.get(name, True)}
    return frozenset(on)
