"""Calls of clients, over gRPC and from the gateway; and health checks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.descriptor import MethodDescriptor

from rusd.api.checks import Checks
from rusd.metrics.family import Family, Reading, Value, counter, gauge, histogram
from rusd.pb.pool import POOL
from rusd.wire.grpc import Code
from rusd.wire.server import Server
from rusd.wire.timing import Timer

_LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")
_NAMES: Final[dict[int, str]] = {
    **{code: code.name.title().replace("_", "") for code in Code},
    Code.OK: "OK",
    Code.CANCELLED: "Canceled",
}
"""Of codes, as gRPC's Go library has them."""


class CallMetrics:
    """What is counted of calls. All numbers of a scrape are of one moment."""

    def __init__(self, server: Server, paths: Sequence[str], timer: Timer | None) -> None:
        """`paths` are those of all methods; `timer` measures them with --metrics extensive."""
        self._server, self._timer = server, timer
        self._labels = {path.encode(): _labels(path) for path in paths}
        self._unary = {path for path, labels in self._labels.items() if labels[0] == "unary"}
        self._counts = server.counts()

    def families(self) -> list[Family]:
        """In the order in which they are to be read."""
        families = [
            counter("grpc_server_started_total", "Calls that came.", self._started, _LABELS),
            counter(
                "grpc_server_handled_total",
                "Calls that ended, by how they did.",
                self._handled,
                (*_LABELS, "grpc_code"),
            ),
            counter(
                "grpc_server_msg_received_total",
                "Messages of clients.",
                lambda: self._by_method(self._received()),
                _LABELS,
            ),
            counter(
                "grpc_server_msg_sent_total",
                "Messages to clients.",
                lambda: self._by_method(self._sent()),
                _LABELS,
            ),
            gauge(
                "rusd_open_calls",
                "Calls that are under way.",
                lambda: self._by_method(self._counts.open),
                _LABELS,
            ),
            counter(
                "rusd_call_batches_total",
                "Times that calls were handed over together.",
                lambda: self._by_method(self._server.turn.tally.batches),
                _LABELS,
            ),
            gauge(
                "rusd_client_connections",
                "Connections of clients that speak HTTP/2.",
                lambda: len(self._server.connections),
            ),
            counter(
                "etcd_network_client_grpc_received_bytes_total",
                "Bytes of messages of clients.",
                lambda: self._server.bytes_received,
            ),
            counter(
                "etcd_network_client_grpc_sent_bytes_total",
                "Bytes of messages to clients.",
                lambda: self._server.bytes_sent,
            ),
        ]
        timer = self._timer
        if timer is not None:
            seconds = timer.seconds
            families.append(
                histogram(
                    "grpc_server_handling_seconds",
                    "Time from a call to its answer.",
                    lambda: {labels: seconds[path] for path, labels in self._labels.items()},
                    _LABELS,
                )
            )
        return families

    def _started(self) -> Reading:
        self._counts = self._server.counts()
        return self._by_method(self._counts.started)

    def _by_method(self, numbers: Mapping[bytes, int]) -> Reading:
        return {labels: numbers.get(path, 0) for path, labels in self._labels.items()}

    def _handled(self) -> Reading:
        ended = self._counts.ended
        return {
            (*labels, name): ended.get((path, code), 0)
            for path, labels in self._labels.items()
            for code, name in _NAMES.items()
        }

    def _received(self) -> Mapping[bytes, int]:
        """A unary call has one message, as soon as it counts as begun."""
        counts = self._counts
        return {**counts.received, **{path: counts.started[path] for path in self._unary}}

    def _sent(self) -> Mapping[bytes, int]:
        counts = self._counts
        return {**counts.sent, **{path: counts.ended[path, Code.OK] for path in self._unary}}


def _labels(path: str) -> tuple[str, str, str]:
    service, method = path[1:].split("/")
    descriptor: MethodDescriptor = POOL.FindServiceByName(service).methods_by_name[method]
    client, server = descriptor.client_streaming, descriptor.server_streaming
    kind = {
        (False, False): "unary",
        (False, True): "server_stream",
        (True, False): "client_stream",
        (True, True): "bidi_stream",
    }
    return kind[client, server], service, method


def check_families(checks: Checks) -> list[Family]:
    """How often this member was asked for its health, and what it said."""
    return [
        counter(
            "etcd_server_health_success",
            "How often /health was true.",
            lambda: checks.answers[True],
        ),
        counter(
            "etcd_server_health_failures",
            "How often /health was false.",
            lambda: checks.answers[False],
        ),
        gauge(
            "etcd_server_healthcheck",
            "The last result of each check of /livez and /readyz: 1, or 0.",
            lambda: {key: float(succeeded) for key, succeeded in checks.results.items()},
            ("type", "name"),
        ),
        counter(
            "etcd_server_healthchecks_total",
            "How often a check had which result.",
            lambda: dict(_outcomes(checks)),
            ("type", "name", "status"),
        ),
    ]


def _outcomes(checks: Checks) -> Iterator[tuple[tuple[str, str, str], Value]]:
    for (path, name, succeeded), number in checks.outcomes.items():
        yield (path, name, "success" if succeeded else "error"), number
