"""rusd/node/reads.py: a read sees all that was acknowledged before it came, or fails."""

import asyncio
from pathlib import Path
from typing import Any

from rusd.node.pipeline import Limits, StoppedError
from rusd.node.reads import FailedReadError, LeaderChangedError, TimedOutReadError
from rusd.raft.message import MessageKind
from tests.unit.node.running import Recorder, until
from tests.unit.node.trio import Stage, Trio, revision, stage, three

__all__ = ["stage"]


def test_a_followers_read_waits_until_what_was_acknowledged_is_applied_there(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        caller = Recorder()
        trio[2].disk.stop()
        trio[1].put(caller, 1, b"acknowledged")
        revision(await caller.answer(1))
        read = asyncio.ensure_future(trio[2].read())
        await until(lambda: trio[2].reads._unapplied, "the read is confirmed")
        await asyncio.sleep(0.05)
        assert not read.done()
        assert not trio[2].has(b"acknowledged")
        trio[2].disk.go_on()
        assert await read is None
        assert trio[2].has(b"acknowledged")

    stage.play(test)


def test_a_leader_that_was_cut_off_answers_no_read(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        caller = Recorder()
        trio.cut_off(1)
        await trio.elect(2)
        trio[2].put(caller, 1, b"elsewhere")
        revision(await caller.answer(1))
        assert trio[1].replica.is_leader, "as far as it knows"
        read = asyncio.ensure_future(trio[1].read())
        for _ in range(5):
            trio[1].tick()
            await asyncio.sleep(0.02)
        assert not read.done()
        trio.heal()
        trio[2].tick()
        assert isinstance(await read, LeaderChangedError)
        assert await trio[1].read() is None
        assert trio[1].has(b"elsewhere")

    stage.play(test)


def test_a_new_leader_answers_no_read_before_it_knows_what_was_committed(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        trio.cut_off(1)
        trio.lose(MessageKind.APPEND, 3)
        election = asyncio.ensure_future(trio.elect(2))
        await until(lambda: trio[2].replica.is_leader, "2 is elected")
        read = asyncio.ensure_future(trio[2].read())
        trio[2].tick()
        await asyncio.sleep(0.05)
        assert not read.done()
        trio.lose(0)
        trio[2].replica.unreachable(3)
        trio[2].tick()
        assert await read is None
        await election

    stage.play(test)


def test_reads_that_arrive_during_a_round_share_the_next(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        reads = [asyncio.ensure_future(trio[2].read()) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reads += [asyncio.ensure_future(trio[2].read()) for _ in range(50)]
        assert await asyncio.gather(*reads) == [None] * 100
        rounds = [each for each in trio[2].link.sent if each.kind == MessageKind.READ_INDEX]
        assert len(rounds) == 2

    stage.play(test)


def test_a_read_that_comes_during_a_round_is_not_answered_by_it(stage: Stage) -> None:
    """That round's index may be of before a write that was acknowledged meanwhile."""

    async def test(trio: Trio) -> None:
        caller = Recorder()
        trio.lose(MessageKind.READ_INDEX_REPLY, 2)
        first = asyncio.ensure_future(trio[2].read())
        await until(lambda: trio[2].reads._round, "a round is under way")
        trio[1].put(caller, 1, b"meanwhile")
        revision(await caller.answer(1))
        trio[2].disk.stop()
        trio[1].put(caller, 2, b"meanwhile2")
        revision(await caller.answer(2))
        second = asyncio.ensure_future(trio[2].read())
        trio.lose(0)
        reply = await _reply(trio)
        trio[2].replica.receive([reply])
        assert await first is None
        assert not second.done()
        trio[2].disk.go_on()
        assert await second is None
        assert trio[2].has(b"meanwhile2")

    stage.play(test)


async def _reply(trio: Trio) -> Any:
    """The leader's first answer to a follower's round."""
    sent = trio[1].link.sent

    def found() -> list[Any]:
        return [each for each in sent if each.kind == MessageKind.READ_INDEX_REPLY]

    await until(found, "the leader has answered")
    return found()[0]


def test_a_round_that_was_lost_is_asked_again(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        trio.lose(MessageKind.READ_INDEX, 1)
        read = asyncio.ensure_future(trio[2].read())
        await until(lambda: trio[2].reads._round, "a round is under way")
        trio.lose(0)
        assert await read is None

    stage.play(test)


def test_an_answer_that_comes_after_the_round_was_repeated_counts(stage: Stage) -> None:
    """Else a network slower than the repetition would confirm nothing, ever."""

    async def test(trio: Trio) -> None:
        trio.lose(MessageKind.READ_INDEX_REPLY, 2)
        read = asyncio.ensure_future(trio[2].read())
        reply = await _reply(trio)
        asked = trio[2].link.sent
        await until(
            lambda: sum(each.kind == MessageKind.READ_INDEX for each in asked) > 1, "a repetition"
        )
        assert not read.done()
        trio[2].replica.receive([reply])
        async with asyncio.timeout(0.2):
            assert await read is None

    stage.play(test)


def test_a_read_without_a_leader_goes_on_when_there_is_one(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await trio.depose(1)
        read = asyncio.ensure_future(trio[1].read())
        await asyncio.sleep(0.05)
        assert not read.done()
        trio.heal()
        await trio.elect(2)
        assert await read is None

    stage.play(test)


def test_a_read_that_fails_harms_no_other(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        loop, unhandled = asyncio.get_running_loop(), list[Any]()
        loop.set_exception_handler(lambda _, context: unhandled.append(context["exception"]))
        told: list[Exception | None] = []

        def fail(error: Exception | None) -> None:
            told.append(error)
            raise ZeroDivisionError

        trio[1].reads.wait(fail)
        assert await trio[1].read() is None
        assert [type(error) for error in unhandled] == [ZeroDivisionError]
        assert [type(error) for error in told] == [type(None), FailedReadError]

    stage.play(test)


def test_a_read_that_no_quorum_confirms_times_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with three(tmp_path, Limits(request_timeout=0.3)) as trio:
            trio.cut_off(1)
            assert isinstance(await trio[1].read(), TimedOutReadError)
            await trio.depose(1)
            assert isinstance(await trio[1].read(), TimedOutReadError)
            # What is confirmed and not applied in time, too.
            trio.heal()
            await trio.elect(2)
            trio[3].disk.stop()
            caller = Recorder()
            trio[2].put(caller, 1, b"k")
            revision(await caller.answer(1))
            assert isinstance(await trio[3].read(), TimedOutReadError)
            trio[3].disk.go_on()

    asyncio.run(test())


def test_a_member_that_stops_tells_who_waits(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        await trio.depose(1)
        read = asyncio.ensure_future(trio[1].read())
        await asyncio.sleep(0)
        trio[1].reads.give_up()
        assert isinstance(await read, StoppedError)

    stage.play(test)
