"""What goes out on one connection: the frames of the present turn, and the messages that wait for
the peer's flow-control windows (RFC 9113 sections 5.2 and 6.9).

Connection-level order is fair: streams that wait for the connection's window get a frame each, in
turn. A stream that waits for its own window is left alone until that opens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from rusd.wire.flow import widened
from rusd.wire.frames import (
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    HEADERS,
    MAX_FRAME_BYTES,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    frame_head,
)

if TYPE_CHECKING:
    from rusd.wire.stream import Stream


class Outgoing:
    """The sending side of a connection.

    `mark` is called when there is something to write and was not before; `drained` when a finished
    stream has nothing queued any more.
    """

    LARGEST_FRAME: Final = 65536
    """However large a frame the peer takes: others want their turn."""

    def __init__(self, mark: Callable[[], None], drained: Callable[[Stream], None]) -> None:
        self._mark = mark
        self._drained = drained
        self.pieces: list[bytes | memoryview] = []
        self.dirty = False
        self.window = DEFAULT_WINDOW
        """What the peer lets us send on the connection."""
        self.initial_window = DEFAULT_WINDOW
        """What it lets us send on a new stream."""
        self.max_frame = MAX_FRAME_BYTES
        self.simple = min(self.max_frame, self.initial_window)
        """A message of so many bytes, prefix and all, is one frame and fits a new stream."""
        self.waiting = 0
        """Bytes that wait for windows."""
        self.unflushed = 0
        """Bytes of `pieces`, but for unary answers."""
        self.answered = False
        """Whether headers were sent; the keep-alive rules set it back."""
        self._credit = DEFAULT_WINDOW
        self._blocked: OrderedDict[Stream, None] = OrderedDict()

    @property
    def data_sent(self) -> int:
        """Bytes of DATA in the life of the connection."""
        return self._credit - self.window

    def write(self, *pieces: bytes | memoryview, size: int) -> None:
        """Append pieces of frames, `size` bytes in all, heads aside."""
        self.pieces += pieces
        self.unflushed += size
        if not self.dirty:
            self.dirty = True
            self._mark()

    def take(self) -> bytes:
        """Everything to be written now."""
        data = b"".join(self.pieces)
        self.pieces.clear()
        self.dirty = False
        self.unflushed = 0
        return data

    def headers(self, stream_id: int, block: bytes, flags: int) -> None:
        """A HEADERS frame. The block fits one: a status text is bounded."""
        assert len(block) <= MAX_FRAME_BYTES
        self.answered = True
        head = frame_head(len(block), HEADERS, END_HEADERS | flags, stream_id)
        self.write(head, block, size=len(block))

    def enqueue(self, stream: Stream, pieces: Iterable[bytes], size: int) -> None:
        """Send bytes of a stream as the windows allow, now and later."""
        stream.queue.push(pieces, size)
        self.waiting += size
        self.pump(stream)

    def pump(self, stream: Stream, most: int | None = None) -> None:
        """Send what is queued for a stream as far as its windows, and `most` bytes, allow."""
        queue = stream.queue
        left = queue.size if most is None else min(most, queue.size)
        while left > 0:
            size = min(left, self.max_frame, stream.window, self.window)
            if size <= 0:
                break
            head = frame_head(size, DATA, 0, stream.id)
            self.write(head, *queue.pop(size), size=size)
            stream.window -= size
            self.window -= size
            self.waiting -= size
            left -= size
        if queue.size and stream.window > 0:
            self._blocked[stream] = None
            return
        self._blocked.pop(stream, None)
        if not queue.size and stream.ending is not None:
            self._drained(stream)

    def discard(self, stream: Stream) -> None:
        """Drop what is queued for a stream."""
        self.waiting -= stream.queue.size
        stream.queue.clear()
        self._blocked.pop(stream, None)

    def widen(self, increment: int) -> None:
        """The peer opened the connection's window."""
        window = widened(self.window, increment)
        if window is None:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window too large")
        self.window = window
        self._credit += increment
        while self.window > 0 and self._blocked:
            stream = next(iter(self._blocked))
            self._blocked.move_to_end(stream)
            self.pump(stream, self.max_frame)

    def widen_stream(self, stream: Stream, increment: int) -> None:
        """The peer opened a stream's window."""
        window = widened(stream.window, increment)
        if window is None:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "stream window too large")
        stream.window = window
        self.pump(stream)

    def settle(self, initial_window: int, max_frame: int, streams: Iterable[Stream]) -> None:
        """New settings of the peer; they hold for open streams too (section 6.9.2)."""
        change = initial_window - self.initial_window
        self.initial_window = initial_window
        self.max_frame = min(max_frame, self.LARGEST_FRAME)
        self.simple = min(self.max_frame, initial_window)
        if not change:
            return
        for stream in streams:
            window = widened(stream.window, change)
            if window is None:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "stream window too large")
            stream.window = window
            if stream.queue.size:
                self.pump(stream)
