"""`endpoint`: health, status and hashkv of each member."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import click

from rusd.cli.ctl import fields
from rusd.cli.ctl.client import Client, Failure
from rusd.cli.ctl.commands import command, group
from rusd.cli.ctl.errors import Exit
from rusd.cli.ctl.flags import INT, flag, switch
from rusd.cli.ctl.methods import ALARM, HASH_KV, MEMBER_LIST, RANGE, STATUS
from rusd.cli.ctl.printing import plain
from rusd.cli.ctl.session import Session
from rusd.cli.ctl.table import Table
from rusd.cli.snapshot import human
from rusd.duration import format_duration
from rusd.pb import rpc_pb2 as rpc

_DENIED = "etcdserver: permission denied"
_MOST_AT_ONCE = 16

T = TypeVar("T")


def cluster_flag() -> click.Option:
    """Return the flag that asks all members, of the commands that ask each member."""
    return switch("cluster", "All members that the cluster knows.")


def named_endpoints(session: Session, cluster: bool) -> list[str]:
    """Return the endpoints that are meant; raise Exit if the cluster does not tell its own."""
    before = click.get_current_context().parent  # the flag may stand before the command's name
    if not (cluster or (before is not None and before.params.get("cluster"))):
        return list(session.settings.endpoints)
    try:
        answer = session.call(MEMBER_LIST, rpc.MemberListRequest(linearizable=True))
    except Failure as error:
        raise Exit(
            f"failed to fetch endpoints from etcd cluster member list: {error.text}"
        ) from None
    return [url for each in answer.members for url in each.clientURLs]


def ask_each(
    session: Session, endpoints: list[str], ask: Callable[[Client], T]
) -> list[T | Failure]:
    """Ask each member by itself, at once; return answers and failures in their order."""

    def asked(endpoint: str) -> T | Failure:
        client = session.client.only(endpoint)
        try:
            return ask(client)
        except Failure as error:
            return error
        finally:
            client.close()

    _ = session.client
    with ThreadPoolExecutor(_MOST_AT_ONCE) as threads:
        return list(threads.map(asked, endpoints))


@command("health", "", cluster_flag())
def health(session: Session, words: tuple[str, ...], cluster: bool) -> None:  # noqa: ARG001
    """See whether each member can commit."""
    endpoints = named_endpoints(session, cluster)
    table = Table(("Endpoint", "Health", "Took", "Error"))
    rows: list[dict[str, Any]] = []
    for endpoint, found in zip(endpoints, ask_each(session, endpoints, _examined), strict=True):
        assert not isinstance(found, Failure)
        took, error = found
        shown = format_duration(took)
        row = {"endpoint": endpoint, "health": not error, "took": shown}
        rows.append({**row, "error": error} if error else row)
        table.rows.append((endpoint, str(not error).lower(), shown, error))
        table.fields += [
            f'"Endpoint" : {fields.quoted(endpoint)}',
            f'"Health" : {str(not error).lower()}',
            f'"Took" : {shown}',
            f'"Error" : {error}',
            "",
        ]
    if session.printer.name == "simple":
        for endpoint, _, shown, error in table.rows:
            if error:
                text = f"{endpoint} is unhealthy: failed to commit proposal: {error}"
                click.secho(text, err=True, fg="red")
            else:
                text = f"{endpoint} is healthy: successfully committed proposal: took = {shown}"
                click.secho(text, fg="green")
    else:
        session.printer.endpoints(table, rows)
    if any("error" in row for row in rows):
        raise Exit("unhealthy cluster")


def _examined(client: Client) -> tuple[float, str]:
    """Seconds that a linearizable read took, and what is wrong."""
    began = time.monotonic()
    try:
        client.call(RANGE, rpc.RangeRequest(key=b"health"))
    except Failure as error:
        if error.text != _DENIED:  # who may not read the key has yet seen that there is a quorum
            return time.monotonic() - began, error.text
    took = time.monotonic() - began
    try:
        answer = client.call(ALARM, rpc.AlarmRequest())
    except Failure as error:
        return took, "" if error.text == _DENIED else "Unable to fetch the alarm list"
    names = sorted({rpc.AlarmType.Name(each.alarm) for each in answer.alarms})
    return took, "".join(("Active Alarm(s): ", *(f"{each} " for each in names))) if names else ""


@command("status", "", cluster_flag())
def status(session: Session, words: tuple[str, ...], cluster: bool) -> None:  # noqa: ARG001
    """Show version, size, leader and Raft's indexes of each member."""
    endpoints = named_endpoints(session, cluster)
    table = Table(
        (
            "Endpoint", "ID", "Version", "DB Size", "Is Leader", "Is Learner", "Raft Term",
            "Raft Index", "Raft Applied Index", "Errors",
        )
    )  # fmt: skip
    rows = []
    failed = False
    answers = ask_each(session, endpoints, lambda client: client.call(STATUS, rpc.StatusRequest()))
    for endpoint, answer in zip(endpoints, answers, strict=True):
        if isinstance(answer, Failure):
            failed = True
            text = f"Failed to get the status of endpoint {endpoint} ({answer.text})"
            click.echo(text, err=True)
            continue
        rows.append({"Endpoint": endpoint, "Status": plain(answer)})
        table.rows.append(
            (
                endpoint,
                f"{answer.header.member_id:x}",
                answer.version,
                human(answer.dbSize),
                str(answer.leader == answer.header.member_id).lower(),
                str(answer.isLearner).lower(),
                str(answer.raftTerm),
                str(answer.raftIndex),
                str(answer.raftAppliedIndex),
                ", ".join(answer.errors),
            )
        )
        table.fields += [
            *fields.header(answer),
            f'"Version" : {fields.quoted(answer.version)}',
            f'"DBSize" : {answer.dbSize}',
            f'"Leader" : {answer.leader}',
            f'"IsLearner" : {str(answer.isLearner).lower()}',
            f'"RaftIndex" : {answer.raftIndex}',
            f'"RaftTerm" : {answer.raftTerm}',
            f'"RaftAppliedIndex" : {answer.raftAppliedIndex}',
            f'"Errors" : [{" ".join(answer.errors)}]',
            f'"Endpoint" : {fields.quoted(endpoint)}',
            "",
        ]
    session.printer.endpoints(table, rows)
    if failed:
        raise Exit


@command(
    "hashkv",
    "",
    flag("rev", INT, 0, "The last revision to hash; all of them by default."),
    cluster_flag(),
)
def hashkv(session: Session, words: tuple[str, ...], rev: int, cluster: bool) -> None:  # noqa: ARG001
    """Hash the history of keys at each member."""
    endpoints = named_endpoints(session, cluster)
    table = Table(("Endpoint", "Hash"))
    rows = []
    last: Failure | None = None
    request = rpc.HashKVRequest(revision=rev)
    answers = ask_each(session, endpoints, lambda client: client.call(HASH_KV, request))
    for endpoint, answer in zip(endpoints, answers, strict=True):
        if isinstance(answer, Failure):
            last = answer
            click.echo(f"Failed to get the hash of endpoint {endpoint} ({answer.text})", err=True)
            continue
        rows.append({"Endpoint": endpoint, "HashKV": plain(answer)})
        table.rows.append((endpoint, str(answer.hash)))
        table.fields += [
            *fields.header(answer),
            f'"Endpoint" : {fields.quoted(endpoint)}',
            f'"Hash" : {answer.hash}',
            "",
        ]
    session.printer.endpoints(table, rows)
    if last is not None:
        raise last


endpoint = group(
    "endpoint",
    "Members, asked one by one.",
    *(health, status, hashkv),
    flags=(cluster_flag(),),
)
