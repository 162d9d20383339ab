"""What the flags say of TLS, for one of the two sides: clients, or other members."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rusd.config import Config, Url
from rusd.tls.ciphers import check_http2, check_suites
from rusd.tls.errors import TlsError


@dataclass(frozen=True, slots=True)
class Settings:
    """TLS on the URLs of one side. File names are empty where there is none."""

    side: str
    """"client" or "peer": who connects."""
    cert_file: str
    key_file: str
    dial_cert_file: str
    """Shown to those whom this member dials; empty for `cert_file`."""
    dial_key_file: str
    trusted_ca_file: str
    """Who may sign for the other end; empty for the system's authorities."""
    client_cert_auth: bool
    crl_file: str
    allowed_common_names: tuple[str, ...]
    allowed_hostnames: tuple[str, ...]
    checks_address: bool
    """Whether a certificate with names must have the address that it is shown from."""
    cipher_suites: tuple[str, ...]
    min_version: str
    max_version: str
    self_signed: bool = False
    """Made by --auto-tls or --peer-auto-tls: encrypts, and proves nothing."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to listen with."""
        return not self.cert_file and not self.key_file

    @property
    def asks_certificate(self) -> bool:
        """Whether who connects must show a certificate; as in etcd, an authority is enough."""
        return self.client_cert_auth or bool(self.trusted_ca_file)

    @property
    def files(self) -> tuple[str, ...]:
        """Those that contexts are made from."""
        files = (self.cert_file, self.key_file, self.dial_cert_file, self.dial_key_file)
        return tuple(file for file in (*files, self.trusted_ca_file) if file)

    def with_self_signed(self, certificate: str, key: str) -> "Settings":
        """The same with files that this member has made for itself."""
        return replace(
            self,
            cert_file=certificate,
            key_file=key,
            dial_cert_file=certificate,
            dial_key_file=key,
            self_signed=True,
        )


def check(config: Config) -> None:
    """Raise TlsError, in etcd's words, for flags with which there can be no TLS."""
    check_suites(config.cipher_suites)
    clients, peers = client_settings(config), peer_settings(config)
    for settings in (clients, peers):
        _check(settings)
    urls = secure_urls(config.urls_for_clients)
    if urls and clients.is_empty and not config.auto_tls:
        raise TlsError(
            "TLS key/cert (--cert-file, --key-file) must be provided for client url "
            f"{urls[0]} with HTTPS scheme"
        )
    if urls:
        check_http2(config.cipher_suites)
    urls = secure_urls(config.listen_metrics_urls)
    if urls and clients.is_empty and not config.auto_tls:
        raise TlsError(
            f"cannot listen on TLS for {urls[0].host}:{urls[0].port}: "
            "KeyFile and CertFile are not presented (--cert-file, --key-file)"
        )
    urls = secure_urls(config.listen_peer_urls)
    if urls and peers.is_empty and not config.peer_auto_tls:
        raise TlsError(
            f"cannot listen on TLS for {urls[0].host}:{urls[0].port}: "
            "KeyFile and CertFile are not presented (--peer-cert-file, --peer-key-file)"
        )
    makes = (config.auto_tls and clients.is_empty) or (config.peer_auto_tls and peers.is_empty)
    if makes and not config.self_signed_cert_validity:
        raise TlsError(
            "--self-signed-cert-validity: "
            "selfSignedCertValidity is invalid,it should be greater than 0"
        )


def client_settings(config: Config) -> Settings:
    """TLS of --listen-client-urls."""
    return Settings(
        "client",
        config.cert_file,
        config.key_file,
        config.client_cert_file,
        config.client_key_file,
        config.trusted_ca_file,
        config.client_cert_auth,
        config.client_crl_file,
        (),
        config.client_cert_allowed_hostname,
        False,
        config.cipher_suites,
        config.tls_min_version,
        config.tls_max_version,
    )


def peer_settings(config: Config) -> Settings:
    """TLS of --listen-peer-urls."""
    return Settings(
        "peer",
        config.peer_cert_file,
        config.peer_key_file,
        config.peer_client_cert_file,
        config.peer_client_key_file,
        config.peer_trusted_ca_file,
        config.peer_client_cert_auth,
        config.peer_crl_file,
        config.peer_cert_allowed_cn,
        config.peer_cert_allowed_hostname,
        not config.peer_skip_client_san_verification,
        config.cipher_suites,
        config.tls_min_version,
        config.tls_max_version,
    )


def _check(settings: Settings) -> None:
    if not settings.is_empty and not (settings.cert_file and settings.key_file):
        raise TlsError(
            "KeyFile and CertFile must both be present"
            f"[key: {settings.key_file}, cert: {settings.cert_file}]"
        )
    if bool(settings.dial_cert_file) != bool(settings.dial_key_file):
        raise TlsError(
            "ClientKeyFile and ClientCertFile must both be present or both absent: "
            f"key: {settings.dial_key_file}, cert: {settings.dial_cert_file}]"
        )
    names, hostnames = settings.allowed_common_names, settings.allowed_hostnames
    if names and hostnames:
        raise TlsError(
            "AllowedCNs and AllowedHostnames are mutually exclusive "
            f"(cns=[{_quoted(names)}], hostnames=[{_quoted(hostnames)}])"
        )


def _quoted(names: Sequence[str]) -> str:
    return " ".join(f'"{name}"' for name in names)


def secure_urls(urls: Sequence[Url]) -> list[Url]:
    """Those with TLS."""
    return [url for url in urls if url.scheme == "https"]


def plain_url_notices(settings: Settings, urls: Sequence[Url]) -> list[tuple[str, str]]:
    """Warnings for URLs without TLS where TLS is configured, each with its URL."""
    notices = []
    flag = "--client-cert-auth" if settings.side == "client" else "--peer-client-cert-auth"
    for url in urls:
        if url.scheme == "https":
            continue
        if not settings.is_empty:
            text = "scheme is http while key and cert files are present"
            notices.append((f"{text}; ignoring key and cert files", url.text))
        if settings.client_cert_auth:
            text = f"scheme is http while {flag} is enabled"
            notices.append((f"{text}; ignoring client cert auth for this URL", url.text))
    return notices
