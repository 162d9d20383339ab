"""TLS of one side of a member, as `rusd.server` uses it.

The flags have been found good by `rusd.tls.settings.check`; the files are, or are refused, here.
"""

from collections.abc import Sequence
from pathlib import Path

from rusd.config import Config, Url
from rusd.log import Logger
from rusd.tls.admission import Admission
from rusd.tls.context import dial_context, server_context
from rusd.tls.dialing import Dialing
from rusd.tls.files import Reloaded, check_pair
from rusd.tls.handshakes import Handshakes, Limits
from rusd.tls.self_signed import self_signed
from rusd.tls.settings import (
    Settings,
    client_settings,
    peer_settings,
    plain_url_notices,
    secure_urls,
)


def open_clients(config: Config, log: Logger) -> Handshakes | None:
    """TLS for --listen-client-urls and --listen-metrics-urls; None when all of them are plain.
    Raises TlsError.
    """
    settings = client_settings(config)
    urls = (*config.listen_client_urls, *config.listen_metrics_urls)
    if config.auto_tls:
        settings = _made(settings, config, urls, log)
    _tell(settings, urls, log)
    if not secure_urls(urls):
        return None
    if settings.dial_cert_file:
        check_pair(settings.dial_cert_file, settings.dial_key_file)
    return _handshakes(settings, Admission(settings, log), log)


def open_peers(config: Config, log: Logger) -> tuple[Handshakes | None, Dialing]:
    """TLS for --listen-peer-urls, None when all of them are plain; and for dialing members.

    Raises TlsError.
    """
    settings = peer_settings(config)
    urls = config.listen_peer_urls
    if config.peer_auto_tls:
        settings = _made(settings, config, urls, log)
    _tell(settings, urls, log)
    admission = Admission(settings, log)
    handshakes = _handshakes(settings, admission, log) if secure_urls(urls) else None
    contexts = Reloaded(lambda: dial_context(settings), settings.files, log)
    return handshakes, Dialing(contexts, admission)


def _handshakes(settings: Settings, admission: Admission, log: Logger) -> Handshakes:
    log.info(
        f"starting with {settings.side} TLS",
        **{
            "cert": settings.cert_file,
            "key": settings.key_file,
            "trusted-ca": settings.trusted_ca_file,
            "client-cert-auth": settings.client_cert_auth,
            "crl-file": settings.crl_file,
            "cipher-suites": list(settings.cipher_suites),
        },
    )
    contexts = Reloaded(lambda: server_context(settings), settings.files, log)
    names_users = settings.side == "client" and settings.client_cert_auth
    return Handshakes(settings.side, contexts, admission, names_users, log, Limits())


def _made(settings: Settings, config: Config, urls: Sequence[Url], log: Logger) -> Settings:
    if not settings.is_empty:
        log.warn(f"ignoring {settings.side} auto TLS since certs given")
        return settings
    hosts = [url.host for url in urls]
    return self_signed(
        settings, Path(config.data_dir), hosts, config.self_signed_cert_validity, log
    )


def _tell(settings: Settings, urls: Sequence[Url], log: Logger) -> None:
    """Warn of what an operator may take for more than it is."""
    for notice, url in plain_url_notices(settings, urls):
        log.warn(notice, **{f"{settings.side}-url": url})
    named = settings.allowed_common_names or settings.allowed_hostnames or settings.crl_file
    if named and not settings.asks_certificate:
        log.warn(
            f"no certificate is asked of a {settings.side}, so the names that it may have and the "
            "list of revoked ones do nothing; a trusted CA file is missing"
        )
