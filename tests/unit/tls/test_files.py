"""Certificates and keys in files: what is wrong with one is said, and changes are noticed."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from rusd.tls.errors import TlsError
from rusd.tls.files import Reloaded, check_pair, read_certificates, read_revocations
from tests.unit.tls.site import Lines, Site


def test_a_certificate_and_its_key_are_a_pair(site: Site) -> None:
    check_pair(site.path("server.crt"), site.path("server.key"))


def refusal(certificate: str, key: str) -> str:
    with pytest.raises(TlsError) as caught:
        check_pair(certificate, key)
    return str(caught.value)


def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(site: Site, tmp_path: Path) -> None:
    certificate, key = site.path("server.crt"), site.path("server.key")
    missing, garbage = str(tmp_path / "none"), str(tmp_path / "garbage")
    Path(garbage).write_text("no PEM at all\n")
    assert refusal(missing, key) == f"open {missing}: no such file or directory"
    assert refusal(certificate, missing) == f"open {missing}: no such file or directory"
    assert refusal(str(tmp_path), key) == f"open {tmp_path}: is a directory"
    assert refusal(garbage, key).startswith(f"{garbage}: tls: failed to find any certificate")
    assert refusal(certificate, garbage).startswith(f"{garbage}: tls: failed to find a private key")
    assert refusal(key, key).startswith(f"{key}: tls: failed to find any certificate")
    other = site.path("client.key")
    assert refusal(certificate, other) == (
        f"{certificate}, {other}: tls: private key does not match public key"
    )


def test_an_expired_certificate_is_refused_and_its_end_is_said(site: Site) -> None:
    until = site.write("old", "old", days=-1).certificate.not_valid_after_utc
    text = refusal(site.path("old.crt"), site.path("old.key"))
    assert text == (
        f"{site.path('old.crt')}: the certificate has expired, on {until:%Y-%m-%dT%H:%M:%SZ}"
    )


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(site: Site) -> None:
    made = site.authority.issue("x")
    locked = Path(site.path("locked.key"))
    locked.write_bytes(
        made.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )
    Path(site.path("locked.crt")).write_bytes(made.certificate_pem)
    text = refusal(site.path("locked.crt"), str(locked))
    assert text == f"{locked}: the private key is encrypted"
    assert "secret" not in text


def test_revocations_are_read_as_pem_and_as_der(site: Site, tmp_path: Path) -> None:
    revoked = site.authority.issue("revoked")
    site.authority.revoke(revoked)
    for encoding in (Encoding.PEM, Encoding.DER):
        path = tmp_path / "crl"
        path.write_bytes(site.authority.revocations(encoding))
        read = read_revocations(str(path))
        serial = revoked.certificate.serial_number
        assert read.get_revoked_certificate_by_serial_number(serial) is not None
        assert read.get_revoked_certificate_by_serial_number(serial + 1) is None
    for content in (b"", b"-----BEGIN nothing", b"\x30\x03\x02\x01\x01"):
        path.write_bytes(content)
        with pytest.raises(TlsError, match="not a certificate revocation list"):
            read_revocations(str(path))


def subject(file: str) -> str:
    return read_certificates(file)[0].subject.rfc4514_string()


def test_what_is_made_of_files_is_made_again_when_they_change(site: Site, lines: Lines) -> None:
    file = site.path("client.crt")
    made: list[str] = []

    def make() -> str:
        made.append(subject(file))
        return made[-1]

    reloaded = Reloaded(make, [file], lines.log)
    assert reloaded.get() == reloaded.get() == "CN=client,O=rusd"
    assert len(made) == 1
    site.write("client", "another")
    assert reloaded.get() == reloaded.get() == "CN=another,O=rusd"
    assert len(made) == 2
    assert [line["msg"] for line in lines.all()] == ["loaded changed TLS files"]


def test_what_cannot_be_used_leaves_the_former_in_use_and_is_logged_once(
    site: Site, lines: Lines
) -> None:
    file = site.path("client.crt")
    reloaded = Reloaded(lambda: subject(file), [file], lines.log)
    Path(file).write_text("half of a certi")
    assert [reloaded.get() for _ in range(3)] == 3 * ["CN=client,O=rusd"]
    os.unlink(file)
    assert [reloaded.get() for _ in range(3)] == 3 * ["CN=client,O=rusd"]
    errors = lines.all("error")
    assert len(errors) == 2
    assert file in errors[0]["error"]
    assert "no such file" in errors[1]["error"]
    site.write("client", "again")
    assert reloaded.get() == "CN=again,O=rusd"


def test_a_link_to_another_file_is_a_change(site: Site, lines: Lines, tmp_path: Path) -> None:
    """Kubernetes changes a mounted secret so."""
    link = tmp_path / "current.crt"
    link.symlink_to(site.path("client.crt"))
    reloaded = Reloaded(lambda: subject(str(link)), [str(link)], lines.log)
    link.unlink()
    link.symlink_to(site.path("server.crt"))
    assert reloaded.get() == "CN=server,O=rusd"
