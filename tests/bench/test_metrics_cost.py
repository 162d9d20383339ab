"""tests/bench/metrics_cost.py: what it leaves out is what measures, and nothing else."""

from pathlib import Path

import pytest

from rusd.pb import rpc_pb2 as rpc
from tests.bench import metrics_cost
from tests.compat.client import Client
from tests.compat.scrape import of
from tests.members import Member


def test_rusd_without_measuring_serves_the_same_and_counts_nothing(tmp_path: Path) -> None:
    scrapes = []
    for measures in (True, False):
        folder = tmp_path / str(measures)
        member = Member(metrics_cost.package(folder, measures=measures), folder / "member")
        try:
            member.start()
            with member.channel() as channel:
                client = Client(channel)
                for key in (b"a", b"b"):
                    assert client.call("Put", rpc.PutRequest(key=key)).code == "OK"
                    assert client.call("Range", rpc.RangeRequest(key=key)).code == "OK"
            scrapes.append(of(member))
        finally:
            member.close()
    usual, without = scrapes
    for name in (
        "grpc_server_started_total",
        "etcd_mvcc_put_total",
        "etcd_mvcc_range_total",
        "rusd_batch_requests_count",
        "rusd_apply_duration_seconds_count",
        "rusd_read_round_requests_count",
        "rusd_applied_entry_bytes_total",
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_disk_wal_write_bytes_total",
        "etcd_disk_backend_commit_duration_seconds_count",
    ):
        assert usual(name) > 1, name
        assert without(name) == 0, name


def test_a_list_that_is_out_of_date_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_cost, "MEASURING", {"wire/turn.py": ("no_such_statement",)})
    with pytest.raises(ValueError, match="no_such_statement"):
        metrics_cost.package(tmp_path, measures=False)


def test_the_report_has_medians() -> None:
    rounds = [
        {
            ("Put", "without"): 20.0,
            ("Put", "usual"): 20.0 + more,
            ("Put", "extensive"): 22.0,
            ("Range", "without"): 10.0,
            ("Range", "usual"): 10.0,
            ("Range", "extensive"): 10.0,
            ("scrape", "usual"): 15.0,
        }
        for more in (0.1, 0.2, 9.0)
    ]
    text = metrics_cost.report(rounds)
    assert "usual: +1.00%" in text
    assert "extensive: +10.00% +- 0.00" in text
    assert "scrape: 15.0 ms, 0.10% of a core" in text
