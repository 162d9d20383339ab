"""A keyspace on a real database in a directory, opened, asked and closed."""

import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rusd.mvcc import guarded, txn
from rusd.mvcc.compaction import sweep
from rusd.mvcc.errors import KeyspaceError
from rusd.mvcc.hashing import HashResult, hash_history
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.ranges import read_range, run
from rusd.mvcc.txn import Plan
from rusd.pb.rpc_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    TxnResponse,
)
from rusd.storage.engine import Engine

MEMORY = Path("/dev/shm")


@contextmanager
def fresh_directory() -> Iterator[Path]:
    """A directory for one example of many: in memory where that is possible, as no test that uses
    it asks what a crash leaves.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)


Answer = Any
"""A response, or the type of the error."""


class Leases:
    """Leases that exist, and the keys that hang on them."""

    def __init__(self, leases: tuple[int, ...]) -> None:
        self.keys: dict[int, set[bytes]] = {lease: set() for lease in leases}

    def attach(self, lease: int, key: bytes) -> None:
        assert key not in self.keys[lease]
        self.keys[lease].add(key)

    def detach(self, lease: int, key: bytes) -> None:
        self.keys[lease].remove(key)

    def __contains__(self, lease: int) -> bool:
        return lease in self.keys


class Opened:
    """An open keyspace."""

    def __init__(self, directory: Path, leases: tuple[int, ...] = (), cache: int = 1 << 20) -> None:
        self.engine = Engine(directory)
        self.leases = Leases(leases)
        self.keyspace = Keyspace(self.engine.tables, self.leases, cache)

    def copy(self) -> "Opened":
        """Another one, with the same content, in a directory beside this one's."""
        self.keyspace.write()
        directory = self.engine.path.parent / "copy"
        directory.mkdir()
        self.engine.checkpoint(directory / "keyspace")
        return Opened(directory, tuple(self.leases.keys))

    def take(self, other: "Opened") -> None:
        """Takes the content of another one, in place, and closes that."""
        self.keyspace.write()
        other.keyspace.write()
        self.engine.exchange(other.engine)
        self.keyspace.exchange(other.keyspace)
        self.leases.keys = other.leases.keys
        other.close()

    def close(self) -> None:
        self.keyspace.write()
        self.engine.close()
        # The database's lock goes with the last reference to a column family.
        vars(self.keyspace).clear()
        vars(self.engine).clear()

    def ask(self, request: Any) -> Answer:
        """Applies a request as the node does; ranges read what is written."""
        try:
            return self._ask(request)
        except KeyspaceError as error:
            return type(error)

    def _ask(self, request: Any) -> Answer:
        keyspace = self.keyspace
        match request:
            case RangeRequest():
                keyspace.write()
                return RangeResponse.FromString(run(read_range(keyspace, request)))
            case PutRequest():
                return PutResponse.FromString(txn.put(keyspace, request)[1])
            case DeleteRangeRequest():
                return DeleteRangeResponse.FromString(txn.delete_range(keyspace, request)[1])
            case TxnRequest():
                put = guarded.guarded_put(request)
                if put is not None:
                    return TxnResponse.FromString(guarded.apply(keyspace, put)[1])
                plan = Plan(request)
                if plan.past:
                    keyspace.write()
                if plan.read_only:
                    return TxnResponse.FromString(txn.read_only_txn(keyspace, plan))
                return TxnResponse.FromString(txn.txn(keyspace, plan)[1])
        raise AssertionError(request)

    def compact(self, revision: int) -> None:
        """Makes what is below a revision unreadable, and leaves it to be swept."""
        if self.keyspace.compacted < revision <= self.keyspace.revision:
            self.keyspace.compact(revision)
            self.keyspace.write()

    def sweep(self) -> None:
        if self.keyspace.swept < self.keyspace.compacted:
            for _ in sweep(self.keyspace):
                pass

    def hash(self, revision: int = 0) -> HashResult:
        """The hash of what is left when all that was compacted is swept."""
        self.keyspace.write()
        self.sweep()
        result: HashResult = finished(hash_history(self.keyspace, revision))
        return result


def finished(slices: Generator[Any, None, Any]) -> Any:
    """What a sliced read returns."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return end.value
