"""Logs reads that took long. Writes are logged where they are applied."""

import time

from rusd.duration import format_duration
from rusd.log import Logger
from rusd.pb.rpc_pb2 import RangeRequest


class SlowReads:
    """Knows how long a read may take (--warning-unary-request-duration), in seconds."""

    def __init__(self, threshold: float, log: Logger) -> None:
        self._threshold, self._log = threshold, log

    def check(self, request: RangeRequest, began: float, size: int) -> None:
        """Logs a read that began (on the monotonic clock) too long ago; `size` is its answer's."""
        took = time.monotonic() - began
        if took > self._threshold:
            self._log.warn(
                "read took too long",
                took=format_duration(took),
                expected_duration=format_duration(self._threshold),
                key=request.key,
                range_end=request.range_end,
                limit=request.limit,
                revision=request.revision,
                count_only=request.count_only,
                response_size=size,
            )
