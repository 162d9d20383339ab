"""etcd3gw (OpenStack's, over the JSON gateway): ends with status 0 if all went well; argument: the
port.
"""

import sys
import threading

import etcd3gw
from etcd3gw.exceptions import InternalServerError


def keys(client: etcd3gw.Etcd3Client) -> None:
    """Put, get, prefixes, compare and replace, delete."""
    assert client.put("gw/a", "1")
    assert client.create("gw/b", "2")
    assert not client.create("gw/b", "3")
    assert client.get("gw/a") == [b"1"]
    assert client.get("gw/none") == []
    found = client.get_prefix("gw/", sort_order="descend", sort_target="key")
    assert [value for value, _ in found] == [b"2", b"1"], found
    assert client.replace("gw/a", "1", "4")
    assert not client.replace("gw/a", "1", "5")
    assert client.delete("gw/a")
    assert not client.delete("gw/a")
    assert client.delete_prefix("gw/")


def watches(client: etcd3gw.Etcd3Client) -> None:
    """Live events, and one event with a deadline."""
    events, cancel = client.watch("gw/w")
    client.put("gw/w", "1")
    client.delete("gw/w")
    first, second = next(events), next(events)
    cancel()
    assert first["kv"]["value"] == b"1", first
    assert second["type"] == "DELETE", second
    threading.Timer(0.5, client.put, ("gw/once", "2")).start()
    assert client.watch_once("gw/once", timeout=20)["kv"]["value"] == b"2"


def leases(client: etcd3gw.Etcd3Client) -> None:
    """A key lives as long as its lease; locks; an error of a method."""
    lease = client.lease(ttl=600)
    client.put("gw/l", "1", lease=lease)
    assert 590 <= lease.ttl() <= 600
    assert lease.refresh() == 600
    assert lease.keys() == [b"gw/l"]
    assert lease.revoke()
    assert client.get("gw/l") == []
    with client.lock("gw-lock", ttl=60) as lock:
        assert lock.is_acquired()
        other = client.lock("gw-lock", ttl=60)
        assert not other.acquire()
    text = ""
    try:
        client.post(client.get_url("/election/leader"), json={"name": "bm9uZQ=="})
    except InternalServerError as error:
        text = str(error.detail_text)
    assert "election: no leader" in text, text


connected = etcd3gw.client(host="127.0.0.1", port=int(sys.argv[1]))
keys(connected)
watches(connected)
leases(connected)
assert connected.status()["version"].startswith("3.")
assert [member["name"] for member in connected.members()] == ["default"]
