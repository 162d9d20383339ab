"""Which certificates are good for whom: names, wildcards, addresses, and what was revoked."""

import asyncio
from pathlib import Path

import pytest
from cryptography import x509

from cluster.tls.authority import Authority
from rusd.tls import admission as room
from rusd.tls.admission import Admission, RefusedError, is_for
from tests.unit.tls.shaking import shaken_pair
from tests.unit.tls.site import Lines, Site


@pytest.mark.parametrize(
    ("hosts", "host", "good"),
    [
        (["a.example"], "a.example", True),
        (["a.example"], "A.Example.", True),
        (["A.example."], "a.example", True),
        (["a.example"], "b.example", False),
        (["a.example"], "x.a.example", False),
        (["*.example"], "a.example", True),
        (["*.example"], "a.b.example", False),
        (["*.example"], "example", False),
        (["*.example"], ".example", False),
        (["a.*.example"], "a.b.example", False),
        (["*"], "a", False),
        (["a*.example"], "ab.example", False),
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.2", False),
        (["::1"], "::1", True),
        (["::1"], "[::1]", True),
        (["::1"], "0:0:0:0:0:0:0:1", True),
        (["127.0.0.1", "a.example"], "a.example", True),
        ([], "cn.example", False),
    ],
)
def test_a_certificate_is_good_for_the_hosts_that_it_names(
    authority: Authority, hosts: list[str], host: str, good: bool
) -> None:
    assert is_for(authority.issue("cn.example", hosts).certificate, host) is good


def test_an_address_written_as_a_name_is_no_address(authority: Authority) -> None:
    key = authority.issue("x").key
    named = x509.SubjectAlternativeName([x509.DNSName("127.0.0.1")])
    issued = authority.issue("x").certificate
    certificate = (
        x509.CertificateBuilder()
        .subject_name(issued.subject)
        .issuer_name(issued.issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(issued.not_valid_before_utc)
        .not_valid_after(issued.not_valid_after_utc)
        .add_extension(named, critical=False)
        .sign(key, issued.signature_hash_algorithm)  # type: ignore[arg-type]
    )
    assert not is_for(certificate, "127.0.0.1")


@pytest.mark.parametrize(
    ("flags", "client", "refusal"),
    [
        ((), "client", None),
        (("--peer-cert-allowed-cn=client",), "client", None),
        (("--peer-cert-allowed-cn=other,client",), "client", None),
        (("--peer-cert-allowed-cn=Client",), "client", "client certificate authentication failed"),
        (("--peer-cert-allowed-cn=clien",), "client", "client certificate authentication failed"),
        (("--peer-cert-allowed-hostname=localhost",), "server", None),
        (("--peer-cert-allowed-hostname=a,127.0.0.1",), "server", None),
        (("--peer-cert-allowed-hostname=server",), "server", "certificate authentication failed"),
        (("--peer-cert-allowed-hostname=client",), "client", "certificate authentication failed"),
    ],
)
def test_names_that_were_not_allowed_are_refused(
    site: Site, lines: Lines, flags: list[str], client: str, refusal: str | None
) -> None:
    settings = site.peers(*flags)
    checks = Admission(settings, lines.log)
    server, dialer = shaken_pair(settings, site.peers(*dialing(site, client)))
    for check, end in ((checks.check, server), (checks.check_names, server)):
        if refusal is None:
            check(end)
        else:
            with pytest.raises(RefusedError, match=refusal):
                check(end)
    # Who was dialed is held to the same names.
    if flags and "server" not in flags[0] and client == "client":
        with pytest.raises(RefusedError):
            checks.check_names(dialer)


def dialing(site: Site, name: str) -> tuple[str, str]:
    return (
        f"--peer-client-cert-file={site.path(name)}.crt",
        f"--peer-client-key-file={site.path(name)}.key",
    )


def test_who_was_revoked_is_refused_as_soon_as_the_list_says_so(
    site: Site, lines: Lines, tmp_path: Path
) -> None:
    path = tmp_path / "crl"
    path.write_bytes(site.authority.revocations())
    settings = site.peers(f"--peer-crl-file={path}")
    checks = Admission(settings, lines.log)
    bad = site.write("bad", "bad")
    revoked, _ = shaken_pair(settings, site.peers(*dialing(site, "bad")))
    good, _ = shaken_pair(settings, site.peers(*dialing(site, "client")))
    checks.check(revoked)
    site.authority.revoke(bad)
    path.write_bytes(site.authority.revocations())
    serial = f"{bad.certificate.serial_number:x}"
    with pytest.raises(RefusedError, match=f"transport: certificate serial {serial} revoked"):
        checks.check(revoked)
    checks.check(good)
    path.write_bytes(b"a list that is being written")
    with pytest.raises(RefusedError):
        checks.check(revoked)
    checks.check(good)


def test_an_authority_between_that_was_revoked_is_found_too(
    site: Site, lines: Lines, tmp_path: Path
) -> None:
    middle = site.authority.delegate("between")
    issued = middle.issue("client of between")
    issued.write(site.folder, "far")
    with Path(site.path("far.crt")).open("ab") as file:
        file.write(middle.credential.certificate_pem)
    site.authority.revoke(middle.credential)
    path = tmp_path / "crl"
    path.write_bytes(site.authority.revocations())
    settings = site.peers(f"--peer-crl-file={path}")
    server, _ = shaken_pair(settings, site.peers(*dialing(site, "far")))
    with pytest.raises(RefusedError, match="revoked"):
        Admission(settings, lines.log).check(server)


@pytest.mark.parametrize(
    ("hosts", "address", "good"),
    [
        ([], "192.0.2.1", True),
        (["127.0.0.1"], "127.0.0.1", True),
        (["127.0.0.1"], "192.0.2.1", False),
        (["127.0.0.1", "localhost"], "127.0.0.1", True),
        (["localhost"], "127.0.0.1", True),
        (["192.0.2.1", "localhost"], "127.0.0.1", True),
        (["nowhere.invalid"], "127.0.0.1", False),
        (["*.invalid"], "127.0.0.1", False),
        (["127.0.0.1"], "", False),
    ],
)
def test_a_certificate_with_names_is_good_from_there_alone(
    authority: Authority, hosts: list[str], address: str, good: bool
) -> None:
    certificate = authority.issue("x", hosts).certificate
    if good:
        asyncio.run(room._check_address(certificate, address))
    else:
        with pytest.raises(RefusedError):
            asyncio.run(room._check_address(certificate, address))


def test_a_certificate_that_expired_since_its_session_began_is_refused(
    authority: Authority,
) -> None:
    room._check_time(authority.issue("x").certificate)
    with pytest.raises(RefusedError, match="certificate has expired"):
        room._check_time(authority.issue("x", days=-1).certificate)
