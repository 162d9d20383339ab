"""A client of a cluster: it asks one member, and another one when that one is lost.

What changes nothing is asked again, of the next member. What changes something is sent once: when
the connection is lost under it, nobody knows whether it was done, and the caller is told so.
"""

import queue
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic

try:
    import grpc
except ModuleNotFoundError:
    from rusd.cli.ctl.errors import Exit

    raise Exit("this needs grpcio: pip install 'rusd[client]'") from None

from rusd.cli.ctl.methods import AUTHENTICATE, Method, Request, Response
from rusd.cli.ctl.settings import Settings
from rusd.pb.rpc_pb2 import AuthenticateRequest

TIMED_OUT: Final = "context deadline exceeded"
_AGAIN_SECONDS: Final = 0.05
_NOT_SENT: Final = "failed to connect to all addresses"
"""In what gRPC says when a request did not leave this process."""
_AUTH_OFF: Final = "etcdserver: authentication is not enabled"
_STALE: Final = ("etcdserver: invalid auth token", "etcdserver: revision of auth store is old")


class Failure(Exception):  # noqa: N818
    """A call that got no answer, or an error for one; `text` is what etcdctl prints."""

    def __init__(self, text: str, code: grpc.StatusCode | None = None) -> None:
        """`lost` is whether the member may be gone, or has no leader."""
        super().__init__(text)
        self.text = text
        self.lost = code == grpc.StatusCode.UNAVAILABLE


def failure(error: Any) -> Failure:
    """Return what an RpcError means to the user."""
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure(TIMED_OUT, code)
    if details.startswith(("etcdserver: ", "auth: ", "election: ", "session: ")):
        return Failure(details, code)
    name = "".join(part.capitalize() for part in code.name.split("_"))
    return Failure(f"rpc error: code = {name} desc = {details}", code)


def address(text: str, settings: Settings) -> tuple[str, bool]:
    """Return what gRPC is to dial for an endpoint, and whether by TLS."""
    url = urllib.parse.urlsplit(text if "://" in text else f"//{text}")
    target = url.netloc or text
    if url.scheme in ("unix", "unixs"):
        target = f"unix:{url.path}" if url.path else url.netloc
    if url.scheme:
        return target, url.scheme in ("https", "unixs")
    wants_tls = (
        settings.cacert,
        settings.cert,
        settings.key,
        settings.insecure_skip_tls_verify,
        not settings.insecure_transport,
    )
    return target, any(wants_tls)


@dataclass(slots=True)
class _Endpoint:
    """A member's address, and the channel to it once there is one."""

    text: str
    channel: grpc.Channel | None = None


class Client:
    """Calls on a cluster."""

    def __init__(self, settings: Settings, endpoints: Sequence[str] | None = None) -> None:
        """Read the certificates; raises OSError and ValueError. Connects with the first call."""
        self.settings = settings
        if bool(settings.cert) != bool(settings.key):
            raise ValueError(
                f"KeyFile and CertFile must both be present"
                f"[key: {settings.key}, cert: {settings.cert}]"
            )
        self._files = tuple(
            Path(path).read_bytes() if path else None
            for path in (settings.cacert, settings.key, settings.cert)
        )
        self._lock = threading.Lock()
        self.endpoints = [_Endpoint(each) for each in endpoints or settings.endpoints]
        self._credentials: tuple[str, str] | None = None
        self.metadata: list[tuple[str, str]] = (
            [("token", settings.auth_jwt_token)] if settings.auth_jwt_token else []
        )
        """What tells the members who asks."""

    def close(self) -> None:
        """End all connections and what runs over them."""
        for endpoint in self.endpoints:
            if endpoint.channel is not None:
                endpoint.channel.close()
                endpoint.channel = None

    def only(self, endpoint: str) -> "Client":
        """Return a client of one member, with the same login; the caller closes it."""
        client = Client(self.settings, [endpoint])
        client.metadata = self.metadata
        client._credentials = self._credentials
        return client

    def log_in(self, user: str, password: str) -> None:
        """Get a token; without auth there is none and none is needed. Raises Failure."""
        self._credentials = user, password
        self.metadata = []
        request = AuthenticateRequest(name=user, password=password)
        try:
            answer = self.call(AUTHENTICATE, request)
        except Failure as error:
            if error.text != _AUTH_OFF:
                raise
            return
        self.metadata = [("token", answer.token)]

    def call(
        self,
        method: Method[Request, Response],
        request: Request,
        seconds: float | None = None,
    ) -> Response:
        """Ask and wait for `seconds`, or the command's timeout; raises Failure."""
        limit = self.settings.command_timeout if seconds is None else seconds
        deadline = time.monotonic() + limit
        renewed = False
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise Failure(TIMED_OUT, grpc.StatusCode.DEADLINE_EXCEEDED)
            try:
                answer: Response = self._channel().unary_unary(
                    method.path,
                    request_serializer=method.request.SerializeToString,
                    response_deserializer=method.response.FromString,
                )(request, timeout=remaining, metadata=self.metadata)
                return answer
            except grpc.RpcError as error:
                found = failure(error)
            if found.text in _STALE and self._credentials and not renewed:
                renewed = True
                self.log_in(*self._credentials)
            elif found.lost and (method.repeatable or _NOT_SENT in found.text):
                self.leave()
            else:
                raise found

    def open(self, method: Method[Request, Response]) -> "Stream[Request, Response]":
        """Open a stream both ways, which has no time limit."""
        return Stream(self._channel(), method, self.metadata)

    def listen(
        self,
        method: Method[Request, Response],
        request: Request,
        seconds: float | None = None,
    ) -> Iterator[Response]:
        """Ask for a stream of answers, all within `seconds` if given; iteration raises Failure.

        Somebody has to begin to answer within the command's timeout.
        """
        began = time.monotonic()
        deadline = began + self.settings.command_timeout
        heard = False
        while True:
            left = None if seconds is None else max(began + seconds - time.monotonic(), 0.0)
            call = self._channel().unary_stream(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )(request, timeout=left, metadata=self.metadata)
            try:
                for answer in _answers(call):
                    heard = True
                    yield answer
                return
            except Failure as error:
                if heard or not error.lost or time.monotonic() > deadline:
                    raise
                self.leave()

    def _channel(self) -> grpc.Channel:
        """Return the channel to the member that is asked now."""
        with self._lock:
            endpoint = self.endpoints[0]
            if endpoint.channel is None:
                endpoint.channel = self.dial(endpoint.text, grpc)
            return endpoint.channel

    def leave(self) -> None:
        """Ask the next member from now on, after a moment."""
        with self._lock:
            lost = self.endpoints.pop(0)
            self.endpoints.append(lost)
            if lost.channel is not None:
                lost.channel.close()
                lost.channel = None
        time.sleep(_AGAIN_SECONDS)

    def dial(self, text: str, kind: Any) -> Any:
        """Return a channel to an endpoint, of `grpc` or of `grpc.aio`."""
        settings = self.settings
        target, secure = address(text, settings)
        options: list[tuple[str, str | int]] = [
            ("grpc.max_receive_message_length", settings.max_recv_bytes or -1),
            ("grpc.max_send_message_length", settings.max_request_bytes or -1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.keepalive_time_ms", max(int(settings.keepalive_time * 1000), 10_000)),
            ("grpc.keepalive_timeout_ms", max(int(settings.keepalive_timeout * 1000), 1)),
            # What it is to gRPC: how long one attempt to connect may take.
            ("grpc.min_reconnect_backoff_ms", max(int(settings.dial_timeout * 1000), 100)),
        ]
        if not secure:
            return kind.insecure_channel(target, options=options)
        authority, key, certificate = self._files
        if settings.insecure_skip_tls_verify:
            authority, name = self._whoever(urllib.parse.urlsplit(f"//{target}"))
            options.append(("grpc.ssl_target_name_override", name))
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        return kind.secure_channel(target, credentials, options=options)

    def _whoever(self, url: urllib.parse.SplitResult) -> tuple[bytes, str]:
        """Return the certificate that the member shows, and a name in it.

        gRPC has no way not to verify; to trust the very certificate that is shown amounts to it.
        """
        import socket

        from cryptography import x509

        host, port = url.hostname or "", url.port or 443
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if self.settings.cert:
            context.load_cert_chain(self.settings.cert, self.settings.key)
        with (
            socket.create_connection((host, port), self.settings.dial_timeout) as plain,
            context.wrap_socket(plain, server_hostname=host) as shown,
        ):
            der = shown.getpeercert(binary_form=True) or b""
        certificate = x509.load_der_x509_certificate(der)
        names = [host]
        with suppress(x509.ExtensionNotFound):
            alternative = certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            ).value
            names = alternative.get_values_for_type(x509.DNSName) or [
                str(each) for each in alternative.get_values_for_type(x509.IPAddress)
            ]
        return ssl.DER_cert_to_PEM_cert(der).encode(), names[0]


class Stream(Generic[Request, Response]):
    """A stream both ways: requests are sent when they come, answers are iterated over."""

    def __init__(
        self,
        channel: grpc.Channel,
        method: Method[Request, Response],
        metadata: list[tuple[str, str]],
    ) -> None:
        """Open it."""
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._call = channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )(iter(self._requests.get, None), metadata=metadata)

    def send(self, request: Request) -> None:
        """Send a request."""
        self._requests.put(request)

    def close(self) -> None:
        """End it."""
        self._requests.put(None)
        self._call.cancel()

    def __iter__(self) -> Iterator[Response]:
        """Iterate over the answers; raises Failure when the stream breaks."""
        return _answers(self._call)


def _answers(call: Any) -> Iterator[Any]:
    try:
        yield from call
    except grpc.RpcError as error:
        raise failure(error) from None
