"""How a connection ends whose client is to read the last words. Bytes that the client has under way
would make the kernel reset the connection, and the words would be lost: the server says that no
more comes, and leaves the client a moment to go first.
"""

import asyncio
from typing import Final

LINGER: Final = 1.0
"""Seconds that the client has."""


def end_sending(transport: asyncio.Transport) -> bool:
    """Sends what is written, and its end. Whether that has left the connection open to be read, for
    `LINGER` seconds: elsewhere it is closed, or about to be.
    """
    if transport.is_closing():
        return False
    if not transport.can_write_eof():
        transport.close()
        return False
    try:
        transport.write_eof()
    except OSError:  # the peer has reset the connection, and asyncio has yet to notice
        transport.abort()
        return False
    return True
