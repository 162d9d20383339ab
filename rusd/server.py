"""The composition root: opens what the rooms need and connects them."""

import asyncio
import fcntl
import gc
import math
import os
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

import rusd
from rusd.api.answers import Answers, Headers
from rusd.api.cluster import Cluster
from rusd.api.http import Http
from rusd.api.kv import KV
from rusd.api.lease import LeaseService
from rusd.api.maintenance import Maintenance
from rusd.api.slow import SlowReads
from rusd.api.watch import Watch
from rusd.config import Config
from rusd.lease.lessor import Lessor
from rusd.log import Logger, log_loop_exceptions, open_logger, standard_logger
from rusd.mvcc.watch import Watchers
from rusd.node.auto_compaction import AutoCompaction, Periodic, Policy, Revisions
from rusd.node.bootstrap import DamagedDataError, Identity, recover, wal_directory
from rusd.node.compactor import Compactor
from rusd.node.entry import Kind
from rusd.node.identity import cluster_id, member_id
from rusd.node.leases import Leases
from rusd.node.pipeline import Limits as PipelineLimits
from rusd.node.pipeline import Pipeline
from rusd.node.quota import Quota
from rusd.node.truncation import Truncation
from rusd.pb.rpc_pb2 import Member
from rusd.storage.engine import Engine
from rusd.storage.wal import DamagedLogError, Wal
from rusd.wire.limits import Limits
from rusd.wire.server import Server

_GRPC_OVERHEAD = 512 * 1024
"""What a gRPC message may have over --max-request-bytes."""


_DRAIN_SECONDS = 5.0
"""How long calls that are under way may go on when the member stops."""


def run(config: Config) -> int:
    """Runs a member until SIGTERM or SIGINT. Returns the process's exit code."""
    log = open_logger(config)
    try:
        return uvloop.run(_serve(config, log))
    except (DamagedLogError, DamagedDataError, OSError) as error:
        log.fatal("failed to start or to go on", error=error)
        return 1
    finally:
        log.close()


async def _serve(config: Config, log: Logger) -> int:
    loop = asyncio.get_running_loop()
    log_loop_exceptions(loop, log)
    _log_start(config, log)
    stop: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not stop.done():
            stop.set_result(code)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, 0)

    def fail(error: Exception) -> None:
        log.error(
            "a write or an applied entry failed; the member stops",
            error=error,
            stacktrace="".join(traceback.format_exception(error)),
        )
        end(1)

    data = Path(config.data_dir)
    lock = _lock(data)
    engine = Engine(data / "member")
    wal = Wal(wal_directory(data, config.wal_dir), sync=not config.unsafe_no_fsync)
    lessor = Lessor(time.monotonic)
    applier = recover(engine, wal, lessor, _identity(config), log)
    keyspace, membership = applier.keyspace, applier.membership
    headers = Headers(membership.cluster_id, membership.local_id)
    pipeline = Pipeline(
        applier,
        wal,
        Answers(headers),
        log,
        PipelineLimits(
            request_timeout=5.0 + 2 * config.election_timeout,
            slow_apply=config.warning_apply_duration,
            slow_request=config.warning_unary_request_duration,
        ),
        fail,
    )
    threads = ThreadPoolExecutor(2, thread_name_prefix="background")
    Truncation(pipeline, engine.flush, threads, log, config.snapshot_count)
    compactor = Compactor(
        keyspace, config.compaction_sleep_interval, log, fail, config.compaction_batch_limit
    )
    applier.on_compact = compactor.start
    compactor.start()
    Quota(pipeline, engine.size, config.quota_backend_bytes, log)
    leases = Leases(pipeline, lessor)
    pipeline.become_leader()
    headers.set_term(pipeline.term)
    _publish(config, pipeline)
    await pipeline.idle()

    slow = SlowReads(config.warning_unary_request_duration, log)
    kv = KV(pipeline, compactor, headers, slow, config.max_request_bytes, config.max_txn_ops)
    watchers = Watchers(keyspace)
    pipeline.after_apply.append(watchers.notify)
    watch = Watch(
        keyspace,
        watchers,
        headers,
        config.max_request_bytes + _GRPC_OVERHEAD,
        config.watch_progress_notify_interval,
    )
    lease = LeaseService(pipeline, lessor, leases, headers, _min_lease_ttl(config))
    maintenance = Maintenance(
        pipeline, engine, compactor, threads, headers, config.quota_backend_bytes, log
    )
    cluster = Cluster(membership, headers)
    leases.start()
    policy = _auto_compaction(config)
    if policy is not None:
        AutoCompaction(policy, pipeline, log).start()
    server = Server(
        [
            *kv.methods(),
            *watch.methods(),
            *lease.methods(),
            *maintenance.methods(),
            *cluster.methods(),
        ],
        Http(pipeline).answer,
        _limits(config),
        standard_logger(log, "rusd.wire"),
    )
    pipeline.after_apply.append(server.flush)
    for url in config.listen_client_urls:
        await server.listen(url.host, url.port)
        log.info("serving client traffic insecurely", address=f"{url.host}:{url.port}")
    _calm_garbage_collector()
    _share_the_interpreter()
    log.info("ready to serve client requests")
    code = await stop
    log.info("stopping")
    watch.stop()
    lease.stop()
    await server.drain(_DRAIN_SECONDS if code == 0 else 0)
    if code == 0:
        leases.stop()
        await pipeline.stop()
        await loop.run_in_executor(threads, engine.flush)
    threads.shutdown()
    wal.close()
    del keyspace
    engine.close()
    os.close(lock)
    log.info("stopped")
    return code


def _log_start(config: Config, log: Logger) -> None:
    log.info(
        "starting rusd",
        **{
            "rusd-version": rusd.__version__,
            "etcd-version": rusd.ETCD_VERSION,
            "name": config.name,
            "data-dir": config.data_dir,
            "listen-client-urls": [url.text for url in config.listen_client_urls],
            "advertise-client-urls": [url.text for url in config.advertise_client_urls],
        },
    )
    for notice in config.notices:
        log.warn(notice)
    for name in config.ignored:
        log.warn("a flag has no effect in rusd, or not yet", flag=f"--{name}")


def _lock(data: Path) -> int:
    """Makes sure that the data directory has one user. The lock ends with the process."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(data / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise OSError(f"another process uses the data directory {data}") from None
    return lock


def _identity(config: Config) -> Identity:
    urls = [url.text for url in config.initial_advertise_peer_urls]
    member = member_id(urls, config.initial_cluster_token)
    return Identity(cluster_id([member]), Member(ID=member, name=config.name, peerURLs=urls))


def _publish(config: Config, pipeline: Pipeline) -> None:
    """Tells the cluster this member's name and client URLs, where they have changed."""
    membership = pipeline.applier.membership
    known = membership.members[membership.local_id]
    member = Member(
        ID=known.ID,
        name=config.name,
        peerURLs=known.peerURLs,
        clientURLs=[url.text for url in config.advertise_client_urls],
        isLearner=known.isLearner,
    )
    if member != known:
        pipeline.propose(Kind.MEMBER, member.SerializeToString(), member, None, 0)


def _min_lease_ttl(config: Config) -> int:
    """Seconds: one and a half election timeouts, so that a lease outlives a change of leader."""
    return math.ceil(1.5 * config.election_timeout)


def _auto_compaction(config: Config) -> Policy | None:
    if config.auto_compaction_period:
        return Periodic(config.auto_compaction_period, time.monotonic())
    if config.auto_compaction_revisions:
        return Revisions(config.auto_compaction_revisions)
    return None


def _limits(config: Config) -> Limits:
    return Limits(
        max_message_bytes=config.max_request_bytes + _GRPC_OVERHEAD,
        max_concurrent_streams=config.max_concurrent_streams,
        keepalive_min_time=config.grpc_keepalive_min_time,
        keepalive_interval=config.grpc_keepalive_interval,
        keepalive_timeout=config.grpc_keepalive_timeout,
    )


def _calm_garbage_collector() -> None:
    """Keeps the collector from walking what lives as long as the process, again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)


def _share_the_interpreter() -> None:
    """Lets the log's thread have the interpreter soon after a sync.

    It needs it for microseconds, while the loop has work for milliseconds: with the default of 5 ms
    the next entry would wait. Worth about 5% of puts and 10% of transactions on 64 connections.
    """
    sys.setswitchinterval(0.0001)
