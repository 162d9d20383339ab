"""A certificate authority in memory, for labs and tests: it issues, revokes, and writes PEM files.

Keys are ECDSA P-256, which is quick to sign with. Private keys are written for their owner alone.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL = ("localhost", "127.0.0.1", "::1")
"""What a member on this machine is called."""

_DAY = datetime.timedelta(days=1)
_SKEW = datetime.timedelta(minutes=5)
"""Certificates are valid from a little before now: clocks differ."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as a file's content."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as a file's content, not encrypted."""
        return self.key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write `name`.crt and `name`.key into `folder`; return both paths."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.certificate_pem)
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(self.key_pem)
        return certificate, key


@dataclass(slots=True)
class Authority:
    """Signs certificates, and lists those that it has revoked."""

    credential: Credential
    revoked: list[int] = field(default_factory=list)
    """Serial numbers."""

    @classmethod
    def create(cls, name: str, days: float = 3650) -> Self:
        """Make one with a certificate that it signs itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        return cls(Credential(_authority(subject, subject, key, key, days), key))

    def delegate(self, name: str, days: float = 3650) -> "Authority":
        """Make one whose certificate this one signs."""
        key, own = ec.generate_private_key(ec.SECP256R1()), self.credential
        subject = own.certificate.subject
        return Authority(Credential(_authority(_name(name), subject, key, own.key, days), key))

    def issue(
        self,
        common_name: str,
        hosts: Sequence[str] = (),
        *,
        days: float = 365,
        server: bool = True,
        client: bool = True,
    ) -> Credential:
        """Sign a certificate for `hosts` (names and addresses), good for `days` from now; of a
        negative number of days it has expired, after one on which it was good.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server
        usages += [ExtendedKeyUsageOID.CLIENT_AUTH] * client
        authority = self.credential
        builder = (
            _builder(_name(common_name), authority.certificate.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
                critical=False,
            )
        )
        if hosts:
            names = x509.SubjectAlternativeName(map(_general_name, hosts))
            builder = builder.add_extension(names, critical=False)
        return Credential(builder.sign(authority.key, SHA256()), key)

    def revoke(self, credential: Credential) -> None:
        """Put a certificate on the list."""
        self.revoked.append(credential.certificate.serial_number)

    def revocations(self, encoding: Encoding = Encoding.PEM) -> bytes:
        """The list (CRL) of what was revoked so far, good for 30 days."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.credential.certificate.subject)
            .last_update(now - _SKEW)
            .next_update(now + 30 * _DAY)
        )
        for serial in self.revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(now - _SKEW)
                .build()
            )
        return builder.sign(self.credential.key, SHA256()).public_bytes(encoding)


def _name(common_name: str) -> x509.Name:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "rusd")
    if not common_name:
        return x509.Name([organization])
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    until = now + days * _DAY
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now - _SKEW, until - _DAY))
        .not_valid_after(until)
    )


def _authority(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    days: float,
) -> x509.Certificate:
    return (
        _builder(subject, issuer, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(signer, SHA256())
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
