"""The handshakes of those who connect: each has a time, all together have a bound, and who fails is
told of in the log, though not each of a flood.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from rusd.log import Logger
from rusd.tls.admission import Admission
from rusd.tls.files import Reloaded
from rusd.tls.reasons import reason_of
from rusd.tls.transport import TlsTransport

Factory = Callable[[], asyncio.Protocol]

_REMEMBERED: Final = 256
_QUIET_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on handshakes."""

    seconds: float = 10.0
    """From accepting a connection to the end of its handshake and of the checks after it."""
    pending: int = 1024
    """At a time; the oldest goes for the next."""


class Handshakes:
    """Takes TCP connections of one side's listeners, and hands over those that may stay."""

    def __init__(
        self,
        side: str,
        contexts: Reloaded[ssl.SSLContext],
        admission: Admission,
        names_users: bool,
        log: Logger,
        limits: Limits,
    ) -> None:
        self._side, self._contexts, self._admission = side, contexts, admission
        self._names_users, self._log, self._limits = names_users, log, limits
        self._pending: dict[TlsTransport, asyncio.TimerHandle] = {}
        self._checks: set[asyncio.Task[None]] = set()
        self._said: dict[str, float] = {}
        self._unsaid = 0

    def wrap(self, factory: Factory) -> Factory:
        """A factory for a listener of TCP; `factory` makes what gets the secured connections."""
        shaken = partial(self._shaken, factory)
        return lambda: TlsTransport(self._contexts.get(), self._arrived, shaken)

    def stop(self) -> None:
        """End those that are under way."""
        for transport in list(self._pending):
            self._reject(transport, "this member stops")

    def _arrived(self, transport: TlsTransport) -> None:
        transport.names_user = self._names_users
        self._pending[transport] = asyncio.get_running_loop().call_later(
            self._limits.seconds, self._reject, transport, "tls: handshake not finished in time"
        )
        if len(self._pending) > self._limits.pending:
            self._reject(next(iter(self._pending)), "tls: too many handshakes at a time")

    def _shaken(self, factory: Factory, transport: TlsTransport, error: Exception | None) -> None:
        if transport not in self._pending:
            return
        try:
            if error is not None:
                raise error
            self._admission.check(transport.ssl)
        except (OSError, ValueError) as failure:
            self._reject(transport, reason_of(failure))
            return
        if self._admission.wants_address:
            task = asyncio.create_task(self._check_address(factory, transport))
            self._checks.add(task)
            task.add_done_callback(self._checks.discard)
        else:
            self._admit(factory, transport)

    async def _check_address(self, factory: Factory, transport: TlsTransport) -> None:
        try:
            await self._admission.check_address(transport.ssl, transport.address)
        except (OSError, ValueError) as failure:
            self._reject(transport, reason_of(failure))
        else:
            self._admit(factory, transport)

    def _admit(self, factory: Factory, transport: TlsTransport) -> None:
        timer = self._pending.pop(transport, None)
        if timer is not None:
            timer.cancel()
            if not transport.is_closing():
                transport.open(factory())

    def _reject(self, transport: TlsTransport, reason: str) -> None:
        timer = self._pending.pop(transport, None)
        if timer is None:
            return
        timer.cancel()
        transport.close()
        now = asyncio.get_running_loop().time()
        key = f"{transport.address} {reason}"
        quiet = now < self._said.pop(key, 0.0)
        self._said[key] = now + _QUIET_SECONDS
        if len(self._said) > _REMEMBERED:
            del self._said[next(iter(self._said))]
        if quiet:
            self._unsaid += 1
            return
        fields = {"not-logged-before": self._unsaid} if self._unsaid else {}
        self._unsaid = 0
        self._log.warn(
            f"rejected connection on {self._side} endpoint",
            **{"remote-addr": transport.remote, "error": reason, **fields},
        )
