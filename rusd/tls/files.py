"""Certificates, keys and lists in files: read, checked, and read again when they have changed."""

import datetime
import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from rusd.log import Logger
from rusd.tls.errors import TlsError

T = TypeVar("T")
_Stamp = tuple[int, int, int, int] | None


class Reloaded(Generic[T]):
    """What was made from files, and is made again once one of them is another.

    Files are looked at when it is asked for, which takes microseconds. What cannot be made from
    the new content is logged, once, and the old stays in use.
    """

    def __init__(self, make: Callable[[], T], files: Sequence[str], log: Logger) -> None:
        """Raises what `make` raises, a TlsError."""
        self._make, self._files, self._log = make, files, log
        self._stamps = self._look()
        self._made = make()

    def get(self) -> T:
        """What the files say now, as far as it can be used."""
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._made = self._make()
                self._log.info("loaded changed TLS files", files=list(self._files))
            except TlsError as error:
                self._log.error(
                    "changed TLS files cannot be used; the former content stays in use",
                    files=list(self._files),
                    error=error,
                )
        return self._made

    def _look(self) -> list[_Stamp]:
        return [_stamp(file) for file in self._files]


def _stamp(file: str) -> _Stamp:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read(file: str) -> bytes:
    """The file's content; TlsError names it."""
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise TlsError(f"open {file}: {(error.strerror or str(error)).lower()}") from None


def read_certificates(file: str) -> list[x509.Certificate]:
    """All certificates of a PEM file, at least one. Raises TlsError."""
    content = read(file)
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise TlsError(f"{file}: tls: failed to find any certificate in PEM") from None


def check_pair(cert_file: str, key_file: str) -> None:
    """Raise a TlsError that names the file, unless they are a certificate and its key, in time."""
    certificate = read_certificates(cert_file)[0]
    content = read(key_file)
    try:
        key = load_pem_private_key(content, None)
    except TypeError:
        raise TlsError(f"{key_file}: the private key is encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise TlsError(f"{key_file}: tls: failed to find a private key in PEM") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise TlsError(f"{cert_file}, {key_file}: tls: private key does not match public key")
    until = certificate.not_valid_after_utc
    if until < datetime.datetime.now(datetime.UTC):
        raise TlsError(f"{cert_file}: the certificate has expired, on {until:%Y-%m-%dT%H:%M:%SZ}")


def read_revocations(file: str) -> x509.CertificateRevocationList:
    """A list of revoked certificates, PEM or DER. Raises TlsError."""
    content = read(file)
    try:
        if b"-----BEGIN" in content:
            return x509.load_pem_x509_crl(content)
        return x509.load_der_x509_crl(content)
    except ValueError as error:
        raise TlsError(f"{file}: not a certificate revocation list: {error}") from None
