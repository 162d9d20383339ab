"""Members that form one cluster, for tests."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from rusd.testing.gateway import CallFailedError
from rusd.testing.member import START_SECONDS, Member

_TIMING: Final = ("--heartbeat-interval=50", "--election-timeout=500")
"""A leader that is killed is missed in half the time that it takes by default."""
_POLL_SECONDS: Final = 0.02


class Cluster:
    """`members`, named m1, m2 and so on, each in a folder of its own; they may be changed."""

    def __init__(
        self, folder: Path, size: int = 3, flags: Sequence[str] = (), *, fsync: bool = False
    ) -> None:
        """Makes the members; starts none."""
        self.members = [
            Member(folder / name, [*_TIMING, *flags], name=name, fsync=fsync)
            for name in (f"m{number}" for number in range(1, size + 1))
        ]
        everyone = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        for member in self.members:
            member.initial_cluster = everyone

    @property
    def endpoints(self) -> list[str]:
        """`host:port` of each member's client API."""
        return [member.endpoint for member in self.members]

    @property
    def client_urls(self) -> list[str]:
        """The client URL of each member."""
        return [member.client_url for member in self.members]

    @property
    def log(self) -> str:
        """All that the members wrote, one after the other."""
        return "".join(member.log for member in self.members)

    def start(self, seconds: float = START_SECONDS) -> Self:
        """Starts those that do not run; returns when all serve. Raises NotReadyError."""
        waiting = [member for member in self.members if not member.is_running]
        for member in waiting:
            member.launch()
        for member in waiting:
            member.wait_ready(seconds)
        return self

    def leader(self, seconds: float = START_SECONDS) -> Member:
        """The member that leads; waits until one does. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for member in self.members:
                if not member.is_running:
                    continue
                with suppress(OSError, CallFailedError), member.gateway(1) as gateway:
                    if gateway.leads():
                        return member
            time.sleep(_POLL_SECONDS)
        raise TimeoutError(f"no leader within {seconds} s")

    def close(self) -> None:
        """Leaves no process behind."""
        for member in self.members:
            member.close()
