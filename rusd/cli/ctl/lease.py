"""`lease`: grant, revoke, timetolive, list, keep-alive."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Final

import click

from rusd.cli.ctl.client import Failure
from rusd.cli.ctl.commands import command, group
from rusd.cli.ctl.errors import Code, Exit, bad_arguments
from rusd.cli.ctl.flags import parse_int, switch
from rusd.cli.ctl.methods import GRANT, KEEP_ALIVE, LEASES, REVOKE, TIME_TO_LIVE
from rusd.cli.ctl.session import Session
from rusd.pb import rpc_pb2 as rpc

_NOT_FOUND: Final = "etcdserver: requested lease not found"
_LEAST_WAIT_SECONDS: Final = 0.1


def lease_id(text: str) -> int:
    """Return the number that `text` is in hexadecimal; raise Exit if it is none."""
    try:
        return parse_int(text, 16)
    except ValueError as error:
        raise bad_arguments(f"bad lease ID arg ({error}), expecting ID in Hex") from None


def shown(number: int) -> str:
    """Return a lease's id as etcd writes it."""
    return f"{number & (1 << 64) - 1:016x}"


@command("grant", "<ttl>")
def grant(session: Session, words: tuple[str, ...]) -> None:
    """Create a lease of some seconds."""
    if len(words) != 1:
        raise bad_arguments("lease grant command needs TTL argument")
    try:
        ttl = parse_int(words[0], 10)
    except ValueError as error:
        raise bad_arguments(f"bad TTL ({error})") from None
    try:
        answer = session.call(GRANT, rpc.LeaseGrantRequest(TTL=ttl))
    except Failure as error:
        raise Exit(f"failed to grant lease ({error.text})") from None
    session.printer.show(
        answer, lambda: f"lease {shown(answer.ID)} granted with TTL({answer.TTL}s)\n"
    )


@command("revoke", "<leaseID>")
def revoke(session: Session, words: tuple[str, ...]) -> None:
    """End a lease, and delete its keys."""
    if len(words) != 1:
        raise bad_arguments("lease revoke command needs 1 argument")
    number = lease_id(words[0])
    try:
        answer = session.call(REVOKE, rpc.LeaseRevokeRequest(ID=number))
    except Failure as error:
        raise Exit(f"failed to revoke lease ({error.text})") from None
    session.printer.show(answer, lambda: f"lease {shown(number)} revoked\n")


@command("timetolive", "<leaseID> [options]", switch("keys", "Also the keys of the lease."))
def timetolive(session: Session, words: tuple[str, ...], keys: bool) -> None:
    """Show how long a lease still lives."""
    if len(words) != 1:
        raise bad_arguments("lease timetolive command needs lease ID as argument")
    number = lease_id(words[0])
    answer = session.call(TIME_TO_LIVE, rpc.LeaseTimeToLiveRequest(ID=number, keys=keys))

    def simple() -> bytes:
        if answer.grantedTTL == 0 and answer.TTL == -1:
            return f"lease {shown(number)} already expired\n".encode()
        text = f"lease {shown(answer.ID)} granted with TTL({answer.grantedTTL}s), "
        line = (text + f"remaining({answer.TTL}s)").encode()
        if keys:
            line += b", attached keys([" + b" ".join(answer.keys) + b"])"
        return line + b"\n"

    session.printer.show(answer, simple)


@command("list", "")
def list_leases(session: Session, words: tuple[str, ...]) -> None:  # noqa: ARG001
    """List the leases that live."""
    answer = session.call(LEASES, rpc.LeaseLeasesRequest())
    session.printer.show(
        answer,
        lambda: "".join(
            (
                f"found {len(answer.leases)} leases\n",
                *(f"{shown(each.ID)}\n" for each in answer.leases),
            )
        ),
    )


@command(
    "keep-alive",
    "[options] <leaseID>",
    switch("once", "Once, and print what its time is now."),
)
def keep_alive(session: Session, words: tuple[str, ...], once: bool) -> None:
    """Renew a lease again and again, until it or this command ends."""
    if len(words) != 1:
        raise bad_arguments("lease keep-alive command needs lease ID as argument")
    number = lease_id(words[0])
    for answer in renewals(session, number, threading.Event()):
        if answer.TTL <= 0:
            if once:
                raise Exit(_NOT_FOUND, Code.BAD_CONNECTION)
            if session.printer.name == "simple":
                click.echo(f"lease {shown(number)} expired or revoked.")
            return
        session.printer.show(answer, partial(_kept, number, answer))
        if once:
            return


def _kept(number: int, answer: rpc.LeaseKeepAliveResponse) -> str:
    return f"lease {shown(number)} keepalived with TTL({answer.TTL})\n"


def renewals(
    session: Session, number: int, stop: threading.Event
) -> Iterator[rpc.LeaseKeepAliveResponse]:
    """Renew a lease each third of its time, until `stop`; a lost member is replaced by another.

    Raises Failure when none has answered for as long as the lease lives.
    """
    client = session.client
    ttl = session.settings.command_timeout
    heard = time.monotonic()
    request = rpc.LeaseKeepAliveRequest(ID=number)
    while True:
        stream = client.open(KEEP_ALIVE)
        stream.send(request)
        try:
            for answer in stream:
                ttl, heard = answer.TTL, time.monotonic()
                yield answer
                if stop.wait(max(ttl / 3, _LEAST_WAIT_SECONDS)):
                    return
                stream.send(request)
        except Failure as error:
            if not error.lost or time.monotonic() - heard > ttl:
                raise
            client.leave()
        finally:
            stream.close()


lease = group("lease", "Leases.", grant, revoke, timetolive, list_leases, keep_alive)
