"""Tokens and options that somebody made up: refused, at once, and nothing is told of the keys."""

import base64
import hmac
import json
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rusd.auth.errors import InvalidAuthTokenError
from rusd.auth.jwt_tokens import METHODS, JwtTokens
from rusd.auth.provider import TokenOptionsError, provider
from rusd.auth.store import Identity
from tests.unit.auth.keys import private_key, public_pem, write_private, write_public

ROOT = Identity("root", 7)
CLAIMS: dict[str, Any] = {"username": "root", "revision": 7, "exp": 2**33}
HEADER = {"alg": "RS256", "typ": "JWT"}
SECONDS = 1.0


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> JwtTokens:
    """Tokens signed with RS256."""
    folder, key = tmp_path_factory.mktemp("keys"), private_key("RSA")
    options = {
        "sign-method": "RS256",
        "pub-key": write_public(folder, key),
        "priv-key": write_private(folder, key),
    }
    return JwtTokens(options)


def encoded(part: Any) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def refused(tokens: JwtTokens, token: str) -> bool:
    """Whether a token is refused, and soon."""
    began = time.process_time()
    try:
        tokens.resolve(token)
    except InvalidAuthTokenError:
        return True
    finally:
        assert time.process_time() - began < SECONDS
    return False


def _by_hand(header: dict[str, Any], claims: Any, secret: bytes) -> str:
    signed = f"{encoded(header)}.{encoded(claims)}"
    return f"{signed}.{encoded(hmac.new(secret, signed.encode(), sha256).digest())}"


def _forged() -> dict[str, str]:
    """What has been tried on others' servers."""
    public = public_pem(private_key("RSA"))
    other = private_key("RSA", 1)
    none = f"{encoded({**HEADER, 'alg': 'none'})}.{encoded(CLAIMS)}"
    with_key = {**HEADER, "jwk": {"kty": "oct", "k": encoded(b"k")}, "alg": "HS256"}
    return {
        "no signature": f"{none}.",
        "no signature, no dot": none,
        "no signature, other case": f"{encoded({**HEADER, 'alg': 'NoNe'})}.{encoded(CLAIMS)}.",
        "no algorithm": f"{encoded({'typ': 'JWT'})}.{encoded(CLAIMS)}.",
        "the public key as a secret": _by_hand({**HEADER, "alg": "HS256"}, CLAIMS, public),
        "no secret": _by_hand({**HEADER, "alg": "HS256"}, CLAIMS, b""),
        "its own key": _by_hand(with_key, CLAIMS, b"k"),
        "a key by its path": _by_hand({**with_key, "kid": "/dev/null"}, CLAIMS, b""),
        "another key": jwt.encode(CLAIMS, other, "RS256"),
        "another hash": jwt.encode(CLAIMS, private_key("RSA"), "RS512"),
        "another padding": jwt.encode(CLAIMS, private_key("RSA"), "PS256"),
        "the algorithms as a list": f"{encoded({**HEADER, 'alg': ['RS256']})}.{encoded(CLAIMS)}.",
        "a claim set that is a list": jwt.api_jws.encode(b"[1]", private_key("RSA"), "RS256"),
        "claims that are not UTF-8": jwt.api_jws.encode(b"\xff", private_key("RSA"), "RS256"),
        "huge": ".".join(["A" * 10**6] * 3),
        "many dots": "." * 10**5,
        "only dots": "..",
        "empty": "",
        "five parts": "a.b.c.d.e",
        "not ASCII": "ü.ü.ü",
        "NUL": "\0.\0.\0",
        "deep": f"{encoded(HEADER)}.{encoded(b'[' * 3000)}.x",
    }


@pytest.mark.parametrize("name", _forged())
def test_forged_tokens_are_refused(name: str, tokens: JwtTokens) -> None:
    assert not refused(tokens, tokens.sign(ROOT)), "one that is good"
    assert refused(tokens, _forged()[name])


@given(st.data())
def test_a_token_with_any_part_changed_is_refused(tokens: JwtTokens, data: st.DataObject) -> None:
    token = tokens.sign(ROOT)
    parts = [base64.urlsafe_b64decode(part + "==") for part in token.split(".")]
    which = data.draw(st.integers(0, 2))
    position = data.draw(st.integers(0, len(parts[which]) - 1))
    flipped = parts[which][position] ^ data.draw(st.integers(1, 255))
    parts[which] = parts[which][:position] + bytes([flipped]) + parts[which][position + 1 :]
    assert refused(tokens, ".".join(map(encoded, parts)))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from((*CLAIMS, "nbf", "iat", "aud", "iss")), json_values))
@example({**CLAIMS, "revision": 2**64})
@example({**CLAIMS, "revision": -1})
@example({**CLAIMS, "revision": True})
@example({**CLAIMS, "exp": "soon"})
@example({**CLAIMS, "exp": float("nan")})
@example({**CLAIMS, "exp": 10**400})
@example({**CLAIMS, "username": "\ud800"})
@example({**CLAIMS, "username": "x" * 100_000})
def test_signed_claims_name_somebody_or_nobody(tokens: JwtTokens, claims: dict[str, Any]) -> None:
    """Whoever has the key may sign anything; it makes no member fail."""
    token = jwt.api_jws.encode(json.dumps(claims).encode(), private_key("RSA"), "RS256")
    try:
        identity = tokens.resolve(token)
    except InvalidAuthTokenError:
        return
    assert identity.user == claims["username"]
    assert identity.user.encode()
    assert 0 <= identity.revision < 2**63


texts = st.text(st.characters(exclude_characters="\0"), max_size=12)
pairs = st.tuples(
    st.sampled_from(("sign-method", "pub-key", "priv-key", "ttl", "foo", "")) | texts,
    st.sampled_from((*METHODS, "5m", "0s", "-1s", "9" * 30 + "h", "", "/", "/dev/null")) | texts,
)
options = st.builds(
    lambda kind, given, commas: ",".join((kind, *given)) + commas,
    st.sampled_from(("simple", "jwt", "", "JWT", "foo")) | texts,
    st.lists(st.builds("=".join, pairs) | texts, max_size=5),
    st.sampled_from(("", ",", ",,", "=")),
)


@given(options, st.integers(0, 2**31))
def test_options_make_tokens_or_one_line(text: str, ttl: int) -> None:
    with suppress(TokenOptionsError):
        assert provider(text, ttl).kind in ("simple", "jwt", "")


def test_a_refusal_of_a_key_does_not_show_the_key(tmp_path: Path) -> None:
    for method in METHODS:
        key = tmp_path / "key"
        key.write_text("-----BEGIN PRIVATE KEY-----\nMIIsecret\n-----END PRIVATE KEY-----\n")
        option = f"jwt,sign-method={method},pub-key={key},priv-key={key}"
        if method.startswith("HS"):
            assert provider(option, 0).kind == "jwt"
            continue
        with pytest.raises(TokenOptionsError) as refusal:
            provider(option, 0)
        assert "MIIsecret" not in str(refusal.value)
        assert refusal.value.__cause__ is None
