"""Sweeps from the tables what a compaction has made unreachable.

Every event names the one that it replaced, so the events up to the compacted revision list exactly
what to remove: what they replaced, and deletes themselves. Deletes of the compacted revision itself
stay until the next compaction, since a watcher may start there. Nothing else that stays is visited
twice.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.records import DELETED, NO_REVISION, REVISION, escape, event_key
from rusd.mvcc.tables import new_batch, rows

SLICE: Final = 500
"""Events a slice: about a millisecond."""


def sweep(keyspace: Keyspace, most: int = SLICE) -> Iterator[None]:
    """Removes what the last compaction frees, looking at `most` events, 1 or more, a slice. What
    it has not done when it is given up is done by the next sweep.
    """
    tables = keyspace.tables
    goal = keyspace.compacted
    row, end = REVISION.pack(max(0, keyspace.swept), 0), REVISION.pack(goal + 1, 0)
    last = REVISION.pack(goal, 0)
    while True:
        events = list(islice(rows(tables.events, row, end), most))
        keyspace.counters.swept += len(events)
        batch = new_batch()
        for revision, value in events:
            replaced = value[:12]
            key = escape(event_key(value[12:]))
            if replaced != NO_REVISION:
                batch.delete(replaced, tables.events_family)
                batch.delete(key + replaced[:8], tables.history_family)
            if value[12] == DELETED and revision < last:
                batch.delete(revision, tables.events_family)
        if len(events) < most:
            keyspace.mark_swept(batch, goal)
            return
        tables.write(batch)
        row = events[-1][0] + b"\0"
        yield
