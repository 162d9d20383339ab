"""The tokens that `--auth-token` asks for."""

import time
from collections.abc import Callable
from typing import NamedTuple

from rusd.auth.store import AuthStore
from rusd.auth.tokens import DEFAULT_TTL, NoTokens, SimpleTokens, Tokens
from rusd.config import ConfigError


class TokenOptionsError(ConfigError):
    """`--auth-token` cannot be had."""


class Provider(NamedTuple):
    """A kind of token, with all that it needs of files."""

    kind: str
    notices: list[str]
    """What an operator should know about the flag."""
    tokens: Callable[[AuthStore, Callable[[], int]], Tokens]
    """Makes the tokens of a store; the other argument is the index of the last applied entry."""


def provider(text: str, ttl: int) -> Provider:
    """Reads the flag, and the keys that it names. `ttl` is the seconds that a simple token lives,
    0 for the default. Raises TokenOptionsError.
    """
    kind, *pairs = text.split(",")
    options: dict[str, str] = {}
    for pair in pairs:
        name, *value = pair.split("=")
        if len(value) != 1 or name in options:
            raise TokenOptionsError(f'--auth-token: "{pair}": invalid auth options')
        options[name] = value[0]
    if kind == "simple":

        def simple(store: AuthStore, applied: Callable[[], int]) -> Tokens:
            return SimpleTokens(store, applied, time.monotonic, ttl or DEFAULT_TTL)

        return Provider(kind, ["simple token is not cryptographically signed"], simple)
    if kind == "jwt":
        # Few members need it, and what it imports takes a tenth of a second.
        from rusd.auth.jwt_tokens import OPTIONS, JwtTokens

        jwt = JwtTokens(options)
        notices = [f"unknown JWT option {name}" for name in options if name not in OPTIONS]
        return Provider(kind, notices, lambda _store, _applied: jwt)
    if kind == "":
        return Provider(kind, [], lambda _store, _applied: NoTokens())
    raise TokenOptionsError(f'--auth-token: "{text}": invalid auth options')
