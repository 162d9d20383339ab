"""/metrics has etcd's names, types and labels, and the numbers move with what is done."""

import fnmatch
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from rusd.pb import rpc_pb2 as rpc
from tests.compat.gateway import post
from tests.compat.scrape import SECONDS, Scrape, of, scrape
from tests.compat.test_health import ask
from tests.conftest import StartMember
from tests.members import Member, free_ports, running_cluster, rusd_command, wait_for

DOCUMENT = Path(__file__).parents[2] / "docs/metrics.md"
_ROW = re.compile(r"^\| (`[^|]+`) \|", re.MULTILINE)


def listed(section: str) -> list[str]:
    """The names, with wildcards, in a table of docs/metrics.md."""
    text = DOCUMENT.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return [name for row in _ROW.findall(text) for name in re.findall("`([^`]+)`", row)]


def call(channel: grpc.Channel, path: str, request: Message) -> bytes:
    """One call, whatever its answer is."""
    answer: bytes = channel.unary_unary(f"/etcdserverpb.{path}")(
        request.SerializeToString(), timeout=SECONDS
    )
    return answer


def hold_to_the_document(etcd: Scrape, served: Scrape) -> None:
    """What etcd has is served, of the same type and with the same labels, or listed."""
    left_out = listed("Left out")
    for name, kind in etcd.types.items():
        is_left_out = any(fnmatch.fnmatch(name, pattern) for pattern in left_out)
        assert (name in served.types) != is_left_out, f"{name}: serve it, or say why not"
        if is_left_out:
            continue
        assert served.types[name] == kind, name
        labels = etcd.labels(name)
        assert not labels or not served.labels(name) or served.labels(name) == labels, name
    for pattern in left_out:
        assert fnmatch.filter(etcd.types, pattern), f"{pattern} is left out, and etcd has it not"
    own = listed("rusd's own")
    newer = listed("Since etcd 3.6")
    for name in served.types:
        if name not in etcd.types and not name.startswith("etcd_network_"):
            documented = any(fnmatch.fnmatch(name, pattern) for pattern in [*own, *newer])
            assert documented, f"{name}: document it"
    for pattern in newer:
        row = f"| `{pattern}` | "
        is_served = f"{row}served" in DOCUMENT.read_text()
        assert is_served == bool(fnmatch.filter(served.types, pattern)), pattern
        assert is_served or f"{row}left out: " in DOCUMENT.read_text(), pattern
    for pattern in own:
        assert fnmatch.filter(served.types, pattern), f"{pattern} is documented and not served"


def test_the_names_and_types_are_etcds(
    start_member: StartMember, etcd_command: Sequence[str]
) -> None:
    scrapes = []
    for command in (etcd_command, rusd_command()):
        (port,) = free_ports(1)
        url = f"http://127.0.0.1:{port}"
        member = start_member(command, "--metrics", "extensive", "--listen-metrics-urls", url)
        with member.channel() as channel:
            call(channel, "KV/Put", rpc.PutRequest(key=b"a"))
            call(channel, "KV/Range", rpc.RangeRequest(key=b"a"))
        assert post(member, "/v3/lease/keepalive", '{"ID":"7"}').status == 200
        assert ask(port, "/readyz").status == 200
        scrapes.append(scrape(port))
        assert of(member).types.keys() == scrapes[-1].types.keys()
    etcd, served = scrapes
    hold_to_the_document(etcd, served)
    # Of buckets too, that rules may name.
    for name in ("etcd_disk_wal_fsync_duration_seconds", "grpc_server_handling_seconds"):
        bounds = [
            {float(labels["le"]) for labels, _ in each.samples[f"{name}_bucket"]}
            for each in scrapes
        ]
        assert bounds[0] == bounds[1], name
    # A stream through the gateway is a call as well.
    kept = {
        "grpc_type": "bidi_stream",
        "grpc_service": "etcdserverpb.Lease",
        "grpc_method": "LeaseKeepAlive",
    }
    assert [each("grpc_server_handling_seconds_count", **kept) for each in scrapes] == [1, 1]
    ours, theirs = (
        {
            (labels["grpc_type"], labels["grpc_service"], labels["grpc_method"])
            for labels, _ in each.samples["grpc_server_started_total"]
        }
        for each in (served, etcd)
    )
    # grpc-go registers the health service's new method; see rusd/api/health.py.
    assert theirs - ours <= {("unary", "grpc.health.v1.Health", "List")}
    codes = {labels["grpc_code"] for labels, _ in etcd.samples["grpc_server_handled_total"]}
    assert codes == {
        labels["grpc_code"] for labels, _ in served.samples["grpc_server_handled_total"]
    }


def test_times_of_calls_are_for_those_who_ask(start_member: StartMember) -> None:
    assert "grpc_server_handling_seconds" not in of(start_member(rusd_command())).types


def test_features_that_are_on_are_shown(start_member: StartMember) -> None:
    found = of(start_member(rusd_command(), "--feature-gates", "InitialCorruptCheck=true"))
    features = {
        labels["name"]: value for labels, value in found.samples["etcd_server_feature_enabled"]
    }
    assert features == {"InitialCorruptCheck": 1, "CompactHashCheck": 0}


@pytest.fixture
def member(start_member: StartMember) -> Member:
    """One of rusd's."""
    return start_member(rusd_command(), "--quota-backend-bytes", "1000000000")


def difference(before: Scrape, after: Scrape) -> Callable[..., float]:
    """By how much a metric has grown."""
    return lambda name, **labels: after(name, **labels) - before(name, **labels)


def test_what_is_done_to_keys_is_counted(member: Member) -> None:
    before = of(member)
    with member.channel() as channel:
        for number in range(5):
            call(channel, "KV/Put", rpc.PutRequest(key=b"k%d" % number, value=b"v" * 100_000))
        for _ in range(3):
            call(channel, "KV/Range", rpc.RangeRequest(key=b"k1"))
        call(channel, "KV/DeleteRange", rpc.DeleteRangeRequest(key=b"k4"))
        call(
            channel,
            "KV/Txn",
            rpc.TxnRequest(success=[rpc.RequestOp(request_put=rpc.PutRequest(key=b"t"))]),
        )
        with pytest.raises(grpc.RpcError):
            call(channel, "KV/Put", rpc.PutRequest(key=b""))
        with pytest.raises(grpc.RpcError):
            call(channel, "Lease/LeaseRevoke", rpc.LeaseRevokeRequest(ID=5))
        after = of(member)
    grown = difference(before, after)
    put = {"grpc_service": "etcdserverpb.KV", "grpc_method": "Put", "grpc_type": "unary"}
    assert grown("etcd_mvcc_put_total") == 6
    assert grown("etcd_mvcc_range_total") == grown("etcd_debugging_mvcc_range_total") == 3
    assert grown("etcd_mvcc_delete_total") == 1
    assert grown("etcd_mvcc_txn_total") == 1
    assert after("etcd_debugging_mvcc_keys_total") == 5
    assert grown("etcd_debugging_mvcc_current_revision") == 7
    assert grown("grpc_server_started_total", **put) == 6
    assert grown("grpc_server_handled_total", grpc_code="OK", **put) == 5
    assert grown("grpc_server_handled_total", grpc_code="InvalidArgument", **put) == 1
    assert grown("grpc_server_handled_total", grpc_code="NotFound") == 1
    assert grown("grpc_server_msg_received_total", **put) == 6
    assert grown("grpc_server_msg_sent_total", **put) == 5
    assert grown("rusd_call_batches_total", **put) == 6
    assert grown("etcd_network_client_grpc_received_bytes_total") > 500_000
    assert grown("etcd_network_client_grpc_sent_bytes_total") > 300_000
    assert grown("etcd_server_proposals_committed_total") == 8
    assert grown("etcd_server_proposals_applied_total") == 8
    assert grown("etcd_disk_wal_fsync_duration_seconds_count") >= 8
    assert grown("etcd_disk_wal_fsync_duration_seconds_sum") > 0
    assert grown("etcd_disk_wal_write_bytes_total") > 500_000
    assert grown("etcd_disk_backend_commit_duration_seconds_count") == 8
    assert grown("rusd_batch_requests_sum") == grown("rusd_batch_requests_count") == 8
    assert after("etcd_server_has_leader") == after("etcd_server_is_leader") == 1
    assert after("etcd_server_leader_changes_seen_total") == 1
    assert after("etcd_server_proposals_pending") == 0
    assert after("etcd_server_quota_backend_bytes") == 1e9
    assert grown("etcd_mvcc_db_total_size_in_bytes") > 500_000
    assert after("rusd_client_connections") == 1
    assert after("process_resident_memory_bytes") > 1 << 20
    assert grown("process_cpu_seconds_total") >= 0


def test_watchers_and_leases_are_counted(member: Member) -> None:
    before = of(member)
    with member.channel() as channel:
        watching = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )
        create = rpc.WatchCreateRequest(key=b"w", range_end=b"x")
        answers = watching(iter([rpc.WatchRequest(create_request=create)] * 2), timeout=SECONDS)
        assert next(answers).created
        assert next(answers).created
        puts = [rpc.RequestOp(request_put=rpc.PutRequest(key=key)) for key in (b"w1", b"w2")]
        for _ in range(4):
            call(channel, "KV/Txn", rpc.TxnRequest(success=puts))
        events = sum(len(next(answers).events) for _ in range(8))
        call(channel, "Lease/LeaseGrant", rpc.LeaseGrantRequest(ID=1, TTL=1000))
        call(channel, "Lease/LeaseGrant", rpc.LeaseGrantRequest(ID=2, TTL=1))
        call(channel, "Lease/LeaseRevoke", rpc.LeaseRevokeRequest(ID=1))
        wait_for(
            lambda: of(member)("etcd_debugging_server_lease_expired_total") == 1,
            SECONDS,
            "a lease to run out",
        )
        during = of(member)
        watch = {"grpc_method": "Watch", "grpc_service": "etcdserverpb.Watch"}
        grown = difference(before, during)
        assert events == grown("etcd_debugging_mvcc_events_total") == 16
        assert during("etcd_debugging_mvcc_watcher_total") == 2
        assert during("etcd_debugging_mvcc_watch_stream_total") == 1
        assert during("rusd_open_calls", **watch, grpc_type="bidi_stream") == 1
        assert grown("grpc_server_msg_received_total", **watch) == 2
        assert grown("grpc_server_msg_sent_total", **watch) == 10
        assert grown("grpc_server_handled_total", **watch) == 0
        assert grown("etcd_debugging_lease_granted_total") == 2
        assert grown("etcd_debugging_lease_revoked_total") == 2
        assert grown("etcd_debugging_lease_ttl_total_sum") == 1002
        answers.cancel()
    wait_for(
        lambda: of(member)("grpc_server_handled_total", grpc_code="Canceled", **watch) == 1,
        SECONDS,
        "the stream to end",
    )
    assert of(member)("etcd_debugging_mvcc_watcher_total") == 0


def test_what_tends_the_data_is_measured(member: Member) -> None:
    before = of(member)
    with member.channel() as channel:
        for _ in range(10):
            call(channel, "KV/Put", rpc.PutRequest(key=b"k", value=b"v"))
        call(channel, "KV/Compact", rpc.CompactionRequest(revision=10, physical=True))
        call(channel, "Maintenance/Hash", rpc.HashRequest())
        call(channel, "Maintenance/HashKV", rpc.HashKVRequest())
        call(channel, "Maintenance/Defragment", rpc.DefragmentRequest())
        backup = channel.unary_stream("/etcdserverpb.Maintenance/Snapshot")
        assert list(backup(rpc.SnapshotRequest().SerializeToString(), timeout=SECONDS))
    after = of(member)
    grown = difference(before, after)
    assert after("etcd_debugging_mvcc_compact_revision") == 10
    assert grown("etcd_debugging_mvcc_db_compaction_keys_total") == 9
    assert grown("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count") == 1
    assert after("etcd_debugging_mvcc_db_compaction_last") > 1.7e9
    assert grown("etcd_mvcc_hash_duration_seconds_count") == 1
    assert grown("etcd_mvcc_hash_rev_duration_seconds_count") == 1
    assert grown("etcd_disk_backend_defrag_duration_seconds_count") == 1
    assert grown("etcd_disk_backend_snapshot_duration_seconds_count") == 1
    assert after("etcd_disk_defrag_inflight") == 0


def test_three_members_tell_of_each_other(tmp_path: Path, etcd_command: Sequence[str]) -> None:
    with running_cluster(rusd_command(), tmp_path / "rusd") as cluster:
        leader = cluster.leader()
        others = [member for member in cluster.members if member is not leader]
        with others[0].channel() as channel:
            for _ in range(20):
                call(channel, "KV/Put", rpc.PutRequest(key=b"k", value=b"v" * 1000))
                call(channel, "KV/Range", rpc.RangeRequest(key=b"k"))
        scrapes = {member: of(member) for member in cluster.members}
        assert [each("etcd_server_is_leader") for each in scrapes.values()].count(1) == 1
        sent = scrapes[leader].samples["etcd_network_peer_sent_bytes_total"]
        assert len(sent) == 2
        assert all(value > 20_000 for _, value in sent)
        assert scrapes[others[0]]("etcd_network_peer_received_bytes_total") > 20_000
        assert scrapes[others[0]]("rusd_read_round_requests_sum") >= 20
        assert scrapes[leader]("etcd_network_active_peers") == 2
        assert scrapes[leader]("etcd_network_known_peers") == 2
        wait_for(
            lambda: of(leader)("etcd_network_peer_round_trip_time_seconds_count") >= 2,
            SECONDS,
            "pings to be answered",
        )
        assert 0 < of(leader)("etcd_network_peer_round_trip_time_seconds_sum") < 60
        changes = {m: each("etcd_server_leader_changes_seen_total") for m, each in scrapes.items()}
        leader.kill()
        cluster.leader()
        for member in others:
            assert of(member)("etcd_server_leader_changes_seen_total") == changes[member] + 1
            assert of(member)("etcd_network_active_peers") == 1
            assert of(member)("etcd_network_disconnected_peers_total") == 1
        ours = of(others[0])
    with running_cluster(etcd_command, tmp_path / "etcd", size=2) as reference:
        etcd = of(reference.members[0])
    for name in (name for name in etcd.types if name.startswith("etcd_network_")):
        assert ours.types[name] == etcd.types[name]
        assert ours.labels(name) == etcd.labels(name), name
