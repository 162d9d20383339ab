"""The language of members: frames, hellos, Raft messages, calls. No sockets.

A connection has one purpose. It begins with a HELLO from who dials and a WELCOME (or REFUSED) from
who listens; what follows depends on the purpose. A frame is the length of its payload (4 bytes, big
endian), its kind (1 byte) and the payload: a message of `protos/peer.proto`, or nothing. Before a
Raft message is its length (4 bytes), and after it the data of its entries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage

from rusd.pb import peer_pb2 as pb
from rusd.raft.message import ConfState, Entry, EntryKind, Message, MessageKind, Snapshot

PROTOCOL: Final = 1
"""The version of all this. Members of different ones refuse each other."""
MAGIC: Final = 0x72757364
MAX_HELLO_BYTES: Final = 16 << 10
MAX_NUMBER: Final = (1 << 63) - 1
"""Of terms and indexes."""
MAX_MESSAGE_HEAD_BYTES: Final = 4 << 20
"""Of a Raft message without the data of its entries: some 300,000 entries."""

HEAD_BYTES: Final = 5
_pack_head: Final = Struct(">IB").pack
_unpack_head: Final = Struct(">IB").unpack_from
_pack_message_head: Final = Struct(">IBI").pack
_unpack_length: Final = Struct(">I").unpack_from
_LENGTH_BYTES: Final = 4
_JOINED_BYTES: Final = 16 << 10


class FrameKind(IntEnum):
    """Kinds of frames."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    PING = 4
    PONG = 5
    MESSAGE = 6
    CALL = 7
    ANSWER = 8


class Purpose(IntEnum):
    """What a connection is for."""

    CONTROL = 1
    """From the member that dials: messages that must not wait behind data, and calls."""
    BULK = 2
    """From the member that dials: messages with entries."""
    ASK = 3
    """Calls of public methods, from one who is no member."""
    SNAPSHOT = 4
    """A stream of bytes, both ways, whose content is not defined here."""


class Method(IntEnum):
    """What can be called on a member."""

    MEMBERS = 1
    """Public: whoever joins asks for the cluster's id and members."""
    KEEP_ALIVE = 2
    TIME_TO_LIVE = 3
    PROMOTE = 4
    VERSION = 5
    HASH = 6


class Reason(IntEnum):
    """Why a hello is refused."""

    PROTOCOL = 1
    CLUSTER_MISMATCH = 2
    WRONG_MEMBER = 3
    """The hello is for another member."""
    REMOVED = 4
    """Who dials was removed from the cluster."""
    UNKNOWN_MEMBER = 5
    PURPOSE = 6
    BUSY = 7
    """At a limit."""


BULK_KINDS: Final = frozenset((MessageKind.APPEND, MessageKind.SNAPSHOT, MessageKind.PROPOSE))
"""What travels on BULK connections: appends keep their order among themselves, and heartbeats,
votes and acknowledgements keep theirs and overtake them.
"""


class PeerProtocolError(Exception):
    """The other side does not keep to the protocol: the connection cannot go on."""


class RefusedError(Exception):
    """The other side refused the hello, or what it said of itself is not what was dialed."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Hello:
    """Who dials, whom, and what for. Someone who only asks has and knows no ids: they are 0."""

    purpose: int
    cluster: int = 0
    sender: int = 0
    to: int = 0
    version: str = ""
    peer_urls: tuple[str, ...] = ()
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Welcome:
    """Who listens."""

    cluster: int
    member: int
    version: str = ""
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Call:
    """A question. `timeout` in seconds: nobody waits for the answer after it."""

    number: int
    method: int
    timeout: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the call of the same number: `body`, or, if it failed, `error`."""

    number: int
    body: bytes = b""
    error: str | None = None


# Frames

Frames = Iterator[tuple[int, memoryview]]
"""Kinds and payloads."""


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return _pack_head(len(payload), kind) + payload


PING: Final = frame(FrameKind.PING)
PONG: Final = frame(FrameKind.PONG)


_TLS_RECORD: Final = b"\x16\x03"
"""How a handshake begins (RFC 8446 section 5.1)."""


class FrameReader:
    """Cuts the bytes of a connection into frames.

    `limit` bounds a payload, in bytes; it may be changed between two frames. A frame that is not
    whole costs memory only for the bytes of it that came.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._chunks: list[bytes] = []
        self._position = 0  # in the first chunk: what lies before is done
        self._size = 0
        self._needed = HEAD_BYTES

    def feed(self, data: bytes) -> None:
        """Bytes came."""
        self._chunks.append(data)
        self._size += len(data)

    def frames(self) -> Frames:
        """Give kind and payload of every whole frame. Whoever stops early may go on later.

        Raises PeerProtocolError for a payload over the limit.
        """
        while self._size >= self._needed:
            data = self._joined()
            length, kind = _unpack_head(data, self._position)
            if length > self.limit:
                if data.startswith(_TLS_RECORD, self._position):
                    raise PeerProtocolError("TLS on a peer URL without TLS")
                raise PeerProtocolError(f"a frame of {length} bytes, over the limit")
            size = HEAD_BYTES + length
            if self._size < size:
                self._needed = size
                return
            start, end = self._position + HEAD_BYTES, self._position + size
            self._needed = HEAD_BYTES
            self._position = end
            self._size -= size
            if not self._size:
                self._chunks.clear()
                self._position = 0
            yield kind, memoryview(data)[start:end]

    def rest(self) -> bytes:
        """Take out the bytes that follow the frames given so far."""
        data = self._joined()[self._position :] if self._chunks else b""
        self._chunks.clear()
        self._position = self._size = 0
        self._needed = HEAD_BYTES
        return data

    def _joined(self) -> bytes:
        chunks = self._chunks
        if len(chunks) > 1:
            whole = b"".join((memoryview(chunks[0])[self._position :], *chunks[1:]))
            self._chunks = [whole]
            self._position = 0
            return whole
        return chunks[0]


# Hellos


def encode_hello(hello: Hello) -> bytes:
    """The frame of a hello."""
    message = pb.Hello(
        magic=MAGIC,
        protocol=hello.protocol,
        version=hello.version,
        cluster=hello.cluster,
        sender=hello.sender,
        to=hello.to,
        purpose=hello.purpose,
        peer_urls=hello.peer_urls,
    )
    return frame(FrameKind.HELLO, message.SerializeToString())


def decode_hello(kind: int, payload: memoryview) -> Hello:
    """Read the first frame of a connection; PeerProtocolError when it is no hello."""
    try:
        message = _decoded(pb.Hello, payload)
    except PeerProtocolError:
        message = None
    if kind != FrameKind.HELLO or message is None or message.magic != MAGIC:
        raise PeerProtocolError("no hello of a member")
    return Hello(
        message.purpose,
        message.cluster,
        message.sender,
        message.to,
        message.version,
        tuple(message.peer_urls),
        message.protocol,
    )


def encode_welcome(welcome: Welcome) -> bytes:
    """The frame that accepts a hello."""
    message = pb.Welcome(
        protocol=welcome.protocol,
        version=welcome.version,
        cluster=welcome.cluster,
        member=welcome.member,
    )
    return frame(FrameKind.WELCOME, message.SerializeToString())


def encode_refusal(refusal: RefusedError) -> bytes:
    """The frame that refuses a hello."""
    message = pb.Refusal(reason=refusal.reason, text=str(refusal))
    return frame(FrameKind.REFUSED, message.SerializeToString())


def decode_refusal(payload: memoryview) -> RefusedError:
    """Read what encode_refusal wrote."""
    message = _decoded(pb.Refusal, payload)
    return RefusedError(message.reason, message.text)


def decode_welcome(kind: int, payload: memoryview) -> Welcome:
    """Read the answer to a hello; RefusedError when it is a refusal."""
    if kind == FrameKind.REFUSED:
        raise decode_refusal(payload)
    if kind != FrameKind.WELCOME:
        raise PeerProtocolError("no answer of a member")
    message = _decoded(pb.Welcome, payload)
    return Welcome(message.cluster, message.member, message.version, message.protocol)


# Raft messages


def encode_message(message: Message) -> list[bytes]:
    """The frame of a Raft message, in pieces: large data is not copied."""
    encoded = pb.Message(
        kind=message.kind,
        to=message.to,
        sender=message.sender,
        term=message.term,
        log_term=message.log_term,
        index=message.index,
        commit=message.commit,
        reject=message.reject,
        hint=message.hint,
        context=message.context,
    )
    total = 0
    for entry in message.entries:
        size = len(entry.data)
        total += size
        encoded.entries.add(term=entry.term, index=entry.index, kind=entry.kind, size=size)
    snapshot = message.snapshot
    if snapshot is not None:
        conf = snapshot.conf_state
        encoded.snapshot.index = snapshot.index
        encoded.snapshot.term = snapshot.term
        encoded.snapshot.voters.extend(conf.voters)
        encoded.snapshot.learners.extend(conf.learners)
        encoded.snapshot.outgoing.extend(conf.outgoing)
        encoded.snapshot.learners_next.extend(conf.learners_next)
        encoded.snapshot.auto_leave = conf.auto_leave
    body = encoded.SerializeToString()
    length = _LENGTH_BYTES + len(body) + total
    head = _pack_message_head(length, FrameKind.MESSAGE, len(body)) + body
    if not total:
        return [head]
    pieces = [head, *[entry.data for entry in message.entries]]
    return pieces if total >= _JOINED_BYTES * len(message.entries) else [b"".join(pieces)]


_KINDS: Final = {int(kind): kind for kind in MessageKind}
_ENTRY_KINDS: Final = {int(kind): kind for kind in EntryKind}


def decode_message(payload: memoryview) -> Message:
    """Read the payload of a MESSAGE frame.

    PeerProtocolError when it is none, or has an unknown kind or a number out of range.
    """
    if len(payload) < _LENGTH_BYTES:
        raise PeerProtocolError("a message without a head")
    length = _unpack_length(payload)[0]
    if length > min(len(payload) - _LENGTH_BYTES, MAX_MESSAGE_HEAD_BYTES):
        raise PeerProtocolError(f"a message with a head of {length} bytes")
    end = _LENGTH_BYTES + length
    encoded = _decoded(pb.Message, payload[_LENGTH_BYTES:end])
    data = payload[end:]
    kind = _KINDS.get(encoded.kind)
    if kind is None:
        raise PeerProtocolError(f"a message of unknown kind {encoded.kind}")
    term, log_term = encoded.term, encoded.log_term
    index, commit, hint = encoded.index, encoded.commit, encoded.hint
    if max(term, log_term, index, commit, hint) > MAX_NUMBER:
        raise PeerProtocolError("a term or an index out of range")
    return Message(
        kind,
        encoded.to,
        encoded.sender,
        term,
        log_term,
        index,
        commit,
        encoded.reject,
        hint,
        _decode_entries(encoded.entries, data) if encoded.entries or data else (),
        encoded.context,
        _decode_snapshot(encoded.snapshot) if encoded.HasField("snapshot") else None,
    )


def _decode_entries(encoded: Sequence[pb.Entry], data: memoryview) -> tuple[Entry, ...]:
    entries = []
    start = 0
    for entry in encoded:
        kind = _ENTRY_KINDS.get(entry.kind)
        if kind is None:
            raise PeerProtocolError(f"an entry of unknown kind {entry.kind}")
        term, index = entry.term, entry.index
        if term > MAX_NUMBER or index > MAX_NUMBER:
            raise PeerProtocolError("a term or an index out of range")
        end = start + entry.size
        entries.append(Entry(term, index, bytes(data[start:end]), kind))
        start = end
    if start != len(data):
        raise PeerProtocolError("data and the sizes of entries do not agree")
    return tuple(entries)


def _decode_snapshot(encoded: pb.Snapshot) -> Snapshot:
    if encoded.index > MAX_NUMBER or encoded.term > MAX_NUMBER:
        raise PeerProtocolError("a term or an index out of range")
    conf = ConfState(
        tuple(encoded.voters),
        tuple(encoded.learners),
        tuple(encoded.outgoing),
        tuple(encoded.learners_next),
        encoded.auto_leave,
    )
    return Snapshot(encoded.index, encoded.term, conf)


# Calls


def encode_call(call: Call) -> bytes:
    """The frame of a call."""
    message = pb.Call(
        number=call.number,
        method=call.method,
        timeout_ms=min(int(call.timeout * 1000) + 1, (1 << 32) - 1),
        body=call.body,
    )
    return frame(FrameKind.CALL, message.SerializeToString())


def decode_call(payload: memoryview) -> Call:
    """Read the payload of a CALL frame."""
    message = _decoded(pb.Call, payload)
    return Call(message.number, message.method, message.timeout_ms / 1000, message.body)


def encode_answer(answer: Answer) -> bytes:
    """The frame of an answer."""
    message = pb.Answer(
        number=answer.number,
        failed=answer.error is not None,
        body=answer.body,
        error=answer.error or "",
    )
    return frame(FrameKind.ANSWER, message.SerializeToString())


def decode_answer(payload: memoryview) -> Answer:
    """Read the payload of an ANSWER frame."""
    message = _decoded(pb.Answer, payload)
    return Answer(message.number, message.body, message.error if message.failed else None)


_Decoded = TypeVar("_Decoded", bound=ProtobufMessage)


def _decoded(kind: type[_Decoded], payload: memoryview) -> _Decoded:
    try:
        return kind.FromString(bytes(payload))
    except DecodeError:
        raise PeerProtocolError(f"bytes that are no {kind.__name__}") from None
