"""The certificates of `cluster.tls` as members, and tests as their clients, use them."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from cluster.tls.__main__ import write_all


@dataclass(frozen=True, slots=True)
class Certificates:
    """A folder of them."""

    folder: Path
    client: str = "client"
    """The certificate of clients that do not say which; this one names no user."""

    @classmethod
    def made(
        cls, folder: Path, hosts: Sequence[str] = (), client: str = "client"
    ) -> "Certificates":
        """Make all of them anew; `hosts` are more addresses of members."""
        write_all(folder, tuple(hosts))
        return cls(folder, client)

    def __getitem__(self, name: str) -> str:
        """The path of one file."""
        return str(self.folder / name)

    def pair(self, name: str, prefix: str = "") -> tuple[str, ...]:
        """Flags for a certificate and its key: --cert-file and --key-file, after a prefix."""
        return (
            *(f"--{prefix}cert-file", self[f"{name}.crt"]),
            *(f"--{prefix}key-file", self[f"{name}.key"]),
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """For a member that wants a certificate from clients and from members."""
        return (
            *(*self.pair("server"), "--client-cert-auth", "--trusted-ca-file", self["ca.crt"]),
            *(*self.pair("peer", "peer-"), "--peer-client-cert-auth"),
            *("--peer-trusted-ca-file", self["ca.crt"], "--peer-crl-file", self["crl.pem"]),
        )

    @property
    def etcdctl(self) -> dict[str, str]:
        """Environment for etcdctl."""
        return {
            "ETCDCTL_CACERT": self["ca.crt"],
            "ETCDCTL_CERT": self[f"{self.client}.crt"],
            "ETCDCTL_KEY": self[f"{self.client}.key"],
        }

    def credentials(self, name: str | None = None) -> grpc.ChannelCredentials:
        """For a gRPC channel."""
        name = name or self.client
        return grpc.ssl_channel_credentials(
            *(Path(self[file]).read_bytes() for file in ("ca.crt", f"{name}.key", f"{name}.crt"))
        )

    def context(self, name: str | None = None) -> ssl.SSLContext:
        """For a client of HTTP."""
        name = name or self.client
        context = ssl.create_default_context(cafile=self["ca.crt"])
        context.load_cert_chain(self[f"{name}.crt"], self[f"{name}.key"])
        return context
