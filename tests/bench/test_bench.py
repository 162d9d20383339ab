"""The benchmark itself: its figures are those of calls that succeeded, and its table is whole."""

import socket
import subprocess
import sys
import sysconfig
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rusd.pb import rpc_pb2 as rpc
from tests.bench import __main__ as bench
from tests.bench import joining, machine, requests
from tests.bench.__main__ import GROUPS, main
from tests.bench.figures import Figures, Run, load_runs, save_runs
from tests.bench.goals import BY_NAME, LARGE_STORE, ROWS, AtLeast, Ratio, Row, Under
from tests.bench.load import Generators, LoadError
from tests.bench.machine import Others
from tests.bench.report import page
from tests.bench.site import SHORT, Group, Site, call, members_of, nothing, one
from tests.bench.workloads import one_key
from tests.members import Member, wait_for

_MEMBERS = "/etcdserverpb.Cluster/MemberList"
_RANGE = "/etcdserverpb.KV/Range"


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
        tuple(row.name for row in LARGE_STORE),
    ],
    ids=["one member", "three members", "a large store"],
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
    runs = load_runs(file)
    rounds = {name: each for run in runs.values() for name, each in run.figures.rounds.items()}
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
    text = page({"members": Run("2020-01-01", [("kernel", "Linux")], figures)})
    assert "put-8 of rusd: ended" in text
    assert "may bound: range-8 of rusd" in text
    assert "put-64 of etcd (25%)" in text
    assert "watch-1 of etcd" not in text


def _large_run(day: str) -> Run:
    figures = Figures()
    figures.add("large-hash", "rusd", 12.5)
    return Run(day, [("store", "5 GB")], figures)


def test_the_last_run_of_the_large_store_stays_when_the_others_are_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etcd_command: Sequence[str]
) -> None:
    assert etcd_command

    def measured(figures: Figures, *_: object) -> None:
        figures.add("put-8", "rusd", 123_456.0)

    monkeypatch.setattr(bench, "_PAGE", tmp_path / "page.md")
    monkeypatch.setattr(bench, "_RUNS", tmp_path / "page.json")
    monkeypatch.setattr(bench, "measure", measured)
    monkeypatch.setattr(bench, "filesystem", lambda _: "ext4")
    save_runs(tmp_path / "page.json", {"large": _large_run("2020-01-01")})
    assert main(["--folder", str(tmp_path)]) == 0
    text = (tmp_path / "page.md").read_text()
    assert "123,456/s" in text.partition("## A large store")[0]
    assert "12.5 s" in text.partition("## A large store")[2]
    assert "On 2020-01-01" in text
    assert "| store | 5 GB |" in text
    assert load_runs(tmp_path / "page.json")["large"] == _large_run("2020-01-01")


def test_the_large_store_is_measured_when_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Sequence[str]] = []

    def measured(*arguments: Any) -> None:
        asked.append(arguments[2])

    monkeypatch.setattr(bench, "measure", measured)
    options = ["--folder", str(tmp_path), "--rusd-only", "--seconds", "1"]
    large = [row.name for row in LARGE_STORE]
    members = [row.name for row in ROWS if row not in LARGE_STORE]
    for given, expected in (
        ([], [members]),
        (["--only", "large-*"], [large]),
        (["--short"], [members, large]),
    ):
        asked.clear()
        assert main([*options, *given]) == 0
        assert asked == expected
    assert "A short run" in capsys.readouterr().out


def test_what_fails_is_named_and_the_rows_after_it_are_measured(
    subject_command: Sequence[str], generators: Generators
) -> None:
    def fails(site: Site) -> float:
        assert site.member.process is not None
        raise ValueError("as a mistake of the benchmark's would")

    def kills(site: Site) -> float:
        site.member.kill()
        raise LoadError("it ended")

    prepared: list[Site] = []
    works = [
        one("put-1", fails),
        one("put-8", lambda site: site.port),
        one("put-64", kills),
        one("range-8", lambda site: site.port),
        one("range-64", lambda site: site.port),
    ]
    group = Group("these", prepared.append, tuple(works))
    names = [name for work in works for name in work.rows]
    figures = Figures()
    fresh = partial(bench.fresh_site, group, subject_command, generators, SHORT)
    bench.measure_group(group, "rusd", fresh, names, figures, None)
    assert figures.failures == [
        "put-1 of rusd: as a mistake of the benchmark's would",
        "put-64 of rusd: it ended",
    ]
    first, second = (site.port for site in prepared)
    rounds = {name: values["rusd"] for name, values in figures.rounds.items()}
    assert rounds == {"put-8": [first], "range-8": [second], "range-64": [second]}
    assert not any(site.running for site in prepared)


def test_members_start_on_other_ports_where_theirs_are_taken(
    subject_command: Sequence[str], generators: Generators, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*arguments: Any) -> list[Member]:
        members = members_of(*arguments)
        if not taken:
            taken.append(_hold(held, members[1].peer_port))
        return members

    taken: list[int] = []
    monkeypatch.setattr(bench, "members_of", made)
    with ExitStack() as held:
        group = Group("two", nothing, (), members=2)
        with bench.fresh_site(group, subject_command, generators, SHORT) as site:
            assert len(site.running) == 2
            assert taken[0] not in {member.peer_port for member in site.members}


def test_a_member_restarts_on_other_ports_where_its_own_are_taken(
    subject_command: Sequence[str], generators: Generators
) -> None:
    with ExitStack() as held:
        group = Group("one", one_key, ())
        with bench.fresh_site(group, subject_command, generators, SHORT) as site:
            before = site.port
            site.restart(lambda: _hold(held, before))
            assert site.port != before
            everything = rpc.RangeRequest(key=b"\0", range_end=b"\0", count_only=True)
            assert call(site.member, _RANGE, everything, rpc.RangeResponse).count == 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize("learner", [False, True])
def test_a_fresh_member_joins_on_other_ports_where_its_own_are_taken(
    server: Member, generators: Generators, monkeypatch: pytest.MonkeyPatch, learner: bool
) -> None:
    def made(*arguments: Any, **options: Any) -> Member:
        member = Member(*arguments, **options)
        joined.append(member)
        if len(joined) == 1:
            _hold(held, member.client_port)
        return member

    joined: list[Member] = []
    monkeypatch.setattr(joining, "Member", made)
    everything = rpc.RangeRequest(key=requests.key("one", 0), count_only=True, serializable=True)
    # A cluster of one that waits for a second voter could not remove it again.
    flags = ("--strict-reconfig-check=false",)
    group = Group("some", one_key, (), members=1 if learner else 2, flags=flags)
    fresh = bench.fresh_site(group, server.command, generators, SHORT)
    with ExitStack() as held, fresh as site:
        assert 0 < joining.catch_up(site, everything, 1, learner=learner) < 60
        assert len(joined) == 2
        assert site.running == [*site.members[:-1], joined[1]]
        listed = call(site.member, _MEMBERS, rpc.MemberListRequest(), rpc.MemberListResponse)
        assert [each.isLearner for each in listed.members].count(True) == learner
        assert len(listed.members) == len(site.members) == group.members + 1


def _hold(held: ExitStack, port: int) -> int:
    """Let no server listen on the port."""
    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
    return port


def test_the_machine_tells_how_the_interpreter_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def built(arguments: str, flags: str, prefix: str = "/opt/python") -> str:
        told = {"CONFIG_ARGS": arguments, "PY_CORE_CFLAGS": flags}
        monkeypatch.setattr(sysconfig, "get_config_var", told.get)
        monkeypatch.setattr(sys, "base_prefix", prefix)
        monkeypatch.setattr(sysconfig, "get_path", lambda _: prefix)
        return machine.build().rpartition(", ")[0]

    assert built("'--enable-optimizations' '--with-lto'", "-O3") == "with PGO and LTO"
    assert built("'--enable-optimizations'", "-O3") == "with PGO, configured without LTO"
    assert built("'--prefix=/usr'", "-flto -fprofile-use", "/usr") == "with PGO and LTO"
    assert built("'--enable-shared'", "-O3") == "configured without PGO and LTO"
    assert built("'--enable-shared'", "-O2", "/usr") == "not told whether with PGO and LTO"
    assert built("", "") == "not told whether with PGO and LTO"
