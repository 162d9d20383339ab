"""/debug/pprof/: Go's paths, as far as Python has something to show there.

As in etcd they are there only with --enable-pprof, on the client URLs, and ask for no user: keep
those URLs from who may not know.
"""

import asyncio
import math
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import parse_qs

from rusd.profiling.formats import collapsed, pprof
from rusd.profiling.heap import allocations, summary
from rusd.profiling.sampler import sample
from rusd.profiling.stacks import stacks
from rusd.wire.http import HttpExchange, HttpHandler, HttpRequest, HttpResponse

ROOT: Final = "/debug/pprof/"
_SECONDS: Final = 30.0
"""Of a profile, without `seconds`."""
_MOST_SECONDS: Final = 600.0
_BUSY: Final = b"Could not enable CPU profiling: cpu profiling already in use\n"
_NO_SNIFF: Final = ("X-Content-Type-Options", "nosniff")
_INDEX: Final = b"""\
<!doctype html>
<html><head><title>/debug/pprof/</title></head><body>
<h1>/debug/pprof/</h1>
<ul>
<li><a href="profile?seconds=10">profile?seconds=10</a>: which code ran, in pprof's format;
<a href="profile?seconds=10&amp;debug=1">debug=1</a>: as collapsed stacks, for flame graphs</li>
<li><a href="goroutine?debug=1">goroutine</a>: the stacks of all threads and tasks</li>
<li><a href="heap">heap</a>: memory and the garbage collector;
<a href="heap?seconds=10">seconds=10</a>: what is allocated meanwhile, by line</li>
<li><a href="cmdline">cmdline</a>: the command line</li>
</ul>
</body></html>
"""

_Work = Callable[[threading.Event], HttpResponse]


class Pages:
    """Answers the paths; one profile is taken at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: threading.Event | None = None

    def routes(self) -> Mapping[str, HttpHandler]:
        """What answers, by path."""
        return {
            ROOT: _index,
            ROOT.rstrip("/"): _to_index,
            ROOT + "profile": self._profile,
            ROOT + "goroutine": self._stacks,
            ROOT + "heap": self._heap,
            ROOT + "cmdline": _command_line,
        }

    def stop(self) -> None:
        """Ends a profile that is being taken."""
        if self._running is not None:
            self._running.set()

    def _profile(self, request: HttpRequest, exchange: HttpExchange) -> None:
        query = _query(request)
        seconds = _number(query.get("seconds")) or _SECONDS
        self._begin(exchange, partial(_profile, seconds, _number(query.get("debug")) > 0))

    def _stacks(self, _: HttpRequest, exchange: HttpExchange) -> None:
        exchange.respond(_text(stacks(self._loop)))

    def _heap(self, request: HttpRequest, exchange: HttpExchange) -> None:
        if seconds := _number(_query(request).get("seconds")):
            self._begin(exchange, partial(_allocations, seconds))
        else:
            exchange.respond(_text(summary()))

    def _begin(self, exchange: HttpExchange, work: _Work) -> None:
        """Works on a thread, and answers; no longer than the client waits."""
        if self._running is not None:
            exchange.respond(HttpResponse(500, _BUSY, headers=(_NO_SNIFF,)))
            return
        stop = self._running = threading.Event()
        exchange.listener = _Leaving(stop)

        def done(response: HttpResponse) -> None:
            self._running = None
            exchange.listener = None
            exchange.respond(response)

        def run() -> None:
            try:
                response = work(stop)
            except Exception as error:
                response = HttpResponse(500, f"{error!r}\n".encode())
            self._loop.call_soon_threadsafe(done, response)

        threading.Thread(target=run, name="profiler", daemon=True).start()


class _Leaving:
    """Stops what a client no longer waits for."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def closed(self) -> None:
        self._stop.set()

    def writable(self) -> None:
        pass


def _profile(seconds: float, as_text: bool, stop: threading.Event) -> HttpResponse:
    profile = sample(seconds, stop)
    if as_text:
        return _text(collapsed(profile))
    attached = ("Content-Disposition", 'attachment; filename="profile"')
    return HttpResponse(200, pprof(profile), "application/octet-stream", (_NO_SNIFF, attached))


def _allocations(seconds: float, stop: threading.Event) -> HttpResponse:
    return _text(allocations(seconds, stop))


def _index(_: HttpRequest, exchange: HttpExchange) -> None:
    exchange.respond(HttpResponse(200, _INDEX, "text/html; charset=utf-8", (_NO_SNIFF,)))


def _to_index(_: HttpRequest, exchange: HttpExchange) -> None:
    body = b'<a href="%s">Moved Permanently</a>.\n\n' % ROOT.encode()
    where = ("Location", ROOT)
    exchange.respond(HttpResponse(301, body, "text/html; charset=utf-8", (where,)))


def _command_line(_: HttpRequest, exchange: HttpExchange) -> None:
    exchange.respond(_text("\0".join(sys.orig_argv).encode("utf-8", "surrogateescape")))


def _text(body: bytes) -> HttpResponse:
    return HttpResponse(200, body, headers=(_NO_SNIFF,))


def _query(request: HttpRequest) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(request.query).items()}


def _number(text: str | None) -> float:
    """A number over 0, at most ten minutes; 0 for what is none, as Go reads it."""
    try:
        number = float(text or 0)
    except ValueError:
        return 0.0
    return min(number, _MOST_SECONDS) if number > 0 and not math.isnan(number) else 0.0
