"""The keyspace against its model: requests of all kinds, compactions, sweeps and restarts."""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from rusd.api.validate import check_txn
from rusd.mvcc import hashing, ranges
from rusd.mvcc import keyspace as keyspace_module
from rusd.mvcc.compaction import sweep
from rusd.mvcc.errors import KeyspaceError
from rusd.mvcc.ranges import read_range, run, stream_range
from rusd.mvcc.records import META_SIZE
from rusd.mvcc.tables import values
from rusd.mvcc.txn import Plan
from rusd.pb.rpc_pb2 import (
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    TxnRequest,
)
from tests.unit.mvcc import requests
from tests.unit.mvcc.model import Model
from tests.unit.mvcc.opened import Answer, Opened, finished, fresh_directory
from tests.unit.mvcc.requests import KEYS, LEASES

ALL = RangeRequest(key=b"\x00", range_end=b"\x00")


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pauses in what is short; and what tests set is set back."""
    monkeypatch.setattr(ranges, "_EVENTS_AT_LEAST", ranges._EVENTS_AT_LEAST)
    monkeypatch.setattr(ranges, "_CHUNK_BYTES", ranges._CHUNK_BYTES)
    monkeypatch.setattr(ranges, "_SLICE", 2)
    monkeypatch.setattr(keyspace_module, "LARGE", 500)
    monkeypatch.setattr(hashing, "_SLICE", 2)


def ask_model(model: Model, request: Any) -> Answer:
    try:
        match request:
            case RangeRequest():
                return model.range(request)
            case PutRequest():
                return model.put(request)
            case DeleteRangeRequest():
                return model.delete_range(request)
        return model.txn(request)
    except KeyspaceError as error:
        return type(error)


class Pair:
    """A keyspace and its model, asked the same."""

    def __init__(self, directory: Path) -> None:
        self.model = Model(set(LEASES))
        self.opened = Opened(directory, LEASES, cache=2000)
        self.reads: list[tuple[Generator[None, None, bytes], Answer]] = []
        self.sweep: Any = None

    def ask(self, request: Any) -> None:
        expected = ask_model(self.model, request)
        assert self.opened.ask(request) == expected, request
        keyspace = self.opened.keyspace
        assert keyspace.revision == self.model.revision
        for key in KEYS:
            item, live = keyspace.get(key), self.model.live.get(key)
            if live is None:
                assert item is None
            else:
                assert RangeResponse.FromString(item or b"").kvs[0] == live

    def begin_read(self, request: RangeRequest) -> None:
        """Reads the first slice: what is read is as of now, whatever happens before the last."""
        self.opened.keyspace.write()
        read = read_range(self.opened.keyspace, request)
        expected = ask_model(self.model, request)
        self.reads.append((read, expected))
        self.go_on(len(self.reads) - 1)

    def go_on(self, number: int) -> None:
        read, expected = self.reads[number]
        try:
            next(read)
        except StopIteration as finished:
            found: Answer = RangeResponse.FromString(finished.value)
        except KeyspaceError as error:
            found = type(error)
        else:
            return
        del self.reads[number]
        assert found == expected

    def compact(self, revision: int) -> None:
        try:
            self.model.compact(revision)
        except KeyspaceError:
            return
        self.opened.compact(revision)

    def sweep_slice(self) -> None:
        keyspace = self.opened.keyspace
        if self.sweep is None and keyspace.swept < keyspace.compacted:
            self.sweep = sweep(keyspace, 3)
        if self.sweep is not None and next(self.sweep, self) is self:
            self.sweep = None

    def reopen(self) -> None:
        while self.reads:
            self.go_on(0)
        self.sweep = None
        directory = self.opened.engine.path.parent
        self.opened.close()
        self.opened = Opened(directory, LEASES, cache=2000)

    def take(self, script: list[Any]) -> None:
        """Takes the content of a keyspace that is ahead. Reads that are under way go on."""
        ahead = self.opened.copy()
        for request in script:
            assert ahead.ask(request) == ask_model(self.model, request)
        self.sweep = None
        self.opened.take(ahead)

    def close(self) -> None:
        self.reads.clear()
        self.sweep = None
        self.opened.close()

    def check(self) -> None:
        while self.reads:
            self.go_on(0)
        keyspace, model = self.opened.keyspace, self.model
        assert (keyspace.revision, keyspace.compacted) == (model.revision, model.compacted)
        for revision in range(max(1, model.compacted), model.revision + 1):
            self.ask(RangeRequest(key=b"\x00", range_end=b"\x00", revision=revision))
        assert self.opened.leases.keys == {lease: model.attached(lease) for lease in LEASES}
        assert len(keyspace) == len(model.live)


def valid(request: TxnRequest) -> bool:
    return check_txn(Plan(request), 1000) is None


changes = st.one_of(requests.puts, requests.delete_ranges, requests.txns.filter(valid))
steps = st.one_of(
    changes,
    changes,
    changes,
    requests.any_ranges,
    st.tuples(st.just("write")),
    st.tuples(st.just("begin_read"), requests.any_ranges),
    st.tuples(st.just("go_on"), st.integers(0, 9)),
    st.tuples(st.just("compact"), st.integers(0, 4)),
    st.tuples(st.just("sweep_slice")),
    st.tuples(st.just("give_up_sweep")),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("take"), st.lists(changes, max_size=5)),
)


def carry_out(pair: Pair, step: Any) -> None:
    match step:
        case ("write",):
            pair.opened.keyspace.write()
        case ("begin_read", request):
            pair.begin_read(request)
        case ("go_on", number):
            if pair.reads:
                pair.go_on(number % len(pair.reads))
        case ("compact", back):
            pair.compact(pair.model.revision - back)
        case ("sweep_slice",):
            pair.sweep_slice()
        case ("give_up_sweep",):
            pair.sweep = None
        case ("reopen",):
            pair.reopen()
        case ("take", ahead):
            pair.take(ahead)
        case _:
            pair.ask(step)


@given(st.lists(steps, min_size=5, max_size=40), st.sampled_from([0, 2000]))
def test_answers_as_the_model_whatever_happens(script: list[Any], events_at_least: int) -> None:
    """Both ways to find what has changed since a revision: by events, and by keys."""
    vars(ranges)["_EVENTS_AT_LEAST"] = events_at_least
    with fresh_directory() as directory, closing(Pair(directory)) as pair:
        for step in script:
            carry_out(pair, step)
        pair.check()
        pair.reopen()
        pair.check()


@given(st.lists(changes, min_size=10, max_size=40), st.data())
def test_the_hash_does_not_depend_on_when_and_how_it_was_swept(
    script: list[Any], data: st.DataObject
) -> None:
    """Nor on a restart. Members compact at the same revisions and sweep at their own pace."""
    with (
        fresh_directory() as one,
        fresh_directory() as two,
        closing(Pair(one)) as pair,
        closing(Opened(two, LEASES)) as others,
    ):
        compactions: list[int] = []
        for request in script:
            pair.ask(request)
            others.ask(request)
            for _ in range(data.draw(st.integers(0, 2))):
                pair.sweep_slice()
            match data.draw(st.integers(0, 9)):
                case 0:
                    compactions.append(pair.model.revision - data.draw(st.integers(0, 3)))
                    pair.compact(compactions[-1])
                    others.compact(compactions[-1])
                case 1:
                    pair.sweep = None
                case 2:
                    pair.reopen()
        pair.sweep = None
        revision = pair.model.revision
        note(f"compactions at {compactions}, up to {revision}")
        hashes = [pair.opened.hash(at) for at in (0, revision, -1)]
        assert hashes == [others.hash()] * 3
        assert hashes[0][1:] == (revision, pair.model.compacted)
        pair.reopen()
        assert pair.opened.hash() == hashes[0]


def test_the_hash_sees_every_difference(tmp_path: Path) -> None:
    base: list[Any] = [PutRequest(key=b"a", value=b"1"), PutRequest(key=b"b"), PutRequest(key=b"a")]
    scripts: list[list[Any]] = [
        base,
        base[:2],
        [*base[:2], PutRequest(key=b"a", value=b"2")],
        [*base[:2], PutRequest(key=b"c")],
        [*base[:2], PutRequest(key=b"a", lease=7)],
        [*base[:2], DeleteRangeRequest(key=b"a")],
        [base[1], base[0], base[2]],
    ]
    hashes = set()
    for number, script in enumerate(scripts):
        opened = Opened(tmp_path / str(number), LEASES)
        for request in script:
            opened.ask(request)
        hashes.add(opened.hash().hash)
        if number == 0:
            hashes.add(opened.hash(3).hash)  # the same as the second script's
            opened.compact(4)
            hashes.add(opened.hash().hash)
        opened.close()
    assert len(hashes) == len(scripts) + 1


def test_a_hash_is_of_the_moment_when_it_began(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    for number in range(20):
        opened.ask(PutRequest(key=b"a", value=b"%d" % number))
    expected = opened.hash()
    slices = hashing.hash_history(opened.keyspace, 0)
    next(slices)
    opened.ask(PutRequest(key=b"a"))
    opened.compact(opened.keyspace.revision)
    opened.sweep()
    assert finished(slices) == expected
    opened.close()


def test_a_sweep_leaves_only_what_can_be_read(tmp_path: Path) -> None:
    """For each key its newest change up to there, and what came later. A delete stays only while
    a watcher may start at it.
    """
    opened = Opened(tmp_path)
    for number in range(50):
        opened.ask(PutRequest(key=b"kept", value=b"%d" % number))
        opened.ask(PutRequest(key=b"gone", value=b"%d" % number))
    deleted = opened.keyspace.revision + 1
    opened.ask(DeleteRangeRequest(key=b"gone"))
    opened.ask(PutRequest(key=b"later"))
    tables = opened.engine.tables
    for compacted, events in ((deleted - 1, 4), (deleted, 3), (deleted + 1, 2)):
        opened.compact(compacted)
        opened.sweep()
        assert len(list(tables.events.keys())) == events
        assert len(list(tables.history.keys())) == (1 if compacted < deleted else 0)
    opened.close()


@given(
    st.lists(changes, min_size=5, max_size=20),
    st.builds(
        RangeRequest,
        key=requests.keys,
        range_end=requests.ends,
        limit=requests.few,
        revision=requests.revisions,
        keys_only=st.booleans(),
        count_only=st.booleans(),
    ),
    st.integers(1, 2000),
)
def test_a_streamed_range_is_the_range_in_pieces(
    script: list[Any], request: RangeRequest, chunk_bytes: int
) -> None:
    vars(ranges)["_CHUNK_BYTES"] = chunk_bytes
    with fresh_directory() as directory, closing(Opened(directory, LEASES)) as opened:
        for change in script:
            opened.ask(change)
        expected = opened.ask(request)
        assert in_pieces(opened, request) == expected


def in_pieces(opened: Opened, request: RangeRequest) -> Answer:
    """A streamed range's answer, put together; or the type of its error."""
    body = b""
    chunks = stream_range(opened.keyspace, request)
    while True:
        try:
            piece = next(chunks)
        except StopIteration as finished:
            return RangeResponse.FromString(body + finished.value)
        except KeyspaceError as error:
            return type(error)
        response = RangeResponse.FromString(piece)
        assert not response.count
        assert not response.more
        body += piece


def test_a_read_in_flight_is_of_the_moment_when_it_began(tmp_path: Path) -> None:
    """Of the present and of the past, by events and by keys, while all of it is changed, compacted
    and swept.
    """
    opened = Opened(tmp_path)
    keys = [b"%03d" % number for number in range(100)]
    for value in (b"old", b"new"):
        for key in keys:
            opened.ask(PutRequest(key=key, value=value))
    old = 1 + len(keys)
    for events_at_least in (0, 2000):
        vars(ranges)["_EVENTS_AT_LEAST"] = events_at_least
        wanted = [
            ALL,
            RangeRequest(key=b"\x00", range_end=b"\x00", revision=old),
            RangeRequest(key=b"\x00", range_end=b"\x00", revision=old + 50, keys_only=True),
            RangeRequest(key=b"\x00", range_end=b"\x00", sort_target=RangeRequest.VALUE),
        ]
        expected = [opened.ask(request) for request in wanted]
        reads = [read_range(opened.keyspace, request) for request in wanted]
        for read in reads:
            next(read)
        if events_at_least:
            opened.ask(DeleteRangeRequest(key=b"\x00", range_end=b"\x00"))
            opened.ask(PutRequest(key=b"050", value=b"newest"))
            opened.compact(opened.keyspace.revision)
            opened.sweep()
            opened.engine.flush()
        found = [RangeResponse.FromString(run(read)) for read in reads]
        assert found == expected
    opened.close()


def test_counting_and_limits_read_no_more_values_than_they_return(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    for number in range(1000):
        opened.keyspace.put(b"%04d" % number, b"v" * 100, 0)
    opened.keyspace.end()
    opened.keyspace.write()
    pauses = sum(
        1 for _ in read_range(opened.keyspace, RangeRequest(key=b"0", range_end=b"1", limit=8))
    )
    assert pauses == 3, "four slices of two"
    counted = RangeRequest(key=b"0", range_end=b"1", count_only=True)
    assert sum(1 for _ in read_range(opened.keyspace, counted)) == 0
    opened.close()


def test_a_database_with_a_key_missing_is_not_answered_from(tmp_path: Path) -> None:
    opened = Opened(tmp_path, cache=0)
    opened.ask(PutRequest(key=b"a"))
    opened.close()
    opened = Opened(tmp_path)
    opened.engine.tables.latest.delete(b"a")
    with pytest.raises(RuntimeError, match="the index has b'a'"):
        opened.keyspace.get(b"a")
    opened.close()


def test_a_large_item_is_written_once_and_read_as_any_other(tmp_path: Path) -> None:
    """Also by a read that goes on while the item is replaced, compacted and swept."""
    small, large = b"s" * 100, b"l" * 1000
    with closing(Opened(tmp_path)) as opened:
        for number in range(6):
            value = large if number % 2 else small
            opened.ask(PutRequest(key=b"k%d" % number, value=value))
        opened.keyspace.write()
        sizes = [len(row) for row in values(opened.keyspace.tables.latest, b"", None, 6)]
        assert sizes == [sizes[0], META_SIZE] * 3
        expected = opened.ask(ALL)
        assert [kv.value for kv in expected.kvs] == [small, large] * 3
        read = read_range(opened.keyspace, ALL)
        next(read)
        for number in range(6):
            opened.ask(PutRequest(key=b"k%d" % number, value=b"new"))
        opened.keyspace.write()
        opened.compact(opened.keyspace.revision)
        opened.sweep()
        assert RangeResponse.FromString(finished(read)) == expected
        opened.ask(PutRequest(key=b"k9", value=large))
        opened.close()
        again = Opened(tmp_path)
        assert [kv.value for kv in again.ask(ALL).kvs] == [*[b"new"] * 6, large]
        assert again.ask(RangeRequest(key=b"k9")).kvs[0].value == large
        opened.engine, opened.keyspace = again.engine, again.keyspace
