"""Members as processes, seen from the test: started through the fork server, awaited, ended."""

import atexit
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from rusd.supervisor import READY
from rusd.testing.forkserver import LOG

_SERVE: Final = "from rusd.testing.forkserver import main; main({})"


class NotReadyError(RuntimeError):
    """A member ended, or did not serve in time; the text has the end of its log."""


class Process:
    """One run of a member, from its start to its end."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        """Starts it; `arguments` are those of the command `rusd`, and `folder` gets the log."""
        self._server = fork_server()
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"rusd-testing-{os.getpid()}-{secrets.token_hex(8)}"
        self._notified.bind(f"\0{name}")
        self.log = folder / LOG
        (pid,) = self._server.ask("start", [*arguments], str(folder), f"@{name}")
        self.pid = int(pid)
        self._ended = os.pidfd_open(self.pid)  # nobody reaps it before `wait` asks for that

    def wait_ready(self, seconds: float) -> None:
        """Returns when the member serves. Raises NotReadyError; then it has ended."""
        deadline = time.monotonic() + seconds
        events = select.poll()
        events.register(self._notified, select.POLLIN)
        events.register(self._ended, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = {fd for fd, _ in events.poll(left * 1000)}
            if self._notified.fileno() in ready and self._notified.recv(4096) == READY.encode():
                return
            if self._ended in ready:
                status = self.wait(0)
                raise NotReadyError(f"the member ended with status {status}{self._last_words()}")
        self.signal(9)
        self.wait(seconds)
        raise NotReadyError(f"the member did not serve within {seconds} s{self._last_words()}")

    def signal(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    @property
    def has_ended(self) -> bool:
        """Whether the process is there no more."""
        events = select.poll()
        events.register(self._ended, select.POLLIN)
        return bool(events.poll(0))

    def wait(self, seconds: float) -> int:
        """Returns its exit status, as subprocess has it, once it ended. Raises TimeoutError. To be
        called until it returned once.
        """
        events = select.poll()
        events.register(self._ended, select.POLLIN)
        if not events.poll(seconds * 1000):
            raise TimeoutError(f"the member (pid {self.pid}) did not end within {seconds} s")
        (status,) = self._server.ask("reap", self.pid)
        os.close(self._ended)
        self._notified.close()
        return int(status)

    def _last_words(self) -> str:
        with suppress(OSError):
            return f"; its log:\n{self.log.read_text(errors='replace')[-4000:]}"
        return ""


class ForkServer:
    """The client's side of `rusd.testing.forkserver`. Any thread may call it."""

    def __init__(self) -> None:
        """Starts it; it loads rusd while the caller goes on."""
        self.client = os.getpid()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE.format(self.client)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests, which end their members themselves
        )
        self._folder: Path | None = None
        atexit.register(self._close)

    def make_folder(self, name: str) -> Path:
        """A new temporary folder, gone when the fork server is."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(self._read()[0])
            return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._folder))

    def ask(self, *request: object) -> list[Any]:
        """Sends one request; returns the answer."""
        with self._lock:
            if self._folder is None:
                self._folder = Path(self._read()[0])
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            return self._read()

    def _close(self) -> None:
        if self.client == os.getpid():
            with self._lock, self._process:  # closes its stdin, and waits
                pass

    def _read(self) -> list[Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotReadyError(f"the fork server ended with status {self._process.wait()}")
        answer = json.loads(line)
        assert isinstance(answer, list)
        return answer


_current: ForkServer | None = None
_starting = threading.Lock()


def fork_server() -> ForkServer:
    """This process's fork server, started if there is none. Call it early, and the first member
    need not wait for rusd to load.
    """
    global _current
    with _starting:
        # After a fork (not exec) of the tests' process, the server is the parent's.
        if _current is None or _current.client != os.getpid():
            _current = ForkServer()
        return _current
