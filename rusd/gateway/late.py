"""The gateway's place until somebody asks for it: it is loaded then, on a thread.

What it imports would hold the event loop for 4 ms of processor time, and for 20 from a cold disk.
So it is held for half a millisecond.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

from rusd.wire.http import HttpExchange, HttpHandler, HttpRequest, HttpResponse

_FAILED: Final = HttpResponse(500, b"internal error\n")


class LateGateway:
    """Answers as what it loads does; requests that come before wait for it."""

    def __init__(
        self,
        load: Callable[[], Callable[[], HttpHandler]],
        threads: Executor,
        failed: Callable[[Exception], None],
    ) -> None:
        """`load` runs on a thread, and returns what makes the handler, on the event loop. `failed`
        hears of it when it does not come: who waited is told so, and the next request tries again.
        """
        self._load, self._threads, self._failed = load, threads, failed
        self._handler: HttpHandler | None = None
        self._waiting: list[tuple[HttpRequest, HttpExchange]] = []
        """At most one of each connection, or of each of its streams."""

    def handle(self, request: HttpRequest, exchange: HttpExchange) -> None:
        """Answers one request, now or later."""
        if self._handler is not None:
            self._handler(request, exchange)
            return
        self._waiting.append((request, exchange))
        if len(self._waiting) == 1:
            loop = asyncio.get_running_loop()
            loop.run_in_executor(self._threads, self._load).add_done_callback(self._loaded)

    def _loaded(self, loaded: "asyncio.Future[Callable[[], HttpHandler]]") -> None:
        waiting, self._waiting = self._waiting, []
        try:
            self._handler = loaded.result()()
        except Exception as error:
            self._failed(error)
            for _, exchange in waiting:
                exchange.respond(_FAILED)
            return
        for request, exchange in waiting:
            if not exchange.answered:  # whose client has gone
                self._handler(request, exchange)
