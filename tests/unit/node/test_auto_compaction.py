"""rusd/node/auto_compaction.py: when each mode compacts, and where, on a clock that is set."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from rusd.node.auto_compaction import AutoCompaction, Periodic, Policy, Revisions
from rusd.node.entry import Kind
from rusd.pb.rpc_pb2 import CompactionRequest, PutRequest
from tests.unit.node.running import running, until
from tests.unit.node.users import Users

HOUR = 3600.0


def run(policy: Policy, revisions_per_second: float, seconds: float) -> list[tuple[float, int]]:
    """All compactions of a time, each of which succeeds: when, and at which revision."""
    done = []
    now = 0.0
    while now <= seconds:
        revision = 1 + int(now * revisions_per_second)
        if target := policy.due(now, revision):
            policy.compacted(now, target)
            done.append((now, target))
        now += policy.interval
    return done


def test_periodic_keeps_a_short_period_and_compacts_once_in_it() -> None:
    done = run(Periodic(600, 0.0), 10, 3000)
    assert done == [(600 + 600 * i, 1 + 6000 * i) for i in range(5)]


def test_periodic_keeps_a_long_period_and_compacts_every_hour() -> None:
    done = run(Periodic(10 * HOUR, 0.0), 1, 20 * HOUR)
    assert len(done) >= 9
    assert all(later - earlier == HOUR for (earlier, _), (later, _) in pairwise(done))
    for now, target in done:
        assert now - 10 * HOUR - 360 <= target - 1 <= now - 10 * HOUR


def test_periodic_samples_ten_times_a_period_or_an_hour() -> None:
    assert Periodic(600, 0.0).interval == 60
    assert Periodic(72 * HOUR, 0.0).interval == 360


def test_periodic_does_nothing_twice_and_tries_again_what_failed() -> None:
    policy = Periodic(100, 0.0)
    for now in range(0, 100, 10):
        assert policy.due(now, 5) == 0
    assert policy.due(100, 5) == 5
    assert policy.due(110, 5) == 5  # it was not done
    policy.compacted(110, 5)
    for now in range(120, 400, 10):
        assert policy.due(now, 5) == 0


def test_revisions_keeps_so_many() -> None:
    policy = Revisions(1000)
    assert policy.interval == 300
    assert policy.due(0, 1000) == 0
    assert policy.due(300, 1500) == 500
    assert policy.due(600, 1500) == 500  # it was not done
    policy.compacted(600, 500)
    assert policy.due(900, 1500) == 0
    assert policy.due(1200, 1501) == 501


@pytest.mark.parametrize("auth", [False, True])
def test_proposes_what_is_due_and_notes_what_was_done(tmp_path: Path, auth: bool) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            for _ in range(20):
                await member.propose(Kind.PUT, PutRequest(key=b"k"))
            if auth:
                await Users(member).set_up()
            assert member.keyspace.revision == 21
            policy = Revisions(5)
            compaction = AutoCompaction(policy, member.pipeline, member.log)
            compaction.start()
            await until(lambda: member.keyspace.compacted == 16, "compaction")
            await member.pipeline.idle()
            assert policy.due(0, 21) == 0
            compaction.stop()

    asyncio.run(check())


@pytest.mark.parametrize("at_once", [True, False])
def test_a_client_may_have_compacted_further(tmp_path: Path, at_once: bool) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            for _ in range(20):
                await member.propose(Kind.PUT, PutRequest(key=b"k"))
            policy = Revisions(5)
            compaction = AutoCompaction(policy, member.pipeline, member.log)
            request = CompactionRequest(revision=20)
            member.pipeline.propose(Kind.COMPACT, request.SerializeToString(), request, None, 0)
            if not at_once:
                await member.pipeline.idle()
            compaction.check(0.0)
            await member.pipeline.idle()
            assert member.keyspace.compacted == 20
            compaction.check(300.0)
            assert policy.due(300.0, 21) == 0

    asyncio.run(check())
