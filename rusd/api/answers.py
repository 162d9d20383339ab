"""Responses: every one begins with a header that says who answers, and at which revision."""

from typing import Any, Final, Protocol

from rusd.api.errors import status_of
from rusd.mvcc.records import varint
from rusd.wire.grpc import Status


class Caller(Protocol):
    """Where an answer goes: a connection, whose tag is a stream id, or another that waits."""

    def reply(self, tag: int, message: bytes, /) -> None: ...
    def fail(self, tag: int, status: Status, /) -> None: ...


class Headers:
    """Makes ResponseHeaders of this member."""

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._ids = b"\x08" + varint(cluster_id) + b"\x10" + varint(member_id) + b"\x18"
        self._by_size: list[tuple[bytes, bytes]] = []
        self.set_term(0)

    def set_term(self, term: int) -> None:
        """The Raft term of the headers from now on."""
        suffix = b"\x20" + varint(term) if term else b""
        # Head and tail of the header field by the length of the revision's varint.
        self._by_size = [
            (b"\x0a" + varint(len(self._ids) + size + len(suffix)) + self._ids, suffix)
            for size in range(11)
        ]

    def at(self, revision: int) -> bytes:
        """Field 1 of a response: its header with a revision."""
        packed = varint(revision)
        head, tail = self._by_size[len(packed)]
        return head + packed + tail


class Answers:
    """What the pipeline calls with the results of requests."""

    def __init__(self, headers: Headers) -> None:
        self._headers: Final = headers

    def succeeded(self, caller: Any, tag: int, revision: int, body: bytes, /) -> None:
        caller.reply(tag, self._headers.at(revision) + body)

    def failed(self, caller: Any, tag: int, error: Exception, /) -> None:
        caller.fail(tag, status_of(error))
