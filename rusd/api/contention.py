"""Keys that stand in line: who created the oldest key under a prefix has its turn.

The protocol of Go's `concurrency` package, so that its locks and elections and those of this member
meet: the key is the prefix, a slash and the lease's id in hexadecimal digits, and one waits for the
key before one's own, by create revision, to be deleted.
"""

import asyncio
from contextlib import suppress
from typing import Final, NamedTuple

from rusd.api.inner import CallError, InnerClient, first_event
from rusd.pb.kv_pb2 import Event, KeyValue
from rusd.pb.rpc_pb2 import (
    Compare,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    ResponseHeader,
    TxnRequest,
    TxnResponse,
    WatchCreateRequest,
)

_TTL: Final = 60
"""Seconds of a lease that is granted to who brought none."""


class Place(NamedTuple):
    """A place in the line."""

    prefix: bytes
    key: bytes
    lease: int
    revision: int
    """At which the key was created."""
    header: ResponseHeader
    """Of the transaction that found or made it."""
    found: KeyValue | None
    """What was there already, under the same lease."""
    first: bool
    """Nobody was before it."""


def prefix_of(name: bytes) -> bytes:
    """Where the keys of a lock or an election are."""
    return name + b"/"


def oldest(prefix: bytes) -> RangeRequest:
    """Asks whose turn it is."""
    return RangeRequest(
        key=prefix,
        range_end=end_of(prefix),
        limit=1,
        sort_order=RangeRequest.ASCEND,
        sort_target=RangeRequest.CREATE,
    )


def created_at(key: bytes, revision: int) -> Compare:
    """Whether a key is still that which was created then; 0 for never."""
    return Compare(key=key, target=Compare.CREATE, result=Compare.EQUAL, create_revision=revision)


async def take_place(client: InnerClient, name: bytes, lease: int, value: bytes) -> Place:
    """Stands in line. Given up while the key is being written, it is written and deleted."""
    lease = lease or await client.grant(_TTL)
    writing = asyncio.ensure_future(_write(client, name, lease, value))
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        place = await writing
        if place.found is None:
            await client.delete(place.key)
        raise


async def _write(client: InnerClient, name: bytes, lease: int, value: bytes) -> Place:
    prefix = prefix_of(name)
    key = prefix + b"%x" % lease
    whose = RequestOp(request_range=oldest(prefix))
    answer = await client.txn(
        TxnRequest(
            compare=[created_at(key, 0)],
            success=[RequestOp(request_put=PutRequest(key=key, value=value, lease=lease)), whose],
            failure=[RequestOp(request_range=RangeRequest(key=key)), whose],
        )
    )
    found = None if answer.succeeded else answer.responses[0].response_range.kvs[0]
    revision = found.create_revision if found is not None else answer.header.revision
    owner = answer.responses[1].response_range.kvs
    first = not owner or owner[0].create_revision == revision
    return Place(prefix, key, lease, revision, answer.header, found, first)


async def wait_turn(client: InnerClient, place: Place) -> RangeResponse | None:
    """Returns when all before it are gone, with what is at the place then; None if that was so when
    it was taken. When it is given up, or fails, the place is left.
    """
    if place.first:
        return None
    try:
        while (before := await _before(client, place)) is not None:
            header, key = before
            watch = WatchCreateRequest(key=key, start_revision=header.revision + 1)
            await first_event(client, watch, Event.DELETE)
        return await client.range(RangeRequest(key=place.key))
    except (CallError, asyncio.CancelledError):
        with suppress(CallError):
            await client.delete(place.key)
        raise


async def _before(client: InnerClient, place: Place) -> tuple[ResponseHeader, bytes] | None:
    """The last key before a place, and when that was so."""
    answer = await client.range(
        RangeRequest(
            key=place.prefix,
            range_end=end_of(place.prefix),
            limit=1,
            sort_order=RangeRequest.DESCEND,
            sort_target=RangeRequest.CREATE,
            max_create_revision=place.revision - 1,
        )
    )
    return (answer.header, answer.kvs[0].key) if answer.kvs else None


async def change_own(
    client: InnerClient, key: bytes, revision: int, change: RequestOp
) -> TxnResponse:
    """Makes a change if the key is still that which was created at a revision."""
    return await client.txn(TxnRequest(compare=[created_at(key, revision)], success=[change]))


def end_of(prefix: bytes) -> bytes:
    """Of the range of keys that begin with a prefix, which ends in a slash."""
    return prefix[:-1] + b"0"
