"""rusd/node/leases.py: revocations and checkpoints through a real log."""

import asyncio
from pathlib import Path

from rusd.api import errors
from rusd.lease.lessor import Lease
from rusd.node.entry import Kind
from rusd.node.leases import Leases
from rusd.pb.rpc_pb2 import LeaseGrantRequest, LeaseRevokeRequest, PutRequest
from tests.unit.node.running import Recorder, Running, running, until
from tests.unit.node.trio import Disk


async def granted(member: Running, lease: int, ttl: int, *keys: bytes) -> Lease:
    """Grants a lease and hangs keys on it."""
    await member.propose(Kind.LEASE_GRANT, LeaseGrantRequest(ID=lease, TTL=ttl))
    for key in keys:
        await member.propose(Kind.PUT, PutRequest(key=key, value=b"v", lease=lease))
    return member.lessor.get(lease)


def test_revokes_what_has_run_out_in_one_revision_and_nothing_else(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            await granted(member, 1, 10, b"a", b"b", b"c")
            await granted(member, 2, 20, b"d")
            revision = member.keyspace.revision
            leases = Leases(member.pipeline, member.lessor, 1.0)
            leases.start()
            member.clock.now += 9.9
            await asyncio.sleep(0.5)  # more than a look
            assert member.lessor.ids() == [1, 2]
            member.clock.now += 0.2
            await until(lambda: 1 not in member.lessor, "revocation")
            assert member.lessor.ids() == [2]
            assert list(member.keyspace.live(b"", None)) == [b"d"]
            assert member.keyspace.revision == revision + 1
            leases.stop()

    asyncio.run(check())


def test_revokes_many_at_once(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            for lease in range(1, 3001):
                request = LeaseGrantRequest(ID=lease, TTL=10)
                member.pipeline.propose(
                    Kind.LEASE_GRANT, request.SerializeToString(), request, None, 0
                )
            await member.pipeline.idle()
            assert len(member.lessor) == 3000
            leases = Leases(member.pipeline, member.lessor, 1.0)
            member.clock.now += 10
            leases.start()
            await until(lambda: not len(member.lessor), "revocations")
            leases.stop()

    asyncio.run(check())


def test_an_expiry_does_not_hit_a_later_lease_of_the_same_id(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            await granted(member, 1, 10)
            member.clock.now += 10
            (expiry,) = member.lessor.expired(10)
            # A client's revocation and new grant are in the log before the expiry.
            revoke, grant = LeaseRevokeRequest(ID=1), LeaseGrantRequest(ID=1, TTL=10)
            propose = member.pipeline.propose
            propose(Kind.LEASE_REVOKE, revoke.SerializeToString(), revoke, None, 0)
            propose(Kind.LEASE_GRANT, grant.SerializeToString(), grant, None, 0)
            propose(Kind.LEASE_EXPIRE, expiry.encode(), expiry, None, 0)
            await member.pipeline.idle()
            assert 1 in member.lessor
        async with running(tmp_path) as member:
            assert 1 in member.lessor
            assert not member.failures

    asyncio.run(check())


def test_an_orderly_end_keeps_what_each_lease_has_left(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            leases = Leases(member.pipeline, member.lessor, 1.0)
            leases.start()
            await granted(member, 1, 100, b"a")
            member.clock.now += 30.5
            await granted(member, 2, 100)
            leases.stop()
        async with running(tmp_path) as member:
            one, two = member.lessor.get(1), member.lessor.get(2)
            assert (one.ttl, member.lessor.left(one), one.keys) == (100, 70, {b"a"})
            assert (two.ttl, member.lessor.left(two)) == (100, 100)
            assert not one.logged_in_full

    asyncio.run(check())


def test_a_crash_keeps_the_last_checkpoint_and_what_was_restored_after_it(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path / "member") as member:
            leases = Leases(member.pipeline, member.lessor, 1.0)
            idle, renewed = await granted(member, 1, 100), await granted(member, 2, 100)
            member.clock.now += 60
            leases._checkpoint(member.lessor)
            assert not idle.logged_in_full, "a renewal now must wait for the log"
            await member.pipeline.idle()
            assert (idle.remaining, renewed.remaining) == (40, 40)
            caller = Recorder()
            leases.restore(member.lessor.renew(2), caller)
            assert not caller.answers
            await caller.answer(2)
            assert renewed.logged_in_full
            copy = member.crash_copy(tmp_path / "copy")
        async with running(copy) as member:
            Leases(member.pipeline, member.lessor, 1.0)
            one, two = member.lessor.get(1), member.lessor.get(2)
            assert member.lessor.left(one) == 40
            assert member.lessor.left(two) == 100

    asyncio.run(check())


def test_leases_that_lose_time_are_checkpointed_in_the_background(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            lost, short = await granted(member, 1, 100), await granted(member, 2, 200)
            leases = Leases(member.pipeline, member.lessor, 1.0)
            member.clock.now += 60
            leases.start()
            await until(lambda: lost.remaining == 40, "checkpoint")
            assert short.remaining == 200
            leases.stop()

    asyncio.run(check())


def test_replayed_checkpoints_count_from_the_end_of_the_replay(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path / "member") as member:
            leases = Leases(member.pipeline, member.lessor, 1.0)
            await granted(member, 1, 100)
            member.clock.now += 10
            leases.stop()
            await member.pipeline.idle()
            copy = member.crash_copy(tmp_path / "copy")
        async with running(copy) as member:
            # Nothing was flushed: grant and checkpoint are both applied again.
            Leases(member.pipeline, member.lessor, 1.0)
            assert member.lessor.left(member.lessor.get(1)) == 90

    asyncio.run(check())


def test_a_checkpoint_that_waits_for_long_does_not_keep_renewals_out(tmp_path: Path) -> None:
    """A renewal waits for the log as long as a checkpoint may still reduce its lease."""

    async def check() -> None:
        async with running(tmp_path) as member:
            pipeline, disk = member.pipeline, Disk(member.wal)
            pipeline.replica.little = -1  # the gate is the loop's to open
            leases = Leases(pipeline, member.lessor, 1.0)
            lease = await granted(member, 1, 100)
            disk.stop()
            caller, request = Recorder(), PutRequest(key=b"k")
            for tag in range(2):
                message = request.SerializeToString()
                pipeline.propose(Kind.PUT, message, request, caller, tag)
                await asyncio.sleep(0.01)
            member.clock.now += 60
            leases._checkpoint([lease])
            assert not lease.logged_in_full
            pipeline._look()
            patience = pipeline.limits
            pipeline.limits = patience._replace(request_timeout=0.0)
            await asyncio.sleep(0.01)
            pipeline._look()
            pipeline.limits = patience
            assert [caller.answers[tag] for tag in range(2)] == [errors.TIMEOUT] * 2
            disk.go_on()
            await until(lambda: lease.remaining == 40, "the checkpoint")
            renewal = Recorder()
            leases.restore(member.lessor.renew(1), renewal)
            await renewal.answer(1)
            await until(lambda: lease.logged_in_full, "the renewal counts")

    asyncio.run(check())


def test_stop_of_an_overloaded_pipeline_marks_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as member:
            lease = await granted(member, 1, 100)
            member.clock.now += 60
            await member.pipeline.stop()
            Leases(member.pipeline, member.lessor, 1.0).stop()
            assert lease.logged_in_full

    asyncio.run(check())
