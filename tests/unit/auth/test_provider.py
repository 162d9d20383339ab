"""rusd/auth/provider.py: the flag --auth-token."""

from pathlib import Path

import pytest

from rusd.auth.errors import AuthFailedError, InvalidAuthTokenError
from rusd.auth.jwt_tokens import JwtTokens
from rusd.auth.provider import TokenOptionsError, provider
from rusd.auth.store import AuthStore, Identity
from rusd.auth.tokens import Login, NoTokens, SimpleTokens, digest


@pytest.mark.parametrize("ttl", [7, 0])
def test_simple(ttl: int) -> None:
    # Other options are accepted, as etcd does; the warning is etcd's.
    made = provider("simple,foo=bar", ttl)
    assert made.notices == ["simple token is not cryptographically signed"]
    store = AuthStore()
    tokens = made.tokens(store, lambda: 5)
    assert isinstance(tokens, SimpleTokens)
    assert not tokens.signs
    assert tokens._ttl == (ttl or 300)
    tokens.add(Login("a", digest("x"), b""), 5)
    store.revision = 9
    assert tokens.resolve("x.5") == Identity("a", 9)


def test_jwt(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 64)
    made = provider(f"jwt,sign-method=HS256,priv-key={secret},ttl=5m,foo=bar", 0)
    assert made.notices == ["unknown JWT option foo"]
    tokens = made.tokens(AuthStore(), lambda: 5)
    assert isinstance(tokens, JwtTokens)
    assert tokens.signs


def test_none() -> None:
    tokens = provider("", 0).tokens(AuthStore(), lambda: 5)
    assert isinstance(tokens, NoTokens)
    with pytest.raises(InvalidAuthTokenError):
        tokens.resolve("x.5")
    with pytest.raises(AuthFailedError):
        tokens.sign(Identity("a", 1))


@pytest.mark.parametrize(
    "text",
    [
        "foo",
        "Simple",
        "simple,foo",
        "jwt",
        "jwt,sign-method=none",
        "jwt,sign-method=PS256,sign-method=RS256",
        "jwt,sign-method=PS256,pub-key",
        "jwt,sign-method=PS256,pub-key=a=b",
        ",",
    ],
)
def test_what_etcd_does_not_start_with_is_refused(text: str) -> None:
    with pytest.raises(TokenOptionsError, match="invalid auth options"):
        provider(text, 0)
