"""A download is there when it is whole, and not before."""

from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest

from rusd.backup.download import download
from rusd.backup.reading import DigestError
from rusd.cli.ctl.client import Client, Failure
from rusd.cli.ctl.methods import SNAPSHOT
from rusd.cli.ctl.settings import Settings
from rusd.pb.rpc_pb2 import SnapshotRequest, SnapshotResponse
from tests.unit.backup.serving import Answer, in_blocks, served

CONTENT = b"0123456789" * 1000
DIGEST = sha256(CONTENT).digest()


def saved(target: str, path: Path, password: str = "hers") -> tuple[int, list[int]]:
    """Download; return the size, and what progress was told."""
    told: list[int] = []

    def begin(size: int) -> Callable[[int], None]:
        told.append(size)
        return told.append

    with closing(Client(Settings.with_defaults(endpoints=(target,)))) as client:
        client.log_in("ann", password)
        return download(client.listen(SNAPSHOT, SnapshotRequest(), 30.0), path, begin), told


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
        (broken, "hers", Failure, "the member stops"),
        (lambda _: iter(()), "wrong", Failure, "not for you"),
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
