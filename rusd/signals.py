"""SIGTERM and SIGINT: the first ends the member in order, the second at once."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Final

from rusd.log import Logger

_NAMES: Final = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupt"}


def stop_on_signals(
    loop: asyncio.AbstractEventLoop, log: Logger, stop: Callable[[int], None]
) -> None:
    """Calls `stop` with the first signal's number, negative: what `end` takes.

    The second finds what the system does: it kills, which loses nothing that was acknowledged.
    """

    def interrupted(number: signal.Signals) -> None:
        log.info("received signal; shutting down", signal=_NAMES[number])
        for each in _NAMES:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        stop(-number)

    for number in _NAMES:
        loop.add_signal_handler(number, interrupted, number)


def end(code: int) -> int:
    """The exit code for what `rusd.server.run` returned. It does not return after a signal: as
    etcd, the process then ends by that signal, so that who waits for it sees which it was. What
    runs as process 1, as in a container, no signal ends that way: the code is 0.
    """
    if code < 0:
        if os.getpid() != 1:
            os.kill(os.getpid(), -code)
        return 0
    return code
