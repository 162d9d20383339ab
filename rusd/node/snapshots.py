"""Snapshots between members: a leader sends its keyspace to a follower that its log cannot help.

The content is a checkpoint of the database, so that nothing stops while it is sent. It goes on a
connection of its own, file by file, checked piece by piece, at a pace that leaves the leader its
speed. The Raft message arrives with the content, and says what the content really covers.
"""

import asyncio
import secrets
import shutil
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple, TypeVar
from zlib import crc32

from rusd.log import Logger
from rusd.mvcc.keyspace import applied_in
from rusd.node.apply import Applier
from rusd.node.membership import Membership
from rusd.node.peer_outbound import PeerUnreachableError
from rusd.node.peer_traffic import Transfers
from rusd.node.peer_wire import PeerProtocolError
from rusd.node.snapshot_channel import Channel
from rusd.node.snapshot_wire import (
    PIECE_BYTES,
    FileInfo,
    Offer,
    SnapshotFrame,
    decode_checksums,
    decode_offer,
    decode_piece,
    encode_checksums,
    encode_offer,
    frame,
    is_database_file,
    piece_head,
    read_frame,
)
from rusd.node.staging import Prepared, SnapshotError, Staged, Staging, destroyed
from rusd.raft.message import Message, MessageKind, Snapshot
from rusd.storage.engine import Engine, state_table
from rusd.storage.folders import CHECKPOINT, remove_leftovers

T = TypeVar("T")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""A connection to another member, for a snapshot alone."""


class Limits(NamedTuple):
    """Bounds of snapshots."""

    rate: int = 1 << 30
    """Bytes a second, of all that are sent together, while the member has little else to do."""
    busy_rate: int = 64 << 20
    """The same while the member serves more requests a second than `busy`."""
    busy: float = 500.0
    sent_at_once: int = 2
    attempts: int = 4
    """How often a connection is made for the same checkpoint."""
    retry: float = 0.5
    """Seconds before the second attempt; twice as long before each further one."""
    stall: float = 20.0
    """Seconds without progress after which a connection is given up."""


@dataclass(slots=True, eq=False)
class _Sending:
    message: Message
    task: "asyncio.Task[None]"


class _Content(NamedTuple):
    """A checkpoint, and what it covers."""

    path: Path
    snapshot: Snapshot
    files: list[FileInfo]


class Snapshots:
    """This member's snapshots, those it sends and those it receives."""

    def __init__(
        self,
        applier: Applier,
        engine: Engine,
        open_stream: Callable[[int], Awaitable[Streams]],
        report: Callable[[int, bool], None],
        received: Callable[[Message, Staged], None],
        log: Logger,
        limits: Limits | None = None,
    ) -> None:
        """`open_stream` connects to a member. `report` is told of every `send` how it ended.
        `received` gets a snapshot that has arrived; it calls `install` and `swap` of it, or
        `discard`.

        Removes what is left over of earlier snapshots. Raises OSError.
        """
        self._applier, self._engine = applier, engine
        self._open_stream, self._report, self._received = open_stream, report, received
        self._log, self.limits = log, limits or Limits()
        self.wanted: Callable[[Message], bool] = lambda _: True
        """Whether a snapshot is still of use to its sender, and to its receiver: its term is this
        member's, the sender leads, the receiver is behind.
        """
        self.on_swap: list[Callable[[int], None]] = []
        """Called when the keyspace's content was exchanged, with the revision that it had."""
        self._member = engine.path.parent
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(
            self.limits.sent_at_once + 2, thread_name_prefix="snapshots"
        )
        self._slots = asyncio.Semaphore(self.limits.sent_at_once)
        self._pace = Pace(self.limits, self._served)
        self._sending: dict[int, _Sending] = {}
        self._needed: list[int] = []
        self._staging: Staging | None = None
        self._receiving: tuple[int, asyncio.Task[Any]] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent: defaultdict[int, Transfers] = defaultdict(Transfers)
        """By member."""
        self.received: defaultdict[int, Transfers] = defaultdict(Transfers)
        self._stopped = False
        for path in remove_leftovers(self._member):
            log.info("removed what was left over of a snapshot", path=str(path))

    @property
    def needed(self) -> int | None:
        """The lowest index of a snapshot that is being sent, or was until a moment ago: who gets it
        needs the log's entries after it. None when there is none.
        """
        return min(self._needed, default=None)

    async def stop(self) -> None:
        """Ends what is under way."""
        self._stopped = True
        for sending in list(self._sending.values()):
            sending.task.cancel()
        if self._receiving is not None:
            self._receiving[1].cancel()
        tasks = [*self._tasks]
        if tasks:
            await asyncio.wait(tasks, timeout=self.limits.stall)
        if self._staging is not None:
            self._staging.thread.shutdown(wait=False)
        self._threads.shutdown(wait=False)

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        return self._loop.run_in_executor(self._threads, work)

    def _served(self) -> int:
        """How many requests this member has served, about."""
        counters = self._applier.keyspace.counters
        return counters.puts + counters.deletes + counters.ranges + counters.txns

    # Sending.

    def send(self, message: Message) -> None:
        """Sends a snapshot in place of the core's SNAPSHOT message; `report` is told the end."""
        if self._stopped:
            return
        under_way = self._sending.get(message.to)
        if under_way is not None:
            # Of an earlier term: the core asks again only after a report.
            under_way.task.cancel()
        self._sending[message.to] = _Sending(message, self._start(self._send(message)))

    async def _send(self, message: Message) -> None:
        done = False
        counted, began = self.sent[message.to], self._loop.time()
        counted.under_way += 1
        try:
            async with self._slots:
                done = await self._send_checkpoint(message)
        except (*_CUT_OFF, SnapshotError) as error:
            self._log.warn(
                "failed to send a snapshot",
                **{"remote-peer-id": f"{message.to:x}", "error": str(error)},
            )
            counted.failed += 1
        finally:
            counted.under_way -= 1
            if done:
                counted.succeeded += 1
                counted.seconds.observe(self._loop.time() - began)
            sending = self._sending.get(message.to)
            if sending is not None and sending.message is message:
                del self._sending[message.to]
                if not self._stopped:
                    self._report(message.to, done)

    async def _send_checkpoint(self, message: Message) -> bool:
        if not self.wanted(message):
            return False
        began = self._loop.time()
        made = self._run(self._checkpoint)
        try:
            content = await asyncio.shield(made)
        except asyncio.CancelledError:
            made.add_done_callback(self._remove_made)
            raise
        index = content.snapshot.index
        self._needed.append(index)
        offer = Offer(replace(message, snapshot=content.snapshot), content.files)
        fields = {
            "remote-peer-id": f"{message.to:x}",
            "snapshot-index": content.snapshot.index,
            "bytes": offer.size,
        }
        self._log.info("sending a snapshot", **fields)
        try:
            done = await self._attempt(offer, content)
        finally:
            self._loop.call_later(_ASKS_WITHIN, self._needed.remove, index)
            self._run(partial(shutil.rmtree, content.path, ignore_errors=True))
        if done:
            self._log.info("sent a snapshot", **fields, took=self._loop.time() - began)
        return done

    def _remove_made(self, made: "asyncio.Future[_Content]") -> None:
        if made.exception() is None:
            shutil.rmtree(made.result().path, ignore_errors=True)

    def _checkpoint(self) -> _Content:
        """Makes a checkpoint. For a worker thread; raises SnapshotError, OSError."""
        engine = self._engine
        for _ in range(_CHECKPOINTS):
            path = self._member / f"{CHECKPOINT}-{secrets.token_hex(8)}"
            # What is left to be flushed by the checkpoint, which holds the GIL, is then little.
            engine.flush()
            engine.flush()
            engine.checkpoint(path)
            files = sorted(
                FileInfo(file.name, file.stat().st_size)
                for file in path.iterdir()
                if is_database_file(file.name)
            )
            with state_table(path) as state:
                applied, membership = applied_in(state), Membership.load(state)
            # A checkpoint between two requests of an entry stands for no index.
            if membership is not None and not applied.requests:
                snapshot = Snapshot(applied.position, applied.term, membership.conf_state)
                return _Content(path, snapshot, files)
            shutil.rmtree(path)
        raise SnapshotError("every checkpoint was in the middle of an entry")

    async def _attempt(self, offer: Offer, content: _Content) -> bool:
        """Sends, anew when the connection breaks: what has arrived whole is not sent again."""
        pause = self.limits.retry
        for attempt in range(self.limits.attempts):
            if attempt:
                await asyncio.sleep(pause)
                pause *= 2
            if not self.wanted(offer.message):
                return False
            try:
                _, writer = await self._open_stream(offer.message.to)
                channel = Channel.of(writer, self.limits.stall)
                try:
                    transfer = partial(self._transfer, channel, offer, content)
                    return await _finished(self._run(transfer), channel)
                finally:
                    channel.close()
                    writer.close()
            except _CUT_OFF as error:
                failure: Exception = error
                self._log.warn(
                    "a snapshot was cut off",
                    **{"remote-peer-id": f"{offer.message.to:x}", "error": str(error)},
                )
        raise failure

    # On a worker thread:

    def _transfer(self, channel: Channel, offer: Offer, content: _Content) -> bool:
        """Sends on a connection; returns False when the snapshot is no longer wanted.

        Raises SnapshotError when the receiver refuses, and what a Channel raises.
        """
        channel.send(SnapshotFrame.OFFER, encode_offer(offer))
        has = decode_checksums(_answer(channel, SnapshotFrame.HAVE))
        checksums: list[tuple[int, int]] = []
        for number, file in enumerate(offer.files):
            path = content.path / file.name
            crc = has.get(number)
            if crc is None or _checksum(path) != crc:
                crc = self._send_file(channel, offer, number, path)
                if crc is None:
                    return False
            checksums.append((number, crc))
        channel.send(SnapshotFrame.CHECKSUMS, encode_checksums(checksums))
        _answer(channel, SnapshotFrame.DONE)
        return True

    def _send_file(self, channel: Channel, offer: Offer, number: int, path: Path) -> int | None:
        """Returns the file's crc32, None when the snapshot is no longer wanted."""
        size, offset, crc = offer.files[number].size, 0, 0
        buffer = memoryview(bytearray(PIECE_BYTES))
        with path.open("rb", buffering=0) as file:
            while True:
                data = buffer[: file.readinto(buffer)]
                crc = crc32(data, crc)
                channel.send(SnapshotFrame.PIECE, piece_head(number, offset), data)
                offset += len(data)
                if offset >= size:
                    return crc
                if not data or not self.wanted(offer.message):
                    return None
                time.sleep(self._pace.sent(len(data)))

    # Receiving.

    async def receive(
        self, member: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Takes a snapshot on a connection that a member has made for it."""
        counted, began = self.received[member], self._loop.time()
        counted.under_way += 1
        try:
            await self._receive(member, reader, writer)
            counted.succeeded += 1
            counted.seconds.observe(self._loop.time() - began)
        except (*_CUT_OFF, SnapshotError) as error:
            self._log.warn(
                "failed to receive a snapshot",
                **{"remote-peer-id": f"{member:x}", "error": str(error)},
            )
            counted.failed += 1
            if not writer.is_closing():
                writer.write(frame(SnapshotFrame.REFUSED, str(error).encode()))
        finally:
            counted.under_way -= 1

    async def _receive(
        self, member: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        offer = decode_offer(await self._expect(reader, SnapshotFrame.OFFER))
        message = offer.message
        snapshot = message.snapshot
        if message.kind != MessageKind.SNAPSHOT or snapshot is None or message.sender != member:
            raise PeerProtocolError("an offer of a snapshot without one")
        if self._stopped or not self.wanted(message):
            raise SnapshotError("it is of no use here")
        await self._take_turn(message.term)
        began = self._loop.time()
        self._receiving = (message.term, _current_task())
        try:
            staging = self._staging
            if staging is None:
                staging = self._staging = Staging(self._member, snapshot.index)
            run = partial(self._loop.run_in_executor, staging.thread)
            have = await run(staging.begin, offer.files)
            # From here on the sender says nothing until it is answered.
            channel = Channel.of(writer, self.limits.stall)
            try:
                writer.write(frame(SnapshotFrame.HAVE, encode_checksums(have)))
                checksums = await _finished(run(_take_pieces, staging, channel), channel)
                working = self._start(_say_working(writer, self.limits.stall / 4))
                try:
                    await run(staging.finish, checksums)
                    prepared = await self._prepare(staging, snapshot)
                finally:
                    working.cancel()
            finally:
                channel.close()
        finally:
            self._receiving = None
        self._log.info(
            "received a snapshot",
            **{
                "remote-peer-id": f"{member:x}",
                "snapshot-index": snapshot.index,
                "bytes": offer.size,
                "took": self._loop.time() - began,
            },
        )
        staged = Staged(
            snapshot,
            staging.folder,
            partial(self._swap, prepared),
            partial(self._retire, prepared, staging.folder),
        )
        self._received(message, staged)
        writer.write(frame(SnapshotFrame.DONE))
        await writer.drain()

    async def _prepare(self, staging: Staging, snapshot: Snapshot) -> Prepared:
        """Opens what has arrived. Complete or broken, nothing more is to be added to it."""
        cluster_row = self._applier.membership.cluster_row()
        preparing = self._loop.run_in_executor(
            staging.thread, staging.prepare, snapshot, cluster_row
        )
        self._staging = None
        try:
            return await asyncio.shield(preparing)
        except asyncio.CancelledError:
            preparing.add_done_callback(partial(self._give_up, staging.folder))
            raise
        except Exception as error:  # rocksdict has no class of its own for what is corrupt
            # Nothing may hold what the error has seen, or the database would stay open.
            del preparing
            if not self._stopped:
                self._start(self._remove(staging.folder))
            raise SnapshotError(f"it cannot be opened: {error}") from error
        finally:
            staging.thread.shutdown(wait=False)

    async def _expect(self, reader: asyncio.StreamReader, wanted: int) -> bytes:
        async with asyncio.timeout(self.limits.stall):
            kind, payload = await read_frame(reader)
        if kind != wanted:
            raise PeerProtocolError(f"a frame of kind {kind} in a snapshot")
        return payload

    async def _take_turn(self, term: int) -> None:
        """One snapshot at a time is received: the one of the latest leader, and of its connections
        the last.
        """
        while self._receiving is not None:
            under_way, task = self._receiving
            if term < under_way:
                raise SnapshotError("one of a later term is being received")
            task.cancel()
            await asyncio.wait((task,))

    def _swap(self, prepared: Prepared) -> None:
        """Exchanges what this member works on with what was prepared."""
        before = self._applier.keyspace.revision
        self._engine.exchange(prepared.engine)
        self._applier.take(prepared.keyspace, prepared.lessor)
        # What was prepared is now what was used before.
        self._retire(prepared, prepared.engine.path)
        for follow_up in self.on_swap:
            follow_up(before)
        self._log.info(
            "installed a snapshot",
            **{
                "applied-index": self._applier.keyspace.applied.position,
                "current-revision": self._applier.keyspace.revision,
            },
        )

    def _give_up(self, folder: Path, preparing: "asyncio.Future[Prepared]") -> None:
        if preparing.exception() is None:
            self._retire(preparing.result(), folder)

    def _retire(self, prepared: Prepared, folder: Path) -> None:
        if not self._stopped:  # the next start removes it
            self._start(self._close_and_remove(prepared, folder))

    async def _close_and_remove(self, prepared: Prepared, folder: Path) -> None:
        await self._run(prepared.close)
        del prepared
        await self._remove(folder)

    async def _remove(self, folder: Path) -> None:
        """Removes a database once nothing reads it any more; one that is closed may still be at
        work on its files.
        """
        while not self._stopped and not await self._run(partial(destroyed, folder)):
            await asyncio.sleep(_LOOK)


class Pace:
    """Spreads what is sent over time."""

    def __init__(self, limits: Limits, served: Callable[[], int]) -> None:
        """`served` counts the requests that were served so far."""
        self._limits, self._served = limits, served
        self._lock = Lock()
        self._free_at = 0.0
        self._looked, self._count = -float("inf"), 0
        self._is_busy = False

    def sent(self, size: int) -> float:
        """How many seconds to wait after so many bytes. For any thread."""
        with self._lock:
            now = time.monotonic()
            passed = now - self._looked
            if passed >= _LOOK:
                count = self._served()
                served = (count - self._count) / passed
                # After a pause it is not known what goes on now.
                self._is_busy = passed > 2 * _LOOK or served > self._limits.busy
                self._looked, self._count = now, count
            rate = self._limits.busy_rate if self._is_busy else self._limits.rate
            self._free_at = max(self._free_at, now - _BURST) + size / rate
            return max(0.0, self._free_at - now)


_CUT_OFF: Final = (OSError, EOFError, TimeoutError, PeerProtocolError, PeerUnreachableError)
"""What ends a connection, and may be different the next time."""
_CHECKPOINTS: Final = 20
_ASKS_WITHIN: Final = 15.0
"""Seconds after which who got a snapshot has asked for what follows it."""
_LOOK: Final = 0.25
"""Seconds between two looks at how busy the member is, or at whether a database is closed."""
_BURST: Final = 0.01
"""Seconds of sending that may be made up for."""


def _answer(channel: Channel, wanted: int) -> memoryview:
    """Waits for a frame of the receiver. Raises SnapshotError when it refuses."""
    while True:
        kind, payload = channel.receive()
        if kind == wanted:
            return payload
        if kind == SnapshotFrame.REFUSED:
            raise SnapshotError(f"refused: {bytes(payload).decode(errors='replace')}")
        if kind != SnapshotFrame.WORKING:
            raise PeerProtocolError(f"a frame of kind {kind} in a snapshot")


def _take_pieces(staging: Staging, channel: Channel) -> dict[int, int]:
    """Takes what is sent, and returns the files' checksums. Blocks."""
    while True:
        kind, payload = channel.receive()
        if kind == SnapshotFrame.CHECKSUMS:
            return decode_checksums(payload)
        if kind != SnapshotFrame.PIECE:
            raise PeerProtocolError(f"a frame of kind {kind} in a snapshot")
        staging.write(*decode_piece(payload))


async def _finished(work: "asyncio.Future[T]", channel: Channel) -> T:
    """Waits for work of a thread on a channel; whoever cancels it ends it."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        channel.abort()
        await asyncio.wait((work,))
        work.exception()
        raise


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while data := file.read(PIECE_BYTES):
            crc = crc32(data, crc)
    return crc


def _current_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None
    return task


async def _say_working(writer: asyncio.StreamWriter, interval: float) -> None:
    """Tells the sender that it need not give up yet."""
    while not writer.is_closing():
        writer.write(frame(SnapshotFrame.WORKING))
        await asyncio.sleep(interval)
