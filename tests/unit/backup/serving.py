"""A member that has nothing but a backup, for who has logged in as ann."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from rusd.pb.rpc_pb2 import (
    AuthenticateRequest,
    AuthenticateResponse,
    SnapshotRequest,
    SnapshotResponse,
)

Answer = Callable[[Any], Iterator[SnapshotResponse]]
TOKEN = "ann.hers"


@contextmanager
def served(answer: Answer, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """Yield host:port of a member that answers Snapshot so, by TLS if it has credentials."""

    def snapshot(_: SnapshotRequest, context: Any) -> Iterator[SnapshotResponse]:
        if dict(context.invocation_metadata()).get("token") != TOKEN:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not for you")
        yield from answer(context)

    def authenticate(request: AuthenticateRequest, _: Any) -> AuthenticateResponse:
        return AuthenticateResponse(token=f"{request.name}.{request.password}")

    methods = {
        "Maintenance": (
            "Snapshot",
            grpc.unary_stream_rpc_method_handler(
                snapshot, SnapshotRequest.FromString, SnapshotResponse.SerializeToString
            ),
        ),
        "Auth": (
            "Authenticate",
            grpc.unary_unary_rpc_method_handler(
                authenticate, AuthenticateRequest.FromString, AuthenticateResponse.SerializeToString
            ),
        ),
    }
    server = grpc.server(ThreadPoolExecutor(2))
    for service, (name, handler) in methods.items():
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(f"etcdserverpb.{service}", {name: handler})]
        )
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def in_blocks(content: bytes, block: int) -> Iterator[SnapshotResponse]:
    """As a server sends it, in blocks of any size."""
    left = len(content)
    for start in range(0, len(content), block):
        blob = content[start : start + block]
        left -= len(blob)
        yield SnapshotResponse(remaining_bytes=left, blob=blob)
