"""rusd/auth/jwt_tokens.py: what is signed, what is taken, and what is not."""

import base64
import hmac
import json
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from rusd.auth.errors import InvalidAuthTokenError, VerifyOnlyError
from rusd.auth.jwt_tokens import METHODS, JwtTokens
from rusd.auth.provider import TokenOptionsError
from rusd.auth.store import Identity
from tests.unit.auth.keys import private_key, public_pem, write_private, write_public

ALICE = Identity("alice", 5)
SECRET = "s" * 64

KINDS = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "Ed25519",
}


class Clock:
    """Wall-clock seconds that the test moves, from now on: what PyJWT compares with is real."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return datetime.now(UTC).timestamp() + self.ahead


def hs256(directory: Path, clock: Clock | None = None, **options: str) -> JwtTokens:
    path = directory / "secret"
    path.write_text(SECRET)
    given = {"sign-method": "HS256", "priv-key": str(path), **options}
    return JwtTokens(given, clock or Clock())


def knows(tokens: JwtTokens, token: str) -> bool:
    try:
        tokens.resolve(token)
    except InvalidAuthTokenError:
        return False
    return True


@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("HS")])
def test_whoever_has_the_public_key_can_verify_and_nobody_else(method: str, tmp_path: Path) -> None:
    key = private_key(KINDS[method])
    public = write_public(tmp_path, key)
    signer = JwtTokens({"sign-method": method, "priv-key": write_private(tmp_path, key)})
    both = JwtTokens({"sign-method": method, "priv-key": str(tmp_path / "key"), "pub-key": public})
    verifier = JwtTokens({"sign-method": method, "pub-key": public})
    other = JwtTokens(
        {
            "sign-method": method,
            "pub-key": write_public(tmp_path, private_key(KINDS[method], 1), "other"),
        }
    )
    token = signer.sign(ALICE)
    for tokens in (signer, both, verifier):
        assert tokens.resolve(token) == ALICE
        assert tokens.resolve(token) == ALICE, "from what it remembers"
    assert not knows(other, token)
    with pytest.raises(VerifyOnlyError):
        verifier.sign(ALICE)


@pytest.mark.parametrize("method", ["HS256", "HS384", "HS512"])
def test_whoever_has_the_secret_can_verify(method: str, tmp_path: Path) -> None:
    secret, other = tmp_path / "secret", tmp_path / "other"
    secret.write_text("short")  # etcd takes it
    other.write_text("another")
    with warnings.catch_warnings(record=True) as heard:
        tokens = JwtTokens({"sign-method": method, "priv-key": str(secret)})
        token = tokens.sign(ALICE)
        assert tokens.resolve(token) == ALICE
    assert not heard
    assert not knows(JwtTokens({"sign-method": method, "priv-key": str(other)}), token)


def test_a_token_says_what_etcds_say(tmp_path: Path) -> None:
    token = hs256(tmp_path, ttl="10m").sign(ALICE)
    header, claims = (
        json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2]
    )
    assert header == {"alg": "HS256", "typ": "JWT"}
    assert set(claims) == {"exp", "revision", "username"}
    assert (claims["revision"], claims["username"]) == (5, "alice")
    assert abs(claims["exp"] - (datetime.now(UTC) + timedelta(minutes=10)).timestamp()) < 60


def test_a_token_ends_also_when_it_is_remembered(tmp_path: Path) -> None:
    clock = Clock()
    tokens = hs256(tmp_path, clock)
    token = tokens.sign(ALICE)
    assert tokens.resolve(token) == ALICE
    clock.ahead = 299
    assert tokens.resolve(token) == ALICE
    clock.ahead = 301
    assert not knows(tokens, token)
    assert not tokens._verified


def test_no_more_is_remembered_than_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rusd.auth.jwt_tokens._MOST_VERIFIED", 3)
    tokens = hs256(tmp_path)
    for revision in range(10):
        assert knows(tokens, tokens.sign(Identity("a", revision)))
        assert len(tokens._verified) <= 3


CLAIMS: dict[str, Any] = {"username": "alice", "revision": 5}


@pytest.mark.parametrize(
    ("claims", "taken"),
    [
        (CLAIMS, True),  # without an end, as etcd takes it
        (CLAIMS | {"revision": 5.0}, True),
        (CLAIMS | {"aud": "someone", "iss": 7, "sub": 7, "jti": 7}, True),
        (CLAIMS | {"exp": 1}, False),
        (CLAIMS | {"exp": "soon"}, False),
        (CLAIMS | {"exp": float("inf")}, False),
        (CLAIMS | {"exp": float("nan")}, False),
        (CLAIMS | {"exp": 10**400}, False),
        (CLAIMS | {"nbf": 2**40}, False),
        (CLAIMS | {"iat": 2**40}, False),
        ({"username": "alice"}, False),
        ({"revision": 5}, False),
        (CLAIMS | {"username": ""}, False),
        (CLAIMS | {"username": 7}, False),
        (CLAIMS | {"username": None}, False),
        (CLAIMS | {"username": "\ud800"}, False),
        (CLAIMS | {"revision": "5"}, False),
        (CLAIMS | {"revision": -1}, False),
        (CLAIMS | {"revision": 2**63}, False),
        (CLAIMS | {"revision": float("inf")}, False),
        (CLAIMS | {"revision": float("nan")}, False),
        (CLAIMS | {"revision": None}, False),
    ],
)
def test_claims(claims: dict[str, Any], taken: bool, tmp_path: Path) -> None:
    # By hand: PyJWT refuses to sign some of these.
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    )
    mac = hmac.digest(SECRET.encode(), head + b"." + body, "sha256")
    token = b".".join((head, body, base64.urlsafe_b64encode(mac).rstrip(b"="))).decode()
    assert knows(hs256(tmp_path), token) is taken


def test_the_token_does_not_choose_the_method(tmp_path: Path) -> None:
    key = private_key("RSA")
    tokens = JwtTokens({"sign-method": "RS256", "pub-key": write_public(tmp_path, key)})
    assert not knows(tokens, jwt.encode(CLAIMS, "", "none"))
    assert not knows(tokens, jwt.encode(CLAIMS, key, "RS512"))
    assert not knows(tokens, jwt.encode(CLAIMS, key, "PS256"))
    # The public key, which everybody may have, is not the secret of a MAC.
    head, body, _ = jwt.encode(CLAIMS, "x" * 32, "HS256").split(".")
    mac = hmac.digest(public_pem(key), f"{head}.{body}".encode(), "sha256")
    assert not knows(tokens, f"{head}.{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}")


def test_a_token_that_was_changed_is_refused(tmp_path: Path) -> None:
    tokens = hs256(tmp_path)
    token = tokens.sign(ALICE)
    assert not knows(tokens, token[:-4])
    head, _, mac = token.split(".")
    body = base64.urlsafe_b64encode(json.dumps(CLAIMS | {"username": "root"}).encode()).decode()
    assert not knows(tokens, f"{head}.{body.rstrip('=')}.{mac}")
    assert not knows(tokens, token + "A" * 10_000)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    tokens = hs256(tmp_path)
    head = base64.urlsafe_b64encode(b"[" * 6000).decode()
    assert not knows(tokens, head)
    assert not knows(tokens, f"{head}.e30.e30")


@given(st.text(), st.text(), st.text())
def test_garbage_is_refused_and_nothing_else_happens(one: str, two: str, three: str) -> None:
    tokens = JwtTokens.__new__(JwtTokens)
    tokens._method, tokens._verify_key, tokens._verified = "HS256", SECRET.encode(), {}
    tokens._clock = Clock()
    head = base64.urlsafe_b64encode(one.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    for token in (one, f"{one}.{two}.{three}", f"{head}.{two}.{three}"):
        assert not knows(tokens, token)


# Key material.


def refusal(**options: str) -> str:
    with pytest.raises(TokenOptionsError) as refused:
        JwtTokens({name.replace("_", "-"): value for name, value in options.items()})
    text = str(refused.value)
    assert text.startswith("--auth-token: ")
    assert "\n" not in text
    return text


def test_options_that_cannot_be(tmp_path: Path) -> None:
    garbage, empty = tmp_path / "garbage", tmp_path / "empty"
    garbage.write_text("-----BEGIN garbage-of-a-secret")
    empty.write_text("")
    key = write_private(tmp_path, private_key("RSA"))
    public = write_public(tmp_path, private_key("RSA"))
    other = write_public(tmp_path, private_key("RSA", 1), "other")
    curve = write_private(tmp_path, private_key("P-256"), "curve")
    ed448 = write_private(tmp_path, private_key("Ed448"), "ed448")

    assert 'sign-method "" is none of' in refusal(pub_key=public)
    for method in ("none", "XX", "rs256", "ES256K", "ES521"):
        assert f'sign-method "{method}" is none of' in refusal(sign_method=method, pub_key=public)
    assert "missing key data" in refusal(sign_method="RS256")
    assert "missing key data" in refusal(sign_method="HS256")
    assert "missing key data" in refusal(sign_method="HS256", pub_key=public)
    assert "missing key data" in refusal(sign_method="HS256", priv_key=str(empty))
    assert "pub-key: /nowhere: No such file" in refusal(sign_method="RS256", pub_key="/nowhere")
    assert "priv-key: /nowhere" in refusal(sign_method="HS256", priv_key="/nowhere")
    for option in ("pub_key", "priv_key"):
        text = refusal(**{"sign_method": "RS256", option: str(garbage)})
        assert "has no key in PEM format" in text
        assert "garbage-of-a-secret" not in text
    assert "do not belong together" in refusal(sign_method="PS256", pub_key=other, priv_key=key)
    assert "RS256 can use" in refusal(sign_method="RS256", priv_key=curve)
    assert "ES256 can use" in refusal(sign_method="ES256", pub_key=public)
    assert "ES384 can use" in refusal(sign_method="ES384", priv_key=curve)
    assert "EdDSA can use" in refusal(sign_method="EdDSA", priv_key=ed448)
    for ttl in ("", "bad", "0", "0s", "-5m", "5"):
        assert f'ttl "{ttl}"' in refusal(sign_method="RS256", priv_key=key, ttl=ttl)


def test_a_certificate_has_a_public_key_too(tmp_path: Path) -> None:
    key = private_key("RSA")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "etcd")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    path = tmp_path / "certificate"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    tokens = JwtTokens({"sign-method": "RS256", "pub-key": str(path)})
    assert tokens.resolve(jwt.encode(CLAIMS, key, "RS256")) == ALICE
