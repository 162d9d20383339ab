"""How long a cluster does not serve: a client that writes all the time and notes each answer."""

import itertools
import threading
import time

import grpc

from rusd.pb import rpc_pb2 as rpc
from tests.cluster.calls import Connection
from tests.members import Cluster, wait_for

TRY_SECONDS = 0.2
"""After this the client asks the next member."""


class SteadyWriter:
    """One client with one connection a member; it puts, one write at a time."""

    def __init__(self, cluster: Cluster) -> None:
        """Start to write."""
        self._cluster = cluster
        self._answered: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def await_writes(self, count: int, seconds: float = 30.0) -> None:
        """Wait until `count` more writes are acknowledged."""
        known = len(self._answered)
        wait_for(lambda: len(self._answered) >= known + count, seconds, f"{count} steady writes")

    def longest_gap(self, since: float) -> float:
        """The longest time between two acknowledged writes, of those that end after `since`."""
        answered = list(self._answered)
        gaps = [(after - before) for before, after in itertools.pairwise(answered) if after > since]
        return max(gaps)

    def stop(self) -> None:
        """End the client."""
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        connections = [Connection(member) for member in self._cluster.members]
        place = 0
        while not self._ended.is_set():
            connection = connections[place % len(connections)]
            try:
                connection.ask(rpc.PutRequest(key=b"steady"), rpc.PutResponse, TRY_SECONDS)
                self._answered.append(time.monotonic())
                self._ended.wait(0.005)
            except grpc.RpcError:
                place += 1
                self._ended.wait(0.01)
        for connection in connections:
            connection.close()
