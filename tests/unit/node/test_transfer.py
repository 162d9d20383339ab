"""rusd/node/transfer.py: who is named leads when the transfer returns, or it says why not."""

import asyncio

import pytest

from rusd.node import transfer
from rusd.node.transfer import BadTransfereeError, NotLeaderError, Transfer, TransferTimedOutError
from rusd.raft.message import MessageKind
from tests.unit.node.running import Recorder
from tests.unit.node.trio import Stage, Trio, revision, stage

__all__ = ["stage"]


def test_who_is_named_leads_when_it_returns(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        caller = Recorder()
        trio[1].put(caller, 1, b"before")
        await trio[1].transfer.to(3)
        assert trio[1].replica.leader == 3
        assert trio[3].replica.is_leader
        revision(await caller.answer(1))
        await trio[3].transfer.to(3)
        assert trio[3].replica.is_leader

    stage.play(test)


def test_only_a_leader_moves_the_lead_and_only_to_a_voter(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        with pytest.raises(NotLeaderError):
            await trio[2].transfer.to(3)
        with pytest.raises(BadTransfereeError):
            await trio[1].transfer.to(99)
        learner = trio[1].applier.membership.members[3]
        learner.isLearner = True
        try:
            with pytest.raises(BadTransfereeError):
                await trio[1].transfer.to(3)
        finally:
            learner.isLearner = False
        assert trio[1].replica.is_leader

    stage.play(test)


def test_who_cannot_take_over_in_time_is_told_and_the_leader_goes_on(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        leader, caller = trio[1], Recorder()
        impatient = Transfer(leader.replica, leader.applier.membership, 0.1, lambda _: True)
        trio.lose(MessageKind.TIMEOUT_NOW, 2)
        with pytest.raises(TransferTimedOutError):
            await impatient.to(2)
        for _ in range(12):
            leader.tick()
            await asyncio.sleep(0.005)
        leader.put(caller, 1, b"after")
        revision(await caller.answer(1))
        assert leader.replica.is_leader
        assert len(leader.replica.on_leader_change) == len(trio[2].replica.on_leader_change)

    stage.play(test)


def test_a_leader_that_stops_is_succeeded_by_who_has_most_of_the_log(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        caller = Recorder()
        trio.lose(MessageKind.APPEND, 3)
        trio[1].put(caller, 1, b"k")
        revision(await caller.answer(1))
        await trio[1].transfer.away()
        assert trio[2].replica.is_leader
        await trio[3].transfer.away()
        assert trio[2].replica.is_leader, "only a leader passes it on"

    stage.play(test)


def test_a_leader_that_cannot_be_succeeded_stops_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_FAREWELL", 0.1)

    async def test(trio: Trio) -> None:
        leader = trio[1]
        trio.cut_off(1)
        async with asyncio.timeout(leader.transfer._timeout / 2):
            await leader.transfer.away()
        nobody = Transfer(leader.replica, leader.applier.membership, 5.0, lambda _: False)
        async with asyncio.timeout(0.05):
            await nobody.away()

    stage.play(test)
