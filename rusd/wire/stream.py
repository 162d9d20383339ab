"""A stream that needs more than a look-up: a streaming call, or a unary call whose request or
response does not fit in one frame or window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rusd.wire.flow import ReceiveWindow, SendQueue
from rusd.wire.grpc import BodyReader, Code, MessageReader, Status

if TYPE_CHECKING:
    from rusd.wire.connection import Connection
    from rusd.wire.service import Call, RequestHead, StreamHandler


class Stream:
    """The sending half of a streaming call. Use it on the event loop only.

    The attributes below `backlog` belong to the connection.
    """

    __slots__ = (
        "batch",
        "began",
        "begun",
        "body_bytes",
        "closed",
        "code",
        "connection",
        "ending",
        "handler",
        "head",
        "headers_sent",
        "held",
        "id",
        "plain",
        "queue",
        "reader",
        "receive",
        "received",
        "remote_closed",
        "request",
        "sent",
        "window",
    )

    def __init__(
        self,
        connection: Connection,
        stream_id: int,
        head: RequestHead,
        window: int,
        *,
        plain: bool = False,
    ) -> None:
        self.connection = connection
        self.id = stream_id
        self.head = head
        self.window = window
        """What the peer lets us send on this stream; negative after it shrank its settings."""
        self.queue = SendQueue()
        self.ending: bytes | None = None
        """Header block of the trailers, once the call is finished; a plain answer has none."""
        self.headers_sent = False
        self.closed = False
        self.remote_closed = False
        self.receive = ReceiveWindow()
        self.plain = plain
        limits = connection.limits
        self.reader: MessageReader | BodyReader = (
            BodyReader(limits.max_http1_body_bytes)
            if plain
            else MessageReader(head.encoding, limits.max_message_bytes)
        )
        self.held = 0
        """Bytes of an unfinished request message, as the connection has counted them."""
        self.body_bytes = 0
        self.request: bytes | None = None
        """The message of a unary call that has not ended yet."""
        self.begun = False
        """The call counts: who answers it has it."""
        self.began = 0.0
        """When a streaming call was opened, in monotonic seconds, if that matters."""
        self.code: int = Code.CANCELLED
        """How the call ends, as far as is known."""
        self.received = self.sent = 0
        """Messages of a streaming call."""
        self.batch: list[Call] | None = None
        self.handler: StreamHandler | None = None

    def send(self, *parts: bytes) -> None:
        """Send one message, whose body is the parts joined; they are kept, not copied.

        Does nothing when the stream is closed or finished.
        """
        if self.closed or self.ending is not None:
            return
        self.connection.send_message(self, parts)

    def finish(self, status: Status | None = None) -> None:
        """End the call with `status`, None for OK, after what was sent before.

        Does nothing when the stream is closed or finished.
        """
        if not self.closed and self.ending is None:
            self.connection.finish(self, status)

    def send_plain(self, block: bytes, body: bytes, *, last: bool) -> None:
        """Send a part of a plain answer: its header block, if that is to come, and body bytes.

        Does nothing when the stream is closed or finished.
        """
        if not self.closed and self.ending is None:
            self.connection.send_plain(self, block, body, last)

    @property
    def backlog(self) -> int:
        """Bytes accepted by `send` and not handed to the kernel: those that wait for the stream's
        window, and, since they go first, those of the whole connection.
        """
        return self.queue.size + self.connection.unsent

    @property
    def congested(self) -> bool:
        """The backlog is over the high-water mark: stop sending until `writable` is called."""
        limits = self.connection.limits
        if self.queue.size + self.connection.unsent <= limits.stream_high_water:
            return False
        self.connection.congest(self)
        return True
