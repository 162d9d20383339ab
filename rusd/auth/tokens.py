"""Simple tokens: random names for who has logged in, which all members know.

A token is 16 random letters, a dot, and the index of the log entry that made it known. Its letters
are the client's alone: the log and this table have a SHA-256 of them, so that neither tells how to
be somebody else. Tokens live in memory; after a restart clients log in again, as with etcd.
"""

import re
import secrets
import string
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple, Protocol

from rusd.auth.errors import AuthFailedError, InvalidAuthTokenError
from rusd.auth.store import AuthStore, Identity

DEFAULT_TTL: Final = 300
"""Seconds; etcd's."""

_LETTERS: Final = string.ascii_letters
_SECRET_SIZE: Final = 16
_INDEX: Final = re.compile(r"[1-9][0-9]{0,19}")
_MOST_TOKENS: Final = 100_000
"""Beyond it, those that were unused for longest end early."""

_LOGIN: Final = Struct(">32s32s")


class TokenAheadError(Exception):
    """The token may become known with an entry that this member has not applied yet."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class Login(NamedTuple):
    """What the log says of a token: whose it is, and not what it is."""

    user: str
    digest: bytes
    """SHA-256 of its letters."""
    checked: bytes
    """SHA-256 of the hash that the user's password was compared with. When it is no longer the
    user's, the login proves nothing."""

    def encode(self) -> bytes:
        return _LOGIN.pack(self.digest, self.checked) + self.user.encode()

    @classmethod
    def decode(cls, message: bytes) -> "Login":
        letters, checked = _LOGIN.unpack_from(message)
        return cls(message[_LOGIN.size :].decode(), letters, checked)


class Tokens(Protocol):
    """Tells from a token who calls."""

    signs: bool
    """Whether a token is made by `sign`, and not made known through the log."""

    def resolve(self, token: str) -> Identity:
        """Raises InvalidAuthTokenError, or TokenAheadError when it may be valid later."""

    def sign(self, identity: Identity) -> str:
        """Makes a token. May take milliseconds; any thread may call it. Raises an AuthError."""

    def add(self, login: Login, index: int) -> None:
        """Makes a token known: its login was applied at an index."""

    def forget(self, user: str) -> None:
        """Ends a user's tokens, as far as tokens can be ended."""

    def clear(self) -> None:
        """Ends all tokens, as far as tokens can be ended."""


class NoTokens:
    """For `--auth-token ''`, where certificates alone tell who calls: nobody can log in."""

    signs = True

    def resolve(self, _: str) -> Identity:
        raise InvalidAuthTokenError

    def sign(self, _: Identity) -> str:
        raise AuthFailedError

    def add(self, login: Login, index: int) -> None:
        pass

    def forget(self, user: str) -> None:
        pass

    def clear(self) -> None:
        pass


class SimpleTokens:
    """The tokens that are alive. Not thread-safe."""

    signs = False

    def __init__(
        self,
        store: AuthStore,
        applied: Callable[[], int],
        clock: Callable[[], float],
        ttl: float = DEFAULT_TTL,
    ) -> None:
        """`applied` is the index of the last applied entry, `clock` monotonic seconds, `ttl` the
        seconds that a token lives after it was last used.
        """
        self._store, self._applied, self._clock, self._ttl = store, applied, clock, ttl
        self._live: OrderedDict[tuple[bytes, int], tuple[str, float]] = OrderedDict()
        """User and end of life, by digest and index. Ordered by the end of life."""

    def resolve(self, token: str) -> Identity:
        secret, dot, text = token.partition(".")
        if not dot or not _INDEX.fullmatch(text):
            raise InvalidAuthTokenError
        index = int(text)
        if index > self._applied():
            raise TokenAheadError(index)
        key = (digest(secret), index)
        found = self._live.get(key)
        now = self._clock()
        if found is None or found[1] <= now:
            raise InvalidAuthTokenError
        user = found[0]
        self._live[key] = (user, now + self._ttl)
        self._live.move_to_end(key)
        return self._store.identity(user)

    def sign(self, _: Identity) -> str:
        raise AuthFailedError

    def add(self, login: Login, index: int) -> None:
        now, live = self._clock(), self._live
        while live:
            oldest = next(iter(live.values()))
            if oldest[1] > now and len(live) < _MOST_TOKENS:
                break
            live.popitem(last=False)
        live[login.digest, index] = (login.user, now + self._ttl)

    def forget(self, user: str) -> None:
        for key in [key for key, (whose, _) in self._live.items() if whose == user]:
            del self._live[key]

    def clear(self) -> None:
        self._live.clear()


def new_secret() -> str:
    """The letters of a new token."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_SECRET_SIZE))


def digest(secret: str) -> bytes:
    """What is kept of a token's letters. Without salt: they are random, 91 bits of them."""
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
