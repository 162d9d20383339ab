"""Turns calls into requests, for methods that are not on the hot path."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from rusd.api import errors
from rusd.wire.service import Call

if TYPE_CHECKING:
    from rusd.wire.connection import Connection

T = TypeVar("T")


def parsed(
    calls: Iterable[Call], parse: Callable[[bytes], T]
) -> "Iterator[tuple[Connection, int, bytes, T]]":
    """The calls whose messages parse: connection, stream, message, request. The others are
    answered with an error.
    """
    for connection, stream, _, message in calls:
        try:
            request = parse(message)
        except DecodeError:
            connection.fail(stream, errors.MALFORMED)
        else:
            yield connection, stream, message, request
