"""The member in its cluster: who leads, how far the log is, what waits."""

import rusd
from rusd.metrics.family import Family, gauge
from rusd.node.pipeline import Pipeline
from rusd.node.quota import DEFAULT

_CLUSTER_VERSION = rusd.ETCD_VERSION.rsplit(".", 1)[0]


def member_families(pipeline: Pipeline, quota: int) -> list[Family]:
    """`quota` is --quota-backend-bytes."""
    replica, membership = pipeline.replica, pipeline.applier.membership
    raw, store = replica.raw, pipeline.applier.rights.store
    return [
        gauge(
            "etcd_cluster_version",
            "Which version is running. 1 for 'cluster_version' label with current cluster version",
            lambda: {(_CLUSTER_VERSION,): 1},
            ("cluster_version",),
        ),
        gauge(
            "etcd_server_version",
            "Which version is running. 1 for 'server_version' label with current version.",
            lambda: {(rusd.ETCD_VERSION,): 1},
            ("server_version",),
        ),
        gauge(
            "rusd_version",
            "Which version of rusd is running. 1 for 'version' label with current version.",
            lambda: {(rusd.__version__,): 1},
            ("version",),
        ),
        gauge(
            "etcd_server_id",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
            lambda: {(f"{replica.id:x}",): 1},
            ("server_id",),
        ),
        gauge(
            "etcd_server_has_leader",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            lambda: bool(replica.leader),
        ),
        gauge(
            "etcd_server_is_leader",
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            lambda: replica.is_leader,
        ),
        gauge(
            "etcd_server_is_learner",
            "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            lambda: membership.is_learner,
        ),
        gauge(
            "etcd_server_proposals_committed_total",
            "The total number of consensus proposals committed.",
            lambda: raw.commit,
        ),
        gauge(
            "etcd_server_proposals_applied_total",
            "The total number of consensus proposals applied.",
            lambda: replica.applied,
        ),
        gauge(
            "etcd_server_quota_backend_bytes",
            "Current backend storage quota size in bytes.",
            lambda: quota or DEFAULT,
        ),
        gauge(
            "etcd_debugging_auth_revision",
            "The current revision of auth store.",
            lambda: store.revision,
        ),
    ]
