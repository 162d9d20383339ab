"""How a client behaves: counts what costs the server more than the client, and ends the connection
when it is too much (RFC 9113 section 10.5).
"""

from typing import Final

from rusd.wire.frames import ConnectionFault, ErrorCode
from rusd.wire.limits import Limits, TokenBucket


class Conduct:
    """The record of one client. Every method raises ConnectionFault at the limit."""

    IDLE_PING_TIME: Final = 7200.0
    """Between pings of a client without calls: etcd does not permit keep-alive without calls."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._resets = TokenBucket(limits.reset_burst, limits.reset_rate, now)
        self._control = TokenBucket(limits.control_burst, limits.control_rate, now)
        self._last_ping = float("-inf")
        self._strikes = 0

    def control(self, now: float) -> None:
        """A frame that is cheap to send and carries no request."""
        if not self._control.take(now):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def reset(self, now: float) -> None:
        """A stream that ended before its answer, by the client's wish or fault (rapid reset)."""
        if not self._resets.take(now):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many streams reset")

    def ping(self, now: float, *, answered: bool, idle: bool) -> None:
        """A PING, judged by grpc-go's rule as etcd sets it.

        `answered`: the server has sent headers or data since the last one; clients measure the
        bandwidth so. `idle`: no call is open.
        """
        limits = self._limits
        if limits.keepalive_min_time <= 0:
            return
        if answered:
            self._strikes = 0
        elif now - self._last_ping < (self.IDLE_PING_TIME if idle else limits.keepalive_min_time):
            self._strikes += 1
        self._last_ping = now
        if self._strikes > limits.max_ping_strikes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
