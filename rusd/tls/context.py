"""SSL contexts: what OpenSSL is told of certificates, authorities, versions and cipher suites."""

import ssl
from ssl import TLSVersion

from cryptography.hazmat.primitives.serialization import Encoding

from rusd.tls.ciphers import openssl_names
from rusd.tls.errors import TlsError
from rusd.tls.files import check_pair, read_certificates
from rusd.tls.settings import Settings

_VERSIONS = {"TLS1.2": TLSVersion.TLSv1_2, "TLS1.3": TLSVersion.TLSv1_3}


def server_context(settings: Settings) -> ssl.SSLContext:
    """For who connects to this member. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context, settings)
    # A session that is resumed was verified before, not now. Without tickets there are TLS 1.2's
    # alone, which stay in this context: they end with it when the files change, and what is
    # checked after a handshake is checked for them too.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    if settings.side == "client":
        context.set_alpn_protocols(["h2", "http/1.1"])
    _load_pair(context, settings.cert_file, settings.key_file)
    if settings.asks_certificate:
        _trust(context, settings.trusted_ca_file, ssl.Purpose.CLIENT_AUTH)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def dial_context(settings: Settings) -> ssl.SSLContext:
    """For connections that this member makes. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context, settings)
    context.hostname_checks_common_name = False
    if settings.dial_cert_file:
        _load_pair(context, settings.dial_cert_file, settings.dial_key_file)
    elif settings.cert_file:
        _load_pair(context, settings.cert_file, settings.key_file)
    if settings.self_signed:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        _trust(context, settings.trusted_ca_file, ssl.Purpose.SERVER_AUTH)
    return context


def _restrict(context: ssl.SSLContext, settings: Settings) -> None:
    context.minimum_version = _VERSIONS[settings.min_version or "TLS1.2"]
    if settings.max_version:
        context.maximum_version = _VERSIONS[settings.max_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.set_ciphers(openssl_names(settings.cipher_suites))
    except ssl.SSLError:
        suites = ",".join(settings.cipher_suites)
        raise TlsError(
            f"--cipher-suites: {ssl.OPENSSL_VERSION} has none of them: {suites}"
        ) from None


def _load_pair(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    check_pair(cert_file, key_file)
    try:
        # A password asked for would wait for someone at the terminal.
        context.load_cert_chain(cert_file, key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        raise TlsError(f"{cert_file}, {key_file}: {error}") from None


def _trust(context: ssl.SSLContext, file: str, purpose: ssl.Purpose) -> None:
    # As in Go, whatever is in the file is trusted, be it an intermediate authority's.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if not file:
        context.load_default_certs(purpose)
        return
    authorities = b"".join(each.public_bytes(Encoding.DER) for each in read_certificates(file))
    try:
        context.load_verify_locations(cadata=authorities)
    except (OSError, ValueError) as error:
        raise TlsError(f"{file}: {error}") from None
