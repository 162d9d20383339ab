"""Certificates that a member makes for itself (`--auto-tls`, `--peer-auto-tls`).

They encrypt and prove nothing. They stay in the data directory, where etcd has them, and are used
again at the next start, unless they have expired.
"""

import datetime
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rusd.log import Logger
from rusd.tls.errors import TlsError
from rusd.tls.files import check_pair
from rusd.tls.settings import Settings


def self_signed(
    settings: Settings, data_dir: Path, hosts: Iterable[str], years: int, log: Logger
) -> Settings:
    """Settings with a certificate for `hosts` that is made unless there is one that can be used.

    It is valid for so many `years` of 365 days. Raises TlsError when it cannot be made.
    """
    folder = data_dir.absolute() / "fixtures" / settings.side
    certificate, key = folder / "cert.pem", folder / "key.pem"
    if not _is_usable(certificate, key, log):
        try:
            _make(folder, certificate, key, hosts, years, log)
        except OSError as error:
            raise TlsError(f"cannot write a self-signed certificate: {error}") from None
        except (ValueError, OverflowError) as error:
            raise TlsError(f"cannot make a self-signed certificate: {error}") from None
    return settings.with_self_signed(str(certificate), str(key))


def _is_usable(certificate: Path, key: Path, log: Logger) -> bool:
    if not (certificate.exists() and key.exists()):
        return False
    try:
        check_pair(str(certificate), str(key))
    except TlsError as error:
        log.warn("the self-signed certificate cannot be used any more", error=error)
        return False
    return True


def _make(
    folder: Path, certificate: Path, key: Path, hosts: Iterable[str], years: int, log: Logger
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=365 * years)
    log.warn(
        "automatically generate certificates",
        **{"certificate-validity-bound-not-after": f"{until:%Y-%m-%dT%H:%M:%SZ}"},
    )
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "etcd")])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([*map(_name, dict.fromkeys(hosts))]), False)
        .sign(private, SHA256())
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The key first: without the certificate, both are made anew.
    certificate.unlink(missing_ok=True)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    _write(key, pem, 0o600)
    log.info("created key file", path=str(key))
    _write(certificate, signed.public_bytes(Encoding.PEM), 0o644)
    log.info("created cert file", path=str(certificate))


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole, or not at all."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    part.rename(path)


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
