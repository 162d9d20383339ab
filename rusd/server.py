"""The composition root: opens what the rooms need and connects them."""

import asyncio
import faulthandler
import gc
import math
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import uvloop

import rusd
from rusd.api.answers import Answers, Headers
from rusd.api.auth import AuthService
from rusd.api.checks import Checks
from rusd.api.cluster import Cluster
from rusd.api.downgrade import DowngradeService
from rusd.api.election import Election
from rusd.api.gate import Gate
from rusd.api.health import Health
from rusd.api.http import Http, version
from rusd.api.identities import Identities
from rusd.api.kv import KV
from rusd.api.lease import LeaseService
from rusd.api.lock import Lock
from rusd.api.maintenance import Maintenance
from rusd.api.reflection import Reflection
from rusd.api.slow import SlowReads
from rusd.api.snapshot import Snapshot
from rusd.api.watch import Watch
from rusd.auth.passwords import DEFAULT_COST, LEAST_COST, MOST_COST, Passwords
from rusd.auth.provider import TokenOptionsError, provider
from rusd.backup.source import Backups
from rusd.config import Config, ConfigError, Url
from rusd.feature_gates import COMPACT_HASH_CHECK, INITIAL_CORRUPT_CHECK
from rusd.gateway.front import Front
from rusd.gateway.late import LateGateway
from rusd.lease.lessor import Lessor
from rusd.log import Logger, log_loop_exceptions, open_logger, standard_logger
from rusd.metrics.calls import CallMetrics, check_families
from rusd.metrics.disk import disk_families
from rusd.metrics.exposition import Exposition
from rusd.metrics.keyspace import keyspace_families
from rusd.metrics.member import member_families
from rusd.metrics.peers import peer_families
from rusd.metrics.process import process_families
from rusd.mvcc.tables import DamagedTableError, damage_in
from rusd.mvcc.watch import Watchers
from rusd.node.apply import Applier
from rusd.node.auto_compaction import AutoCompaction, Periodic, Policy, Revisions
from rusd.node.bootstrap import (
    BootstrapError,
    DamagedDataError,
    identify,
    recover,
    wal_directory,
)
from rusd.node.compactor import Compactor
from rusd.node.connections import Connections
from rusd.node.corruption import CorruptDataError, Corruption
from rusd.node.damage import Damage, advice
from rusd.node.leases import Leases
from rusd.node.membership import Membership
from rusd.node.peer_connection import PeerLimits
from rusd.node.peer_wire import Purpose
from rusd.node.peers import Peers, ask
from rusd.node.pipeline import Limits as PipelineLimits
from rusd.node.pipeline import Pipeline
from rusd.node.publication import publish
from rusd.node.quota import Quota
from rusd.node.reads import Reads
from rusd.node.reconfiguration import Reconfiguration
from rusd.node.renewals import Renewals
from rusd.node.replica import Replica
from rusd.node.room import Room
from rusd.node.snapshots import Snapshots
from rusd.node.transfer import Transfer
from rusd.node.truncation import Truncation
from rusd.raft.message import Config as RaftConfig
from rusd.raft.raw_node import RawNode
from rusd.signals import stop_on_signals
from rusd.storage.engine import Engine
from rusd.storage.folders import lock_directory
from rusd.storage.format import claim
from rusd.storage.wal import DamagedLogError, Wal
from rusd.supervisor import READY, STOPPING, tell
from rusd.tls.errors import TlsError
from rusd.wire.http import HttpHandler
from rusd.wire.limits import Limits
from rusd.wire.loopback import Loopback
from rusd.wire.server import Protocols, Secure, Server
from rusd.wire.timing import Timer

if TYPE_CHECKING:
    from rusd.profiling.pages import Pages
    from rusd.tls.dialing import Dialing
    from rusd.tls.handshakes import Handshakes
    from rusd.tracing import Tracing

_GRPC_OVERHEAD = 512 * 1024
"""What a gRPC message may have over --max-request-bytes."""


_DRAIN_SECONDS = 5.0
"""How long calls that are under way may go on when the member stops."""


def run(config: Config) -> int:
    """Runs a member until SIGTERM or SIGINT. Returns the process's exit code, for a signal its
    number, negative, as subprocess does.
    """
    # Where the process is when native code crashes, for the report.
    faulthandler.enable()
    log = open_logger(config)
    try:
        return uvloop.run(_serve(config, log))
    except (
        DamagedLogError,
        DamagedDataError,
        BootstrapError,
        CorruptDataError,
        TlsError,
        TokenOptionsError,
        OSError,
    ) as error:
        log.fatal("failed to start or to go on", error=error, **advice(error))
        return 1
    except Exception as error:
        if not isinstance(damage_in(error), DamagedTableError):
            raise
        log.fatal("failed to start or to go on", error=error, **advice(error))
        return 1
    finally:
        log.close()


async def _serve(config: Config, log: Logger) -> int:
    loop = asyncio.get_running_loop()
    log_loop_exceptions(loop, log)
    _log_start(config, log)
    tracing = _tracing(config, log)
    stop: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not stop.done():
            stop.set_result(code)

    stop_on_signals(loop, log, end)

    def fail(error: Exception) -> None:
        log.error(
            "a write or an applied entry failed; the member stops",
            error=error,
            stacktrace="".join(traceback.format_exception(error)),
            **advice(error),
        )
        end(1)

    data = Path(config.data_dir)
    lock = lock_directory(data)
    older = claim(data)
    if older is not None:
        log.info("took over data of an older format", format=older)
    token_provider = provider(config.auth_token, config.auth_token_ttl)
    for notice in token_provider.notices:
        log.warn(notice)
    tls = _tls(config, log)
    engine = Engine(data / "member")
    wal = Wal(wal_directory(data, config.wal_dir), sync=not config.unsafe_no_fsync)
    lessor = Lessor(time.monotonic)
    identity = None
    if Membership.load(engine.tables.state) is None:
        identity = await identify(config, partial(ask, secure=tls.dial))
    applier, persisted = recover(
        engine, wal, lessor, identity, log, force_new_cluster=config.force_new_cluster
    )
    keyspace, membership = applier.keyspace, applier.membership
    damage = Damage(log)
    keyspace.on_damage = damage.report

    raw = RawNode(_raft(config, membership.local_id), persisted)
    replica = Replica(raw, wal, log, config.heartbeat_interval, fail)
    peers = _peers(config, membership, replica, tls.dial, log, end)
    authority = applier.authority
    headers = Headers(membership.cluster_id, membership.local_id)
    replica.on_leader_change.append(lambda: headers.set_term(raw.term))
    pipeline = Pipeline(
        applier,
        replica,
        Answers(headers),
        log,
        PipelineLimits(
            request_timeout=_request_timeout(config),
            slow_apply=config.warning_apply_duration,
            slow_request=config.warning_unary_request_duration,
        ),
    )
    connections = Connections(replica, peers)
    pipeline.connected, pipeline.reaches = connections.since, connections.is_reachable
    reads = Reads(replica, _request_timeout(config))
    threads = ThreadPoolExecutor(2, thread_name_prefix="background")
    snapshots = _snapshots(applier, engine, replica, peers, log)
    Truncation(
        pipeline, engine.flush, threads, log, config.snapshot_count, lambda: snapshots.needed
    )
    compactor = Compactor(
        keyspace, config.compaction_sleep_interval, log, fail, config.compaction_batch_limit
    )
    applier.on_compact = compactor.start
    compactor.start()
    snapshots.on_swap.append(lambda _: compactor.restart())
    Quota(pipeline, engine.size, config.quota_backend_bytes, log)
    leases = Leases(pipeline, lessor, config.election_timeout)
    renewals = Renewals(pipeline, reads, peers, lessor, leases)
    transfer = Transfer(replica, membership, _request_timeout(config), connections.is_reachable)
    room = Room(pipeline, transfer, log)
    identities = Identities(applier, replica)
    slow = SlowReads(config.warning_unary_request_duration, log)
    kv = KV(
        pipeline,
        reads,
        compactor,
        headers,
        slow,
        config.max_request_bytes,
        config.max_txn_ops,
        identities,
    )
    watchers = Watchers(keyspace)
    pipeline.after_apply.append(watchers.notify)
    snapshots.on_swap.append(watchers.catch_up)
    watch = Watch(
        keyspace,
        watchers,
        headers,
        config.max_request_bytes + _GRPC_OVERHEAD,
        config.watch_progress_notify_interval,
        identities,
    )
    lease = LeaseService(
        pipeline,
        reads,
        renewals,
        lessor,
        leases,
        headers,
        _min_lease_ttl(config),
        identities,
    )
    maintenance = Maintenance(
        pipeline, engine, compactor, threads, transfer, headers, config.quota_backend_bytes, log
    )
    downgrades = DowngradeService(pipeline, reads, headers, log)
    snapshot = Snapshot(Backups(engine), log)
    corruption = Corruption(pipeline, reads, peers, compactor, log)
    reconfiguration = Reconfiguration(
        pipeline, peers, config.strict_reconfig_check, config.max_learners
    )
    cluster = Cluster(reconfiguration, reads, headers)
    passwords = Passwords(_bcrypt_cost(config, log))
    auth = AuthService(pipeline, reads, authority, passwords, headers, log)
    leases.start()
    policy = _auto_compaction(config)
    if policy is not None:
        AutoCompaction(policy, pipeline, log).start()
    gate = Gate(replica, membership, identities, config.election_timeout)
    locks, elections, health = Lock(), Election(), Health()
    methods = [
        *kv.methods(),
        *watch.methods(),
        *lease.methods(),
        *maintenance.methods(),
        *downgrades.methods(),
        *snapshot.methods(),
        *cluster.methods(),
        *auth.methods(),
        *locks.methods(),
        *elections.methods(),
        *health.methods(),
    ]
    reflection = Reflection(method.path for method in methods)
    checks = Checks(pipeline, reads, damage)
    exposition = Exposition(
        [
            *member_families(
                pipeline,
                reads,
                reconfiguration,
                config.quota_backend_bytes,
                config.feature_gates,
            ),
            *keyspace_families(applier, watchers, watch, lessor, compactor, maintenance),
            *disk_families(wal, engine, applier, maintenance, snapshot),
            *peer_families(peers, snapshots, membership.local_id),
            *check_families(checks),
        ],
        process_families(),
        lambda error: log.error("metrics could not be gathered", error=error),
    )
    monitored = {**checks.routes(), "/metrics": exposition.handle}
    pages = _pages(config)
    profiling = pages.routes() if pages is not None else {}
    versions = version(lambda: applier.downgrade.cluster_version)
    others = Http({**monitored, **profiling, "/version": versions})
    served = gate.guard([*methods, *reflection.methods()])
    server = Server(
        served if tracing is None else tracing.streams(served),
        _front(config, others.handle, lambda: server.loopback, log).handle,
        _limits(config),
        standard_logger(log, "rusd.wire"),
    )
    if tracing is not None:
        server.turn.tracer = tracing.calls
    if config.metrics == "extensive":
        server.turn.timer = Timer()
    paths = [method.path for method in methods]
    exposition.families += CallMetrics(server, paths, server.turn.timer).families()
    gate.bind(server.turn)
    locks.attendants.bind(server.loopback)
    elections.attendants.bind(server.loopback)
    pipeline.after_apply.append(server.flush)
    reads.after_answers = server.flush

    for url in config.listen_peer_urls:
        await peers.listen(url.host, url.port, tls.for_peers(url))
        log.info("listening for other members", address=f"{url.host}:{url.port}")
    monitoring = Server((), Http(monitored).handle, _limits(config), server.log)
    for url in config.listen_metrics_urls:
        secure = tls.for_clients(url)
        await monitoring.listen(url.host, url.port, secure, protocols=Protocols.HTTP)
        log.info("serving metrics", address=f"{url.host}:{url.port}")
    _calm_garbage_collector()
    _share_the_interpreter()
    joined = loop.create_task(_join(config, pipeline, reads, corruption))
    await asyncio.wait((joined, stop), return_when=asyncio.FIRST_COMPLETED)
    if joined.done():
        joined.result()
        authority.tokens = token_provider.tokens(authority.store, lambda: replica.applied)
        for url, protocols in _client_urls(config):
            secure = tls.for_clients(url)
            await server.listen(url.host, url.port, secure, protocols=protocols)
            how = "securely" if secure else "insecurely; this is strongly discouraged!"
            log.info(f"serving client traffic {how}", address=f"{url.host}:{url.port}")
        log.info("ready to serve client requests")
        _tell(READY, log)
    joined.cancel()
    code = await stop
    failed = code > 0
    log.info("stopping")
    _tell(STOPPING, log)
    if not failed:
        await transfer.away()
        # Who waits for a leader would wait in vain.
        replica.on_leader_change.append(lambda: _give_up(pipeline, reads))
        _give_up(pipeline, reads)
    if pages is not None:
        pages.stop()
    health.stop()
    locks.attendants.stop()
    elections.attendants.stop()
    watch.stop()
    await snapshot.stop()
    lease.stop()
    tls.stop()
    corruption.stop()
    room.stop()
    await server.drain(0 if failed else _DRAIN_SECONDS)
    await monitoring.close()
    exposition.stop()
    if not failed:
        leases.stop()
        await pipeline.stop(_DRAIN_SECONDS)
    await snapshots.stop()
    await peers.stop()
    if tracing is not None:
        await loop.run_in_executor(threads, tracing.stop)
    if not failed:
        await loop.run_in_executor(threads, engine.flush)
    threads.shutdown()
    passwords.stop()
    wal.close()
    del keyspace
    engine.close()
    os.close(lock)
    log.info("stopped")
    return code


def _tell(state: str, log: Logger) -> None:
    try:
        tell(state)
    except OSError as error:
        log.warn("the service manager does not hear", state=state, error=error)


def _front(
    config: Config, others: HttpHandler, calls: Callable[[], Loopback], log: Logger
) -> Front:
    """What answers plain HTTP requests."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="gateway")

    def load() -> Callable[[], HttpHandler]:
        from rusd.gateway.gateway import Gateway

        return lambda: Gateway(calls(), thread, config.max_request_bytes + _GRPC_OVERHEAD).handle

    def failed(error: Exception) -> None:
        log.error("the gateway could not be loaded", error=error)

    gateway = LateGateway(load, thread, failed).handle if config.enable_grpc_gateway else None
    return Front(config.host_whitelist, config.cors, gateway, others)


def _tracing(config: Config, log: Logger) -> "Tracing | None":
    """Raises ConfigError where tracing is asked for and not installed."""
    if not config.enable_distributed_tracing:
        return None
    try:
        from rusd.tracing import Tracing
    except ImportError as error:
        raise ConfigError(
            f"--enable-distributed-tracing needs more: pip install 'rusd[tracing]' ({error})"
        ) from None
    standard_logger(log, "opentelemetry")
    return Tracing(
        config.distributed_tracing_address,
        config.distributed_tracing_service_name,
        config.distributed_tracing_instance_id,
        config.distributed_tracing_sampling_rate,
    )


def _pages(config: Config) -> "Pages | None":
    """Profiles and stacks over HTTP, where they are asked for."""
    if not config.enable_pprof:
        return None
    from rusd.profiling.pages import Pages

    return Pages()


def _client_urls(config: Config) -> list[tuple[Url, Protocols]]:
    """Where to listen for clients, and to which."""
    if not config.listen_client_http_urls:
        return [(url, Protocols.ALL) for url in config.listen_client_urls]
    return [
        *((url, Protocols.GRPC) for url in config.listen_client_urls),
        *((url, Protocols.HTTP) for url in config.listen_client_http_urls),
    ]


class _Tls(NamedTuple):
    """TLS where URLs ask for it."""

    clients: "Handshakes | None" = None
    peers: "Handshakes | None" = None
    dial: "Dialing | None" = None

    def for_clients(self, url: Url) -> Secure | None:
        """What a listener needs; None where it has no TLS."""
        return _wrap(self.clients, url)

    def for_peers(self, url: Url) -> Secure | None:
        """The same for members."""
        return _wrap(self.peers, url)

    def stop(self) -> None:
        """Ends handshakes."""
        for handshakes in (self.clients, self.peers):
            if handshakes is not None:
                handshakes.stop()


def _wrap(handshakes: "Handshakes | None", url: Url) -> Secure | None:
    if url.scheme != "https":
        return None
    assert handshakes is not None, f"{url} would be served in plain text"
    return handshakes.wrap


def _tls(config: Config, log: Logger) -> _Tls:
    """Reads certificates and keys. Raises TlsError."""
    if not config.uses_tls:
        return _Tls()
    from rusd.tls.settings import check  # a tenth of a second
    from rusd.tls.side import open_clients, open_peers

    check(config)
    return _Tls(open_clients(config, log), *open_peers(config, log))


async def _join(config: Config, pipeline: Pipeline, reads: Reads, corruption: Corruption) -> None:
    """Returns when this member serves: it has a leader, what was committed, and is known."""
    replica = pipeline.replica
    if replica.raw.conf_state.voters == (replica.id,):
        await replica.lead()
    elif config.initial_election_tick_advance:
        replica.hasten(_election_ticks(config) - 2)
    replica.run()
    urls = [url.text for url in config.advertise_client_urls]
    await publish(pipeline, config.name, urls)
    await reads.barrier()
    if INITIAL_CORRUPT_CHECK in config.feature_gates:
        await corruption.check_before_serving()
    checks_compactions = COMPACT_HASH_CHECK in config.feature_gates
    corruption.start(
        config.corrupt_check_time, config.compact_hash_check_time if checks_compactions else 0
    )


def _raft(config: Config, member: int) -> RaftConfig:
    return RaftConfig(
        member,
        election_ticks=_election_ticks(config),
        pre_vote=config.pre_vote,
        random_ticks=random.SystemRandom().randrange,
    )


def _give_up(pipeline: Pipeline, reads: Reads) -> None:
    """Lets a member that stops answer what only a leader could."""
    if not pipeline.replica.leader:
        pipeline.give_up()
        reads.give_up()


def _election_ticks(config: Config) -> int:
    return round(config.election_timeout / config.heartbeat_interval)


def _peers(
    config: Config,
    membership: Membership,
    replica: Replica,
    dial: "Dialing | None",
    log: Logger,
    end: Callable[[int], None],
) -> Peers:
    """Connects the core with the other members, and follows who they are."""

    def removed() -> None:
        if replica.is_leader:
            return  # it removed itself, and goes on until the others know
        log.warn("server error", error="the member has been permanently removed from the cluster")
        log.warn("data-dir used by this member must be removed")
        end(0)

    peers = Peers(
        membership.cluster_id,
        membership.local_id,
        replica.receive,
        replica.unreachable,
        log,
        on_removed=removed,
        peer_urls=[url.text for url in config.initial_advertise_peer_urls],
        limits=PeerLimits(
            read_timeout=config.raft_read_timeout, write_timeout=config.raft_write_timeout
        ),
        secure=dial,
    )
    replica.send = peers.send

    def follow() -> None:
        others = {
            member.ID: list(member.peerURLs)
            for member in membership.members.values()
            if membership.local_id != member.ID
        }
        peers.update(others, membership.removed)
        stop_if_removed()

    def stop_if_removed() -> None:
        if membership.is_removed:
            removed()

    replica.on_conf_change.append(follow)
    replica.on_leader_change.append(stop_if_removed)
    follow()
    return peers


def _snapshots(
    applier: Applier, engine: Engine, replica: Replica, peers: Peers, log: Logger
) -> Snapshots:
    """Sends and receives what the core asks for with SNAPSHOT messages."""
    snapshots = Snapshots(
        applier,
        engine,
        partial(peers.open, purpose=Purpose.SNAPSHOT),
        replica.snapshot_ended,
        replica.receive_snapshot,
        log,
    )
    snapshots.wanted = replica.wants_snapshot
    replica.send_snapshot = snapshots.send
    peers.accept(Purpose.SNAPSHOT, snapshots.receive)
    return snapshots


def _request_timeout(config: Config) -> float:
    """Seconds that a request waits at most: etcd's."""
    return 5.0 + 2 * config.election_timeout


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


def _min_lease_ttl(config: Config) -> int:
    """Seconds: one and a half election timeouts, so that a lease outlives a change of leader."""
    return math.ceil(1.5 * config.election_timeout)


def _bcrypt_cost(config: Config, log: Logger) -> int:
    if LEAST_COST <= config.bcrypt_cost <= MOST_COST:
        return config.bcrypt_cost
    log.warn(
        "use default bcrypt cost instead of the invalid given cost",
        **{
            "min-cost": LEAST_COST,
            "max-cost": MOST_COST,
            "default-cost": DEFAULT_COST,
            "given-cost": config.bcrypt_cost,
        },
    )
    return DEFAULT_COST


def _auto_compaction(config: Config) -> Policy | None:
    if config.auto_compaction_period:
        return Periodic(config.auto_compaction_period, time.monotonic())
    if config.auto_compaction_revisions:
        return Revisions(config.auto_compaction_revisions)
    return None


def _limits(config: Config) -> Limits:
    return Limits(
        max_message_bytes=config.max_request_bytes + _GRPC_OVERHEAD,
        # In JSON a message is a third longer, or more.
        max_http1_body_bytes=2 * (config.max_request_bytes + _GRPC_OVERHEAD),
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
