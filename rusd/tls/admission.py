"""Who may stay once the handshake has shown a certificate of a trusted authority: by common name,
by host name, by address, and not if it was revoked. The rules are etcd's.
"""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import sys
from collections.abc import Sequence
from typing import Any, cast

from cryptography import x509
from cryptography.x509.oid import NameOID

from rusd.log import Logger
from rusd.tls.files import Reloaded, read_revocations
from rusd.tls.settings import Settings

_LOOKUP_SECONDS = 5.0
_DER = 2  # of _ssl


class RefusedError(OSError):
    """The other end may not stay; the text says why."""


class Admission:
    """The checks that one side's settings ask for."""

    def __init__(self, settings: Settings, log: Logger) -> None:
        """Raises TlsError when the list of revoked certificates cannot be read."""
        self._settings = settings
        self._revocations: Reloaded[x509.CertificateRevocationList] | None = None
        if settings.crl_file:
            file = settings.crl_file
            self._revocations = Reloaded(lambda: read_revocations(file), [file], log)

    @property
    def wants_address(self) -> bool:
        """Whether `check_address` is to be asked too."""
        return self._settings.checks_address and self._settings.asks_certificate

    def check(self, connection: ssl.SSLObject) -> None:
        """Check who has connected. Raises RefusedError."""
        certificate = _shown(connection)
        if certificate is not None:
            _check_time(certificate)
            self._check_names(certificate)
            self._check_revoked(connection)

    async def check_address(self, connection: ssl.SSLObject, address: str) -> None:
        """Check the IP address of who has connected. Raises RefusedError."""
        certificate = _shown(connection)
        if certificate is not None:
            await _check_address(certificate, address)

    def check_names(self, connection: ssl.SSLObject) -> None:
        """Check who was connected to; as in etcd, names alone. Raises RefusedError."""
        certificate = _shown(connection)
        if certificate is not None:
            self._check_names(certificate)

    def _check_names(self, certificate: x509.Certificate) -> None:
        names, hostnames = self._settings.allowed_common_names, self._settings.allowed_hostnames
        if (names and _common_name(certificate) not in names) or (
            hostnames and not any(is_for(certificate, name) for name in hostnames)
        ):
            raise RefusedError("client certificate authentication failed")

    def _check_revoked(self, connection: ssl.SSLObject) -> None:
        if self._revocations is None:
            return
        revocations = self._revocations.get()
        for certificate in _shown_chain(connection):
            serial = certificate.serial_number
            if revocations.get_revoked_certificate_by_serial_number(serial) is not None:
                raise RefusedError(f"transport: certificate serial {serial:x} revoked")


def _shown(connection: ssl.SSLObject) -> x509.Certificate | None:
    shown = connection.getpeercert(binary_form=True)
    return None if shown is None else x509.load_der_x509_certificate(shown)


def _check_time(certificate: x509.Certificate) -> None:
    """The handshake has done so, but for a session that began before."""
    if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise RefusedError("tls: failed to verify certificate: certificate has expired")


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[-1].value) if names else ""


def _shown_chain(connection: ssl.SSLObject) -> list[x509.Certificate]:
    """The certificates that the other end has sent, its own first."""
    if sys.version_info >= (3, 13):
        chain = connection.get_unverified_chain()
    else:
        inner = cast(Any, connection)._sslobj
        chain = [each.public_bytes(_DER) for each in inner.get_unverified_chain()]
    return [x509.load_der_x509_certificate(each) for each in chain]


def is_for(certificate: x509.Certificate, host: str) -> bool:
    """Whether a certificate's alternative names have a host name or IP address (RFC 6125)."""
    names, addresses = _alternatives(certificate)
    try:
        return ipaddress.ip_address(host.strip("[]")) in addresses
    except ValueError:
        return any(_matches(name, host) for name in names)


def _alternatives(
    certificate: x509.Certificate,
) -> tuple[list[str], list[ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    try:
        value = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    addresses = value.get_values_for_type(x509.IPAddress)
    return value.get_values_for_type(x509.DNSName), [
        each
        for each in addresses
        if isinstance(each, ipaddress.IPv4Address | ipaddress.IPv6Address)
    ]


def _matches(pattern: str, host: str) -> bool:
    """A star stands for the whole first label, and for nothing else."""
    wanted = host.lower().removesuffix(".").split(".")
    given = pattern.lower().removesuffix(".").split(".")
    if len(wanted) != len(given) or "" in wanted:
        return False
    if given[0] == "*" and len(given) > 1:
        return wanted[1:] == given[1:]
    return wanted == given


async def _check_address(certificate: x509.Certificate, address: str) -> None:
    """A certificate that names hosts is good from those hosts alone."""
    names, addresses = _alternatives(certificate)
    if not names and not addresses:
        return
    try:
        if ipaddress.ip_address(address) in addresses:
            return
    except ValueError:
        raise RefusedError(f'tls: "{address}" is not an IP address') from None
    if not names:
        shown = ", ".join(map(str, addresses))
        raise RefusedError(f"x509: certificate is valid for {shown}, not {address}")
    try:
        async with asyncio.timeout(_LOOKUP_SECONDS):
            found = await _is_host_in(address, names)
    except TimeoutError:
        found = False
    if not found:
        quoted = " ".join(f'"{name}"' for name in names)
        raise RefusedError(f'tls: "{address}" does not match any of DNSNames [{quoted}]')


async def _is_host_in(address: str, names: Sequence[str]) -> bool:
    """Whether an address has one of the names, or one of the names has the address."""
    loop = asyncio.get_running_loop()
    try:
        host, _ = await loop.getnameinfo((address, 0), socket.NI_NAMEREQD)
    except OSError:
        host = ""
    own = host.removesuffix(".")
    if own and any(
        own.endswith(name[1:]) if name.startswith("*.") else own == name for name in names
    ):
        return True
    wanted = ipaddress.ip_address(address)
    for name in names:
        if name.startswith("*."):
            continue
        try:
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            continue
        if any(ipaddress.ip_address(each[4][0]) == wanted for each in found):
            return True
    return False
