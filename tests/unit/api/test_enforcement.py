"""What services answer to whom while auth is on: reads, watches and leases."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from rusd.api import errors
from rusd.api.answers import Headers
from rusd.api.identities import Identities
from rusd.api.kv import KV
from rusd.api.lease import LeaseService
from rusd.api.slow import SlowReads
from rusd.api.watch import Watch
from rusd.auth.store import Identity
from rusd.auth.tokens import Login, NoTokens, SimpleTokens, digest
from rusd.mvcc.watch import Watchers
from rusd.node import rights
from rusd.node.compactor import Compactor
from rusd.node.entry import Kind
from rusd.node.leases import Leases
from rusd.node.renewals import Renewals
from rusd.pb.rpc_pb2 import (
    AuthUserRevokeRoleRequest,
    Compare,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)
from rusd.wire.grpc import Status
from rusd.wire.service import Call, RequestHead, StreamHandler
from tests.unit.api.fakes import RecordedStream
from tests.unit.node.running import SECONDS, Running, running, until
from tests.unit.node.users import BOTH, READ, RIGHTS, WRITE, Calling, Users

EVERYBODY = (None, *RIGHTS, "root")
READERS = {"reader", "both", "root"}
FREE, OF_A, OF_Z = 1, 2, 3
"""Leases: without keys, with the key a, with the key z."""


class Client(RecordedStream):
    """A stream of a user, who is so by certificate, or by token."""

    def __init__(self, user: str | None, token: bytes | None = None) -> None:
        super().__init__()
        self.head = RequestHead(b"", {} if token is None else {b"token": token})
        self.connection = Connection(user, None)
        self.handler: StreamHandler | None = None

    def responses(self) -> list[WatchResponse]:
        found = [WatchResponse.FromString(message) for message in self.sent]
        self.sent.clear()
        return found


class Connection(Calling):
    """A connection of a user, who is so by certificate, or by token."""

    def __init__(
        self, user: str | None, identity: Identity | None, token: bytes | None = None
    ) -> None:
        super().__init__(identity)
        self.common_name = user
        self._head = RequestHead(b"", {} if token is None else {b"token": token})

    def call(self, message: bytes) -> Call:
        self.answers.clear()
        return cast(Call, (self, 1, self._head, message))


class Fixed(NoTokens):
    """Tokens that stand for one identity for ever, as a JSON web token does."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def resolve(self, _: str) -> Identity:
        return self._identity


class Scene:
    """A member with users, a key a and a key z, and its services."""

    def __init__(self, member: Running) -> None:
        self.member, self.users = member, Users(member)
        identities = Identities(member.applier, member.pipeline.replica)
        headers: Headers = member.headers
        compactor = Compactor(member.keyspace, 0.05, member.log, member.failures.append, 20)
        slow = SlowReads(10, member.log)
        self.kv = KV(
            member.pipeline, member.reads, compactor, headers, slow, 1 << 20, 128, identities
        )
        watchers = Watchers(member.keyspace)
        member.pipeline.after_apply.append(watchers.notify)
        self.watches = Watch(member.keyspace, watchers, headers, 1 << 20, 1000, identities)
        leases = Leases(member.pipeline, member.lessor, 1.0)
        renewals = Renewals(member.pipeline, member.reads, member.peers, member.lessor, leases)
        self.leases = LeaseService(
            member.pipeline, member.reads, renewals, member.lessor, leases, headers, 1, identities
        )

    async def set_up(self) -> None:
        for lease in (FREE, OF_A, OF_Z):
            await self.member.propose(Kind.LEASE_GRANT, LeaseGrantRequest(ID=lease, TTL=1000))
        await self.put(b"a", OF_A)
        await self.put(b"z", OF_Z)
        await self.users.set_up()

    async def put(self, key: bytes, lease: int = 0) -> None:
        request = PutRequest(key=key, value=b"secret", lease=lease)
        answer = await self.users.ask("root", Kind.PUT, request)
        assert isinstance(answer, bytes)

    async def ask(
        self, method: Callable[[list[Call]], None], user: str | None, request: Any
    ) -> bytes | Status:
        """The answer to a unary call."""
        caller = Connection(user, self.users.identity(user))
        method([caller.call(request.SerializeToString())])
        return await caller.answer()

    def watch(self, client: Client, **create: Any) -> WatchResponse:
        """Creates a watcher; the answer to that."""
        if client.handler is None:
            (method,) = self.watches.methods()
            client.handler = method.open(client.stream)
        request = WatchRequest(create_request=WatchCreateRequest(**create))
        client.handler.message(request.SerializeToString())
        (response,) = client.responses()
        return response

    def keep_alive(self, client: Client, lease: int) -> list[int | Status | None]:
        """TTLs that were answered to it, or how the stream ended."""
        if client.handler is None:
            client.handler = self.leases.open_keep_alive(client.stream)
        client.handler.message(LeaseKeepAliveRequest(ID=lease).SerializeToString())
        ttls = [LeaseKeepAliveResponse.FromString(message).TTL for message in client.sent]
        client.sent.clear()
        return [*ttls, *client.ended]


def play(directory: Path, test: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def scene() -> None:
        async with running(directory) as member:
            played = Scene(member)
            await played.set_up()
            await test(played)
            assert not member.failures

    asyncio.run(asyncio.wait_for(scene(), SECONDS))


def refused(user: str | None, may: set[str]) -> Status | None:
    if user is None:
        return errors.USER_EMPTY
    return None if user in may else errors.PERMISSION_DENIED


def reason(status: Status) -> str:
    code = {
        errors.USER_EMPTY: "InvalidArgument",
        errors.PERMISSION_DENIED: "PermissionDenied",
        errors.INVALID_AUTH_TOKEN: "Unauthenticated",
    }[status]
    return f"rpc error: code = {code} desc = {status.message}"


RANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "a key": ({"key": b"a"}, READERS),
    "a key, serializable": ({"key": b"a", "serializable": True}, READERS),
    "a key of another": ({"key": b"z"}, {"root"}),
    "the next key": ({"key": b"a\0"}, {"root"}),
    "of another, serializable": ({"key": b"z", "serializable": True}, {"root"}),
    "a long key": ({"key": b"p" * 200}, READERS),
    "a range": ({"key": b"p", "range_end": b"q"}, READERS),
    "within a range": ({"key": b"p1", "range_end": b"p2", "limit": 1}, READERS),
    "beyond a range": ({"key": b"p", "range_end": b"q\0"}, {"root"}),
    "from a key on": ({"key": b"a", "range_end": b"\0"}, {"root"}),
    "everything": ({"key": b"\0", "range_end": b"\0"}, {"root"}),
    "how many": ({"key": b"a", "range_end": b"\0", "count_only": True}, {"root"}),
    "a key without keys": ({"key": b"a", "range_end": b"a"}, READERS),
    "backwards": ({"key": b"b", "range_end": b"a"}, {"root"}),
    "in the past": ({"key": b"z", "revision": 2}, {"root"}),
    "in the future": ({"key": b"z", "revision": 1 << 40}, set()),
}


@pytest.mark.parametrize("name", RANGES)
def test_who_may_read_what(tmp_path: Path, name: str) -> None:
    """By a Range, a RangeStream, and a transaction that only reads."""
    fields, may = RANGES[name]
    request = RangeRequest(**fields)
    txns = [
        TxnRequest(failure=[RequestOp(request_range=request)]),
        TxnRequest(success=[RequestOp(request_range=request)]),
    ]

    async def test(scene: Scene) -> None:
        for user in EVERYBODY:
            expected = refused(user, may)
            if user == "root" and not may:
                expected = errors.FUTURE_REV
            found = [await scene.ask(scene.kv.range, user, request)]
            client = Client(user)
            stream = scene.kv._open_range_stream(client.stream)
            stream.message(request.SerializeToString())
            await until(lambda client=client: client.ended, "it ends")
            found.append(client.ended[0] or b"")
            assert client.ended[0] is None or not client.sent
            found += [await scene.ask(scene.kv.txn, user, each) for each in txns]
            assert [each if isinstance(each, Status) else None for each in found] == (
                # Of the branch that is not taken, the revision does not count.
                [
                    expected,
                    expected,
                    None if may == set() and user == "root" else expected,
                    expected,
                ]
            ), user

    play(tmp_path, test)


def test_calls_that_come_together_are_each_answered_for_who_asks(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        callers = [Connection(user, scene.users.identity(user)) for user in EVERYBODY]
        message = RangeRequest(key=b"a").SerializeToString()
        for _ in range(2):  # what one may read is known the second time, and what another may not
            scene.kv.range([caller.call(message) for caller in callers])
        for user, caller in zip(EVERYBODY, callers, strict=True):
            answer = await caller.answer()
            if user in READERS:
                assert isinstance(answer, bytes)
                assert RangeResponse.FromString(answer).kvs[0].value == b"secret"
            else:
                assert answer == refused(user, READERS)

    play(tmp_path, test)


def test_what_is_wrong_with_a_request_is_told_first(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        assert await scene.ask(scene.kv.range, None, RangeRequest()) == errors.EMPTY_KEY
        assert await scene.ask(scene.kv.put, None, PutRequest()) == errors.EMPTY_KEY
        caller = Connection(None, None)
        scene.kv.range([caller.call(b"\xff")])
        assert await caller.answer() == errors.MALFORMED

    play(tmp_path, test)


def test_a_transaction_that_asks_for_nothing_is_for_everybody(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        assert isinstance(await scene.ask(scene.kv.txn, None, TxnRequest()), bytes)
        compare = Compare(key=b"z", target=Compare.VERSION, result=Compare.GREATER)
        guess = TxnRequest(compare=[compare])
        assert await scene.ask(scene.kv.txn, None, guess) == errors.USER_EMPTY
        assert await scene.ask(scene.kv.txn, "both", guess) == errors.PERMISSION_DENIED

    play(tmp_path, test)


def test_a_read_is_judged_when_it_is_answered(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        request = RangeRequest(key=b"a")
        assert isinstance(await scene.ask(scene.kv.range, "both", request), bytes)
        tokens = Fixed(scene.users.store.identity("both"))
        scene.member.applier.authority.tokens = tokens
        caller = Connection(None, None, b"token")
        scene.kv.range([caller.call(request.SerializeToString())])
        assert isinstance(await caller.answer(), bytes)
        await scene.users.revoke("both", b"a")
        caller = Connection(None, None, b"token")
        scene.kv.range([caller.call(request.SerializeToString())])
        assert await caller.answer() == errors.AUTH_OLD_REVISION
        assert await scene.ask(scene.kv.range, "both", request) == errors.PERMISSION_DENIED

    play(tmp_path, test)


WATCHES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "a key": ({"key": b"a"}, READERS),
    "a key, from its id": ({"key": b"a", "watch_id": 7}, READERS),
    "a key of another": ({"key": b"z", "watch_id": 7}, {"root"}),
    "a range": ({"key": b"p", "range_end": b"q"}, READERS),
    "beyond a range": ({"key": b"p", "range_end": b"r"}, {"root"}),
    # GHSA-xg4h-6gfc-h4m8: with a right to one key, etcd up to 3.5.32 let one watch all after it.
    "from a key on": ({"key": b"a", "range_end": b"\0"}, {"root"}),
    "everything": ({"key": b"\0", "range_end": b"\0"}, {"root"}),
    "no key": ({}, {"root"}),
}


@pytest.mark.parametrize("name", WATCHES)
def test_who_may_watch_what(tmp_path: Path, name: str) -> None:
    fields, may = WATCHES[name]

    async def test(scene: Scene) -> None:
        for user in EVERYBODY:
            client = Client(user)
            response = scene.watch(client, **fields)
            status = refused(user, may)
            assert response.created
            if status is None:
                assert (response.canceled, response.watch_id) == (False, fields.get("watch_id", 0))
            else:
                assert (response.canceled, response.watch_id) == (True, -1)
                assert response.cancel_reason == reason(status)
            assert not client.ended, "the stream goes on"
            scene.watches.stop()

    play(tmp_path, test)


def test_a_watch_with_a_bad_token_is_refused_and_what_no_right_would_help_is_told_first(
    tmp_path: Path,
) -> None:
    async def test(scene: Scene) -> None:
        client = Client("root", b"no token")
        assert scene.watch(client, key=b"a").cancel_reason == reason(errors.INVALID_AUTH_TOKEN)
        response = scene.watch(client, key=b"a", start_revision=-1)
        assert response.cancel_reason == errors.COMPACTED.message
        response = scene.watch(Client("reader"), key=b"a", range_end=b"a")
        assert response.cancel_reason == "mvcc: watcher range is empty"
        assert client.handler is not None
        client.handler.message(
            WatchRequest(progress_request=WatchProgressRequest()).SerializeToString()
        )
        assert not client.sent, "who is nobody is told of no progress"

    play(tmp_path, test)


def test_a_watcher_ends_with_the_right_to_its_range_and_others_go_on(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        both, reader, root = Client("both"), Client("reader"), Client("root")
        scene.watch(both, key=b"p", range_end=b"q", watch_id=5)
        scene.watch(both, key=b"a", watch_id=6)
        scene.watch(reader, key=b"a")
        scene.watch(root, key=b"a", range_end=b"\0")
        await scene.users.grant("reader", WRITE, b"x")  # nothing that matters
        assert not any(client.sent for client in (both, reader, root))
        await scene.users.revoke("both", b"a")
        (ended,) = both.responses()
        assert (ended.watch_id, ended.canceled, ended.created) == (6, True, False)
        assert ended.cancel_reason == reason(errors.PERMISSION_DENIED)
        await scene.put(b"a")
        await scene.put(b"p")
        await until(lambda: len(root.sent) == 2, "root sees both")
        assert [event.kv.key for each in reader.responses() for event in each.events] == [b"a"]
        seen = both.responses()
        assert [event.kv.key for each in seen for event in each.events] == [b"p"]
        # A right that is narrower, and one that is for writing alone, are none.
        await scene.users.grant("both", READ, b"p", b"p9")
        await scene.users.revoke("both", b"p", b"q")
        assert [each.watch_id for each in both.responses()] == [5]
        await scene.users.grant("reader", WRITE, b"a")
        assert [each.canceled for each in reader.responses()] == [True]
        assert not both.ended
        await scene.users.grant("both", BOTH, b"a")
        assert not scene.watch(both, key=b"a", watch_id=6).canceled, "the id is free"

    play(tmp_path, test)


def test_nothing_is_seen_of_what_is_written_after_a_right_has_gone(tmp_path: Path) -> None:
    """Not even when both come with one entry."""

    async def test(scene: Scene) -> None:
        client = Client("both")
        scene.watch(client, key=b"a")
        users, root = scene.users, scene.users.identity("root")
        request = AuthUserRevokeRoleRequest(name="both", role="both")
        callers = [
            users.propose(root, Kind.PUT, PutRequest(key=b"a")),
            users.propose(root, Kind.USER_REVOKE_ROLE, request),
        ]
        for caller in callers:
            assert isinstance(await caller.answer(), bytes)
        await scene.put(b"a")
        assert [(each.canceled, len(each.events)) for each in client.responses()] == [(True, 0)]

    play(tmp_path, test)


def test_watches_and_keep_alives_end_with_their_user(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        both, other = Client("both"), Client("reader")
        scene.watch(both, key=b"a")
        scene.watch(other, key=b"a")
        alive, kept = Client("both"), Client("reader")
        assert scene.keep_alive(alive, OF_A) == [1000]
        assert scene.keep_alive(kept, FREE) == [1000]
        await scene.users.delete("both")
        (ended,) = both.responses()
        assert ended.canceled
        assert ended.cancel_reason == reason(errors.INVALID_AUTH_TOKEN)
        assert alive.ended == [errors.INVALID_AUTH_TOKEN]
        assert not kept.ended
        assert not other.sent
        assert scene.keep_alive(kept, FREE) == [1000]

    play(tmp_path, test)


def test_watches_and_keep_alives_from_before_auth_was_on_end_unless_their_user_is_known(
    tmp_path: Path,
) -> None:
    async def test(scene: Scene) -> None:
        await scene.users.disable()
        nobody, user = Client(None), Client("reader")
        for client in (nobody, user):
            assert not scene.watch(client, key=b"z").canceled
        idle, busy, known = Client(None), Client(None), Client("reader")
        scene.leases.open_keep_alive(idle.stream)
        assert scene.keep_alive(busy, OF_Z) == [1000]
        assert scene.keep_alive(known, OF_Z) == [1000]
        await scene.users.enable()
        assert [each.cancel_reason for each in nobody.responses()] == [reason(errors.USER_EMPTY)]
        assert [each.canceled for each in user.responses()] == [True]
        assert idle.ended == busy.ended == [errors.USER_EMPTY]
        assert not known.ended
        assert scene.keep_alive(known, OF_Z) == [errors.PERMISSION_DENIED]

    play(tmp_path, test)


def test_a_watch_outlives_its_token_but_not_its_being_taken_back(tmp_path: Path) -> None:
    """As in etcd, which looks at the token when a watcher is created. One that has run out for want
    of use is no reason to end what its user may see.
    """

    async def test(scene: Scene) -> None:
        member, now = scene.member, 0.0
        replica, authority = member.pipeline.replica, member.applier.authority
        tokens = SimpleTokens(authority.store, lambda: replica.applied, lambda: now, 300)
        authority.tokens = tokens
        tokens.add(Login("both", digest("letters"), b""), replica.applied)
        client = Client(None, f"letters.{replica.applied}".encode())
        scene.watch(client, key=b"a")
        now = 1000.0
        await scene.users.grant("reader", READ, b"x")
        assert not client.sent
        await asyncio.sleep(0.15)  # longer than a token is known for without a look
        response = scene.watch(client, key=b"a")
        assert response.cancel_reason == reason(errors.INVALID_AUTH_TOKEN)
        await scene.put(b"a")
        await until(lambda: client.sent, "the first one goes on")
        await scene.users.disable()
        client.responses()
        await scene.users.enable()
        assert [each.canceled for each in client.responses()] == [True], "all were taken back"

    play(tmp_path, test)


def test_who_may_keep_a_lease_alive(tmp_path: Path) -> None:
    """Who may write all of its keys; etcd has it so since its fix of CVE-2026-33413."""

    async def test(scene: Scene) -> None:
        writers = {"writer", "both", "root"}
        for lease, may in ((FREE, {*RIGHTS, "root"}), (OF_A, writers), (OF_Z, {"root"})):
            for user in EVERYBODY:
                status = refused(user, may)
                found = scene.keep_alive(Client(user), lease)
                assert found == [1000 if status is None else status], (lease, user)
        for user in EVERYBODY:
            expected = [errors.USER_EMPTY if user is None else 0]
            assert scene.keep_alive(Client(user), 99) == expected, "there is none"
        client = Client("both")
        assert scene.keep_alive(client, OF_A) == [1000]
        await scene.users.revoke("both", b"a")
        assert not client.ended
        assert scene.keep_alive(client, OF_A) == [errors.PERMISSION_DENIED]
        assert scene.keep_alive(Client("root", b"no"), FREE) == [errors.INVALID_AUTH_TOKEN]

    play(tmp_path, test)


def test_who_may_see_the_keys_of_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "_SLICE", 3)

    async def test(scene: Scene) -> None:
        for number in range(20):
            await scene.put(b"p%d" % number, OF_A)
        for user in ("nobody", *RIGHTS, "root"):
            for lease, may in ((FREE, {*RIGHTS, "root"}), (OF_A, READERS), (OF_Z, {"root"})):
                request = LeaseTimeToLiveRequest(ID=lease, keys=True)
                answer = await scene.ask(scene.leases.time_to_live, user, request)
                if user in may:
                    assert isinstance(answer, bytes)
                    keys = LeaseTimeToLiveResponse.FromString(answer).keys
                    assert len(keys) == {FREE: 0, OF_A: 21, OF_Z: 1}[lease]
                else:
                    assert answer == errors.PERMISSION_DENIED
                request = LeaseTimeToLiveRequest(ID=lease)
                answer = await scene.ask(scene.leases.time_to_live, user, request)
                assert isinstance(answer, bytes)

    play(tmp_path, test)


def test_who_may_list_the_leases(tmp_path: Path) -> None:
    async def test(scene: Scene) -> None:
        request = LeaseLeasesRequest()

        async def found(user: str) -> list[int] | bytes | Status:
            answer = await scene.ask(scene.leases.leases_, user, request)
            if isinstance(answer, Status):
                return answer
            return [each.ID for each in LeaseLeasesResponse.FromString(answer).leases]

        assert await found("root") == [FREE, OF_A, OF_Z]
        for user in RIGHTS:
            assert await found(user) == errors.PERMISSION_DENIED
        await scene.put(b"z")
        assert await found("both") == [FREE, OF_A, OF_Z], "z has no lease any more"
        assert await found("writer") == errors.PERMISSION_DENIED

    play(tmp_path, test)
