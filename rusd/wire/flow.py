"""HTTP/2 flow control (RFC 9113 sections 5.2 and 6.9): what may still be sent, in both directions.

Three ideas: the window that we grant, the bytes that wait for the peer's windows, and the budget
from which a connection's large request messages are let in one after another.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from rusd.wire.frames import DEFAULT_WINDOW, MAX_WINDOW

Piece = bytes | memoryview
T = TypeVar("T", bound=Hashable)


def widened(window: int, increment: int) -> int | None:
    """A send window after WINDOW_UPDATE or a change of settings; None when it overflows."""
    window += increment
    return window if window <= MAX_WINDOW else None


class ReceiveWindow:
    """Bytes that the peer may still send, given back as they are consumed."""

    __slots__ = ("_consumed", "_granted", "_size", "available")

    def __init__(self, size: int = DEFAULT_WINDOW) -> None:
        self._size = size
        self._consumed = 0
        self._granted = self.available = size

    @property
    def received(self) -> int:
        """Bytes that the peer has sent until now."""
        return self._granted - self.available

    def take(self, size: int) -> bool:
        """The peer sent `size` bytes; False when it had no right to."""
        self.available -= size
        return self.available >= 0

    def consumed(self, size: int) -> int:
        """`size` bytes need no more memory. Returns the increment to send now; mostly 0."""
        self._consumed += size
        if self._consumed * 2 < self._size:
            return 0
        increment, self._consumed = self._consumed, 0
        self.extend(increment)
        return increment

    def extend(self, size: int) -> None:
        """Let the peer send `size` bytes more than the window's size, once."""
        self.available += size
        self._granted += size


class SendQueue:
    """Bytes that wait for a window, kept by reference and cut without copying."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self.size = 0

    def push(self, pieces: Iterable[bytes], size: int) -> None:
        """Append pieces of `size` bytes in all."""
        self._pieces.extend(pieces)
        self.size += size

    def pop(self, size: int) -> list[Piece]:
        """Remove the first `size` bytes; there must be as many."""
        self.size -= size
        taken: list[Piece] = []
        while size > 0:
            piece = self._pieces.popleft()
            if len(piece) > size:
                view = memoryview(piece)
                self._pieces.appendleft(view[size:])
                piece = view[:size]
            taken.append(piece)
            size -= len(piece)
        return taken

    def clear(self) -> None:
        """Drop what waits."""
        self._pieces.clear()
        self.size = 0


class Budget(Generic[T]):
    """Room for large messages, given first come, first served.

    A stream's window alone lets a message of 64 KiB in. For more, its whole size is taken from here
    first, so what unfinished messages hold is bounded and every admitted message can be finished.
    """

    __slots__ = ("_free", "_granted", "_waiting")

    def __init__(self, size: int) -> None:
        self._free = size
        self._granted: dict[T, int] = {}
        self._waiting: dict[T, int] = {}

    def ask(self, owner: T, size: int) -> bool:
        """True when `owner` has room for `size` bytes now; else it waits in line."""
        if owner in self._granted:
            return True
        if self._waiting or size > self._free:
            self._waiting[owner] = size
            return False
        self._grant(owner, size)
        return True

    def release(self, owner: T) -> list[T]:
        """`owner` needs its room no more. Returns those who get theirs now, in order."""
        self._waiting.pop(owner, None)
        self._free += self._granted.pop(owner, 0)
        admitted = []
        while self._waiting:
            waiting, size = next(iter(self._waiting.items()))
            if size > self._free:
                break
            del self._waiting[waiting]
            self._grant(waiting, size)
            admitted.append(waiting)
        return admitted

    def _grant(self, owner: T, size: int) -> None:
        self._free -= size
        self._granted[owner] = size
