"""`check perf` and `check datascale`: load a cluster as many clients would, and judge it."""

import asyncio
import itertools
import math
import os
import re
import ssl
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Final, NamedTuple

import click
import grpc
import grpc.aio

from rusd.cli.ctl.client import Failure, address
from rusd.cli.ctl.commands import command
from rusd.cli.ctl.endpoint import ask_each
from rusd.cli.ctl.errors import Code, Exit
from rusd.cli.ctl.flags import INT, TEXT, flag, switch
from rusd.cli.ctl.kv import prefix_end
from rusd.cli.ctl.methods import COMPACT, DEFRAGMENT, DELETE_RANGE, PUT, RANGE
from rusd.cli.ctl.session import Session
from rusd.cli.ctl.settings import Settings
from rusd.pb import rpc_pb2 as rpc

_LONG_SECONDS: Final = 600.0
_MOST_CHANNELS: Final = 16
_REDRAW_SECONDS: Final = 0.2
_KEY_BYTES: Final = 256
_VALUE_BYTES: Final = 1024
_SLOWEST_SECONDS: Final = 0.5
_DEVIATION_SECONDS: Final = 0.1
_SHARE_OF_RATE: Final = 0.9
_RESIDENT: Final = re.compile(rb"^process_resident_memory_bytes (\S+)", re.MULTILINE)


class _Load(NamedTuple):
    clients: int
    amount: int
    """Writes a second, or writes in all."""


_PERF: Final = {
    "s": _Load(50, 150),
    "m": _Load(200, 1000),
    "l": _Load(500, 8000),
    "xl": _Load(1000, 15000),
}
_DATASCALE: Final = {
    "s": _Load(50, 10_000),
    "m": _Load(200, 100_000),
    "l": _Load(500, 1_000_000),
    "xl": _Load(1000, 3_000_000),
}
_NAMES: Final = {
    **dict.fromkeys(("s", "small"), "s"),
    **dict.fromkeys(("m", "medium"), "m"),
    **dict.fromkeys(("l", "large"), "l"),
    **dict.fromkeys(("xl", "xLarge"), "xl"),
}


@dataclass(slots=True)
class _Seen:
    """What the writes of a run took, in seconds, and the errors."""

    took: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


async def _write(
    session: Session,
    clients: int,
    requests: Iterator[rpc.PutRequest],
    rate: float,
    until: float,
    advance: Callable[[int], None],
) -> _Seen:
    """Write from so many clients, `rate` a second at most, until there is no request or no time."""
    client = session.client
    endpoints = itertools.cycle(session.settings.endpoints)
    channels = [client.dial(next(endpoints), grpc.aio) for _ in range(min(clients, _MOST_CHANNELS))]
    seen = _Seen()
    began = time.monotonic()
    turns = itertools.count()

    async def one(put: "grpc.aio.UnaryUnaryMultiCallable") -> None:
        for request in requests:
            start = began + next(turns) / rate
            delay = start - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            sent = time.monotonic()
            if sent >= until:
                return
            try:
                await put(
                    request,
                    metadata=client.metadata,
                    timeout=session.settings.command_timeout,
                )
                seen.took.append(time.monotonic() - sent)
            except grpc.RpcError as error:
                text = error.details() or error.code().name
                seen.errors[text] = seen.errors.get(text, 0) + 1

    async def show() -> None:
        drawn = 0
        while True:
            await asyncio.sleep(_REDRAW_SECONDS)
            done = len(seen.took)
            advance(done - drawn)
            drawn = done

    puts = [
        channel.unary_unary(
            PUT.path,
            request_serializer=rpc.PutRequest.SerializeToString,
            response_deserializer=rpc.PutResponse.FromString,
        )
        for channel in channels
    ]
    showing = asyncio.create_task(show())
    try:
        await asyncio.gather(*(one(puts[each % len(puts)]) for each in range(clients)))
    finally:
        seen.seconds = time.monotonic() - began
        showing.cancel()
        for channel in channels:
            await channel.close()
    return seen


def _chosen(loads: dict[str, _Load], name: str) -> _Load:
    if name not in _NAMES:
        raise Exit(f"unknown load option {name}", Code.BAD_FEATURE)
    return loads[_NAMES[name]]


def _refuse_keys(session: Session, prefix: bytes) -> None:
    """Raise Exit where there are keys below the prefix: they would be deleted in the end."""
    request = rpc.RangeRequest(key=prefix, range_end=prefix_end(prefix), limit=1)
    if session.call(RANGE, request).kvs:
        shown = os.fsdecode(prefix)
        raise Exit(
            f'prefix "{shown}" has keys. Delete with "rusd ctl del --prefix {shown}" first.',
            Code.INVALID_INPUT,
        )


def _clean(session: Session, prefix: bytes, compact: bool, defrag: bool) -> None:
    request = rpc.DeleteRangeRequest(key=prefix, range_end=prefix_end(prefix))
    revision = session.client.call(DELETE_RANGE, request, _LONG_SECONDS).header.revision
    if compact:
        click.echo(f"Compacting with revision {revision}")
        session.client.call(
            COMPACT, rpc.CompactionRequest(revision=revision, physical=True), _LONG_SECONDS
        )
        click.echo(f"Compacted with revision {revision}")
    if defrag:
        for endpoint in session.settings.endpoints:
            click.echo(f'Defragmenting "{endpoint}"')
            (answer,) = ask_each(
                session,
                [endpoint],
                lambda client: client.call(DEFRAGMENT, rpc.DefragmentRequest(), _LONG_SECONDS),
            )
            if isinstance(answer, Failure):
                raise answer
            click.echo(f'Defragmented "{endpoint}"')


def _verdict(passes: bool, good: str, bad: str) -> bool:
    word = click.style("PASS", fg="green") if passes else click.style("FAIL", fg="red")
    click.echo(f"{word}: {good if passes else bad}")
    return passes


_AFTER: Final = (
    switch("auto-compact", "Compact when it is done."),
    switch("auto-defrag", "Defragment when it is done."),
)
_LOAD: Final = flag("load", TEXT, "s", "s(mall), m(edium), l(arge) or xl.", values=list(_PERF))


@command(
    "perf",
    "[options]",
    _LOAD,
    flag("prefix", TEXT, "/etcdctl-check-perf/", "Where to write."),
    flag("seconds", INT, 60, "How long to write."),
    *_AFTER,
)
def perf(
    session: Session,
    words: tuple[str, ...],  # noqa: ARG001
    load: str,
    prefix: str,
    seconds: int,
    auto_compact: bool,
    auto_defrag: bool,
) -> None:
    """Write for a minute from many clients, and say whether that was fast enough.

    150, 1000, 8000 or 15000 writes a second from 50, 200, 500 or 1000 clients are asked for. The
    clients are this one process: it may be slower than a cluster that is fast.
    """
    clients, rate = _chosen(_PERF, load)
    below = os.fsencode(prefix)
    _refuse_keys(session, below)
    requests = (
        rpc.PutRequest(
            key=below + (b"%d" % number).rjust(_KEY_BYTES, b"0"), value=os.urandom(_VALUE_BYTES)
        )
        for number in range(rate * seconds)
    )
    with click.progressbar(length=rate * seconds, label="Writing", show_pos=True) as bar:
        until = time.monotonic() + seconds
        seen = asyncio.run(_write(session, clients, requests, rate, until, bar.update))
        bar.update(bar.length - bar.pos if bar.length else 0)
    _clean(session, below, auto_compact, auto_defrag)
    for text, count in seen.errors.items():
        _verdict(False, "", f"{count} writes failed: {text}")
    if not seen.took:
        raise Exit("nothing was written")
    reached = len(seen.took) / max(seen.seconds, 1e-9)
    slowest, deviation = max(seen.took), statistics.pstdev(seen.took)
    verdicts = (
        not seen.errors,
        _verdict(
            reached >= _SHARE_OF_RATE * rate,
            f"Throughput is {reached:.0f} writes/s",
            f"Throughput too low: {reached:.0f} writes/s",
        ),
        _verdict(
            slowest <= _SLOWEST_SECONDS,
            f"Slowest request took {slowest:.6f}s",
            f"Slowest request took too long: {slowest:.6f}s",
        ),
        _verdict(
            deviation <= _DEVIATION_SECONDS,
            f"Stddev is {deviation:.6f}s",
            f"Stddev too high: {deviation:.6f}s",
        ),
    )
    if not all(verdicts):
        click.secho("FAIL", fg="red")
        raise Exit
    click.secho("PASS", fg="green")


@command(
    "datascale",
    "[options]",
    _LOAD,
    flag("prefix", TEXT, "/etcdctl-check-datascale/", "Where to write."),
    *_AFTER,
)
def datascale(
    session: Session,
    words: tuple[str, ...],  # noqa: ARG001
    load: str,
    prefix: str,
    auto_compact: bool,
    auto_defrag: bool,
) -> None:
    """Write many keys to the first endpoint, and say how much memory the member took for them."""
    clients, total = _chosen(_DATASCALE, load)
    below = os.fsencode(prefix)
    _refuse_keys(session, below)
    click.echo(
        f"Start data scale check for work load [{total} key-value pairs,"
        f" {_VALUE_BYTES} bytes per key-value, {clients} concurrent clients]."
    )
    before = _resident(session)
    requests = (
        rpc.PutRequest(key=below + b"%032d" % number, value=os.urandom(_VALUE_BYTES))
        for number in range(total)
    )
    with click.progressbar(length=total, label="Writing", show_pos=True) as bar:
        seen = asyncio.run(_write(session, clients, requests, math.inf, math.inf, bar.update))
        bar.update(total - bar.pos)
    taken = _resident(session) - before
    _clean(session, below, auto_compact, auto_defrag)
    if seen.errors:
        for text, count in seen.errors.items():
            _verdict(False, "", f"ERROR({text}) -> {count}")
        raise Exit
    _verdict(True, f"Approximate system memory used : {taken / 1e6:.2f} MB.", "")


def _resident(session: Session) -> float:
    """Bytes of memory that the first member's process has; raise Exit if it does not say."""
    settings = session.settings
    target, secure = address(settings.endpoints[0], settings)
    url = f"{'https' if secure else 'http'}://{target}/metrics"
    try:
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if secure:
            handlers.append(urllib.request.HTTPSHandler(context=_trust(settings)))
        opener = urllib.request.build_opener(*handlers)
        with opener.open(url, timeout=settings.command_timeout) as answer:
            found = _RESIDENT.search(answer.read())
    except (OSError, HTTPException) as error:
        raise Exit(f"{url}: {error}") from None
    if found is None:
        raise Exit(f"{url} does not tell process_resident_memory_bytes")
    return float(found[1])


def _trust(settings: Settings) -> ssl.SSLContext:
    """Return whom to trust, and what to show, as the client does."""
    context = ssl.create_default_context(cafile=settings.cacert or None)
    if settings.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert:
        context.load_cert_chain(settings.cert, settings.key)
    return context
