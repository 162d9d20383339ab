"""rusd/node/renewals.py and leases.py with three members: a lease lives as long as clients were
told, whoever leads.
"""

import asyncio
from pathlib import Path

from rusd.node.entry import Kind
from rusd.node.pipeline import Limits
from rusd.node.renewals import NoLeaderError
from rusd.pb.rpc_pb2 import LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest
from tests.unit.node.running import Recorder, until
from tests.unit.node.trio import GRACE, Member, Stage, Trio, stage, three

__all__ = ["stage"]


async def time_to_live(
    member: Member, lease: int, keys: bool = False
) -> LeaseTimeToLiveResponse | Exception:
    answer: asyncio.Future[LeaseTimeToLiveResponse | Exception] = (
        asyncio.get_running_loop().create_future()
    )
    member.renewals.time_to_live(LeaseTimeToLiveRequest(ID=lease, keys=keys), answer.set_result)
    return await answer


def left(member: Member, lease: int) -> float:
    return member.lessor.left(member.lessor.get(lease))


def test_a_renewal_through_a_follower_moves_the_leaders_clock(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await trio[2].grant(1, 100)
        await trio.level()
        trio[1].clock.now += 60
        assert await trio[2].renew(1) == 100
        assert left(trio[1], 1) == 100
        assert await trio[2].renew(999) == 0

    stage.play(test)


def test_a_leader_that_was_cut_off_renews_nothing(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await trio[1].grant(2, 100)
        await trio.level()
        trio.cut_off(1)
        await trio.elect(2)
        trio[1].clock.now += 60
        renewal = asyncio.ensure_future(trio[1].renew(2))
        for _ in range(3):
            await asyncio.sleep(0.02)
            trio[1].tick()
        assert not renewal.done()
        assert left(trio[1], 2) == 40
        trio[2].clock.now += 60
        trio.heal()
        trio[2].tick()
        assert await renewal == 100
        assert left(trio[2], 2) == 100

    stage.play(test)


def test_a_new_leader_gives_a_lease_all_that_the_one_before_may_have_promised(
    stage: Stage,
) -> None:
    async def test(trio: Trio) -> None:
        await trio[1].grant(3, 100)
        await trio.level()
        # By the follower's clock since the grant, it has run out.
        trio[2].clock.now += 1000
        assert await trio[3].renew(3) == 100
        await trio.elect(2)
        assert left(trio[2], 3) == 100 + GRACE
        assert await time_to_live(trio[3], 3) == LeaseTimeToLiveResponse(
            ID=3, TTL=int(100 + GRACE), grantedTTL=100
        )

    stage.play(test)


def test_what_a_leader_found_to_have_run_out_is_not_proposed_when_it_leads_no_more(
    stage: Stage,
) -> None:
    async def test(trio: Trio) -> None:
        await trio[1].grant(4, 100)
        await trio.level()
        deposed = trio[1]
        deposed.disk.stop()
        caller = Recorder()
        deposed.put(caller, 1, b"k")
        await until(deposed.disk.waiting.is_set, "the log is busy")
        deposed.clock.now += 1000
        (expiry,) = (each for each in deposed.lessor.expired(10) if each.lease == 4)
        deposed.pipeline.propose(Kind.LEASE_EXPIRE, expiry.encode(), expiry, None, 0)
        await asyncio.sleep(0.01)
        await trio.elect(2)
        assert await trio[2].renew(4) == 100
        deposed.disk.go_on()
        await deposed.propose(Kind.PUT, PutRequest(key=b"after it"))
        await trio.elect(1)
        await deposed.propose(Kind.PUT, PutRequest(key=b"after it"))
        await trio.level()
        assert all(4 in member.lessor for member in trio)

    stage.play(test)


def test_a_renewal_of_a_reduced_lease_is_told_when_all_know_of_it(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await trio[1].grant(5, 100)
        lease = trio[1].lessor.get(5)
        trio[1].clock.now += 60
        trio[1].leases._checkpoint([lease])
        await trio.level()
        await until(lambda: trio[2].lessor.get(5).remaining == 40, "the checkpoint")
        assert await trio[2].renew(5) == 100
        assert lease.logged_in_full
        await trio.level()
        await trio.elect(3)
        assert left(trio[3], 5) == 100 + GRACE

    stage.play(test)


def test_a_lease_of_more_keys_than_fit_in_a_call_is_shown_through_a_follower(
    stage: Stage,
) -> None:
    async def test(trio: Trio) -> None:
        await trio[1].grant(6, 100)
        keys = {b"%01000d" % number for number in range(1200)}
        caller = Recorder()
        for tag, key in enumerate(keys):
            request = PutRequest(key=key, lease=6)
            trio[1].pipeline.propose(Kind.PUT, request.SerializeToString(), request, caller, tag)
        trio[2].disk.stop()
        await caller.answer(len(keys) - 1)
        asked = asyncio.ensure_future(time_to_live(trio[2], 6, keys=True))
        await asyncio.sleep(0.05)
        assert not asked.done(), "it has not applied what was acknowledged"
        trio[2].disk.go_on()
        shown = await asked
        assert isinstance(shown, LeaseTimeToLiveResponse)
        assert (shown.TTL, shown.grantedTTL, set(shown.keys)) == (100, 100, keys)
        assert await time_to_live(trio[2], 998, keys=True) == LeaseTimeToLiveResponse(
            ID=998, TTL=-1
        )

    stage.play(test)


def test_without_a_leader_that_is_what_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path, Limits(request_timeout=0.2)) as trio:
            await trio.depose(1)
            assert isinstance(await trio[1].renew(1), NoLeaderError)
            assert isinstance(await time_to_live(trio[1], 1), NoLeaderError)

    asyncio.run(test())
