"""Saves a backup that a member sends."""

import os
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

from rusd.backup.reading import Advance, DigestError
from rusd.pb.rpc_pb2 import SnapshotResponse

_DIGEST_BYTES: Final = 32


def download(
    answers: Iterable[SnapshotResponse], path: Path, begin: Callable[[int], Advance]
) -> int:
    """Saves what `answers` bring at `path`, which is there once it is whole, checked and on disk.

    `begin` is told the bytes that come, about, and returns who is told of them. Returns the file's
    bytes. Raises DigestError, OSError, and what the iteration raises.
    """
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb") as file:
            size = 0
            # The last 32 bytes are the digest of all that came before them.
            digest, last, advance = sha256(), b"", None
            for answer in answers:
                if advance is None:
                    advance = begin(answer.remaining_bytes + len(answer.blob))
                file.write(answer.blob)
                size += len(answer.blob)
                advance(len(answer.blob))
                held = last + answer.blob
                digest.update(held[:-_DIGEST_BYTES])
                last = held[-_DIGEST_BYTES:]
            if last != digest.digest():
                raise DigestError("what was received is not what was sent: its SHA-256 differs")
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return size
