"""Connecting to a member: TCP (or TLS), then the hello."""

import asyncio

from rusd.config import parse_url
from rusd.node.peer_connection import Connection, Local
from rusd.node.peer_wire import (
    PROTOCOL,
    Frames,
    Hello,
    Purpose,
    Reason,
    RefusedError,
    Welcome,
    decode_welcome,
    encode_hello,
)


async def dial(local: Local, url: str, hello: Hello) -> Connection:
    """Connect to a peer URL and say hello; the connection that comes back is held.

    Raises RefusedError, or OSError (TimeoutError is one) when there is no member at `url`.
    """
    greeting = _Greeting()
    loop = asyncio.get_running_loop()
    try:
        place = parse_url(url)
    except ValueError as error:
        raise OSError(str(error)) from None
    if place.scheme not in ("http", "https"):
        raise OSError(f"peer URLs of scheme {place.scheme} are not supported: {url}")
    secure = local.secure if place.scheme == "https" else None
    if place.scheme == "https" and secure is None:
        raise OSError(f"no TLS is configured for {url}")
    connection = Connection(local, greeting)
    what = f"dial {place.host}:{place.port}"
    try:
        async with asyncio.timeout(local.limits.connect_timeout):
            if secure is not None:
                await secure.connect(place.host, place.port, connection)
            else:
                await loop.create_connection(lambda: connection, place.host, place.port)
        what = f"{url}: the answer to the hello"
        connection.put(encode_hello(hello))
        connection.flush()
        async with asyncio.timeout(local.limits.hello_timeout):
            answer = await greeting.answer
        if isinstance(answer, Exception):
            raise answer
        _check(hello, answer)
    except TimeoutError:
        connection.abort("no answer in time")
        raise TimeoutError(f"{what}: i/o timeout") from None
    except UnicodeError as error:
        raise OSError(f"{what}: {error}") from None
    except BaseException:
        connection.abort("given up")
        raise
    return connection


def _check(hello: Hello, welcome: Welcome) -> None:
    """Hold the other side to what was dialed. It has checked too, so this finds only impostors."""
    if welcome.protocol != PROTOCOL:
        text = f"peer protocol {welcome.protocol} instead of {PROTOCOL}"
        raise RefusedError(Reason.PROTOCOL, text)
    if hello.purpose == Purpose.ASK:
        return
    if welcome.cluster != hello.cluster:
        text = f"request cluster ID mismatch (got {welcome.cluster:x} want {hello.cluster:x})"
        raise RefusedError(Reason.CLUSTER_MISMATCH, text)
    if welcome.member != hello.to:
        text = f"this is member {welcome.member:x}, not {hello.to:x}"
        raise RefusedError(Reason.WRONG_MEMBER, text)


class _Greeting:
    """Owns a connection until the hello is answered."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        # A value also where it is an error: asyncio complains of exceptions that nobody awaits, as
        # when connecting was cancelled.
        self.answer: asyncio.Future[Welcome | Exception] = loop.create_future()

    def frames(self, connection: Connection, frames: Frames) -> None:
        for kind, payload in frames:
            if not self.answer.done():
                connection.hold()
                try:
                    self.answer.set_result(decode_welcome(kind, payload))
                except RefusedError as error:
                    self.answer.set_result(error)
            return

    def lost(self, _connection: Connection, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_result(ConnectionResetError(reason))
