"""rusd/metrics/exposition.py: what is read on the loop comes out as Prometheus reads it."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from rusd.histogram import Histogram
from rusd.metrics.exposition import CONTENT_TYPE, Exposition, render
from rusd.metrics.family import Family, Reading, counter, gauge, histogram
from rusd.metrics.process import process_families
from rusd.wire.http import HttpListener, HttpRequest, HttpResponse
from tests.compat.scrape import parse


def rendered(*families: Family) -> str:
    """The text of metrics."""
    return render([(family, family.read()) for family in families]).decode()


def test_each_kind_is_written_as_etcd_writes_it() -> None:
    observed = Histogram((0.5, 1))
    for value in (0.25, 1, 3):
        observed.observe(value)
    text = rendered(
        counter("a_total", "As usual.", lambda: 3),
        counter("b_success", "Without an ending.", lambda: {("x",): 1}, ("To",)),
        gauge("c_total", "A gauge all the same.", lambda: True),
        histogram("d_seconds", "Some.", lambda: {("m", "n"): observed}, ("one", "two")),
    )
    lines = [line for line in text.splitlines() if line[:2] in ("a_", "b_", "c_", "d_")]
    assert lines == [
        "a_total 3.0",
        'b_success{To="x"} 1.0',
        "c_total 1.0",
        'd_seconds_bucket{le="0.5",one="m",two="n"} 1.0',
        'd_seconds_bucket{le="1",one="m",two="n"} 2.0',
        'd_seconds_bucket{le="+Inf",one="m",two="n"} 3.0',
        'd_seconds_sum{one="m",two="n"} 4.25',
        'd_seconds_count{one="m",two="n"} 3.0',
    ]
    types = [line for line in text.splitlines() if line.startswith("# TYPE") and line[8] == "_"]
    assert types == [
        "# TYPE a_total counter",
        "# TYPE b_success counter",
        "# TYPE c_total gauge",
        "# TYPE d_seconds histogram",
    ]
    assert "# HELP b_success Without an ending." in text


def test_the_process_is_told_of() -> None:
    found = parse(rendered(*process_families()))
    assert found("os_fd_used") >= 3
    assert found("os_fd_limit") >= found("os_fd_used")
    assert found("process_virtual_memory_max_bytes") > 1 << 20
    assert found("process_resident_memory_bytes") > 1 << 20
    assert found("python_info") == 1


class Exchange:
    """Takes an answer."""

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.listener: HttpListener | None = None
        self.secure = self.congested = False
        self.answer: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

    @property
    def answered(self) -> bool:
        return self.answer.done()

    def respond(self, response: HttpResponse) -> None:
        self.answer.set_result(response)

    def begin(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


REQUEST = HttpRequest("GET", "/metrics")


def family(read: Callable[[], Reading]) -> Family:
    """Some metric."""
    return gauge("a", "A.", read)


def test_scrapes_that_come_while_one_is_under_way_share_the_next() -> None:
    async def run() -> None:
        reads: list[threading.Thread] = []
        written: list[threading.Thread] = []
        going = threading.Event()

        def read() -> float:
            reads.append(threading.current_thread())
            return len(reads)

        def outside() -> float:
            written.append(threading.current_thread())
            going.wait(30)
            return 1.0

        exposition = Exposition([family(read)], [gauge("b", "B.", outside)], _fail)
        exchanges = [Exchange() for _ in range(4)]
        for exchange in exchanges:
            exposition.handle(REQUEST, exchange)
        assert len(reads) == 1
        going.set()
        answers = [await exchange.answer for exchange in exchanges]
        assert [parse(answer.body.decode())("a") for answer in answers] == [1, 2, 2, 2]
        assert all(answer.content_type == CONTENT_TYPE for answer in answers)
        assert set(reads) == {threading.main_thread()}
        assert threading.main_thread() not in written
        assert len(reads) == 2
        exposition.stop()

    asyncio.run(run())


def test_a_metric_that_cannot_be_read_fails_its_scrapes_and_no_later_one() -> None:
    async def run() -> None:
        broken = [True]
        errors: list[Exception] = []

        def read() -> float:
            if broken:
                raise ValueError("broken")
            return 1.0

        exposition = Exposition([family(read)], [], errors.append)
        first, second, later = Exchange(), Exchange(), Exchange()
        exposition.handle(REQUEST, first)
        exposition.handle(REQUEST, second)
        assert (await first.answer).status == (await second.answer).status == 500
        assert [str(error) for error in errors] == ["broken"] * 2
        broken.clear()
        exposition.handle(REQUEST, later)
        assert (await later.answer).status == 200
        exposition.stop()

    asyncio.run(run())


def _fail(error: Exception) -> None:
    raise AssertionError from error


def test_a_histogram_is_copied_before_the_thread_sees_it() -> None:
    async def run() -> None:
        observed = Histogram((1,))
        going = threading.Event()

        def outside() -> float:
            going.wait(30)
            return 1.0

        exposition = Exposition(
            [
                histogram("h", "H.", lambda: {("x",): observed}, ("l",)),
                histogram("i", "I.", lambda: observed),
            ],
            [gauge("b", "B.", outside)],
            _fail,
        )
        exchange = Exchange()
        exposition.handle(REQUEST, exchange)
        observed.observe(1)
        going.set()
        found = parse((await exchange.answer).body.decode())
        assert found("h_count") == found("i_count") == 0
        exposition.stop()

    asyncio.run(run())


def test_the_library_is_imported_by_the_first_scrape_alone() -> None:
    code = "import sys, rusd.server; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
