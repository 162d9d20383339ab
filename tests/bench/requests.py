"""The requests that the load sends, as gRPC messages: five bytes of prefix, then the protobuf."""

import struct

from google.protobuf.message import Message

from rusd.pb import rpc_pb2 as rpc

VALUE = b"x" * 256
KEY_SIZE = 31
# Ten of a mark stand for a decimal number that the load generator writes in their place.
CALL_NUMBER = b"@" * 10
RUNNING_NUMBER = b"#" * 10
# A run of this, ten bytes or more, stands for bytes that differ from call to call.
RANDOM = b"$"


def framed(message: Message) -> bytes:
    """The message as it stands in DATA frames."""
    body = message.SerializeToString()
    return b"\0" + struct.pack(">I", len(body)) + body


def key(folder: str, number: int | bytes) -> bytes:
    """A key of 31 bytes: the prefix of the folder, then ten digits or a mark."""
    digits = b"%010d" % number if isinstance(number, int) else number
    return f"/bench/{folder}/".encode().ljust(KEY_SIZE - len(digits), b"-") + digits


def put(folder: str, number: int | bytes = CALL_NUMBER, value: bytes = VALUE) -> bytes:
    """A put, of 256 bytes unless told."""
    return framed(rpc.PutRequest(key=key(folder, number), value=value))


def puts(folder: str, size: int) -> bytes:
    """`size` puts of different keys in one transaction, to load data quickly."""
    request = rpc.TxnRequest()
    for _ in range(size):
        request.success.add().request_put.CopyFrom(
            rpc.PutRequest(key=key(folder, RUNNING_NUMBER), value=VALUE)
        )
    return framed(request)


def guarded_put(folder: str, number: int | bytes, revision: int) -> bytes:
    """Kubernetes' write: if the key's mod revision is this one, put it, else get it."""
    name = key(folder, number)
    request = rpc.TxnRequest()
    compare = request.compare.add()
    compare.key = name
    compare.target = rpc.Compare.MOD
    compare.mod_revision = revision
    request.success.add().request_put.CopyFrom(rpc.PutRequest(key=name, value=VALUE))
    request.failure.add().request_range.CopyFrom(rpc.RangeRequest(key=name))
    return framed(request)


def following_puts(folder: str) -> tuple[list[bytes], int]:
    """Guarded puts with room for a revision of 1 to 5 bytes, and where in them it stands."""
    bodies = [guarded_put(folder, CALL_NUMBER, size and 1 << 7 * size) for size in range(5)]
    return bodies, bodies[0].index(CALL_NUMBER) + len(CALL_NUMBER) + 1


def get(folder: str, number: int, *, serializable: bool = False) -> bytes:
    """A range of one key."""
    return framed(rpc.RangeRequest(key=key(folder, number), serializable=serializable))


def span(folder: str, end: int, *, limit: int = 0, count_only: bool = False) -> bytes:
    """A range of the folder's keys from number 0 to `end`, which is not in it."""
    return framed(
        rpc.RangeRequest(
            key=key(folder, 0), range_end=key(folder, end), limit=limit, count_only=count_only
        )
    )


def watch(folder: str) -> bytes:
    """The creation of a watcher of the folder, with an id that the server chooses."""
    prefix = f"/bench/{folder}/".encode()
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    return framed(
        rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=prefix, range_end=end))
    )


def lease_grant() -> bytes:
    """A lease of an hour, with an id that the server chooses."""
    return framed(rpc.LeaseGrantRequest(TTL=3600))


def keep_alive(lease: int) -> bytes:
    """One keep-alive."""
    return framed(rpc.LeaseKeepAliveRequest(ID=lease))
