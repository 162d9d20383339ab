"""A service manager hears when a member serves and when it stops."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusd.supervisor import READY, STOPPING, tell
from tests.members import Member, rusd_command

_SECONDS = 60.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(_SECONDS)
        yield heard


def test_a_member_tells_that_it_serves_and_that_it_stops(
    manager: socket.socket, tmp_path: Path
) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname()}
    member = Member(rusd_command(), tmp_path / "member", environment=environment)
    try:
        member.launch()
        assert manager.recv(4096) == READY.encode()
        socket.create_connection((member.host, member.client_port), _SECONDS).close()
        member.terminate()
        assert manager.recv(4096) == STOPPING.encode()
        member.wait_exit()
    finally:
        member.close()


def test_a_manager_that_is_gone_stops_no_member(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "nobody")}
    member = Member(rusd_command(), tmp_path / "member", environment=environment)
    try:
        member.start()
        member.stop()
    finally:
        member.close()
    assert member.log.count("the service manager does not hear") == 2


def test_an_abstract_address_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"rusd-{os.getpid()}-{threading.get_ident()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{name}")
        heard.settimeout(_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        tell(READY)
        assert heard.recv(4096) == READY.encode()


def test_without_a_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    tell(READY)
