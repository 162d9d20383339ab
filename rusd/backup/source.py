"""Makes backups of the running member: a checkpoint, which a process of its own turns into a file.

The file has no name any more when it is handed out: its space is free again when it is closed, or
when the member ends, however that happens.
"""

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
from asyncio import Future
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from rusd.storage.engine import Engine
from rusd.storage.folders import CHECKPOINT

T = TypeVar("T")

_OPEN: Final = 4
"""Backups that are made or sent at the same time."""
_WAITING: Final = 16
"""Further calls that wait for their turn."""


class BackupError(Exception):
    """No backup could be made; the text says why."""


class TooManyBackupsError(Exception):
    """As many calls wait for their turn as may."""


class Backups:
    """The backups of a member. Use it on the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._folder = engine.path.parent
        self._turns = asyncio.Semaphore(_OPEN)
        self._one_at_a_time = asyncio.Semaphore(1)
        self._waiting = 0
        self._threads = ThreadPoolExecutor(_OPEN, thread_name_prefix="backup")

    def stop(self) -> None:
        """Frees the threads, once no backup is open any more."""
        self._threads.shutdown()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[BinaryIO]:
        """A new backup, as a file at its beginning; it is closed at the end.

        Raises BackupError and TooManyBackupsError. Cancelled, it ends what is under way.
        """
        if self._waiting >= _WAITING:
            raise TooManyBackupsError
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            async with self._one_at_a_time:
                file = await self._make()
            try:
                yield file
            finally:
                # That frees a file of the size of the database.
                await asyncio.shield(self.run(file.close))
        finally:
            self._turns.release()

    def run(self, work: Callable[[], T]) -> "Future[T]":
        """Does what may block, of an open backup."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _make(self) -> BinaryIO:
        making = _Making(self._engine, self._folder / f"{CHECKPOINT}-{secrets.token_hex(8)}")
        made = self.run(making.run)
        try:
            return await asyncio.shield(made)
        except asyncio.CancelledError:
            making.cancel()
            # Nobody waits for its end but the member's own.
            await asyncio.wait((made,))
            if made.exception() is None:
                self.run(made.result().close)
            raise


class _Making:
    """One backup being made, on a worker thread."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Lets `run` end soon."""
        self._cancelled = True
        if self._process is not None:
            self._process.kill()

    def run(self) -> BinaryIO:
        checkpoint, target = self._folder / "tables", self._folder / "db"
        try:
            self._folder.mkdir(mode=0o700)
            # What is left to be flushed by the checkpoint, which holds the GIL, is then little.
            self._engine.flush()
            self._engine.flush()
            self._engine.checkpoint(checkpoint)
            self._convert(checkpoint, target)
            return target.open("rb", buffering=0)
        except OSError as error:
            raise BackupError(str(error)) from error
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _convert(self, checkpoint: Path, target: Path) -> None:
        # -P: what lies in the working directory is not to be imported.
        command = [sys.executable, "-P", "-m", "rusd.backup.export", str(checkpoint), str(target)]
        # A thread may start it: nothing is done between fork and exec.
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            self._process = process
            if self._cancelled:
                process.kill()
            _, errors = process.communicate()
        if process.returncode:
            lines = errors.decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"it ended with {process.returncode}"
            raise BackupError(f"the database could not be converted: {reason}")


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size
