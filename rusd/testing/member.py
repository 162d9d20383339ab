"""One member for tests: where it is, and what a test may do to it."""

import shutil
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from rusd.testing.forkserver import LOG
from rusd.testing.gateway import CallFailedError, Gateway
from rusd.testing.processes import NotReadyError, Process

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0


class Member:
    """A member with ports and a data directory of its own, which stay over restarts.

    `flags` are etcd's (`--max-txn-ops=10`), after those that say where it is. Without `fsync` it
    has --unsafe-no-fsync: what it acknowledged survives the process's end, however that comes, but
    not the machine's.
    """

    def __init__(
        self, folder: Path, flags: Sequence[str] = (), *, name: str = "default", fsync: bool = False
    ) -> None:
        """Takes the ports; starts nothing."""
        self.name = name
        self.flags = list(flags)
        """Count from the next start on."""
        self.fsync = fsync
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._client_port, self._peer_port = _Port(), _Port()
        self.initial_cluster = f"{name}={self.peer_url}"
        self.initial_cluster_state = "new"
        self._process: Process | None = None

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return HOST

    @property
    def port(self) -> int:
        """Where it listens for clients."""
        return self._client_port.number

    @property
    def peer_port(self) -> int:
        """Where it listens for other members."""
        return self._peer_port.number

    @property
    def endpoint(self) -> str:
        """`host:port`, as `etcdctl --endpoints` and most clients take it."""
        return f"{HOST}:{self.port}"

    @property
    def client_url(self) -> str:
        """The client URL that it advertises."""
        return f"http://{self.endpoint}"

    @property
    def peer_url(self) -> str:
        """The peer URL that it advertises."""
        return f"http://{HOST}:{self.peer_port}"

    @property
    def endpoints(self) -> list[str]:
        """As a cluster's."""
        return [self.endpoint]

    @property
    def client_urls(self) -> list[str]:
        """As a cluster's."""
        return [self.client_url]

    @property
    def data_dir(self) -> Path:
        """Its data directory."""
        return self.folder / "data"

    @property
    def log(self) -> str:
        """All that it wrote, over all its starts: a JSON object a line."""
        with suppress(FileNotFoundError):
            return (self.folder / LOG).read_text(errors="replace")
        return ""

    @property
    def pid(self) -> int:
        """Its process's id."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there, paused or not."""
        return self._process is not None and not self._process.has_ended

    def launch(self) -> None:
        """Starts the process; returns at once."""
        if self.is_running:
            raise RuntimeError(f"{self.name} is running")
        self._end_at_once()
        self._process = Process(self.arguments(), self.folder)

    def wait_ready(self, seconds: float = START_SECONDS) -> Self:
        """Returns when the process that was launched serves. Raises NotReadyError."""
        try:
            self._running().wait_ready(seconds)
        except NotReadyError:
            self._process = None
            raise
        return self

    def start(self, seconds: float = START_SECONDS) -> Self:
        """Starts it; returns when it serves. Raises NotReadyError."""
        self.launch()
        return self.wait_ready(seconds)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Lets it end in order (SIGTERM): it answers what is under way, and gives up leading."""
        self._end(signal.SIGTERM, seconds)

    def kill(self) -> None:
        """Ends it at once (SIGKILL)."""
        self._end(signal.SIGKILL, STOP_SECONDS)

    def restart(self) -> Self:
        """Stops and starts it; it goes on with its data."""
        if self.is_running:
            self.stop()
        return self.start()

    def wait_exit(self, seconds: float = STOP_SECONDS) -> int:
        """Returns the exit status of a member that ends by itself, as subprocess has it. Raises
        TimeoutError.
        """
        status = self._running().wait(seconds)
        self._process = None
        return status

    def pause(self) -> None:
        """Makes it stand still (SIGSTOP), as a machine that hangs."""
        self._running().signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on (SIGCONT)."""
        self._running().signal(signal.SIGCONT)

    def reset(self) -> None:
        """Makes it an empty, running member.

        Deletes keys and revokes leases, which takes some milliseconds; revisions go on. Where that
        is not all, as it has users, roles or alarms, or does not run, it begins anew.
        """
        if self.is_running:
            with suppress(OSError, CallFailedError), self.gateway(5) as gateway:
                if gateway.empty():
                    return
        self._end_at_once()
        shutil.rmtree(self.data_dir, ignore_errors=True)
        self.start()

    def close(self) -> None:
        """Leaves no process behind, and its ports to others. It cannot be started again."""
        self._end_at_once()
        self._client_port.release()
        self._peer_port.release()

    def gateway(self, seconds: float = STOP_SECONDS) -> Gateway:
        """A connection to its JSON gateway."""
        return Gateway(HOST, self.port, seconds)

    def arguments(self) -> list[str]:
        """Those of the command `rusd` that starts it."""
        return [
            *("--name", self.name, "--data-dir", str(self.data_dir)),
            *("--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url),
            *("--listen-peer-urls", self.peer_url),
            *("--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", self.initial_cluster),
            *("--initial-cluster-state", self.initial_cluster_state),
            *(() if self.fsync else ("--unsafe-no-fsync",)),
            *self.flags,
        ]

    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process

    def _end(self, number: int, seconds: float) -> None:
        process = self._running()
        if process.has_ended:
            raise RuntimeError(f"{self.name} ended by itself, with status {self.wait_exit()}")
        process.signal(number)
        process.signal(signal.SIGCONT)
        self.wait_exit(seconds)

    def _end_at_once(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGKILL)  # of one that ended it goes to nobody
            self.wait_exit()


class _Port:
    """A port that nobody else gets, whether or not its member listens there.

    A socket is bound to it, but does not listen: SO_REUSEADDR lets the member bind it as well, and
    the kernel gives it to no other process that asks for a free port or connects somewhere.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind((HOST, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.number = int(self._socket.getsockname()[1])

    def release(self) -> None:
        """Leaves it to others."""
        self._socket.close()
