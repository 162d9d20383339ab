"""Connections with TLS that this member makes to others."""

import asyncio
import ssl

from rusd.tls.admission import Admission
from rusd.tls.files import Reloaded
from rusd.tls.reasons import reason_of
from rusd.tls.transport import TlsTransport


class Dialing:
    """Dials with what the files say at that time."""

    def __init__(self, contexts: Reloaded[ssl.SSLContext], admission: Admission) -> None:
        self._contexts, self._admission = contexts, admission

    async def connect(self, host: str, port: int, protocol: asyncio.Protocol) -> None:
        """Connect `protocol` to who proves to be `host`.

        Raises OSError. How long it may take is the caller's to say.
        """
        loop = asyncio.get_running_loop()
        # A value also where it is an error: nobody may be left to await it.
        end: asyncio.Future[Exception | None] = loop.create_future()

        def shaken(_: TlsTransport, error: Exception | None) -> None:
            if not end.done():
                end.set_result(error)

        context = self._contexts.get()
        raw, transport = await loop.create_connection(
            lambda: TlsTransport(context, lambda _: None, shaken, host), host, port
        )
        try:
            error = await end
            if error is not None:
                raise ConnectionError(f"{host}:{port}: {reason_of(error)}")
            if transport.is_closing():
                raise ConnectionResetError(f"{host}:{port}: closed by the other side")
            self._admission.check_names(transport.ssl)
        except BaseException:
            raw.abort()
            raise
        transport.open(protocol)
