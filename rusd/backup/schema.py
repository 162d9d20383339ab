"""What etcd keeps in its database: the buckets of the v3 schema, and how their keys are written.

Held against files of etcd 3.4 to 3.7. What each bucket has:

    key              revision -> mvccpb.KeyValue; a tombstone's has the key alone
    meta             consistent_index, term, confState, the compacted revisions
    lease            lease id -> leasepb.Lease
    alarm            etcdserverpb.AlarmMember -> nothing
    auth, authUsers, authRoles
    cluster, members, members_removed
"""

from struct import Struct
from typing import Final, NamedTuple

KEY: Final = b"key"
META: Final = b"meta"
LEASE: Final = b"lease"
ALARM: Final = b"alarm"
AUTH: Final = b"auth"
AUTH_USERS: Final = b"authUsers"
AUTH_ROLES: Final = b"authRoles"
CLUSTER: Final = b"cluster"
MEMBERS: Final = b"members"
MEMBERS_REMOVED: Final = b"members_removed"

CONSISTENT_INDEX: Final = b"consistent_index"
TERM: Final = b"term"
CONF_STATE: Final = b"confState"
SCHEDULED_COMPACTION: Final = b"scheduledCompactRev"
"""Reads below this revision fail."""
FINISHED_COMPACTION: Final = b"finishedCompactRev"
"""Up to this revision, what compaction frees is gone."""
STORAGE_VERSION: Final = b"storageVersion"
AUTH_ENABLED: Final = b"authEnabled"
AUTH_REVISION: Final = b"authRevision"
CLUSTER_VERSION: Final = b"clusterVersion"

SCHEMA_VERSION: Final = "3.5.0"
"""What is written here has the schema of etcd 3.5, which later versions bring to theirs."""

REVISION: Final = Struct(">QcQ")
"""Main revision, an underscore, sub-revision."""
SEPARATOR: Final = b"_"
TOMBSTONE: Final = b"t"
"""Follows the revision of a delete."""


MOST_SUB: Final = 2**32 - 1
"""The last sub-revision that rusd takes."""
_UPPER_SUB: Final = range(9, 13)
"""The bytes of a revision that are zero up to there."""


class Revision(NamedTuple):
    """A key of the `key` bucket."""

    main: int
    sub: int
    is_tombstone: bool = False


class SchemaError(Exception):
    """Content that is not etcd's; the text names the bucket and the key."""


def pack_revision(main: int, sub: int = 0) -> bytes:
    """The 17 bytes of a revision."""
    return REVISION.pack(main, SEPARATOR, sub)


def unpack_revision(key: bytes) -> Revision:
    """Raises SchemaError when the key is no revision."""
    size = len(key)
    if size == REVISION.size or (size == REVISION.size + 1 and key[-1:] == TOMBSTONE):
        main, separator, sub = REVISION.unpack_from(key)
        if separator == SEPARATOR and main < 1 << 63:
            return Revision(main, sub, size > REVISION.size)
    raise SchemaError(f"bucket key: {key[:32].hex()} is no revision")


def split_revisions(keys: list[bytes]) -> tuple[list[bytes], list[bool]]:
    """Main and sub-revision of each key, as 12 bytes, and whether it is a tombstone's.

    Raises SchemaError when one is no revision. `unpack_revision` for each takes five times as long.
    """
    count, size = len(keys), REVISION.size
    joined = b"".join([key[:size] for key in keys])
    if (
        len(joined) != size * count
        or joined[8::size] != SEPARATOR * count
        or not joined[::size].isascii()
        or any(joined[byte::size].count(0) != count for byte in _UPPER_SUB)
        or not {key[size:] for key in keys} <= {b"", TOMBSTONE}
    ):
        for key in keys:
            main, sub, _ = unpack_revision(key)
            if sub > MOST_SUB:
                raise SchemaError(f"bucket key: revision {main} has too many changes")
        raise AssertionError("one of them is no revision")
    return [key[:8] + key[13:size] for key in keys], [len(key) > size for key in keys]
