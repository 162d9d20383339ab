"""A store of gigabytes on one member: what takes longer the more there is, and how long.

The values are random bytes, which nothing compresses. Every tenth key is written twice.
"""

import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rusd.pb import rpc_pb2 as rpc
from tests.bench import requests
from tests.bench.joining import catch_up, promote
from tests.bench.load import LoadError
from tests.bench.site import STREAMS, Group, Site, Sizes, Workload, call, one, status_of
from tests.bench.workloads import resident, worst_put
from tests.members import Member

_PUT = "/etcdserverpb.KV/Put"
_RANGE = "/etcdserverpb.KV/Range"
_COMPACT = "/etcdserverpb.KV/Compact"
_DEFRAGMENT = "/etcdserverpb.Maintenance/Defragment"
_HASH = "/etcdserverpb.Maintenance/HashKV"
_SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot"
_BACKUP_SECONDS = 1200.0
_VALUE_BYTES = 10 << 10
_OVERWRITTEN = 10
_PUTS_A_RUN = 50_000
_PREFIX = b"/bench/large/-----"
_MIDDLE_KEYS = 1000
_GETS = 100
_LONG_GETS = 15
_PACE = 200
_SAMPLE_SECONDS = 0.05
_DROP = Path("/proc/sys/vm/drop_caches")


def keys_of(sizes: Sizes) -> int:
    """How many keys with values of 10 KiB make the store."""
    return int(sizes.store_gb * 1e9) // _VALUE_BYTES


def description(sizes: Sizes) -> list[tuple[str, str]]:
    """What the reader must know of a run of these sizes: names and values."""
    dropped = os.access(_DROP, os.W_OK)
    keys = f"{keys_of(sizes):,} keys with values of 10 KiB"
    return [
        ("store", f"{sizes.store_gb:g} GB: {keys}"),
        ("page cache", "dropped where a row says cold" if dropped else "kept: root alone drops it"),
    ]


def _drop_page_cache() -> None:
    """Forget what the kernel keeps of files and no process has mapped, if this is root."""
    if os.access(_DROP, os.W_OK):
        os.sync()
        _DROP.write_text("3")


def _key(number: int) -> bytes:
    return b"%b%011d" % (_PREFIX, number)


def _put(name: bytes) -> bytes:
    return requests.framed(rpc.PutRequest(key=name, value=requests.RANDOM * _VALUE_BYTES))


def _everything(site: Site) -> rpc.RangeRequest:
    end = _key(keys_of(site.sizes))
    return rpc.RangeRequest(key=_key(0), range_end=end, count_only=True, serializable=True)


def _fill(site: Site) -> None:
    keys = keys_of(site.sizes)
    _puts(site, _put(_PREFIX + b"0" + requests.CALL_NUMBER), keys)
    # Ten times the number of the call: every tenth key.
    _puts(site, _put(_PREFIX + requests.CALL_NUMBER + b"0"), keys // _OVERWRITTEN)
    found = site.call(_RANGE, _everything(site), rpc.RangeResponse).count
    if found != keys:
        raise LoadError(f"{found:,} of {keys:,} keys")


def _puts(site: Site, body: bytes, count: int) -> None:
    for first in range(0, count, _PUTS_A_RUN):
        size = min(_PUTS_A_RUN, count - first)
        site.generators.closed(*(site.port, _PUT, body, 64, STREAMS, "--first", first), count=size)


def _size(site: Site) -> Mapping[str, float]:
    keys = keys_of(site.sizes)
    written = (keys + keys // _OVERWRITTEN) * _VALUE_BYTES
    return {
        "large-fill": written / 1e6 / site.prepare_seconds,
        "large-size": status_of(site.member).dbSize / 1e9,
    }


def _restart(site: Site) -> float:
    site.restart(_drop_page_cache)
    return site.start_seconds


def _median_ms(site: Site, asked: list[rpc.RangeRequest], count: int) -> float:
    """Of ranges one after the other, each of which must count so many keys."""
    times = []
    with site.member.channel() as channel:
        get = channel.unary_unary(
            _RANGE,
            request_serializer=rpc.RangeRequest.SerializeToString,
            response_deserializer=rpc.RangeResponse.FromString,
        )
        get(rpc.RangeRequest(key=b"connect"), timeout=60, wait_for_ready=True)
        for request in asked:
            begin = time.monotonic()
            answer = get(request, timeout=60)
            times.append(time.monotonic() - begin)
            held = answer.count if request.count_only else len(answer.kvs)
            if held != count:
                raise LoadError(f"a range has {held:,} instead of {count:,} keys")
    return statistics.median(times) * 1e3


def _cold_gets(site: Site) -> float:
    chosen = random.Random(1).sample(range(keys_of(site.sizes)), _GETS)
    _drop_page_cache()
    return _median_ms(site, [rpc.RangeRequest(key=_key(number)) for number in chosen], 1)


def _cold_middles(site: Site) -> float:
    keys = keys_of(site.sizes)
    end = _key(keys)
    first = random.Random(1).sample(range(keys - _MIDDLE_KEYS), _LONG_GETS)
    asked = [rpc.RangeRequest(key=_key(at), range_end=end, limit=_MIDDLE_KEYS) for at in first]
    _drop_page_cache()
    return _median_ms(site, asked, _MIDDLE_KEYS)


def _count(site: Site) -> float:
    asked = [_everything(site)] * _LONG_GETS
    return _median_ms(site, asked, keys_of(site.sizes))


def _seconds(work: Callable[[], object]) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def _compact(site: Site) -> Mapping[str, float]:
    before = status_of(site.member)
    compaction = rpc.CompactionRequest(revision=before.header.revision, physical=True)
    compact = _seconds(lambda: site.call(_COMPACT, compaction, rpc.CompactionResponse))
    defrag = _seconds(
        lambda: site.call(_DEFRAGMENT, rpc.DefragmentRequest(), rpc.DefragmentResponse)
    )
    return {
        "large-compact": compact,
        "large-defrag": defrag,
        "large-freed": (before.dbSize - status_of(site.member).dbSize) / 1e9,
        "large-disk": _on_disk(site.member.data_dir) / 1e9,
    }


def _on_disk(folder: Path) -> int:
    """Bytes that the folder's files take, those with several names once."""
    files = {}
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:  # the member removes files as it likes
            continue
        files[status.st_ino] = status.st_blocks * 512
    return sum(files.values())


def _backup(site: Site) -> Mapping[str, float]:
    assert site.member.process is not None
    took: list[float] = []
    received: list[int] = []

    def save() -> None:
        begin = time.monotonic()
        received.append(_received(site.member))
        took.append(time.monotonic() - begin)

    with _peak(site.member.process.pid) as peak:
        worst = worst_put(site, save, _PACE)
    if received[0] < keys_of(site.sizes) * _VALUE_BYTES:
        raise LoadError(f"a backup of {received[0]:,} bytes")
    return {
        "large-backup": took[0],
        "large-backup-rate": received[0] / 1e6 / took[0],
        "large-backup-memory": max(whole for whole, _ in peak),
        "large-backup-anon": max(anonymous for _, anonymous in peak),
        "large-backup-worst": worst,
    }


def _received(member: Member) -> int:
    """Bytes of a backup, which goes nowhere; it must be complete."""
    size, remaining = 0, -1
    with member.channel() as channel:
        stream = channel.unary_stream(
            _SNAPSHOT,
            request_serializer=rpc.SnapshotRequest.SerializeToString,
            response_deserializer=rpc.SnapshotResponse.FromString,
        )
        for piece in stream(rpc.SnapshotRequest(), timeout=_BACKUP_SECONDS, wait_for_ready=True):
            size += len(piece.blob)
            remaining = piece.remaining_bytes
    if remaining:
        raise LoadError(f"the backup ended {remaining:,} bytes early")
    return size


@contextmanager
def _peak(pid: int) -> Iterator[list[tuple[float, float]]]:
    """Resident memory (MB: all, anonymous) of the process and its children, again and again."""
    samples = [resident(pid)]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            try:
                samples.append(resident(pid))
            except (FileNotFoundError, KeyError, ProcessLookupError):
                continue  # a child ended while it was read

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def _hash(site: Site) -> float:
    return _seconds(lambda: _hashed(site.member, 0))


def _hashed(member: Member, revision: int) -> tuple[int, int, int]:
    answer = call(member, _HASH, rpc.HashKVRequest(revision=revision), rpc.HashKVResponse)
    return answer.hash, answer.compact_revision, answer.hash_revision


def _catch_up(site: Site) -> float:
    """Seconds from a learner's first start; then it is made a voter, and must have the same."""
    took = catch_up(site, _everything(site), keys_of(site.sizes), learner=True)
    fresh = site.members[-1]
    promote(site, fresh)
    revision = status_of(site.member).header.revision
    hashes = [_hashed(member, revision) for member in (site.member, fresh)]
    if hashes[0] != hashes[1]:
        raise LoadError(f"the members' hashes differ: {hashes}")
    return took


GROUPS: tuple[Group, ...] = (
    Group(
        "large",
        _fill,
        (
            Workload(("large-fill", "large-size"), _size),
            one("large-restart", _restart),
            one("large-get", _cold_gets),
            one("large-get-1000", _cold_middles),
            one("large-count", _count),
            Workload(("large-compact", "large-defrag", "large-freed", "large-disk"), _compact),
            Workload(
                (
                    *("large-backup", "large-backup-rate", "large-backup-memory"),
                    *("large-backup-anon", "large-backup-worst"),
                ),
                _backup,
            ),
            one("large-hash", _hash),
            one("large-catch-up", _catch_up),
        ),
        flags=("--quota-backend-bytes", str(64 << 30)),
        rounds=lambda _: 1,
    ),
)
