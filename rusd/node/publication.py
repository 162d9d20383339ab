"""Tells the cluster this member's name and client URLs, where they have changed."""

import asyncio
from collections.abc import Sequence
from typing import Final

from rusd.node.entry import Kind
from rusd.node.pipeline import Pipeline
from rusd.pb.rpc_pb2 import Member

_AGAIN: Final = 0.1
"""Seconds until it is tried again."""


class _Answered:
    """Waits for the end of a proposal, whatever it is."""

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def reply(self, _tag: int, _message: bytes, /) -> None:
        self.done.set()

    def fail(self, _tag: int, _status: object, /) -> None:
        self.done.set()


async def publish(pipeline: Pipeline, name: str, client_urls: Sequence[str]) -> None:
    """Returns when the cluster knows this member as it is now. Waits for a leader, and for one who
    joins, until it has the cluster's members; tries again as long as it takes.
    """
    membership, replica = pipeline.applier.membership, pipeline.replica
    changed = asyncio.Event()
    replica.on_conf_change.append(changed.set)
    try:
        while (known := membership.members.get(membership.local_id)) is None:
            changed.clear()
            await changed.wait()
        while (known.name, list(known.clientURLs)) != (name, list(client_urls)):
            wanted = Member(ID=membership.local_id, name=name, clientURLs=client_urls)
            answered = _Answered()
            message = wanted.SerializeToString()
            if pipeline.propose(Kind.MEMBER, message, wanted, answered, 0):
                await answered.done.wait()
            else:
                await asyncio.sleep(_AGAIN)
            known = membership.members.get(membership.local_id, known)
    finally:
        replica.on_conf_change.remove(changed.set)
