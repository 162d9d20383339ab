"""JSON web tokens (RFC 7519): signed by a member, verified by all, known to none.

A token carries its user, the store's revision and when it expires. It cannot be taken back: one of
before a change of users or roles is refused with etcd's error for an old revision.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt.types import Options

from rusd.auth.errors import InvalidAuthTokenError, VerifyOnlyError
from rusd.auth.provider import TokenOptionsError
from rusd.auth.store import Identity
from rusd.auth.tokens import DEFAULT_TTL, Login
from rusd.duration import parse_duration

_HASHES: Final = ("256", "384", "512")
_CURVES: Final = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
METHODS: Final = (
    *(kind + size for kind in ("RS", "PS", "ES", "HS") for size in _HASHES),
    "EdDSA",
)
OPTIONS: Final = ("sign-method", "pub-key", "priv-key", "ttl")

_MOST_VERIFIED: Final = 10_000
_MOST_REVISION: Final = 2**63
_LONGEST: Final = 8192
"""Characters; no token that etcd makes is near it."""

_CHECKS: Final[Options] = {
    # What etcd's library looks at, and nothing else.
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class _Keys(NamedTuple):
    sign: Any | None
    verify: Any


class JwtTokens:
    """Makes and verifies tokens by one method and its keys."""

    signs = True

    def __init__(self, options: dict[str, str], clock: Callable[[], float] = time.time) -> None:
        """`clock` is wall-clock seconds. Raises TokenOptionsError."""
        self._method = options.get("sign-method", "")
        if self._method not in METHODS:
            raise TokenOptionsError(
                f'--auth-token: sign-method "{self._method}" is none of {", ".join(METHODS)}: '
                "invalid auth options"
            )
        self._ttl = _ttl(options.get("ttl"))
        self._clock = clock
        keys = _load(self._method, options.get("pub-key", ""), options.get("priv-key", ""))
        self._sign_key, self._verify_key = keys
        self._verified: dict[str, tuple[Identity, float]] = {}
        """Identity and end of life of tokens that were verified, so that a call does not cost the
        50 to 500 microseconds of a signature."""

    def resolve(self, token: str) -> Identity:
        known = self._verified.get(token)
        if known is None:
            known = self._verify(token)
            if len(self._verified) >= _MOST_VERIFIED:
                self._verified.clear()
            self._verified[token] = known
        identity, expires = known
        if expires <= self._clock():
            self._verified.pop(token, None)
            raise InvalidAuthTokenError
        return identity

    def _verify(self, token: str) -> tuple[Identity, float]:
        if len(token) > _LONGEST:
            raise InvalidAuthTokenError
        try:
            claims = jwt.decode(token, self._verify_key, [self._method], options=_CHECKS)
            expires = float(claims.get("exp", "inf"))
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError):
            raise InvalidAuthTokenError from None
        return _identity(claims), expires

    def sign(self, identity: Identity) -> str:
        if self._sign_key is None:
            raise VerifyOnlyError
        expires = int(self._clock() + self._ttl)
        claims = {"exp": expires, "revision": identity.revision, "username": identity.user}
        return jwt.encode(claims, self._sign_key, self._method)

    def add(self, login: Login, index: int) -> None:
        pass

    def forget(self, user: str) -> None:
        pass

    def clear(self) -> None:
        pass


def _identity(claims: dict[str, Any]) -> Identity:
    """Raises InvalidAuthTokenError for claims that name none, or one that no store can have."""
    user, revision = claims.get("username"), claims.get("revision")
    if not isinstance(user, str) or not user or not isinstance(revision, int | float):
        raise InvalidAuthTokenError
    try:
        user.encode()
    except UnicodeEncodeError:
        raise InvalidAuthTokenError from None
    if not 0 <= revision < _MOST_REVISION:
        raise InvalidAuthTokenError
    return Identity(user, int(revision))


def _ttl(text: str | None) -> float:
    try:
        ttl = DEFAULT_TTL if text is None else parse_duration(text)
    except ValueError:
        ttl = 0
    if ttl <= 0:
        raise TokenOptionsError(f'--auth-token: ttl "{text}" is no time: invalid auth options')
    return ttl


def _load(method: str, public: str, private: str) -> _Keys:
    """Reads a method's keys from the files that are named; "" for none."""
    if method.startswith("HS"):
        secret = _read("priv-key", private)
        if not secret:
            raise TokenOptionsError("--auth-token: priv-key: missing key data")
        # Of a short one, which etcd takes: PyJWT would tell with every token.
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
        return _Keys(secret, secret)
    sign = _parsed("priv-key", private, lambda pem: load_pem_private_key(pem, None))
    verify = _parsed("pub-key", public, _public_key)
    if sign is not None:
        derived = sign.public_key()
        if verify is not None and derived != verify:
            raise TokenOptionsError("--auth-token: pub-key and priv-key do not belong together")
        verify = derived
    if verify is None:
        raise TokenOptionsError("--auth-token: pub-key or priv-key: missing key data")
    if not _fits(method, verify):
        raise TokenOptionsError(f"--auth-token: the keys are not of a kind that {method} can use")
    return _Keys(sign, verify)


def _public_key(pem: bytes) -> Any:
    if b"-----BEGIN CERTIFICATE-----" in pem:
        return x509.load_pem_x509_certificate(pem).public_key()
    return load_pem_public_key(pem)


def _fits(method: str, key: Any) -> bool:
    if method in _CURVES:
        return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES[method])
    if method == "EdDSA":
        return isinstance(key, ed25519.Ed25519PublicKey)
    return isinstance(key, rsa.RSAPublicKey)


def _parsed(option: str, path: str, parse: Callable[[bytes], Any]) -> Any:
    if not path:
        return None
    pem = _read(option, path)
    try:
        return parse(pem)
    except (ValueError, TypeError, NotImplementedError) as error:
        # Not its text: nothing of a key may be in a message.
        raise TokenOptionsError(
            f"--auth-token: {option}: {path} has no key in PEM format ({type(error).__name__})"
        ) from None


def _read(option: str, path: str) -> bytes:
    if not path:
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise TokenOptionsError(f"--auth-token: {option}: {path}: {error.strerror}") from None
