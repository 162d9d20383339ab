"""Runs of random steps against two servers: one from a seed, and the shrinking of a failed one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import grpc

from tests.compat.auth_pair import AuthPair
from tests.compat.auth_steps import AuthGenerator
from tests.compat.client import ANSWER_SECONDS
from tests.compat.pair import DifferenceError, Pair
from tests.compat.steps import Generator

SHOWN_STEPS = 20
SHRINK_SECONDS = 3.0
"""What a part of a failed run may wait for events; a wrong guess only shrinks less."""
FAST = ("--unsafe-no-fsync",)
"""Flags of the reference: what it answers counts, not what it keeps."""


class Sides(Protocol):
    """Both servers, to do the same steps on."""

    def run(self, step: Any) -> None:
        """Do one step on both; raise DifferenceError if they differ."""

    def settle(self) -> None:
        """Wait until all that is outstanding has arrived, and compare it."""

    def close(self) -> None:
        """Close streams and channels."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of runs: what does the steps, what draws them, and both servers' flags."""

    sides: Callable[[grpc.Channel, grpc.Channel, float], Sides]
    draws: Callable[[int, Any], Callable[[], object]]
    flags: Callable[[Path], tuple[str, ...]] = lambda _: ()
    """Given a folder of the run, in which it may write files that they name."""


def _web_tokens(folder: Path) -> tuple[str, ...]:
    secret = folder / "secret"
    secret.write_text("s" * 40)
    return (*_CHEAP, "--auth-token", f"jwt,sign-method=HS256,priv-key={secret},ttl=1h")


_CHEAP = ("--bcrypt-cost", "4")
KV = Kind(Pair, lambda seed, pair: Generator(seed, pair).step)
AUTH = Kind(AuthPair, lambda seed, pair: AuthGenerator(seed, pair).auth_step, lambda _: _CHEAP)
JWT = replace(AUTH, sides=partial(AuthPair, web_tokens=True), flags=_web_tokens)
KINDS = {"kv": KV, "auth": AUTH, "jwt": JWT}


class RunFailedError(AssertionError):
    """The servers differ; `steps` are all that were run, the last one showed it."""

    def __init__(self, seed: int, steps: Sequence[object], reason: str) -> None:
        """Take what is reported: the seed, the last steps, both answers."""
        shown = "\n".join(f"  {str(step)[:1000]}" for step in steps[-SHOWN_STEPS:])
        super().__init__(
            f"--seed {seed}: step {len(steps)} differs: {reason}\nlast steps:\n{shown}"
        )
        self.steps = list(steps)


def run_seed(
    reference: grpc.Channel, subject: grpc.Channel, seed: int, count: int, kind: Kind = KV
) -> None:
    """Run `count` steps drawn from `seed` on two servers that are both new."""
    pair = kind.sides(reference, subject, ANSWER_SECONDS)
    done: list[object] = []
    try:
        for step in islice(iter(kind.draws(seed, pair), None), count):
            done.append(step)
            pair.run(step)
        pair.settle()
    except DifferenceError as error:
        raise RunFailedError(seed, done, str(error)) from None
    finally:
        pair.close()


def differs(
    reference: grpc.Channel, subject: grpc.Channel, steps: Iterable[object], kind: Kind = KV
) -> str:
    """Run given steps on two servers that are both new; return the difference, or nothing."""
    pair = kind.sides(reference, subject, SHRINK_SECONDS)
    try:
        for step in steps:
            pair.run(step)
        pair.settle()
    except DifferenceError as error:
        return str(error)
    finally:
        pair.close()
    return ""


def shrink(steps: Sequence[object], fails: Callable[[Sequence[object]], bool]) -> list[object]:
    """Return a part of `steps` that still differs and of which no step can be left out.

    `fails` runs steps on two new servers. Delta debugging: leave out ever smaller pieces.
    """
    kept = list(steps)
    size = max(1, len(kept) // 2)
    while True:
        start, smaller = 0, False
        while start < len(kept):
            rest = kept[:start] + kept[start + size :]
            if rest and fails(rest):
                kept, smaller = rest, True
            else:
                start += size
        if size == 1 and not smaller:
            return kept
        size = max(1, size // 2)
