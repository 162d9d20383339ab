"""rusd/auth/store.py. What is refused, and which changes count, is as seen on etcd 3.5.30."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.auth import errors
from rusd.auth.store import Access, AuthStore, Identity, Rows
from rusd.mvcc.tables import new_batch
from rusd.pb.auth_pb2 import Permission, UserAddOptions
from rusd.storage.engine import Engine
from tests.unit.mvcc.opened import fresh_directory

READ, WRITE = Access.READ, Access.WRITE
PASSWORD = UserAddOptions()


def permission(
    key: bytes, range_end: bytes = b"", kind: "Permission.Type" = Permission.READWRITE
) -> Permission:
    return Permission(permType=kind, key=key, range_end=range_end)


def with_root() -> AuthStore:
    store = AuthStore()
    store.add_user("root", b"hash", PASSWORD)
    store.add_role("root")
    store.grant_role("root", "root")
    return store


def with_users() -> AuthStore:
    """Root, and alice, who has a role with the keys [b, d)."""
    store = with_root()
    store.add_user("alice", b"hash", PASSWORD)
    store.add_role("letters")
    store.grant_permission("letters", permission(b"b", b"d"))
    store.grant_role("alice", "letters")
    return store


@pytest.fixture
def store() -> AuthStore:
    made = with_users()
    made.enable()
    return made


@pytest.fixture
def engine() -> Iterator[Engine]:
    with fresh_directory() as directory:
        opened = Engine(directory)
        yield opened
        opened.close()
        vars(opened).clear()


def write(engine: Engine, rows: Rows) -> None:
    batch = new_batch()
    for name, row in rows:
        if row is None:
            batch.delete(name)
        else:
            batch.put(name, row)
    engine.tables.write(batch)


# Refusals.


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda s: s.add_user("", b"", PASSWORD), errors.UserEmptyError),
        (lambda s: s.add_user("alice", b"", PASSWORD), errors.UserAlreadyExistsError),
        (lambda s: s.delete_user("nobody"), errors.UserNotFoundError),
        (lambda s: s.delete_user("root"), errors.InvalidAuthMgmtError),
        (lambda s: s.change_password("nobody", b""), errors.UserNotFoundError),
        (lambda s: s.grant_role("nobody", "nothing"), errors.UserNotFoundError),
        (lambda s: s.grant_role("alice", "nothing"), errors.RoleNotFoundError),
        (lambda s: s.revoke_role("root", "root"), errors.InvalidAuthMgmtError),
        (lambda s: s.revoke_role("nobody", "root"), errors.UserNotFoundError),
        (lambda s: s.revoke_role("alice", "root"), errors.RoleNotGrantedError),
        (lambda s: s.add_role(""), errors.RoleEmptyError),
        (lambda s: s.add_role("letters"), errors.RoleAlreadyExistsError),
        (lambda s: s.delete_role("nothing"), errors.RoleNotFoundError),
        (lambda s: s.delete_role("root"), errors.InvalidAuthMgmtError),
        (lambda s: s.grant_permission("nothing", permission(b"a")), errors.RoleNotFoundError),
        (lambda s: s.grant_permission("nothing", permission(b"")), errors.InvalidAuthMgmtError),
        (lambda s: s.grant_permission("letters", permission(b"")), errors.InvalidAuthMgmtError),
        (
            lambda s: s.grant_permission("letters", permission(b"b", b"a")),
            errors.InvalidAuthMgmtError,
        ),
        (lambda s: s.revoke_permission("nothing", b"b", b"d"), errors.RoleNotFoundError),
        (lambda s: s.revoke_permission("letters", b"b", b""), errors.PermissionNotGrantedError),
        (lambda s: s.roles_of("nobody"), errors.UserNotFoundError),
        (lambda s: s.permissions("nothing"), errors.RoleNotFoundError),
    ],
)
def test_what_is_refused_changes_nothing(
    store: AuthStore, change: Callable[[AuthStore], object], refusal: type[Exception]
) -> None:
    before = store.revision, store.users(), store.roles(), store.permissions("letters")
    with pytest.raises(refusal):
        change(store)
    assert (store.revision, store.users(), store.roles(), store.permissions("letters")) == before


def test_auth_needs_a_root_with_its_role() -> None:
    store = AuthStore()
    with pytest.raises(errors.RootUserNotExistError):
        store.enable()
    store.add_user("root", b"", PASSWORD)
    with pytest.raises(errors.RootRoleNotExistError):
        store.enable()
    store.grant_role("root", "root")  # also while there is no such role
    store.enable()
    assert store.enabled


def test_while_auth_is_off_root_can_go() -> None:
    store = with_root()
    store.revoke_role("root", "root")
    store.delete_role("root")
    store.delete_user("root")
    assert not store.users()
    assert not store.roles()


# The revision.


def test_only_changes_count() -> None:
    store = with_users()
    assert store.revision == 8
    store.grant_role("alice", "letters")
    assert store.revision == 8, "she has it"
    store.enable()
    store.enable()
    assert store.revision == 8, "turning on does not count"
    store.disable()
    assert store.revision == 9
    store.disable()
    assert store.revision == 9
    store.grant_permission("letters", permission(b"b", b"d"))
    assert store.revision == 10, "the same grant again counts"
    store.delete_role("letters")
    store.change_password("alice", b"")
    store.delete_user("alice")
    assert store.revision == 13


# Checks.


def test_while_auth_is_off_everybody_may_do_everything() -> None:
    store = with_users()
    store.check(None, WRITE, b"a", b"\0")
    store.check_admin(None)


def test_who_is_nobody_is_refused(store: AuthStore) -> None:
    with pytest.raises(errors.UserEmptyError):
        store.check(None, READ, b"b", b"")
    with pytest.raises(errors.UserEmptyError):
        store.check_admin(None)


def test_who_is_gone_is_refused(store: AuthStore) -> None:
    for user in ("nobody", ""):
        with pytest.raises(errors.PermissionDeniedError):
            store.check(store.identity(user), READ, b"b", b"")
        with pytest.raises(errors.PermissionDeniedError):
            store.check_admin(store.identity(user))


def test_an_identity_of_before_a_change_is_old(store: AuthStore) -> None:
    alice, root = store.identity("alice"), store.identity("root")
    store.add_role("other")
    for old in (alice, root):
        with pytest.raises(errors.AuthOldRevisionError):
            store.check(old, READ, b"b", b"")
    store.check(Identity("alice", store.revision + 1), READ, b"b", b"")  # of a member ahead
    store.check_admin(root)  # by what is true now


def test_root_may_do_everything(store: AuthStore) -> None:
    store.check(store.identity("root"), WRITE, b"\0", b"\0")
    store.check_admin(store.identity("root"))
    with pytest.raises(errors.PermissionDeniedError):
        store.check_admin(store.identity("alice"))


def test_a_user_may_do_what_its_roles_add_up_to(store: AuthStore) -> None:
    store.add_role("more")
    store.grant_permission("more", permission(b"d", b"f", Permission.READ))
    store.grant_role("alice", "more")
    alice = store.identity("alice")
    store.check(alice, READ, b"b", b"f")
    store.check(alice, WRITE, b"b", b"d")
    for access, key, range_end in ((WRITE, b"b", b"f"), (READ, b"b", b"g"), (READ, b"a", b"")):
        with pytest.raises(errors.PermissionDeniedError):
            store.check(alice, access, key, range_end)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.revoke_role("alice", "letters"),
        lambda s: s.delete_role("letters"),
        lambda s: s.revoke_permission("letters", b"b", b"d"),
        lambda s: s.grant_permission("letters", permission(b"b", b"d", Permission.READ)),
        lambda s: s.delete_user("alice"),
    ],
)
def test_a_right_that_was_used_and_taken_is_gone(
    store: AuthStore, change: Callable[[AuthStore], object]
) -> None:
    store.check(store.identity("alice"), WRITE, b"b", b"d")
    change(store)
    with pytest.raises(errors.PermissionDeniedError):
        store.check(store.identity("alice"), WRITE, b"b", b"d")


def test_a_type_that_is_none_gives_no_right(store: AuthStore) -> None:
    granted = Permission(key=b"x")
    granted.ParseFromString(b"\x08\x07\x12\x01x")
    store.grant_permission("letters", granted)
    assert store.permissions("letters")[-1].permType == 7
    for access in Access:
        with pytest.raises(errors.PermissionDeniedError):
            store.check(store.identity("alice"), access, b"x", b"")


# Permissions as they are shown.


def test_permissions_are_in_the_order_of_keys_and_of_grants() -> None:
    store = AuthStore()
    store.add_role("r")
    for granted in ((b"c", b"g"), (b"c", b"f"), (b"c",), (b"a", b"\0"), (b"b",)):
        store.grant_permission("r", permission(*granted))
    shown = [(each.key, each.range_end) for each in store.permissions("r")]
    assert shown == [(b"a", b"\0"), (b"b", b""), (b"c", b"g"), (b"c", b"f"), (b"c", b"")]
    store.revoke_permission("r", b"c", b"f")
    assert [each.range_end for each in store.permissions("r")] == [b"\0", b"", b"g", b""]


def test_a_grant_for_the_same_range_replaces_the_one_before() -> None:
    """etcd, up to 3.7, compares with the first of a key alone: what is granted here as the second
    of a key would there be granted twice, and a right that was reduced would stay whole.
    """
    store = AuthStore()
    store.add_role("r")
    for kind in (Permission.READWRITE, Permission.READ):
        for range_end in (b"f", b"g"):
            store.grant_permission("r", permission(b"c", range_end, kind))
    shown = [(each.range_end, each.permType) for each in store.permissions("r")]
    assert shown == [(b"f", Permission.READ), (b"g", Permission.READ)]


def test_the_role_root_shows_a_right_to_everything() -> None:
    store = with_root()
    everything = [permission(b"", b"\0")]
    assert store.permissions("root") == everything
    store.grant_permission("root", permission(b"a"))
    assert store.permissions("root") == everything
    store.revoke_permission("root", b"a", b"")
    assert store.permissions("root") == everything


def test_names_are_in_the_order_of_their_bytes() -> None:
    store = AuthStore()
    for name in ("\U00010000", "\uffff", "b", "B", "a b"):
        store.add_user(name, b"", PASSWORD)
        store.add_role(name)
    assert store.users() == ["B", "a b", "b", "\uffff", "\U00010000"]
    assert store.roles() == store.users()


# Who is told.


def test_listeners_hear_of_changes_and_of_passwords_that_are_no_longer_good() -> None:
    store = with_users()
    heard: list[str] = []
    store.on_change.append(lambda: heard.append("change"))
    store.on_invalidate.append(heard.append)
    store.enable()
    store.change_password("alice", b"")
    store.delete_user("alice")
    store.disable()
    store.disable()
    assert heard == ["change", "alice", "change", "alice", "change", "change"]


def test_a_role_that_was_deleted_and_is_made_again_is_nobodys(store: AuthStore) -> None:
    store.delete_role("letters")
    assert store.roles_of("alice") == []
    store.add_role("letters")
    store.grant_permission("letters", permission(b"b", b"d"))
    with pytest.raises(errors.PermissionDeniedError):
        store.check(store.identity("alice"), READ, b"b", b"")


def test_a_users_roles_are_in_the_order_of_their_bytes() -> None:
    store = AuthStore()
    store.add_user("a", b"", PASSWORD)
    for role in ("b", "\U00010000", "\uffff", "a"):
        store.add_role(role)
        store.grant_role("a", role)
    assert store.roles_of("a") == ["a", "b", "\uffff", "\U00010000"]


# Rows.


def test_whether_auth_is_on_is_stored(engine: Engine) -> None:
    store = with_root()
    for change in (store.enable, store.disable, store.enable):
        write(engine, change())
        assert AuthStore.load(engine.tables.state).enabled is store.enabled


_NAMES = st.sampled_from(["root", "a", "b", ""])
_KEYS = st.sampled_from([b"", b"\0", b"a", b"b", b"c"])
_CHANGES = st.one_of(
    st.tuples(st.just("enable")),
    st.tuples(st.just("disable")),
    st.tuples(
        st.just("add_user"),
        _NAMES,
        st.binary(max_size=3),
        st.builds(UserAddOptions, no_password=st.booleans()),
    ),
    st.tuples(st.just("delete_user"), _NAMES),
    st.tuples(st.just("change_password"), _NAMES, st.binary(max_size=3)),
    st.tuples(st.just("grant_role"), _NAMES, _NAMES),
    st.tuples(st.just("revoke_role"), _NAMES, _NAMES),
    st.tuples(st.just("add_role"), _NAMES),
    st.tuples(st.just("delete_role"), _NAMES),
    st.tuples(
        st.just("grant_permission"),
        _NAMES,
        st.builds(
            permission,
            _KEYS,
            _KEYS,
            st.sampled_from([Permission.READ, Permission.WRITE, Permission.READWRITE]),
        ),
    ),
    st.tuples(st.just("revoke_permission"), _NAMES, _KEYS, _KEYS),
)


def content(store: AuthStore) -> object:
    return (
        store.enabled,
        store.revision,
        [store.find(name) for name in store.users()],
        [(name, store.permissions(name)) for name in store.roles()],
    )


@given(st.lists(_CHANGES, max_size=30))
def test_what_is_stored_is_the_store(changes: list[tuple[object, ...]]) -> None:
    store = AuthStore()
    with fresh_directory() as directory:
        engine = Engine(directory)
        for name, *arguments in changes:
            try:
                write(engine, getattr(store, str(name))(*arguments))
            except errors.AuthError:
                continue
        loaded = AuthStore.load(engine.tables.state)
        again = with_users()
        again.reload(engine.tables.state)
        engine.close()
        vars(engine).clear()
    assert content(loaded) == content(store)
    assert content(again) == content(store)


def test_rights_of_before_a_reload_are_gone(engine: Engine) -> None:
    store = with_users()
    store.enable()
    store.check(store.identity("alice"), READ, b"b", b"")
    other = with_root()
    rows = [
        row for made in (other.add_user("alice", b"", PASSWORD), other.enable()) for row in made
    ]
    write(engine, [*with_root().change_password("root", b""), *rows])
    heard: list[str] = []
    store.on_change.append(lambda: heard.append("change"))
    store.reload(engine.tables.state)
    assert heard == ["change"]
    with pytest.raises(errors.AuthError):
        store.check(Identity("alice", 100), READ, b"b", b"")
