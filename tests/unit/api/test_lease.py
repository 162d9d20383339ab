"""rusd/api/lease.py: grants, revocations, renewals and questions, through a real log."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rusd.api import errors
from rusd.api.identities import Identities
from rusd.api.lease import KeepAlive, LeaseService
from rusd.lease.lessor import MAX_TTL
from rusd.node.entry import Kind
from rusd.node.leases import Leases
from rusd.node.pipeline import Limits
from rusd.node.renewals import Renewals
from rusd.pb.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
    PutRequest,
)
from rusd.wire.grpc import Status
from tests.unit.api.fakes import RecordedStream, call
from tests.unit.node.running import CLUSTER_ID, MEMBER_ID, Recorder, Running, running, until
from tests.unit.node.trio import Stage, Trio, stage, three

__all__ = ["stage"]

MIN_TTL = 2


class Service:
    """The service of a running member, asked with messages."""

    def __init__(self, member: Running) -> None:
        self.member = member
        self.leases = Leases(member.pipeline, member.lessor, 1.0)
        renewals = Renewals(member.pipeline, member.reads, member.peers, member.lessor, self.leases)
        self.service = LeaseService(
            member.pipeline,
            member.reads,
            renewals,
            member.lessor,
            self.leases,
            member.headers,
            MIN_TTL,
            Identities(member.applier, member.pipeline.replica),
        )

    async def grant(self, ttl: int, lease: int = 0) -> LeaseGrantResponse | Status:
        answer: LeaseGrantResponse | Status = await self._ask(
            self.service.grant, LeaseGrantRequest(TTL=ttl, ID=lease), LeaseGrantResponse.FromString
        )
        return answer

    async def revoke(self, lease: int) -> LeaseRevokeResponse | Status:
        answer: LeaseRevokeResponse | Status = await self._ask(
            self.service.revoke, LeaseRevokeRequest(ID=lease), LeaseRevokeResponse.FromString
        )
        return answer

    async def time_to_live(self, lease: int, keys: bool = False) -> LeaseTimeToLiveResponse:
        request = LeaseTimeToLiveRequest(ID=lease, keys=keys)
        answer = await self._ask(
            self.service.time_to_live, request, LeaseTimeToLiveResponse.FromString
        )
        assert isinstance(answer, LeaseTimeToLiveResponse)
        return answer

    async def listed(self) -> list[int]:
        answer = await self._ask(
            self.service.leases_, LeaseLeasesRequest(), LeaseLeasesResponse.FromString
        )
        return [lease.ID for lease in answer.leases]

    def keep_alive(self) -> tuple[RecordedStream, KeepAlive]:
        stream = RecordedStream()
        return stream, self.service.open_keep_alive(stream.stream)

    @staticmethod
    async def _ask(
        method: Callable[[list[Any]], None], request: Any, parse: Callable[[bytes], Any]
    ) -> Any:
        recorder = Recorder()
        method([call(recorder, 1, request)])
        answer = await recorder.answer()
        return answer if isinstance(answer, Status) else parse(answer)


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Service]:
    """A member's lease service."""
    async with running(directory) as member:
        yield Service(member)


def run(directory: Path, check: Callable[[Service], Awaitable[None]]) -> None:
    """Runs a check with a service in a directory."""

    async def main() -> None:
        async with serving(directory) as service:
            await check(service)

    asyncio.run(main())


def ask(lease: int) -> bytes:
    """A keep-alive's message."""
    return LeaseKeepAliveRequest(ID=lease).SerializeToString()


def told(message: bytes) -> tuple[int, int]:
    """Lease and TTL of a keep-alive's answer."""
    response = LeaseKeepAliveResponse.FromString(message)
    assert response.header.member_id == MEMBER_ID
    assert response.header.cluster_id == CLUSTER_ID
    return response.ID, response.TTL


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [(0, 2), (-1, 2), (-(2**63), 2), (1, 2), (2, 2), (3, 3), (MAX_TTL, MAX_TTL)],
)
def test_raises_a_ttl_to_the_least(tmp_path: Path, wanted: int, granted: int) -> None:
    async def check(service: Service) -> None:
        answer = await service.grant(wanted, 7)
        assert isinstance(answer, LeaseGrantResponse)
        assert (answer.ID, answer.TTL, answer.header.revision) == (7, granted, 1)
        assert service.member.lessor.get(7).ttl == granted

    run(tmp_path, check)


def test_refuses_too_long_a_ttl_and_an_id_that_lives(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        assert await service.grant(MAX_TTL + 1) == errors.LEASE_TTL_TOO_LARGE
        assert await service.listed() == []
        assert isinstance(await service.grant(10, -7), LeaseGrantResponse)
        assert await service.grant(20, -7) == errors.LEASE_EXIST
        assert (await service.time_to_live(-7)).grantedTTL == 10

    run(tmp_path, check)


def test_an_id_that_is_not_given_is_free_positive_and_the_same_after_a_restart(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with serving(tmp_path) as service:
            answers = [await service.grant(100) for _ in range(20)]
            ids = [answer.ID for answer in answers if isinstance(answer, LeaseGrantResponse)]
            assert len(set(ids)) == 20
            assert min(ids) > 0
        async with serving(tmp_path) as service:
            assert sorted(await service.listed()) == sorted(ids)

    asyncio.run(main())


def test_a_revocation_deletes_the_keys_in_one_revision(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        member = service.member
        await service.grant(100, 7)
        for key in (b"a", b"b", b"c"):
            await member.propose(Kind.PUT, PutRequest(key=key, lease=7))
        await member.propose(Kind.PUT, PutRequest(key=b"c"))  # takes it from the lease
        assert sorted((await service.time_to_live(7, keys=True)).keys) == [b"a", b"b"]
        revoked = await service.revoke(7)
        assert isinstance(revoked, LeaseRevokeResponse)
        assert revoked.header.revision == 6
        assert list(member.keyspace.live(b"", None)) == [b"c"]
        assert await service.revoke(7) == errors.LEASE_NOT_FOUND
        assert await service.revoke(0) == errors.LEASE_NOT_FOUND

    run(tmp_path, check)


def test_time_to_live(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        clock = service.member.clock
        await service.grant(100, 7)
        await service.member.propose(Kind.PUT, PutRequest(key=b"a", lease=7))
        clock.now += 0.4
        answer = await service.time_to_live(7)
        assert (answer.ID, answer.TTL, answer.grantedTTL, list(answer.keys)) == (7, 99, 100, [])
        assert answer.header.revision == 2
        clock.now += 200  # it has run out and nobody has revoked it yet
        answer = await service.time_to_live(7, keys=True)
        assert (answer.TTL, answer.grantedTTL, list(answer.keys)) == (0, 100, [b"a"])
        answer = await service.time_to_live(8)
        assert (answer.ID, answer.TTL, answer.grantedTTL) == (8, -1, 0)

    run(tmp_path, check)


def test_keep_alive_answers_at_once_and_tells_zero_of_unknown_leases(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        await service.grant(100, 7)
        service.member.clock.now += 60
        stream, handler = service.keep_alive()
        for lease in (7, 8, 0, 7):
            handler.message(ask(lease))
        assert [told(message) for message in stream.sent] == [(7, 100), (8, 0), (0, 0), (7, 100)]
        assert (await service.time_to_live(7)).TTL == 100
        assert not stream.ended
        handler.half_closed()
        assert stream.ended == [None]

    run(tmp_path, check)


def test_a_lease_that_has_run_out_is_not_renewed(tmp_path: Path) -> None:
    """Its revocation may be on its way: whoever was told a TTL would lose the lease early."""

    async def check(service: Service) -> None:
        await service.grant(100, 7)
        service.member.clock.now += 100
        stream, handler = service.keep_alive()
        handler.message(ask(7))
        assert told(stream.sent[0]) == (7, 0)

    run(tmp_path, check)


def test_a_renewal_of_a_reduced_lease_is_told_only_when_the_log_promises_it(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with serving(tmp_path / "member") as service:
            member = service.member
            await service.grant(100, 7)
            member.clock.now += 60
            service.leases.stop()  # checkpoints
            stream, handler = service.keep_alive()
            handler.message(ask(7))  # while the checkpoint is on its way
            handler.half_closed()
            assert not stream.sent
            assert not stream.ended
            await stream.messages(1)
            assert told(stream.sent[0]) == (7, 100)
            assert stream.ended == [None]
            copy = member.crash_copy(tmp_path / "copy")
            handler = service.keep_alive()[1]
        async with serving(copy) as service:
            assert (await service.time_to_live(7)).TTL == 100

    asyncio.run(main())


def test_a_renewal_that_waits_for_the_log_does_not_outlive_a_revocation(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        await service.grant(100, 7)
        service.member.clock.now += 60
        service.leases.stop()
        stream, handler = service.keep_alive()
        handler.message(ask(7))
        request = LeaseRevokeRequest(ID=7)
        service.member.pipeline.propose(
            Kind.LEASE_REVOKE, request.SerializeToString(), request, None, 0
        )
        await stream.messages(1)
        assert told(stream.sent[0]) == (7, 0)

    run(tmp_path, check)


def test_a_renewal_that_the_log_refuses_ends_the_stream(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        await service.grant(100, 7)
        service.member.clock.now += 60
        service.leases.stop()
        await service.member.pipeline.stop()
        stream, handler = service.keep_alive()
        handler.message(ask(7))
        assert not stream.sent
        assert stream.ended == [errors.STOPPED]

    run(tmp_path, check)


def test_a_client_that_does_not_read_is_owed_one_answer_a_lease(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        await service.grant(100, 7)
        await service.grant(100, 8)
        stream, handler = service.keep_alive()
        stream.congested = True
        for _ in range(1000):
            handler.message(ask(7))
            handler.message(ask(8))
        assert not stream.sent
        handler.half_closed()
        assert not stream.ended
        stream.congested = False
        handler.writable()
        assert sorted(told(message) for message in stream.sent) == [(7, 100), (8, 100)]
        assert stream.ended == [None]

        stream, handler = service.keep_alive()
        stream.congested = True
        for lease in range(20_000):
            handler.message(ask(lease))
        assert stream.ended == [errors.REQUEST_TOO_MANY_REQUESTS]

    run(tmp_path, check)


def test_what_does_not_parse_fails_alone(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        methods = service.service
        recorder = Recorder()
        for tag, method in enumerate(
            (methods.grant, methods.revoke, methods.time_to_live, methods.leases_)
        ):
            method([call(recorder, tag, b"\xff")])
            assert recorder.answers[tag] == errors.MALFORMED
        stream, handler = service.keep_alive()
        handler.message(b"\xff")
        assert stream.ended == [errors.MALFORMED]

    run(tmp_path, check)


def parsed(message: bytes) -> tuple[int, int]:
    response = LeaseKeepAliveResponse.FromString(message)
    return response.ID, response.TTL


def test_a_stream_to_a_follower_renews_with_the_leader(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await trio[2].grant(1, 100)
        await trio.level()
        stream, keep_alive = Service(trio[2]).keep_alive()
        trio[1].clock.now += 60
        for lease in (1, 999, 1):
            keep_alive.message(ask(lease))
        keep_alive.half_closed()
        assert stream.ended == [], "answers are owed"
        assert sorted(map(parsed, await stream.messages(3))) == [(1, 100), (1, 100), (999, 0)]
        assert stream.ended == [None]
        assert trio[1].lessor.left(trio[1].lessor.get(1)) == 100

    stage.play(test)


def test_a_list_of_leases_has_all_that_were_acknowledged(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await trio.level()
        trio[2].disk.stop()
        await trio[1].grant(2, 100)
        listed = asyncio.ensure_future(Service(trio[2]).listed())
        await asyncio.sleep(0.05)
        assert not listed.done()
        trio[2].disk.go_on()
        assert 2 in await listed

    stage.play(test)


def test_a_follower_shows_what_the_leader_knows_of_a_lease(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await trio[1].grant(3, 100)
        await trio[1].propose(Kind.PUT, PutRequest(key=b"key", lease=3))
        trio[1].clock.now += 30
        trio[3].clock.now += 70
        service = Service(trio[2])
        shown = await service.time_to_live(3, keys=True)
        assert (shown.TTL, shown.grantedTTL, list(shown.keys)) == (70, 100, [b"key"])
        assert shown.header.member_id == 2
        assert list((await service.time_to_live(3)).keys) == []
        assert (await service.time_to_live(999)).TTL == -1

    stage.play(test)


def test_a_stream_of_a_member_that_finds_no_leader_ends_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path, Limits(request_timeout=0.2)) as trio:
            stream, keep_alive = Service(await trio.depose(1)).keep_alive()
            keep_alive.message(ask(1))
            await until(lambda: stream.ended, "the end")
            assert stream.ended == [errors.NO_LEADER]

    asyncio.run(test())


def test_renewals_that_wait_have_a_bound(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rusd.api.lease._MOST_PENDING", 10)

    async def test(trio: Trio) -> None:
        stream, keep_alive = Service(trio[2]).keep_alive()
        for _ in range(10):
            keep_alive.message(ask(1))
        assert stream.ended == []
        keep_alive.message(ask(1))
        assert stream.ended == [errors.REQUEST_TOO_MANY_REQUESTS]

    stage.play(test)
