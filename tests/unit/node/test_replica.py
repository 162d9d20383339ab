"""rusd/node/replica.py: what a member promises is on its disk; what it has applied is in place."""

import asyncio
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rusd.node import replica
from rusd.raft.message import Entry, Message, MessageKind, Snapshot
from rusd.storage.wal import Wal
from tests.unit.node.running import SECONDS, Recorder, until
from tests.unit.node.trio import Stage, Trio, revision, stage, three

__all__ = ["stage"]


async def a_moment() -> None:
    """Long enough for what must not happen."""
    await asyncio.sleep(0.05)


def test_a_write_is_acknowledged_only_when_a_majority_has_synced_it(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        caller = Recorder()
        trio[2].disk.stop()
        trio[3].disk.stop()
        trio[1].put(caller, 1, b"majority")
        for follower in (trio[2], trio[3]):
            await until(follower.disk.waiting.is_set, "the followers write")
        await until(lambda: not trio[1].replica.busy, "the leader has synced")
        await a_moment()
        assert not caller.answers
        assert not trio[1].has(b"majority")
        trio[3].disk.go_on()
        revision(await caller.answer(1))
        assert not trio[2].has(b"majority")

    stage.play(test)


def test_two_followers_commit_but_a_leader_applies_only_what_is_on_its_own_disk(
    stage: Stage,
) -> None:
    async def test(trio: Trio) -> None:
        caller = Recorder()
        trio[1].disk.stop()
        trio[1].put(caller, 1, b"followers")
        index = trio[1].replica.applied + 1
        await until(lambda: trio[1].replica.raw.commit == index, "the leader knows it committed")
        await until(lambda: trio[2].has(b"followers"), "a follower has applied it")
        await a_moment()
        assert not caller.answers
        assert not trio[1].has(b"followers")
        trio[1].disk.go_on()
        revision(await caller.answer(1))

    stage.play(test)


def test_a_vote_is_given_only_when_it_is_on_disk(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        trio.cut_off(1)
        trio[3].disk.stop()
        election = asyncio.ensure_future(trio.elect(2))
        await until(trio[3].disk.waiting.is_set, "the vote is written")
        await a_moment()
        assert not trio[2].replica.is_leader
        trio[3].disk.go_on()
        await election

    stage.play(test)


def test_what_is_told_again_waits_for_the_same_sync(stage: Stage) -> None:
    """A repeated append has nothing to write, but what it acknowledges is not on disk yet."""

    async def test(trio: Trio) -> None:
        trio[2].disk.stop()
        trio[1].put(Recorder(), 1, b"again")
        await until(trio[2].disk.waiting.is_set, "the follower writes")
        append = next(
            each
            for each in trio[1].link.sent
            if each.kind == MessageKind.APPEND and each.to == 2 and each.entries
        )
        trio[2].replica.receive([append])
        await a_moment()
        assert not [each for each in trio[2].link.sent if each.kind == MessageKind.APPEND_REPLY]
        trio[2].disk.go_on()
        await trio.level()

    stage.play(test)


def test_a_leader_is_in_charge_only_when_it_has_applied_what_was_acknowledged(
    stage: Stage,
) -> None:
    async def test(trio: Trio) -> None:
        trio.cut_off(1)
        trio.lose(MessageKind.APPEND, 3)
        election = asyncio.ensure_future(trio.elect(2))
        await until(lambda: trio[2].replica.is_leader, "2 is elected")
        await a_moment()
        assert not trio[2].replica.in_charge
        trio.lose(0)
        trio[2].replica.unreachable(3)
        trio[2].tick()
        await election

    stage.play(test)


def test_a_snapshot_without_its_content_changes_nothing(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        raw = trio[2].replica.raw
        ahead = Snapshot(raw.commit + 100, raw.term, raw.conf_state)
        trio[2].replica.receive([Message(MessageKind.SNAPSHOT, 2, 1, raw.term, snapshot=ahead)])
        assert trio[2].failures == []
        assert raw.commit < ahead.index

    stage.play(test)


def test_a_long_row_of_entries_is_applied_between_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "_SLICE", -1.0)

    async def test() -> None:
        async with three(tmp_path) as trio:
            caller, loop = Recorder(), asyncio.get_running_loop()
            trio[2].disk.stop()
            trio[1].pipeline.limits = trio[1].pipeline.limits._replace(entry_requests=1)
            for tag in range(200):
                trio[1].put(caller, tag, b"%d" % tag)
            await caller.answer(199)
            follower, applied = trio[2].replica, list[int]()
            await until(lambda: follower.raw.commit == trio[1].replica.applied, "2 knows of them")

            def watch() -> None:
                applied.append(follower.applied)
                if applied[-1] < follower.raw.commit:
                    loop.call_soon(watch)

            watch()
            trio[2].disk.go_on()
            await trio.level()
            assert max(after - before for before, after in pairwise(applied)) <= 2

    asyncio.run(test())


class Content:
    """A snapshot's content, which takes until the test lets it be installed."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.may_install = threading.Event()
        self.swapped = False

    def install(self, wal: Wal) -> None:
        assert self.may_install.wait(SECONDS)
        wal.note_snapshot(self.snapshot.index, self.snapshot.term)
        wal.reset(self.snapshot.index, self.snapshot.term)

    def swap(self) -> None:
        self.swapped = True

    def discard(self) -> None:
        raise AssertionError("the core has no use for it")


def test_reads_wait_until_a_snapshot_that_covers_them_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while earlier entries are applied, and the core takes it when they are."""
    monkeypatch.setattr(replica, "_SLICE", -1.0)

    async def test() -> None:
        async with three(tmp_path) as trio:
            caller, follower = Recorder(), trio[2].replica
            follower_disk = trio[2].disk
            trio.lose(MessageKind.APPEND, 2)
            for tag in range(5):
                trio[1].put(caller, tag, b"before")
                revision(await caller.answer(tag))
            follower_disk.stop()
            trio.lose(0)
            trio[1].replica.unreachable(2)
            trio[1].tick()
            await until(lambda: follower.raw.commit == trio[1].replica.applied, "2 has them")
            trio.lose(MessageKind.APPEND, 2)
            trio[1].put(caller, 5, b"covered")
            revision(await caller.answer(5))
            read = asyncio.ensure_future(trio[2].read())
            await until(lambda: trio[2].reads._unapplied, "the read waits to be applied")

            raw = trio[1].replica.raw
            snapshot = Snapshot(raw.commit, raw.term, raw.conf_state)
            content = Content(snapshot)
            arrives = Message(MessageKind.SNAPSHOT, 2, 1, raw.term, snapshot=snapshot)
            apply, loop, held = follower.apply, asyncio.get_running_loop(), list[bool]()

            def apply_and_receive(entry: Entry) -> None:
                follower.apply = apply
                apply(entry)
                loop.call_soon(follower.receive_snapshot, arrives, content)
                loop.call_soon(lambda: held.append(follower.raw.holds_snapshot))

            follower.apply = apply_and_receive
            follower_disk.go_on()
            await until(lambda: follower.raw.applied == snapshot.index, "the core took it")
            await a_moment()
            assert not read.done()
            assert held == [True]
            content.may_install.set()
            assert await read is None
            assert content.swapped

    asyncio.run(test())


@pytest.mark.parametrize("method", ["step", "tick", "advance", "ready"])
def test_a_core_that_fails_stops_the_member(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with three(tmp_path) as trio:
            broken, raw = trio[2], trio[2].replica.raw

            works = getattr(raw, method)

            def fail_once(*ready: Any) -> Any:
                if method == "advance" and not ready[0].entries:
                    return works(*ready)
                monkeypatch.undo()
                raise AssertionError("a defect")

            monkeypatch.setattr(raw, method, fail_once)
            if method == "tick":
                broken.replica._tick_seconds = 0.01
                broken.replica._tick()
            else:
                trio[1].put(Recorder(), 1, b"k")
            await until(lambda: broken.failures, "the member fails")
            term = raw.term
            trio[1].tick()
            await a_moment()
            assert [str(error) for error in broken.failures] == ["a defect"]
            assert raw.term == term
            broken.failures.clear()

    asyncio.run(test())
