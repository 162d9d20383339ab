"""rusd/node/rights.py and who may what in the log: judged where it is applied, on all alike."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rusd.api import errors
from rusd.auth.errors import AuthError, AuthOldRevisionError, PermissionDeniedError
from rusd.auth.store import AuthStore
from rusd.lease.lessor import Expiry, Lessor
from rusd.mvcc.guarded import guarded_put
from rusd.mvcc.tables import rows
from rusd.mvcc.txn import Plan
from rusd.node.entry import MEMBER, Kind, decode, encode, encode_identity
from rusd.node.rights import Rights
from rusd.pb.auth_pb2 import Permission, UserAddOptions
from rusd.pb.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AlarmRequest,
    AlarmType,
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from rusd.wire.grpc import Status
from tests.unit.node.running import SECONDS, Running, running
from tests.unit.node.users import RIGHTS, Users

EVERYBODY = (None, *RIGHTS, "root")


def op(request: Any) -> RequestOp:
    field = {
        PutRequest: "request_put",
        RangeRequest: "request_range",
        DeleteRangeRequest: "request_delete_range",
        TxnRequest: "request_txn",
    }[type(request)]
    return RequestOp(**{field: request})


def txn(*success: Any, failure: tuple[Any, ...] = (), compare: tuple[Compare, ...] = ()) -> Any:
    return TxnRequest(compare=compare, success=map(op, success), failure=map(op, failure))


def compares(key: bytes, end: bytes = b"") -> tuple[Compare, ...]:
    return (Compare(key=key, range_end=end, target=Compare.MOD, result=Compare.GREATER),)


PUT_A, PUT_Z, READ_Z = PutRequest(key=b"a"), PutRequest(key=b"z"), RangeRequest(key=b"z")
FREE, OF_A, OF_Z = 1, 2, 3
"""Leases: without keys, with the key a, with the key z."""

ROOT_ALONE = {"root"}
WRITERS = {"writer", "both", "root"}
BOTHS = {"both", "root"}
USERS = {*RIGHTS, "root"}

MAY: dict[str, tuple[int, Any, set[str]]] = {
    "put": (Kind.PUT, PUT_A, WRITERS),
    "put elsewhere": (Kind.PUT, PUT_Z, ROOT_ALONE),
    "put after": (Kind.PUT, PutRequest(key=b"a\0"), ROOT_ALONE),
    "put and see": (Kind.PUT, PutRequest(key=b"a", prev_kv=True), BOTHS),
    "put on a free lease": (Kind.PUT, PutRequest(key=b"a", lease=FREE), WRITERS),
    "put on its lease": (Kind.PUT, PutRequest(key=b"a", lease=OF_A), WRITERS),
    "put on another's lease": (Kind.PUT, PutRequest(key=b"a", lease=OF_Z), ROOT_ALONE),
    "delete": (Kind.DELETE_RANGE, DeleteRangeRequest(key=b"a"), WRITERS),
    "delete a range": (Kind.DELETE_RANGE, DeleteRangeRequest(key=b"p", range_end=b"q"), WRITERS),
    "delete beyond": (Kind.DELETE_RANGE, DeleteRangeRequest(key=b"p", range_end=b"r"), ROOT_ALONE),
    "delete from": (Kind.DELETE_RANGE, DeleteRangeRequest(key=b"a", range_end=b"\0"), ROOT_ALONE),
    "delete and see": (Kind.DELETE_RANGE, DeleteRangeRequest(key=b"a", prev_kv=True), BOTHS),
    "txn put": (Kind.TXN, txn(PUT_A), WRITERS),
    "txn put and see": (Kind.TXN, txn(PutRequest(key=b"a", prev_kv=True)), BOTHS),
    "txn lease": (Kind.TXN, txn(PutRequest(key=b"a", lease=OF_Z)), ROOT_ALONE),
    "txn compare": (Kind.TXN, txn(PUT_A, compare=compares(b"a")), BOTHS),
    "txn compare elsewhere": (Kind.TXN, txn(PUT_A, compare=compares(b"z")), ROOT_ALONE),
    "txn compare from": (Kind.TXN, txn(PUT_A, compare=compares(b"a", b"\0")), ROOT_ALONE),
    "txn delete": (Kind.TXN, txn(DeleteRangeRequest(key=b"a")), WRITERS),
    "txn other branch": (Kind.TXN, txn(PUT_A, failure=(PUT_Z,)), ROOT_ALONE),
    "txn reads other branch": (Kind.TXN, txn(PUT_A, failure=(READ_Z,)), ROOT_ALONE),
    "nested": (Kind.TXN, txn(txn(txn(PUT_A))), WRITERS),
    "nested put elsewhere": (Kind.TXN, txn(txn(PUT_A, txn(failure=(PUT_Z,)))), ROOT_ALONE),
    "nested compare": (Kind.TXN, txn(txn(PUT_A, compare=compares(b"z"))), ROOT_ALONE),
    "nested delete and see": (
        Kind.TXN,
        txn(txn(DeleteRangeRequest(key=b"a", prev_kv=True))),
        BOTHS,
    ),
    "compact": (Kind.COMPACT, CompactionRequest(revision=2), ROOT_ALONE),
    "grant": (Kind.LEASE_GRANT, LeaseGrantRequest(ID=99, TTL=60), USERS),
    "revoke a free lease": (Kind.LEASE_REVOKE, LeaseRevokeRequest(ID=FREE), USERS),
    "revoke its lease": (Kind.LEASE_REVOKE, LeaseRevokeRequest(ID=OF_A), WRITERS),
    "revoke another's lease": (Kind.LEASE_REVOKE, LeaseRevokeRequest(ID=OF_Z), ROOT_ALONE),
    "alarm": (
        Kind.ALARM,
        AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=1, alarm=NOSPACE),
        ROOT_ALONE,
    ),
}


def play(directory: Path, test: Callable[[Users], Coroutine[Any, Any, None]]) -> None:
    async def scene() -> None:
        async with running(directory) as member:
            users = Users(member)
            for lease in (FREE, OF_A, OF_Z):
                await member.propose(Kind.LEASE_GRANT, LeaseGrantRequest(ID=lease, TTL=1000))
            await member.propose(Kind.PUT, PutRequest(key=b"a", lease=OF_A))
            await member.propose(Kind.PUT, PutRequest(key=b"z", value=b"secret", lease=OF_Z))
            await users.set_up()
            await test(users)
            assert not member.failures

    asyncio.run(asyncio.wait_for(scene(), SECONDS))


def expected(user: str | None, may: set[str]) -> Status | None:
    if user is None:
        return errors.USER_EMPTY
    return None if user in may else errors.PERMISSION_DENIED


def refusal(answer: bytes | Status) -> Status | None:
    return answer if isinstance(answer, Status) else None


@pytest.mark.parametrize("name", MAY)
def test_who_may_ask_for_what(tmp_path: Path, name: str) -> None:
    kind, request, may = MAY[name]

    async def test(users: Users) -> None:
        keyspace = users.member.keyspace
        for user in EVERYBODY:
            before = keyspace.revision
            found = refusal(await users.ask(user, kind, request))
            if found in (errors.LEASE_EXIST, errors.LEASE_NOT_FOUND, errors.COMPACTED):
                found = None  # it was one's right, and is done
            assert found == expected(user, may), user
            if found is not None:
                assert keyspace.revision == before, "what is refused changes nothing"

    play(tmp_path, test)


@pytest.mark.parametrize("read", [b"", b"a", b"z"])
@pytest.mark.parametrize("lease", [0, OF_A, OF_Z])
@pytest.mark.parametrize("guard", [b"a", b"z"])
def test_a_guarded_put_needs_what_it_needs_as_a_transaction(
    tmp_path: Path, guard: bytes, lease: int, read: bytes
) -> None:
    request = TxnRequest(
        compare=[Compare(key=guard, target=Compare.MOD, result=Compare.EQUAL)],
        success=[op(PutRequest(key=b"a", lease=lease))],
        failure=[op(RangeRequest(key=read))] if read else [],
    )
    guarded = guarded_put(request)
    assert guarded is not None

    async def test(users: Users) -> None:
        rights = users.member.applier.rights
        for user in EVERYBODY:
            found = []
            for plan in (Plan(request), guarded):
                try:
                    rights.txn(users.identity(user), plan)
                except AuthError as error:
                    found.append(type(error))
            assert len(set(found)) <= 1
            assert len(found) in (0, 2)
            with_right = (
                {"both", "root"} if b"z" not in (guard, read) and lease != OF_Z else {"root"}
            )
            assert (not found) == (user in with_right)

    play(tmp_path, test)


def test_who_does_not_say_who_it_is_may_nothing_and_the_member_may_what_it_does_by_itself(
    tmp_path: Path,
) -> None:
    async def test(users: Users) -> None:
        member = users.member
        assert await member.propose(Kind.PUT, PUT_A) == errors.USER_EMPTY
        await users.ask("root", Kind.PUT, PUT_A)
        revision = member.keyspace.revision
        done = []
        member.pipeline.after_apply.append(lambda: done.append(member.keyspace.compacted))
        request = CompactionRequest(revision=revision)
        pipeline = member.pipeline
        pipeline.propose(Kind.COMPACT, request.SerializeToString(), request, None, 0)
        alarm = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=5, alarm=NOSPACE)
        pipeline.propose(Kind.ALARM, alarm.SerializeToString(), alarm, None, 0)
        expiry = Expiry(OF_Z, member.lessor.get(OF_Z).granted)
        pipeline.propose(Kind.LEASE_EXPIRE, expiry.encode(), expiry, None, 0)
        await pipeline.idle()
        assert done == [revision]
        assert NOSPACE in member.applier.alarms
        assert OF_Z not in member.lessor

    play(tmp_path, test)


def test_a_right_is_that_of_the_moment_when_a_request_is_applied(tmp_path: Path) -> None:
    async def test(users: Users) -> None:
        old = users.identity("both")
        assert refusal(await users.ask_as(old, Kind.PUT, PUT_A)) is None
        await users.revoke("both", b"a")
        assert await users.ask_as(old, Kind.PUT, PUT_A) == errors.AUTH_OLD_REVISION
        assert await users.ask("both", Kind.PUT, PUT_A) == errors.PERMISSION_DENIED
        await users.grant("both", Permission.WRITE, b"a")
        assert refusal(await users.ask("both", Kind.PUT, PUT_A)) is None
        await users.delete("both")
        assert await users.ask("both", Kind.PUT, PUT_A) == errors.PERMISSION_DENIED
        grant = LeaseGrantRequest(ID=50, TTL=60)
        assert await users.ask("both", Kind.LEASE_GRANT, grant) == errors.PERMISSION_DENIED
        await users.disable()
        assert refusal(await users.ask(None, Kind.PUT, PUT_Z)) is None

    play(tmp_path, test)


def test_requests_that_come_together_are_each_judged_by_who_asks(tmp_path: Path) -> None:
    async def test(users: Users) -> None:
        callers = [
            users.propose(users.identity(user), Kind.PUT, PUT_A)
            for user in ("writer", "nobody", None, "writer", "writer", "root")
        ]
        answers = [refusal(await caller.answer()) for caller in callers]
        assert answers == [None, errors.PERMISSION_DENIED, errors.USER_EMPTY, None, None, None]

    play(tmp_path, test)


def test_an_entry_of_a_member_that_did_not_know_of_auth_is_refused(tmp_path: Path) -> None:
    """Its clients were asked for no token. Who asks is said for one entry alone."""

    async def test(users: Users) -> None:
        applier = users.member.applier
        keyspace = applier.keyspace
        revision = keyspace.revision
        put = (Kind.PUT, PUT_A.SerializeToString())
        root = (Kind.IDENTITY, encode_identity(users.identity("root")))
        term, position = keyspace.applied.term, keyspace.applied.position
        applier.replay(term, position + 1, encode([put], 1, 1))
        assert keyspace.revision == revision
        applier.replay(term, position + 2, encode([root, put], 1, 2))
        assert keyspace.revision == revision + 1
        applier.replay(term, position + 3, encode([put], 1, 3))
        assert keyspace.revision == revision + 1

    play(tmp_path, test)


def test_an_entry_says_who_asks_only_where_that_changes_and_only_while_auth_is_on(
    tmp_path: Path,
) -> None:
    async def test(users: Users) -> None:
        member = users.member

        async def entry(*who: str | None) -> list[int]:
            callers = [users.propose(users.identity(user), Kind.PUT, PUT_A) for user in who]
            for caller in callers:
                await caller.answer()
            *_, last = member.wal.entries(member.keyspace.applied.position - 1)
            return [kind for kind, _ in decode(last.data)]

        i, p = Kind.IDENTITY, Kind.PUT
        assert await entry("root", "root", "both", "both", None, "root") == [
            i,
            p,
            p,
            i,
            p,
            p,
            i,
            p,
            i,
            p,
        ]
        assert await entry(None) == [i, p]
        await users.disable()
        assert await entry("root", None) == [p, p]

    play(tmp_path, test)


def test_what_is_replayed_after_a_crash_is_judged_as_it_was(tmp_path: Path) -> None:
    async def test(users: Users) -> None:
        member = users.member
        for user in EVERYBODY:
            for key in (b"a", b"p", b"z"):
                await users.ask(user, Kind.PUT, PutRequest(key=key, value=str(user).encode()))
        # Reads at a revision write the tables within an entry.
        past = TxnRequest(
            success=[
                op(RangeRequest(key=b"a", revision=member.keyspace.revision)),
                op(PutRequest(key=b"a", value=b"last")),
            ]
        )
        callers = [
            users.propose(users.identity(user), Kind.TXN, past)
            for user in ("root", "writer", "both", "nobody")
        ]
        for caller in callers:
            await caller.answer()
        await users.revoke("writer", b"a")
        await users.ask("writer", Kind.PUT, PutRequest(key=b"a", value=b"never"))
        seen = state(member)
        crashed = member.crash_copy(tmp_path / "crashed")
        async with running(crashed) as again:
            assert state(again) == seen
            assert again.applier.rights.store.enabled
            users.member = again
            users.store = again.applier.rights.store
            assert await users.ask("nobody", Kind.PUT, PUT_A) == errors.PERMISSION_DENIED

    play(tmp_path / "first", test)


def test_what_is_left_of_an_entry_is_judged_by_who_asked_at_its_beginning(tmp_path: Path) -> None:
    """When the tables were written within it, and then the member stopped."""

    async def test(users: Users) -> None:
        applier = users.member.applier
        keyspace = applier.keyspace
        term, position, revision = *keyspace.applied[:2], keyspace.revision
        root = (Kind.IDENTITY, encode_identity(users.identity("root")))
        puts = [(Kind.PUT, PutRequest(key=key).SerializeToString()) for key in (b"y", b"z")]
        applier.at(position + 1, 2)
        applier.replay(term, position + 1, encode([root, *puts], 1, 1))
        assert keyspace.revision == revision + 1

    play(tmp_path, test)


def state(member: Running) -> list[Any]:
    tables = member.engine.tables
    member.keyspace.write()
    return [
        member.keyspace.revision,
        [(key, member.keyspace.get(key)) for key in (b"a", b"p", b"z")],
        list(rows(tables.state, b"auth/", b"auth0")),
    ]


@pytest.mark.parametrize("alarm", [NOSPACE, CORRUPT])
def test_an_alarm_takes_no_check_away(tmp_path: Path, alarm: AlarmType) -> None:
    """In etcd 3.5 one forgets all checks while an alarm is raised (fixed in 3.6)."""

    async def test(users: Users) -> None:
        raised = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=1, alarm=alarm)
        assert refusal(await users.ask("root", Kind.ALARM, raised)) is None
        cleared = AlarmRequest(action=AlarmRequest.DEACTIVATE, memberID=1, alarm=alarm)
        assert await users.ask("both", Kind.ALARM, cleared) == errors.PERMISSION_DENIED
        deletion = DeleteRangeRequest(key=b"z")
        refused = errors.PERMISSION_DENIED if alarm == NOSPACE else errors.CORRUPT
        assert await users.ask("both", Kind.DELETE_RANGE, deletion) == refused
        no = errors.NO_SPACE if alarm == NOSPACE else errors.CORRUPT
        assert await users.ask("root", Kind.PUT, PUT_A) == no
        deleting = txn(DeleteRangeRequest(key=b"z"))
        assert await users.ask("both", Kind.TXN, deleting) == refused
        await users.revoke("both", b"a")  # the guard is put up anew
        assert await users.ask("root", Kind.PUT, PUT_A) == no
        assert refusal(await users.ask("root", Kind.ALARM, cleared)) is None
        assert refusal(await users.ask("root", Kind.PUT, PUT_A)) is None
        assert await users.ask("both", Kind.PUT, PUT_A) == errors.PERMISSION_DENIED

    play(tmp_path, test)


KEYS = [b"a", b"b", b"c", b"d"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(["one", "two"]), st.sampled_from(KEYS)),
        st.tuples(st.just("fails"), st.sampled_from(["one", "two"]), st.sampled_from(KEYS)),
        st.tuples(st.just("detach"), st.just(""), st.sampled_from(KEYS)),
        st.tuples(st.just("foreign"), st.just(""), st.sampled_from(KEYS)),
    ),
    max_size=30,
)


@given(STEPS)
@example([("fails", "one", b"a"), ("foreign", "", b"c"), ("put", "one", b"b")])
def test_what_is_known_of_a_lease_is_what_a_look_at_all_of_its_keys_says(
    steps: list[tuple[str, str, bytes]],
) -> None:
    """A put that passes may fail all the same; others attach and detach keys meanwhile."""
    store = AuthStore()
    for user, end in (("one", b"c"), ("two", b"e")):
        store.add_user(user, b"", UserAddOptions())
        store.add_role(user)
        store.grant_role(user, user)
        store.grant_permission(user, Permission(permType=Permission.WRITE, key=b"a", range_end=end))
    store.enabled = True
    lessor = Lessor(lambda: 0.0)
    lessor.grant(7, 60, 1)
    rights = Rights(store, lessor)
    for what, user, key in steps:
        if what == "detach":
            lessor.detach(7, key)
            continue
        if what == "foreign":
            lessor.attach(7, key)
            continue
        allowed = {b"a", b"b"} if user == "one" else set(KEYS)
        may = key in allowed and lessor.get(7).keys <= allowed
        if may:
            rights.put(store.identity(user), PutRequest(key=key, lease=7))
            if what == "put":
                lessor.attach(7, key)
        else:
            with pytest.raises(PermissionDeniedError):
                rights.put(store.identity(user), PutRequest(key=key, lease=7))


def test_the_keys_of_a_large_lease_are_not_looked_at_for_each_that_is_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = AuthStore()
    store.add_user("one", b"", UserAddOptions())
    store.add_role("one")
    store.grant_role("one", "one")
    store.grant_permission("one", Permission(permType=Permission.WRITE, key=b"a", range_end=b"b"))
    store.enabled = True
    lessor = Lessor(lambda: 0.0)
    lessor.grant(7, 60, 1)
    rights = Rights(store, lessor)
    looks = 0
    check = store.check

    def counted(*args: Any) -> None:
        nonlocal looks
        looks += 1
        check(*args)

    monkeypatch.setattr(store, "check", counted)
    for number in range(1000):
        key = b"a%d" % number
        rights.put(store.identity("one"), PutRequest(key=key, lease=7))
        lessor.attach(7, key)
    assert looks == 1000
    store.grant_permission("one", Permission(permType=Permission.READ, key=b"x"))
    rights.lease(store.identity("one"), 7)
    assert looks == 2000, "what has changed is looked at again"


def test_an_old_identity_is_refused_also_where_its_user_is_known_to_have_the_right() -> None:
    """A member that has restarted knows nothing, and has to judge alike."""
    store = AuthStore()
    store.add_user("one", b"", UserAddOptions())
    store.add_role("one")
    store.grant_role("one", "one")
    store.grant_permission("one", Permission(permType=Permission.WRITE, key=b"a"))
    store.enabled = True
    lessor = Lessor(lambda: 0.0)
    lessor.grant(7, 60, 1)
    lessor.attach(7, b"a")
    rights, old = Rights(store, lessor), store.identity("one")
    store.add_user("two", b"", UserAddOptions())
    rights.lease(store.identity("one"), 7)
    for each in (rights, Rights(store, lessor)):
        with pytest.raises(AuthOldRevisionError):
            each.lease(old, 7)


def test_what_was_known_of_leases_is_not_known_of_those_of_a_snapshot() -> None:
    store = AuthStore()
    store.add_user("one", b"", UserAddOptions())
    store.add_role("one")
    store.grant_role("one", "one")
    store.grant_permission("one", Permission(permType=Permission.WRITE, key=b"a"))
    store.enabled = True
    lessor, other = Lessor(lambda: 0.0), Lessor(lambda: 0.0)
    for each, key in ((lessor, b"a"), (other, b"b")):
        each.grant(7, 60, 1)
        each.attach(7, key)
    rights = Rights(store, lessor)
    rights.lease(store.identity("one"), 7)
    lessor.take(other)
    rights.forget()
    with pytest.raises(PermissionDeniedError):
        rights.lease(store.identity("one"), 7)


def test_no_user_is_taken_for_the_member(tmp_path: Path) -> None:
    async def test(users: Users) -> None:
        for user in ("", "member"):
            identity = MEMBER._replace(user=user, revision=users.store.revision)
            compaction = CompactionRequest(revision=1)
            assert (
                await users.ask_as(identity, Kind.COMPACT, compaction) == errors.PERMISSION_DENIED
            )

    play(tmp_path, test)
