"""rusd/auth/tokens.py: simple tokens."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.auth import tokens
from rusd.auth.errors import AuthFailedError, InvalidAuthTokenError
from rusd.auth.store import AuthStore, Identity
from rusd.auth.tokens import Login, NoTokens, SimpleTokens, TokenAheadError, digest, new_secret

TTL = 300.0


class Member:
    """A member's tokens, with a clock and a log that the test moves."""

    def __init__(self) -> None:
        self.now, self.applied, self.store = 1000.0, 10, AuthStore()
        self.tokens = SimpleTokens(self.store, lambda: self.applied, lambda: self.now, TTL)

    def log_in(self, user: str, index: int = 7) -> str:
        secret = new_secret()
        self.tokens.add(Login(user, digest(secret), b"?" * 32), index)
        return f"{secret}.{index}"

    def knows(self, token: str) -> bool:
        try:
            self.tokens.resolve(token)
        except InvalidAuthTokenError:
            return False
        return True


def test_a_token_tells_who_calls_as_of_now() -> None:
    member = Member()
    token = member.log_in("alice")
    assert member.tokens.resolve(token) == Identity("alice", 1)
    member.store.revision = 5
    assert member.tokens.resolve(token) == Identity("alice", 5)


def test_a_token_has_etcds_form() -> None:
    secret = new_secret()
    assert len(secret) == 16
    assert secret.isascii()
    assert secret.isalpha()
    assert secret != new_secret()


def test_a_token_is_good_with_its_own_index_alone() -> None:
    member = Member()
    secret = member.log_in("alice").partition(".")[0]
    for index in ("8", "07", "7 ", "+7", "", "7.7", "\u0667", "-7", "7" * 30):
        assert not member.knows(f"{secret}.{index}")
    assert member.knows(f"{secret}.7")


def test_a_token_lives_a_while_after_it_was_last_used() -> None:
    member = Member()
    token, other = member.log_in("alice"), member.log_in("bob")
    member.now += TTL - 1
    assert member.knows(token)
    member.now += TTL - 1
    assert member.knows(token)
    assert not member.knows(other)
    member.now += TTL
    assert not member.knows(token)
    assert not member.knows(token)


def test_a_token_of_an_entry_that_is_not_applied_may_come() -> None:
    member = Member()
    token = f"{new_secret()}.11"
    with pytest.raises(TokenAheadError) as ahead:
        member.tokens.resolve(token)
    assert ahead.value.index == 11
    member.applied = 11
    assert not member.knows(token)


def test_a_users_tokens_end_together_and_alone() -> None:
    member = Member()
    first, second, other = member.log_in("a"), member.log_in("a", 8), member.log_in("b")
    member.tokens.forget("a")
    assert [member.knows(token) for token in (first, second, other)] == [False, False, True]
    member.tokens.clear()
    assert not member.knows(other)


def test_the_table_is_bounded_and_keeps_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MOST_TOKENS", 3)
    member = Member()
    used, unused = member.log_in("a"), member.log_in("b")
    assert member.knows(used)
    newer = [member.log_in("c", index) for index in (1, 2)]
    assert [member.knows(token) for token in (used, unused, *newer)] == [True, False, True, True]


def test_what_has_expired_is_let_go_with_the_next_login() -> None:
    member = Member()
    for _ in range(5):
        member.log_in("a")
    member.now += TTL
    member.log_in("b")
    assert len(member.tokens._live) == 1


def test_the_log_and_the_table_do_not_have_the_letters() -> None:
    member = Member()
    token = member.log_in("alice")
    secret = token.partition(".")[0]
    login = Login("alice", digest(secret), b"?" * 32)
    assert secret.encode() not in login.encode()
    assert secret not in repr(vars(member.tokens))
    assert all(secret[at : at + 4].encode() not in login.encode() for at in range(13))


@given(st.text(), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_login_is_read_back_as_it_was_written(user: str, letters: bytes, checked: bytes) -> None:
    login = Login(user, letters, checked)
    assert Login.decode(login.encode()) == login


@given(st.one_of(st.text(), st.from_regex(r"[a-zA-Z]{16}\.[0-9]{1,25}", fullmatch=True)))
def test_garbage_is_refused_and_nothing_else_happens(token: str) -> None:
    member = Member()
    with pytest.raises((InvalidAuthTokenError, TokenAheadError)):
        member.tokens.resolve(token)


def test_lone_surrogates_are_refused() -> None:
    assert not Member().knows("\ud800.7")


def test_without_tokens_nobody_logs_in() -> None:
    none = NoTokens()
    none.add(Login("a", digest("x"), b""), 1)
    with pytest.raises(InvalidAuthTokenError):
        none.resolve("x.1")
    with pytest.raises(AuthFailedError):
        none.sign(Identity("a", 1))


def test_the_table_is_in_the_order_of_the_ends_of_life() -> None:
    member = Member()
    made = [member.log_in("a", index) for index in range(1, 6)]
    for token in made[::2]:
        member.now += 1
        assert member.knows(token)
    ends = [expires for _, expires in member.tokens._live.values()]
    assert all(one <= other for one, other in pairwise(ends))
