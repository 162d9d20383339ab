"""What stands before every plain HTTP request: which host it may ask for, and which web pages may.

Both protect against pages in an administrator's browser: a host name that an attacker lets point to
127.0.0.1 (CVE-2018-5702), and requests from a foreign origin.
"""

from collections.abc import Collection
from typing import Final

from rusd.wire.http import HttpExchange, HttpHandler, HttpRequest, HttpResponse

_EVERY: Final = "*"
_ALLOWED: Final = (
    ("Access-Control-Allow-Headers", "accept, content-type, authorization"),
    ("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE"),
)

# The text is what operators search for.
_MISDIRECTED: Final = """
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist "{}"

This requirement has been added to help prevent "DNS Rebinding" attacks (CVE-2018-5702).

"""


class Front:
    """Hands requests that may pass to the gateway, or to what answers the other paths."""

    def __init__(
        self,
        hosts: Collection[str],
        origins: Collection[str],
        gateway: HttpHandler | None,
        others: HttpHandler,
    ) -> None:
        """`hosts` and `origins` are --host-whitelist and --cors; no `gateway` is without one."""
        self._hosts, self._origins = _restriction(hosts), _restriction(origins)
        self._gateway, self._others = gateway, others

    def handle(self, request: HttpRequest, exchange: HttpExchange) -> None:
        """Answers one request, now or later."""
        host = _host(request.headers.get("host", ""))
        if self._hosts is not None and not exchange.secure and host not in self._hosts:
            text = _MISDIRECTED.format(host)
            exchange.respond(HttpResponse(421, text.encode("latin-1", "replace")))
            return
        exchange.headers += self._cors(request.headers.get("origin"))
        if request.method == "OPTIONS":
            exchange.respond(HttpResponse(200, b"", ""))
        elif request.path.startswith(("/v3/", "/v3beta/")) and self._gateway is not None:
            self._gateway(request, exchange)
        else:
            self._others(request, exchange)

    def _cors(self, origin: str | None) -> list[tuple[str, str]]:
        if self._origins is None:
            allowed = _EVERY
        elif origin is not None and origin in self._origins:
            allowed = origin
        else:
            return []
        return [*_ALLOWED, ("Access-Control-Allow-Origin", allowed)]


def _restriction(names: Collection[str]) -> frozenset[str] | None:
    """None where all are allowed."""
    return None if not names or _EVERY in names else frozenset(names)


def _host(authority: str) -> str:
    """An authority without its port: "h:1" is h, "[::1]:1" is ::1."""
    name, colon, port = authority.rpartition(":")
    if colon and port.isdigit() and (":" not in name or name.endswith("]")):
        authority = name
    if authority.startswith("[") and authority.endswith("]"):
        return authority[1:-1]
    return authority
