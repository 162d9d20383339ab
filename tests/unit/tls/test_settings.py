"""Flags of TLS that do not go together, in etcd's words; and names of cipher suites."""

import ssl

import pytest

from rusd.config import load
from rusd.tls.ciphers import openssl_names
from rusd.tls.errors import TlsError
from rusd.tls.settings import check, client_settings, peer_settings, plain_url_notices

HTTPS = ("--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1")
PAIR = ("--cert-file=c", "--key-file=k")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (HTTPS, "TLS key/cert (--cert-file, --key-file) must be provided for client url https"),
        (["--listen-metrics-urls=https://127.0.0.1:1"], "must be provided for client url https"),
        ((*HTTPS, "--cert-file=c"), "KeyFile and CertFile must both be present[key: , cert: c]"),
        ((*HTTPS, "--key-file=k"), "KeyFile and CertFile must both be present[key: k, cert: ]"),
        (
            (*HTTPS, *PAIR, "--client-cert-file=c"),
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: c]",
        ),
        (["--listen-peer-urls=https://127.0.0.1:1"], "cannot listen on TLS for 127.0.0.1:1: Key"),
        (["--cipher-suites=TLS_FOO"], 'unexpected TLS cipher suite "TLS_FOO"'),
        (
            (*HTTPS, *PAIR, "--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"),
            "http2: TLSConfig.CipherSuites is missing an HTTP/2-required AES_128_GCM_SHA256 cipher",
        ),
        (
            ["--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b,c"],
            'AllowedCNs and AllowedHostnames are mutually exclusive (cns=["a"], hostnames=["b" "c"',
        ),
        (
            (*HTTPS, "--auto-tls", "--self-signed-cert-validity=0"),
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
        (["--peer-auto-tls", "--self-signed-cert-validity=0"], "selfSignedCertValidity is invalid"),
    ],
)
def test_flags_that_cannot_work_are_refused_in_etcds_words(flags: list[str], text: str) -> None:
    with pytest.raises(TlsError) as caught:
        check(load(flags, {}))
    assert text in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "flags",
    [
        [],
        [*HTTPS, *PAIR],
        [*HTTPS, "--auto-tls"],
        ["--peer-auto-tls", "--listen-peer-urls=https://127.0.0.1:1"],
        [*HTTPS, *PAIR, "--auto-tls", "--self-signed-cert-validity=0"],
        ["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"],
    ],
)
def test_flags_that_work_are_taken(flags: list[str]) -> None:
    check(load(flags, {}))


def test_an_authority_is_enough_to_ask_for_certificates() -> None:
    assert client_settings(load(["--trusted-ca-file=x"], {})).asks_certificate
    assert client_settings(load(["--client-cert-auth"], {})).asks_certificate
    assert not client_settings(load(PAIR, {})).asks_certificate
    assert peer_settings(load(["--peer-trusted-ca-file=x"], {})).asks_certificate
    assert not peer_settings(load(["--trusted-ca-file=x"], {})).asks_certificate


def test_a_plain_url_beside_certificates_is_told_of() -> None:
    config = load([*PAIR, "--client-cert-auth", *HTTPS], {})
    settings = client_settings(config)
    assert plain_url_notices(settings, config.listen_client_urls) == []
    notices = plain_url_notices(settings, load([], {}).listen_client_urls)
    assert [url for _, url in notices] == 2 * ["http://localhost:2379"]
    assert "ignoring key and cert files" in notices[0][0]
    assert "--client-cert-auth is enabled; ignoring" in notices[1][0]


def test_cipher_suites_get_openssls_names() -> None:
    chacha = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"
    names = openssl_names(
        [
            "TLS_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            chacha,
            f"{chacha}_SHA256",
        ]
    )
    assert names == "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(names)
    chosen = {each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"}
    assert chosen == set(names.split(":"))


@pytest.mark.parametrize("names", [[], ["TLS_AES_128_GCM_SHA256"]])
def test_by_default_there_are_suites_with_forward_secrecy_and_authentication_alone(
    names: list[str],
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(openssl_names(names))
    chosen = {each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"}
    assert len(chosen) == 6
    for name in chosen:
        assert name.startswith(("ECDHE-ECDSA-", "ECDHE-RSA-"))
        assert "GCM" in name or "POLY1305" in name
