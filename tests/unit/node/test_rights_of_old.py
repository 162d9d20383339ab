"""What an identity of an earlier revision of users and roles may: as in etcd, which the random runs
with web tokens (`python -m tests.compat --kind jwt`) hold all of this to.
"""

from collections.abc import Iterator

import pytest

from rusd.auth.errors import AuthOldRevisionError
from rusd.auth.store import AuthStore, Identity
from rusd.lease.lessor import Lessor
from rusd.mvcc.txn import Plan
from rusd.node.rights import Rights
from rusd.pb.auth_pb2 import UserAddOptions
from rusd.pb.rpc_pb2 import PutRequest, RequestOp, TxnRequest

LEASE = 7


@pytest.fixture
def rights() -> Rights:
    """Root and a user, and a lease with a key; auth is on."""
    store, lessor = AuthStore(), Lessor(lambda: 0.0)
    for name in ("root", "one"):
        store.add_user(name, b"", UserAddOptions())
        store.add_role(name)
        store.grant_role(name, name)
    store.enabled = True
    lessor.grant(LEASE, 60, 1)
    lessor.attach(LEASE, b"a")
    return Rights(store, lessor)


def old(rights: Rights, name: str) -> Identity:
    """A user as of before a change of something else."""
    identity = rights.store.identity(name)
    rights.store.add_user("another", b"", UserAddOptions())
    return identity


def shown(rights: Rights, identity: Identity) -> Iterator[None]:
    return rights.shown(identity, [[b"a"]])


def test_root_may_do_with_leases_what_it_wants(rights: Rights) -> None:
    root = old(rights, "root")
    rights.lease(root, LEASE)
    assert list(shown(rights, root)) == []
    with pytest.raises(AuthOldRevisionError):
        rights.put(root, PutRequest(key=b"a", lease=LEASE))


def test_others_may_do_nothing_with_leases_that_have_keys(rights: Rights) -> None:
    one = old(rights, "one")
    with pytest.raises(AuthOldRevisionError):
        rights.lease(one, LEASE)
    with pytest.raises(AuthOldRevisionError):
        list(shown(rights, one))
    rights.lease(one, LEASE + 1)


@pytest.mark.parametrize("depth", [0, 1])
def test_an_empty_transaction_is_everybodys_but_theirs(rights: Rights, depth: int) -> None:
    request = TxnRequest()
    for _ in range(depth):
        request = TxnRequest(failure=[RequestOp(request_txn=request)])
    plan = Plan(request)
    rights.txn(None, plan)
    rights.txn(rights.store.identity("one"), plan)
    for name in ("one", "root"):
        with pytest.raises(AuthOldRevisionError):
            rights.txn(Identity(name, rights.store.revision - 1), plan)
