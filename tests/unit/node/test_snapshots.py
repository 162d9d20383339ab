"""Snapshots between two members, on real databases, logs and sockets."""

import asyncio
import os
import shutil
import socket
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rusd.lease.lessor import Lessor
from rusd.log import Logger
from rusd.mvcc.hashing import hash_history
from rusd.mvcc.keyspace import Keyspace
from rusd.mvcc.ranges import read_range
from rusd.node import snapshot_channel
from rusd.node import snapshots as snapshots_module
from rusd.node.apply import Applier
from rusd.node.bootstrap import recover
from rusd.node.entry import Kind
from rusd.node.snapshot_channel import Channel
from rusd.node.snapshot_wire import SnapshotFrame, head
from rusd.node.snapshots import Limits, Pace
from rusd.node.staging import Prepared, Staged, Staging, destroyed
from rusd.pb.rpc_pb2 import NOSPACE, AlarmRequest, CompactionRequest, DowngradeInfo, RangeRequest
from rusd.raft.message import Snapshot
from rusd.storage.engine import Engine
from rusd.storage.folders import current
from rusd.storage.wal import Entry, Wal
from tests.unit.mvcc.opened import finished
from tests.unit.node.running import CLUSTER_ID, SECONDS, until
from tests.unit.node.transferring import RECEIVER, SENDER, Site, copied, pair, site


def run(scenario: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(2 * SECONDS):
            await scenario

    asyncio.run(limited())


def history(keyspace: Keyspace) -> Any:
    return finished(hash_history(keyspace, 0))


async def transferred(sender: Site, receiver: Site) -> Staged:
    """Sends a snapshot, and returns it at the receiver."""
    sender.snapshots.send(sender.message())
    assert await sender.reported()
    message, staged = receiver.arrived.pop()
    assert message.snapshot == staged.snapshot
    return staged


async def installed(sender: Site, receiver: Site) -> None:
    staged = await transferred(sender, receiver)
    staged.install(receiver.wal)
    staged.swap()


def test_the_receiver_becomes_what_the_sender_was(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.grant(7, 100)
            sender.fill(300)
            sender.put(b"leased", b"x", lease=7)
            compaction = CompactionRequest(revision=100)
            sender.apply((Kind.COMPACT, compaction.SerializeToString()))
            raised = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=SENDER, alarm=NOSPACE)
            sender.apply((Kind.ALARM, raised.SerializeToString()))
            swapped: list[int] = []
            receiver.snapshots.on_swap.append(swapped.append)
            sender.snapshots.send(replace(sender.message(), snapshot=Snapshot(5, 1)))
            sender.put(b"later", b"")  # refused, and an entry all the same
            assert await sender.reported()
            ((message, staged),) = receiver.arrived
            receiver.arrived.clear()
            # What it really covers, not what the core asked for; and its configuration.
            assert message.snapshot == staged.snapshot
            assert staged.snapshot.index in (sender.position - 1, sender.position)
            assert staged.snapshot.term == 1
            assert staged.snapshot.conf_state.voters == (SENDER, RECEIVER)
            assert receiver.position == 0, "nothing has happened yet"
            staged.install(receiver.wal)
            staged.swap()
            here, there = receiver.applier, sender.applier
            assert receiver.position == staged.snapshot.index
            assert receiver.wal.last_index == staged.snapshot.index
            assert receiver.content() == sender.content()
            assert history(here.keyspace) == history(there.keyspace)
            assert here.keyspace.compacted == 100
            assert here.lessor.get(7).keys == {b"leased"}
            assert NOSPACE in here.alarms
            assert here.alarms.refusal is not None
            assert here.membership.conf_state == there.membership.conf_state
            assert here.membership.members == there.membership.members
            assert here.membership.local_id == RECEIVER
            assert swapped == [1]
            # It goes on from there, as the other does.
            for member in (sender, receiver):
                lowered = AlarmRequest(
                    action=AlarmRequest.DEACTIVATE, memberID=SENDER, alarm=NOSPACE
                )
                member.apply((Kind.ALARM, lowered.SerializeToString()))
                member.fill(10, first=295)
            assert receiver.content() == sender.content()
            assert history(here.keyspace) == history(there.keyspace)
            await until(
                lambda: receiver.folders() == {"CURRENT", receiver.engine.path.name}, "tidy"
            )
            await until(lambda: sender.folders() == {"keyspace"}, "no checkpoint is left")
        # And after a restart it is still that, and still itself.
        async with site(tmp_path / "receiver", RECEIVER) as again:
            assert again.applier.membership.local_id == RECEIVER
            assert again.applier.membership.cluster_id == CLUSTER_ID
            assert again.position == again.wal.last_index

    run(test())


def test_a_member_may_get_one_snapshot_after_another(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            for round_ in range(3):
                sender.fill(100, first=100 * round_)
                await installed(sender, receiver)
                assert receiver.content() == sender.content()
                assert receiver.position == sender.position
            await until(lambda: len(receiver.folders()) == 2, "old keyspaces are gone")

    run(test())


def test_reads_under_way_end_on_what_they_began_with(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.fill(2500, 100)
            await installed(sender, receiver)
            everything = RangeRequest(key=b"\0", range_end=b"\0")
            expected = finished(read_range(receiver.applier.keyspace, everything))
            old = receiver.engine.path
            read = read_range(receiver.applier.keyspace, everything)
            next(read)
            sender.fill(2500, 200)
            await installed(sender, receiver)
            await asyncio.sleep(0.6)  # for an attempt to remove what is being read
            assert old.exists()
            assert finished(read) == expected
            del read
            await until(lambda: not old.exists(), "the old database is gone")

    run(test())


def test_a_lease_keeps_the_time_that_it_had(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.grant(7, 100)
            await installed(sender, receiver)
            lease = receiver.applier.lessor.get(7)
            assert receiver.applier.lessor.left(lease) == 100
            lease.expires += 50  # as after a change of leader
            receiver.clock.now += 20
            sender.grant(8, 10)
            await installed(sender, receiver)
            lessor = receiver.applier.lessor
            assert lessor.left(lessor.get(7)) == 130
            assert lessor.left(lessor.get(8)) == 10

    run(test())


# What goes wrong on the way.


def test_what_arrived_whole_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots_module, "PIECE_BYTES", 1 << 14)
    receivers: list[Site] = []
    written: list[tuple[int, int]] = []
    write = Staging.write
    cut = False

    def recorded(staging: Staging, number: int, offset: int, data: memoryview) -> None:
        nonlocal cut
        if len(written) == 12 and not cut:
            cut = True
            receivers[0].connections[-1].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        written.append((number, offset))
        write(staging, number, offset, data)

    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            receivers.append(receiver)
            for part in range(6):
                sender.fill(30, first=30 * part)
                sender.engine.flush()
            monkeypatch.setattr(Staging, "write", recorded)
            staged = await transferred(sender, receiver)
            assert cut
            assert len(receiver.connections) == 2
            once = {number for number, offset in written if written.count((number, offset)) == 1}
            again = {number for number, offset in written if written.count((number, offset)) > 1}
            assert once - again, "files"
            assert len(again) <= 2, "at most those that were on their way"
            staged.install(receiver.wal)
            staged.swap()
            assert receiver.content() == sender.content()

    run(test())


def test_what_was_kept_is_checked_against_the_sender(tmp_path: Path) -> None:
    """Files of another sender may have the names and sizes of this one's."""

    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.fill(50)
            staging = Staging(receiver.directory, 3)
            receiver.snapshots._staging = staging
            content = sender.snapshots._checkpoint()
            staging.begin(content.files)
            for number, file in enumerate(content.files):
                staging.write(number, 0, memoryview(os.urandom(file.size)))
            await installed(sender, receiver)
            assert receiver.content() == sender.content()
            shutil.rmtree(content.path)

    run(test())


@pytest.mark.parametrize(
    "kind", [SnapshotFrame.OFFER, SnapshotFrame.PIECE, SnapshotFrame.CHECKSUMS]
)
def test_a_flipped_bit_on_the_way_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: SnapshotFrame
) -> None:
    flips = 0

    def flipping(given: int, *parts: bytes | memoryview) -> bytes:
        nonlocal flips
        checked = head(given, *parts)
        if given == kind and not flips:
            flips += 1
            checked = checked[:4] + bytes((checked[4] ^ 1,)) + checked[5:]
        return checked

    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.fill(50)
            sender.snapshots.limits = sender.snapshots.limits._replace(attempts=1)
            monkeypatch.setattr(snapshot_channel, "head", flipping)
            sender.snapshots.send(sender.message())
            assert not await sender.reported()
            assert flips == 1
            assert not receiver.arrived
            await installed(sender, receiver)
            assert receiver.content() == sender.content()

    run(test())


def test_content_that_is_not_what_it_is_called_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.fill(10)
            checkpoint, close = sender.snapshots._checkpoint, Prepared.close

            def lying() -> Any:
                content = checkpoint()
                snapshot = replace(content.snapshot, index=content.snapshot.index + 1)
                return content._replace(snapshot=snapshot)

            held: list[Any] = []
            looks: list[bool] = []

            def closing(prepared: Prepared) -> None:
                held.append(prepared.engine.tables)  # as RocksDB's threads do for a while
                close(prepared)

            def looking(folder: Path) -> bool:
                looks.append(destroyed(folder))
                return looks[-1]

            monkeypatch.setattr(sender.snapshots, "_checkpoint", lying)
            monkeypatch.setattr(Prepared, "close", closing)
            monkeypatch.setattr(snapshots_module, "destroyed", looking)
            sender.snapshots.send(sender.message())
            assert not await sender.reported()
            assert not receiver.arrived
            await until(lambda: bool(looks), "an attempt to remove it")
            assert len(receiver.folders()) == 2, "it is being closed"
            held.clear()
            await until(lambda: receiver.folders() == {"keyspace"}, "nothing of it is left")
            assert looks[0] is False

    run(test())


def test_without_space_for_it_a_snapshot_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.fill(10)
            usage = shutil.disk_usage(tmp_path)._replace(free=64 << 20)
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
            sender.snapshots.send(sender.message())
            assert not await sender.reported()
            monkeypatch.undo()
            await installed(sender, receiver)

    run(test())


def test_a_receiver_that_is_not_there_is_reported(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            receiver.port = 1
            sender.snapshots.send(sender.message())
            assert not await sender.reported()
            await until(lambda: sender.folders() == {"keyspace"}, "no checkpoint is left")

    run(test())


def test_a_receiver_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.snapshots.limits = sender.snapshots.limits._replace(stall=0.1, attempts=2)

            async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await asyncio.sleep(1)
                writer.close()

            server = await asyncio.start_server(silent, "127.0.0.1", 0)
            receiver.port = server.sockets[0].getsockname()[1]
            sender.snapshots.send(sender.message())
            assert not await sender.reported()
            server.close()

    run(test())


def test_a_snapshot_that_is_of_no_use_is_not_sent_or_taken(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.snapshots.wanted = lambda _: False
            sender.snapshots.send(sender.message())
            assert not await sender.reported()
            assert not receiver.connections
            sender.snapshots.wanted = lambda _: True
            receiver.snapshots.wanted = lambda _: False
            sender.snapshots.send(sender.message())
            assert not await sender.reported()
            assert receiver.folders() == {"keyspace"}

    run(test())


def test_a_later_connection_takes_the_place_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier one may hang, without anyone having noticed."""

    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.fill(50)
            send, hanging, over = Channel.send, threading.Event(), threading.Event()

            def hang(channel: Channel, kind: int, *parts: bytes | memoryview) -> None:
                if kind == SnapshotFrame.PIECE and not hanging.is_set():
                    hanging.set()
                    over.wait(SECONDS)
                send(channel, kind, *parts)

            monkeypatch.setattr(Channel, "send", hang)
            sender.snapshots.send(sender.message(term=3))
            await until(hanging.is_set, "the connection")
            async with site(tmp_path / "other", SENDER, receiver) as other:
                other.fill(20)
                other.snapshots.send(other.message(term=2))
                assert not await other.reported(), "a leader of the past"
                other.snapshots.send(other.message(term=4))
                assert await other.reported()
                assert len(receiver.arrived) == 1
                receiver.arrived.pop()[1].discard()
            receiver.snapshots.wanted = lambda _: False  # the other one tries again
            over.set()
            assert not await sender.reported()

    run(test())


def test_a_discarded_snapshot_leaves_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.fill(50)
            before = receiver.position
            (await transferred(sender, receiver)).discard()
            await until(lambda: receiver.folders() == {"keyspace"}, "nothing of it is left")
            assert receiver.position == before

    run(test())


def test_a_checkpoint_never_stands_for_half_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.fill(5)
            whole, applier = sender.position, sender.applier
            applier.at(whole + 1, 2)
            applier.keyspace.write()
            checkpoint, made = Engine.checkpoint, 0

            def and_on(engine: Engine, path: Path) -> None:
                nonlocal made
                checkpoint(engine, path)
                made += 1
                if made == 2:
                    applier.finish(1, whole + 1)

            monkeypatch.setattr(Engine, "checkpoint", and_on)
            staged = await transferred(sender, receiver)
            assert made == 3
            assert staged.snapshot.index == whole + 1
            staged.discard()
            await until(lambda: sender.folders() == {"keyspace"}, "no checkpoint is left")

    run(test())


def test_a_busy_member_sends_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    now, served = 0.0, 0
    monkeypatch.setattr(snapshots_module, "time", SimpleNamespace(monotonic=lambda: now))
    pace = Pace(Limits(rate=1 << 30, busy_rate=400_000, busy=500), lambda: served)

    def took(size: int) -> float:
        nonlocal now
        start = now
        for _ in range(size // 8000):
            now += pace.sent(8000)
        return now - start

    assert took(160_000) > 0.2, "until more is known"
    assert took(16_000_000) < 0.02
    now += 0.3  # it looks again
    served += 10_000
    assert took(96_000) > 0.2
    now += 0.2
    served += 10
    assert took(16_000_000) < 0.02
    now += 1.0
    assert took(96_000) > 0.2, "after a pause it is not known"


# Crashes.


Content = tuple[dict[bytes, bytes | None], int, int, int]
"""Keys and values, how far it is applied, and the ends of the log."""


def opened_after_a_crash(directory: Path) -> Content:
    """What a member finds."""
    engine, wal, log = Engine(directory), Wal(directory / "wal"), Logger(outputs=())
    applier, persisted = recover(engine, wal, Lessor(lambda: 0.0), None, log)
    keyspace = applier.keyspace
    content = {key: keyspace.get(key) for key in keyspace.live(b"", None)}
    found = content, keyspace.applied.position, wal.first_index, wal.last_index
    assert persisted.snapshot.index == keyspace.applied.position
    assert all(entry.index > persisted.snapshot.index for entry in persisted.entries)
    wal.close()
    engine.close()
    vars(keyspace).clear()
    vars(engine).clear()
    return found


class CrashError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("behind", [True, False])
def test_a_crash_at_any_point_leaves_the_old_or_the_new_state_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    """Also where the log that is replaced is longer than what the snapshot stands for."""
    calls = [
        (os, "fsync"),
        (os, "pwritev"),
        (os, "pwrite"),
        (os, "ftruncate"),
        (os, "posix_fallocate"),
        (Path, "rename"),
        (Path, "unlink"),
    ]

    async def received() -> tuple[Snapshot, str, Content, Content]:
        """A receiver's directory with a snapshot that has arrived; and what it is before and after
        it is installed.
        """
        async with pair(tmp_path) as (sender, receiver):
            sender.fill(8)
            await installed(sender, receiver)
            await until(lambda: len(receiver.folders()) == 2, "tidy")
            receiver.engine.flush()
            # It has something in its log, and not applied: of a leader that is gone.
            since, more = receiver.position + 1, 2 if behind else 9
            receiver.wal.append([Entry(1, since + number, b"") for number in range(more)])
            before = (receiver.content(), since - 1, since, since + more - 1)
            sender.term = 2
            sender.fill(4, first=8)
            staged = await transferred(sender, receiver)
            copied(receiver.directory, tmp_path / "base")
            index = staged.snapshot.index
            after = (sender.content(), index, index + 1, index)
            staged.discard()
            return staged.snapshot, staged._folder.name, before, after

    async def test() -> None:
        snapshot, name, before, after = await received()
        outcomes: list[bool] = []
        finished_ = False
        while not finished_:
            crash = copied(tmp_path / "base", tmp_path / "crash")
            wal = Wal(crash / "wal")
            left = len(outcomes)

            def counted(call: Any) -> Any:
                def change(*arguments: Any) -> Any:
                    nonlocal left
                    if left == 0:
                        raise CrashError
                    left -= 1
                    return call(*arguments)

                return change

            with monkeypatch.context() as patched:
                for owner, method in calls:
                    patched.setattr(owner, method, counted(getattr(owner, method)))
                try:
                    Staged(snapshot, crash / name, lambda: None, lambda: None).install(wal)
                    finished_ = True
                except CrashError:
                    pass
            found = opened_after_a_crash(crash)
            outcomes.append(found == after)
            assert found in (before, after)
            shutil.rmtree(crash)
        assert outcomes == sorted(outcomes), "once new, always new"
        assert outcomes.count(False) > 3
        assert outcomes.count(True) > 5, "the pointer is not the last step"

    run(test())


def test_what_a_crash_left_of_snapshots_is_removed_at_the_start(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            sender.fill(5)
            (sender.directory / "checkpoint-x").mkdir()
            await installed(sender, receiver)
            (receiver.directory / "keyspace-9-x").mkdir()
            (receiver.directory / "keyspace-9-x" / "000007.sst").write_bytes(b"half")
        async with pair(tmp_path) as (sender, receiver):
            assert sender.folders() == {"keyspace"}
            assert receiver.folders() == {"CURRENT", current(receiver.directory).name}
            assert receiver.content() == sender.content()

    run(test())


def test_the_applier_does_as_the_alarms_of_the_snapshot_say(tmp_path: Path) -> None:
    """And of those of before nothing is left."""

    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            raised = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=SENDER, alarm=NOSPACE)
            receiver.apply((Kind.ALARM, raised.SerializeToString()))
            handler = receiver.applier.handlers[Kind.PUT]
            sender.fill(3)
            await installed(sender, receiver)
            assert receiver.applier.handlers[Kind.PUT] is not handler
            receiver.fill(1, first=3)
            assert len(receiver.applier.keyspace) == 4
            assert isinstance(receiver.applier, Applier)

    run(test())


def test_the_downgrade_of_the_snapshot_is_the_clusters(tmp_path: Path) -> None:
    async def test() -> None:
        async with pair(tmp_path) as (sender, receiver):
            info = DowngradeInfo(enabled=True, targetVersion="3.6.0")
            sender.apply((Kind.DOWNGRADE, info.SerializeToString()))
            sender.fill(3)
            await installed(sender, receiver)
            assert receiver.applier.downgrade.info == info

    run(test())
