"""rusd/node/pipeline.py with three members: who is asked has the leader do it, and answers."""

import asyncio
from pathlib import Path

import pytest

from rusd.api import errors
from rusd.node import pipeline
from rusd.node.pipeline import Limits
from rusd.pb.rpc_pb2 import PutResponse, RangeResponse
from rusd.raft.message import MessageKind
from tests.unit.node.running import Recorder, until
from tests.unit.node.trio import Member, Stage, Trio, revision, stage, three

__all__ = ["stage"]

SOON = Limits(request_timeout=0.5)


def version(member: Member, key: bytes) -> int:
    """How often a key was put; 0 when there is none."""
    item = member.value(key)
    return 0 if item is None else RangeResponse.FromString(item).kvs[0].version


def test_a_follower_answers_what_it_has_applied_itself(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        caller = Recorder()
        trio[2].put(caller, 1, b"forwarded")
        trio[2].disk.stop()
        await until(lambda: trio[1].has(b"forwarded"), "the others have it")
        await asyncio.sleep(0.05)
        assert not caller.answers
        trio[2].disk.go_on()
        answer = await caller.answer(1)
        assert revision(answer) == trio[2].keyspace.revision
        assert isinstance(answer, bytes)
        assert PutResponse.FromString(answer).header.member_id == 2
        assert trio[2].has(b"forwarded")

    stage.play(test)


def test_what_waits_for_a_leader_goes_on_when_there_is_one(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        caller = Recorder()
        await trio.depose(1)
        trio[1].put(caller, 1, b"waits")
        await asyncio.sleep(0.05)
        assert not caller.answers
        trio.heal()
        await trio.elect(2)
        revision(await caller.answer(1))

    stage.play(test)


def test_what_comes_when_the_leader_cannot_be_reached_waits_for_the_next(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path) as trio:
            caller, asked = Recorder(), trio[2]
            asked.pipeline.reaches = asked.connections.is_reachable
            await trio[1].peers.stop()
            trio.cut_off(1)
            await until(lambda: not asked.connections.is_reachable(1), "the leader is lost")
            asked.put(caller, 1, b"waits")
            await asyncio.sleep(0.05)
            assert not caller.answers
            await trio.elect(3)
            revision(await caller.answer(1))

    asyncio.run(test())


def test_what_comes_while_leadership_moves_goes_on_afterwards(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        caller = Recorder()
        trio.lose(MessageKind.TIMEOUT_NOW, 2)
        moved = asyncio.ensure_future(trio[1].transfer.to(2))
        await asyncio.sleep(0)
        trio[1].put(caller, 1, b"moves")
        await asyncio.sleep(0.05)
        assert not caller.answers
        trio.lose(0)
        await trio.elect(2)
        await moved
        revision(await caller.answer(1))

    stage.play(test)


def test_batches_that_were_lost_hold_up_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_LOST", 0.1)

    async def test(trio: Trio) -> None:
        asked, before = trio[2].pipeline, trio[2].pipeline.limits
        asked.limits = before._replace(batches=4, next_batch=0.0)
        caller = Recorder()
        trio.lose(MessageKind.PROPOSE, 1)
        for tag in range(4):
            trio[2].put(caller, tag, b"lost")
            await until(lambda: not asked._waiting, "it is sent off")
        trio.lose(0)
        for tag in range(4, 12):
            trio[2].put(caller, tag, b"later%d" % tag)
        async with asyncio.timeout(before.request_timeout / 3):
            for tag in range(4, 12):
                revision(await caller.answer(tag))
        assert not set(caller.answers) & set(range(4))
        asked.limits = before

    stage.play(test)


def test_batches_that_were_lost_are_bounded_by_their_bytes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_LOST", 0.05)

    async def test(trio: Trio) -> None:
        asked, before = trio[3].pipeline, trio[3].pipeline.limits
        asked.limits = before._replace(batches=2, next_batch=0.0, waiting_bytes=2500)
        caller = Recorder()
        trio.lose(MessageKind.PROPOSE, 1)
        for tag in range(3):
            trio[3].put(caller, tag, b"lost", b"v" * 1000)
            await asyncio.sleep(0.3)
        trio.lose(0)
        trio[3].put(caller, 4, b"later")
        await asyncio.sleep(0.3)
        assert caller.answers == {}
        asked.limits = before
        revision(await caller.answer(4))

    stage.play(test)


def test_what_was_lost_with_its_leader_gets_etcds_time_out_and_is_never_applied(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        async with three(tmp_path, SOON) as trio:
            caller = Recorder()
            trio.lose(MessageKind.PROPOSE, 1)
            trio[2].put(caller, 1, b"lost")
            await asyncio.sleep(0.01)
            await trio.elect(3)
            trio.heal()
            assert await caller.answer(1) == errors.TIMEOUT_DUE_TO_LEADER_FAIL
            trio[2].put(caller, 2, b"later")
            revision(await caller.answer(2))
            await trio.level()
            assert [version(member, b"lost") for member in trio] == [0, 0, 0]

    asyncio.run(test())


def test_what_is_applied_after_its_time_out_is_applied_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path, SOON) as trio:
            caller = Recorder()
            trio.lose(MessageKind.APPEND, 2)
            trio[2].put(caller, 1, b"late")
            assert await caller.answer(1) == errors.TIMEOUT
            trio.lose(0)
            await trio.elect(3)
            await trio.level()
            assert [version(member, b"late") for member in trio] == [1, 1, 1]
            assert list(caller.answers) == [1]

    asyncio.run(test())


def test_a_leader_without_a_quorum_acknowledges_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path, SOON) as trio:
            caller = Recorder()
            trio.cut_off(1)
            trio[1].put(caller, 1, b"alone")
            assert await caller.answer(1) == errors.TIMEOUT
            await trio.elect(2)
            trio[2].put(caller, 2, b"elsewhere")
            revision(await caller.answer(2))
            trio.heal()
            await trio.elect(2)
            await trio.level()
            assert [version(member, b"alone") for member in trio] == [0, 0, 0]
            assert [version(member, b"elsewhere") for member in trio] == [1, 1, 1]

    asyncio.run(test())


def test_a_member_that_stops_without_a_leader_answers_at_once(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        caller = Recorder()
        await trio.depose(1)
        trio[1].put(caller, 1, b"waits")
        trio[1].pipeline.give_up()
        assert await caller.answer(1) == errors.STOPPED
        await trio[1].pipeline.idle()
        trio[1].pipeline._stopping = False

    stage.play(test)
