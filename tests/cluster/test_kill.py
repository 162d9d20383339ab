"""Kill -9 and damaged logs: what was acknowledged stays, and damage is never read as data."""

import random
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random

import pytest

from rusd.pb import rpc_pb2 as rpc
from tests.cluster.load import Change, Record, Writers, check, history
from tests.compat.client import Client
from tests.members import Member, wait_for

WRITERS = 8


@pytest.fixture
def member(subject_command: Sequence[str], tmp_path: Path) -> Iterator[Member]:
    """A member that the test starts and kills."""
    member = Member(subject_command, tmp_path)
    yield member
    member.close()


def revision_of(client: Client) -> int:
    """Return the newest revision, by a linearizable read."""
    response = client.call("Range", rpc.RangeRequest(key=b"none")).response
    assert isinstance(response, rpc.RangeResponse)
    return response.header.revision


def hash_at(member: Member, revision: int) -> int:
    """Return the keyspace's hash at a revision."""
    with member.channel() as channel:
        hashed: rpc.HashKVResponse = channel.unary_unary(
            "/etcdserverpb.Maintenance/HashKV",
            request_serializer=rpc.HashKVRequest.SerializeToString,
            response_deserializer=rpc.HashKVResponse.FromString,
        )(rpc.HashKVRequest(revision=revision), timeout=30)
    return hashed.hash


def put(client: Client, key: bytes, value: bytes) -> int:
    """Put; return the revision of the acknowledged write."""
    response = client.call("Put", rpc.PutRequest(key=key, value=value)).response
    assert isinstance(response, rpc.PutResponse)
    return response.header.revision


def values_at(client: Client, key: bytes, revision: int) -> list[bytes]:
    """Return the value of a key at a revision, if it has one."""
    request = rpc.RangeRequest(key=key, revision=revision)
    response = client.call("Range", request).response
    assert isinstance(response, rpc.RangeResponse), response
    return [found.value for found in response.kvs]


def has_more(record: Record, known: int) -> bool:
    """Whether more than `known` revisions are acknowledged."""
    return len(record.acknowledged) > known


@pytest.mark.timeout(7200)
def test_no_acknowledged_write_is_lost_when_the_member_is_killed(
    member: Member, request: pytest.FixtureRequest
) -> None:
    """Kill -9 under load, again and again: revisions, values and hashes are as they were told."""
    kills: int = request.config.getoption("--kills")
    seed: int = (request.config.getoption("--seed") or [random.SystemRandom().randrange(10**6)])[0]
    print(f"--seed {seed} --kills {kills}")
    chosen = Random(seed)
    record = Record()
    seen: dict[int, frozenset[Change]] = {}
    checked = 1  # up to here the history was read and found right
    compacted = 1
    hashed: tuple[int, int] | None = None

    for run in range(kills + 1):
        member.start()
        if hashed is not None:
            revision, before = hashed
            assert hash_at(member, revision) == before, f"the hash at {revision} has changed"
        client = Client(member.channel())
        newest = revision_of(client)
        assert newest >= max(record.acknowledged, default=1), "the revision went back"
        with member.channel() as channel:
            new = dict(history(channel, checked + 1, newest))
        assert len(new) == newest - checked, "a revision has no events"
        seen.update(new)
        check(record, seen, checked + 1)
        puts = [
            (revision, *change)
            for revision in chosen.sample(sorted(record.acknowledged), min(run, 20))
            if revision >= compacted
            for change in record.acknowledged[revision]
        ]
        for revision, key, value in puts:
            found = values_at(client, key, revision)
            assert found == ([] if value is None else [value]), f"{key!r} at {revision}"
        checked = newest
        if run < kills:
            known = len(record.acknowledged)
            writers = Writers(member, record, WRITERS, run, seed)
            wait_for(partial(has_more, record, known), 30, "a write")
            time.sleep(chosen.uniform(0, 0.3))  # the moment of the kill is the random input
            if compacted < checked and chosen.random() < 0.3:
                compacted = chosen.randint(compacted + 1, checked)
                compaction = rpc.CompactionRequest(revision=compacted)
                assert client.call("Compact", compaction).code == "OK"
            revision = max(record.acknowledged)
            hashed = revision, hash_at(member, revision)
            member.kill()
            writers.join()
        client.close()

    with member.channel() as channel:
        kept = {revision: changes for revision, changes in seen.items() if revision > compacted}
        assert dict(history(channel, compacted + 1, checked)) == kept, "the history, read again"
    print(f"{len(record.acknowledged)} acknowledged writes, {checked} revisions")


def test_a_lease_is_not_cut_short_by_a_kill(member: Member) -> None:
    """It lives at least its time from the last keep-alive on, and it does end."""
    client = Client(member.start().channel())
    assert client.call("LeaseGrant", rpc.LeaseGrantRequest(TTL=6, ID=7)).code == "OK"
    assert client.call("Put", rpc.PutRequest(key=b"leased", lease=7)).code == "OK"
    refreshed = time.monotonic()
    assert client.keep_alive(7).code == "OK"
    client.close()
    member.kill()
    client = Client(member.start().channel())
    wait_for(lambda: not values_at(client, b"leased", 0), 60, "the end of the lease")
    lived = time.monotonic() - refreshed
    client.close()
    assert lived >= 6, f"the lease of 6 s lived {lived:.1f} s"


@pytest.fixture
def logged_member(member: Member, request: pytest.FixtureRequest) -> Member:
    """A member of rusd, whose log files the test may damage."""
    if request.config.getoption("--subject") == "etcd":
        pytest.skip("real etcd has other log files")
    return member


def log_segments(member: Member) -> list[Path]:
    """Return the log's files, oldest first."""
    segments = sorted((member.data_dir / "member" / "wal").glob("*.log"))
    assert segments, "there are no log files"
    return segments


def written(segment: Path) -> int:
    """Return how many bytes of a log file are in use: the rest is zeros, allocated ahead."""
    return len(segment.read_bytes().rstrip(b"\0"))


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_a_torn_last_record_is_dropped_with_a_log_line(logged_member: Member, part: float) -> None:
    """Of the last record only a part is on disk, as after a power loss: all before it is there."""
    member = logged_member
    client = Client(member.start().channel())
    acknowledged = [put(client, b"k", b"%d" % number) for number in range(50)]
    segment = log_segments(member)[-1]
    whole = written(segment)
    put(client, b"k", b"torn" * 1000)
    client.close()
    member.kill()
    torn = written(segment)
    assert torn > whole + 4000, "the last write is not in the newest log file"
    kept = whole + int(part * (torn - whole))
    content = segment.read_bytes()
    segment.write_bytes(content[:kept] + bytes(len(content) - kept))
    already = len(member.log)

    client = Client(member.start().channel())
    for number, revision in enumerate(acknowledged):
        assert values_at(client, b"k", revision) == [b"%d" % number]
    assert put(client, b"k", b"after") == acknowledged[-1] + 1
    client.close()
    dropped = re.search(r'"msg":"[^"]*(torn|unfinished|incomplete)', member.log[already:])
    assert (dropped is not None) == (part > 0), member.log[already:]


@pytest.mark.parametrize("place", [0.01, 0.5, 0.9])
def test_damage_inside_the_log_stops_the_start_and_is_named(
    logged_member: Member, place: float
) -> None:
    """A flipped byte before the last record: the error says which file, and where."""
    member = logged_member
    client = Client(member.start().channel())
    for number in range(50):
        put(client, b"k", b"%d" % number * 50)
    client.close()
    member.kill()
    segment = log_segments(member)[0]
    content = bytearray(segment.read_bytes())
    offset = int(place * written(segment))
    content[offset] ^= 0xFF
    segment.write_bytes(content)
    already = len(member.log)

    member.launch()
    assert member.wait_exit() != 0
    said = member.log[already:]
    assert segment.name in said
    assert [int(found) for found in re.findall(r"byte (\d+)", said) if int(found) <= offset], said
