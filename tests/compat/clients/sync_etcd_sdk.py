"""etcd-sdk-python (blocking, grpcio): ends with status 0 if all went well; argument: the port."""

import sys

import pyetcd


def keys(client: pyetcd.Etcd3Client) -> None:
    """Put, get, ranges, delete."""
    client.put("sdk/a", "1")
    assert client.put("sdk/a", "2", prev_kv=True).prev_kv.value == b"1"
    value, meta = client.get("sdk/a")
    assert (value, meta.version) == (b"2", 2), (value, meta)
    assert client.get("sdk/none") == (None, None)
    assert client.put_if_not_exists("sdk/b", "3")
    assert not client.put_if_not_exists("sdk/b", "4")
    found = client.get_prefix("sdk/", sort_order="descend")
    assert [value for value, _ in found] == [b"3", b"2"]
    assert client.delete_prefix("sdk/").deleted == 2


def transactions(client: pyetcd.Etcd3Client) -> None:
    """Both branches of a transaction, and compare-and-replace."""
    tx = client.transactions
    client.put("sdk/t", "1")
    for expected, value in ((True, "1"), (False, "x")):
        succeeded, answers = client.transaction(
            compare=[tx.value("sdk/t") == value, tx.version("sdk/t") > 0],
            success=[tx.put("sdk/t", "2"), tx.get("sdk/t")],
            failure=[tx.get("sdk/t")],
        )
        assert succeeded is expected, answers
        assert answers[-1][0][0] == b"2", answers
    assert client.replace("sdk/t", "2", "3")
    assert not client.replace("sdk/t", "2", "4")


def watches(client: pyetcd.Etcd3Client) -> None:
    """History from a revision, then live events, then cancel."""
    first = client.put("sdk/w", "0").header.revision
    events, cancel = client.watch("sdk/w", start_revision=first)
    client.put("sdk/w", "1")
    client.delete("sdk/w")
    seen = [(type(event).__name__, event.value) for _, event in zip(range(3), events, strict=False)]
    cancel()
    assert seen == [("PutEvent", b"0"), ("PutEvent", b"1"), ("DeleteEvent", b"")], seen


def leases(client: pyetcd.Etcd3Client) -> None:
    """A key lives as long as its lease."""
    lease = client.lease(600)
    client.put("sdk/l", "1", lease=lease)
    assert lease.refresh()[0].TTL == 600
    assert list(lease.keys) == [b"sdk/l"]
    assert lease.granted_ttl == 600
    lease.revoke()
    assert client.get("sdk/l") == (None, None)
    with client.lock("sdk/lock", ttl=60) as lock:
        assert lock.is_acquired()


with pyetcd.client(host="127.0.0.1", port=int(sys.argv[1])) as connected:
    keys(connected)
    transactions(connected)
    watches(connected)
    leases(connected)
    assert connected.status().version.startswith("3.")
    assert [member.name for member in connected.members] == ["default"]
