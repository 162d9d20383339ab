"""Concurrent clients of a cluster, and the history of what they asked and were told.

Each client asks one member until that fails, then the next. Every operation has a deadline; a write
that failed has an unknown outcome, unless no connection was there to send it on.
"""

import base64
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc

from rusd.pb import rpc_pb2 as rpc
from tests.cluster.calls import SECONDS, Connection
from tests.cluster.load import Change, Record
from tests.linearizability import (
    Answer,
    Compare,
    Delete,
    Get,
    Operation,
    Put,
    Txn,
    check,
)
from tests.members import Cluster, Member, wait_for

PREFIX = b"w/"
"""All keys that the workload writes begin so."""
CLIENTS = 6
JOIN_SECONDS = 30.0
_PAUSE_SECONDS = 0.02
_ETCDCTL_PAUSE_SECONDS = 0.2


@dataclass
class History:
    """What all clients did. `check` may be called when they have stopped."""

    record: Record = field(default_factory=Record)
    operations: list[Operation] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    """How often which error was seen."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def acknowledged(self) -> int:
        """How many writes were acknowledged."""
        return len(self.record.acknowledged)

    def add(self, operation: Operation) -> None:
        """Add one operation, answered or not."""
        with self._lock:
            self.operations.append(operation)

    def add_error(self, text: str) -> None:
        """Count an error."""
        with self._lock:
            self.errors[text] = self.errors.get(text, 0) + 1

    def check(self) -> None:
        """Raise NotLinearizableError if no order explains the answers."""
        check(self.operations)

    def __str__(self) -> str:
        """One line for a report."""
        unknown = sum(each.returned is None for each in self.operations)
        return (
            f"{len(self.operations)} operations, {self.acknowledged} acknowledged writes,"
            f" {unknown} of unknown outcome"
        )


class Workload:
    """Clients in threads. Its keys are new ones for every `name`, so that histories stay short."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        seed: int,
        name: str,
        clients: int = CLIENTS,
        value_bytes: int = 0,
        etcdctl: Path | None = None,
    ) -> None:
        """Start the clients; `value_bytes` is how long values are at least. With `etcdctl`, one
        client more is that program.
        """
        self._cluster = cluster
        self._history = history
        self._name = name
        self._value_bytes = value_bytes
        certificates = cluster.certificates
        self._environment = {**os.environ, **(certificates.etcdctl if certificates else {})}
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run, args=(number, Random(f"{seed}/{name}/{number}")), daemon=True
            )
            for number in range(clients)
        ]
        if etcdctl is not None:
            self._threads.append(
                threading.Thread(target=self._run_etcdctl, args=(etcdctl, clients), daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def await_writes(self, count: int, seconds: float = 30.0) -> None:
        """Wait until `count` more writes are acknowledged."""
        known = self._history.acknowledged
        wait_for(
            lambda: self._history.acknowledged >= known + count,
            seconds,
            f"{count} writes; errors: {self._history.errors}",
        )

    def stop(self) -> None:
        """End the clients and wait for their last answers."""
        self._ended.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
            assert not thread.is_alive(), "a client got no answer and no error"

    def _run(self, number: int, random: Random) -> None:
        connections: dict[str, Connection] = {}
        place = number
        try:
            for count in itertools.count():
                if self._ended.is_set():
                    return
                member = self._member(place)
                connection = connections.get(member.name)
                if connection is None or connection.member is not member:
                    connection = connections[member.name] = Connection(member)
                value = f"{self._name}/{number}/{count} ".encode()
                value += bytes(max(random.randrange(200), self._value_bytes))
                if not self._execute(connection, number, random, value):
                    place += 1
                self._ended.wait(random.uniform(0, _PAUSE_SECONDS))
        finally:
            for connection in connections.values():
                connection.close()

    def _run_etcdctl(self, etcdctl: Path, client: int) -> None:
        """Put and get one key, with all members as endpoints."""
        key = f"{PREFIX.decode()}{self._name}/etcdctl"
        for count in itertools.count():
            if self._ended.is_set():
                return
            put = Put(key, f"{self._name}/etcdctl/{count}".encode())
            changes = frozenset({(key.encode(), put.value)})
            self._history.record.attempt(changes)
            invoked = time.monotonic()
            answer = self._etcdctl(etcdctl, "put", key, put.value.decode())
            if answer is None:
                self._history.add(Operation(put, invoked, client=client))
            else:
                revision = answer["header"]["revision"]
                self._done(put, invoked, Answer(revision), client)
                self._history.record.acknowledge(revision, changes)
            invoked = time.monotonic()
            answer = self._etcdctl(etcdctl, "get", key)
            if answer is not None:
                got = Answer(answer["header"]["revision"])
                for found in answer.get("kvs", ()):
                    value = base64.b64decode(found["value"])
                    got = Answer(got.revision, value=value, mod=found["mod_revision"])
                self._done(Get(key), invoked, got, client)
            self._ended.wait(_ETCDCTL_PAUSE_SECONDS)

    def _etcdctl(self, etcdctl: Path, *arguments: str) -> dict[str, Any] | None:
        ran = subprocess.run(
            [
                etcdctl,
                f"--endpoints={self._cluster.endpoints}",
                f"--command-timeout={SECONDS:g}s",
                "--write-out=json",
                *arguments,
            ],
            env=self._environment,
            capture_output=True,
            check=False,
            timeout=JOIN_SECONDS,
        )
        if ran.returncode != 0:
            self._history.add_error("etcdctl")
            return None
        answer: dict[str, Any] = json.loads(ran.stdout)
        return answer

    def _member(self, place: int) -> Member:
        members: Sequence[Member] = self._cluster.members
        return members[place % len(members)]

    def _execute(self, connection: Connection, client: int, random: Random, value: bytes) -> bool:
        """One random operation; False if it failed."""
        pair = random.randrange(6)
        first, second = (f"{PREFIX.decode()}{self._name}/{pair}{side}" for side in "ab")
        if random.random() < 0.5:
            first, second = second, first
        kind = random.random()
        if kind < 0.3:
            return self._put(connection, client, Put(first, value))
        if kind < 0.6:
            return self._get(connection, client, Get(first))
        if kind < 0.7:
            return self._delete(connection, client, Delete(first))
        return self._txn(connection, client, random, first, second, value)

    def _put(self, connection: Connection, client: int, put: Put) -> bool:
        changes = frozenset({(put.key.encode(), put.value)})
        self._history.record.attempt(changes)
        request = rpc.PutRequest(key=put.key.encode(), value=put.value)
        invoked = time.monotonic()
        try:
            answer = connection.ask(request, rpc.PutResponse)
        except grpc.RpcError as error:
            self._fail(Operation(put, invoked, client=client), error)
            return False
        revision = answer.header.revision
        self._done(put, invoked, Answer(revision=revision), client)
        self._history.record.acknowledge(revision, changes)
        return True

    def _get(self, connection: Connection, client: int, get: Get) -> bool:
        invoked = time.monotonic()
        try:
            answer = connection.ask(rpc.RangeRequest(key=get.key.encode()), rpc.RangeResponse)
        except grpc.RpcError as error:
            self._fail(None, error)
            return False
        self._done(get, invoked, _got(answer, answer.header.revision), client)
        return True

    def _delete(self, connection: Connection, client: int, delete: Delete) -> bool:
        changes: frozenset[Change] = frozenset({(delete.key.encode(), None)})
        self._history.record.attempt(changes)
        request = rpc.DeleteRangeRequest(key=delete.key.encode())
        invoked = time.monotonic()
        try:
            answer = connection.ask(request, rpc.DeleteRangeResponse)
        except grpc.RpcError as error:
            self._fail(Operation(delete, invoked, client=client), error)
            return False
        revision = answer.header.revision
        self._done(delete, invoked, Answer(revision, deleted=answer.deleted), client)
        if answer.deleted:
            self._history.record.acknowledge(revision, changes)
        return True

    def _txn(
        self,
        connection: Connection,
        client: int,
        random: Random,
        first: str,
        second: str,
        value: bytes,
    ) -> bool:
        """Read a key; if it is unchanged then, write it and write, delete or read the other."""
        invoked = time.monotonic()
        try:
            read = connection.ask(rpc.RangeRequest(key=first.encode()), rpc.RangeResponse)
        except grpc.RpcError as error:
            self._fail(None, error)
            return False
        got = _got(read, read.header.revision)
        self._done(Get(first), invoked, got, client)

        other: Put | Delete | Get = (Put(second, value), Delete(second), Get(second))[
            random.randrange(3)
        ]
        txn = Txn(
            (Compare(first, mod=got.mod or 0),),
            (Put(first, value), other),
            (Get(first), Get(second)),
        )
        self._history.record.attempt(_changes(txn.success, (Answer(), Answer(deleted=1))))
        invoked = time.monotonic()
        try:
            response = connection.ask(_request(txn), rpc.TxnResponse)
        except grpc.RpcError as error:
            self._fail(Operation(txn, invoked, client=client), error)
            return False
        answers = tuple(_answer(each) for each in response.responses)
        revision = response.header.revision
        answer = Answer(revision, succeeded=response.succeeded, answers=answers)
        self._done(txn, invoked, answer, client)
        if response.succeeded:
            self._history.record.acknowledge(revision, _changes(txn.success, answers))
        return True

    def _done(
        self, request: Put | Get | Delete | Txn, invoked: float, answer: Answer, client: int
    ) -> None:
        self._history.add(Operation(request, invoked, time.monotonic(), answer, client))

    def _fail(self, operation: Operation | None, error: grpc.RpcError) -> None:
        """Note an operation that got an error: it may have happened, unless it was never sent."""
        text = error.details() or ""
        self._history.add_error(f"{error.code().name} {text.split(';')[0]}")
        if operation is not None and not (
            error.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect to all" in text
        ):
            self._history.add(operation)


def _got(answer: rpc.RangeResponse, revision: int | None = None) -> Answer:
    if not answer.kvs:
        return Answer(revision)
    return Answer(revision, value=answer.kvs[0].value, mod=answer.kvs[0].mod_revision)


def _answer(response: rpc.ResponseOp) -> Answer:
    if response.HasField("response_range"):
        return _got(response.response_range)
    if response.HasField("response_delete_range"):
        return Answer(deleted=response.response_delete_range.deleted)
    return Answer()


def _request(txn: Txn) -> rpc.TxnRequest:
    return rpc.TxnRequest(
        compare=[
            rpc.Compare(key=each.key.encode(), target=rpc.Compare.MOD, mod_revision=each.mod or 0)
            for each in txn.compares
        ],
        success=[_operation(each) for each in txn.success],
        failure=[_operation(each) for each in txn.failure],
    )


def _operation(request: Put | Get | Delete) -> rpc.RequestOp:
    key = request.key.encode()
    if isinstance(request, Put):
        return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=request.value))
    if isinstance(request, Delete):
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key))


def _changes(
    requests: Sequence[Put | Get | Delete], answers: Sequence[Answer]
) -> frozenset[Change]:
    changes: set[Change] = set()
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(request, Put):
            changes.add((request.key.encode(), request.value))
        elif isinstance(request, Delete) and answer.deleted:
            changes.add((request.key.encode(), None))
    return frozenset(changes)
