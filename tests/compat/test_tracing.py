"""Spans of calls, as a collector of OpenTelemetry gets them from real etcd and from us."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from rusd.pb import rpc_pb2 as rpc
from tests.compat.client import Client
from tests.conftest import StartMember
from tests.members import Member, rusd_command

SECONDS = 30.0
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
NOT_SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)


@dataclass
class Collector(TraceServiceServicer):
    """Takes spans, as `otelcol` does."""

    port: int = 0
    spans: list[Span] = field(default_factory=list)
    resource: dict[str, str] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def Export(  # noqa: N802 - gRPC's name
        self, request: collector.ExportTraceServiceRequest, _context: grpc.ServicerContext
    ) -> collector.ExportTraceServiceResponse:
        """Takes some."""
        with self._changed:
            for resource in request.resource_spans:
                for attribute in resource.resource.attributes:
                    self.resource[attribute.key] = attribute.value.string_value
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self._changed.notify_all()
        return collector.ExportTraceServiceResponse()

    def wait(self, count: int) -> list[Span]:
        """Waits for so many spans."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.spans) >= count, SECONDS)
        return self.spans


@pytest.fixture(name="collectors")
def two_collectors() -> Iterator[list[Collector]]:
    """One for each server."""
    servers, made = [], []
    for _ in range(2):
        taker = Collector()
        server = grpc.server(futures.ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(taker, server)  # type: ignore[no-untyped-call]
        taker.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        made.append(taker)
    yield made
    for server in servers:
        server.stop(0)


def flags(taker: Collector, rate: int, prefix: str = "") -> list[str]:
    """What turns tracing on; `prefix` is before the names until etcd 3.6."""
    return [
        f"--{prefix}enable-distributed-tracing",
        f"--{prefix}distributed-tracing-address=127.0.0.1:{taker.port}",
        f"--{prefix}distributed-tracing-instance-id=one",
        f"--{prefix}distributed-tracing-sampling-rate={rate}",
    ]


def some_calls(member: Member) -> int:
    """Calls that end well and badly, of which one says that it is not sampled. Returns how many of
    them are, where all without a parent are.
    """
    client = Client(member.channel())
    client.call("Put", rpc.PutRequest(key=b"k"), SAMPLED)
    client.call("Range", rpc.RangeRequest(key=b"k"), NOT_SAMPLED)
    client.call("Range", rpc.RangeRequest(key=b"k"))
    client.call("Put", rpc.PutRequest(key=b"k", lease=99), SAMPLED)
    client.call("Put", rpc.PutRequest(), SAMPLED)
    client.call("LeaseRevoke", rpc.LeaseRevokeRequest(ID=99), SAMPLED)
    client.call("Range", rpc.RangeRequest(key=b"k"), (("traceparent", "nonsense"),))
    stream = client.watch_stream(metadata=SAMPLED)
    stream.send(rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"k")))
    assert stream.await_controls(0, 1)
    stream.close()
    client.close()
    return 7


def shown(span: Span, member: Member) -> tuple[object, ...]:
    """What two servers' spans have in common."""
    attributes = {
        each.key: each.value.string_value or each.value.int_value for each in span.attributes
    }
    assert attributes.pop("server.port") == member.client_port
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
    parent = span.parent_span_id.hex()
    trace = span.trace_id.hex() if parent else ""
    return span.name, span.kind, trace, parent, sorted(attributes.items())


def test_spans_are_etcds(
    collectors: list[Collector],
    start_member: StartMember,
    etcd_command: Sequence[str],
    subject_command: Sequence[str],
    request: pytest.FixtureRequest,
) -> None:
    """Names, parents, attributes; and of the service that made them."""
    seen = []
    real = request.config.getoption("--subject") == "etcd"
    prefixes = ("experimental-", "experimental-" if real else "")
    for taker, command, prefix in zip(
        collectors, (etcd_command, subject_command), prefixes, strict=True
    ):
        member = start_member(command, *flags(taker, 1_000_000, prefix))
        count = some_calls(member)
        member.stop()  # which sends what there is
        spans = taker.wait(count)
        assert len(spans) == count
        seen.append(sorted(shown(span, member) for span in spans))
    assert seen[1] == seen[0]
    resources = [
        {name: taker.resource[name] for name in ("service.name", "service.instance.id")}
        for taker in collectors
    ]
    assert resources[0] == resources[1] == {"service.name": "etcd", "service.instance.id": "one"}


def test_without_a_rate_only_calls_with_a_sampled_parent_are_followed(
    collectors: list[Collector], start_member: StartMember, subject_command: Sequence[str]
) -> None:
    """As an API server wants it, which decides what is traced. A fault of the server shows."""
    taker = collectors[0]
    member = start_member(subject_command, *flags(taker, 0))
    some_calls(member)
    client = Client(member.channel())
    stream = client.watch_stream(metadata=SAMPLED)
    stream.send(rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"k")))
    assert stream.await_controls(0, 1)
    member.stop()
    spans = taker.wait(6)
    stream.close()
    client.close()
    assert {span.parent_span_id.hex() for span in spans} == {PARENT}
    assert len(spans) == 6
    (fault,) = [span for span in spans if span.status.code == Status.STATUS_CODE_ERROR]
    assert fault.name == "etcdserverpb.Watch/Watch"


def test_a_collector_that_is_not_there_holds_up_nothing(
    start_member: StartMember, subject_command: Sequence[str]
) -> None:
    """Calls are answered, and the member ends in time."""
    member = start_member(subject_command, *flags(Collector(port=1), 1_000_000))
    some_calls(member)
    begin = time.monotonic()
    member.stop()
    assert time.monotonic() - begin < 10


def test_without_the_extra_the_member_says_what_to_install(tmp_path: Path) -> None:
    """One line, and no traceback."""
    hidden = tmp_path / "hidden" / "opentelemetry"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('no module named opentelemetry')\n")
    paths = [str(hidden.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    member = Member(
        rusd_command(),
        tmp_path / "member",
        ("--enable-distributed-tracing",),
        {"PYTHONPATH": os.pathsep.join(paths)},
    )
    member.launch()
    assert member.wait_exit(SECONDS) == 1
    last = member.log.splitlines()[-1]
    assert last.startswith("rusd: --enable-distributed-tracing needs more: pip install ")
    assert "Traceback" not in member.log
    assert not (member.data_dir / "member").exists()


def test_off_it_is_not_even_imported() -> None:
    """Nothing of OpenTelemetry is loaded by a member without the flag."""
    code = (
        "import sys, rusd.server, rusd.cli; "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
