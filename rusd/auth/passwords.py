"""Passwords: bcrypt, on threads of its own that give way to everything else.

A hash takes tens of milliseconds by design. The threads have the lowest priority and bcrypt lets go
of the interpreter, so that a flood of logins takes only what nobody else wants; beyond a bounded
queue logins are refused.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Final, TypeVar

import bcrypt

from rusd.auth.errors import PasswordTooLongError

T = TypeVar("T")

LEAST_COST: Final = 4
MOST_COST: Final = 31
DEFAULT_COST: Final = 10
_LONGEST: Final = 72
"""Bytes of a password that bcrypt sees."""

_MOST_THREADS: Final = 4
_LOWEST_PRIORITY: Final = 19
_QUEUED: Final = 64
"""Passwords a thread, that wait or are hashed: what it gets through, at the default cost, before
those who wait have given up."""


class BusyError(Exception):
    """More passwords wait to be hashed than the member takes."""


class Passwords:
    """Hashes and compares passwords, for callers on one event loop."""

    def __init__(self, cost: int = DEFAULT_COST, queued: int = _QUEUED) -> None:
        """`cost` is bcrypt's: each one more doubles the work. `queued` is how many passwords a
        thread may have before it.
        """
        self._loop = asyncio.get_running_loop()
        self._cost = cost
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting = 0
        # A hash that no password has, of the same cost: for users that do not exist.
        self._nobody = b"$2b$%02d$" % cost + b"." * 53
        # One core stays with the event loop. Where bcrypt has all of two, puts lose a tenth of
        # their rate to a flood, and their 99th percentile goes from 3 to 7 ms; with one free, none.
        cores = len(os.sched_getaffinity(0)) if _LINUX else 1
        count = max(1, min(_MOST_THREADS, cores - 1))
        self._queued = count * queued
        # Daemons: at the highest costs a hash takes hours, and nobody waits for it at the end.
        self._threads = [
            threading.Thread(target=self._work, name=f"bcrypt-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether one more would be refused."""
        return self._waiting >= self._queued

    async def hash(self, password: str) -> bytes:
        """Raises PasswordTooLongError and BusyError."""
        check_length(password)
        encoded = password.encode()
        return await self.run(lambda: bcrypt.hashpw(encoded, bcrypt.gensalt(self._cost)))

    async def matches(self, password: str, hashed: bytes | None) -> bool:
        """Whether a password has a hash. None, for a user that does not exist, takes as long, and
        so does b"", of a user with whom no password can match. Raises BusyError.
        """
        # What comes after counts for nothing, when it is set as when it is asked: etcd takes it.
        encoded = password.encode()[:_LONGEST]
        return await self.run(lambda: bcrypt.checkpw(encoded, hashed or self._nobody))

    async def run(self, work: Callable[[], T]) -> T:
        """Runs other work of that kind on the threads. Raises BusyError."""
        if self.busy:
            raise BusyError
        done: asyncio.Future[T] = self._loop.create_future()

        def finish(tell: Callable[[], object]) -> None:
            self._waiting -= 1
            if not done.cancelled():
                tell()

        def job() -> None:
            tell: Callable[[], object] = done.cancel
            if not done.cancelled():
                try:
                    tell = partial(done.set_result, work())
                except Exception as error:
                    tell = partial(done.set_exception, error)
            # Nobody waits once the loop is closed.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(finish, tell)

        self._waiting += 1
        self._jobs.put(job)
        return await done

    def stop(self) -> None:
        """Lets the threads end, each after what it is at."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        if _LINUX:
            # Of this thread alone; may be forbidden, and then it has its process's.
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while (job := self._jobs.get()) is not None:
            job()


def check_length(password: str) -> None:
    """Raises PasswordTooLongError for one that bcrypt would cut short."""
    if len(password.encode()) > _LONGEST:
        raise PasswordTooLongError


_LINUX: Final = sys.platform == "linux"
