"""The Maintenance service: a member's state, alarms, hashes and defragmentation."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from time import monotonic
from typing import Final

import rusd
from rusd.api import errors
from rusd.api.answers import Caller, Headers
from rusd.api.parsing import parsed
from rusd.api.slices import run_sliced
from rusd.histogram import LONG_SECONDS, Histogram, exponential
from rusd.log import Logger
from rusd.mvcc.hashing import HashResult, hash_history
from rusd.mvcc.keyspace import Keyspace
from rusd.node.compactor import Compactor
from rusd.node.entry import Kind
from rusd.node.pipeline import Pipeline
from rusd.node.quota import DEFAULT
from rusd.node.transfer import Transfer, TransferError
from rusd.pb.rpc_pb2 import (
    AlarmRequest,
    DefragmentRequest,
    DefragmentResponse,
    HashKVRequest,
    HashKVResponse,
    HashRequest,
    HashResponse,
    MoveLeaderRequest,
    MoveLeaderResponse,
    StatusRequest,
    StatusResponse,
)
from rusd.storage.engine import Engine
from rusd.wire.grpc import Code, Status
from rusd.wire.service import Call, UnaryMethod

_SERVICE: Final = "/etcdserverpb.Maintenance/"
_HASH_SECONDS: Final = exponential(0.01, 2, 15)


class Maintenance:
    """Answers about this member, and tends it."""

    def __init__(
        self,
        pipeline: Pipeline,
        engine: Engine,
        compactor: Compactor,
        background: Executor,
        transfer: Transfer,
        headers: Headers,
        quota: int,
        log: Logger,
    ) -> None:
        """`quota` is --quota-backend-bytes; long work of the engine runs on `background`."""
        self._pipeline, self._engine, self._compactor = pipeline, engine, compactor
        self._background, self._headers, self._log = background, headers, log
        self._quota = quota or DEFAULT
        self._transfer = transfer
        self._transfers: set[asyncio.Task[None]] = set()
        self._keyspace: Keyspace = pipeline.keyspace
        self._defragmentation: asyncio.Future[None] | None = None
        self.defragmentations = Histogram(LONG_SECONDS)
        """Seconds that each took."""
        self.hashes = Histogram(_HASH_SECONDS)
        """Seconds that hashing took: all of Hash, as there is no other."""
        self.hashes_at = Histogram(_HASH_SECONDS)
        """The same of HashKV."""

    @property
    def defragments(self) -> bool:
        """Whether a defragmentation is under way."""
        return self._defragmentation is not None

    def methods(self) -> list[UnaryMethod]:
        return [
            UnaryMethod(_SERVICE + "Status", self.status),
            UnaryMethod(_SERVICE + "Alarm", self.alarm),
            UnaryMethod(_SERVICE + "Hash", self.hash),
            UnaryMethod(_SERVICE + "HashKV", self.hash_kv),
            UnaryMethod(_SERVICE + "Defragment", self.defragment),
            UnaryMethod(_SERVICE + "MoveLeader", self.move_leader),
        ]

    def _header(self) -> bytes:
        return self._headers.at(self._keyspace.revision)

    def status(self, calls: list[Call]) -> None:
        for connection, stream, _, _ in parsed(calls, StatusRequest.FromString):
            applier, raw = self._pipeline.applier, self._pipeline.replica.raw
            membership = applier.membership
            problems = [] if raw.leader else [errors.NO_LEADER.message]
            response = StatusResponse(
                version=rusd.ETCD_VERSION,
                dbSize=self._engine.size(),
                leader=raw.leader,
                raftIndex=raw.commit,
                raftTerm=raw.term,
                raftAppliedIndex=self._keyspace.applied.position,
                errors=[*problems, *applier.alarms.texts()],
                dbSizeInUse=self._engine.size_in_use(),
                isLearner=membership.is_learner,
                # As in etcd it follows the cluster's version: a member that may be replaced by one
                # of the target shows that here.
                storageVersion=applier.downgrade.cluster_version,
                dbSizeQuota=self._quota,
                downgradeInfo=applier.downgrade.info,
            )
            connection.reply(stream, self._header() + response.SerializeToString())

    def alarm(self, calls: list[Call]) -> None:
        for connection, stream, message, request in parsed(calls, AlarmRequest.FromString):
            if request.action == AlarmRequest.GET:
                alarms = self._pipeline.applier.alarms.listing(request.alarm)
                connection.reply(stream, self._header() + alarms)
            else:
                self._pipeline.propose(Kind.ALARM, message, request, connection, stream)

    def hash(self, calls: list[Call]) -> None:
        """The hash of the latest revision; it is not that of a database file, as in etcd."""
        for connection, stream, _, _ in parsed(calls, HashRequest.FromString):
            self._hash(connection, stream, 0, _hash_response, self.hashes)

    def hash_kv(self, calls: list[Call]) -> None:
        for connection, stream, _, request in parsed(calls, HashKVRequest.FromString):
            self._hash(connection, stream, request.revision, _hash_kv_response, self.hashes_at)

    def _hash(
        self,
        caller: Caller,
        tag: int,
        revision: int,
        respond: Callable[[HashResult], HashResponse | HashKVResponse],
        times: Histogram,
    ) -> None:
        """Hashes a slice at a time, once nothing is left to sweep."""
        began = monotonic()

        def done(result: HashResult) -> None:
            times.observe(monotonic() - began)
            caller.reply(tag, self._header() + respond(result).SerializeToString())

        self._compactor.when_swept(
            lambda: run_sliced(
                hash_history(self._keyspace, revision),
                done,
                partial(caller.fail, tag),
                self._keyspace.on_damage,
            )
        )

    def defragment(self, calls: list[Call]) -> None:
        """Compacts the tables beside normal work. Calls that come meanwhile share the answer."""
        for connection, stream, _, _ in parsed(calls, DefragmentRequest.FromString):
            if self._defragmentation is None:
                self._defragmentation = self._start_defragmentation()
            self._defragmentation.add_done_callback(partial(_answer_defragment, connection, stream))

    def _start_defragmentation(self) -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        before, began = self._engine.size(), loop.time()
        self._log.info("starting to defragment", **{"current-db-size-bytes": before})
        future = loop.run_in_executor(self._background, self._engine.compact)

        def finish(_: "asyncio.Future[None]") -> None:
            self._defragmentation = None
            self.defragmentations.observe(loop.time() - began)
            self._log.info(
                "finished defragmenting directory",
                **{
                    "current-db-size-bytes-diff": self._engine.size() - before,
                    "took": loop.time() - began,
                },
            )

        future.add_done_callback(finish)
        return future

    def move_leader(self, calls: list[Call]) -> None:
        for connection, stream, _, request in parsed(calls, MoveLeaderRequest.FromString):
            task = asyncio.get_running_loop().create_task(
                self._move_leader(connection, stream, request.targetID)
            )
            self._transfers.add(task)
            task.add_done_callback(self._transfers.discard)

    async def _move_leader(self, caller: Caller, tag: int, target: int) -> None:
        try:
            await self._transfer.to(target)
        except TransferError as error:
            caller.fail(tag, errors.status_of(error))
        else:
            # etcd sends no header here.
            caller.reply(tag, MoveLeaderResponse().SerializeToString())


def _hash_response(result: HashResult) -> HashResponse:
    return HashResponse(hash=result.hash)


def _hash_kv_response(result: HashResult) -> HashKVResponse:
    return HashKVResponse(
        hash=result.hash,
        compact_revision=result.compacted,
        hash_revision=result.revision,
    )


def _answer_defragment(caller: Caller, tag: int, future: "asyncio.Future[None]") -> None:
    error = future.exception()
    if error is None:
        # etcd sends no header here.
        caller.reply(tag, DefragmentResponse().SerializeToString())
    else:
        caller.fail(tag, Status(Code.UNKNOWN, str(error)))
