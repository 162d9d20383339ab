"""rusd/gateway/front.py: hosts and origins that may ask, and where requests go."""

from collections.abc import Sequence

import pytest

from rusd.gateway.front import Front
from rusd.wire.http import HeaderFields, HttpExchange, HttpListener, HttpRequest, HttpResponse


class Exchange:
    """Keeps the answer."""

    def __init__(self, secure: bool) -> None:
        self.headers: list[tuple[str, str]] = []
        self.listener: HttpListener | None = None
        self.secure, self.congested, self.answered = secure, False, False
        self.response = HttpResponse(0)

    def respond(self, response: HttpResponse) -> None:
        self.response = response

    def begin(self, status: int, headers: HeaderFields) -> None:
        raise AssertionError(status, headers)

    def write(self, data: bytes) -> None:
        raise AssertionError(data)

    def end(self) -> None:
        raise AssertionError


def gateway(_request: HttpRequest, exchange: HttpExchange) -> None:
    exchange.respond(HttpResponse(200, b"gateway"))


def others(_request: HttpRequest, exchange: HttpExchange) -> None:
    exchange.respond(HttpResponse(200, b"others"))


def ask(
    path: str = "/v3/kv/range",
    method: str = "POST",
    *,
    hosts: Sequence[str] = ("*",),
    origins: Sequence[str] = ("*",),
    secure: bool = False,
    **headers: str,
) -> Exchange:
    exchange = Exchange(secure)
    front = Front(hosts, origins, gateway, others)
    front.handle(HttpRequest(method, path, headers=headers), exchange)
    return exchange


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v3/kv/range", b"gateway"),
        ("/v3/", b"gateway"),
        ("/v3beta/kv/range", b"gateway"),
        ("/v3", b"others"),
        ("/v3alpha/kv/range", b"others"),
        ("/health", b"others"),
    ],
)
def test_where_requests_go(path: str, expected: bytes) -> None:
    assert ask(path).response.body == expected


def test_without_a_gateway_its_paths_are_like_any() -> None:
    without = Front((), (), None, others)
    exchange = Exchange(False)
    without.handle(HttpRequest("POST", "/v3/kv/range"), exchange)
    assert exchange.response.body == b"others"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("good", True),
        ("good:2379", True),
        ("[::1]:2379", True),
        ("[::1]", True),
        ("Good", False),
        ("evil", False),
        ("good:port", False),
        ("::1", True),
        ("", False),
    ],
)
def test_hosts(host: str, allowed: bool) -> None:
    restricted = ask(hosts=("good", "::1"), host=host)
    assert restricted.response.status == (200 if allowed else 421)
    assert ask(hosts=("good", "::1"), host=host, secure=True).response.status == 200
    for everything in ((), ("*",), ("good", "*")):
        assert ask(hosts=everything, host=host).response.status == 200


def test_who_is_not_known_is_told_what_to_do() -> None:
    refused = ask(hosts=("good",), host="evil:1", method="OPTIONS", origin="http://a")
    assert b'--host-whitelist "evil"' in refused.response.body
    assert refused.headers == []


@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (("*",), "http://any", "*"),
        ((), "http://any", "*"),
        (("http://a:1",), "http://a:1", "http://a:1"),
        (("http://a:1", "http://b:2"), "http://b:2", "http://b:2"),
        (("http://a:1",), "http://A:1", None),
        (("http://a:1",), "http://b:1", None),
    ],
)
def test_origins(method: str, origins: tuple[str, ...], origin: str, allowed: str | None) -> None:
    exchange = ask(method=method, origins=origins, origin=origin)
    found = dict(exchange.headers)
    assert found.get("Access-Control-Allow-Origin") == allowed
    assert ("Access-Control-Allow-Methods" in found) == (allowed is not None)
    assert exchange.response == (
        HttpResponse(200, b"", "") if method == "OPTIONS" else HttpResponse(200, b"gateway")
    )
