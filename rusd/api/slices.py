"""Runs long reads between other work: a slice in a turn of the event loop."""

import asyncio
from collections.abc import Callable, Generator
from typing import TypeVar

from rusd.api.errors import CORRUPT, status_of
from rusd.auth.errors import AuthError
from rusd.mvcc.errors import KeyspaceError
from rusd.mvcc.tables import DamagedTableError
from rusd.wire.grpc import Status

T = TypeVar("T")


def run_sliced(
    slices: Generator[None, None, T],
    done: Callable[[T], None],
    failed: Callable[[Status], None],
    on_damage: Callable[[DamagedTableError], None],
) -> None:
    """Runs a read; the first slice at once, so that a short read is answered at once."""
    try:
        next(slices)
    except StopIteration as finished:
        done(finished.value)
    except (KeyspaceError, AuthError) as error:
        failed(status_of(error))
    except DamagedTableError as error:
        on_damage(error)
        failed(CORRUPT)
    else:
        asyncio.get_running_loop().call_soon(run_sliced, slices, done, failed, on_damage)
