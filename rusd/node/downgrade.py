"""The version of etcd that the cluster goes by, and the downgrade that lowers it.

A downgrade is a job of the whole cluster: it is in the log and in the state table, so every member
knows it, also after a restart or a snapshot. While it is there, the cluster's version is its target
(docs/decisions/0017-downgrade.md says what that means here, and what it does not).
"""

import re
from typing import Final

import rusd
from rusd.pb.rpc_pb2 import DowngradeInfo, DowngradeResponse

_VERSION: Final = re.compile(
    r"([0-9]{1,18})\.([0-9]{1,18})(?:\.[0-9]{1,18}(?:-[0-9A-Za-z.-]*)?(?:\+[0-9A-Za-z.-]*)?)?",
    re.ASCII,
)


class DowngradeError(Exception):
    """A step of a downgrade that cannot be taken."""


class InvalidTargetError(DowngradeError):
    """The target is not the minor version before the cluster's."""


class InProgressError(DowngradeError):
    """There is a downgrade already."""


class NotInProgressError(DowngradeError):
    """There is none to cancel."""


def cluster_version(text: str) -> str | None:
    """The version of a cluster that a version names: "3.6", "3.6.4" and "3.6.0-rc.1" are "3.6.0",
    for a cluster's has no patch. None for what is no version.
    """
    found = _VERSION.fullmatch(text)
    return None if found is None else _joined(int(found[1]), int(found[2]))


_OWN: Final = rusd.ETCD_VERSION.rpartition(".")[0] + ".0"


class Downgrade:
    """The downgrade of a cluster, or that there is none."""

    ROW: Final = b"downgrade"

    def __init__(self, row: bytes | None) -> None:
        self.info = DowngradeInfo.FromString(row or b"")
        """As the log said last."""

    @property
    def cluster_version(self) -> str:
        """Major and minor version, and 0: "3.7.0"."""
        return self.info.targetVersion if self.info.enabled else _OWN

    @property
    def answer(self) -> bytes:
        """A DowngradeResponse's body: the cluster's version, as etcd says it since 3.6: "3.7"."""
        return DowngradeResponse(version=minor_version(self.cluster_version)).SerializeToString()

    def check_target(self, target: str) -> None:
        """Raises a DowngradeError where there can be no downgrade to `target`, a cluster's version.

        To repeat what is under way is no invalid target, though the cluster's version is there
        already.
        """
        repeats = self.info.enabled and target == self.info.targetVersion
        if target != _before(self.cluster_version) and not repeats:
            raise InvalidTargetError
        if self.info.enabled:
            raise InProgressError

    def check_cancel(self) -> None:
        """Raises NotInProgressError where there is nothing to cancel."""
        if not self.info.enabled:
            raise NotInProgressError

    def apply(self, info: DowngradeInfo) -> bytes:
        """Takes what the log says, whatever there was. Returns what is stored of it."""
        self.info = info
        return info.SerializeToString(deterministic=True)


def minor_version(version: str) -> str:
    """A cluster's version without the 0."""
    return version.rpartition(".")[0]


def _before(version: str) -> str:
    """The minor version before a cluster's."""
    major, minor, _ = version.split(".")
    return _joined(int(major), int(minor) - 1)


def _joined(major: int, minor: int) -> str:
    return f"{major}.{minor}.0"
