"""rusd/api/identities.py and access.py: who calls, and who may call what, at a member's gate."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from rusd.api import errors, identities
from rusd.api.access import NEEDS, Need
from rusd.api.gate import Gate
from rusd.api.identities import Identities, identity_of
from rusd.auth.store import Identity
from rusd.auth.tokens import Login, SimpleTokens, digest
from rusd.node.entry import Kind
from rusd.pb import (
    election_pb2,
    health_pb2,
    lock_pb2,
    reflection_v1_pb2,
    reflection_v1alpha_pb2,
    rpc_pb2,
)
from rusd.pb.rpc_pb2 import PutRequest
from rusd.wire.grpc import Status
from rusd.wire.service import Call, RequestHead, StreamHandler, StreamMethod, UnaryMethod
from rusd.wire.stream import Stream
from rusd.wire.turn import Turn
from tests.unit.api.fakes import RecordedStream
from tests.unit.node.running import SECONDS, Clock, Recorder, Running, running, until
from tests.unit.node.users import READ, Users

TTL = 300.0
OPEN, STATUS = "/etcdserverpb.KV/Put", "/etcdserverpb.Maintenance/Status"
DEFRAGMENT, SECRET = "/etcdserverpb.Maintenance/Defragment", "/etcdserverpb.Later/NotInTheTable"
AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"
WATCH, SNAPSHOT = "/etcdserverpb.Watch/Watch", "/etcdserverpb.Maintenance/Snapshot"


class Connection(Recorder):
    """A client's connection, with what its certificate says."""

    def __init__(self, common_name: str | None) -> None:
        super().__init__()
        self.common_name = common_name


class Client(RecordedStream):
    """A client's stream, with its headers."""

    def __init__(self, metadata: dict[bytes, bytes], common_name: str | None = None) -> None:
        super().__init__()
        self.head = RequestHead(b"", metadata)
        self.connection = Connection(common_name)
        self.closed = False


class Handler:
    """A service's half of a stream."""

    def message(self, data: bytes) -> None: ...
    def half_closed(self) -> None: ...
    def closed(self) -> None: ...
    def writable(self) -> None: ...


class Gated:
    """A member with users, whose methods, behind the gate, tell who calls."""

    def __init__(self, member: Running) -> None:
        self.member, self.users, self.clock = member, Users(member), Clock()
        replica, self.authority = member.pipeline.replica, member.applier.authority
        self.tokens = SimpleTokens(self.authority.store, lambda: replica.applied, self.clock, TTL)
        self.authority.tokens = self.tokens
        self.identities = Identities(member.applier, replica)
        gate = Gate(replica, member.applier.membership, self.identities, 1.0)
        paths = (OPEN, STATUS, DEFRAGMENT, SECRET, AUTHENTICATE)
        self.opened: list[str] = []
        streams = [StreamMethod(path, self._opener(path)) for path in (WATCH, SNAPSHOT)]
        self.streams = {each.path: cast(StreamMethod, each) for each in gate.guard(streams)}
        self.turn = Turn([UnaryMethod(path, self._handle) for path in paths], logging.getLogger())
        gate.bind(self.turn)

    def _opener(self, path: str) -> Callable[[Stream], StreamHandler]:
        def opened(_: Stream) -> StreamHandler:
            self.opened.append(path)
            return Handler()

        return opened

    @staticmethod
    def _handle(calls: list[Call]) -> None:
        for connection, tag, _, _ in calls:
            identity = identity_of(connection)
            connection.reply(tag, b"-" if identity is None else identity.user.encode())

    def log_in(self, user: str, letters: str = "letters") -> bytes:
        """A token of a user."""
        index = self.member.pipeline.replica.applied
        self.tokens.add(Login(user, digest(letters), b""), index)
        return f"{letters}.{index}".encode()

    def start(
        self, path: str, metadata: dict[bytes, bytes], common_name: str | None = None
    ) -> Connection:
        connection = Connection(common_name)
        call = cast(Call, (connection, 1, RequestHead(path.encode(), metadata), b""))
        self.turn.add(path, call)
        return connection

    async def call(
        self, path: str, metadata: dict[bytes, bytes], common_name: str | None = None
    ) -> bytes | Status:
        return await self.start(path, metadata, common_name).answer()

    def open(
        self, path: str, metadata: dict[bytes, bytes], common_name: str | None = None
    ) -> list[Status | None]:
        """How a stream ended at once; nothing if it was opened."""
        client = Client(metadata, common_name)
        self.streams[path].open(client.stream)
        return client.ended


@asynccontextmanager
async def gated(directory: Path) -> AsyncIterator[Gated]:
    async with running(directory) as member:
        scene = Gated(member)
        await scene.users.set_up()
        yield scene


def play(directory: Path, test: Callable[[Gated], Coroutine[Any, Any, None]]) -> None:
    async def scene() -> None:
        async with gated(directory) as member:
            await test(member)

    asyncio.run(asyncio.wait_for(scene(), SECONDS))


def test_a_token_tells_who_calls_in_either_header(tmp_path: Path) -> None:
    async def test(scene: Gated) -> None:
        token, other = scene.log_in("both"), scene.log_in("reader", "others")
        bad = errors.INVALID_AUTH_TOKEN
        for metadata, expected in (
            ({b"token": token}, b"both"),
            ({b"authorization": token}, b"both"),
            ({b"authorization": b"Bearer " + token}, b"both"),
            ({b"token": b"Bearer " + token}, b"both"),
            ({b"token": other, b"authorization": token}, b"reader"),
            ({b"token": b"no", b"authorization": token}, bad),
            ({b"token": b""}, bad),
            ({b"token": b" " + token}, bad),
            ({b"token": token[:-1]}, bad),
            ({b"token": b"\xff\xfe"}, bad),
            ({b"token": b"letters"}, bad),
            ({}, b"-"),
        ):
            assert await scene.call(OPEN, metadata) == expected, metadata
        assert await scene.call(AUTHENTICATE, {b"token": b"no"}) == b"-", "it is asked to tell"

    play(tmp_path, test)


def test_a_certificate_tells_who_calls_where_no_token_does(tmp_path: Path) -> None:
    async def test(scene: Gated) -> None:
        token = scene.log_in("both")
        assert await scene.call(OPEN, {}, "writer") == b"writer"
        assert await scene.call(OPEN, {b"token": token}, "writer") == b"both"
        assert await scene.call(OPEN, {b"token": b"no"}, "writer") == errors.INVALID_AUTH_TOKEN
        assert await scene.call(OPEN, {}, "") == b"-"
        gateway = {b"grpcgateway-accept": b"*/*"}
        assert await scene.call(OPEN, gateway, "root") == b"-", "it is not its own right it uses"
        assert await scene.call(DEFRAGMENT, {}, "root") == b"root"
        assert await scene.call(DEFRAGMENT, {}, "unknown") == errors.PERMISSION_DENIED

    play(tmp_path, test)


def test_who_may_call_a_method_at_all(tmp_path: Path) -> None:
    async def test(scene: Gated) -> None:
        no, denied = errors.USER_EMPTY, errors.PERMISSION_DENIED
        for path, of_nobody, of_user in (
            (STATUS, no, b"nobody"),
            (DEFRAGMENT, no, denied),
            (SECRET, no, denied),
            (OPEN, b"-", b"nobody"),
        ):
            assert await scene.call(path, {}) == of_nobody
            assert await scene.call(path, {}, "nobody") == of_user
            assert await scene.call(path, {}, "root") == b"root"
        assert scene.open(SNAPSHOT, {}) == [no]
        assert scene.open(SNAPSHOT, {}, "nobody") == [denied]
        assert scene.open(SNAPSHOT, {b"token": b"no"}) == [errors.INVALID_AUTH_TOKEN]
        assert not scene.opened
        assert scene.open(SNAPSHOT, {}, "root") == []
        assert scene.open(WATCH, {b"token": b"no"}) == [], "each create is refused, as in etcd"
        assert scene.opened == [SNAPSHOT, WATCH]

    play(tmp_path, test)


def test_nothing_is_asked_while_auth_is_off(tmp_path: Path) -> None:
    async def test(scene: Gated) -> None:
        assert scene.turn.gate is not None
        await scene.users.disable()
        assert scene.turn.gate is None, "nothing is paid"
        for path in (OPEN, STATUS, DEFRAGMENT, SECRET):
            assert await scene.call(path, {b"token": b"no"}, "root") == b"-"
        assert scene.open(SNAPSHOT, {b"token": b"no"}) == []
        await scene.users.enable()
        assert scene.turn.gate is not None
        assert await scene.call(DEFRAGMENT, {}) == errors.USER_EMPTY

    play(tmp_path, test)


def test_a_token_counts_until_it_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(identities, "monotonic", lambda: now)

    async def test(scene: Gated) -> None:
        nonlocal now
        metadata = {b"token": scene.log_in("both")}
        assert await scene.call(OPEN, metadata) == b"both"
        for _ in range(3):
            scene.clock.now += TTL - 1
            now += TTL - 1
            assert await scene.call(OPEN, metadata) == b"both", "use keeps it"
        scene.clock.now += TTL
        now += TTL
        assert await scene.call(OPEN, metadata) == errors.INVALID_AUTH_TOKEN

    play(tmp_path, test)


def test_a_token_that_is_taken_back_is_so_at_once(tmp_path: Path) -> None:
    async def test(scene: Gated) -> None:
        metadata = {b"token": scene.log_in("both")}
        assert await scene.call(OPEN, metadata) == b"both"
        await scene.users.delete("both")
        assert await scene.call(OPEN, metadata) == errors.INVALID_AUTH_TOKEN
        metadata = {b"token": scene.log_in("reader")}
        assert await scene.call(OPEN, metadata) == b"reader"
        await scene.users.disable()
        await scene.users.enable()
        assert await scene.call(OPEN, metadata) == errors.INVALID_AUTH_TOKEN

    play(tmp_path, test)


def test_an_identity_is_as_of_the_revision_of_now(tmp_path: Path) -> None:
    async def test(scene: Gated) -> None:
        token = {b"token": scene.log_in("both")}
        head = RequestHead(b"", token)
        of = scene.identities.of
        store = scene.users.store
        assert of(Connection(None), head) == Identity("both", store.revision)
        await scene.users.grant("reader", READ, b"x")
        assert of(Connection(None), head) == Identity("both", store.revision)

    play(tmp_path, test)


def test_a_call_waits_for_a_token_that_another_member_has_just_given(tmp_path: Path) -> None:
    async def test(scene: Gated) -> None:
        index = scene.member.pipeline.replica.applied + 2
        token = {b"token": f"letters.{index}".encode()}
        waiting = [scene.start(OPEN, token) for _ in range(3)]
        other = scene.start(OPEN, {b"token": f"unheard.{index}".encode()})
        await asyncio.sleep(0)
        assert not waiting[0].answers
        assert scene.open(SNAPSHOT, token) == [errors.TIMEOUT_WAIT_APPLIED_INDEX]
        scene.tokens.add(Login("both", digest("letters"), b""), index)
        while scene.member.pipeline.replica.applied < index:
            await scene.users.ask("root", Kind.PUT, PutRequest(key=b"k"))
        for each in waiting:
            assert await each.answer() == b"both"
        assert await other.answer() == errors.INVALID_AUTH_TOKEN

    play(tmp_path, test)


def test_a_call_waits_for_no_token_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "_PATIENCE", 0.05)
    monkeypatch.setattr(identities, "_MOST_PARKED", 2)

    async def test(scene: Gated) -> None:
        ahead = scene.member.pipeline.replica.applied + 1000
        token = {b"token": f"letters.{ahead}".encode()}
        calls = [scene.start(OPEN, token) for _ in range(5)]
        far = scene.start(OPEN, {b"token": b"letters.99999999"})
        await until(lambda: far.answers, "one that cannot be is refused at once")
        assert [bool(each.answers) for each in calls] == [False, False, True, True, True]
        for each in (*calls, far):
            assert await each.answer() == errors.INVALID_AUTH_TOKEN

    play(tmp_path, test)


def test_the_table_has_every_method() -> None:
    """So that none is root's alone because it was forgotten, and none has a name that is wrong."""
    files = (rpc_pb2, lock_pb2, election_pb2, health_pb2, reflection_v1_pb2, reflection_v1alpha_pb2)
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert set(NEEDS) == methods


def test_only_what_asks_for_nothing_of_etcds_own_methods_is_a_login() -> None:
    open_to_all = {path for path, need in NEEDS.items() if need is Need.NOTHING}
    assert {path for path in open_to_all if "etcdserverpb" in path} == {AUTHENTICATE}
