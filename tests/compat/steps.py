"""The steps of a side-by-side run, and the seeded generator of them.

The generator draws from few keys, values, leases and revisions, so that most calls meet what
earlier ones left. Where etcd 3.5 is known to crash, or to break what it promises, the generator
stays away; each place says so.
"""

from dataclasses import dataclass
from random import Random
from typing import Protocol

from google.protobuf.message import Message

from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import one_line

# At most twelve: etcd's sort is stable only for so few, and equal sort values are wanted.
KEYS = (b"\0", b"a", b"a\0", b"aa", b"ab", b"b", b"ba", b"c", b"c\xff", b"\xff", b"\xff\xff")
VALUES = (b"", b"1", b"2", b"3", b"\0\xff", b"x" * 40)
LEASES = (1, 2, 3, 77, 2**62, -9)
STREAMS = 3
FOREVER = 100_000  # seconds; no lease ends within a run
# Apart from those that the servers assign from 0 on: etcd keeps the id of a watcher that compaction
# cancelled, so an assigned id must never meet a given one that is in such a state.
WATCH_IDS = (1000, 1001, -1, -7, 2**40)

_SORT_ORDERS = (rpc.RangeRequest.NONE, rpc.RangeRequest.ASCEND, rpc.RangeRequest.DESCEND)
_SORT_TARGETS = (
    rpc.RangeRequest.KEY,
    rpc.RangeRequest.VERSION,
    rpc.RangeRequest.CREATE,
    rpc.RangeRequest.MOD,
    rpc.RangeRequest.VALUE,
)
_TARGETS = (
    rpc.Compare.VERSION,
    rpc.Compare.CREATE,
    rpc.Compare.MOD,
    rpc.Compare.VALUE,
    rpc.Compare.LEASE,
)
_RESULTS = (
    rpc.Compare.EQUAL,
    rpc.Compare.GREATER,
    rpc.Compare.LESS,
    rpc.Compare.NOT_EQUAL,
)
_FILTERS = (rpc.WatchCreateRequest.NOPUT, rpc.WatchCreateRequest.NODELETE)


@dataclass(frozen=True, slots=True)
class Call:
    """A unary call."""

    method: str
    request: Message

    def __str__(self) -> str:
        """One line for a report."""
        return f"{self.method} {{ {one_line(self.request)} }}"


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """One refresh of a lease."""

    lease: int


@dataclass(frozen=True, slots=True)
class Watch:
    """A request on a Watch stream, which is opened when it is not."""

    stream: int
    request: rpc.WatchRequest

    def __str__(self) -> str:
        """One line for a report."""
        return f"Watch stream {self.stream} {{ {one_line(self.request)} }}"


@dataclass(frozen=True, slots=True)
class CloseStream:
    """The end of a Watch stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Wait until every watcher has all its events, and compare them."""


Step = Call | KeepAlive | Watch | CloseStream | Settle


class World(Protocol):
    """What the generator knows of the servers' state."""

    @property
    def revision(self) -> int:
        """The newest revision."""

    @property
    def compacted(self) -> int:
        """The compacted revision, 0 before the first compaction."""

    def watch_ids(self, stream: int) -> list[int]:
        """Ids of the live watchers of a stream."""


def prefix_end(prefix: bytes) -> bytes:
    """Return the range end that covers all keys that begin with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


class Generator:
    """Draws steps, the same ones for the same seed and the same answers."""

    def __init__(self, seed: int, world: World) -> None:
        """Begin from `seed`, looking at `world` before each step."""
        self._random = Random(seed)
        self._world = world

    def step(self) -> Step:
        """Draw the next step."""
        draws = {
            self._range: 22,
            self._put: 24,
            self._delete: 8,
            self._txn: 20,
            self._compact: 1.2,
            self._lease: 10,
            self._watch: 8,
            self._hash: 1,
            self._settle: 2,
        }
        return self._random.choices(list(draws), list(draws.values()))[0]()

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _key(self) -> bytes:
        return b"" if self._chance(0.02) else self._random.choice(KEYS)

    def _value(self) -> bytes:
        return self._random.choice(VALUES)

    def _lease_id(self) -> int:
        return self._random.choice(LEASES)

    def _span(self) -> tuple[bytes, bytes]:
        """Draw a key and a range end: one key, prefix, from key on, everything, any two."""
        key = self._key()
        shape = self._random.randrange(10)
        if shape < 4:
            return key, b""
        if shape < 6:
            return key, prefix_end(key)
        if shape == 6:
            return key, b"\0"
        if shape == 7:
            return b"\0", b"\0"
        return key, self._key()

    def _any_revision(self) -> int:
        """Draw a revision, mostly a readable one, also compacted, future and negative ones."""
        world = self._world
        if self._chance(0.75):
            return self._random.randint(min(world.compacted, world.revision), world.revision)
        around = self._random.choice((0, 1, world.compacted, world.revision))
        return around + self._random.randint(-2, 2)

    def _range_request(self) -> rpc.RangeRequest:
        key, range_end = self._span()
        request = rpc.RangeRequest(key=key, range_end=range_end)
        if self._chance(0.4):
            request.limit = self._random.choice((1, 1, 2, 3, 5, 100, -1))
        if self._chance(0.3):
            request.revision = self._any_revision()
        if self._chance(0.5):
            # Unknown numbers are left out: an unknown target crashes etcd 3.5, and an unknown
            # order is an error only from 3.6 on.
            request.sort_order = self._random.choice(_SORT_ORDERS)
            request.sort_target = self._random.choice(_SORT_TARGETS)
        for name in ("serializable", "keys_only", "count_only"):
            setattr(request, name, self._chance(0.2))
        for name in ("mod", "create"):
            if self._chance(0.1):
                setattr(request, f"min_{name}_revision", self._any_revision())
            if self._chance(0.1):
                setattr(request, f"max_{name}_revision", self._any_revision())
        return request

    def _put_request(self, key: bytes) -> rpc.PutRequest:
        request = rpc.PutRequest(key=key, prev_kv=self._chance(0.3))
        request.ignore_value = self._chance(0.1)
        request.ignore_lease = self._chance(0.1)
        if not request.ignore_value or self._chance(0.05):
            request.value = self._value()
        if self._chance(0.05 if request.ignore_lease else 0.3):
            request.lease = self._lease_id()
        return request

    def _range(self) -> Step:
        return Call("Range", self._range_request())

    def _put(self) -> Step:
        return Call("Put", self._put_request(self._key()))

    def _delete(self) -> Step:
        key, range_end = (self._key(), b"") if self._chance(0.6) else self._span()
        prev_kv = self._chance(0.5)
        return Call(
            "DeleteRange", rpc.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv)
        )

    def _compact(self) -> Step:
        return Call(
            "Compact",
            rpc.CompactionRequest(revision=self._any_revision(), physical=self._chance(0.5)),
        )

    def _hash(self) -> Step:
        revision = self._any_revision()
        if 0 < revision < self._world.compacted:
            # etcd answers some of these all the same, from hashes that it took before.
            revision = self._world.revision
        return Call("HashKV", rpc.HashKVRequest(revision=revision))

    def _settle(self) -> Step:
        return Settle()

    def _txn(self) -> Call:
        if self._chance(0.03):
            operations = self._random.choice((127, 128, 129))
            many = [rpc.RequestOp(request_range=rpc.RangeRequest(key=b"a"))] * operations
            txn = rpc.TxnRequest()
            self._random.choice((txn.success, txn.failure)).extend(many)
            return Call("Txn", txn)
        return Call("Txn", self._txn_request(0, list(KEYS), from_key_on=self._chance(0.1)))

    def _txn_request(self, depth: int, free: list[bytes], from_key_on: bool) -> rpc.TxnRequest:
        request = rpc.TxnRequest()
        for _ in range(self._random.choice((0, 1, 1, 2, 3))):
            request.compare.append(self._compare())
        for branch in (request.success, request.failure):
            unwritten = list(free)
            for _ in range(self._random.choice((0, 1, 1, 2, 3, 4))):
                branch.append(self._operation(depth, unwritten, from_key_on))
        return request

    def _operation(self, depth: int, unwritten: list[bytes], from_key_on: bool) -> rpc.RequestOp:
        """Draw an operation; `unwritten` are the keys that the Txn may still write."""
        if self._chance(0.01):
            return rpc.RequestOp()
        kind = self._random.choices(("range", "put", "delete", "txn"), (35, 35, 20, 10))[0]
        if kind == "range" or (kind == "txn" and depth == 3):
            return rpc.RequestOp(request_range=self._range_request())
        if kind == "txn":
            return rpc.RequestOp(request_txn=self._txn_request(depth + 1, unwritten, from_key_on))
        if kind == "put" and not from_key_on:
            # etcd 3.5 does not see that a put and a delete from a key on overlap, and may panic
            # on what it then lets through: a Txn has one or the other.
            return rpc.RequestOp(request_put=self._put_request(self._unwritten(unwritten)))
        key, range_end = self._unwritten(unwritten), b""
        if from_key_on or self._chance(0.15):
            key, range_end = self._span()
        if range_end == b"\0" and not from_key_on:
            range_end = b""
        prev_kv = self._chance(0.5)
        return rpc.RequestOp(
            request_delete_range=rpc.DeleteRangeRequest(
                key=key, range_end=range_end, prev_kv=prev_kv
            )
        )

    def _unwritten(self, unwritten: list[bytes]) -> bytes:
        if not unwritten or self._chance(0.03):
            return self._key()
        return unwritten.pop(self._random.randrange(len(unwritten)))

    def _compare(self) -> rpc.Compare:
        target = self._random.choice(_TARGETS)
        result = self._random.choice(_RESULTS)
        compare = rpc.Compare(key=self._key(), target=target, result=result)
        if self._chance(0.2):
            compare.key, compare.range_end = self._span()
        if self._chance(0.08):  # most likely a value of another target
            target = self._random.choice(_TARGETS)
        match target:
            case rpc.Compare.VERSION:
                compare.version = self._random.randint(0, 3)
            case rpc.Compare.CREATE:
                compare.create_revision = self._random.choice((0, self._any_revision()))
            case rpc.Compare.MOD:
                compare.mod_revision = self._random.choice((0, self._any_revision()))
            case rpc.Compare.VALUE:
                compare.value = self._value()
            case rpc.Compare.LEASE:
                compare.lease = self._random.choice((0, self._lease_id()))
        if self._chance(0.02):
            compare.ClearField(compare.WhichOneof("target_union") or "version")
        return compare

    def _lease(self) -> Step:
        lease = 0 if self._chance(0.02) else self._lease_id()
        match self._random.choices(
            ("grant", "revoke", "time", "list", "keep", "long"), (40, 20, 25, 5, 8, 2)
        )[0]:
            case "grant":
                # Id 0 asks for any id, on which two servers need not agree.
                lease = lease or LEASES[0]
                return Call("LeaseGrant", rpc.LeaseGrantRequest(TTL=FOREVER + lease % 7, ID=lease))
            case "long":
                ttl = 9_000_000_000 + self._random.randint(0, 1)
                return Call("LeaseGrant", rpc.LeaseGrantRequest(TTL=ttl, ID=lease or LEASES[0]))
            case "revoke":
                return Call("LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
            case "time":
                keys = self._chance(0.7)
                return Call("LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=lease, keys=keys))
            case "list":
                return Call("LeaseLeases", rpc.LeaseLeasesRequest())
            case _:
                return KeepAlive(lease)

    def _watch(self) -> Step:
        stream = self._random.randrange(STREAMS)
        ids = self._world.watch_ids(stream)
        kind = self._random.choices(
            ("create", "cancel", "progress", "close"), (50, 5 + 3 * len(ids), 8, 4)
        )[0]
        if kind == "close":
            return CloseStream(stream)
        if kind == "progress":
            return Watch(stream, rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
        if kind == "cancel":
            known = ids and not self._chance(0.1)
            watch_id = self._random.choice(ids if known else (*WATCH_IDS, 500))
            cancel = rpc.WatchCancelRequest(watch_id=watch_id)
            return Watch(stream, rpc.WatchRequest(cancel_request=cancel))
        return Watch(stream, rpc.WatchRequest(create_request=self._create_request()))

    def _create_request(self) -> rpc.WatchCreateRequest:
        key, range_end = self._span()
        create = rpc.WatchCreateRequest(key=key, range_end=range_end)
        if self._chance(0.6):
            create.start_revision = self._any_revision()
        for name in ("prev_kv", "fragment", "progress_notify"):
            setattr(create, name, self._chance(0.3))
        if self._chance(0.3):
            create.filters.extend(self._random.choices(_FILTERS, k=self._random.randint(1, 2)))
        if self._chance(0.2):
            create.watch_id = self._random.choice(WATCH_IDS)
        return create
