"""rusd/auth/passwords.py, with real bcrypt."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import bcrypt
import pytest

from rusd.auth.errors import PasswordTooLongError
from rusd.auth.passwords import BusyError, Passwords

T = TypeVar("T")

CHEAP = 4


def run(
    work: Callable[[Passwords], Awaitable[object]], cost: int = CHEAP, queued: int = 100
) -> None:
    """Runs an async function with the passwords of a new loop."""

    async def wrapped() -> None:
        passwords = Passwords(cost, queued)
        try:
            await work(passwords)
        finally:
            passwords.stop()

    asyncio.run(wrapped())


@pytest.mark.parametrize("password", ["", "x", "a\0b", "p" * 72, "\u20ac" * 24])
def test_a_password_matches_its_own_hash(password: str) -> None:
    async def work(passwords: Passwords) -> None:
        hashed = await passwords.hash(password)
        assert hashed.startswith(b"$2b$04$")
        assert hashed != await passwords.hash(password), "salted"
        assert await passwords.matches(password, hashed)
        assert not await passwords.matches("y" + password, hashed)
        if password:
            assert not await passwords.matches(password[:-1], hashed)

    run(work)


@pytest.mark.parametrize("password", ["p" * 73, "\u20ac" * 25])
def test_what_bcrypt_would_cut_is_refused_when_it_is_set(password: str) -> None:
    async def work(passwords: Passwords) -> None:
        with pytest.raises(PasswordTooLongError):
            await passwords.hash(password)
        # Where it is compared, what is after the 72nd byte does not count: as in etcd.
        hashed = await passwords.hash("p" * 72)
        assert await passwords.matches("p" * 80, hashed)

    run(work)


def test_etcds_hashes_are_good() -> None:
    async def work(passwords: Passwords) -> None:
        ours = await passwords.hash("secret")
        assert await passwords.matches("secret", b"$2a$" + ours.removeprefix(b"$2b$"))

    run(work)


@pytest.mark.parametrize("hashed", [None, b""])
def test_no_password_is_that_of_nobody(hashed: bytes | None) -> None:
    async def work(passwords: Passwords) -> None:
        for password in ("", "x"):
            assert not await passwords.matches(password, hashed)

    run(work)


def test_nobody_takes_as_long_as_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the CPU time of the thread, in which the rest of the machine does not count."""

    async def work(passwords: Passwords) -> None:
        hashed = await passwords.hash("secret")
        seconds: dict[bytes | None, list[float]] = {hashed: [], None: [], b"": []}
        compare = bcrypt.checkpw

        def timed(password: bytes, against: bytes) -> bool:
            begun = time.thread_time()
            matched = compare(password, against)
            spent.append(time.thread_time() - begun)
            return matched

        monkeypatch.setattr(bcrypt, "checkpw", timed)
        for _ in range(5):
            for kind, all_spent in seconds.items():
                spent: list[float] = []
                assert not await passwords.matches("wrong", kind)
                all_spent.append(sum(spent))
        wrong, nobody, empty = (min(each) for each in seconds.values())
        assert 0.5 < nobody / wrong < 2
        assert 0.5 < empty / wrong < 2

    run(work, cost=9)


def test_beyond_the_queue_passwords_are_refused_at_once() -> None:
    async def work(passwords: Passwords) -> None:
        release = threading.Event()
        waiting = [
            asyncio.ensure_future(passwords.run(release.wait))
            for _ in range(3 * len(passwords._threads))
        ]
        assert not passwords.busy
        await asyncio.sleep(0)
        assert passwords.busy
        with pytest.raises(BusyError):
            await passwords.hash("x")
        with pytest.raises(BusyError):
            await passwords.matches("x", None)
        release.set()
        assert await asyncio.gather(*waiting) == [True] * len(waiting)
        assert not passwords.busy
        await passwords.hash("x")

    run(work, queued=3)


def test_who_no_longer_waits_costs_nothing() -> None:
    async def work(passwords: Passwords) -> None:
        release, done = threading.Event(), []
        blocked = [asyncio.ensure_future(passwords.run(release.wait)) for _ in passwords._threads]
        gone = asyncio.ensure_future(passwords.run(lambda: done.append(1)))
        await asyncio.sleep(0)
        gone.cancel()
        release.set()
        await asyncio.gather(*blocked)
        await passwords.hash("x")  # after it in the queue
        assert not done

    run(work)


def test_the_loop_goes_on_meanwhile() -> None:
    async def work(passwords: Passwords) -> None:
        hashing = [asyncio.ensure_future(passwords.hash("x")) for _ in range(4)]
        turns = 0
        while not all(each.done() for each in hashing):
            await asyncio.sleep(0)
            turns += 1
        assert turns > 50

    run(work, cost=10)


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_the_threads_give_way() -> None:
    async def work(passwords: Passwords) -> None:
        def niceness() -> int:
            return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

        assert await passwords.run(niceness) == 19
        assert niceness() < 19

    run(work)


def test_a_defect_reaches_its_caller_alone() -> None:
    async def work(passwords: Passwords) -> None:
        with pytest.raises(ZeroDivisionError):
            await passwords.run(lambda: 1 // 0)
        assert await passwords.run(lambda: 1) == 1

    run(work)
