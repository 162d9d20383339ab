"""What the client port answers over HTTP/1.1."""

import json
from typing import Final

import rusd
from rusd.node.pipeline import Pipeline
from rusd.pb.rpc_pb2 import CORRUPT, NOSPACE
from rusd.wire.http import HttpExchange, HttpRequest, HttpResponse

_CLUSTER_VERSION: Final = rusd.ETCD_VERSION.rsplit(".", 1)[0] + ".0"


class Http:
    """/health and /version."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def handle(self, request: HttpRequest, exchange: HttpExchange) -> None:
        """Answers one request."""
        exchange.respond(self.answer(request))

    def answer(self, request: HttpRequest) -> HttpResponse:
        """The answer to one request."""
        if request.path not in ("/health", "/version"):
            return HttpResponse(404, b"404 page not found\n")
        if request.method not in ("GET", "HEAD"):
            return HttpResponse(405, b"Method Not Allowed\n")
        if request.path == "/health":
            return self._health(request)
        return _json(200, {"etcdserver": rusd.ETCD_VERSION, "etcdcluster": _CLUSTER_VERSION})

    def _health(self, request: HttpRequest) -> HttpResponse:
        alarms = self._pipeline.applier.alarms
        excluded = request.query.split("&")
        for alarm, name in ((NOSPACE, "NOSPACE"), (CORRUPT, "CORRUPT")):
            if alarm in alarms and f"exclude={name}" not in excluded:
                return _json(503, {"health": "false", "reason": f"ALARM {name}"})
        if not self._pipeline.replica.leader:
            return _json(503, {"health": "false", "reason": "RAFT NO LEADER"})
        return _json(200, {"health": "true", "reason": ""})


def _json(status: int, content: dict[str, str]) -> HttpResponse:
    body = json.dumps(content, separators=(",", ":")).encode()
    return HttpResponse(status, body, "application/json")
