"""Downloads a backup from a member, with grpcio."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import grpc

from rusd.backup.reading import Advance, DigestError
from rusd.pb.rpc_pb2 import (
    AuthenticateRequest,
    AuthenticateResponse,
    SnapshotRequest,
    SnapshotResponse,
)

_SNAPSHOT: Final = "/etcdserverpb.Maintenance/Snapshot"
_AUTHENTICATE: Final = "/etcdserverpb.Auth/Authenticate"
_DIGEST_BYTES: Final = 32
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    # A server may take its time to begin; that it lives is known all the same.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.enable_http_proxy", 0),
)


class DownloadError(Exception):
    """The member gives no backup; the text says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A member, and how to speak with it."""

    target: str
    """host:port"""
    secure: bool = False
    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str = ""
    password: str = ""


def download(
    endpoint: Endpoint, path: Path, begin: Callable[[int], Advance], seconds: float | None = None
) -> int:
    """Saves a backup at `path`, which is there once it is whole, checked and on disk.

    `begin` is told the bytes that come, about, and returns who is told of them. All is to be done
    within `seconds`. Returns the file's bytes. Raises DownloadError, DigestError and OSError.
    """
    unfinished = path.with_name(path.name + ".part")
    try:
        with _connected(endpoint) as channel, unfinished.open("wb") as file:
            answers = channel.unary_stream(
                _SNAPSHOT,
                request_serializer=SnapshotRequest.SerializeToString,
                response_deserializer=SnapshotResponse.FromString,
            )(SnapshotRequest(), timeout=seconds, metadata=_token(channel, endpoint))
            size = 0
            # The last 32 bytes are the digest of all that came before them.
            digest, last, advance = sha256(), b"", None
            for answer in answers:
                if advance is None:
                    advance = begin(answer.remaining_bytes + len(answer.blob))
                file.write(answer.blob)
                size += len(answer.blob)
                advance(len(answer.blob))
                held = last + answer.blob
                digest.update(held[:-_DIGEST_BYTES])
                last = held[-_DIGEST_BYTES:]
            if last != digest.digest():
                raise DigestError("what was received is not what was sent: its SHA-256 differs")
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except grpc.RpcError as error:
        unfinished.unlink(missing_ok=True)
        raise DownloadError(_reason(error)) from None
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return size


@contextmanager
def _connected(endpoint: Endpoint) -> Iterator[grpc.Channel]:
    if endpoint.secure:
        credentials = grpc.ssl_channel_credentials(
            *(
                None if path is None else path.read_bytes()
                for path in (endpoint.cacert, endpoint.key, endpoint.cert)
            )
        )
        channel = grpc.secure_channel(endpoint.target, credentials, options=_OPTIONS)
    else:
        channel = grpc.insecure_channel(endpoint.target, options=_OPTIONS)
    with channel:
        yield channel


def _token(channel: grpc.Channel, endpoint: Endpoint) -> list[tuple[str, str]]:
    """Metadata that says who asks."""
    if not endpoint.user:
        return []
    request = AuthenticateRequest(name=endpoint.user, password=endpoint.password)
    answer: AuthenticateResponse = channel.unary_unary(
        _AUTHENTICATE,
        request_serializer=AuthenticateRequest.SerializeToString,
        response_deserializer=AuthenticateResponse.FromString,
    )(request, timeout=_LOGIN_SECONDS)
    return [("token", answer.token)]


_LOGIN_SECONDS: Final = 30.0


def _reason(error: Any) -> str:
    return f"{error.details()} ({error.code().name})"
