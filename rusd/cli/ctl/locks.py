"""`lock` and `elect`: held as long as this command runs, by a lease that it renews."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

import click

from rusd.cli.ctl.client import Failure
from rusd.cli.ctl.commands import command
from rusd.cli.ctl.errors import Exit, bad_arguments
from rusd.cli.ctl.flags import INT, flag, switch
from rusd.cli.ctl.lease import renewals
from rusd.cli.ctl.methods import CAMPAIGN, GRANT, LOCK, OBSERVE, RESIGN, REVOKE, UNLOCK
from rusd.cli.ctl.printing import Printer
from rusd.cli.ctl.session import Session
from rusd.pb import election_pb2 as election
from rusd.pb import lock_pb2 as lock_messages
from rusd.pb import rpc_pb2 as rpc

_ELECTION_TTL: Final = 60
_LEAVE_SECONDS: Final = 5.0
_FOREVER_SECONDS: Final = 10 * 365 * 24 * 3600.0


class Interrupted(Exception):  # noqa: N818
    """Somebody ends the command, or its lease is gone."""


class _Lease(NamedTuple):
    """The lease of a command that runs on."""

    number: int
    lost: threading.Event
    interrupted: threading.Event
    """Tells of a signal whose exception went nowhere, as one does that is raised in a __del__."""


@contextmanager
def _leased(session: Session, ttl: int) -> Iterator[_Lease]:
    """Hold a lease. SIGINT and SIGTERM raise Interrupted."""
    number = session.call(GRANT, rpc.LeaseGrantRequest(TTL=ttl)).ID
    lost, interrupted, done = threading.Event(), threading.Event(), threading.Event()

    def renew() -> None:
        with suppress(Failure):
            for answer in renewals(session, number, done):
                if answer.TTL <= 0:
                    break
        lost.set()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise Interrupted

    previous = {each: signal.signal(each, interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield _Lease(number, lost, interrupted)
    finally:
        done.set()
        for each, handler in previous.items():
            signal.signal(each, handler)
        with suppress(Failure):
            session.call(REVOKE, rpc.LeaseRevokeRequest(ID=number))
        renewing.join(_LEAVE_SECONDS)


def _wait(lease: _Lease) -> None:
    """Wait for the end of the lease, or to be interrupted."""
    while not lease.lost.wait(1.0):
        if lease.interrupted.is_set():
            raise Interrupted
    raise Exit("session expired")


@command(
    "lock",
    "<lockname> [exec-command arg1 arg2 ...]",
    flag("ttl", INT, 10, "Seconds that the lock outlives a lost holder."),
)
def lock(session: Session, words: tuple[str, ...], ttl: int) -> None:
    """Wait for a lock, print its key, and hold it until this command is interrupted.

    Or hold it while another command runs, which finds ETCD_LOCK_KEY and ETCD_LOCK_REV in its
    environment.
    """
    if not words:
        raise bad_arguments("lock takes a lock name argument and an optional command to execute")
    name, *execute = words
    with suppress(Interrupted), _leased(session, ttl) as lease:
        request = lock_messages.LockRequest(name=os.fsencode(name), lease=lease.number)
        held = session.client.call(LOCK, request, _FOREVER_SECONDS)
        try:
            if execute:
                _execute(execute, held)
            else:
                click.echo(held.key)
                _wait(lease)
        finally:
            with suppress(Failure):
                session.call(UNLOCK, lock_messages.UnlockRequest(key=held.key))


def _execute(words: list[str], held: lock_messages.LockResponse) -> None:
    """Run a command; raise Exit if it fails."""
    variables = {
        "ETCD_LOCK_KEY": os.fsdecode(held.key),
        "ETCD_LOCK_REV": str(held.header.revision),
    }
    sys.stdout.flush()
    try:
        code = subprocess.run(words, env={**os.environ, **variables}, check=False).returncode
    except OSError as error:
        raise Exit(f'exec: "{words[0]}": {(error.strerror or "").lower()}') from None
    if code:
        raise Exit(f"exit status {code}", code if code > 0 else 1)


@command(
    "elect",
    "<election-name> [proposal]",
    switch("listen", "See who leads, and do not stand.", short="l"),
)
def elect(session: Session, words: tuple[str, ...], listen: bool) -> None:
    """Stand in an election with a proposal, or see who leads."""
    if not 1 <= len(words) <= 2:
        raise bad_arguments(
            "elect takes one election name argument and an optional proposal argument"
        )
    if listen and len(words) > 1:
        raise bad_arguments("proposal given but -l is set")
    if not listen and len(words) == 1:
        raise bad_arguments("no proposal argument but -l not set")
    name = os.fsencode(words[0])
    if listen:
        for observed in session.client.listen(OBSERVE, election.LeaderRequest(name=name)):
            _show_leader(session.printer, observed)
        return
    with suppress(Interrupted), _leased(session, _ELECTION_TTL) as lease:
        request = election.CampaignRequest(
            name=name, lease=lease.number, value=os.fsencode(words[1])
        )
        won = session.client.call(CAMPAIGN, request, _FOREVER_SECONDS)
        try:
            for observed in session.client.listen(OBSERVE, election.LeaderRequest(name=name)):
                _show_leader(session.printer, observed)
                if observed.kv.key != won.leader.key or lease.lost.is_set():
                    raise Exit("elect: session expired")
                break
            _wait(lease)
        finally:
            with suppress(Failure):
                session.call(RESIGN, election.ResignRequest(leader=won.leader))


def _show_leader(printer: Printer, observed: election.LeaderResponse) -> None:
    answer = rpc.RangeResponse(header=observed.header, kvs=[observed.kv])
    printer.show(answer, lambda: printer.pair(observed.kv))
