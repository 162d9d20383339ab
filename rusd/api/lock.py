"""The Lock service: locks that live as long as a lease."""

from typing import Final

from rusd.api.attending import Attendants, Send
from rusd.api.contention import take_place, wait_turn
from rusd.api.inner import CallError, InnerClient
from rusd.pb.lock_pb2 import LockRequest, LockResponse, UnlockRequest, UnlockResponse
from rusd.wire.service import StreamMethod

_SERVICE: Final = "/v3lockpb.Lock/"


class Lock:
    """Locks and unlocks."""

    def __init__(self) -> None:
        self.attendants = Attendants()

    def methods(self) -> list[StreamMethod]:
        method = self.attendants.method
        return [
            method(_SERVICE + "Lock", LockRequest, self._lock),
            method(_SERVICE + "Unlock", UnlockRequest, self._unlock),
        ]

    async def _lock(self, client: InnerClient, request: LockRequest, send: Send) -> None:
        place = await take_place(client, request.name, request.lease, b"")
        header = place.header
        then = await wait_turn(client, place)
        if then is not None:
            if not then.kvs:
                raise CallError("mutex: session is expired")
            header = then.header
        await send(LockResponse(header=header, key=place.key))

    async def _unlock(self, client: InnerClient, request: UnlockRequest, send: Send) -> None:
        await send(UnlockResponse(header=(await client.delete(request.key)).header))
