"""The wire's side of a streaming call, recorded."""

import asyncio
from typing import Any, cast

from rusd.wire.grpc import Status
from rusd.wire.service import Call
from rusd.wire.stream import Stream
from tests.unit.node.running import SECONDS, Recorder


class RecordedStream:
    """Keeps what is sent; `congested` makes it a client that does not read."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.ended: list[Status | None] = []
        self.congested = False
        self._changed = asyncio.Event()

    def send(self, *parts: bytes) -> None:
        """As the wire does, passes over what comes after the end."""
        if not self.ended:
            self.sent.append(b"".join(parts))
            self._changed.set()

    def finish(self, status: Status | None = None) -> None:
        if not self.ended:
            self.ended.append(status)
            self._changed.set()

    async def messages(self, count: int) -> list[bytes]:
        """Waits for so many messages since the start."""
        async with asyncio.timeout(SECONDS):
            while len(self.sent) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.sent

    @property
    def stream(self) -> Stream:
        return cast(Stream, self)


def call(recorder: Recorder, tag: int, request: Any) -> Call:
    """A unary call of a message, or of bytes as they are."""
    message = request if isinstance(request, bytes) else request.SerializeToString()
    return cast(Call, (recorder, tag, None, message))
