"""rusd/gateway/late.py: nobody but who asks for the gateway waits until it is loaded."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rusd.gateway.late import LateGateway
from rusd.wire.http import HttpExchange, HttpHandler, HttpRequest, HttpResponse
from tests.unit.asynchronous import asynchronous
from tests.unit.gateway.test_gateway import Exchange

SECONDS = 20.0


def echo(request: HttpRequest, exchange: HttpExchange) -> None:
    """A gateway."""
    exchange.respond(HttpResponse(200, request.path.encode()))


@asynchronous
async def test_the_loop_goes_on_while_it_loads() -> None:
    may_go_on, threads = threading.Event(), list[threading.Thread]()
    errors: list[Exception] = []

    def load() -> Callable[[], HttpHandler]:
        threads.append(threading.current_thread())
        assert may_go_on.wait(SECONDS)
        return made

    def made() -> HttpHandler:
        threads.append(threading.current_thread())
        return echo

    with ThreadPoolExecutor(1) as pool:
        late = LateGateway(load, pool, errors.append)
        exchanges = [Exchange() for _ in range(4)]
        for number, exchange in enumerate(exchanges[:3]):
            late.handle(HttpRequest("POST", f"/v3/{number}"), exchange)
        await asyncio.sleep(0.02)
        assert not any(exchange.answered for exchange in exchanges)
        exchanges[1].answered = True  # its client has gone
        may_go_on.set()
        for exchange in (exchanges[0], exchanges[2]):
            await exchange.wait()
        late.handle(HttpRequest("POST", "/v3/3"), exchanges[3])
        bodies = [each.response and each.response.body for each in exchanges]
        assert bodies == [b"/v3/0", None, b"/v3/2", b"/v3/3"]
    assert threads[1:] == [threading.main_thread()] != threads[:1]
    assert not errors


@asynchronous
async def test_what_cannot_be_loaded_is_tried_again() -> None:
    broken, seen = [True], list[Exception]()

    def load() -> Callable[[], HttpHandler]:
        if broken:
            raise ImportError("gone")
        return lambda: echo

    with ThreadPoolExecutor(1) as pool:
        late = LateGateway(load, pool, seen.append)
        statuses = []
        for _ in range(2):
            exchange = Exchange()
            late.handle(HttpRequest("POST", "/v3/a"), exchange)
            await exchange.wait()
            assert exchange.response is not None
            statuses.append(exchange.response.status)
            broken.clear()
    assert statuses == [500, 200]
    assert [str(each) for each in seen] == ["gone"]


def test_the_server_starts_without_it() -> None:
    code = (
        "import sys, rusd.server; "
        "sys.exit(bool({'rusd.gateway.gateway', 'google.protobuf.json_format'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
