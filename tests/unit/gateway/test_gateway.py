"""rusd/gateway/gateway.py: requests become calls of the service table, answers become JSON."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rusd.gateway.gateway import Gateway
from rusd.pb.kv_pb2 import KeyValue
from rusd.pb.rpc_pb2 import PutRequest, PutResponse, RangeRequest, RangeResponse, WatchResponse
from rusd.wire.grpc import Code, Status
from rusd.wire.http import HeaderFields, HttpListener, HttpRequest, HttpResponse
from rusd.wire.loopback import Loopback
from rusd.wire.service import Call, StreamMethod, UnaryMethod
from rusd.wire.stream import Stream
from rusd.wire.turn import Turn

SECONDS = 20.0
BIG = bytes(200_000)


class Exchange:
    """Keeps what is answered."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.listener: HttpListener | None = None
        self.secure = self.congested = self.answered = False
        self.response: HttpResponse | None = None
        self.begun: tuple[int, HeaderFields] | None = None
        self.written = b""
        self.done = asyncio.Event()

    def respond(self, response: HttpResponse) -> None:
        self.response = response
        self.answered = True
        self.done.set()

    def begin(self, status: int, headers: HeaderFields) -> None:
        assert self.begun is None
        self.begun = (status, headers)

    def write(self, data: bytes) -> None:
        assert self.begun is not None
        self.written += data

    def end(self) -> None:
        assert self.begun is not None
        self.done.set()

    async def wait(self) -> "Exchange":
        await asyncio.wait_for(self.done.wait(), SECONDS)
        return self

    @property
    def error(self) -> tuple[int, Any]:
        """Status and content of an answer that is whole."""
        assert self.response is not None
        assert self.response.content_type == "application/json"
        return self.response.status, json.loads(self.response.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.written.splitlines()]


class Services:
    """A few of etcd's methods, answered as the test says."""

    def __init__(self) -> None:
        log = logging.getLogger("test")
        methods = [
            UnaryMethod("/etcdserverpb.KV/Put", self.put),
            UnaryMethod("/etcdserverpb.KV/Range", self.hold),
        ]
        self.turn = Turn(methods, log)
        streams = [
            StreamMethod("/etcdserverpb.Watch/Watch", self.open),
            StreamMethod("/v3lockpb.Lock/Lock", self.open),
        ]
        self.calls = Loopback(self.turn, {method.path.encode(): method for method in streams})
        self.gateway = Gateway(self.calls, ThreadPoolExecutor(1), 1_000_000)
        self.held: list[Call] = []
        self.streams: list[Stream] = []
        self.events: list[object] = []

    def put(self, calls: list[Call]) -> None:
        for connection, stream, head, message in calls:
            request = PutRequest.FromString(message)
            if request.key == b"fail":
                connection.fail(stream, Status(Code.UNAUTHENTICATED, "who?"))
            else:
                token = head.metadata.get(b"token", head.metadata.get(b"authorization", b"-"))
                answer = PutResponse(prev_kv=KeyValue(key=token, value=request.value))
                connection.reply(stream, answer.SerializeToString())

    def hold(self, calls: list[Call]) -> None:
        self.held += calls

    def open(self, stream: Stream) -> "Services":
        self.streams.append(stream)
        return self

    def message(self, data: bytes) -> None:
        self.events.append(data)

    def half_closed(self) -> None:
        self.events.append("half_closed")

    def closed(self) -> None:
        self.events.append("closed")

    def writable(self) -> None:
        self.events.append("writable")

    def ask(self, path: str, body: str | bytes, method: str = "POST", **headers: str) -> Exchange:
        exchange = Exchange()
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.gateway.handle(HttpRequest(method, path, "", named, data), exchange)
        return exchange


def in_loop(test: Callable[[Services], Awaitable[None]]) -> Callable[[], None]:
    """Runs a test on an event loop, with services."""

    def run() -> None:
        async def main() -> None:
            await test(Services())

        asyncio.run(main())

    run.__name__, run.__doc__ = getattr(test, "__name__", ""), test.__doc__
    return run


@in_loop
async def test_a_call_is_answered(services: Services) -> None:
    for headers, token in (({}, "LQ=="), ({"authorization": "t"}, "dA==")):
        exchange = await services.ask("/v3/kv/put", '{"value":"dg=="}', **headers).wait()
        assert exchange.error == (200, {"prev_kv": {"key": token, "value": "dg=="}})
    exchange = await services.ask("/v3/kv/put", "{}", grpc_metadata_token="t").wait()
    assert exchange.error[1]["prev_kv"]["key"] == "dA=="


@in_loop
async def test_errors_have_code_message_and_status(services: Services) -> None:
    exchange = await services.ask("/v3/kv/put", '{"key":"ZmFpbA=="}').wait()
    assert exchange.error == (401, {"code": 16, "message": "who?"})
    assert ("Www-Authenticate", "who?") in exchange.headers
    for path, method, body, expected in (
        ("/v3/none", "POST", "", (404, {"code": 5, "message": "Not Found"})),
        ("/v3/kv/put", "GET", "", (501, {"code": 12, "message": "Method Not Allowed"})),
        ("/v3/kv/put", "POST", "{", (400, {"code": 3, "message": "unexpected EOF"})),
        (
            "/v3/kv/txn",
            "POST",
            "{}",
            (501, {"code": 12, "message": "unknown method Txn for service etcdserverpb.KV"}),
        ),
    ):
        assert (await services.ask(path, body, method).wait()).error == expected


@in_loop
async def test_a_timeout_ends_a_call_and_a_bad_one_is_told(services: Services) -> None:
    bad = await services.ask("/v3/kv/range", "{}", grpc_timeout="1x").wait()
    assert bad.error == (400, {"code": 3, "message": "invalid grpc-timeout: 1x"})
    for path in ("/v3/kv/range", "/v3/lock/lock"):
        exchange = await services.ask(path, "{}", grpc_timeout="20m").wait()
        assert exchange.error == (504, {"code": 4, "message": "context deadline exceeded"})
    assert services.events[-1] == "closed"
    ((connection, stream, _, _),) = services.held
    connection.reply(stream, b"")  # too late, and heard by nobody


@in_loop
async def test_a_message_over_the_limit_is_refused(services: Services) -> None:
    body = '{"value":"' + "A" * 2_000_000 + '"}'
    status, content = (await services.ask("/v3/kv/put", body).wait()).error
    assert status == 429
    assert content["message"].startswith("grpc: received message larger than max (1500004 vs. ")


@in_loop
async def test_large_json_is_read_and_written_beside_the_loop(services: Services) -> None:
    body = json.dumps({"value": "A" * 400_000})
    exchange = services.ask("/v3/kv/put", body)
    assert exchange.response is None
    assert len((await exchange.wait()).error[1]["prev_kv"]["value"]) == 400_000


@in_loop
async def test_who_leaves_ends_the_call(services: Services) -> None:
    exchange = services.ask("/v3/kv/range", "{}")
    await asyncio.sleep(0)
    (held,) = services.held
    assert exchange.listener is not None
    exchange.listener.closed()
    held[0].reply(held[1], RangeResponse(count=1).SerializeToString())
    assert exchange.response is None
    waiting = services.ask("/v3/lock/lock", "{}")
    assert waiting.listener is not None
    waiting.listener.closed()
    assert services.events == [b"", "half_closed", "closed"]


@in_loop
async def test_who_leaves_while_the_request_is_read_has_made_no_call(services: Services) -> None:
    body = '{"create_request":{"key":"' + "A" * 400_000 + '"}}'
    gone = services.ask("/v3/watch", body)
    assert gone.listener is None
    gone.answered = True
    other = services.ask("/v3/watch", body)
    async with asyncio.timeout(SECONDS):
        while not services.streams:
            await asyncio.sleep(0.001)
    assert other.listener is not None
    assert len(services.streams) == 1


@in_loop
async def test_a_stream_is_lines(services: Services) -> None:
    exchange = services.ask("/v3/watch", '{"create_request":{}} {"progressRequest":{}}')
    assert services.events[2:] == ["half_closed"]
    (stream,) = services.streams
    assert exchange.begun is None
    stream.send(b"\x10\x05")
    assert exchange.begun is not None
    stream.send(WatchResponse(watch_id=6).SerializeToString())
    stream.finish(Status(Code.UNAVAILABLE, "over"))
    await exchange.wait()
    assert exchange.lines == [
        {"result": {"watch_id": "5"}},
        {"result": {"watch_id": "6"}},
        {"error": {"code": 14, "message": "over"}},
    ]
    assert exchange.begun[0] == 200


@in_loop
async def test_a_stream_that_fails_at_once_has_the_errors_status(services: Services) -> None:
    exchange = services.ask("/v3/watch", "")
    services.streams[0].finish(Status(Code.UNAVAILABLE, "no"))
    await exchange.wait()
    assert exchange.begun is not None
    assert exchange.begun[0] == 503
    assert exchange.lines == [{"error": {"code": 14, "message": "no"}}]


@in_loop
async def test_lines_keep_their_order_whatever_their_size(services: Services) -> None:
    exchange = services.ask("/v3/watch", "{}")
    (stream,) = services.streams
    sizes = [0, 100_000, 3, 50_000, 0, 40_000]
    for number, size in enumerate(sizes):
        stream.send(
            WatchResponse(watch_id=number + 1, cancel_reason="x" * size).SerializeToString()
        )
    stream.finish()
    await exchange.wait()
    seen = [line["result"] for line in exchange.lines]
    assert [int(each["watch_id"]) for each in seen] == [1, 2, 3, 4, 5, 6]
    assert [len(each.get("cancel_reason", "")) for each in seen] == sizes


@in_loop
async def test_a_service_waits_for_lines_that_are_not_written(services: Services) -> None:
    exchange = services.ask("/v3/watch", "{}")
    (stream,) = services.streams
    assert not stream.congested
    large = WatchResponse(cancel_reason="x" * 400_000).SerializeToString()
    for _ in range(4):
        stream.send(large)
    assert stream.congested
    async with asyncio.timeout(SECONDS):
        while "writable" not in services.events:
            await asyncio.sleep(0.001)
    assert not stream.congested
    exchange.congested = True
    assert stream.congested
    exchange.congested = False
    before = services.events.count("writable")
    assert exchange.listener is not None
    exchange.listener.writable()
    assert services.events.count("writable") == before + 1


@in_loop
async def test_who_leaves_a_stream_is_heard_of_once(services: Services) -> None:
    exchange = services.ask("/v3/watch", "{}")
    (stream,) = services.streams
    stream.send(WatchResponse(cancel_reason="x" * 400_000).SerializeToString())
    assert exchange.listener is not None
    exchange.listener.closed()
    stream.send(b"")
    stream.finish()
    assert services.events.count("closed") == 1


@in_loop
async def test_a_gate_before_the_services_sees_json_calls(services: Services) -> None:
    seen = []

    def gate(path: str, calls: list[Call]) -> list[Call]:
        for connection, stream, _, _ in calls:
            seen.append(path)
            assert connection.common_name is None
            connection.fail(stream, Status(Code.PERMISSION_DENIED, "closed"))
        return []

    services.turn.gate = gate
    exchange = await services.ask("/v3/kv/put", "{}").wait()
    assert exchange.error == (403, {"code": 7, "message": "closed"})
    assert seen == ["/etcdserverpb.KV/Put"]


@pytest.mark.parametrize("path", ["/v3/kv/range", "/v3beta/kv/range"])
def test_the_old_name_is_known(path: str) -> None:
    async def main() -> None:
        services = Services()
        services.ask(path, '{"key":"Zm9v"}')
        await asyncio.sleep(0)
        ((_, _, head, message),) = services.held
        assert head.path == b"/etcdserverpb.KV/Range"
        assert RangeRequest.FromString(message).key == b"foo"

    asyncio.run(main())
