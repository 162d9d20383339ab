"""Two ends of TLS in memory."""

import ssl
from contextlib import suppress

from rusd.tls.context import dial_context, server_context
from rusd.tls.settings import Settings


def shaken_pair(
    server: Settings, client: Settings, host: str = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Server and client after their handshake. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepted = server_context(server).wrap_bio(up, down, server_side=True)
    dialed = dial_context(client).wrap_bio(down, up, server_hostname=host)
    for _ in range(3):
        for end in (dialed, accepted):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert accepted.version() is not None
    assert dialed.version() is not None
    return accepted, dialed
