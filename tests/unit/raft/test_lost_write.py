"""A schedule in which an acknowledged write can be lost, and the library that loses it.

Of A, F and G, A leads. F was away, and is sent the log in several messages; it acknowledges them,
and some are under way twice, in order, as on one connection. A write is on A and F, a majority, and
its client is told so. Then one more of the messages that are under way twice reaches F, and A is
lost for good. F and G are a majority: they must still have the write.

A follower that takes a message for all that there is after its first entry deletes the rest
(figure 2, AppendEntries 3 says: only what conflicts). PySyncObj 0.3.17 does so. It was the other
way to replicate rusd, and is why rusd has a Raft core of its own.
"""

import collections
import sys
from collections.abc import Callable, Iterator

import pysyncobj.syncobj
import pytest
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from rusd.raft.message import MessageKind
from tests.unit.raft.network import ELECTION, Network

A, F, G = 1, 2, 3


def test_write_that_was_acknowledged_survives() -> None:
    net = Network((A, F, G), max_message_bytes=0)
    leader = net.elect(A)
    net.isolate(F)
    leader.propose(*(b"old-%d" % number for number in range(10)))
    net.settle()
    assert leader.node.commit == leader.node.last_index

    # G goes away, F comes back. A finds out what F has, and queues the rest, a message an entry.
    net.isolate(G)
    leader.node.report_unreachable(F)
    leader.propose(b"precious")
    net.deliver(MessageKind.APPEND)
    net.deliver(MessageKind.APPEND_REPLY)
    first_copy = [m for m in net.in_flight if m.kind == MessageKind.APPEND]
    assert len(first_copy) >= 10
    # A takes its messages for lost, and begins to send them once more.
    leader.node.report_unreachable(F)
    leader.propose(b"later")
    second_copy = [m for m in net.in_flight if m.kind == MessageKind.APPEND][len(first_copy) :]
    assert second_copy
    assert second_copy[0].entries == first_copy[0].entries

    # F takes all of the first copy, A hears so, commits, and answers the client.
    net.in_flight.clear()
    for message in first_copy:
        net[F].step(message)
    net.deliver(MessageKind.APPEND_REPLY)
    assert b"precious" in leader.values

    # One more message reaches F, and A is gone.
    net[F].step(second_copy[0])
    net.heal()
    net.isolate(A)
    assert net[F].node.last_index == first_copy[-1].entries[-1].index
    net.tick(5 * ELECTION)
    for member in (F, G):
        assert net[member].values == leader.values


class Clock:
    """Time as the test has it pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class InOrder(Transport):
    """Delivers messages when the test says so, in the order in which they were sent."""

    network: dict[str, "InOrder"] = {}
    ready = True

    def __init__(self, sync_obj: SyncObj, me: Node, others: list[Node]) -> None:
        super().__init__(sync_obj, me, others)
        self.me = me
        self.inbox: dict[str, collections.deque[object]] = collections.defaultdict(
            collections.deque
        )
        self.network[me.id] = self

    def waitReady(self) -> None:  # noqa: N802 - PySyncObj's name
        """Is ready."""

    def addNode(self, node: Node) -> None:  # noqa: N802
        """Knows all."""

    def dropNode(self, node: Node) -> None:  # noqa: N802
        """Keeps all."""

    def destroy(self) -> None:
        """Has nothing to close."""

    def send(self, node: Node, message: object) -> bool:
        self.network[node.id].inbox[self.me.id].append(message)
        return True

    def deliver(self, sender: Node, count: int = sys.maxsize) -> None:
        queue = self.inbox[sender.id]
        while queue and count:
            self._onMessageReceived(sender, queue.popleft())
            count -= 1


class Store(SyncObj):
    """A replicated dictionary."""

    def __init__(self, node: Node, others: list[Node]) -> None:
        self.data: dict[str, str] = {}
        conf = SyncObjConf(
            autoTick=False,
            raftMinTimeout=0.4,
            raftMaxTimeout=0.5,
            appendEntriesPeriod=0.05,
            appendEntriesBatchSizeBytes=64,
        )
        super().__init__(node, others, conf=conf, transportClass=InOrder)

    @replicated
    def put(self, key: str, value: str) -> None:
        self.data[key] = value


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", clock)
    yield clock
    InOrder.network.clear()


def connect(one: Node, other: Node, connected: bool = True) -> None:
    for me, peer in ((one, other), (other, one)):
        transport = InOrder.network[me.id]
        (transport._onNodeConnected if connected else transport._onNodeDisconnected)(peer)


def until(condition: Callable[[], bool], step: Callable[[], None]) -> None:
    for _ in range(1000):
        if condition():
            return
        step()
    raise AssertionError("the schedule did not get there")


def test_pysyncobj_loses_it(clock: Clock) -> None:
    node_a, node_f, node_g = nodes = [Node("A"), Node("F"), Node("G")]
    a, f, g = (Store(node, [other for other in nodes if other != node]) for node in nodes)
    net = InOrder.network

    def run(one: Store, other: Store) -> None:
        for store in (one, other):
            clock.now += 0.01
            store.doTick(0)
            net[other.selfNode.id].deliver(one.selfNode)
            net[one.selfNode.id].deliver(other.selfNode)

    # A leads and commits ten writes with G; F is away.
    connect(node_a, node_g)
    clock.now += 1
    a.doTick(0)
    until(a._isLeader, lambda: run(a, g))
    for number in range(10):
        a.put(f"old-{number}", "value")
    until(lambda: len(a.data) == 10, lambda: run(a, g))

    # G goes away, F comes back. A queues the log for F, in several messages.
    connect(node_a, node_g, connected=False)
    net["F"].inbox.clear()
    connect(node_a, node_f)
    results: list[int] = []
    a.put("precious", "value", callback=lambda _, reason: results.append(reason))
    for _ in range(2):
        clock.now += 0.06
        a.doTick(0)
    first_copy = len(net["F"].inbox["A"])

    # What F acknowledges makes A queue the rest a second time.
    net["F"].deliver(node_a, 1)
    net["A"].deliver(node_f, 1)
    clock.now += 0.06
    a.doTick(0)

    # F takes all of the first copy, A hears so, commits, and answers the client.
    net["F"].deliver(node_a, first_copy - 1)
    net["A"].deliver(node_f)
    until(lambda: bool(results), lambda: a.doTick(0))
    assert results == [FAIL_REASON.SUCCESS]
    held = f._getRaftLogSize()

    # One more message reaches F, and A is gone.
    net["F"].deliver(node_a, 1)
    assert f._getRaftLogSize() < held
    connect(node_a, node_f, connected=False)
    net["F"].inbox.clear()
    net["G"].inbox.clear()
    connect(node_f, node_g)
    until(lambda: f._isLeader() or g._isLeader(), lambda: run(f, g))
    for _ in range(100):
        run(f, g)
    assert "old-9" in g.data
    assert "precious" not in f.data
    assert "precious" not in g.data
