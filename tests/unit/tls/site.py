"""What a test of TLS has on disk: certificates, and the log."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.tls.authority import Authority, Credential
from rusd.config import Config, load
from rusd.log import Logger
from rusd.tls.settings import Settings, client_settings, peer_settings

SECONDS = 20.0
"""How long to wait for what must come."""


class Lines:
    """A log, and what was logged."""

    def __init__(self, path: Path) -> None:
        """Open it."""
        self._path = path
        self.log = Logger(outputs=[str(path)])

    def all(self, level: str = "") -> list[dict[str, Any]]:
        """The lines, those of one level where it is given."""
        lines = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [line for line in lines if level in ("", line["level"])]


class Site:
    """A folder of certificates, and settings that use them."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        """Make a server's certificate and a client's."""
        self.folder = folder
        self.authority = authority
        authority.credential.write(folder, "ca")
        self.write("server", "server", ["localhost", "127.0.0.1"])
        self.write("client", "client")

    def write(
        self,
        file: str,
        name: str,
        hosts: Sequence[str] = (),
        days: float = 30,
        server: bool = True,
        client: bool = True,
    ) -> Credential:
        """Issue a certificate and write it."""
        made = self.authority.issue(name, hosts, days=days, server=server, client=client)
        made.write(self.folder, file)
        return made

    def path(self, file: str) -> str:
        """The path of a file."""
        return str(self.folder / file)

    def config(self, *flags: str) -> Config:
        """A configuration with the server's certificate on both sides."""
        pair = f"cert-file={self.path('server.crt')}", f"key-file={self.path('server.key')}"
        given = [f"--{prefix}{flag}" for prefix in ("", "peer-") for flag in pair]
        return load([*given, *flags], {})

    def clients(self, *flags: str) -> Settings:
        """Settings for clients."""
        return client_settings(self.config(*flags))

    def peers(self, *flags: str) -> Settings:
        """Settings for members, which show certificates of the authority to each other."""
        return peer_settings(self.config(f"--peer-trusted-ca-file={self.path('ca.crt')}", *flags))
