"""Runs of random steps against two servers: one from a seed, and the shrinking of a failed one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import grpc

from tests.compat.pair import DifferenceError, Pair
from tests.compat.steps import Generator, Settle, Step

SHOWN_STEPS = 20
SHRINK_SECONDS = 3.0
"""What a part of a failed run may wait for events; a wrong guess only shrinks less."""
FAST = ("--unsafe-no-fsync",)
"""Flags of the reference: what it answers counts, not what it keeps."""


class RunFailedError(AssertionError):
    """The servers differ; `steps` are all that were run, the last one showed it."""

    def __init__(self, seed: int, steps: Sequence[Step], reason: str) -> None:
        """Take what is reported: the seed, the last steps, both answers."""
        shown = "\n".join(f"  {str(step)[:1000]}" for step in steps[-SHOWN_STEPS:])
        super().__init__(
            f"--seed {seed}: step {len(steps)} differs: {reason}\nlast steps:\n{shown}"
        )
        self.steps = list(steps)


def run_seed(reference: grpc.Channel, subject: grpc.Channel, seed: int, count: int) -> None:
    """Run `count` steps drawn from `seed` on two servers that are both new."""
    pair = Pair(reference, subject)
    done: list[Step] = []

    def drawn() -> Iterator[Step]:
        generator = Generator(seed, pair)
        yield from islice(iter(generator.step, None), count - 1)
        yield Settle()

    try:
        for step in drawn():
            done.append(step)
            pair.run(step)
    except DifferenceError as error:
        raise RunFailedError(seed, done, str(error)) from None
    finally:
        pair.close()


def differs(reference: grpc.Channel, subject: grpc.Channel, steps: Iterable[Step]) -> str:
    """Run given steps on two servers that are both new; return the difference, or nothing."""
    pair = Pair(reference, subject, SHRINK_SECONDS)
    try:
        for step in steps:
            pair.run(step)
        pair.settle()
    except DifferenceError as error:
        return str(error)
    finally:
        pair.close()
    return ""


def shrink(steps: Sequence[Step], fails: Callable[[Sequence[Step]], bool]) -> list[Step]:
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
