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

    def __init__(self, changed: asyncio.Event) -> None:
        self.done = False
        self._changed = changed

    def reply(self, _tag: int, _message: bytes, /) -> None:
        self.done = True
        self._changed.set()

    def fail(self, _tag: int, _status: object, /) -> None:
        self.reply(0, b"")


async def publish(pipeline: Pipeline, name: str, client_urls: Sequence[str]) -> None:
    """Returns when the cluster knows this member as it is now. Waits for a leader, and for one who
    joins, until it has the cluster's members; tries again as long as it takes.
    """
    membership, replica = pipeline.applier.membership, pipeline.replica
    changed = asyncio.Event()
    replica.on_conf_change.append(changed.set)
    proposed: _Answered | None = None
    try:
        while True:
            changed.clear()
            known = membership.members.get(membership.local_id)
            if known is not None:
                # What was proposed may also have come within a snapshot: then nobody answers.
                if (known.name, list(known.clientURLs)) == (name, list(client_urls)):
                    return
                if proposed is None or proposed.done:
                    proposed = _Answered(changed)
                    wanted = Member(ID=membership.local_id, name=name, clientURLs=client_urls)
                    message = wanted.SerializeToString()
                    if not pipeline.propose(Kind.MEMBER, message, wanted, proposed, 0):
                        await asyncio.sleep(_AGAIN)
                        continue
            await changed.wait()
    finally:
        replica.on_conf_change.remove(changed.set)
