"""Bytes that change on a member's disk: found by checksum where they are read, and named."""

import os
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from random import Random

import grpc
import pytest

from rusd.mvcc.tables import EVENTS, LATEST
from rusd.pb import rpc_pb2 as rpc
from rusd.storage.engine import Engine
from tests.cluster.calls import ask
from tests.members import Member, running, running_cluster, rusd_command, wait_for

pytestmark = pytest.mark.timeout(120)

KEYS, VALUE_BYTES = 100, 6000
"""Values that are kept in the events table alone: nothing reads them when a member starts."""

PAGE = 10
STATE = "state"
EVERYTHING = rpc.RangeRequest(key=b"\0", range_end=b"\0", serializable=True)


def _put_all(member: Member) -> None:
    """Values that no compression makes smaller."""
    for first in range(0, KEYS, PAGE):
        puts = [
            rpc.RequestOp(request_put=rpc.PutRequest(key=_key(number), value=_value(number)))
            for number in range(first, first + PAGE)
        ]
        ask(member, rpc.TxnRequest(success=puts), rpc.TxnResponse, 30)


def _key(number: int) -> bytes:
    return b"key%06d" % number


def _value(number: int) -> bytes:
    return Random(number).randbytes(VALUE_BYTES)


def _damage(member: Member, table: str) -> Path:
    """Stop a member, and change a bit in the middle of a table's file, which is returned."""
    member.stop()
    engine = Engine(member.data_dir / "member")
    folder, rows = (
        engine.path,
        Counter(
            {
                str(file["name"]): int(file["size"])
                for file in engine.tables.state.live_files()
                if _table_of(file["start_key"]) == table
            }
        ),
    )
    engine.close()
    ((name, size),) = rows.most_common(1)
    path = folder / name.lstrip("/")
    with path.open("r+b") as file:
        # The rows of a file are before what else is in it.
        file.seek(size // 4)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    return path


def _table_of(start_key: bytes) -> str:
    """Whose file it is that begins with a row; none of these tests replaces a key."""
    if start_key.startswith(b"key"):
        return LATEST
    return EVENTS if start_key.startswith(b"\0") else STATE


def _refusal(member: Member, request: rpc.RangeRequest | rpc.HashKVRequest) -> str:
    answer = rpc.RangeResponse if isinstance(request, rpc.RangeRequest) else rpc.HashKVResponse
    with pytest.raises(grpc.RpcError) as refused:
        ask(member, request, answer, 30)
    return f"{refused.value.code().name} {refused.value.details()}"


def _readable(member: Member) -> list[bool]:
    """Of each key, whether it can be read; what is read must be right."""
    readable = []
    for number in range(KEYS):
        request = rpc.RangeRequest(key=_key(number), serializable=True)
        try:
            (found,) = ask(member, request, rpc.RangeResponse, 30).kvs
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DATA_LOSS:
                raise
            readable.append(False)
        else:
            assert found.value == _value(number)
            readable.append(True)
    return readable


def _end_of_watch(member: Member) -> rpc.WatchResponse:
    """What a watcher gets last that starts at the first revision."""
    create = rpc.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=1)
    with member.channel() as channel:
        answers = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc.WatchRequest.SerializeToString,
            response_deserializer=rpc.WatchResponse.FromString,
        )(iter([rpc.WatchRequest(create_request=create)]), timeout=30)
        answer: rpc.WatchResponse
        for answer in answers:
            if answer.canceled:
                return answer
    raise AssertionError("the watcher goes on")


def _readiness(member: Member) -> str:
    try:
        with urllib.request.urlopen(f"{member.client_url}/readyz", timeout=10) as answer:
            return str(answer.read())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def test_damaged_values_are_refused_and_named_where_they_are_read_and_harm_no_other_member(
    tmp_path: Path,
) -> None:
    """Ranges, hashes and watches end with an error; what needs them to go on stops the member."""
    with running_cluster(rusd_command(), tmp_path) as cluster:
        leader = cluster.leader()
        _put_all(leader)
        damaged = next(member for member in cluster.members if member is not leader)
        revision = ask(leader, EVERYTHING, rpc.RangeResponse).header.revision
        wait_for(
            lambda: ask(damaged, EVERYTHING, rpc.RangeResponse).header.revision == revision,
            30,
            "all puts on the follower",
        )
        file = _damage(damaged, EVENTS)
        damaged.start()

        corrupt = "DATA_LOSS etcdserver: corrupt cluster"
        assert _refusal(damaged, EVERYTHING) == corrupt
        assert _refusal(damaged, rpc.HashKVRequest(revision=revision)) == corrupt
        assert _end_of_watch(damaged).cancel_reason == "etcdserver: corrupt cluster"
        readable = _readable(damaged)
        assert 0 < readable.count(False) < KEYS / 2
        assert "data_corruption failed" in _readiness(damaged)
        lines = [line for line in damaged.log.splitlines() if "a read failed" in line]
        assert len(lines) == 1, "said once, not for every read"
        assert str(file) in lines[0]
        assert "replace this member" in lines[0]

        # RocksDB's own compaction may find it first, and takes no write then.
        ask(leader, rpc.PutRequest(key=b"more", value=b"1"), rpc.PutResponse, 30)
        ask(leader, rpc.CompactionRequest(revision=revision), rpc.CompactionResponse, 30)
        assert damaged.wait_exit(60) == 1, "a compaction reads all"
        last = [line for line in damaged.log.splitlines() if "the member stops" in line][-1]
        assert str(file) in last
        assert "replace this member" in last
        others = [member for member in cluster.members if member is not damaged]
        assert all(all(_readable(member)) for member in others)
        hashes = {
            ask(member, rpc.HashKVRequest(revision=revision + 1), rpc.HashKVResponse, 30).hash
            for member in others
        }
        assert len(hashes) == 1
        damaged.launch()
        assert damaged.wait_exit(60) == 1, "it does not come back with what it has"


@pytest.mark.parametrize("table", [LATEST, STATE])
def test_a_member_whose_keys_or_state_are_damaged_does_not_start(
    tmp_path: Path, table: str
) -> None:
    """It would serve some of the keys as if they were all, or not know who it is."""
    with running(rusd_command(), tmp_path) as member:
        for number in range(0, 4 * KEYS, 4):
            request = rpc.PutRequest(key=_key(number), value=_value(number)[:1000])
            ask(member, request, rpc.PutResponse, 30)
        file = _damage(member, table)
        member.launch()
        assert member.wait_exit(60) == 1
        last = member.log.splitlines()[-1]
        assert str(file) in last
        assert "replace this member" in last
