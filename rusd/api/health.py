"""gRPC's health service, with etcd's one name: "", the whole member."""

from typing import Final

from google.protobuf.message import DecodeError

from rusd.api import errors
from rusd.api.parsing import parsed
from rusd.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from rusd.wire.grpc import Code, Status
from rusd.wire.service import Call, StreamHandler, StreamMethod, UnaryMethod
from rusd.wire.stream import Stream

_SERVICE: Final = "/grpc.health.v1.Health/"
_UNKNOWN: Final = Status(Code.NOT_FOUND, "unknown service")


def _response(status: HealthCheckResponse.ServingStatus) -> bytes:
    return HealthCheckResponse(status=status).SerializeToString()


class Health:
    """Says that the member serves, until it stops."""

    def __init__(self) -> None:
        self.status = HealthCheckResponse.SERVING
        self.watches: set[_Watch] = set()

    def methods(self) -> list[UnaryMethod | StreamMethod]:
        return [
            UnaryMethod(_SERVICE + "Check", self.check),
            StreamMethod(_SERVICE + "Watch", self._open),
        ]

    def check(self, calls: list[Call]) -> None:
        for connection, stream, _, request in parsed(calls, HealthCheckRequest.FromString):
            if request.service:
                connection.fail(stream, _UNKNOWN)
            else:
                connection.reply(stream, _response(self.status))

    def stop(self) -> None:
        """Tells those who watch that the member stops."""
        self.status = HealthCheckResponse.NOT_SERVING
        for watch in list(self.watches):
            watch.stop()

    def _open(self, stream: Stream) -> StreamHandler:
        return _Watch(self, stream)


class _Watch:
    """One client that wants to hear of changes."""

    def __init__(self, health: Health, stream: Stream) -> None:
        self._health, self._stream = health, stream
        self._known = False

    def message(self, data: bytes) -> None:
        try:
            service = HealthCheckRequest.FromString(data).service
        except DecodeError:
            self._stream.finish(errors.MALFORMED)
            return
        self._known = not service
        # An unknown service may become known, so the stream stays.
        status = self._health.status if self._known else HealthCheckResponse.SERVICE_UNKNOWN
        self._health.watches.add(self)
        self._stream.send(_response(status))

    def stop(self) -> None:
        if self._known:
            self._stream.send(_response(self._health.status))
        self.closed()
        self._stream.finish(errors.STOPPED)

    def half_closed(self) -> None:
        pass

    def closed(self) -> None:
        self._health.watches.discard(self)

    def writable(self) -> None:
        pass
