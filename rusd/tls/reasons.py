"""Errors of a handshake in words that help whoever reads the log."""

import ssl


def reason_of(error: Exception) -> str:
    """One line."""
    if not isinstance(error, ssl.SSLError):
        return str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: {error.verify_message}"
    reason = error.reason or ""
    if reason in ("HTTP_REQUEST", "HTTPS_PROXY_REQUEST"):
        return "tls: the client sent an HTTP request to an HTTPS server"
    if reason == "WRONG_VERSION_NUMBER":
        return "tls: first record does not look like a TLS handshake"
    return f"tls: {reason.lower().replace('_', ' ')}" if reason else str(error)
