"""Patroni's store of a PostgreSQL cluster's state, over the JSON gateway, with its cache that a
watch fills: ends with status 0 if all went well; argument: the port.
"""

import sys
import time

from patroni.dcs import Leader, get_dcs


def until(what: str, done: bool) -> bool:
    """Poll: False until it holds; raises after 20 seconds."""
    if not done:
        assert time.monotonic() < DEADLINE, what
        time.sleep(0.05)
    return done


DEADLINE = time.monotonic() + 20
store = get_dcs(
    {
        "etcd3": {"hosts": [f"127.0.0.1:{sys.argv[1]}"]},
        "scope": "compat",
        "namespace": "/patroni/",
        "name": "one",
        "ttl": 30,
        "loop_wait": 10,
        "retry_timeout": 10,
    }
)
assert store.initialize(create_new=True, sysid="7000")
assert not store.initialize(create_new=True, sysid="7001")
assert store.set_config_value('{"ttl":30}')
assert store.touch_member({"conn_url": "postgres://one:5432", "role": "primary"})
assert store.attempt_to_acquire_leader()
cluster = store.get_cluster()
while not until("the leader is seen", cluster.leader is not None):
    cluster = store.get_cluster()
assert isinstance(cluster.leader, Leader)
assert cluster.leader.name == "one"
assert cluster.initialize == "7000"
assert [member.name for member in cluster.members] == ["one"]
assert store.update_leader(cluster, 123, None, None)
store.refresh_lease()
assert store.manual_failover("one", "two")
while not until("the failover is seen", store.get_cluster().failover is not None):
    pass
failover = store.get_cluster().failover
assert failover is not None
assert failover.candidate == "two"
assert store.delete_leader(store.get_cluster().leader)
while not until("the leader is gone", store.get_cluster().leader is None):
    pass
assert store.delete_cluster()
