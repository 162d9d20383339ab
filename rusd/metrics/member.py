"""The member in its cluster: who leads, how far the log is, what waits."""

from collections.abc import Collection
from typing import Final

import rusd
from rusd.feature_gates import MEANINGFUL
from rusd.metrics.family import Family, counter, gauge, histogram
from rusd.node.downgrade import minor_version
from rusd.node.pipeline import Pipeline
from rusd.node.quota import DEFAULT
from rusd.node.reads import Reads
from rusd.node.reconfiguration import Reconfiguration

_STAGE: Final = "ALPHA"
"""Of the features that mean something here, in etcd."""


def member_families(
    pipeline: Pipeline,
    reads: Reads,
    reconfiguration: Reconfiguration,
    quota: int,
    features: Collection[str],
) -> list[Family]:
    """`quota` is --quota-backend-bytes, `features` are those that --feature-gates turns on."""
    replica, membership = pipeline.replica, pipeline.applier.membership
    return [
        *_identity(pipeline),
        gauge(
            "etcd_server_has_leader",
            "Whether a leader is known: 1, or 0.",
            lambda: bool(replica.leader),
        ),
        gauge(
            "etcd_server_is_leader",
            "Whether this member leads: 1, or 0.",
            lambda: replica.is_leader,
        ),
        gauge(
            "etcd_server_is_learner",
            "Whether this member is a learner: 1, or 0.",
            lambda: membership.is_learner,
        ),
        counter(
            "etcd_server_leader_changes_seen_total",
            "How often a leader became known that was not the one before.",
            lambda: replica.leader_changes,
        ),
        counter(
            "etcd_server_learner_promote_successes",
            "Learners that became voters through this member.",
            lambda: reconfiguration.promoted,
        ),
        gauge(
            "etcd_server_snapshot_apply_in_progress_total",
            "Whether a snapshot is being put in place: 1, or 0.",
            lambda: replica.installing,
        ),
        counter(
            "etcd_server_heartbeat_send_failures_total",
            "Heartbeats that this member, as leader, sent late by a heartbeat or more.",
            lambda: replica.late_heartbeats,
        ),
        gauge(
            "etcd_server_quota_backend_bytes",
            "The quota for the size of the data; the default of it where it has none.",
            lambda: quota or DEFAULT,
        ),
        gauge(
            "etcd_server_feature_enabled",
            "Whether a feature that --feature-gates names is on: 1, or 0.",
            lambda: {(name, _STAGE): name in features for name in MEANINGFUL},
            ("name", "stage"),
        ),
        *_proposals(pipeline),
        *_reads(reads),
        histogram(
            "rusd_event_loop_lag_seconds",
            "By how much the event loop was late with a heartbeat's tick.",
            lambda: replica.lag,
        ),
    ]


def _identity(pipeline: Pipeline) -> list[Family]:
    replica = pipeline.replica
    return [
        gauge(
            "etcd_server_id",
            "The member's id in hexadecimal, as a label.",
            lambda: {(f"{replica.id:x}",): 1},
            ("server_id",),
        ),
        gauge(
            "etcd_server_version",
            "The version of etcd whose API is served, as a label.",
            lambda: {(rusd.ETCD_VERSION,): 1},
            ("server_version",),
        ),
        gauge(
            "etcd_cluster_version",
            "The cluster's version of etcd, as a label.",
            lambda: {(minor_version(pipeline.applier.downgrade.cluster_version),): 1},
            ("cluster_version",),
        ),
        gauge(
            "rusd_version",
            "The version of rusd, as a label.",
            lambda: {(rusd.__version__,): 1},
            ("version",),
        ),
    ]


def _proposals(pipeline: Pipeline) -> list[Family]:
    replica, raw = pipeline.replica, pipeline.replica.raw
    return [
        gauge(
            "etcd_server_proposals_committed_total",
            "Index of the last entry that is committed.",
            lambda: raw.commit,
        ),
        gauge(
            "etcd_server_proposals_applied_total",
            "Index of the last entry that is applied.",
            lambda: replica.applied,
        ),
        gauge(
            "etcd_server_proposals_pending",
            "Requests of this member's clients that are not applied yet.",
            lambda: pipeline.waiting[0] + pipeline.under_way[1],
        ),
        counter(
            "etcd_server_proposals_failed_total",
            "Requests that timed out, found no room, or were given up as the member stopped.",
            lambda: pipeline.failures,
        ),
        counter(
            "etcd_server_slow_apply_total",
            "Entries that took longer to apply than --warning-apply-duration.",
            lambda: pipeline.slow_applies,
        ),
        histogram(
            "rusd_apply_duration_seconds",
            "Time to apply an entry of this member's own requests.",
            lambda: pipeline.applying,
        ),
        histogram(
            "rusd_batch_requests",
            "Requests that shared an entry, of those that this member proposed.",
            lambda: pipeline.batches,
        ),
        gauge(
            "rusd_waiting_requests",
            "Requests that wait for their entry.",
            lambda: pipeline.waiting[0],
        ),
        gauge(
            "rusd_waiting_request_bytes",
            "Bytes of the requests that wait for their entry.",
            lambda: pipeline.waiting[1],
        ),
        gauge(
            "rusd_batches_under_way",
            "Entries that were proposed here and are not applied yet.",
            lambda: pipeline.under_way[0],
        ),
        counter(
            "rusd_applied_entry_bytes_total",
            "Bytes of the entries that were applied.",
            lambda: pipeline.appended_bytes,
        ),
    ]


def _reads(reads: Reads) -> list[Family]:
    return [
        counter(
            "etcd_server_slow_read_indexes_total",
            "Rounds of linearizable reads that had to be asked for again.",
            lambda: reads.repeated,
        ),
        counter(
            "etcd_server_read_indexes_failed_total",
            "Linearizable reads that failed, for want of a leader or of time.",
            lambda: reads.failures,
        ),
        histogram(
            "rusd_read_round_requests",
            "Linearizable reads that shared a round of the leader with its quorum.",
            lambda: reads.rounds,
        ),
        gauge("rusd_waiting_reads", "Reads that wait for a round.", lambda: reads.waiting),
    ]
