"""rusd/node/alarms.py and quota.py: what alarms refuse, and when the quota raises one."""

import asyncio
from pathlib import Path

import pytest

from rusd.api import errors
from rusd.mvcc.txn import Plan
from rusd.node.alarms import Alarms, CorruptError, NoSpaceError
from rusd.node.entry import Kind
from rusd.node.quota import Quota
from rusd.pb.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AlarmMember,
    AlarmRequest,
    AlarmResponse,
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RequestOp,
    TxnRequest,
)
from rusd.wire.grpc import Status
from tests.unit.node.running import MEMBER_ID, Recorder, Running, running, until

ACTIVATE, DEACTIVATE = AlarmRequest.ACTIVATE, AlarmRequest.DEACTIVATE


def apply(alarms: Alarms, action: int, member: int, alarm: int) -> list[tuple[int, int]]:
    """What the answer lists."""
    request = AlarmRequest()
    request.ParseFromString(bytes((8, action, 16, member, 24, alarm)))
    response = AlarmResponse.FromString(alarms.apply(request))
    return [(each.memberID, each.alarm) for each in response.alarms]


def listed(alarms: Alarms, alarm: int = 0) -> list[tuple[int, int]]:
    """What a GET lists."""
    response = AlarmResponse.FromString(alarms.listing(alarm))
    return [(each.memberID, each.alarm) for each in response.alarms]


def test_answers_as_etcd_does() -> None:
    alarms = Alarms(None)
    assert apply(alarms, ACTIVATE, 5, NOSPACE) == [(5, NOSPACE)]
    assert apply(alarms, ACTIVATE, 5, NOSPACE) == [(5, NOSPACE)]
    assert apply(alarms, ACTIVATE, 0, NOSPACE) == [(0, NOSPACE)]
    assert apply(alarms, ACTIVATE, 5, CORRUPT) == [(5, CORRUPT)]
    assert apply(alarms, ACTIVATE, 5, 0) == []
    assert listed(alarms) == [(5, NOSPACE), (0, NOSPACE), (5, CORRUPT)]
    assert listed(alarms, CORRUPT) == [(5, CORRUPT)]
    assert alarms.texts() == [
        "memberID:5 alarm:NOSPACE ",
        "alarm:NOSPACE ",
        "memberID:5 alarm:CORRUPT ",
    ]
    assert apply(alarms, DEACTIVATE, 7, NOSPACE) == []
    assert apply(alarms, DEACTIVATE, 0, NOSPACE) == [(0, NOSPACE)]
    assert listed(alarms) == [(5, NOSPACE), (5, CORRUPT)]


def test_passes_over_what_it_does_not_know() -> None:
    """Real etcd panics, and does so again after every restart."""
    alarms = Alarms(None)
    assert apply(alarms, ACTIVATE, 5, 7) == []
    assert apply(alarms, 9, 5, NOSPACE) == []
    assert len(alarms) == 0


def test_one_alarm_of_a_kind_is_enough_to_refuse() -> None:
    """Real etcd takes writes again as soon as any alarm is cleared."""
    alarms = Alarms(None)
    assert alarms.refusal is None
    apply(alarms, ACTIVATE, 1, NOSPACE)
    apply(alarms, ACTIVATE, 2, NOSPACE)
    apply(alarms, ACTIVATE, 1, CORRUPT)
    assert alarms.refusal is CorruptError
    assert Alarms(alarms.row()).refusal is CorruptError
    apply(alarms, DEACTIVATE, 1, CORRUPT)
    assert alarms.refusal is NoSpaceError
    apply(alarms, DEACTIVATE, 1, NOSPACE)
    assert alarms.refusal is NoSpaceError
    apply(alarms, DEACTIVATE, 2, NOSPACE)
    assert alarms.refusal is None


PUT = RequestOp(request_put=PutRequest(key=b"k"))
DELETE = RequestOp(request_delete_range=DeleteRangeRequest(key=b"k"))
NESTED_PUT = RequestOp(request_txn=TxnRequest(success=[PUT]))
REQUESTS = {
    "put": (Kind.PUT, PutRequest(key=b"k")),
    "delete": (Kind.DELETE_RANGE, DeleteRangeRequest(key=b"k")),
    "txn with a put": (Kind.TXN, TxnRequest(success=[PUT])),
    "txn with a put in its other branch": (Kind.TXN, TxnRequest(failure=[PUT])),
    "txn with a nested put": (Kind.TXN, TxnRequest(success=[NESTED_PUT])),
    "txn with a delete": (Kind.TXN, TxnRequest(success=[DELETE])),
    "grant": (Kind.LEASE_GRANT, LeaseGrantRequest(ID=9, TTL=10)),
    "revoke": (Kind.LEASE_REVOKE, LeaseRevokeRequest(ID=8)),
    "compact": (Kind.COMPACT, CompactionRequest(revision=1)),
}
ADDS = {name for name in REQUESTS if "put" in name or name == "grant"}


async def answers(member: Running) -> dict[str, bytes | Status]:
    """Proposes every request."""
    found = {}
    for name, (kind, request) in REQUESTS.items():
        caller = Recorder()
        plan = Plan(request) if isinstance(request, TxnRequest) else request
        member.pipeline.propose(kind, request.SerializeToString(), plan, caller, 1)
        found[name] = await caller.answer()
    return found


def alarm(action: "AlarmRequest.AlarmAction", kind: int) -> AlarmRequest:
    """A request about this member."""
    request = AlarmRequest(action=action, memberID=MEMBER_ID)
    request.MergeFrom(AlarmRequest.FromString(bytes((24, kind))))
    return request


@pytest.mark.parametrize(
    ("kind", "refused", "status"),
    [
        (NOSPACE, ADDS, errors.NO_SPACE),
        (CORRUPT, set(REQUESTS), errors.CORRUPT),
    ],
)
def test_an_alarm_refuses_what_it_forbids_until_it_is_cleared_over_restarts_too(
    tmp_path: Path, kind: int, refused: set[str], status: Status
) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            await member.propose(Kind.LEASE_GRANT, LeaseGrantRequest(ID=8, TTL=10))
            await member.propose(Kind.ALARM, alarm(ACTIVATE, kind))
            first = await answers(member)
            assert {name for name, answer in first.items() if answer == status} == refused
        async with running(tmp_path) as member:
            again = await answers(member)
            assert {name for name, answer in again.items() if answer == status} == refused
            await member.propose(Kind.ALARM, alarm(DEACTIVATE, kind))
            after = await answers(member)
            assert status not in after.values()

    asyncio.run(check())


def test_the_quota_raises_the_alarm_once_and_again_when_cleared_too_early(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            size = 100
            Quota(member.pipeline, lambda: size, 1000, member.log)
            alarms = member.applier.alarms

            async def put(size: int = 1 << 20) -> bytes | Status:
                return await member.propose(Kind.PUT, PutRequest(key=b"k", value=bytes(size)))

            assert isinstance(await put(), bytes)
            assert len(alarms) == 0
            size = 1001
            await put()
            await until(lambda: NOSPACE in alarms, "alarm")
            assert listed(alarms) == [(MEMBER_ID, NOSPACE)]
            assert await put(1) == errors.NO_SPACE
            await member.propose(Kind.ALARM, alarm(DEACTIVATE, NOSPACE))
            await until(lambda: NOSPACE in alarms, "second alarm")
            size = 900
            await member.propose(Kind.ALARM, alarm(DEACTIVATE, NOSPACE))
            assert isinstance(await put(), bytes)
            await member.pipeline.idle()
            assert len(alarms) == 0

    asyncio.run(check())


@pytest.mark.parametrize(("most", "raised"), [(-1, False), (0, True), (2 << 30, True)])
def test_no_quota_when_negative_and_two_gibibytes_by_default(
    tmp_path: Path, most: int, raised: bool
) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            sizes = iter([2 << 30, (2 << 30) + 1])
            Quota(member.pipeline, lambda: next(sizes), most, member.log)
            for _ in range(2):
                await member.propose(Kind.PUT, PutRequest(key=b"k", value=bytes(1 << 20)))
                await member.pipeline.idle()
            assert (NOSPACE in member.applier.alarms) is raised

    asyncio.run(check())


def test_stored_alarms_come_back() -> None:
    alarms = Alarms(None)
    apply(alarms, ACTIVATE, 5, NOSPACE)
    stored = AlarmResponse.FromString(alarms.row())
    assert list(stored.alarms) == [AlarmMember(memberID=5, alarm=NOSPACE)]
    assert listed(Alarms(alarms.row())) == [(5, NOSPACE)]
