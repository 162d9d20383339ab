"""/metrics: reads all metrics on the event loop, and makes the text of them on a thread.

prometheus-client is imported when the first asks.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from rusd.histogram import Histogram
from rusd.metrics.family import Family, Reading
from rusd.wire.http import HttpExchange, HttpRequest, HttpResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"

_Readings = list[tuple[Family, Reading]]


class Exposition:
    """Answers scrapes. Those that come while one is under way share the next."""

    def __init__(
        self,
        families: Sequence[Family],
        outside: Sequence[Family],
        log: Callable[[Exception], None],
    ) -> None:
        """`outside` are read on the thread. `log` is told of a defect that kept a scrape from its
        answer.
        """
        self.families = list(families)
        """Those that are read on the loop."""
        self._outside, self._log = outside, log
        self._waiting: list[HttpExchange] = []
        self._busy = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")

    def handle(self, _: HttpRequest, exchange: HttpExchange) -> None:
        """Answers one request, later."""
        self._waiting.append(exchange)
        if not self._busy:
            self._start()

    def stop(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False)

    def _start(self) -> None:
        self._busy = True
        waiting, self._waiting = self._waiting, []
        loop = asyncio.get_running_loop()

        def finish(made: "asyncio.Future[bytes]") -> None:
            self._busy = False
            if made.cancelled():
                return
            error = made.exception()
            if isinstance(error, Exception):
                self._log(error)
                response = HttpResponse(500, b"metrics could not be gathered\n")
            else:
                response = HttpResponse(200, made.result(), CONTENT_TYPE)
            for exchange in waiting:
                exchange.respond(response)
            if self._waiting:
                self._start()

        made: asyncio.Future[bytes]
        try:
            readings = [(family, _still(family.read())) for family in self.families]
        except Exception as error:
            made = loop.create_future()
            made.set_exception(error)
        else:
            made = asyncio.ensure_future(
                loop.run_in_executor(self._thread, render, readings, self._outside)
            )
        made.add_done_callback(finish)


def _still(reading: Reading) -> Reading:
    """What another thread may look at while this one goes on."""
    if isinstance(reading, Histogram):
        return reading.copy()
    if isinstance(reading, float | int):
        return reading
    return {
        labels: value.copy() if isinstance(value, Histogram) else value
        for labels, value in reading.items()
    }


def render(readings: _Readings, outside: Sequence[Family] = ()) -> bytes:
    """The text of metrics, version 0.0.4, with those of the process. For a worker thread."""
    from prometheus_client import generate_latest

    readings = [*readings, *((family, family.read()) for family in outside)]
    text = generate_latest(_Registry(readings))
    # The library gives counters `_total`, as OpenMetrics wants; some of etcd's have none.
    for family, _ in readings:
        if family.kind.value == "counter" and not family.name.endswith("_total"):
            name = family.name.encode()
            for comment in (b"# HELP ", b"# TYPE "):
                text = text.replace(comment + name + b"_total ", comment + name + b" ")
    return text


class _Registry:
    """What the library writes down."""

    def __init__(self, readings: _Readings) -> None:
        self._readings = readings

    def collect(self) -> "Iterable[Metric]":
        from prometheus_client import REGISTRY  # the process, the interpreter, its collector

        yield from (metric(family, reading) for family, reading in self._readings)
        yield from REGISTRY.collect()


def metric(family: Family, reading: Reading) -> "Metric":
    """One metric as the library knows it."""
    from prometheus_client.metrics_core import Metric

    name, kind = family.name, family.kind.value
    made = Metric(name.removesuffix("_total") if kind == "counter" else name, family.help, kind)
    if isinstance(reading, float | int | Histogram):
        reading = {(): reading}
    for values, value in reading.items():
        labels = dict(zip(family.labels, values, strict=True))
        if not isinstance(value, Histogram):
            made.add_sample(name, labels, value)
            continue
        count = 0
        for bound, number in zip((*value.bounds, float("inf")), value.counts, strict=True):
            count += number
            made.add_sample(f"{name}_bucket", {**labels, "le": _bound(bound)}, count)
        made.add_sample(f"{name}_sum", labels, value.total)
        made.add_sample(f"{name}_count", labels, count)
    return made


def _bound(bound: float) -> str:
    if bound == float("inf"):
        return "+Inf"
    return str(int(bound)) if bound == int(bound) else repr(bound)
