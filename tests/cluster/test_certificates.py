"""The certificates of a lab: `python -m cluster.tls` makes one of each kind, and they are that."""

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from rusd.tls.admission import is_for
from rusd.tls.errors import TlsError
from rusd.tls.files import check_pair, read_certificates, read_revocations


def test_one_command_makes_all_that_a_lab_needs(tmp_path: Path) -> None:
    out = tmp_path / "certs"
    command = [sys.executable, "-m", "cluster.tls", "--out", str(out)]
    made = subprocess.run(
        [*command, "--host", "10.9.8.7", "--host", "m1.lab", "--user", "alice"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert str(out) in made.stdout
    pairs = {path.stem for path in out.glob("*.key")}
    assert pairs == {path.stem for path in out.glob("*.crt")}
    good = {"ca", "server", "peer", "client", "user-root", "user-alice", "revoked"}
    assert pairs == {*good, "expired", "wrong", "wrong-ca"}
    for path in out.glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600

    def certificate(name: str) -> x509.Certificate:
        return read_certificates(str(out / f"{name}.crt"))[0]

    authority = certificate("ca")
    for name in pairs - {"expired"}:
        check_pair(str(out / f"{name}.crt"), str(out / f"{name}.key"))
    for name in good:
        certificate(name).verify_directly_issued_by(authority)
    with pytest.raises(TlsError, match="expired"):
        check_pair(str(out / "expired.crt"), str(out / "expired.key"))
    assert certificate("wrong").issuer == authority.subject
    with pytest.raises(InvalidSignature):
        certificate("wrong").verify_directly_issued_by(authority)
    for name in ("server", "peer"):
        for host in ("localhost", "127.0.0.1", "::1", "10.9.8.7", "m1.lab"):
            assert is_for(certificate(name), host)
    for name, user in (("user-alice", "alice"), ("user-root", "root")):
        (found,) = certificate(name).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        assert found.value == user
    assert not certificate("client").subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    serial = certificate("revoked").serial_number
    for file in ("crl.pem", "crl.der"):
        revocations = read_revocations(str(out / file))
        assert revocations.get_revoked_certificate_by_serial_number(serial) is not None
        assert len(list(revocations)) == 1
