"""The Election service: who has created the oldest key under the election's name leads."""

from contextlib import aclosing, suppress
from typing import Final

from rusd.api.attending import Attendants, Send
from rusd.api.contention import Place, change_own, end_of, oldest, prefix_of, take_place, wait_turn
from rusd.api.inner import CallError, InnerClient, first_event
from rusd.pb.election_pb2 import (
    CampaignRequest,
    CampaignResponse,
    LeaderKey,
    LeaderRequest,
    LeaderResponse,
    ProclaimRequest,
    ProclaimResponse,
    ResignRequest,
    ResignResponse,
)
from rusd.pb.kv_pb2 import Event, KeyValue
from rusd.pb.rpc_pb2 import (
    DeleteRangeRequest,
    PutRequest,
    RequestOp,
    ResponseHeader,
    WatchCreateRequest,
)
from rusd.wire.service import StreamMethod

_SERVICE: Final = "/v3electionpb.Election/"
_NO_LEADER_KEY: Final = '"leader" field must be provided'
_NOT_LEADER: Final = "election: not leader"
_NO_LEADER: Final = "election: no leader"


class Election:
    """Campaigns, and tells who leads."""

    def __init__(self) -> None:
        self.attendants = Attendants()

    def methods(self) -> list[StreamMethod]:
        method = self.attendants.method
        return [
            method(_SERVICE + "Campaign", CampaignRequest, self._campaign),
            method(_SERVICE + "Proclaim", ProclaimRequest, self._proclaim),
            method(_SERVICE + "Leader", LeaderRequest, self._leader),
            method(_SERVICE + "Observe", LeaderRequest, self._observe),
            method(_SERVICE + "Resign", ResignRequest, self._resign),
        ]

    async def _campaign(self, client: InnerClient, request: CampaignRequest, send: Send) -> None:
        place = await take_place(client, request.name, request.lease, request.value)
        leader = LeaderKey(name=request.name, key=place.key, rev=place.revision, lease=place.lease)
        if place.found is not None and place.found.value != request.value:
            try:
                await _put(client, leader, request.value)
            except CallError:
                with suppress(CallError):
                    await client.delete(place.key)
                raise
        then = await wait_turn(client, place)
        if then is not None and not _still_there(place, list(then.kvs)):
            # Go's package does not look, and reports a leader whose lease has expired.
            raise CallError(_NOT_LEADER)
        await send(CampaignResponse(header=place.header, leader=leader))

    async def _proclaim(self, client: InnerClient, request: ProclaimRequest, send: Send) -> None:
        if not request.HasField("leader"):
            raise CallError(_NO_LEADER_KEY)
        await send(ProclaimResponse(header=await _put(client, request.leader, request.value)))

    async def _resign(self, client: InnerClient, request: ResignRequest, send: Send) -> None:
        if not request.HasField("leader"):
            raise CallError(_NO_LEADER_KEY)
        leader = request.leader
        delete = RequestOp(request_delete_range=DeleteRangeRequest(key=leader.key))
        answer = await change_own(client, leader.key, leader.rev, delete)
        await send(ResignResponse(header=answer.header))

    async def _leader(self, client: InnerClient, request: LeaderRequest, send: Send) -> None:
        answer = await client.range(oldest(prefix_of(request.name)))
        if not answer.kvs:
            raise CallError(_NO_LEADER)
        await send(LeaderResponse(header=answer.header, kv=answer.kvs[0]))

    async def _observe(self, client: InnerClient, request: LeaderRequest, send: Send) -> None:
        """Sends each leader, and each of its proclamations, from the present one on."""
        prefix = prefix_of(request.name)
        while True:
            answer = await client.range(oldest(prefix))
            header, leader = answer.header, next(iter(answer.kvs), None)
            if leader is None:
                create = WatchCreateRequest(
                    key=prefix, range_end=end_of(prefix), start_revision=header.revision + 1
                )
                first = await first_event(client, create, Event.PUT)
                if first is None:
                    continue
                header, leader = first[0], first[1].kv
            await send(LeaderResponse(header=header, kv=leader))
            await self._follow(client, header, leader, send)

    async def _follow(
        self, client: InnerClient, header: ResponseHeader, leader: KeyValue, send: Send
    ) -> None:
        """Sends what a leader proclaims, until it is gone."""
        create = WatchCreateRequest(key=leader.key, start_revision=header.revision + 1)
        async with aclosing(client.events(create)) as events:
            async for at, event in events:
                if event.type == Event.DELETE:
                    return
                await send(LeaderResponse(header=at, kv=event.kv))


def _still_there(place: Place, kvs: list[KeyValue]) -> bool:
    return bool(kvs) and kvs[0].create_revision == place.revision


async def _put(client: InnerClient, leader: LeaderKey, value: bytes) -> ResponseHeader:
    put = PutRequest(key=leader.key, value=value, lease=leader.lease)
    answer = await change_own(client, leader.key, leader.rev, RequestOp(request_put=put))
    if not answer.succeeded:
        raise CallError(_NOT_LEADER)
    return answer.header
