"""Where log lines go: files, pipes, terminals, and systemd's journal.

A line that is written is with the kernel when the call returns, so a crash right after it loses
nothing. Where the reader of a pipe, terminal or socket does not keep up, up to `BACKLOG` bytes wait
in memory and go out before the next line; what does not fit is dropped, and a line says how many
were. A file that cannot be written (disk full) drops lines in the same way.
"""

import errno
import gzip
import os
import re
import select
import shutil
import socket
import stat
import threading
import time
from collections import deque
from typing import Final, Protocol

from rusd.config import LogRotation

BACKLOG: Final = 1 << 20
"""Bytes that may wait for one slow output."""
JOURNAL: Final = "/run/systemd/journal/socket"
"""Where journald listens."""
_SYSLOG: Final = {"debug": 7, "info": 6, "warn": 4, "error": 3, "panic": 2, "fatal": 2}


class Output(Protocol):
    """Takes whole lines, in order. Called by one thread at a time."""

    def write(self, line: bytes, level: str) -> None:
        """Takes a line, with its newline; neither blocks nor raises."""

    def close(self) -> None:
        """Gives waiting lines a last second."""


def open_output(name: str, rotation: LogRotation | None) -> Output:
    """The output of that name in --log-outputs; OSError when it cannot be opened."""
    if name == "stdout":
        return _standard_stream(1)
    if name in ("default", "stderr"):
        return _standard_stream(2)
    if name == "systemd/journal":
        return _Journal(JOURNAL)
    if rotation is not None:
        return _RotatingFile(name, rotation)
    return _Stream(_open_file(name), own=True)


def _open_file(path: str) -> int:
    # O_NONBLOCK is for paths such as /dev/stderr that lead to a pipe; files do not have it.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(path, flags, 0o644)


def _standard_stream(fd: int) -> "_Stream":
    """Open stdout or stderr again: O_NONBLOCK on the shared one would hit other processes."""
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return _Stream(os.open(f"/proc/self/fd/{fd}", flags), own=True)
    except OSError:
        pass  # closed, no /proc, or not ours to open: asking poll() first is nearly as good
    return _Stream(fd, own=False)


class _Stream:
    """A descriptor that may be a pipe, terminal, socket or file: never waits for its reader."""

    def __init__(self, fd: int, own: bool) -> None:
        self._fd = fd
        self._own = own
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._writable = select.poll()
        self._writable.register(fd, select.POLLOUT)

    def write(self, line: bytes, level: str) -> None:  # noqa: ARG002
        if self._waiting_bytes + len(line) > BACKLOG:
            self._drain()
            if self._waiting_bytes + len(line) > BACKLOG:
                self._dropped += 1
                return
        if self._dropped:
            notice = b'{"level":"warn","msg":"log lines were dropped","count":%d}\n' % self._dropped
            self._dropped = 0
            self._waiting.append(notice)
            self._waiting_bytes += len(notice)
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._drain()

    def close(self) -> None:
        deadline = time.monotonic() + 1.0
        self._drain()
        while self._waiting and time.monotonic() < deadline:
            self._writable.poll(50)
            self._drain()
        if self._own:
            os.close(self._fd)

    def _drain(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            try:
                sent = self._send(line)
            except BlockingIOError:
                return
            except OSError:  # the reader is gone, the disk is full
                sent = len(line)
                self._dropped += 1
            self._waiting_bytes -= sent
            if sent < len(line):
                self._waiting[0] = line[sent:]
            else:
                self._waiting.popleft()

    def _send(self, line: bytes) -> int:
        """Send some of `line`; BlockingIOError when there is no room for any."""
        if self._own:
            return os.write(self._fd, line)
        if not self._writable.poll(0):
            raise BlockingIOError
        return os.write(self._fd, line[: select.PIPE_BUF])


class _RotatingFile:
    """A file that is set aside when it would pass `maxsize`, as `name-<time>.ext`, maybe gzipped;
    the next one gets its mode. Its folder is made when it is missing.

    Files set aside are removed beyond `maxbackups`, or `maxage` days old.
    """

    def __init__(self, path: str, rotation: LogRotation) -> None:
        self._path = path
        self._rotation = rotation
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        self._stream = _Stream(_open_file(path), own=True)
        self._size = os.path.getsize(path)
        self._tidying = threading.Lock()
        self._tidier: threading.Thread | None = None

    def write(self, line: bytes, level: str) -> None:
        if self._size and self._size + len(line) > self._rotation.maxsize << 20:
            self._rotate()
        self._stream.write(line, level)
        self._size += len(line)

    def close(self) -> None:
        self._stream.close()
        if self._tidier is not None:
            self._tidier.join()

    def _rotate(self) -> None:
        now = time.time()
        moment = time.localtime(now) if self._rotation.localtime else time.gmtime(now)
        stem, extension = os.path.splitext(self._path)
        millis = int(now * 1000) % 1000
        aside = f"{stem}-{time.strftime('%Y-%m-%dT%H-%M-%S', moment)}.{millis:03d}{extension}"
        try:
            mode = stat.S_IMODE(os.stat(self._path).st_mode)
            os.rename(self._path, aside)
            following = _open_file(self._path)
            os.fchmod(following, mode)
        except OSError:
            self._size = 0  # goes on in the file that is open, and tries again a maxsize later
            return
        self._stream.close()
        self._stream = _Stream(following, own=True)
        self._size = 0
        self._tidier = threading.Thread(target=self._tidy, name="log rotation")
        self._tidier.start()

    def _tidy(self) -> None:
        """Compress what was set aside, and remove what is too much or too old."""
        stem, extension = os.path.splitext(os.path.basename(self._path))
        folder = os.path.dirname(self._path) or "."
        time_format = r"-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}"
        ours = re.compile(re.escape(stem) + time_format + re.escape(extension) + r"(\.gz)?")
        with self._tidying:
            names = sorted((n for n in os.listdir(folder) if ours.fullmatch(n)), reverse=True)
            for rank, name in enumerate(names):
                path = os.path.join(folder, name)
                try:
                    age = time.time() - os.path.getmtime(path)
                    old = 0 < self._rotation.maxage * 86400 < age
                    if old or 0 < self._rotation.maxbackups <= rank:
                        os.unlink(path)
                    elif self._rotation.compress and not name.endswith(".gz"):
                        _compress(path)
                except OSError:
                    continue  # removed by someone else, or the disk is full: the next one may do


def _compress(path: str) -> None:
    part = path + ".part"
    # The name inside is the one that gunzip would give.
    with open(path, "rb") as source, open(part, "wb") as file:
        os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(source.fileno()).st_mode))
        with gzip.GzipFile(os.path.basename(path), "wb", fileobj=file) as target:
            shutil.copyfileobj(source, target)
    os.rename(part, path + ".gz")
    os.unlink(path)


class _Journal:
    """systemd's journal: one datagram an entry (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._dropped = 0
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BACKLOG)
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, error.strerror, path) from None

    def write(self, line: bytes, level: str) -> None:
        if self._dropped and self._send(b"%d log lines were dropped" % self._dropped, "warn"):
            self._dropped = 0
        if not self._send(line.rstrip(b"\n"), level):
            self._dropped += 1

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: bytes, level: str) -> bool:
        """Sends as much of a message as fits; False if it cannot be taken now."""
        head = b"SYSLOG_IDENTIFIER=etcd\nPRIORITY=%d\nMESSAGE=" % _SYSLOG[level]
        while True:
            try:
                self._socket.send(head + message + b"\n")
                return True
            except OSError as error:  # full, or journald is being restarted
                if error.errno != errno.EMSGSIZE or not message:
                    return False
                message = message[: len(message) // 2]
