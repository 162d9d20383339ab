"""Distributed tracing through OpenTelemetry: a span for each call, as etcd's gRPC server makes it.

Needs the extra `rusd[tracing]`; imported only with --enable-distributed-tracing. A call that is not
sampled costs a look at its headers, and goes on as it came.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import rusd
from rusd.wire.grpc import Code, Status
from rusd.wire.service import Call, RequestHead, StreamHandler, StreamMethod, UnaryMethod
from rusd.wire.stream import Stream

if TYPE_CHECKING:
    from rusd.wire.connection import Connection

_PARENT: Final = b"traceparent"
_STATE: Final = b"tracestate"
_NOT_SAMPLED: Final = b"-00"
_MILLION: Final = 1_000_000
_EXPORT_SECONDS: Final = 5
_STOP_SECONDS: Final = 2.0
"""What the last spans get when the member stops."""
_FAULTS: Final = frozenset(
    (
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    )
)
"""Codes that are the server's fault: with others a server's span is no error (OpenTelemetry's
semantic conventions for gRPC).
"""


class Tracing:
    """Makes spans of calls, and sends them away on a thread of its own."""

    def __init__(self, address: str, service: str, instance: str, per_million: int) -> None:
        """`address` is the collector's, for OTLP over gRPC without TLS, as etcd's. `per_million`
        calls without a parent are sampled; those with one as their parent is.
        """
        resource = {"service.name": service}
        if instance:
            resource["service.instance.id"] = instance
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(per_million / _MILLION)),
            resource=Resource(resource),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=address, insecure=True, timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("rusd", rusd.__version__)
        self._propagator = TraceContextTextMapPropagator()
        self._roots = per_million > 0

    def stop(self) -> None:
        """Sends what there is, as far as the collector takes it soon. Blocks for so long."""
        # The exporter may try again for longer than a member's end should take.
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(_STOP_SECONDS)

    def streams(self, methods: Sequence[UnaryMethod | StreamMethod]) -> list[Any]:
        """The methods; those that stream make spans. `calls` is for the others."""
        return [
            StreamMethod(method.path, partial(self._open, method))
            if isinstance(method, StreamMethod)
            else method
            for method in methods
        ]

    def calls(self, path: bytes, calls: list[Call]) -> list[Call]:
        """The calls; those that are sampled on connections that end their spans with the answer."""
        if not self._roots:
            last: RequestHead | None = None
            for _, _, head, _ in calls:  # one head for all calls of a client, as a rule
                if head is not last:
                    last = head
                    if _PARENT in head.metadata:
                        break
            else:
                return calls
        return [self._call(path, call) for call in calls]

    def _call(self, path: bytes, call: Call) -> Call:
        connection, stream_id, head, message = call
        span = self._span(path, head, connection)
        if span is None:
            return call
        return cast("Connection", _Answered(connection, span)), stream_id, head, message

    def _open(self, method: StreamMethod, stream: Stream) -> StreamHandler:
        span = self._span(method.path.encode(), stream.head, stream.connection)
        if span is None:
            return method.open(stream)
        return _Handler(stream, span, method.open(cast(Stream, _Stream(stream, span))))

    def _span(self, path: bytes, head: RequestHead, connection: "Connection") -> Span | None:
        """None if the call is not sampled."""
        parent = head.metadata.get(_PARENT)
        if parent is None:
            if not self._roots:
                return None
        elif parent.endswith(_NOT_SAMPLED):
            return None
        name = path[1:].decode()
        attributes: dict[str, str | int] = {"rpc.system.name": "grpc", "rpc.method": name}
        local = getattr(connection, "local", None)  # a call from inside has none
        if local is not None:
            attributes["server.address"], attributes["server.port"] = local
        span = self._tracer.start_span(
            name, self._context(head.metadata), SpanKind.SERVER, attributes
        )
        return span if span.is_recording() else None

    def _context(self, metadata: Mapping[bytes, bytes]) -> Context:
        carrier = {
            name.decode(): metadata[name].decode("latin-1")
            for name in (_PARENT, _STATE)
            if name in metadata
        }
        return self._propagator.extract(carrier, Context())


def _end(span: Span, code: int, message: str = "") -> None:
    span.set_attribute("rpc.response.status_code", Code(code).name)
    if code in _FAULTS:
        span.set_status(StatusCode.ERROR, message)
    span.end()


class _Answered:
    """What a service may ask of a connection."""

    __slots__ = ("_connection", "_span")

    def __init__(self, connection: "Connection", span: Span) -> None:
        self._connection, self._span = connection, span

    @property
    def common_name(self) -> str | None:
        return self._connection.common_name

    def reply(self, stream_id: int, message: bytes) -> None:
        _end(self._span, Code.OK)
        self._connection.reply(stream_id, message)

    def fail(self, stream_id: int, status: Status) -> None:
        _end(self._span, status.code, status.message)
        self._connection.fail(stream_id, status)


class _Stream:
    """What a service may ask of a stream."""

    __slots__ = ("_span", "_stream", "connection", "head", "send")

    def __init__(self, stream: Stream, span: Span) -> None:
        self._stream, self._span = stream, span
        self.head, self.connection, self.send = stream.head, stream.connection, stream.send

    def finish(self, status: Status | None = None) -> None:
        if self.closed or self.ending is not None:
            return
        _end(self._span, *(status or (Code.OK,)))
        self._stream.finish(status)

    @property
    def closed(self) -> bool:
        return self._stream.closed

    @property
    def ending(self) -> bytes | None:
        return self._stream.ending

    @property
    def congested(self) -> bool:
        return self._stream.congested


class _Handler:
    """Ends the span of a call that its client ends."""

    def __init__(self, stream: Stream, span: Span, handler: StreamHandler) -> None:
        self._stream, self._span, self._handler = stream, span, handler
        self.message = handler.message
        self.half_closed = handler.half_closed
        self.writable = handler.writable

    def closed(self) -> None:
        code = getattr(self._stream, "code", Code.CANCELLED)  # a call from inside has none
        _end(self._span, code)
        self._handler.closed()
