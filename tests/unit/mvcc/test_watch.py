"""Watchers against the model: every event of their range once, in order, whole transactions."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.api.validate import check_txn
from rusd.mvcc import watch
from rusd.mvcc.records import range_end
from rusd.mvcc.txn import Plan
from rusd.mvcc.watch import Piece, Selection, Watcher, Watchers, fragments
from rusd.pb.kv_pb2 import Event
from rusd.pb.rpc_pb2 import DeleteRangeRequest, PutRequest, WatchResponse
from tests.unit.mvcc import requests
from tests.unit.mvcc.model import Model
from tests.unit.mvcc.opened import Opened, fresh_directory
from tests.unit.mvcc.requests import LEASES
from tests.unit.mvcc.test_keyspace import ask_model

SECONDS = 30.0


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short tests meet all of them."""
    monkeypatch.setattr(watch, "_CHUNK", 4)
    monkeypatch.setattr(watch, "_CHUNK_BYTES", 500)
    monkeypatch.setattr(watch, "_CHUNKS_KEPT", 2)
    monkeypatch.setattr(watch, "_RECENT_BYTES", 2000)
    monkeypatch.setattr(watch, "_PIECE_BYTES", 60)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(SECONDS):
            await test()

    asyncio.run(limited())


class Client:
    """A stream that takes so many pieces until it is read again."""

    def __init__(self) -> None:
        self.room = 1_000_000
        self.seen: dict[Watcher, list[tuple[int, Event]]] = {}
        self.ended: dict[Watcher, int] = {}

    @property
    def congested(self) -> bool:
        return self.room <= 0

    def deliver(self, watcher: Watcher, piece: Piece, /) -> None:
        assert not self.congested
        assert watcher not in self.ended
        self.room -= 1
        events = WatchResponse.FromString(piece.events).events
        assert events, "an empty piece"
        seen = self.seen.setdefault(watcher, [])
        first, last = events[0].kv.mod_revision, events[-1].kv.mod_revision
        assert not seen or first > seen[-1][0], "a transaction in two pieces, or an event again"
        assert last <= piece.revision
        seen += [(event.kv.mod_revision, event) for event in events]

    def damaged(self, watcher: Watcher, /) -> None:
        """None of these tests damages anything."""
        raise AssertionError(f"{watcher} cannot be read")

    def compacted(self, watcher: Watcher, revision: int, /) -> None:
        self.ended[watcher] = revision

    def caught_up(self) -> None:
        pass


def expected(model: Model, watcher: Watcher, first: int) -> list[tuple[int, Event]]:
    """The events that a watcher that began at a revision is to get."""
    start, end, puts, deletes, _ = watcher.selection
    return [
        (change.revision, change.event)
        for change in model.changes
        if change.revision >= first
        and change.event.kv.key >= start
        and (end is None or change.event.kv.key < end)
        and (puts if change.event.type == Event.PUT else deletes)
    ]


selections = st.builds(
    lambda key, end, puts, deletes, previous: Selection(
        key, range_end(end) if end else key + b"\x00", puts, deletes, previous
    ),
    requests.keys,
    requests.ends,
    st.booleans(),
    st.booleans(),
    st.booleans(),
).filter(lambda selection: selection.end is None or selection.end > selection.start)
changes = st.one_of(
    requests.plain_puts,
    requests.puts,
    requests.delete_ranges,
    requests.txns.filter(lambda request: check_txn(Plan(request), 1000) is None),
)
steps = st.one_of(
    st.lists(changes, min_size=1, max_size=5),
    st.lists(changes, min_size=1, max_size=5),
    st.tuples(st.just("watch"), selections, st.integers(0, 3), st.integers(-12, 4)),
    st.tuples(st.just("watch"), selections, st.integers(0, 3), st.integers(-12, 4)),
    st.tuples(st.just("unwatch"), st.integers(0, 9)),
    st.tuples(st.just("room"), st.integers(0, 3), st.sampled_from([0, 0, 1, 2, 5, 1000])),
    st.tuples(st.just("turn")),
    st.tuples(st.just("compact"), st.integers(0, 8), st.booleans()),
    st.tuples(
        st.just("snapshot"), st.lists(changes, max_size=5), st.sampled_from([None, None, 0, 3])
    ),
)


class Scene:
    """A keyspace, its model, and clients that watch."""

    def __init__(self, opened: Opened) -> None:
        self.opened, self.model = opened, Model(set(LEASES))
        self.hub = Watchers(opened.keyspace)
        self.clients = [Client() for _ in range(4)]
        self.first: dict[Watcher, int] = {}
        self.removed: dict[Watcher, int] = {}

    async def carry_out(self, step: Any) -> None:
        match step:
            case ("watch", selection, client, offset):
                first = max(1, self.model.revision + offset)
                watcher = Watcher(len(self.first), selection, first, self.clients[client])
                self.first[watcher] = first
                self.hub.add(watcher)
            case ("unwatch", number):
                present = [w for w in self.first if not self.is_over(w)]
                if present:
                    watcher = present[number % len(present)]
                    self.hub.remove(watcher)
                    self.removed[watcher] = len(self.sink(watcher).seen.get(watcher, []))
            case ("room", client, room):
                self.clients[client].room = room
                self.hub.writable(self.clients[client])
            case ("turn",):
                await asyncio.sleep(0)
            case ("compact", back, swept):
                if self.model.compacted < self.model.revision - back:
                    self.model.compact(self.model.revision - back)
                    self.opened.compact(self.model.compacted)
                    if swept:
                        self.opened.sweep()
            case ("snapshot", requests, back):
                # Of a member that has applied more, and may have compacted what is not seen here.
                ahead = self.opened.copy()
                for request in requests:
                    ask_model(self.model, request)
                    ahead.ask(request)
                ahead.keyspace.write()
                if back is not None and self.model.compacted < self.model.revision - back:
                    self.model.compact(self.model.revision - back)
                    ahead.compact(self.model.compacted)
                    ahead.sweep()
                seen = self.opened.keyspace.revision
                self.opened.take(ahead)
                self.hub.catch_up(seen)
            case _:
                for request in step:
                    ask_model(self.model, request)
                    self.opened.ask(request)
                self.opened.keyspace.write()
                self.hub.notify()

    def sink(self, watcher: Watcher) -> Client:
        assert isinstance(watcher.sink, Client)
        return watcher.sink

    def is_over(self, watcher: Watcher) -> bool:
        return watcher in self.removed or watcher in self.sink(watcher).ended

    async def catch_up(self) -> None:
        for client in self.clients:
            client.room = 1_000_000
            self.hub.writable(client)
        while any(self.hub.lags(client) for client in self.clients):
            await asyncio.sleep(0)

    def check(self) -> None:
        for watcher, first in self.first.items():
            client = self.sink(watcher)
            seen = client.seen.get(watcher, [])
            wanted = expected(self.model, watcher, first)
            plain = [(revision, Event(type=event.type, kv=event.kv)) for revision, event in seen]
            if watcher in self.removed:
                assert len(seen) == self.removed[watcher], "delivered after the end"
            if self.is_over(watcher):
                assert plain == wanted[: len(seen)]
            else:
                assert plain == wanted
            self.check_previous(watcher, seen)
            if watcher in client.ended and seen:
                assert seen[-1][0] < client.ended[watcher]

    def check_previous(self, watcher: Watcher, seen: list[tuple[int, Event]]) -> None:
        """What an event replaced comes with it where that is asked for; at the compacted revision
        or before it may be gone.
        """
        previous = {
            (change.revision, change.event.kv.key, change.event.type): change.previous
            for change in self.model.changes
        }
        for revision, event in seen:
            if not watcher.selection.previous:
                assert not event.HasField("prev_kv")
                continue
            was = previous[revision, event.kv.key, event.type]
            if event.HasField("prev_kv"):
                assert event.prev_kv == was
            else:
                assert was is None or revision <= self.model.compacted


@given(st.lists(steps, min_size=5, max_size=30))
def test_every_watcher_gets_its_events_once_and_in_order(script: list[Any]) -> None:
    async def test() -> None:
        with fresh_directory() as directory, closing(Opened(directory, LEASES)) as opened:
            scene = Scene(opened)
            for step in script:
                await scene.carry_out(step)
            await scene.catch_up()
            scene.check()
            assert len(scene.hub) == sum(not scene.is_over(watcher) for watcher in scene.first)
            for watcher in scene.first:
                if not scene.is_over(watcher):
                    scene.hub.remove(watcher)
            assert not opened.keyspace.watched, "who watches nothing costs nothing"
            assert not scene.hub._recent

    run(test)


def put_many(opened: Opened, count: int, value: bytes = b"v") -> None:
    for number in range(count):
        opened.ask(PutRequest(key=b"k%d" % (number % 7), value=value))


ALL = Selection(b"\x00", None)


def test_after_a_snapshot_watchers_go_on_where_they_were(tmp_path: Path) -> None:
    """Those that had seen all, those that lag, and those of the future; or hear that what they have
    not seen was compacted.
    """

    async def test() -> None:
        with closing(Opened(tmp_path)) as opened:
            opened.ask(PutRequest(key=b"k"))
            opened.keyspace.write()
            hub, slow, client = Watchers(opened.keyspace), Client(), Client()
            live, quiet = Watcher(0, ALL, 1, client), Watcher(1, Selection(b"z", b"z\0"), 3, client)
            future, lagging = Watcher(2, ALL, 9, client), Watcher(3, ALL, 1, slow)
            # It has seen all that was compacted, for there was nothing to see.
            idle = Watcher(4, Selection(b"y", b"y\0"), 3, client)
            for watcher in (live, quiet, future, lagging, idle):
                hub.add(watcher)
            while hub.lags(client):
                await asyncio.sleep(0)
            slow.room = 0

            def put(target: Opened, count: int) -> None:
                for _ in range(count):
                    target.ask(PutRequest(key=b"k"))
                target.ask(PutRequest(key=b"z"))
                target.keyspace.write()

            def revisions(watcher: Watcher) -> list[int]:
                sink = cast(Client, watcher.sink)
                return [revision for revision, _ in sink.seen[watcher]]

            put(opened, 2)
            hub.notify()
            assert opened.keyspace.revision == 5
            for compacted in (5, 8):
                ahead = opened.copy()
                put(ahead, 4)
                ahead.compact(compacted)
                ahead.sweep()
                seen = opened.keyspace.revision
                opened.take(ahead)
                hub.catch_up(seen)
                put(opened, 0)
                hub.notify()
                while hub.lags(client):
                    await asyncio.sleep(0)
            slow.room = 1000
            hub.writable(slow)
            while hub.lags(slow):
                await asyncio.sleep(0)
            assert opened.keyspace.revision == 17
            assert revisions(live) == list(range(2, 18))
            assert revisions(quiet) == [5, 10, 11, 16, 17]
            assert revisions(future) == list(range(9, 18))
            assert slow.ended == {lagging: 8}
            assert not client.ended

    run(test)


@pytest.mark.parametrize("swept", [False, True])
def test_a_watcher_may_begin_at_the_compacted_revision_and_not_before(
    tmp_path: Path, swept: bool
) -> None:
    """Also where that revision deleted a key."""

    async def test() -> None:
        with closing(Opened(tmp_path)) as opened:
            model = Model()
            for request in (PutRequest(key=b"a"), DeleteRangeRequest(key=b"a")):
                opened.ask(request)
                ask_model(model, request)
            opened.ask(PutRequest(key=b"b"))
            opened.compact(3)
            if swept:
                opened.sweep()
            hub, client = Watchers(opened.keyspace), Client()
            at, before = Watcher(0, ALL, 3, client), Watcher(1, ALL, 2, client)
            hub.add(at)
            hub.add(before)
            while hub.lags(client):
                await asyncio.sleep(0)
            assert client.ended == {before: 3}
            kinds = [(revision, event.type) for revision, event in client.seen[at]]
            assert kinds == [(3, Event.DELETE), (4, Event.PUT)]
            assert len(hub) == 1

    run(test)


def test_a_client_that_does_not_read_costs_bounded_memory(tmp_path: Path) -> None:
    async def test() -> None:
        with closing(Opened(tmp_path)) as opened:
            hub = Watchers(opened.keyspace)
            slow, quick = Client(), Client()
            slow.room = 0
            watcher = Watcher(0, ALL, opened.keyspace.revision + 1, slow)
            hub.add(watcher)
            # Many ranges of one client: what is made for each is not kept for each.
            for number in range(50):
                hub.add(Watcher(number, Selection(b"k", b"l%d" % number), 2, quick))
            for _ in range(100):
                put_many(opened, 3, b"v" * 100)
                opened.keyspace.write()
                hub.notify()
                batches = [*hub._recent, *hub._chunks.values()]
                assert sum(batch.size for batch in batches) < 10_000
                kept = sum(
                    len(piece.events)
                    for batch in batches
                    for pieces in batch._pieces.values()
                    for piece in pieces
                )
                assert kept < 10_000
                await asyncio.sleep(0)
            assert not slow.seen
            slow.room = 1_000_000
            hub.writable(slow)
            while hub.lags(slow) or hub.lags(quick):
                await asyncio.sleep(0)
            assert len(slow.seen[watcher]) == 300
            assert [len(seen) for seen in quick.seen.values()] == [300] * 50

    run(test)


def test_a_client_that_takes_one_piece_at_a_time_gets_each_once(tmp_path: Path) -> None:
    """From batches of many pieces, as they happen and out of the past."""

    async def test() -> None:
        with closing(Opened(tmp_path)) as opened:
            put_many(opened, 10, b"v" * 100)
            opened.keyspace.write()
            hub, client = Watchers(opened.keyspace), Client()
            client.room = 1
            old, new = Watcher(0, ALL, 2, client), Watcher(1, ALL, 12, client)
            hub.add(new)
            put_many(opened, 10, b"v" * 100)
            opened.keyspace.write()
            hub.notify()
            hub.add(old)
            while hub.lags(client):
                await asyncio.sleep(0)
                client.room = 1
                hub.writable(client)
            assert [revision for revision, _ in client.seen[old]] == list(range(2, 22))
            assert [revision for revision, _ in client.seen[new]] == list(range(12, 22))

    run(test)


def test_a_live_watcher_is_not_canceled_for_what_it_did_not_want(tmp_path: Path) -> None:
    """It has had nothing since long before the compaction, because there was nothing for it."""

    async def test() -> None:
        with closing(Opened(tmp_path)) as opened:
            hub, client = Watchers(opened.keyspace), Client()
            watcher = Watcher(0, Selection(b"rare", b"rare\x00"), 2, client)
            hub.add(watcher)
            put_many(opened, 20)
            opened.keyspace.write()
            hub.notify()
            opened.compact(15)
            client.room = 0
            opened.ask(PutRequest(key=b"rare"))
            opened.keyspace.write()
            hub.notify()
            client.room = 1
            hub.writable(client)
            while hub.lags(client):
                await asyncio.sleep(0)
            assert not client.ended
            assert [revision for revision, _ in client.seen[watcher]] == [22]

    run(test)


def test_history_is_read_back_in_pieces_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the values: a chunk ends with the transaction that takes it over its bound."""
    monkeypatch.setattr(watch, "_CHUNK", 32)
    monkeypatch.setattr(watch, "_CHUNK_BYTES", 10_000)

    async def test() -> None:
        with closing(Opened(tmp_path)) as opened:
            put_many(opened, 100, b"v" * 5000)
            opened.keyspace.write()
            hub, clients = Watchers(opened.keyspace), [Client() for _ in range(3)]
            for number, client in enumerate(clients):
                hub.add(Watcher(0, ALL, 2 + number * 30, client))
            while any(hub.lags(client) for client in clients):
                assert all(chunk.size < 20_000 for chunk in hub._chunks.values())
                await asyncio.sleep(0)
            counts = [len(seen) for client in clients for seen in client.seen.values()]
            assert counts == [100, 70, 40]

    run(test)


class Turns:
    """An event loop on whose clock every turn is over after one step."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._times = cycle([0.0, 0.0, 1.0])

    def time(self) -> float:
        return next(self._times)

    def call_soon(self, call: Callable[[], None]) -> Any:
        return self._loop.call_soon(call)


def test_a_long_catch_up_does_not_keep_others_waiting(tmp_path: Path) -> None:
    async def test() -> None:
        with closing(Opened(tmp_path)) as opened:
            put_many(opened, 400)
            opened.keyspace.write()
            hub, long, short = Watchers(opened.keyspace), Client(), Client()
            hub._loop = cast(asyncio.AbstractEventLoop, Turns())
            hub.add(Watcher(0, ALL, 2, long))
            hub.add(Watcher(0, ALL, opened.keyspace.revision, short))
            while hub.lags(short):
                await asyncio.sleep(0)
            assert hub.lags(long)

    run(test)


def test_a_watcher_of_a_future_revision_waits_for_it(tmp_path: Path) -> None:
    async def test() -> None:
        with closing(Opened(tmp_path)) as opened:
            hub, client = Watchers(opened.keyspace), Client()
            watcher = Watcher(0, ALL, 5, client)
            hub.add(watcher)
            assert not hub.lags(client)
            for _ in range(2):
                put_many(opened, 3)
                opened.keyspace.write()
                hub.notify()
            assert [revision for revision, _ in client.seen[watcher]] == [5, 6, 7]

    run(test)


events = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20)


@given(events, st.integers(0, 700))
def test_fragments_are_whole_events_and_as_many_as_fit(bodies: list[bytes], most: int) -> None:
    whole = [WatchResponse(events=[Event(kv={"key": body})]).SerializeToString() for body in bodies]
    parts = list(fragments(b"".join(whole), most))
    assert b"".join(parts) == b"".join(whole)
    left = iter(whole)
    for number, part in enumerate(parts):
        held = [next(left)]
        while len(b"".join(held)) < len(part):
            held.append(next(left))
        assert b"".join(held) == part
        assert len(part) <= most or len(held) == 1
        if number:
            assert len(parts[number - 1]) + len(held[0]) > most, "it would have fitted"
