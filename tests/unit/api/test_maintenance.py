"""rusd/api/maintenance.py, on a real database."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rusd.api import errors
from rusd.api.maintenance import Maintenance
from rusd.node.compactor import Compactor
from rusd.node.entry import Kind
from rusd.node.transfer import Transfer
from rusd.pb.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AlarmRequest,
    AlarmResponse,
    CompactionRequest,
    DefragmentRequest,
    DefragmentResponse,
    HashKVRequest,
    HashKVResponse,
    HashRequest,
    HashResponse,
    PutRequest,
    StatusRequest,
    StatusResponse,
)
from rusd.storage.engine import Engine
from rusd.wire.grpc import Code, Status
from tests.unit.api.fakes import call
from tests.unit.node.running import CLUSTER_ID, MEMBER_ID, Recorder, Running, running


class Service:
    """The service of a running member, asked with messages."""

    def __init__(self, member: Running, threads: ThreadPoolExecutor, quota: int) -> None:
        self.member = member
        compactor = Compactor(member.keyspace, 0.0, member.log, member.failures.append)
        member.applier.on_compact = compactor.start
        transfer = Transfer(
            member.pipeline.replica, member.applier.membership, 1.0, lambda _: False
        )
        self.service = Maintenance(
            member.pipeline,
            member.engine,
            compactor,
            threads,
            transfer,
            member.headers,
            quota,
            member.log,
        )

    async def ask(
        self, method: Callable[[list[Any]], None], request: Any, parse: Callable[[bytes], Any]
    ) -> Any:
        recorder = Recorder()
        method([call(recorder, 1, request)])
        answer = await recorder.answer()
        return answer if isinstance(answer, Status) else parse(answer)

    async def status(self) -> StatusResponse:
        answer = await self.ask(self.service.status, StatusRequest(), StatusResponse.FromString)
        assert isinstance(answer, StatusResponse)
        return answer

    async def hash_kv(self, revision: int = 0) -> HashKVResponse | Status:
        request = HashKVRequest(revision=revision)
        answer: HashKVResponse | Status = await self.ask(
            self.service.hash_kv, request, HashKVResponse.FromString
        )
        return answer

    async def alarm(self, request: AlarmRequest) -> list[tuple[int, int]]:
        answer = await self.ask(self.service.alarm, request, AlarmResponse.FromString)
        return [(each.memberID, each.alarm) for each in answer.alarms]

    async def put(self, *keys: bytes) -> None:
        for key in keys:
            await self.member.propose(Kind.PUT, PutRequest(key=key, value=b"v" * 100))


@asynccontextmanager
async def serving(directory: Path, quota: int = 0) -> AsyncIterator[Service]:
    """A member's maintenance service."""
    with ThreadPoolExecutor(1) as threads:
        async with running(directory) as member:
            yield Service(member, threads, quota)


def run(directory: Path, check: Callable[[Service], Awaitable[None]], quota: int = 0) -> None:
    """Runs a check with a service in a directory."""

    async def main() -> None:
        async with serving(directory, quota) as service:
            await check(service)

    asyncio.run(main())


def test_status_fills_every_field(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        await service.put(b"a", b"b")
        raised = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=MEMBER_ID, alarm=NOSPACE)
        assert await service.alarm(raised) == [(MEMBER_ID, NOSPACE)]
        status = await service.status()
        header = status.header
        assert (header.cluster_id, header.member_id) == (CLUSTER_ID, MEMBER_ID)
        assert (header.revision, header.raft_term) == (3, 2)
        assert (status.version, status.storageVersion) == ("3.7.1", "3.7.0")
        assert status.leader == MEMBER_ID
        assert (status.raftIndex, status.raftAppliedIndex, status.raftTerm) == (5, 5, 2)
        assert list(status.errors) == [f"memberID:{MEMBER_ID} alarm:NOSPACE "]
        assert 0 < status.dbSizeInUse <= status.dbSize
        assert status.dbSizeQuota == 2 << 30
        assert not status.isLearner
        assert status.HasField("downgradeInfo")
        assert not status.downgradeInfo.enabled

    run(tmp_path, check)


@pytest.mark.parametrize("quota", [-1, 12345])
def test_status_shows_the_quota_as_it_was_given(tmp_path: Path, quota: int) -> None:
    async def check(service: Service) -> None:
        assert (await service.status()).dbSizeQuota == quota

    run(tmp_path, check, quota)


def test_alarms_are_listed_raised_and_cleared(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        def request(action: "AlarmRequest.AlarmAction", **of: Any) -> AlarmRequest:
            return AlarmRequest(action=action, **of)

        get, on, off = AlarmRequest.GET, AlarmRequest.ACTIVATE, AlarmRequest.DEACTIVATE
        assert await service.alarm(request(get)) == []
        assert await service.alarm(request(on, memberID=5, alarm=NOSPACE)) == [(5, NOSPACE)]
        position = service.member.keyspace.applied.position
        # The member of a GET does not matter, as in etcd.
        assert await service.alarm(request(get, memberID=9, alarm=NOSPACE)) == [(5, NOSPACE)]
        assert await service.alarm(request(get, alarm=CORRUPT)) == []
        assert service.member.keyspace.applied.position == position, "a GET is no log entry"
        assert await service.alarm(request(off, memberID=5, alarm=NOSPACE)) == [(5, NOSPACE)]
        assert await service.alarm(request(get)) == []

    run(tmp_path, check)


def test_hashes_agree_with_the_history(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        await service.put(b"a", b"b")
        first = await service.hash_kv()
        assert isinstance(first, HashKVResponse)
        assert (first.compact_revision, first.hash_revision, first.header.revision) == (-1, 3, 3)
        await service.put(b"a")
        latest, earlier = await service.hash_kv(), await service.hash_kv(3)
        assert isinstance(latest, HashKVResponse)
        assert isinstance(earlier, HashKVResponse)
        assert earlier.hash == first.hash != latest.hash
        assert (earlier.hash_revision, earlier.header.revision) == (3, 4)
        whole = await service.ask(service.service.hash, HashRequest(), HashResponse.FromString)
        assert whole.hash == latest.hash
        assert await service.hash_kv(5) == errors.FUTURE_REV

    run(tmp_path, check)


def test_a_hash_waits_until_a_compaction_is_swept(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        for _ in range(2000):
            request = PutRequest(key=b"k")
            service.member.pipeline.propose(Kind.PUT, request.SerializeToString(), request, None, 0)
        await service.member.propose(Kind.COMPACT, CompactionRequest(revision=1900))
        keyspace = service.member.keyspace
        assert keyspace.swept < 1900, "the sweep has not ended"
        answer = await service.hash_kv()
        assert isinstance(answer, HashKVResponse)
        assert keyspace.swept == 1900
        assert answer.compact_revision == 1900
        assert await service.hash_kv(1899) == errors.COMPACTED
        again = await service.hash_kv()
        assert isinstance(again, HashKVResponse)
        assert again.hash == answer.hash

    run(tmp_path, check)


def test_defragmentation_answers_all_when_it_is_done_and_others_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(service: Service) -> None:
        await service.put(b"a")
        compact, go_on, runs = Engine.compact, threading.Event(), 0

        def held(engine: Engine) -> None:
            nonlocal runs
            runs += 1
            assert go_on.wait(30)
            compact(engine)

        monkeypatch.setattr(Engine, "compact", held)
        recorder = Recorder()
        service.service.defragment([call(recorder, 1, DefragmentRequest())])
        service.service.defragment([call(recorder, 2, DefragmentRequest())])
        await service.put(b"b")
        assert (await service.status()).header.revision == 3
        assert not recorder.answers
        go_on.set()
        for tag in (1, 2):
            answer = await recorder.answer(tag)
            assert isinstance(answer, bytes)
            assert DefragmentResponse.FromString(answer) == DefragmentResponse()
        assert runs == 1
        assert (
            await service.ask(
                service.service.defragment, DefragmentRequest(), DefragmentResponse.FromString
            )
            == DefragmentResponse()
        )
        assert runs == 2

    run(tmp_path, check)


def test_a_defragmentation_that_fails_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(service: Service) -> None:
        def broken(_: Engine) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr(Engine, "compact", broken)
        for _ in range(2):
            assert await service.ask(
                service.service.defragment, DefragmentRequest(), DefragmentResponse.FromString
            ) == Status(Code.UNKNOWN, "No space left on device")

    run(tmp_path, check)


def test_what_does_not_parse_fails_alone(tmp_path: Path) -> None:
    async def check(service: Service) -> None:
        recorder = Recorder()
        for tag, method in enumerate(method.handle for method in service.service.methods()):
            method([call(recorder, tag, b"\xff")])
            assert recorder.answers[tag] == errors.MALFORMED

    run(tmp_path, check)
