r"""A right to a range is a right to all of it and to no key beside it, however it is asked for.

Random grants and requests, with ends of `\0` (from key on) and without (one key), as range, watch,
delete and compare: what rusd allows is what counting keys allows, and what real etcd allows.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Final

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from rusd.pb import auth_pb2 as auth
from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Answer, Client, Metadata
from tests.conftest import StartMember
from tests.members import running

EXAMPLES: Final = 6000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 60
OPEN: Final = b"\0"
_LETTERS = (b"\0", b"a", b"b", b"\xff")
BOUNDS = [b"".join(letters) for size in (1, 2) for letters in product(_LETTERS, repeat=size)]
# A gap between ranges with these bounds begins at a bound, or after a single key: it has one of
# these keys in it.
KEYS = [*BOUNDS, *(bound + b"\0" for bound in BOUNDS)]
READ, WRITE, BOTH = auth.Permission.READ, auth.Permission.WRITE, auth.Permission.READWRITE

Span = tuple[bytes, bytes]


def _spans(key: bytes, kind: str, end: bytes) -> Span:
    if kind == "key":
        return key, b""
    if kind == "on":
        return key, OPEN
    if kind == "next":
        return key, key + b"\0"
    return min(key, end), max(key, end) if key != end else b""


spans = st.builds(
    _spans,
    st.sampled_from(BOUNDS),
    st.sampled_from(("key", "on", "next", "range", "range")),
    st.sampled_from(BOUNDS),
)
grants = st.lists(
    st.tuples(st.sampled_from((READ, WRITE, BOTH)), spans), max_size=4, unique_by=lambda g: g[1][0]
)


def _within(span: Span, key: bytes) -> bool:
    first, end = span
    if not end:
        return key == first
    return first <= key and (end == OPEN or key < end)


def _covered(granted: Sequence[Span], asked: Span) -> bool:
    """By counting keys; a range without end needs a grant without end too."""
    if asked[1] == OPEN and not any(end == OPEN for _, end in granted):
        return False
    return all(any(_within(span, key) for span in granted) for key in KEYS if _within(asked, key))


@dataclass
class Asked:
    """A server with one user, who has one role."""

    client: Client
    root: Metadata = ()
    user: Metadata = ()

    def prepare(self) -> None:
        """Turn auth on."""
        for name in ("root", "user"):
            self.client.add_user(name)
        assert self.client.call("AuthEnable", rpc.AuthEnableRequest()).code == "OK"
        self.root = (("token", self.client.login("root", "root")[1]),)
        self.user = (("token", self.client.login("user", "user")[1]),)

    def grant(self, granted: Sequence[tuple[auth.Permission.Type, Span]]) -> None:
        """Give the user these rights and no others."""
        ask = partial(self.client.call, metadata=self.root)
        ask("RoleDelete", rpc.AuthRoleDeleteRequest(role="user"))
        assert ask("RoleAdd", rpc.AuthRoleAddRequest(name="user")).code == "OK"
        for kind, (key, end) in granted:
            permission = auth.Permission(permType=kind, key=key, range_end=end)
            grant = rpc.AuthRoleGrantPermissionRequest(name="user", perm=permission)
            assert ask("RoleGrantPermission", grant).code == "OK"
        grant_role = rpc.AuthUserGrantRoleRequest(user="user", role="user")
        assert ask("UserGrantRole", grant_role).code == "OK"

    def allowed(self, asked: Span) -> dict[str, bool]:
        """What the user may do with a range."""
        key, end = asked
        ask = partial(self.client.call, metadata=self.user)
        compare = rpc.TxnRequest(compare=[rpc.Compare(key=key, range_end=end)])
        nested = rpc.TxnRequest(success=[rpc.RequestOp(request_txn=compare)])
        answers = {
            "range": ask("Range", rpc.RangeRequest(key=key, range_end=end, count_only=True)),
            "delete": ask("DeleteRange", rpc.DeleteRangeRequest(key=key, range_end=end)),
            "compare": ask("Txn", compare),
            "nested compare": ask("Txn", nested),
        }
        allowed = {name: _allowed(answer) for name, answer in answers.items()}
        return {**allowed, "watch": self._watches(key, end)}

    def _watches(self, key: bytes, end: bytes) -> bool:
        stream = self.client.watch_stream(metadata=self.user)
        create = rpc.WatchCreateRequest(key=key, range_end=end)
        stream.send(rpc.WatchRequest(create_request=create))
        (control,) = stream.await_controls(0, 1)
        stream.close()
        assert not control.canceled or "permission denied" in control.cancel_reason, control
        return not control.canceled


def _allowed(answer: Answer) -> bool:
    assert answer.code in ("OK", "PERMISSION_DENIED"), answer
    return answer.code == "OK"


@pytest.fixture(scope="module")
def servers(
    etcd_command: Sequence[str],
    subject_command: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Asked, Asked]]:
    """Real etcd and the server under test."""
    folder = tmp_path_factory.mktemp("ranges")
    cheap = ("--bcrypt-cost", "4")
    with (
        running(etcd_command, folder / "etcd", (*cheap, "--unsafe-no-fsync")) as reference,
        running(subject_command, folder / "subject", cheap) as subject,
    ):
        both = Asked(Client(reference.channel())), Asked(Client(subject.channel()))
        for each in both:
            each.prepare()
        yield both
        for each in both:
            each.client.close()


@given(granted=grants, asked=st.lists(spans, min_size=1, max_size=4))
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_is_allowed_is_what_is_granted(
    servers: tuple[Asked, Asked],
    granted: list[tuple[auth.Permission.Type, Span]],
    asked: list[Span],
) -> None:
    reference, subject = servers
    reference.grant(granted)
    subject.grant(granted)
    for span in asked:
        readable = _covered([each for kind, each in granted if kind != WRITE], span)
        writable = _covered([each for kind, each in granted if kind != READ], span)
        expected = dict.fromkeys(("range", "compare", "nested compare", "watch"), readable)
        expected["delete"] = writable
        seen = subject.allowed(span)
        note(f"{granted} {span}: {seen}")
        assert seen == expected
        of_etcd = reference.allowed(span)
        if span[1] == OPEN:
            # GHSA-xg4h-6gfc-h4m8, fixed in 3.5.33: a right to the key was one to all after it.
            del of_etcd["watch"], seen["watch"]
        assert seen == of_etcd


def test_a_right_to_a_range_that_no_key_is_in_needs_its_first_key(
    subject_command: Sequence[str], start_member: StartMember
) -> None:
    """Of etcd's answers there is no rule: they depend on the form of the tree of its ranges."""
    subject = Asked(Client(start_member(subject_command, "--bcrypt-cost", "4").channel()))
    subject.prepare()
    subject.grant([(BOTH, (b"b", b"c"))])
    request = rpc.RangeRequest(key=b"b", range_end=b"a")
    assert subject.client.call("Range", request, subject.user).code == "OK"
    request = rpc.RangeRequest(key=b"c", range_end=b"b")
    assert subject.client.call("Range", request, subject.user).code == "PERMISSION_DENIED"
    subject.client.close()
