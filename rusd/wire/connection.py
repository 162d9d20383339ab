"""One HTTP/2 connection: frames in, calls out; answers in, frames out (RFC 9113).

`data_received` parses every frame that arrived. A unary request that comes as one HEADERS and one
DATA frame, and whose answer fits the peer's windows, passes through two dicts and no object of
its own: `_opened` (headers are here), `_calls` (the request is complete) and out. Any other stream
becomes a `Stream`. Nothing is written before the end of the turn, then all of it at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from enum import Enum
from functools import cached_property
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol, cast

from rusd.wire.conduct import Conduct
from rusd.wire.ending import LINGER, end_sending
from rusd.wire.flow import Budget, ReceiveWindow
from rusd.wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD_BYTES,
    GOAWAY,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
    Setting,
    StreamFault,
    frame,
    goaway,
    rst_stream,
    settings,
    unpack_frame_head,
    unpack_setting,
    unpack_u32,
    unpadded,
    window_update,
)
from rusd.wire.grpc import (
    OK_TRAILERS,
    PREFIX_BYTES,
    RESPONSE_HEADERS,
    BodyReader,
    Code,
    Refused,
    Status,
    trailers,
)
from rusd.wire.headers import (
    HeaderDecoder,
    Opening,
    Router,
    http_error,
    trailers_only,
    validate_trailers,
)
from rusd.wire.limits import Limits
from rusd.wire.outgoing import Outgoing
from rusd.wire.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from rusd.wire.tally import Counts
    from rusd.wire.turn import Turn

_NEVER: Final = float("inf")
_KEEPALIVE_PING: Final = b"rusdkeep"
_DRAIN_PING: Final = b"rusdbye!"
_DEADLINE_EXCEEDED: Final = Status(Code.DEADLINE_EXCEEDED, "context deadline exceeded")

# A unary request's only DATA frame: frame head, then the message's prefix.
_unpack_prefix = Struct(">BI").unpack_from

_pack_prefix = Struct(">BI").pack
_pack_data = Struct(">HBBBIBI").pack  # frame head and message prefix

# A unary answer up to its message: HEADERS frame, DATA frame head, message prefix.
_pack_reply = Struct(f">HBBBI{len(RESPONSE_HEADERS)}sHBBBIBI").pack
_pack_reply_end = Struct(f">HBBBI{len(OK_TRAILERS)}s").pack


class Registry(Protocol):
    """Where a connection announces itself; the server."""

    def joined(self, connection: Connection) -> None:
        """It can have calls now."""

    def left(self, connection: Connection) -> None:
        """It is gone."""

    def expect(self, deadline: float) -> None:
        """Call `expire` on every connection whose `next_deadline` has come, at that time."""


class _Phase(Enum):
    PREFACE = 0
    SETTINGS = 1
    OPEN = 2
    CLOSED = 3


class _Block:
    """A header block that goes on in CONTINUATION frames."""

    __slots__ = ("data", "end_stream", "frames", "since", "stream_id")

    def __init__(self, stream_id: int, end_stream: bool, data: bytes, since: float) -> None:
        self.stream_id = stream_id
        self.end_stream = end_stream
        self.data = bytearray(data)
        self.frames = 0
        self.since = since


class Connection(asyncio.Protocol):
    """The server's end of one HTTP/2 connection."""

    RESETS_REMEMBERED: Final = 1024

    def __init__(
        self,
        turn: Turn,
        router: Router,
        registry: Registry,
        limits: Limits,
        log: logging.Logger,
    ) -> None:
        self.limits = limits
        self.peer = ""
        """The remote address, for logs."""
        self._turn = turn
        self._registry = registry
        self._log = log
        self._transport: asyncio.Transport | None = None
        self._phase = _Phase.PREFACE
        now = monotonic()
        self._started = self._heard = now

        # Receiving.
        self._buffer = b""
        self._headers = HeaderDecoder(router, limits)
        self._block: _Block | None = None
        self._receive = ReceiveWindow(limits.receive_window)
        self._budget: Budget[Stream] = Budget(
            max(limits.large_message_budget, limits.max_message_bytes + PREFIX_BYTES)
        )
        self._uncredited = 0
        self._partial = 0
        self._sliced = False
        self._paused = False

        # Streams.
        self._last = 0
        self._opened: dict[int, Opening] = {}
        self._calls: dict[int, Opening] = {}
        self._streams: dict[int, Stream] = {}
        self._deadlines: dict[int, float] = {}
        self._reset: OrderedDict[int, None] = OrderedDict()
        self.next_deadline = _NEVER
        """No call's deadline comes before this time (monotonic seconds)."""

        # Sending.
        self._outgoing = Outgoing(self._mark, self._end)
        self._congested: dict[Stream, None] = {}

        # Health.
        self._settings_acked = False
        self._pinged: float | None = None
        self._data_sent_at_ping = 0
        self._conduct = Conduct(limits, now)
        self._draining = False
        self._admit_up_to = MAX_STREAM_ID

    # --- answers -----------------------------------------------------------------------------

    def reply(self, stream_id: int, message: bytes) -> None:
        """Answer a unary call with `message` and OK. Does nothing when the stream is gone."""
        opening = self._calls.pop(stream_id, None)
        size = len(message) + PREFIX_BYTES
        outgoing = self._outgoing
        if opening is None or size > outgoing.simple or size > outgoing.window:
            self._reply_slowly(stream_id, message, opening)
            return
        if self._deadlines:
            self._deadlines.pop(stream_id, None)
        outgoing.window -= size
        outgoing.pieces += (
            _pack_reply(
                0,
                len(RESPONSE_HEADERS),
                HEADERS,
                END_HEADERS,
                stream_id,
                RESPONSE_HEADERS,
                size >> 8,
                size & 0xFF,
                DATA,
                0,
                stream_id,
                0,
                size - PREFIX_BYTES,
            ),
            message,
            _pack_reply_end(
                0,
                len(OK_TRAILERS),
                HEADERS,
                END_HEADERS | END_STREAM,
                stream_id,
                OK_TRAILERS,
            ),
        )
        if not outgoing.dirty:
            outgoing.dirty = True
            self._turn.mark(self)

    def fail(self, stream_id: int, status: Status) -> None:
        """Answer a unary call with an error. Does nothing when the stream is gone."""
        opening = self._calls.pop(stream_id, None)
        if opening is not None:
            self._turn.tally.ended(opening.head.path, status.code)
            self._deadlines.pop(stream_id, None)
            self._outgoing.headers(stream_id, trailers_only(status), END_STREAM)
        else:
            stream = self._streams.get(stream_id)
            if stream is not None and stream.ending is None:
                self.finish(stream, status)

    def _reply_slowly(self, stream_id: int, message: bytes, opening: Opening | None) -> None:
        if opening is not None:
            stream = self._promote(stream_id, opening, complete=True)
        elif (known := self._streams.get(stream_id)) is not None and known.ending is None:
            stream = known
        else:
            return
        waiting = self._outgoing.waiting
        if waiting and waiting + len(message) > self.limits.max_waiting_replies:
            text = "grpc: too many bytes of answers wait for the client to read them"
            self.finish(stream, Status(Code.RESOURCE_EXHAUSTED, text))
            return
        stream.send(message)
        self.finish(stream, None)

    # --- sending -----------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Bytes of this connection that the kernel has not taken, but for unary answers of the
        present turn.
        """
        transport = self._transport
        waiting = transport.get_write_buffer_size() if transport is not None else 0
        return self._outgoing.unflushed + waiting

    def send_headers(self, stream: Stream) -> None:
        """Begin the response."""
        stream.headers_sent = True
        self._outgoing.headers(stream.id, RESPONSE_HEADERS, 0)

    def send_message(self, stream: Stream, parts: tuple[bytes, ...]) -> None:
        """Send one message on a stream, as far as the windows allow now."""
        stream.sent += 1
        outgoing = self._outgoing
        length = sum(map(len, parts))
        size = length + PREFIX_BYTES
        if not stream.headers_sent:
            self.send_headers(stream)
        if (
            size <= stream.window
            and size <= outgoing.window
            and size <= outgoing.max_frame
            and not stream.queue.size
        ):
            stream.window -= size
            outgoing.window -= size
            head = _pack_data(size >> 8, size & 0xFF, DATA, 0, stream.id, 0, length)
            outgoing.write(head, *parts, size=size)
        else:
            outgoing.enqueue(stream, (_pack_prefix(0, length), *parts), size)

    def send_plain(self, stream: Stream, block: bytes, body: bytes, last: bool) -> None:
        """Send a part of an answer that is not gRPC's."""
        if block:
            stream.headers_sent = True
            self._outgoing.headers(stream.id, block, 0)
        if last:
            stream.ending, stream.handler = b"", None
        if body:
            self._outgoing.enqueue(stream, (body,), len(body))
        elif last and not stream.queue.size:
            self._end(stream)

    def finish(self, stream: Stream, status: Status | None) -> None:
        """End the response, when what is queued has gone out."""
        stream.code = Code.OK if status is None else status.code
        if not stream.headers_sent:
            stream.headers_sent = True
            stream.ending = trailers_only(status if status is not None else Status(Code.OK))
        else:
            stream.ending = trailers(status)
        stream.handler = None
        if not stream.queue.size:
            self._end(stream)

    def congest(self, stream: Stream) -> None:
        """Tell `stream` when it may send again."""
        self._congested[stream] = None

    def _mark(self) -> None:
        self._turn.mark(self)

    def _end(self, stream: Stream) -> None:
        """Everything is sent but the trailers."""
        assert stream.ending is not None
        if stream.ending:
            self._outgoing.headers(stream.id, stream.ending, END_STREAM)
        else:
            self._outgoing.write(frame(DATA, END_STREAM, stream.id), size=0)
        if not stream.remote_closed:
            # RFC 9113 section 8.1: the answer is complete, the rest of the request is not wanted.
            self._send_reset(stream.id, ErrorCode.NO_ERROR)
        self._forget(stream)

    def _send_reset(self, stream_id: int, code: ErrorCode) -> None:
        self._outgoing.write(rst_stream(stream_id, code), size=4)
        self._remember_reset(stream_id)

    def _remember_reset(self, stream_id: int) -> None:
        self._reset[stream_id] = None
        if len(self._reset) > self.RESETS_REMEMBERED:
            self._reset.popitem(last=False)

    def flush(self) -> None:
        """Write what this turn produced."""
        data, transport = self._outgoing.take(), self._transport
        if data and transport is not None:
            transport.write(data)
            if transport.get_write_buffer_size() > self.limits.send_buffer_high:
                self._pause_reading()
        if self._congested:
            self._relieve()
        if self._phase is _Phase.CLOSED:
            self._disconnect()
        elif self._admit_up_to != MAX_STREAM_ID and self.idle:
            self.close()

    def _relieve(self) -> None:
        """Tell the streams that drained."""
        low = self.limits.stream_low_water
        unsent = self.unsent
        if unsent > low:
            return
        for stream in list(self._congested):
            if stream.queue.size + unsent <= low:
                del self._congested[stream]
                if stream.handler is not None:
                    self._tell(stream, stream.handler.writable)

    # --- receiving ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes arrived."""
        self._heard = monotonic()
        if self._phase is _Phase.CLOSED:
            return
        self._buffer = self._buffer + data if self._buffer else data
        if not self._sliced:
            self._parse()

    def _parse(self) -> None:
        if self._phase is _Phase.PREFACE and not self._greet():
            return
        try:
            self._frames()
        except ConnectionFault as fault:
            self._die(fault.code, fault.reason)
        except Exception:
            self._log.exception("connection failed", extra={"peer": self.peer})
            self._die(ErrorCode.INTERNAL_ERROR, "internal error")

    def _greet(self) -> bool:
        if len(self._buffer) < len(PREFACE):
            if not PREFACE.startswith(self._buffer):
                self._die(ErrorCode.PROTOCOL_ERROR, "bad preface")
            return False
        if not self._buffer.startswith(PREFACE):
            self._die(ErrorCode.PROTOCOL_ERROR, "bad preface")
            return False
        self._buffer = self._buffer[len(PREFACE) :]
        self._phase = _Phase.SETTINGS
        return True

    def _frames(self) -> None:
        """Parse the frames in the buffer, at most a slice of them."""
        buffer = self._buffer
        size = len(buffer)
        position = received = 0
        work = self.limits.frames_per_slice
        room = self._room()
        arrived = False
        careful = self._phase is not _Phase.OPEN or self._block is not None
        opened, calls, known = self._opened, self._calls, self._headers.known
        streams = self._streams
        max_message = self.limits.max_message_bytes
        while size - position >= FRAME_HEAD_BYTES:
            high, low, kind, flags, stream_id = unpack_frame_head(buffer, position)
            start = position + FRAME_HEAD_BYTES
            length = high << 8 | low
            end = start + length
            if length > MAX_FRAME_BYTES:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame larger than allowed")
            if end > size:
                break
            if work <= 0:
                self._sliced = True
                break
            work -= 1
            position = end
            # A unary request's two frames, as nearly all clients send them.
            if kind == DATA and flags == END_STREAM and stream_id in opened and not careful:
                opening = opened[stream_id]
                head, batch = opening[0], opening[1]
                if (
                    batch is not None
                    and length >= PREFIX_BYTES
                    and (head[4] is None or head[4] == length)
                ):
                    compressed, announced = _unpack_prefix(buffer, start)
                    if announced == length - PREFIX_BYTES <= max_message and not compressed:
                        del opened[stream_id]
                        calls[stream_id] = opening
                        received += length
                        arrived = True
                        start += PREFIX_BYTES
                        batch.append((self, stream_id, head, buffer[start:end]))
                        continue
            elif (
                kind == HEADERS
                and flags == END_HEADERS
                and room > 0
                and self._last < stream_id <= MAX_STREAM_ID
                and stream_id & 1
                and not careful
            ):
                block = buffer[start:end]
                if block in known:
                    opening = known[block]
                else:
                    opening = self._headers.decode(block)
                    work -= length >> 6
                if opening[1] is not None:
                    self._last = stream_id
                    opened[stream_id] = opening
                    room -= 1
                    if opening[0][2] is not None:
                        self._expect(stream_id, opening[0][2])
                else:
                    self._begin_or_reset(stream_id, opening, False)
                    room = self._room()
                continue
            elif (
                kind == DATA
                and not flags
                and not careful
                and stream_id in streams
                and self._whole_message(streams[stream_id], buffer, start, end)
            ):
                continue
            work -= self._frame(kind, flags, stream_id & MAX_STREAM_ID, buffer[start:end])
            careful = self._phase is not _Phase.OPEN or self._block is not None
            room = self._room()
        self._buffer = buffer[position:]
        if received:
            self._count_received(received)
        increment = self._receive.consumed(self._uncredited)
        self._uncredited = 0
        if increment:
            self._outgoing.write(window_update(0, increment), size=4)
        if arrived:
            self._turn.wake()
        if self._sliced:
            self._pause_reading()
            self._turn.later(self._next_slice)

    def _next_slice(self) -> None:
        self._sliced = False
        if self._phase is _Phase.CLOSED:
            return
        self._parse()
        if not self._sliced:
            self._resume_reading()

    def _room(self) -> int:
        """Streams that the client may open now."""
        waiting = self._outgoing.waiting
        if waiting > self.limits.max_waiting_replies or self._admit_up_to <= self._last:
            return 0
        return self.limits.streams - len(self._opened) - len(self._calls) - len(self._streams)

    def _count_received(self, size: int) -> None:
        if not self._receive.take(size):
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "connection window overrun")
        self._uncredited += size

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> int:
        """Any frame, with every rule; returns what it cost beyond an ordinary frame, in frames."""
        block = self._block
        if block is not None and (kind != CONTINUATION or stream_id != block.stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION expected")
        if self._phase is _Phase.SETTINGS and (kind != SETTINGS or flags & ACK):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS expected")
        try:
            if kind == DATA:
                return self._data(flags, stream_id, payload)
            if kind == HEADERS:
                self._headers_start(flags, stream_id, payload)
                return len(payload) >> 6
            if kind == CONTINUATION:
                self._continuation(flags, payload)
                return len(payload) >> 6
            if kind == WINDOW_UPDATE:
                self._window_update(stream_id, payload)
            elif kind == RST_STREAM:
                self._rst_stream(stream_id, payload)
            elif kind == SETTINGS:
                self._settings(flags, stream_id, payload)
                return len(self._streams) >> 3
            elif kind == PING:
                self._ping(flags, stream_id, payload)
            elif kind == GOAWAY:
                self._goaway(stream_id, payload)
            elif kind == PUSH_PROMISE:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
            else:
                self._conduct.control(self._heard)
                if kind == PRIORITY:
                    _check_priority(stream_id, payload)
        except StreamFault as fault:
            self._reset_stream(stream_id, fault.code)
        return 0

    # Frames that carry requests.

    def _headers_start(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id & 1 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream not the client's")
        if flags & PADDED:
            payload = unpadded(payload)
        if flags & PRIORITY_FLAG:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short")
            payload = payload[5:]
        end_stream = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._headers_complete(stream_id, end_stream, payload)
        else:
            self._block = _Block(stream_id, end_stream, payload, self._heard)

    def _continuation(self, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        block.frames += 1
        block.data += payload
        # A list within the limit may be longer as a block, but not by much.
        if (
            block.frames > self.limits.max_continuations
            or len(block.data) > 4 * self.limits.max_header_list_bytes
        ):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header block too long")
        if flags & END_HEADERS:
            self._block = None
            self._headers_complete(block.stream_id, block.end_stream, bytes(block.data))

    def _headers_complete(self, stream_id: int, end_stream: bool, block: bytes) -> None:
        # Whatever becomes of the stream, the block must be decoded: it may change HPACK's table.
        if stream_id > self._last:
            opening = self._headers.known.get(block) or self._headers.decode(block)
            self._begin_or_reset(stream_id, opening, end_stream)
            return
        fields = self._headers.fields(block)
        stream = self._receiving(stream_id)
        if stream is not None:
            validate_trailers(fields)
            if not end_stream:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "trailers that do not end the stream")
            self._end_of_request(stream)

    def _begin_or_reset(self, stream_id: int, opening: Opening, end_stream: bool) -> None:
        self._last = stream_id
        try:
            self._begin(stream_id, opening, end_stream)
        except StreamFault as fault:
            self._reset_stream(stream_id, fault.code)

    def _begin(self, stream_id: int, opening: Opening, end_stream: bool) -> None:
        if stream_id > self._admit_up_to:
            self._remember_reset(stream_id)
            return
        if self._room() <= 0:
            raise StreamFault(ErrorCode.REFUSED_STREAM, "too many streams")
        refusal = opening.refusal
        if refusal is not None:
            if refusal.fault is not None:
                raise refusal.fault
            self._answer(stream_id, refusal.block, end_stream)
            return
        if end_stream and opening.head.content_length:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "body shorter than content-length")
        if opening.method is not None:
            self._open_stream(stream_id, opening, end_stream)
        elif end_stream:
            text = "grpc: a unary call must carry one message, received none"
            self._answer(stream_id, trailers_only(Status(Code.INTERNAL, text)), True)
        else:
            self._opened[stream_id] = opening
            if opening.head.timeout is not None:
                self._expect(stream_id, opening.head.timeout)

    def _answer(self, stream_id: int, block: bytes, complete: bool) -> None:
        """A whole response in one header block, for a stream that is not kept."""
        self._outgoing.headers(stream_id, block, END_STREAM)
        if not complete:
            self._send_reset(stream_id, ErrorCode.NO_ERROR)

    def _open_stream(self, stream_id: int, opening: Opening, end_stream: bool) -> None:
        assert opening.method is not None
        plain, window = opening.method.plain, self._outgoing.initial_window
        stream = Stream(self, stream_id, opening.head, window, plain=plain)
        self._streams[stream_id] = stream
        if not plain:
            stream.begun = True
            self._turn.tally.started[opening.head.path] += 1
            if self._turn.timer is not None:
                stream.began = monotonic()
        if opening.head.timeout is not None:
            self._expect(stream_id, opening.head.timeout)
        try:
            handler = opening.method.open(stream)
        except Exception:
            self._log.exception("handler failed", extra={"path": opening.method.path})
            self._abort(stream, Status(Code.INTERNAL, "internal error"))
            return
        if stream.closed or stream.ending is not None:
            stream.remote_closed = end_stream
            return
        stream.handler = handler
        if end_stream:
            self._end_of_request(stream)

    def _receiving(self, stream_id: int) -> Stream | None:
        """The stream, for a frame that only an open one may get; None to ignore the frame.

        Raises StreamFault or ConnectionFault for the other states (section 5.1).
        """
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.remote_closed:
            return stream
        opening = self._opened.pop(stream_id, None)
        if opening is not None:
            return self._promote(stream_id, opening, complete=False)
        if stream is not None or stream_id in self._calls:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "stream is half-closed")
        if stream_id in self._reset:
            return None
        self._check_not_idle(stream_id)
        raise ConnectionFault(ErrorCode.STREAM_CLOSED, "stream is closed")

    def _check_not_idle(self, stream_id: int) -> None:
        if stream_id & 1 == 0 or stream_id > self._last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "frame on an idle stream")

    def _promote(self, stream_id: int, opening: Opening, *, complete: bool) -> Stream:
        """Give a unary call a Stream."""
        stream = Stream(self, stream_id, opening.head, self._outgoing.initial_window)
        stream.batch = opening.batch
        stream.remote_closed = stream.begun = complete
        self._streams[stream_id] = stream
        return stream

    def _data(self, flags: int, stream_id: int, payload: bytes) -> int:
        self._check_not_idle(stream_id)
        self._count_received(len(payload))
        data = unpadded(payload) if flags & PADDED else payload
        if not data and not flags & END_STREAM:
            self._conduct.control(self._heard)
        stream = self._receiving(stream_id)
        if stream is None:
            return 0
        if not stream.receive.take(len(payload)):
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "stream window overrun")
        stream.body_bytes += len(data)
        declared = stream.head.content_length
        if declared is not None and stream.body_bytes > declared:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "body longer than content-length")
        inflated = stream.reader.inflated
        try:
            self._messages(stream, data)
        except Refused as refused:
            self._abort(stream, refused.status)
            return 0
        if not stream.closed:
            if flags & END_STREAM:
                self._end_of_request(stream)
            else:
                self._make_room(stream)
        # Decompression makes about 2 KiB in the time that an ordinary frame takes.
        return (stream.reader.inflated - inflated) >> 11

    def _whole_message(self, stream: Stream, buffer: bytes, start: int, end: int) -> bool:
        """Take a DATA frame that is one message of a streaming call, as nearly all of them are.

        False leaves it to `_data`: whatever else it may be, and when windows are to be opened.
        """
        handler, receive, size = stream.handler, stream.receive, end - start
        if (
            handler is None
            or stream.remote_closed
            or stream.reader.held
            or stream.plain
            or stream.head.content_length is not None
            or size < PREFIX_BYTES
            or receive.available - size < DEFAULT_WINDOW // 2
        ):
            return False
        compressed, announced = _unpack_prefix(buffer, start)
        if compressed or announced != size - PREFIX_BYTES:
            return False
        receive.available -= size
        self._count_received(size)
        stream.received += 1
        self._tell(stream, handler.message, buffer[start + PREFIX_BYTES : end])
        return True

    def _messages(self, stream: Stream, data: bytes) -> None:
        for message in stream.reader.feed(data):
            if stream.batch is not None:
                if stream.request is not None:
                    text = "grpc: a unary call must carry one message, received more"
                    raise Refused(Code.INTERNAL, text)
                stream.request = message
            elif stream.handler is not None:
                stream.received += 1
                self._tell(stream, stream.handler.message, message)
        if stream.closed:
            return
        held = stream.reader.held
        self._partial += held - stream.held
        stream.held = held
        if self._partial > self.limits.max_partial_bytes:
            text = "grpc: too many bytes of unfinished messages on the connection"
            raise Refused(Code.RESOURCE_EXHAUSTED, text)

    def _end_of_request(self, stream: Stream) -> None:
        """The client has sent all that it will."""
        stream.remote_closed = True
        declared = stream.head.content_length
        if declared is not None and stream.body_bytes != declared:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "body shorter than content-length")
        self._release_room(stream)
        if isinstance(stream.reader, BodyReader):
            self._partial -= stream.held
            stream.held = 0
            if stream.handler is not None:
                self._tell(stream, stream.handler.message, stream.reader.take())
        elif stream.reader.held:
            self._abort(stream, Status(Code.INTERNAL, "unexpected EOF"))
        elif stream.batch is None:
            if stream.handler is not None:
                self._tell(stream, stream.handler.half_closed)
        elif stream.request is None:
            text = "grpc: a unary call must carry one message, received none"
            self._abort(stream, Status(Code.INTERNAL, text))
        else:
            message, stream.request = stream.request, None
            stream.begun = True
            stream.batch.append((self, stream.id, stream.head, message))
            self._turn.wake()

    def _make_room(self, stream: Stream) -> None:
        """Open the stream's receive window again, as far as its messages may take memory."""
        window, reader = stream.receive, stream.reader
        missing = reader.missing
        if not missing:
            self._release_room(stream)
            if window.available < DEFAULT_WINDOW // 2:
                self._extend(stream, DEFAULT_WINDOW - window.available)
        elif missing > window.available:
            whole = reader.held + missing
            if whole <= DEFAULT_WINDOW or self._budget.ask(stream, whole):
                self._extend(stream, missing - window.available)

    def _release_room(self, stream: Stream) -> None:
        for admitted in self._budget.release(stream):
            self._extend(admitted, admitted.reader.missing - admitted.receive.available)

    def _extend(self, stream: Stream, increment: int) -> None:
        stream.receive.extend(increment)
        self._outgoing.write(window_update(stream.id, increment), size=4)

    # Frames about streams and the connection.

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = unpack_u32(payload)[0] & MAX_WINDOW
        if not stream_id:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self._outgoing.widen(increment)
            return
        self._check_not_idle(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id in self._calls:
                stream = self._promote(stream_id, self._calls.pop(stream_id), complete=True)
            elif stream_id in self._opened:
                stream = self._promote(stream_id, self._opened.pop(stream_id), complete=False)
            else:
                return
        if not increment:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        self._outgoing.widen_stream(stream, increment)

    def _rst_stream(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        self._check_not_idle(stream_id)
        if self._drop(stream_id):
            self._remember_reset(stream_id)
            self._conduct.reset(self._heard)

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            self._settings_acked = True
            return
        if len(payload) % 6:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        self._conduct.control(self._heard)
        outgoing = self._outgoing
        initial_window, max_frame = outgoing.initial_window, outgoing.max_frame
        for identifier, value in unpack_setting(payload):
            # No response uses HPACK's dynamic table, so the client's size for it does not matter.
            if identifier == Setting.ENABLE_PUSH and value > 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "bad SETTINGS_ENABLE_PUSH")
            if identifier == Setting.MAX_FRAME_SIZE:
                if not MAX_FRAME_BYTES <= value < 2**24:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "bad SETTINGS_MAX_FRAME_SIZE")
                max_frame = value
            elif identifier == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFault(
                        ErrorCode.FLOW_CONTROL_ERROR, "bad SETTINGS_INITIAL_WINDOW_SIZE"
                    )
                initial_window = value
        # First: what the new window lets out would overflow the one that holds until then.
        outgoing.write(frame(SETTINGS, ACK, 0), size=0)
        outgoing.settle(initial_window, max_frame, list(self._streams.values()))
        if self._phase is _Phase.SETTINGS:
            self._phase = _Phase.OPEN

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING of a wrong size")
        if flags & ACK:
            if payload == _DRAIN_PING and self._draining:
                self._stop_admitting()
            return
        self._conduct.control(self._heard)
        outgoing = self._outgoing
        answered = outgoing.answered or outgoing.data_sent != self._data_sent_at_ping
        outgoing.answered, self._data_sent_at_ping = False, outgoing.data_sent
        self._conduct.ping(self._heard, answered=answered, idle=self.idle)
        self._outgoing.write(frame(PING, ACK, 0, payload), size=8)

    def _goaway(self, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of a wrong size")
        self._admit_up_to = self._last
        if not self._outgoing.dirty:
            self._mark()

    # --- the end of streams ------------------------------------------------------------------

    def _tell(self, stream: Stream, callback: Callable[..., None], *arguments: bytes) -> None:
        """Call a stream's handler; its exception ends that stream alone."""
        try:
            callback(*arguments)
        except Exception:
            path = stream.head.path.decode("latin-1")
            self._log.exception("handler failed", extra={"path": path})
            self._abort(stream, Status(Code.INTERNAL, "internal error"))

    def _abort(self, stream: Stream, status: Status) -> None:
        """End a call with an error, whatever still waits to be sent."""
        if stream.closed:
            return
        stream.code = status.code
        self._outgoing.discard(stream)
        if stream.plain and stream.headers_sent:
            self._reset_stream(stream.id, ErrorCode.INTERNAL_ERROR)
            return
        if stream.plain:
            too_large = status.code == Code.RESOURCE_EXHAUSTED
            stream.ending = http_error(b"413" if too_large else b"500").block
        else:
            stream.ending = trailers(status) if stream.headers_sent else trailers_only(status)
        self._end(stream)

    def _reset_stream(self, stream_id: int, code: ErrorCode) -> None:
        """A stream error."""
        self._send_reset(stream_id, code)
        self._drop(stream_id)
        self._conduct.reset(self._heard)

    def _drop(self, stream_id: int) -> bool:
        """Forget a stream without an answer; False when it is not there."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._forget(stream)
            return True
        self._deadlines.pop(stream_id, None)
        opening = self._calls.pop(stream_id, None)
        if opening is not None:
            self._turn.tally.ended(opening.head.path, Code.CANCELLED)
            return True
        return self._opened.pop(stream_id, None) is not None

    def _forget(self, stream: Stream) -> None:
        """A stream is closed; its handler hears of it unless it finished the call itself."""
        if stream.closed:
            return
        stream.closed = True
        if stream.begun:
            received, sent = (0, 0) if stream.batch is not None else (stream.received, stream.sent)
            self._turn.tally.ended(stream.head.path, stream.code, received, sent)
            if stream.began and self._turn.timer is not None:
                self._turn.timer.seconds[stream.head.path].observe(monotonic() - stream.began)
        del self._streams[stream.id]
        self._deadlines.pop(stream.id, None)
        self._congested.pop(stream, None)
        self._outgoing.discard(stream)
        self._partial -= stream.held
        stream.held = 0
        self._release_room(stream)
        handler, stream.handler = stream.handler, None
        if handler is not None:
            try:
                handler.closed()
            except Exception:
                path = stream.head.path.decode("latin-1")
                self._log.exception("handler failed", extra={"path": path})

    def _expect(self, stream_id: int, timeout: float) -> None:
        deadline = self._heard + timeout
        self._deadlines[stream_id] = deadline
        if deadline < self.next_deadline:
            self.next_deadline = deadline
            self._registry.expect(deadline)

    def expire(self, now: float) -> None:
        """End the calls whose deadline has passed, and find the next one."""
        self.next_deadline = _NEVER
        due = [stream_id for stream_id, at in self._deadlines.items() if at <= now]
        for stream_id in due:
            stream = self._streams.get(stream_id)
            if stream is not None:
                self._abort(stream, _DEADLINE_EXCEEDED)
            elif self._opened.pop(stream_id, None) is not None:
                del self._deadlines[stream_id]
                self._answer(stream_id, trailers_only(_DEADLINE_EXCEEDED), False)
            else:
                self.fail(stream_id, _DEADLINE_EXCEEDED)
        if self._deadlines:
            self.next_deadline = min(self._deadlines.values())
            self._registry.expect(self.next_deadline)

    # --- the connection's life ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is there."""
        # uvloop's transports have the methods of asyncio.Transport without being one.
        self._transport = cast(asyncio.Transport, transport)
        self.peer = peer_name(transport)
        # Low, so that every congested stream is told by `resume_writing`.
        limits = self.limits
        low = limits.stream_low_water
        self._transport.set_write_buffer_limits(low, low // 2)
        ours = {
            Setting.MAX_CONCURRENT_STREAMS: limits.streams,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
        }
        self._outgoing.write(settings(ours), size=0)
        if limits.receive_window > DEFAULT_WINDOW:
            self._outgoing.write(window_update(0, limits.receive_window - DEFAULT_WINDOW), size=0)
        self._registry.joined(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._transport = None
        self._clear()
        self._turn.tally.gone(self)
        self._registry.left(self)

    def eof_received(self) -> bool:
        """asyncio: the peer sends no more; a client that does so is leaving."""
        return False

    def pause_writing(self) -> None:
        """asyncio: the transport's buffer is over its high-water mark. `flush` looks itself."""

    def resume_writing(self) -> None:
        """asyncio: the transport's buffer drained."""
        self._resume_reading()
        self._relieve()

    def _pause_reading(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        transport = self._transport
        if (
            self._paused
            and transport is not None
            and not transport.is_closing()
            and not self._sliced
            and transport.get_write_buffer_size() <= self.limits.send_buffer_high
        ):
            self._paused = False
            self._heard = monotonic()
            transport.resume_reading()

    def check(self, now: float) -> None:
        """Look at the connection's timeouts; to be called about once a second."""
        limits = self.limits
        if self._phase is _Phase.CLOSED:
            return
        if self._phase is not _Phase.OPEN:
            if now - self._started > limits.handshake_timeout:
                self._die(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 handshake in time")
        elif not self._settings_acked and now - self._started > limits.settings_timeout:
            self._die(ErrorCode.SETTINGS_TIMEOUT, "SETTINGS not acknowledged in time")
        elif self._block is not None and now - self._block.since > limits.handshake_timeout:
            self._die(ErrorCode.ENHANCE_YOUR_CALM, "header block not finished in time")
        elif self._paused:
            return
        elif self._pinged is not None and self._heard >= self._pinged:
            self._pinged = None
        elif self._pinged is not None:
            if now - self._pinged > limits.keepalive_timeout:
                self._log.info("keep-alive ping not answered", extra={"peer": self.peer})
                self.abort()
        elif limits.keepalive_interval > 0 and now - self._heard > limits.keepalive_interval:
            self._pinged = now
            self._outgoing.write(frame(PING, 0, 0, _KEEPALIVE_PING), size=8)

    def drain(self) -> None:
        """Take no new calls; close when the open ones are finished (section 6.8)."""
        if self._phase is _Phase.CLOSED or self._draining:
            return
        self._draining = True
        # Calls may be on their way. The PING's answer shows that the client knows; then the
        # last stream is certain.
        self._outgoing.write(goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR), size=0)
        self._outgoing.write(frame(PING, 0, 0, _DRAIN_PING), size=8)

    def _stop_admitting(self) -> None:
        if self._admit_up_to == MAX_STREAM_ID:
            self._admit_up_to = self._last
            self._outgoing.write(goaway(self._last, ErrorCode.NO_ERROR), size=0)

    @cached_property
    def common_name(self) -> str | None:
        """The user that the client's certificate names, where certificates name users."""
        transport = self._transport
        return transport.get_extra_info("common_name") if transport is not None else None

    @cached_property
    def local(self) -> tuple[str, int] | None:
        """Address and port that the client has reached."""
        transport = self._transport
        name = transport.get_extra_info("sockname") if transport is not None else None
        return (name[0], name[1]) if isinstance(name, tuple) else None

    @property
    def bytes_received(self) -> int:
        """Of DATA."""
        return self._receive.received

    @property
    def bytes_sent(self) -> int:
        """Of DATA."""
        return self._outgoing.data_sent

    def add_open(self, counts: Counts) -> None:
        """Adds the calls that are under way."""
        for opening in self._calls.values():
            counts.open[opening.head.path] += 1
        for stream in self._streams.values():
            if stream.begun:
                path = stream.head.path
                counts.open[path] += 1
                if stream.batch is None:
                    counts.received[path] += stream.received
                    counts.sent[path] += stream.sent

    @property
    def idle(self) -> bool:
        """No call is open."""
        return not (self._opened or self._calls or self._streams)

    def close(self) -> None:
        """End the connection; open calls are lost."""
        if self._phase is not _Phase.CLOSED:
            self._die(ErrorCode.NO_ERROR, "")

    def abort(self) -> None:
        """End the connection without a word."""
        self._phase = _Phase.CLOSED
        self._clear()
        if self._transport is not None:
            self._transport.abort()

    def _die(self, code: ErrorCode, reason: str) -> None:
        """GOAWAY, then close."""
        if self._phase is _Phase.CLOSED:
            return
        if code != ErrorCode.NO_ERROR:
            extra = {"peer": self.peer, "code": code.name, "reason": reason}
            self._log.info("closing connection", extra=extra)
        self._clear()
        self._outgoing.write(goaway(self._last, code, reason.encode()), size=0)
        self._phase = _Phase.CLOSED

    def _clear(self) -> None:
        self._buffer = b""
        self._opened.clear()
        for opening in self._calls.values():
            self._turn.tally.ended(opening.head.path, Code.CANCELLED)
        self._calls.clear()
        for stream in list(self._streams.values()):
            self._forget(stream)
        self._deadlines.clear()
        self.next_deadline = _NEVER

    def _disconnect(self) -> None:
        """Send what is written, then end."""
        transport = self._transport
        if transport is not None and end_sending(transport):
            self._resume_reading()
            self._turn.after(LINGER, transport.abort)


def peer_name(transport: asyncio.BaseTransport) -> str:
    """The remote address as "host:port", "[host]:port" for IPv6."""
    address = transport.get_extra_info("peername")
    if not isinstance(address, tuple):
        return str(address or "")
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_priority(stream_id: int, payload: bytes) -> None:
    if not stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on the connection")
    if len(payload) != 5:
        raise StreamFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
