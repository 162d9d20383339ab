"""Ids of members and clusters, computed as etcd computes them."""

import hashlib
from collections.abc import Iterable


def member_id(peer_urls: Iterable[str], cluster_token: str, added_at: int | None = None) -> int:
    """Id of a member: of its peer URLs and the cluster's token; and, for one that is added to a
    running cluster, of the time of adding in seconds since the epoch.
    """
    text = "".join(sorted(peer_urls)) + cluster_token
    if added_at is not None:
        text += str(added_at)
    return int.from_bytes(hashlib.sha1(text.encode()).digest()[:8], "big")


def cluster_id(member_ids: Iterable[int]) -> int:
    """Id of a cluster: of the ids of the members that it began with."""
    packed = b"".join(member.to_bytes(8, "big") for member in sorted(member_ids))
    return int.from_bytes(hashlib.sha1(packed).digest()[:8], "big")
