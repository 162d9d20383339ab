"""Why there can be no TLS."""

from rusd.config import ConfigError


class TlsError(ConfigError):
    """TLS cannot be had as it is configured; the text names the file or the flag."""
