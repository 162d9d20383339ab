"""JSON requests to a member, and answers made comparable with those of another member."""

import http.client
import json
import re
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from tests.members import Member

SECONDS = 30.0
CURL = ("curl", "--silent", "--no-buffer", "--noproxy", "*", "--max-time", str(SECONDS))

_OWN = frozenset(
    (
        # Ids and terms of a cluster, and what a member measures of itself.
        *("cluster_id", "member_id", "raft_term", "leader", "raftIndex", "raftTerm"),
        *("raftAppliedIndex", "dbSize", "dbSizeInUse", "hash", "token", "blob"),
        *("remaining_bytes", "clientURLs", "peerURLs"),
        # Fields that etcd has since 3.6.
        *("storageVersion", "dbSizeQuota", "downgradeInfo", "hash_revision"),
    )
)


class Answer(NamedTuple):
    """What a request came back with."""

    status: int
    kind: str
    """Its content type."""
    body: object


def post(
    member: Member, path: str, body: str | bytes, headers: Mapping[str, str] | None = None
) -> Answer:
    """The answer to one request, as it came."""
    status, kind, _, data = ask(member, "POST", path, body, headers)
    return Answer(status, kind, _content(data))


def ask(
    member: Member,
    method: str,
    path: str,
    body: str | bytes = b"",
    headers: Mapping[str, str] | None = None,
    port: int | None = None,
) -> tuple[int, str, dict[str, str], bytes]:
    """Status, content type, headers and body of an answer."""
    port = port or member.client_port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        data = body.encode() if isinstance(body, str) else body
        connection.request(method, path, data, dict(headers or {}))
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found.get("content-type", ""), found, answer.read()
    finally:
        connection.close()


def lines(
    member: Member, path: str, body: str, count: int, headers: Mapping[str, str] | None = None
) -> list[object]:
    """The first lines of a stream, as curl prints them while the stream goes on."""
    given = [f"-H{name}: {value}" for name, value in (headers or {}).items()]
    url = f"{member.client_url}{path}"
    command = [*CURL, "--data", body]
    with subprocess.Popen([*command, *given, url], stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        try:
            return [json.loads(line) for _, line in zip(range(count), curl.stdout, strict=False)]
        finally:
            curl.kill()


def _content(data: bytes) -> object:
    """One JSON value, or those of lines."""
    text = data.decode()
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def comparable(content: object) -> object:
    """Content without what differs between two members that behave alike."""
    if isinstance(content, list):
        return [comparable(each) for each in content]
    if isinstance(content, str) and content.isdecimal() and len(content) > 15:
        return "<id>"
    if not isinstance(content, dict):
        return content
    kept = {name: comparable(value) for name, value in content.items() if name not in _OWN}
    if "." in str(kept.get("version")):  # a program's, not a key's
        del kept["version"]
    if isinstance(leases := kept.get("leases"), list):
        leases.sort(key=str)  # they have no order
    if isinstance(message := kept.get("message"), str):
        # protobuf for Go puts a space of one kind or the other there, so that nobody relies on it.
        kept["message"] = re.sub(r"^proto:\s+", "proto: ", message)
    return kept
