"""The benchmark itself: its figures are those of calls that succeeded, and its table is whole."""

import json
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rusd.pb import rpc_pb2 as rpc
from tests.bench import requests
from tests.bench.__main__ import GROUPS, main
from tests.bench.goals import BY_NAME, ROWS, AtLeast, Ratio, Row, Under
from tests.bench.load import Generators, LoadError
from tests.bench.machine import Others
from tests.bench.report import Figures, page
from tests.bench.site import call
from tests.members import Member, wait_for


def test_every_row_is_measured_by_exactly_one_workload() -> None:
    measured = [name for group in GROUPS for work in group.workloads for name in work.rows]
    assert sorted(measured) == sorted(row.name for row in ROWS)
    assert len(BY_NAME) == len(ROWS)


@pytest.mark.parametrize(
    ("row", "etcd", "rusd", "ratio", "met"),
    [
        (Row("r", "rate", "/s", Ratio(2.0)), 100.0, 200.0, 2.0, True),
        (Row("r", "rate", "/s", Ratio(2.0)), 100.0, 199.0, 1.99, False),
        (Row("r", "time", "s", Ratio(1.0, strict=True), "less"), 2.0, 2.0, 1.0, False),
        (Row("r", "time", "s", Ratio(1.0, strict=True), "less"), 2.0, 1.0, 2.0, True),
        (Row("r", "worst", "ms", Under(20, "ms"), "less"), 10.0, 20.0, 0.5, False),
        (Row("r", "worst", "ms", Under(20, "ms"), "less"), 100.0, 10.0, 10.0, True),
        (Row("r", "share", "%", AtLeast(90, "%")), 50.0, 90.0, 1.8, True),
        (Row("r", "share", "%", AtLeast(90, "%")), 50.0, 89.0, 1.78, False),
        (Row("r", "beside", "ms", None, "less"), 1.0, 1.0, 1.0, None),
    ],
)
def test_a_goal_is_met_only_on_its_good_side(
    row: Row, etcd: float, rusd: float, ratio: float, met: bool | None
) -> None:
    assert row.ratio(etcd, rusd) == pytest.approx(ratio)
    assert row.met(etcd, rusd) is met


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "names",
    [
        ("put-8", "txn-update-64", "watch-100", "delay-p99", "keep-alive"),
        ("three-serial", "three-range-follower-64", "catch-up", "serving"),
    ],
    ids=["one member", "three members"],
)
def test_a_short_run_prints_the_table_of_the_rows_that_were_asked_for(
    names: Sequence[str],
    request: pytest.FixtureRequest,
    etcd_command: Sequence[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert etcd_command
    file = tmp_path / "figures.json"
    subject = str(request.config.getoption("--subject"))
    options = ["--short", "--folder", str(tmp_path), "--subject", subject]
    status = main([*options, "--only", ",".join(names), "--json", str(file)])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    for name in names:
        (line,) = (line for line in printed.out.splitlines() if f"| {BY_NAME[name].work} " in line)
        etcd, rusd, ratio = (cell.strip() for cell in line.split("|")[2:5])
        assert etcd != "-"
        assert rusd != "-"
        assert float(ratio) > 0
    rounds = json.loads(file.read_text())["rounds"]
    assert all(rounds[name][who][0] > 0 for name in names for who in ("etcd", "rusd"))


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> Generators:
    """load.c, built."""
    return Generators(tmp_path_factory.mktemp("generators"))


def test_calls_that_fail_fail_the_measurement(subject: Member, generators: Generators) -> None:
    with pytest.raises(LoadError, match="50 calls failed, 0 succeeded"):
        generators.closed(
            subject.client_port, "/etcdserverpb.KV/Put", b"\0\0\0\0\1x", 2, 4, count=50
        )


def test_distinct_puts_are_distinct_and_a_following_txn_always_succeeds(
    subject: Member, generators: Generators, count_keys: Callable[[bytes], int]
) -> None:
    port = subject.client_port
    counted = generators.closed(
        port, "/etcdserverpb.KV/Put", requests.put("distinct"), 3, 5, count=1000
    )
    assert counted.calls == counted.in_window == count_keys(b"/bench/distinct/") == 1000
    generators.closed(port, "/etcdserverpb.KV/Txn", requests.puts("filled", 100), 2, 2, count=7)
    assert count_keys(b"/bench/filled/") == 700
    bodies, revision_at = requests.following_puts("followed")
    counted = generators.closed(
        *(port, "/etcdserverpb.KV/Txn", bodies, 2, 3, "--revision-at", revision_at), count=600
    )
    assert counted.calls == 600
    assert count_keys(b"/bench/followed/") == 6


def test_random_values_are_as_long_as_told_and_differ(
    subject: Member, generators: Generators
) -> None:
    body = requests.put("random", value=requests.RANDOM * 1003)
    generators.closed(subject.client_port, "/etcdserverpb.KV/Put", body, 2, 4, count=50)
    everything = rpc.RangeRequest(key=b"/bench/random/", range_end=b"/bench/random0")
    found = call(subject, "/etcdserverpb.KV/Range", everything, rpc.RangeResponse)
    values = [each.value for each in found.kvs]
    assert len(values) == len(set(values)) == 50
    assert {len(value) for value in values} == {1003}
    assert len(zlib.compress(b"".join(values))) > 50 * 1000


@pytest.fixture
def count_keys(subject: Member) -> Callable[[bytes], int]:
    """How many keys there are with a prefix."""

    def count(prefix: bytes) -> int:
        request = rpc.RangeRequest(key=prefix, range_end=prefix[:-1] + b"0", count_only=True)
        with subject.channel() as channel:
            method = channel.unary_unary(
                "/etcdserverpb.KV/Range",
                request_serializer=rpc.RangeRequest.SerializeToString,
                response_deserializer=rpc.RangeResponse.FromString,
            )
            return int(method(request, timeout=60).count)

    return count


def test_a_rate_is_kept_and_latency_counts_from_when_a_call_was_due(
    subject: Member, generators: Generators
) -> None:
    path = "/etcdserverpb.KV/Put"
    with generators.pressing(subject.client_port, path, requests.put("paced"), 2, 500) as latencies:
        begin = time.monotonic_ns()
        time.sleep(1)
        end = time.monotonic_ns()
    due = sorted(due for due, _ in latencies.calls)
    assert len(due) >= 400
    assert all(abs(at - due[0] - n * 2_000_000) <= 1 for n, at in enumerate(due))
    assert 0 < latencies.worst_ms(begin, end) < 60_000


def test_a_rate_in_a_window_is_of_the_calls_answered_in_it(
    subject: Member, generators: Generators
) -> None:
    path = "/etcdserverpb.KV/Put"
    with generators.saturating(
        subject.client_port, path, requests.put("closed"), 2, 4
    ) as latencies:
        begin = time.monotonic_ns()
        time.sleep(1)
        end = time.monotonic_ns()
    middle = (begin + end) // 2
    halves = latencies.rate(begin, middle) + latencies.rate(middle, end)
    assert latencies.rate(begin, end) == pytest.approx(halves / 2, rel=0.001)
    assert 0 < latencies.rate(begin, end) * (end - begin) / 1e9 <= len(latencies.calls)
    assert latencies.rate(end + 10**12, end + 2 * 10**12) == 0


def test_what_the_member_uses_is_not_counted_as_used_by_others() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            everyone, without = Others([]), Others([process.pid])
            wait_for(lambda: everyone.share([]) - without.share([process.pid]) > 0.1, 60, "its use")
            assert without.share([process.pid]) < everyone.share([])
        finally:
            process.kill()


def test_a_page_names_what_disturbed_it() -> None:
    figures = Figures(failures=["put-8 of rusd: ended"], generator_bound={"range-8 of rusd"})
    figures.disturb("put-64 of etcd", 0.25)
    figures.disturb("put-64 of etcd", 0.05)
    figures.disturb("watch-1 of etcd", 0.05)
    text = page(figures, [("kernel", "Linux")], "2020-01-01")
    assert "put-8 of rusd: ended" in text
    assert "may bound: range-8 of rusd" in text
    assert "put-64 of etcd (25%)" in text
    assert "watch-1 of etcd" not in text
