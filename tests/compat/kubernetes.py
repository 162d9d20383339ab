"""What kube-apiserver 1.35 sends to etcd: the calls of its storage layer, and no Kubernetes.

Facts, from Kubernetes' documentation and discussions: an object is one key; it is created, updated
and deleted by a transaction that compares `mod_revision`; lists are ranges of a prefix, in pages at
one revision; objects are counted by listing their keys (1.34), before by `count_only`; each kind of
objects is watched from the revision of its list on, with a leader required; a consistent read from
the watch cache asks for a watch's progress; events live as long as a lease that many of them share;
one API server of several wins the turn to compact.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Answer, Client, WatchStream
from tests.compat.steps import prefix_end
from tests.members import Member

REGISTRY = "/registry/"
COMPACT_KEY = b"compact_rev_key"
HAS_LEADER = (("hasleader", "true"),)
PROGRESS_FIXED = ((3, 4, 31), (3, 5, 13))
"""The releases of etcd whose answers to progress requests can be trusted, of each minor version."""


def key_of(path: str) -> bytes:
    """The key of an object, as in "pods/default/web"."""
    return f"{REGISTRY}{path}".encode()


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    kvs: list[kv.KeyValue]
    revision: int
    """The resourceVersion of the whole list."""
    following: bytes
    """Where the next page begins; empty after the last."""
    remaining: int


class ApiServer:
    """One API server's connection to one member."""

    def __init__(self, member: Member) -> None:
        """Connects."""
        self.client = Client(member.channel())

    def close(self) -> None:
        """Disconnects."""
        self.client.close()

    # Objects

    def begin_create(self, path: str, value: bytes, lease: int = 0) -> Callable[[], Answer]:
        """Sends a create; nothing is read when the object exists."""
        key = key_of(path)
        txn = _unchanged(key, 0)
        txn.success.add().request_put.CopyFrom(rpc.PutRequest(key=key, value=value, lease=lease))
        return self.client.begin("Txn", txn)

    def create(self, path: str, value: bytes, lease: int = 0) -> Answer:
        """Creates an object."""
        return self.begin_create(path, value, lease)()

    def begin_update(
        self, path: str, value: bytes, expected: int, lease: int = 0
    ) -> Callable[[], Answer]:
        """Sends an update of the object as it was at `expected`, else a read of what it is."""
        key = key_of(path)
        txn = _unchanged(key, expected)
        txn.success.add().request_put.CopyFrom(rpc.PutRequest(key=key, value=value, lease=lease))
        txn.failure.add().request_range.key = key
        return self.client.begin("Txn", txn)

    def update(self, path: str, value: bytes, expected: int, lease: int = 0) -> Answer:
        """Updates an object."""
        return self.begin_update(path, value, expected, lease)()

    def begin_delete(self, path: str, expected: int) -> Callable[[], Answer]:
        """Sends a delete of the object as it was at `expected`, else a read of what it is."""
        key = key_of(path)
        txn = _unchanged(key, expected)
        txn.success.add().request_delete_range.key = key
        txn.failure.add().request_range.key = key
        return self.client.begin("Txn", txn)

    def delete(self, path: str, expected: int) -> Answer:
        """Deletes an object."""
        return self.begin_delete(path, expected)()

    def get(self, path: str, serializable: bool = False) -> Answer:
        """Reads an object; `resourceVersion=0` need not be the newest."""
        return self.client.call(
            "Range", rpc.RangeRequest(key=key_of(path), serializable=serializable)
        )

    # Lists

    def range(
        self,
        prefix: str,
        *,
        start: bytes = b"",
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
    ) -> Answer:
        """A Range of all under a prefix, or of those from the key `start` on."""
        key = key_of(prefix)
        request = rpc.RangeRequest(
            key=start or key,
            range_end=prefix_end(key),
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
        )
        return self.client.call("Range", request)

    def page(
        self, prefix: str, limit: int, start: bytes = b"", revision: int = 0
    ) -> tuple[Answer, Page | None]:
        """One page: the first without `start`, the others at the first one's revision."""
        answer = self.range(prefix, start=start, limit=limit, revision=revision)
        response = answer.response
        if not isinstance(response, rpc.RangeResponse):
            return answer, None
        last = response.kvs[-1].key if response.more else b""
        return answer, Page(
            list(response.kvs),
            revision or response.header.revision,
            last + b"\0" if last else b"",
            response.count - len(response.kvs),
        )

    def pages(self, prefix: str, limit: int) -> Iterator[Page]:
        """A whole list, all of one revision."""
        start, revision = b"", 0
        while True:
            answer, page = self.page(prefix, limit, start, revision)
            assert page is not None, answer
            yield page
            if not page.following:
                return
            start, revision = page.following, page.revision

    # Watches

    def watches(self) -> WatchStream:
        """A stream for watches: one client's watches share it."""
        return self.client.watch_stream(metadata=HAS_LEADER)

    def revision(self) -> int:
        """The newest revision, by a read that a majority confirms."""
        answer = self.range("", limit=1)
        assert isinstance(answer.response, rpc.RangeResponse), answer
        return answer.response.header.revision

    # Leases, compaction, state

    def grant(self, seconds: int) -> int:
        """A lease; its id."""
        answer = self.client.call("LeaseGrant", rpc.LeaseGrantRequest(TTL=seconds))
        assert isinstance(answer.response, rpc.LeaseGrantResponse), answer
        return answer.response.ID

    def claim_compaction(self, turn: int, revision: int) -> Answer:
        """Says that all before `revision` is to be compacted, unless another has had this turn."""
        txn = rpc.TxnRequest()
        compare = txn.compare.add()
        compare.key, compare.target = COMPACT_KEY, rpc.Compare.VERSION
        compare.version = turn
        put = rpc.PutRequest(key=COMPACT_KEY, value=str(revision).encode())
        txn.success.add().request_put.CopyFrom(put)
        txn.failure.add().request_range.key = COMPACT_KEY
        return self.client.call("Txn", txn)

    def compact(self, revision: int) -> Answer:
        """Compacts."""
        return self.client.call("Compact", rpc.CompactionRequest(revision=revision))

    def status(self) -> rpc.StatusResponse:
        """The member's state, which is asked for the database's size and the version."""
        answer = self.client.call("Status", rpc.StatusRequest())
        assert isinstance(answer.response, rpc.StatusResponse), answer
        return answer.response


def may_request_progress(version: str) -> bool:
    """Whether an API server may ask a member of this version for a watch's progress: releases
    before the fixed ones might tell a revision before its events were sent. A version that is not
    three numbers, and what may follow a dash, cannot be read at all.
    """
    major, minor, patch = (int(part) for part in version.split("-")[0].split("."))
    for fixed in PROGRESS_FIXED:
        if (major, minor) == fixed[:2]:
            return patch >= fixed[2]
    return (major, minor, patch) > PROGRESS_FIXED[-1]


def watch_request(
    prefix: str | bytes, revision: int, watch_id: int = 0, single: bool = False
) -> rpc.WatchRequest:
    """A watch of all under a prefix, or of one key, beginning after `revision`."""
    key = key_of(prefix) if isinstance(prefix, str) else prefix
    return rpc.WatchRequest(
        create_request=rpc.WatchCreateRequest(
            key=key,
            range_end=b"" if single else prefix_end(key),
            start_revision=revision + 1,
            prev_kv=True,
            progress_notify=True,
            watch_id=watch_id,
        )
    )


def request_progress(stream: WatchStream) -> None:
    """Ask how far the stream's watches are."""
    stream.send(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))


def _unchanged(key: bytes, revision: int) -> rpc.TxnRequest:
    txn = rpc.TxnRequest()
    compare = txn.compare.add()
    compare.key, compare.target = key, rpc.Compare.MOD
    compare.mod_revision = revision
    return txn
