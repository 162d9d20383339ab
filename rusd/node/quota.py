"""The space quota: raises the NOSPACE alarm when the data grows over it."""

from collections.abc import Callable
from typing import Final

from rusd.log import Logger
from rusd.node.entry import Kind
from rusd.node.pipeline import Pipeline
from rusd.pb.rpc_pb2 import NOSPACE, AlarmRequest

DEFAULT: Final = 2 << 30
_STRIDE: Final = 1 << 20
"""Bytes of log after which the size is looked at again."""


class Quota:
    """Watches the size of the data against a bound in bytes."""

    def __init__(self, pipeline: Pipeline, size: Callable[[], int], most: int, log: Logger) -> None:
        """`most` is --quota-backend-bytes: 0 for the default, negative for no quota."""
        self._pipeline, self._size, self._log = pipeline, size, log
        self._most = most or DEFAULT
        self._next = 0
        if most >= 0:
            pipeline.after_apply.append(self._check)

    def _check(self) -> None:
        """One comparison an entry. The data grows with the log, by about two bytes for one, so that
        the alarm comes a few strides late at most.
        """
        pipeline = self._pipeline
        if NOSPACE in pipeline.applier.alarms:
            self._next = 0  # to look as soon as the alarm is cleared
        elif pipeline.appended_bytes >= self._next:
            self._next = pipeline.appended_bytes + _STRIDE
            size = self._size()
            if size > self._most:
                self._raise_alarm(size)

    def _raise_alarm(self, size: int) -> None:
        self._log.warn("raising an alarm: the quota is exceeded", size=size, quota=self._most)
        member = self._pipeline.applier.membership.local_id
        request = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=member, alarm=NOSPACE)
        self._pipeline.propose(Kind.ALARM, request.SerializeToString(), request, None, 0)
