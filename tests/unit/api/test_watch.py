"""rusd/api/watch.py: a client's stream, from its messages to the answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rusd.api import errors
from rusd.api.identities import Identities
from rusd.api.watch import Watch, WatchStream
from rusd.mvcc.watch import Watchers
from rusd.node.entry import Kind
from rusd.pb.kv_pb2 import Event
from rusd.pb.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    PutRequest,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)
from tests.unit.api.fakes import RecordedStream
from tests.unit.node.running import CLUSTER_ID, MEMBER_ID, SECONDS, Running, running

MAX_RESPONSE = 1000


class Scene:
    """A running member whose Watch service has one stream."""

    def __init__(self, member: Running, progress_interval: float) -> None:
        self.member = member
        self.watchers = Watchers(member.keyspace)
        member.pipeline.after_apply.append(self.watchers.notify)
        self.service = Watch(
            member.keyspace,
            self.watchers,
            member.headers,
            MAX_RESPONSE,
            progress_interval,
            Identities(member.applier, member.pipeline.replica),
        )
        self.client = RecordedStream()
        (method,) = self.service.methods()
        handler = method.open(self.client.stream)
        assert isinstance(handler, WatchStream)
        self.stream = handler

    def create(self, **fields: Any) -> None:
        self.send(create_request=WatchCreateRequest(**fields))

    def cancel(self, watch_id: int) -> None:
        self.send(cancel_request=WatchCancelRequest(watch_id=watch_id))

    def ask_progress(self) -> None:
        self.send(progress_request=WatchProgressRequest())

    def send(self, **fields: Any) -> None:
        self.stream.message(WatchRequest(**fields).SerializeToString())

    async def put(self, key: bytes, value: bytes = b"v") -> None:
        await self.member.propose(Kind.PUT, PutRequest(key=key, value=value))

    async def delete(self, key: bytes) -> None:
        await self.member.propose(Kind.DELETE_RANGE, DeleteRangeRequest(key=key))

    async def compact(self, revision: int) -> None:
        await self.member.propose(Kind.COMPACT, CompactionRequest(revision=revision))

    async def responses(self, count: int) -> list[WatchResponse]:
        """Waits for so many responses since the last call; there are no more."""
        sent = await self.client.messages(count)
        assert len(sent) == count
        found = [WatchResponse.FromString(message) for message in sent]
        sent.clear()
        for response in found:
            ids = (response.header.cluster_id, response.header.member_id)
            assert ids == (CLUSTER_ID, MEMBER_ID)
        return found

    async def response(self) -> WatchResponse:
        (response,) = await self.responses(1)
        return response

    async def silence(self) -> None:
        """Nothing is sent in several turns of the loop."""
        for _ in range(10):
            await asyncio.sleep(0)
        assert self.client.sent == []


@asynccontextmanager
async def watching(directory: Path, progress_interval: float = 600) -> AsyncIterator[Scene]:
    async with running(directory) as member:
        scene = Scene(member, progress_interval)
        yield scene
        scene.stream.closed()
        assert not len(scene.watchers)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(SECONDS):
            await test()

    asyncio.run(limited())


def brief(response: WatchResponse) -> tuple[int, list[tuple[Any, bytes, int]]]:
    """Watch id, and type, key and revision of each event."""
    events = [(event.type, event.kv.key, event.kv.mod_revision) for event in response.events]
    return response.watch_id, events


def test_a_watcher_is_created_and_gets_what_changes(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            scene.create(key=b"a")
            scene.create(key=b"b", range_end=b"\x00")
            for watch_id, response in enumerate(await scene.responses(2)):
                assert (response.watch_id, response.created) == (watch_id, True)
                assert (response.canceled, response.header.revision) == (False, 1)
            await scene.put(b"a")
            response = await scene.response()
            assert brief(response) == (0, [(Event.PUT, b"a", 2)])
            assert response.header.revision == 2
            await scene.put(b"c")
            assert brief(await scene.response()) == (1, [(Event.PUT, b"c", 3)])
            await scene.put(b"\x01")
            await scene.silence()

    run(test)


def test_history_comes_first_and_then_what_changes(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            for value in (b"1", b"2"):
                await scene.put(b"a", value)
            await scene.delete(b"a")
            scene.create(key=b"a", start_revision=3, prev_kv=True)
            created, history = await scene.responses(2)
            assert created.created
            assert brief(history) == (0, [(Event.PUT, b"a", 3), (Event.DELETE, b"a", 4)])
            assert [event.prev_kv.value for event in history.events] == [b"1", b"2"]
            await scene.put(b"a")
            (event,) = (await scene.response()).events
            assert event.kv.mod_revision == 5
            assert not event.HasField("prev_kv")

    run(test)


def test_filters_leave_events_out(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            scene.create(key=b"a", filters=[WatchCreateRequest.NOPUT])
            scene.create(key=b"a", filters=[WatchCreateRequest.NODELETE])
            await scene.responses(2)
            await scene.put(b"a")
            assert brief(await scene.response()) == (1, [(Event.PUT, b"a", 2)])
            await scene.delete(b"a")
            assert brief(await scene.response()) == (0, [(Event.DELETE, b"a", 3)])

    run(test)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"start_revision": -1}, errors.COMPACTED.message),
        ({"range_end": b"A"}, "mvcc: watcher range is empty"),
        ({"range_end": b"a"}, "mvcc: watcher range is empty"),
        ({"watch_id": 7}, "mvcc: duplicate watch ID provided on the WatchStream"),
    ],
)
def test_what_cannot_be_watched_is_created_and_canceled_at_once(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            scene.create(key=b"x", watch_id=7)
            await scene.response()
            scene.create(key=b"a", **fields)
            response = await scene.response()
            assert (response.created, response.canceled, response.watch_id) == (True, True, -1)
            assert (response.cancel_reason, response.compact_revision) == (reason, 0)
            await scene.put(b"x")
            assert brief(await scene.response()) == (7, [(Event.PUT, b"x", 2)])
            await scene.put(b"a")
            await scene.silence()

    run(test)


def test_a_compacted_start_is_created_and_then_canceled(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            for _ in range(3):
                await scene.put(b"a")
            await scene.compact(3)
            scene.create(key=b"a", start_revision=2, watch_id=5)
            created, canceled = await scene.responses(2)
            assert (created.created, created.canceled, created.watch_id) == (True, False, 5)
            assert (canceled.created, canceled.canceled, canceled.watch_id) == (False, True, 5)
            assert (canceled.compact_revision, canceled.cancel_reason) == (3, "")
            # Its id is free, and progress is answered.
            scene.ask_progress()
            assert (await scene.response()).watch_id == -1
            scene.create(key=b"a", start_revision=3, watch_id=5)
            created, history = await scene.responses(2)
            assert created.created
            assert brief(history) == (5, [(Event.PUT, b"a", 3), (Event.PUT, b"a", 4)])

    run(test)


def test_ids_are_given_or_chosen_and_free_after_a_cancel(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            for watch_id in (1, 0, 0, -3, 2):
                scene.create(key=b"a", watch_id=watch_id)
            given = [(r.watch_id, r.canceled) for r in await scene.responses(5)]
            assert given == [(1, False), (0, False), (2, False), (-3, False), (-1, True)]
            scene.cancel(-3)
            response = await scene.response()
            assert (response.watch_id, response.canceled, response.created) == (-3, True, False)
            assert (response.cancel_reason, response.compact_revision) == ("", 0)
            scene.cancel(-3)
            scene.cancel(99)
            await scene.silence()
            await scene.put(b"a")
            assert [r.watch_id for r in await scene.responses(3)] == [1, 0, 2]
            scene.create(key=b"a", watch_id=-3)
            assert (await scene.response()).watch_id == -3

    run(test)


def test_progress_is_answered_when_no_watcher_lags(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            scene.ask_progress()
            response = await scene.response()
            assert (response.watch_id, response.header.revision) == (-1, 1)
            scene.create(key=b"a")
            await scene.response()
            scene.client.congested = True
            await scene.put(b"a")
            scene.ask_progress()
            await scene.silence()
            scene.client.congested = False
            scene.stream.writable()
            events, progress = await scene.responses(2)
            assert brief(events) == (0, [(Event.PUT, b"a", 2)])
            assert (progress.watch_id, progress.header.revision) == (-1, 2)

    run(test)


def test_quiet_watchers_that_want_it_are_told_how_far_the_keyspace_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path, progress_interval=600) as scene:
            scene.create(key=b"quiet", progress_notify=True)
            scene.create(key=b"busy", progress_notify=True)
            scene.create(key=b"other")
            await scene.responses(3)
            await scene.put(b"busy")
            await scene.response()
            scene.service._notify_progress()
            response = await scene.response()
            assert (response.watch_id, response.header.revision) == (0, 2)
            assert not response.events
            scene.service._notify_progress()
            assert [r.watch_id for r in await scene.responses(2)] == [0, 1]

    run(test)


def test_progress_is_told_at_the_interval(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path, progress_interval=0.05) as scene:
            scene.create(key=b"a", progress_notify=True)
            sent = await scene.client.messages(4)
            told = [WatchResponse.FromString(message) for message in sent[1:4]]
            assert [(r.watch_id, len(r.events)) for r in told] == [(0, 0)] * 3

    run(test)


def test_a_large_answer_is_cut_only_for_who_wants_fragments(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            for number in range(5):
                await scene.put(b"a", b"%d" % number * 400)
            scene.create(key=b"a", start_revision=1)
            _, whole = await scene.responses(2)
            assert len(whole.events) == 5
            assert not whole.fragment
            scene.create(key=b"a", start_revision=1, fragment=True)
            _, *parts = await scene.responses(4)
            assert [(len(part.events), part.fragment) for part in parts] == [
                (2, True),
                (2, True),
                (1, False),
            ]
            assert [event for part in parts for event in part.events] == list(whole.events)

    run(test)


def test_a_client_that_has_said_all_it_wants_goes_on_to_get_events(tmp_path: Path) -> None:
    """It may end its side of the stream after the first request, as simple clients do."""

    async def test() -> None:
        async with watching(tmp_path) as scene:
            scene.create(key=b"a")
            scene.stream.half_closed()
            assert (await scene.response()).created
            await scene.put(b"a")
            assert brief(await scene.response()) == (0, [(Event.PUT, b"a", 2)])
            assert scene.client.ended == []

    run(test)


def test_a_closed_stream_leaves_nothing_behind(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            scene.create(key=b"a")
            scene.create(key=b"a", start_revision=1)
            scene.client.sent.clear()
            scene.stream.closed()
            await scene.put(b"a")
            await scene.silence()
            assert not scene.service.streams
            assert not len(scene.watchers)
            assert not scene.member.keyspace.watched

    run(test)


def test_a_malformed_message_ends_its_stream_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            (method,) = scene.service.methods()
            other = RecordedStream()
            handler = method.open(other.stream)
            scene.create(key=b"a")
            await scene.response()
            handler.message(b"\xff\xff")
            assert other.ended == [errors.MALFORMED]
            await scene.put(b"a")
            assert brief(await scene.response()) == (0, [(Event.PUT, b"a", 2)])
            assert scene.client.ended == []

    run(test)


def test_a_stopping_member_ends_its_streams(tmp_path: Path) -> None:
    async def test() -> None:
        async with watching(tmp_path) as scene:
            scene.create(key=b"a")
            await scene.response()
            scene.service.stop()
            assert scene.client.ended == [errors.STOPPED]
            assert not len(scene.watchers)

    run(test)
