"""What a synced append costs: RocksDB, a plain file, and a file allocated ahead.

Run: python -m tests.bench.log_write [DIRECTORY]
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rocksdict import Options, Rdict, WriteBatch, WriteOptions

ALLOCATED = 256 << 20
ROUNDS = 1000


def measure(name: str, append: Callable[[], None]) -> None:
    append()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        append()
    each = (time.perf_counter() - began) / ROUNDS
    print(f"{name:40} {1 / each:8.0f} a second {each * 1e6:8.0f} us")


def file_append(path: Path, data: bytes, prepare: Callable[[int], None]) -> Callable[[], None]:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    prepare(fd)
    os.fsync(fd)
    os.lseek(fd, 0, os.SEEK_SET)

    def append() -> None:
        os.write(fd, data)
        os.fdatasync(fd)

    return append


def zeroed(fd: int) -> None:
    for _ in range(ALLOCATED >> 20):
        os.write(fd, bytes(1 << 20))


def rocksdb_append(path: Path, data: bytes) -> Callable[[], None]:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    db = Rdict(str(path), options)
    synced: Any = WriteOptions()  # the stubs call its attributes methods
    synced.sync = True
    index = 0

    def append() -> None:
        nonlocal index
        index += 1
        batch = WriteBatch(raw_mode=True)
        batch.put(index.to_bytes(8, "big"), data)
        db.write(batch, synced)

    return append


def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else "."
    with tempfile.TemporaryDirectory(dir=parent) as scratch:
        for size in (350, 35_000):
            data = os.urandom(size)
            at = Path(scratch)
            measure(f"{size} bytes, RocksDB", rocksdb_append(at / f"db{size}", data))
            measure(f"{size} bytes, file", file_append(at / f"a{size}", data, lambda _: None))
            measure(
                f"{size} bytes, file allocated ahead",
                file_append(at / f"b{size}", data, lambda fd: os.posix_fallocate(fd, 0, ALLOCATED)),
            )
            measure(f"{size} bytes, file zeroed ahead", file_append(at / f"c{size}", data, zeroed))


if __name__ == "__main__":
    main()
