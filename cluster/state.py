"""What the members of a cluster say of themselves over the client API, and a table of it."""

import http.client
import shutil
import ssl
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click
import grpc
from google.protobuf.message import Message

from rusd.pb import rpc_pb2 as rpc

_ANSWER_SECONDS = 1.0
_HEADINGS = ("NAME", "ENDPOINT", "ROLE", "HEALTH", "TERM", "INDEX", "REVISION", "DB SIZE", "ID")

Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Row:
    """One member: what it answered (None: nothing), and in a word how it is."""

    name: str
    url: str
    status: rpc.StatusResponse | None
    health: str

    @property
    def role(self) -> str:
        """leader, follower or learner, or that it knows no leader."""
        if self.status is None:
            return "-"
        if self.status.isLearner:
            return "learner"
        if not self.status.leader:
            return "no leader"
        return "leader" if self.status.leader == self.status.header.member_id else "follower"

    def cells(self) -> tuple[str, ...]:
        """The row's texts, one for each heading."""
        first = (self.name, urllib.parse.urlsplit(self.url).netloc, self.role, self.health)
        if self.status is None:
            return (*first, *"-----")
        status = self.status
        return (
            *(*first, f"{status.raftTerm}", f"{status.raftIndex}", f"{status.header.revision}"),
            *(_size(status.dbSize), f"{status.header.member_id:x}"),
        )


def _size(octets: int) -> str:
    """In etcdctl's units."""
    if octets < 1_000_000:
        return f"{octets / 1e3:.0f} kB"
    return f"{octets / 1e6:.1f} MB" if octets < 1_000_000_000 else f"{octets / 1e9:.1f} GB"


class Observer:
    """Asks members."""

    def __init__(self, certificates: Path | None = None) -> None:
        """`certificates` is a folder of `cluster.tls`, for members with TLS."""
        self._credentials: grpc.ChannelCredentials | None = None
        self._context: ssl.SSLContext | None = None
        if certificates is not None:
            files = [certificates / name for name in ("ca.crt", "client.key", "client.crt")]
            self._credentials = grpc.ssl_channel_credentials(*(f.read_bytes() for f in files))
            self._context = ssl.create_default_context(cafile=files[0])
            self._context.load_cert_chain(files[2], files[1])

    def poll(self, urls: Mapping[str, str], ends: Mapping[str, str]) -> list[Row]:
        """Ask all members by name and client URL, and those that they know besides.

        `ends` has how the processes ended that are gone. Takes a few seconds where some do not
        answer.
        """
        with ThreadPoolExecutor(2 * len(urls)) as threads:
            rows = list(threads.map(lambda name: self._ask(name, urls[name], ends.get(name)), urls))
            listed = next(filter(None, threads.map(self._members, urls.values())), [])
            # A member of ours has told its name, and not yet its URLs, when it first starts.
            others = [
                member
                for member in listed
                if member.name not in urls and not set(member.clientURLs) & set(urls.values())
            ]
            return [*rows, *threads.map(self._ask_other, others)]

    def _ask_other(self, member: rpc.Member) -> Row:
        if not member.clientURLs:
            return Row(member.name or "(added)", member.peerURLs[0], None, "not started")
        return self._ask(member.name, member.clientURLs[0], None)

    def _ask(self, name: str, url: str, end: str | None) -> Row:
        """Ask one member; also if its process ended, for it may have been started by hand."""
        status = self._call(url, "Maintenance/Status", rpc.StatusRequest(), rpc.StatusResponse)
        if status is None:
            return Row(name, url, None, f"ended: {end}" if end else "no answer")
        return Row(name, url, status, self._health(url))

    def _members(self, url: str) -> Sequence[rpc.Member]:
        request = rpc.MemberListRequest()
        listed = self._call(url, "Cluster/MemberList", request, rpc.MemberListResponse)
        return listed.members if listed is not None else []

    def _call(
        self, url: str, method: str, request: Message, response: type[Response]
    ) -> Response | None:
        """One call; None if it fails."""
        with self._channel(urllib.parse.urlsplit(url).netloc) as channel:
            call = channel.unary_unary(
                f"/etcdserverpb.{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=response.FromString,
            )
            try:
                answer = call(request, timeout=_ANSWER_SECONDS)
            except grpc.RpcError:
                return None
            assert isinstance(answer, response)
            return answer

    def _channel(self, target: str) -> grpc.Channel:
        # A subchannel of its own: a shared one waits out its back-off when a member is started
        # again.
        options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
        if self._credentials is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, self._credentials, options)

    def _health(self, url: str) -> str:
        """A word for what /health answers, which takes a linearizable read."""
        target = urllib.parse.urlsplit(url).netloc
        if self._context is None:
            connection = http.client.HTTPConnection(target, timeout=_ANSWER_SECONDS)
        else:
            connection = http.client.HTTPSConnection(
                target, timeout=_ANSWER_SECONDS, context=self._context
            )
        with closing(connection):
            try:
                connection.request("GET", "/health")
                return "healthy" if connection.getresponse().status == 200 else "unhealthy"
            except (OSError, http.client.HTTPException):
                return "unhealthy"


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of equal columns under headings."""
    lines = [_HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


class Screen:
    """Shows the table: on a terminal in place, elsewhere only when roles or health change."""

    def __init__(self) -> None:
        self._lines = 0
        self._shown: list[tuple[str, ...]] | None = None

    def forget(self) -> None:
        """Begin the next table below what else was printed."""
        self._lines = 0

    def show(self, rows: Sequence[Row]) -> None:
        """Print the table, over the last one on a terminal."""
        lines = table(rows)
        if sys.stdout.isatty():
            up = f"\x1b[{self._lines}A" if self._lines else ""
            width = shutil.get_terminal_size().columns  # a line that wraps would count as two
            click.echo(up + "\n".join(f"{line[:width]}\x1b[K" for line in lines) + "\x1b[J")
            self._lines = len(lines)
            return
        what: list[tuple[str, ...]] = [(row.name, row.role, row.health) for row in rows]
        if what != self._shown:
            self._shown = what
            click.echo("\n".join(lines))
