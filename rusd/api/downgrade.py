"""Maintenance.Downgrade: lowers the cluster's version by a minor one, and takes that back."""

from functools import partial
from typing import Final

from rusd.api import errors
from rusd.api.answers import Caller, Headers
from rusd.api.parsing import parsed
from rusd.log import Logger
from rusd.node.downgrade import Downgrade, DowngradeError, cluster_version
from rusd.node.entry import Kind
from rusd.node.pipeline import Pipeline
from rusd.node.reads import Reads
from rusd.pb.rpc_pb2 import DowngradeInfo, DowngradeRequest
from rusd.wire.service import Call, UnaryMethod

_PATH: Final = "/etcdserverpb.Maintenance/Downgrade"
_VALIDATE, _ENABLE, _CANCEL = (
    DowngradeRequest.VALIDATE,
    DowngradeRequest.ENABLE,
    DowngradeRequest.CANCEL,
)


class DowngradeService:
    """Judges requests by what the cluster has agreed on, and proposes what they change.

    As in etcd, two that come at the same time may both pass: what is applied last holds.
    """

    def __init__(self, pipeline: Pipeline, reads: Reads, headers: Headers, log: Logger) -> None:
        self._pipeline, self._reads = pipeline, reads
        self._headers, self._log = headers, log

    def methods(self) -> list[UnaryMethod]:
        return [UnaryMethod(_PATH, self.downgrade)]

    def downgrade(self, calls: list[Call]) -> None:
        for connection, stream, _, request in parsed(calls, DowngradeRequest.FromString):
            target = ""
            if request.action in (_VALIDATE, _ENABLE):
                found = cluster_version(request.version)
                if found is None:
                    connection.fail(stream, errors.WRONG_DOWNGRADE_VERSION_FORMAT)
                    continue
                target = found
            elif request.action != _CANCEL:
                connection.fail(stream, errors.UNKNOWN_METHOD)
                continue
            self._reads.wait(partial(self._judge, connection, stream, request.action, target))

    def _judge(
        self, caller: Caller, tag: int, action: int, target: str, error: Exception | None
    ) -> None:
        """Goes on when this member knows all that was agreed on before the request came."""
        if error is not None:
            caller.fail(tag, errors.status_of(error))
            return
        downgrade = self._downgrade
        try:
            if action == _CANCEL:
                downgrade.check_cancel()
            else:
                downgrade.check_target(target)
        except DowngradeError as refusal:
            caller.fail(tag, errors.status_of(refusal))
            return
        if action == _VALIDATE:
            header = self._headers.at(self._pipeline.keyspace.revision)
            caller.reply(tag, header + downgrade.answer)
            return
        info = DowngradeInfo(enabled=action == _ENABLE, targetVersion=target)
        self._log.info(
            "changing the cluster version",
            **{
                "from": downgrade.cluster_version,
                "downgrade-enabled": info.enabled,
                "target-version": target,
            },
        )
        self._pipeline.propose(Kind.DOWNGRADE, info.SerializeToString(), info, caller, tag)

    @property
    def _downgrade(self) -> Downgrade:
        return self._pipeline.applier.downgrade
