"""Every bound that a connection is held to, and the token bucket that counts floods."""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Bounds and times for all connections of one server. Bytes and seconds."""

    max_message_bytes: int = 1572864 + 512 * KIB
    """One request message, compressed or not (etcd: --max-request-bytes and 512 KiB)."""

    max_concurrent_streams: int = 2**32 - 1
    """What the operator allows on one connection (etcd's flag and default)."""

    stream_ceiling: int = 16384
    """What one connection may have open whatever the operator allows; a stream costs 1 KiB."""

    max_header_list_bytes: int = 16 * KIB
    """A request's header list, counted as RFC 9113 section 6.5.2 counts it; beyond it HTTP 431."""

    max_continuations: int = 32
    """CONTINUATION frames of one header block."""

    max_partial_bytes: int = 96 * MIB
    """Bytes of unfinished request messages that one connection may have stored here."""

    large_message_budget: int = 16 * MIB
    """Bytes of messages over 64 KiB that one connection may be sending at a time; others wait."""

    receive_window: int = 4 * MIB
    """Connection-level receive window (RFC 9113 section 6.9); stream windows stay at 65,535."""

    stream_high_water: int = 1 * MIB
    """A stream with more unsent bytes is congested."""

    stream_low_water: int = 256 * KIB
    """A congested stream is writable again below this."""

    send_buffer_high: int = 2 * MIB
    """Unsent bytes in the transport at which the server stops reading from the peer."""

    send_buffer_low: int = 512 * KIB
    """Unsent bytes in the transport at which it reads again."""

    max_waiting_replies: int = 64 * MIB
    """Bytes that wait for the peer's flow-control windows; beyond it new streams are refused, and
    further answers become RESOURCE_EXHAUSTED."""

    frames_per_slice: int = 1000
    """Frames parsed before other connections get their turn (about 5 ms of the loop)."""

    handshake_timeout: float = 10.0
    """From accept to the client's SETTINGS (or HTTP/1.1 request), and for one header block."""

    settings_timeout: float = 10.0
    """For the acknowledgement of our SETTINGS (RFC 9113 section 6.5.3)."""

    idle_http1_timeout: float = 120.0
    """For the next HTTP/1.1 request on a kept connection."""

    keepalive_min_time: float = 5.0
    """Pings more often are strikes (etcd: --grpc-keepalive-min-time); 0 allows all."""

    keepalive_interval: float = 7200.0
    """Silence after which the server pings (etcd: --grpc-keepalive-interval); 0 is off."""

    keepalive_timeout: float = 20.0
    """Silence after that ping which closes the connection (etcd: --grpc-keepalive-timeout)."""

    check_interval: float = 1.0
    """Between two looks at the times above; they are late by as much."""

    max_ping_strikes: int = 2
    """Pings too early that are forgiven, as in grpc-go."""

    reset_burst: int = 1000
    """Streams reset, by the client or for its errors, at once (rapid reset) ..."""

    reset_rate: float = 100.0
    """... and a second, in the long run."""

    control_burst: int = 1000
    """SETTINGS, PING and empty DATA frames at once ..."""

    control_rate: float = 100.0
    """... and a second, in the long run."""

    max_http1_head_bytes: int = 16 * KIB
    """Request line and headers of an HTTP/1.1 request."""

    max_http1_body_bytes: int = 1572864 + 512 * KIB
    """Body of an HTTP/1.1 request."""

    @property
    def streams(self) -> int:
        """Streams that one connection may have open."""
        return min(self.max_concurrent_streams, self.stream_ceiling)


class TokenBucket:
    """Counts events against a burst and a long-run rate (events a second)."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, burst: int, rate: float, now: float) -> None:
        self._burst = float(burst)
        self._rate = rate
        self._tokens = float(burst)
        self._updated = now

    def take(self, now: float) -> bool:
        """Count one event at `now` (seconds, monotonic); False when it is one too many."""
        grown = self._tokens + (now - self._updated) * self._rate
        self._updated = now
        self._tokens = min(self._burst, grown) - 1.0
        return self._tokens >= 0.0
