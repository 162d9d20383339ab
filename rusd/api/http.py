"""What the client port answers over HTTP beside the gateway, by path."""

import json
from collections.abc import Callable, Mapping

import rusd
from rusd.wire.http import HttpExchange, HttpHandler, HttpRequest, HttpResponse


class Http:
    """Hands a request to who answers its path; 404 for the others."""

    def __init__(self, routes: Mapping[str, HttpHandler]) -> None:
        self._routes = routes

    def handle(self, request: HttpRequest, exchange: HttpExchange) -> None:
        """Answers one request, now or later."""
        route = self._routes.get(request.path)
        if route is None:
            exchange.respond(HttpResponse(404, b"404 page not found\n"))
        else:
            route(request, exchange)


def get_only(handle: HttpHandler) -> HttpHandler:
    """Refuses all methods but GET, HEAD too, as etcd does on these paths."""

    def guarded(request: HttpRequest, exchange: HttpExchange) -> None:
        if request.method == "GET":
            handle(request, exchange)
        else:
            exchange.respond(
                HttpResponse(405, b"Method Not Allowed\n", headers=(("Allow", "GET"),))
            )

    return guarded


def version(of_cluster: Callable[[], str]) -> HttpHandler:
    """/version: this server's, and that of the cluster as it is then, which its data have too."""

    def show(_: HttpRequest, exchange: HttpExchange) -> None:
        cluster = of_cluster()
        versions = {"etcdserver": rusd.ETCD_VERSION, "etcdcluster": cluster, "storage": cluster}
        body = json.dumps(versions, separators=(",", ":")).encode()
        exchange.respond(HttpResponse(200, body, "application/json"))

    return get_only(show)
