"""A download is there when it is whole, and not before."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest

from rusd.backup.download import DownloadError, Endpoint, download
from rusd.backup.reading import DigestError
from rusd.pb.rpc_pb2 import (
    AuthenticateRequest,
    AuthenticateResponse,
    SnapshotRequest,
    SnapshotResponse,
)

Answer = Callable[[Any], Iterator[SnapshotResponse]]
CONTENT = b"0123456789" * 1000
DIGEST = sha256(CONTENT).digest()


@contextmanager
def served(answer: Answer) -> Iterator[str]:
    """A member that answers Snapshot so, to who has logged in as ann."""

    def snapshot(_: SnapshotRequest, context: Any) -> Iterator[SnapshotResponse]:
        if dict(context.invocation_metadata()).get("token") != "ann.hers":
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
    port = server.add_insecure_port("127.0.0.1:0")
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


def saved(target: str, path: Path, password: str = "hers") -> tuple[int, list[int]]:
    """Download; return the size, and what progress was told."""
    told: list[int] = []

    def begin(size: int) -> Callable[[int], None]:
        told.append(size)
        return told.append

    return download(Endpoint(target, user="ann", password=password), path, begin, 30.0), told


@pytest.mark.parametrize("block", [7, 1000, 10_000, 100_000])
def test_a_download_is_checked_and_saved_whole(block: int, tmp_path: Path) -> None:
    """Wherever the blocks end, the last 32 bytes are the checksum."""
    path = tmp_path / "backup"
    with served(lambda _: in_blocks(CONTENT + DIGEST, block)) as target:
        size, told = saved(target, path)
    assert path.read_bytes() == CONTENT + DIGEST
    assert size == len(CONTENT) + 32
    assert told[0] == sum(told[1:]) == size
    assert list(tmp_path.iterdir()) == [path]


def broken(context: Any) -> Iterator[SnapshotResponse]:
    yield from in_blocks(CONTENT, 1000)
    context.abort(grpc.StatusCode.UNAVAILABLE, "the member stops")


@pytest.mark.parametrize(
    ("answer", "password", "error", "reason"),
    [
        (lambda _: in_blocks(CONTENT + DIGEST[::-1], 1000), "hers", DigestError, "SHA-256"),
        (lambda _: in_blocks(CONTENT[1:] + DIGEST, 1000), "hers", DigestError, "SHA-256"),
        (lambda _: in_blocks(CONTENT, 1000), "hers", DigestError, "SHA-256"),
        (lambda _: iter(()), "hers", DigestError, "SHA-256"),
        (broken, "hers", DownloadError, "the member stops"),
        (lambda _: iter(()), "wrong", DownloadError, "not for you"),
    ],
    ids=["wrong checksum", "wrong content", "no checksum", "nothing", "broken off", "no right"],
)
def test_what_is_not_whole_is_not_there(
    answer: Answer, password: str, error: type[Exception], reason: str, tmp_path: Path
) -> None:
    """Nothing is left, and a file of that name stays as it was."""
    path = tmp_path / "backup"
    path.write_bytes(b"the one before")
    with served(answer) as target, pytest.raises(error, match=reason):
        saved(target, path, password)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"the one before"
