"""A process that has rusd loaded and forks members: they start in a tenth of a second.

It serves the process that started it on stdin and stdout, a JSON list a line: `["start", arguments,
folder, notify address]` gives `[member's pid]`, `["reap", pid]` the exit status of a member that
has ended, as subprocess has it. It first writes `[folder]`: a temporary folder that is removed in
the end. It ends when that process does, however that does, and no member outlives it.
"""

import ctypes
import gc
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import traceback
from typing import Final

LOG: Final = "log"
"""The file in a member's folder that it writes its log to."""
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None)


def main(client: int) -> None:
    """Serves the process with that id, which must be the parent."""
    watched = os.pidfd_open(client)
    if os.getppid() != client:
        return
    # What takes long; the members have it from here.
    import rusd.cli
    import rusd.gateway.gateway
    import rusd.server  # noqa: F401

    gc.collect()
    gc.freeze()
    folder = tempfile.mkdtemp(prefix="rusd-testing-")
    members: set[int] = set()
    try:
        _answer([folder])
        _serve(watched, members)
    finally:
        for pid in members:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so that it is nobody else's
            os.waitpid(pid, 0)
        shutil.rmtree(folder, ignore_errors=True)


def _serve(watched: int, members: set[int]) -> None:
    """Answers requests until the client, or its end of stdin, is gone."""
    events = select.poll()
    events.register(watched, select.POLLIN)
    events.register(0, select.POLLIN)
    received = b""
    while True:
        ready = {fd for fd, _ in events.poll()}
        if watched in ready:
            return
        piece = os.read(0, 1 << 16)
        if not piece:
            return
        *lines, received = (received + piece).split(b"\n")
        for line in lines:
            name, *arguments = json.loads(line)
            if name == "start":
                members.add(pid := _fork(*arguments))
                _answer([pid])
            else:
                (pid,) = arguments
                _answer([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])])
                members.remove(pid)


def _answer(values: list[object]) -> None:
    os.write(1, json.dumps(values).encode() + b"\n")


def _fork(arguments: list[str], folder: str, notify: str) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == server:
            _enter(folder, notify)
            code = _run(arguments)
    finally:
        os._exit(code)


def _enter(folder: str, notify: str) -> None:
    """Makes the fork a process of its own: its folder, its log, its environment."""
    os.setsid()
    os.chdir(folder)
    log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, 256)
    for name in [name for name in os.environ if name.startswith("ETCD_")]:
        del os.environ[name]
    os.environ["NOTIFY_SOCKET"] = notify


def _run(arguments: list[str]) -> int:
    """What the command `rusd` does with these arguments; its exit code."""
    from rusd.cli import main as command

    sys.argv = ["rusd", *arguments]
    try:
        command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
