"""Certificates that a member makes for itself: where they are, and how long they are valid."""

import datetime
from pathlib import Path

import pytest

from cluster.tls.authority import Authority
from rusd.config import load
from rusd.tls.admission import is_for
from rusd.tls.errors import TlsError
from rusd.tls.files import check_pair, read_certificates
from rusd.tls.self_signed import self_signed
from rusd.tls.settings import client_settings, peer_settings
from tests.unit.tls.site import Lines


def test_they_lie_where_etcd_has_them_and_are_used_again(tmp_path: Path, lines: Lines) -> None:
    empty = client_settings(load([], {}))
    made = self_signed(empty, tmp_path, ["127.0.0.1", "localhost", "::1"], 2, lines.log)
    assert made.self_signed
    assert made.cert_file == str(tmp_path / "fixtures" / "client" / "cert.pem")
    assert made.key_file == str(tmp_path / "fixtures" / "client" / "key.pem")
    assert (made.dial_cert_file, made.dial_key_file) == (made.cert_file, made.key_file)
    check_pair(made.cert_file, made.key_file)
    assert Path(made.key_file).stat().st_mode & 0o777 == 0o600
    (certificate,) = read_certificates(made.cert_file)
    for host in ("127.0.0.1", "localhost", "::1"):
        assert is_for(certificate, host)
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lasts == datetime.timedelta(days=730)

    before = Path(made.cert_file).read_bytes()
    assert self_signed(empty, tmp_path, ["127.0.0.1"], 1, lines.log) == made
    assert Path(made.cert_file).read_bytes() == before


def test_sides_have_their_own(tmp_path: Path, lines: Lines) -> None:
    config = load([], {})
    clients = self_signed(client_settings(config), tmp_path, ["a"], 1, lines.log)
    peers = self_signed(peer_settings(config), tmp_path, ["a"], 1, lines.log)
    assert Path(peers.cert_file).parent.name == "peer"
    assert clients.cert_file != peers.cert_file


def test_half_of_a_pair_is_made_anew(tmp_path: Path, lines: Lines) -> None:
    """As a crash may leave it."""
    empty = client_settings(load([], {}))
    made = self_signed(empty, tmp_path, ["a"], 1, lines.log)
    for file in (made.cert_file, made.key_file):
        Path(file).unlink()
        again = self_signed(empty, tmp_path, ["a"], 1, lines.log)
        check_pair(again.cert_file, again.key_file)


def test_one_that_has_expired_is_made_anew(
    tmp_path: Path, lines: Lines, authority: Authority
) -> None:
    """Else a member that is restarted after a year would not start."""
    empty = client_settings(load([], {}))
    made = self_signed(empty, tmp_path, ["a"], 1, lines.log)
    expired = authority.issue("a", days=-1)
    Path(made.cert_file).write_bytes(expired.certificate_pem)
    Path(made.key_file).write_bytes(expired.key_pem)
    again = self_signed(empty, tmp_path, ["a"], 1, lines.log)
    check_pair(again.cert_file, again.key_file)
    assert "expired" in lines.all("warn")[-2]["error"]


def test_what_cannot_be_written_is_said(tmp_path: Path, lines: Lines) -> None:
    empty = client_settings(load([], {}))
    (tmp_path / "fixtures").write_text("in the way")
    with pytest.raises(TlsError, match="cannot write a self-signed certificate"):
        self_signed(empty, tmp_path, ["a"], 1, lines.log)
    with pytest.raises(TlsError, match="cannot make a self-signed certificate"):
        self_signed(empty, tmp_path / "other", ["a"], 10**6, lines.log)
