"""rusd/api/kv.py: calls in, answers on the connection; through a real log."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rusd.api import errors
from rusd.api.identities import Identities
from rusd.api.kv import KV
from rusd.api.slow import SlowReads
from rusd.mvcc import ranges
from rusd.node.compactor import Compactor
from rusd.node.entry import Kind
from rusd.pb.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RangeStreamResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from rusd.raft.message import MessageKind
from rusd.wire.grpc import Code, Status
from tests.unit.api.fakes import RecordedStream, call
from tests.unit.node.running import CLUSTER_ID, SECONDS, Recorder, Running, running, until
from tests.unit.node.trio import Member, Stage, Trio, revision, stage

__all__ = ["stage"]

MAX_REQUEST, MAX_OPERATIONS = 2000, 4
RESPONSE: dict[str, Any] = {
    "put": PutResponse,
    "range": RangeResponse,
    "delete_range": DeleteRangeResponse,
    "txn": TxnResponse,
    "compact": CompactionResponse,
}


class Scene:
    """A running member's KV service."""

    def __init__(self, member: Running) -> None:
        self.member = member
        self.compactor = Compactor(member.keyspace, 0.05, member.log, member.failures.append, 20)
        member.applier.on_compact = self.compactor.start
        self.kv = KV(
            member.pipeline,
            member.reads,
            self.compactor,
            member.headers,
            SlowReads(10, member.log),
            MAX_REQUEST,
            MAX_OPERATIONS,
            Identities(member.applier, member.pipeline.replica),
        )

    async def ask(self, method: str, *requests: Any) -> list[Any]:
        """The answers to calls that arrive together."""
        recorder = Recorder()
        calls = [call(recorder, tag, request) for tag, request in enumerate(requests)]
        getattr(self.kv, method)(calls)
        answers = [await recorder.answer(tag) for tag in range(len(requests))]
        found: list[Any] = []
        for answer in answers:
            if isinstance(answer, Status):
                found.append(answer)
                continue
            response: Any = RESPONSE[method].FromString(answer)
            ids = (response.header.cluster_id, response.header.member_id)
            assert ids == (CLUSTER_ID, self.member.pipeline.replica.id)
            assert response.header.raft_term == self.member.pipeline.term
            found.append(response)
        return found

    def open_stream(self, request: Any) -> tuple[RecordedStream, Any]:
        client = RecordedStream()
        handler = self.kv._open_range_stream(client.stream)
        handler.message(request if isinstance(request, bytes) else request.SerializeToString())
        return client, handler


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Scene]:
    async with running(directory) as member:
        yield Scene(member)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(SECONDS):
            await test()

    asyncio.run(limited())


def test_of_calls_that_arrive_together_each_gets_its_own_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as scene:
            found = await scene.ask(
                "put",
                PutRequest(key=b"a", value=b"1"),
                PutRequest(),
                b"\xff\xff",
                PutRequest(key=b"a", value=b"2", prev_kv=True),
                PutRequest(key=b"a", value=b"v" * MAX_REQUEST),
                PutRequest(key=b"x", lease=99),
            )
            assert found[0].header.revision == 2
            assert found[1:3] == [errors.EMPTY_KEY, errors.MALFORMED]
            assert (found[3].header.revision, found[3].prev_kv.value) == (3, b"1")
            assert found[4:] == [errors.REQUEST_TOO_LARGE, errors.LEASE_NOT_FOUND]
            found = await scene.ask(
                "delete_range",
                DeleteRangeRequest(key=b"a", prev_kv=True),
                DeleteRangeRequest(),
                b"\xff\xff",
                DeleteRangeRequest(key=b"a", range_end=b"b" * MAX_REQUEST),
            )
            assert (found[0].deleted, found[0].prev_kvs[0].value) == (1, b"2")
            assert found[1:] == [errors.EMPTY_KEY, errors.MALFORMED, errors.REQUEST_TOO_LARGE]

    run(test)


def test_ranges_of_every_length_of_key_find_their_key(tmp_path: Path) -> None:
    """Short ones, with or without `serializable`, are told by their bytes and not parsed."""

    async def test() -> None:
        async with serving(tmp_path) as scene:
            keys = [b"k" * size for size in (1, 2, 125, 126, 127, 128, 129, 300)]
            # A key whose bytes look like the fields that follow a key.
            keys += [b"\x38\x01", b"a\x38\x01", b"\x0a\x01a", b"a\x12\x01b"]
            await scene.ask("put", *(PutRequest(key=key, value=key[:3]) for key in keys))
            for serializable in (False, True):
                found = await scene.ask(
                    "range", *(RangeRequest(key=key, serializable=serializable) for key in keys)
                )
                assert [(r.count, r.kvs[0].key) for r in found] == [(1, key) for key in keys]
                assert {r.header.revision for r in found} == {len(keys) + 1}
                (found_none,) = await scene.ask("range", RangeRequest(key=b"none"))
                assert (found_none.count, len(found_none.kvs)) == (0, 0)

    run(test)


def test_ranges_that_cannot_be_read_get_etcds_errors(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as scene:
            await scene.ask("put", *[PutRequest(key=b"a")] * 5)
            await scene.ask("compact", CompactionRequest(revision=4))
            found = await scene.ask(
                "range",
                RangeRequest(),
                RangeRequest(key=b"a", sort_target=9),  # type: ignore[arg-type]
                RangeRequest(key=b"a", revision=3),
                RangeRequest(key=b"a", revision=7),
                b"\xff\xff",
                b"\x0a\x05a",
                RangeRequest(key=b"a", revision=4),
            )
            assert found[:6] == [
                errors.EMPTY_KEY,
                errors.INVALID_SORT_OPTION,
                errors.COMPACTED,
                errors.FUTURE_REV,
                errors.MALFORMED,
                errors.MALFORMED,
            ]
            assert (found[6].kvs[0].mod_revision, found[6].header.revision) == (4, 6)

    run(test)


def test_a_long_read_lets_others_go_on_and_is_of_when_it_began(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(ranges, "_SLICE", 10)

    async def test() -> None:
        async with serving(tmp_path) as scene:
            keys = [b"%03d" % number for number in range(200)]
            await scene.ask("put", *(PutRequest(key=key) for key in keys))
            slow, quick = Recorder(), Recorder()
            scene.kv.range([call(slow, 1, RangeRequest(key=b"0", range_end=b"9"))])
            scene.kv.range([call(quick, 1, RangeRequest(key=b"000"))])
            assert not slow.answers
            assert quick.answers
            scene.kv.delete_range([call(quick, 2, DeleteRangeRequest(key=b"0", range_end=b"9"))])
            await quick.answer(2)
            answer = await slow.answer()
            assert isinstance(answer, bytes)
            response = RangeResponse.FromString(answer)
            assert [kv.key for kv in response.kvs] == keys
            assert (response.count, response.header.revision) == (200, 201)

    run(test)


def test_transactions(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as scene:
            put = RequestOp(request_put=PutRequest(key=b"a", value=b"1"))
            read = RequestOp(request_range=RangeRequest(key=b"a"))
            guarded = TxnRequest(
                compare=[Compare(key=b"a", target=Compare.MOD)], success=[put], failure=[read]
            )
            entries = scene.member.pipeline.index
            first, second, empty_key, malformed, too_many, large = await scene.ask(
                "txn",
                guarded,
                guarded,
                TxnRequest(success=[RequestOp(request_put=PutRequest())]),
                b"\xff\xff",
                TxnRequest(success=[read] * (MAX_OPERATIONS + 1)),
                TxnRequest(
                    success=[RequestOp(request_put=PutRequest(key=b"b", value=b"v" * MAX_REQUEST))]
                ),
            )
            assert (first.succeeded, first.responses[0].response_put.header.revision) == (True, 2)
            assert (second.succeeded, second.header.revision) == (False, 2)
            assert second.responses[0].response_range.kvs[0].value == b"1"
            assert [empty_key, malformed, too_many, large] == [
                errors.EMPTY_KEY,
                errors.MALFORMED,
                errors.TOO_MANY_OPS,
                errors.REQUEST_TOO_LARGE,
            ]
            assert scene.member.pipeline.index == entries + 1
            only_reads = TxnRequest(compare=[Compare(key=b"a")], success=[read], failure=[read])
            future = TxnRequest(
                success=[RequestOp(request_range=RangeRequest(key=b"a", revision=9))]
            )
            reads = await scene.ask("txn", only_reads, future)
            assert reads[0].responses[0].response_range.kvs[0].value == b"1"
            assert reads[1] == errors.FUTURE_REV
            assert scene.member.pipeline.index == entries + 1, "reads are in no log entry"

    run(test)


def test_a_physical_compaction_is_answered_when_its_work_is_done(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as scene:
            keyspace = scene.member.keyspace
            await scene.ask("put", *[PutRequest(key=b"a")] * 50)
            (soon,) = await scene.ask("compact", CompactionRequest(revision=30))
            assert soon.header.revision == 51
            assert keyspace.swept < 30
            (done,) = await scene.ask("compact", CompactionRequest(revision=51, physical=True))
            assert done.header.revision == 51
            assert keyspace.swept == 51
            refused = await scene.ask(
                "compact",
                CompactionRequest(revision=51, physical=True),
                CompactionRequest(revision=52),
                CompactionRequest(revision=-1),
                b"\xff\xff",
            )
            assert refused == [
                errors.COMPACTED,
                errors.FUTURE_REV,
                errors.COMPACTED,
                errors.MALFORMED,
            ]

    run(test)


def test_a_range_stream_is_the_range_at_the_clients_pace(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(ranges, "_SLICE", 10)

    async def test() -> None:
        async with serving(tmp_path) as scene:
            keys = [b"%03d" % number for number in range(95)]
            await scene.ask("put", *(PutRequest(key=key) for key in keys))
            request = RangeRequest(key=b"0", range_end=b"9", limit=90)
            client, handler = scene.open_stream(request)
            client.congested = True
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(client.sent) == 1, "nothing more is made for a client that does not read"
            client.congested = False
            handler.writable()
            messages = await client.messages(10)
            assert client.ended == [None]
            (expected,) = await scene.ask("range", request)
            whole = RangeResponse()
            for message in messages:
                whole.MergeFrom(RangeStreamResponse.FromString(message).range_response)
            assert whole == expected
            assert (len(whole.kvs), whole.more, whole.count) == (90, True, 95)

    run(test)


def test_range_streams_that_cannot_be_get_errors(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as scene:
            for request, code in (
                (b"\xff\xff", Code.INTERNAL),
                (RangeRequest(), Code.INVALID_ARGUMENT),
                (RangeRequest(key=b"a", revision=9), Code.OUT_OF_RANGE),
                (RangeRequest(key=b"a", sort_order=RangeRequest.DESCEND), Code.UNIMPLEMENTED),
                (RangeRequest(key=b"a", min_mod_revision=1), Code.UNIMPLEMENTED),
            ):
                client, _ = scene.open_stream(request)
                (status,) = client.ended
                assert status is not None
                assert status.code == code
                assert client.sent == []

    run(test)


async def lagging(trio: Trio, value: bytes) -> Member:
    """A follower that has not applied a put which was acknowledged."""
    await trio[2].propose(Kind.PUT, PutRequest(key=b"lags", value=b"old"))
    trio[2].disk.stop()
    caller = Recorder()
    trio[1].put(caller, 1, b"lags", value)
    revision(await caller.answer(1))
    trio[2].headers.set_term(trio[2].pipeline.term)
    return trio[2]


SERIALIZABLE = RangeRequest(key=b"lags", serializable=True)
LINEARIZABLE = RangeRequest(key=b"lags"), RangeRequest(key=b"lags", keys_only=False, limit=1)


def reads(*ranges: RangeRequest) -> TxnRequest:
    """A transaction of ranges alone."""
    return TxnRequest(success=[RequestOp(request_range=each) for each in ranges])


def test_a_range_waits_for_what_was_acknowledged_and_a_serializable_one_does_not(
    stage: Stage,
) -> None:
    async def test(trio: Trio) -> None:
        scene = Scene(await lagging(trio, b"new"))
        began = asyncio.get_running_loop().time()
        waiting = asyncio.ensure_future(scene.ask("range", *LINEARIZABLE, SERIALIZABLE))
        (at_once,) = await scene.ask("range", SERIALIZABLE)
        (wrong,) = await scene.ask("range", RangeRequest(range_end=b"x"))
        assert at_once.kvs[0].value == b"old"
        assert wrong == errors.EMPTY_KEY
        await until(lambda: trio[2].reads._unapplied, "the round is over")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        trio[2].disk.go_on()
        *linearizable, serializable = await waiting
        assert [answer.kvs[0].value for answer in linearizable] == [b"new", b"new"]
        assert serializable.kvs[0].value == b"old"
        assert asyncio.get_running_loop().time() - began < SECONDS

    stage.play(test)


def test_a_transaction_of_ranges_waits_unless_all_are_serializable(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        scene = Scene(await lagging(trio, b"newer"))
        mixed = reads(SERIALIZABLE, LINEARIZABLE[0])
        compares = TxnRequest(compare=[Compare(key=b"lags", target=Compare.VALUE, value=b"newer")])
        waiting = [asyncio.ensure_future(scene.ask("txn", each)) for each in (mixed, compares)]
        (at_once,) = await scene.ask("txn", reads(SERIALIZABLE, SERIALIZABLE))
        assert at_once.responses[1].response_range.kvs[0].value == b"old"
        await asyncio.sleep(0.05)
        assert not any(each.done() for each in waiting)
        trio[2].disk.go_on()
        ((both,), (compared,)) = [await each for each in waiting]
        assert [op.response_range.kvs[0].value for op in both.responses] == [b"newer"] * 2
        assert compared.succeeded

    stage.play(test)


def test_a_range_stream_waits_for_what_was_acknowledged(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        scene = Scene(await lagging(trio, b"newest"))
        at_once, _ = scene.open_stream(SERIALIZABLE)
        waiting, _ = scene.open_stream(LINEARIZABLE[0])
        closed, handler = scene.open_stream(LINEARIZABLE[0])
        handler.closed()
        await until(lambda: at_once.ended, "the serializable one")
        await asyncio.sleep(0.05)
        assert (waiting.sent, waiting.ended) == ([], [])
        trio[2].disk.go_on()
        await until(lambda: waiting.ended, "the linearizable one")
        values = [
            kv.value
            for client in (at_once, waiting)
            for part in client.sent
            for kv in RangeStreamResponse.FromString(part).range_response.kvs
        ]
        assert values == [b"old", b"newest"]
        assert closed.sent == []

    stage.play(test)


def test_reads_whose_leader_is_gone_get_etcds_error(stage: Stage) -> None:
    async def test(trio: Trio) -> None:
        scene = Scene(trio[2])
        trio[2].headers.set_term(trio[2].pipeline.term)
        trio.lose(MessageKind.READ_INDEX, 1)
        waiting = [
            asyncio.ensure_future(scene.ask("range", *LINEARIZABLE)),
            asyncio.ensure_future(scene.ask("txn", reads(LINEARIZABLE[0]))),
        ]
        client, _ = scene.open_stream(LINEARIZABLE[0])
        await until(lambda: trio[2].reads._round, "a round is under way")
        await trio.elect(3)
        assert await waiting[0] == [errors.LEADER_CHANGED] * 2
        assert await waiting[1] == [errors.LEADER_CHANGED]
        assert client.ended == [errors.LEADER_CHANGED]

    stage.play(test)
