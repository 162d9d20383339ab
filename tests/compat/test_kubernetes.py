"""What an API server of Kubernetes asks gets the same answers from real etcd and from us."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Answer, WatchStream, comparable, one_line
from tests.compat.kubernetes import (
    COMPACT_KEY,
    HAS_LEADER,
    ApiServer,
    key_of,
    may_request_progress,
    request_progress,
    watch_request,
)
from tests.compat.side_by_side import FAST
from tests.members import Cluster, Member, running, running_cluster, wait_for

SECONDS = 30.0


# Both servers, with the same history


@pytest.fixture(scope="module")
def reference(
    etcd_command: Sequence[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Member]:
    """A real etcd that tells the progress of watches soon."""
    yield from _with_progress(etcd_command, tmp_path_factory.mktemp("etcd"), _ETCD_PROGRESS)


@pytest.fixture(scope="module")
def subject(
    subject_command: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Member]:
    """The server under test, likewise."""
    real = request.config.getoption("--subject") == "etcd"
    flag = _ETCD_PROGRESS if real else "--watch-progress-notify-interval"
    yield from _with_progress(subject_command, tmp_path_factory.mktemp("subject"), flag)


_ETCD_PROGRESS = "--experimental-watch-progress-notify-interval"
"""The name until etcd 3.6."""


def _with_progress(command: Sequence[str], folder: Path, flag: str) -> Iterator[Member]:
    with running(
        command, folder, (f"{flag}=1s", "--grpc-keepalive-min-time=500ms", *FAST)
    ) as member:
        yield member


class Both:
    """An API server at each server; their keyspaces are empty and at the same revision."""

    def __init__(self, reference: ApiServer, subject: ApiServer) -> None:
        """Empties and levels them."""
        self.servers = (reference, subject)
        key = b"level"
        while len({_put(server, key) for server in self.servers}) > 1:
            behind = min(self.servers, key=ApiServer.revision)
            target = max(server.revision() for server in self.servers)
            while _put(behind, key) < target:
                pass
        for server in self.servers:
            everything = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
            assert server.client.call("DeleteRange", everything).code == "OK"

    def same(self, story: Callable[[ApiServer], list[object]]) -> list[object]:
        """Runs a story on both; what it tells must be equal. Returns it."""
        expected, seen = ([_shown(each) for each in story(server)] for server in self.servers)
        assert seen == expected
        return seen


def _put(server: ApiServer, key: bytes) -> int:
    answer = server.client.call("Put", rpc.PutRequest(key=key))
    assert isinstance(answer.response, rpc.PutResponse), answer
    return answer.response.header.revision


def _shown(told: object) -> object:
    """Messages as text, without what may differ."""
    if isinstance(told, Message):
        return one_line(comparable(told))
    if isinstance(told, Answer):
        return str(told)
    if isinstance(told, list | tuple):
        return [_shown(each) for each in told]
    return told


@pytest.fixture
def both(reference: Member, subject: Member) -> Iterator[Both]:
    """An API server at each server."""
    servers = [ApiServer(member) for member in (reference, subject)]
    yield Both(*servers)
    for server in servers:
        server.close()


@pytest.fixture(params=["reference", "subject"], name="server")
def each_server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """Real etcd, which checks the test itself, then the server under test."""
    server = ApiServer(request.getfixturevalue(request.param))
    yield server
    server.close()


def revision_of(answer: Answer) -> int:
    """The revision that a transaction made."""
    assert isinstance(answer.response, rpc.TxnResponse), answer
    assert answer.response.succeeded, answer
    return answer.response.header.revision


# Objects


def test_an_object_is_created_updated_and_deleted_only_as_it_is_known(both: Both) -> None:
    """The optimistic transactions, those that win and those that lose and read."""

    def story(server: ApiServer) -> list[object]:
        told: list[object] = [server.get("pods/default/web")]
        told.append(created := server.create("pods/default/web", b"1"))
        first = revision_of(created)
        told.append(lost := server.create("pods/default/web", b"again"))
        assert isinstance(lost.response, rpc.TxnResponse)
        assert not lost.response.succeeded
        assert not lost.response.responses
        told.append(updated := server.update("pods/default/web", b"2", first))
        second = revision_of(updated)
        told.append(stale := server.update("pods/default/web", b"3", first))
        assert isinstance(stale.response, rpc.TxnResponse)
        assert not stale.response.succeeded
        (found,) = stale.response.responses[0].response_range.kvs
        assert (found.value, found.mod_revision, found.version) == (b"2", second, 2)
        told.append(server.delete("pods/default/web", first))
        told.append(server.get("pods/default/web"))
        told.append(server.delete("pods/default/web", second))
        told.append(server.delete("pods/default/web", second))
        told.append(server.update("pods/default/web", b"4", second))
        told.append(server.get("pods/default/web", serializable=True))
        told.append(server.create("pods/default/web", b"5"))
        told.append(server.get("pods/default/web"))
        return told

    both.same(story)


def test_of_many_writers_of_one_object_each_revision_has_one_winner(server: ApiServer) -> None:
    """No lost update, when all retry with what the failed transaction read."""
    path, writers, rounds = "configmaps/default/counter", 8, 12
    server.delete(path, _mod_revision(server, path))
    server.create(path, b"0")
    failed: list[BaseException] = []

    def count() -> None:
        try:
            found = server.get(path).response
            assert isinstance(found, rpc.RangeResponse)
            (known,) = found.kvs
            for _ in range(rounds):
                while True:
                    value = str(int(known.value) + 1).encode()
                    response = server.update(path, value, known.mod_revision).response
                    assert isinstance(response, rpc.TxnResponse)
                    if response.succeeded:
                        known.value = value
                        known.mod_revision = response.header.revision
                        break
                    (known,) = response.responses[0].response_range.kvs
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=count) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not failed, failed[0]
    found = server.get(path).response
    assert isinstance(found, rpc.RangeResponse)
    assert found.kvs[0].value == str(writers * rounds).encode()
    assert found.kvs[0].version == 1 + writers * rounds


def _mod_revision(server: ApiServer, path: str) -> int:
    found = server.get(path).response
    assert isinstance(found, rpc.RangeResponse)
    return found.kvs[0].mod_revision if found.kvs else 0


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (1024 * 1024, "OK"),
        (1536 * 1024 - 512, "OK"),
        (1536 * 1024, "INVALID_ARGUMENT"),
        (2 * 1024 * 1024 - 1024, "INVALID_ARGUMENT"),
        (2 * 1024 * 1024, "RESOURCE_EXHAUSTED"),
    ],
)
def test_an_object_that_is_too_big_is_refused_in_the_words_that_are_looked_for(
    both: Both, size: int, code: str
) -> None:
    """1.5 MiB a request, 512 KiB more before it is not even read."""

    def story(server: ApiServer) -> list[object]:
        answer = server.create("secrets/default/big", b"x" * size)
        assert answer.code == code
        if code == "INVALID_ARGUMENT":
            assert answer.details == "etcdserver: request is too large"
        told: list[object] = [answer.code]
        if code != "RESOURCE_EXHAUSTED":
            told.append(answer)  # of the other, the text differs from library to library
        told.append(server.range("secrets/", count_only=True))
        return told

    both.same(story)


# Lists


def test_a_list_in_pages_is_of_one_revision_whatever_is_written_meanwhile(both: Both) -> None:
    """Limit, continue key, remaining count; a page's own header shows the newest revision."""

    def story(server: ApiServer) -> list[object]:
        for number in range(23):
            server.create(f"pods/default/p{number:02}", b"%d" % number)
        server.create("podtemplates/default/other", b"")
        told: list[object] = []
        keys: list[bytes] = []
        pages = server.pages("pods/", 5)
        for number, page in enumerate(pages):
            keys += [pair.key for pair in page.kvs]
            told += [page.kvs, page.revision, page.following, page.remaining]
            server.create(f"pods/default/p{number:02}-late", b"late")
            path = f"pods/default/p{22 - number:02}"
            server.delete(path, _mod_revision(server, path))
        assert keys == [key_of(f"pods/default/p{number:02}") for number in range(23)]
        told.append(server.range("pods/", limit=1))
        told.append(server.page("pods/", 500, key_of("pods/default/p20\0"))[0])
        told.append(server.range("nothing/", limit=500))
        return told

    both.same(story)


def test_a_page_whose_revision_is_compacted_or_to_come_is_refused_so(both: Both) -> None:
    """The errors that become "410 Gone" and "Too large resource version"."""

    def story(server: ApiServer) -> list[object]:
        for number in range(4):
            server.create(f"pods/default/p{number}", b"")
        _, page = server.page("pods/", 2)
        assert page is not None
        server.create("pods/default/p5", b"")
        newest = server.revision()
        told: list[object] = [server.compact(newest)]
        gone, _ = server.page("pods/", 2, page.following, page.revision)
        assert (gone.code, gone.details) == (
            "OUT_OF_RANGE",
            "etcdserver: mvcc: required revision has been compacted",
        )
        early, _ = server.page("pods/", 2, b"", newest + 10)
        assert (early.code, early.details) == (
            "OUT_OF_RANGE",
            "etcdserver: mvcc: required revision is a future revision",
        )
        told += [gone, early, server.page("pods/", 2, b"", newest)[0]]
        return told

    both.same(story)


def test_objects_are_counted_by_count_and_by_keys(both: Both) -> None:
    """`count_only`, and from 1.34 on keys without values, also in pages."""

    def story(server: ApiServer) -> list[object]:
        for number in range(7):
            server.create(f"secrets/ns{number % 2}/s{number}", b"secret" * 100)
        told: list[object] = [server.range("secrets/", count_only=True)]
        told.append(keys := server.range("secrets/", keys_only=True))
        assert isinstance(keys.response, rpc.RangeResponse)
        assert not any(pair.value for pair in keys.response.kvs)
        told.append(server.range("secrets/", keys_only=True, limit=3))
        told.append(server.range("secrets/ns1/", count_only=True, limit=1))
        told.append(server.range("secrets/", count_only=True, revision=server.revision() - 3))
        told.append(server.range("configmaps/", count_only=True))
        return told

    both.same(story)


# Watches


def test_one_stream_has_the_watches_of_many_kinds(both: Both) -> None:
    """Each from its list's revision on, with what was before; deletes too."""
    kinds = ("pods", "services", "configmaps", "leases", "apps/deployments", "nodes")

    def story(server: ApiServer) -> list[object]:
        for kind in kinds:
            server.create(f"{kind}/default/old", b"old")
        listed = {kind: server.range(f"{kind}/", limit=500) for kind in kinds}
        told: list[object] = list(listed.values())
        server.create("pods/default/between", b"between list and watch")
        stream = server.watches()
        for kind in kinds:
            response = listed[kind].response
            assert isinstance(response, rpc.RangeResponse)
            stream.send(watch_request(f"{kind}/", response.header.revision))
        told.append(stream.await_controls(0, len(kinds)))
        for kind in kinds:
            revision = revision_of(server.create(f"{kind}/default/new", kind.encode()))
            revision = revision_of(server.update(f"{kind}/default/new", b"2", revision))
            server.delete(f"{kind}/default/new", revision)
            server.update(
                f"{kind}/default/old", b"newer", _mod_revision(server, f"{kind}/default/old")
            )
        for watch_id, kind in enumerate(kinds):
            wanted = 5 if kind == "pods" else 4
            events = stream.await_events(watch_id, wanted)
            assert len(events) == wanted
            assert events[-2].prev_kv.value == b"2"
            told.append(events)
        assert not stream.faults
        stream.close()
        return told

    both.same(story)


def test_a_watch_from_a_compacted_revision_says_so(both: Both) -> None:
    """So the API server lists again."""

    def story(server: ApiServer) -> list[object]:
        for number in range(5):
            server.create(f"pods/default/p{number}", b"")
        newest = server.revision()
        assert server.compact(newest).code == "OK"
        stream = server.watches()
        stream.send(watch_request("pods/", newest - 3))
        told: list[object] = [*stream.await_controls(0, 2)]
        assert len(told) == 2
        assert isinstance(canceled := told[1], rpc.WatchResponse)
        assert (canceled.canceled, canceled.compact_revision) == (True, newest)
        stream.send(watch_request("pods/", newest))
        told += stream.await_controls(2, 1)
        server.create("pods/default/p9", b"")
        told.append(stream.await_events(1, 1))
        stream.close()
        return told

    both.same(story)


def test_a_watch_from_a_revision_to_come_begins_there(both: Both) -> None:
    """A resourceVersion from another, faster member."""

    def story(server: ApiServer) -> list[object]:
        stream = server.watches()
        newest = server.revision()
        stream.send(watch_request("pods/", newest + 2))
        told: list[object] = [*stream.await_controls(0, 1)]
        for number in range(4):
            server.create(f"pods/default/p{number}", b"")
        events = stream.await_events(0, 2)
        assert [event.kv.mod_revision for event in events] == [newest + 3, newest + 4]
        told.append(events)
        stream.close()
        return told

    both.same(story)


def test_a_progress_request_tells_of_writes_elsewhere(server: ApiServer) -> None:
    """The consistent read from cache: ask for the newest revision, then for progress until there.

    The answer is about no watch (its id is -1) and never ahead of the events that were sent.
    """
    stream = server.watches()
    kinds = ("pods", "services", "configmaps")
    newest = server.revision()
    for kind in kinds:
        stream.send(watch_request(f"{kind}/", newest))
    assert len(stream.await_controls(0, len(kinds))) == len(kinds)
    for number in range(20):
        path = f"pods/progress/p{newest}-{number}"
        server.create(path if number % 3 else path.replace("pods", "leases"), b"")
        newest = server.revision()
        assert _read_up_to(stream, newest)
        assert not stream.faults
        seen = [event.kv.mod_revision for event in stream.events[0]]
        assert len(seen) == sum(1 for each in range(number + 1) if each % 3)
        assert stream.progress[-1].watch_id == -1
        assert stream.progress[-1].header.revision >= newest
    stream.close()


def _read_up_to(stream: WatchStream, revision: int, seconds: float = SECONDS) -> bool:
    """Asks every 0.1 s, as the API server does, until the stream is at `revision`."""
    deadline = time.monotonic() + seconds

    def there() -> bool:
        last = stream.progress[-1].header.revision if stream.progress else 0
        return last >= revision

    while time.monotonic() < deadline:
        request_progress(stream)
        if stream.wait(there, 0.1):
            return True
    return False


def test_a_silent_watch_is_told_its_progress_from_time_to_time(both: Both) -> None:
    """--watch-progress-notify-interval: kubeadm and others set it to seconds."""

    def story(server: ApiServer) -> list[object]:
        stream = server.watches()
        stream.send(watch_request("pods/", server.revision()))
        assert stream.await_controls(0, 1)
        server.create("leases/kube-system/one", b"")
        newest = server.revision()
        assert stream.wait(
            lambda: any(each.header.revision == newest for each in stream.progress), SECONDS
        )
        told: list[object] = [stream.progress[-1]]
        stream.close()
        return told

    both.same(story)


# Events' leases, compaction, state


def test_events_of_an_hour_share_a_lease_and_go_with_it(both: Both) -> None:
    """Thousands of objects, one lease; when it ends they go in one revision, and watches hear."""

    def story(server: ApiServer) -> list[object]:
        lease = server.grant(3600 + 60)
        waiting = [
            server.begin_create(f"events/default/e{number:03}", b"happened", lease)
            for number in range(300)
        ]
        revisions = [revision_of(answer()) for answer in waiting]
        assert len(set(revisions)) == 300
        listed = server.range("events/", limit=500).response
        assert isinstance(listed, rpc.RangeResponse)
        assert {pair.lease for pair in listed.kvs} == {lease}
        # An update of an event gets a new lease.
        other = server.grant(3660)
        moved = revision_of(
            server.update("events/default/e000", b"again", listed.kvs[0].mod_revision, other)
        )
        left = server.client.call(
            "LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=lease, keys=True)
        )
        assert isinstance(left.response, rpc.LeaseTimeToLiveResponse)
        told: list[object] = [left.response.grantedTTL, sorted(left.response.keys)]
        stream = server.watches()
        stream.send(watch_request("events/", server.revision()))
        assert stream.await_controls(0, 1)
        revoked = server.client.call("LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
        told.append(revoked)
        events = stream.await_events(0, 299)
        assert len(events) == 299
        assert len({event.kv.mod_revision for event in events}) == 1
        assert sorted(event.kv.key for event in events) == sorted(
            key_of(f"events/default/e{number:03}") for number in range(1, 300)
        )
        told.append(server.range("events/", keys_only=True).code)
        server.delete("events/default/e000", moved)
        stream.close()
        return told

    both.same(story)


def test_one_of_two_api_servers_compacts(both: Both, reference: Member, subject: Member) -> None:
    """The version of compact_rev_key is the number of the turn; from 1.34 on it is watched."""
    others = {
        id(server): ApiServer(member)
        for server, member in zip(both.servers, (reference, subject), strict=True)
    }

    def story(server: ApiServer) -> list[object]:
        other = others[id(server)]
        stream = server.watches()
        stream.send(watch_request(COMPACT_KEY, server.revision(), single=True))
        told: list[object] = [*stream.await_controls(0, 1)]
        turn, to_compact = 0, 0
        for number in range(3):
            for each in range(5):
                server.create(f"pods/default/p{number}{each}", b"")
            told.append(won := server.claim_compaction(turn, to_compact))
            told.append(lost := other.claim_compaction(turn, to_compact))
            revision = revision_of(won)
            assert isinstance(lost.response, rpc.TxnResponse)
            assert not lost.response.succeeded
            (found,) = lost.response.responses[0].response_range.kvs
            assert found.version == turn + 1
            if to_compact:
                told.append(server.compact(to_compact))
                told.append(other.compact(to_compact))
                told.append(server.range("pods/", revision=to_compact - 1))
                told.append(server.range("pods/", revision=to_compact, limit=1))
            turn, to_compact = found.version, revision
        told.append(stream.await_events(0, 3))
        assert [event.kv.version for event in stream.events[0]] == [1, 2, 3]
        stream.close()
        return told

    both.same(story)
    for other in others.values():
        other.close()


def test_the_health_probe_reads_what_need_not_exist(both: Both) -> None:
    """A linearizable read of one key: an answer is what counts."""

    def story(server: ApiServer) -> list[object]:
        answer = server.get("health")
        assert answer.code == "OK"
        return [answer, server.get("health")]

    both.same(story)


def test_the_version_lets_api_servers_request_progress(server: ApiServer) -> None:
    """Without it they would read every consistent list from the member; the size is polled too."""
    before = server.status()
    assert may_request_progress(before.version)
    assert not may_request_progress("3.5.12")
    assert not may_request_progress("3.4.30")
    assert may_request_progress("3.6.0")
    assert 0 < before.dbSizeInUse <= before.dbSize
    for number in range(16):
        assert (
            server.create(
                f"configmaps/size/{before.header.revision}-{number}",
                random.Random(number).randbytes(500_000),
            ).code
            == "OK"
        )
    wait_for(
        lambda: server.status().dbSizeInUse >= before.dbSizeInUse + 6_000_000, SECONDS, "the size"
    )


def test_a_connection_that_is_only_pinged_stays(reference: Member, subject: Member) -> None:
    """Pings more than the least time apart are no flood, and the watch lasts."""
    options = [
        ("grpc.keepalive_time_ms", 1_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    with ExitStack() as stack:
        watching: list[tuple[ApiServer, WatchStream]] = []
        for member in (reference, subject):
            channel = stack.enter_context(grpc.insecure_channel(member.target, options))
            stream = WatchStream(channel, metadata=HAS_LEADER)
            stack.callback(stream.close)
            server = ApiServer(member)
            stack.callback(server.close)
            stream.send(watch_request("pings/", server.revision()))
            assert stream.await_controls(0, 1)
            watching.append((server, stream))
        begin = time.monotonic()
        wait_for(lambda: time.monotonic() - begin > 3.5, SECONDS, "three pings")
        for server, stream in watching:
            assert server.create(f"pings/{server.revision()}", b"").code == "OK"
            assert len(stream.await_events(0, 1)) == 1
            assert not stream.faults


# Three members


@pytest.fixture(params=["etcd", "subject"], name="cluster")
def each_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """Three members of real etcd, then of the server under test."""
    command = request.getfixturevalue(f"{request.param}_command")
    with running_cluster(command, tmp_path, flags=FAST) as cluster:
        yield cluster


def test_api_servers_at_followers_read_consistently_from_their_caches(cluster: Cluster) -> None:
    """Each API server has a member of its own, which may lag: what progress says was sent, was."""
    with ExitStack() as stack:
        servers = [ApiServer(member) for member in cluster.members]
        streams = [server.watches() for server in servers]
        for server, stream in zip(servers, streams, strict=True):
            stack.callback(server.close)
            stack.callback(stream.close)
            assert may_request_progress(server.status().version)
            stream.send(watch_request("pods/", 0))
            stream.send(watch_request("leases/", 0))
            assert len(stream.await_controls(0, 2)) == 2
        created: list[int] = []
        for number in range(30):
            writer, reader, cache = (servers[(number + each) % 3] for each in range(3))
            stream = streams[servers.index(cache)]
            kind = "pods" if number % 3 else "leases"
            created.append(revision_of(writer.create(f"{kind}/default/o{number}", b"1")))
            newest = reader.revision()
            assert newest >= created[-1]
            assert _read_up_to(stream, newest)
            seen = sorted(event.kv.mod_revision for each in (0, 1) for event in stream.events[each])
            assert seen == created
            assert not stream.faults
        # The leader goes; who watches at a follower misses nothing.
        leader = cluster.leader()
        survivors = [each for each in range(3) if cluster.members[each] is not leader]
        leader.kill()
        writer, reader = (servers[each] for each in survivors)
        wait_for(lambda: writer.get("health").code == "OK", SECONDS, "a new leader")
        created.append(revision_of(writer.create("pods/default/last", b"1")))
        newest = reader.revision()
        for each in survivors:
            stream = streams[each]
            if stream.faults:  # a client goes on after what it has
                stream = servers[each].watches()
                stack.callback(stream.close)
                stream.send(watch_request("pods/", created[-1] - 1))
                assert stream.await_controls(0, 1)
            assert _read_up_to(stream, newest)
            assert stream.events[0][-1].kv.mod_revision == created[-1]


# Size


@dataclass(frozen=True, slots=True)
class Change:
    """What one write made."""

    revision: int
    key: bytes
    value: bytes | None
    before: bytes | None


KINDS = ("pods", "services", "configmaps", "secrets", "leases", "nodes", "apps/replicasets")
WINDOW = 64
"""Requests that an API server has under way."""


def test_thousands_of_objects_and_their_watchers(
    server: ApiServer, request: pytest.FixtureRequest
) -> None:
    """Creates, updates, deletes, pages, counts and compactions; every watcher hears all of it.

    `--objects 20000` has 200 watchers; the times are printed.
    """
    objects: int = request.config.getoption("--objects")
    watchers = min(200, objects // 40)
    rng = random.Random(objects)
    namespaces = watchers // len(KINDS)
    prefixes: list[str] = [
        f"{kind}/ns{number:02}/" for kind in KINDS for number in range(namespaces)
    ]
    prefixes += [f"{KINDS[number % len(KINDS)]}/" for number in range(watchers - len(prefixes))]
    everything = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
    assert server.client.call("DeleteRange", everything).code == "OK"
    times: dict[str, float] = {}
    begin = time.monotonic()

    def took(what: str) -> None:
        nonlocal begin
        times[what] = round(time.monotonic() - begin, 2)
        begin = time.monotonic()

    start = server.revision()
    streams = [server.watches() for _ in range(min(10, watchers))]
    watched: list[tuple[bytes, WatchStream, int]] = []
    for number, prefix in enumerate(prefixes):
        stream = streams[number % len(streams)]
        stream.send(watch_request(prefix, start))
        watched.append((key_of(prefix), stream, number // len(streams)))
    for number, stream in enumerate(streams):
        wanted = len(prefixes[number :: len(streams)])
        assert len(stream.await_controls(0, wanted)) == wanted
    took("watches created")

    paths = [
        f"{rng.choice(KINDS)}/ns{rng.randrange(namespaces):02}/o{number:05}"
        for number in range(objects)
    ]
    state: dict[bytes, tuple[int, bytes]] = {}
    changes: list[Change] = []

    def note(path: str, value: bytes | None, answer: Answer) -> None:
        key, revision = key_of(path), revision_of(answer)
        before = state.pop(key, (0, None))[1]
        if value is not None:
            state[key] = (revision, value)
        changes.append(Change(revision, key, value, before))

    writer = _Window(note)
    for path in paths:
        value = rng.randbytes(rng.randrange(200, 2000))
        writer.send(path, value, server.begin_create(path, value))
    writer.settle()
    took("created")

    # A list in pages, while a third is updated.
    listing = server.pages("", 500)
    listed = list(next(listing).kvs)
    expected = sorted(state)
    for path in rng.sample(paths, objects // 3):
        value = rng.randbytes(400)
        writer.send(path, value, server.begin_update(path, value, state[key_of(path)][0]))
    writer.settle()
    took("updated")
    for page in listing:
        listed += page.kvs
    assert [pair.key for pair in listed] == expected
    assert max(pair.mod_revision for pair in listed) <= start + objects
    took("listed in pages")

    # Who reads an event only after a compaction may not be told what was before it.
    for stream in streams:
        assert _read_up_to(stream, changes[-1].revision)
    took("read")
    revision_of(server.claim_compaction(0, changes[-1].revision))
    assert server.compact(changes[-1].revision).code == "OK"
    for path in rng.sample(paths, objects // 5):
        writer.send(path, None, server.begin_delete(path, state[key_of(path)][0]))
    writer.settle()
    took("compacted and deleted")

    for kind in KINDS:
        counted = server.range(f"{kind}/", count_only=True).response
        keys = server.range(f"{kind}/", keys_only=True).response
        assert isinstance(counted, rpc.RangeResponse)
        assert isinstance(keys, rpc.RangeResponse)
        expected = sorted(key for key in state if key.startswith(key_of(kind) + b"/"))
        assert [pair.key for pair in keys.kvs] == expected
        assert counted.count == len(expected)
    took("counted")
    left = [pair for page in server.pages("", 500) for pair in page.kvs]
    assert {pair.key: (pair.mod_revision, pair.value) for pair in left} == state

    newest = server.revision()
    for stream in streams:
        assert _read_up_to(stream, newest)
        assert not stream.faults
    took("progress")
    changes.sort(key=lambda change: change.revision)
    for start_of_key, stream, watch_id in watched:
        wanted_events = [
            (change.revision, change.key, change.value, change.before)
            for change in changes
            if change.key.startswith(start_of_key)
        ]
        assert list(map(_seen, stream.events[watch_id])) == wanted_events
    for stream in streams:
        stream.close()
    print(objects, "objects,", watchers, "watchers; seconds:", times)


def _seen(event: kv.Event) -> tuple[int, bytes, bytes | None, bytes | None]:
    deleted = event.type == kv.Event.DELETE
    before = event.prev_kv.value if event.HasField("prev_kv") else None
    return event.kv.mod_revision, event.kv.key, None if deleted else event.kv.value, before


class _Window:
    """Waits for the oldest of the requests under way when there are `WINDOW`."""

    def __init__(self, done: Callable[[str, bytes | None, Answer], None]) -> None:
        self._done = done
        self._waiting: deque[tuple[str, bytes | None, Callable[[], Answer]]] = deque()

    def send(self, path: str, value: bytes | None, answer: Callable[[], Answer]) -> None:
        """One more is under way."""
        self._waiting.append((path, value, answer))
        if len(self._waiting) >= WINDOW:
            self._take()

    def settle(self) -> None:
        """Waits for all."""
        while self._waiting:
            self._take()

    def _take(self) -> None:
        path, value, answer = self._waiting.popleft()
        self._done(path, value, answer())
