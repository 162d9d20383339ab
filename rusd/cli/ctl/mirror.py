"""`make-mirror`: copies keys to another cluster, then every change, until it is interrupted."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Final

import click

from rusd.cli.ctl.client import Client
from rusd.cli.ctl.commands import command
from rusd.cli.ctl.errors import Exit, bad_arguments
from rusd.cli.ctl.flags import INT, TEXT, UINT, flag, switch
from rusd.cli.ctl.kv import prefix_end
from rusd.cli.ctl.methods import RANGE, TXN
from rusd.cli.ctl.session import Session, connected
from rusd.cli.ctl.watch import Watcher, canceled_by
from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc

_PAGE: Final = 1000
_OPERATIONS: Final = 128
"""In a transaction: as many as etcd takes, where --max-txn-ops says nothing else."""
_TELL_SECONDS: Final = 30.0


@command(
    "make-mirror",
    "[options] <destination>",
    flag("dest-cacert", TEXT, "", "The authority that signed the destination's certificates."),
    flag("dest-cert", TEXT, "", "A certificate to show to the destination."),
    flag("dest-key", TEXT, "", "Its key."),
    flag("dest-user", TEXT, "", "NAME[:PASSWORD] at the destination."),
    flag("dest-password", TEXT, "", "The password, if --dest-user has none."),
    flag("dest-prefix", TEXT, "", "What to write in the place of --prefix."),
    switch("dest-insecure-transport", "To the destination without TLS.", True),
    switch("no-dest-prefix", "Write nothing in the place of --prefix."),
    flag("max-txn-ops", UINT, _OPERATIONS, "The most writes in a transaction."),
    flag("rev", INT, 0, "Copy nothing, and follow from this revision on."),
    flag("prefix", TEXT, "", "The keys to copy begin so; all by default."),
)
def make_mirror(
    session: Session,
    words: tuple[str, ...],
    dest_cacert: str,
    dest_cert: str,
    dest_key: str,
    dest_user: str,
    dest_password: str,
    dest_prefix: str,
    dest_insecure_transport: bool,
    no_dest_prefix: bool,
    max_txn_ops: int,
    rev: int,
    prefix: str,
) -> None:
    """Copy keys to another cluster, and follow every change. Leases are not copied."""
    if len(words) != 1:
        raise bad_arguments("make-mirror takes one destination argument")
    if dest_prefix and no_dest_prefix:
        raise bad_arguments("`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time")
    destination = connected(
        replace(
            session.settings,
            endpoints=(words[0],),
            cacert=dest_cacert,
            cert=dest_cert,
            key=dest_key,
            user=dest_user,
            password=dest_password,
            insecure_transport=dest_insecure_transport,
            auth_jwt_token="",
        )
    )
    below = os.fsencode(prefix)
    instead = b"" if no_dest_prefix else os.fsencode(dest_prefix) or below
    mirror = _Mirror(session.client, destination, below, instead, max(max_txn_ops, 1))
    try:
        mirror.run(rev)
    finally:
        destination.close()


class _Mirror:
    """A copy that is under way."""

    def __init__(
        self, source: Client, destination: Client, below: bytes, instead: bytes, most: int
    ) -> None:
        self._source = source
        self._destination = destination
        self._below = below
        self._instead = instead
        self._most = most
        self._copied = 0

    def run(self, start: int) -> None:
        """Copy, follow, and tell now and then how many keys were written; raises Exit.

        From `start` on, if it is a revision, it only follows.
        """
        stop = threading.Event()

        def tell() -> None:
            while not stop.wait(_TELL_SECONDS):
                click.echo(self._copied)

        threading.Thread(target=tell, daemon=True).start()
        try:
            # etcdctl takes what begins at the first revision, or before, as all that there is.
            self._follow(start if start > 1 else self._copy() + 1)
        finally:
            stop.set()

    def _copy(self) -> int:
        """Copy what there is, as of one revision; return it."""
        key = self._below or b"\0"
        end = prefix_end(self._below)
        revision = 0
        while True:
            answer = self._source.call(
                RANGE, rpc.RangeRequest(key=key, range_end=end, limit=_PAGE, revision=revision)
            )
            revision = revision or answer.header.revision
            self._write(self._put(each) for each in answer.kvs)
            if not answer.more:
                return revision
            key = answer.kvs[-1].key + b"\0"

    def _follow(self, start: int) -> None:
        create = rpc.WatchCreateRequest(
            key=self._below or b"\0",
            range_end=prefix_end(self._below),
            start_revision=start,
        )
        for answer in Watcher(self._source, create):
            if answer.canceled:
                raise Exit(canceled_by(answer))
            # What happened at one revision happens at one revision there, too.
            for _, events in groupby(answer.events, lambda event: event.kv.mod_revision):
                self._write(map(self._operation, events))

    def _write(self, operations: Iterator[rpc.RequestOp]) -> None:
        waiting = list(operations)
        for start in range(0, len(waiting), self._most):
            some = waiting[start : start + self._most]
            self._destination.call(TXN, rpc.TxnRequest(success=some))
            self._copied += len(some)

    def _operation(self, event: kv.Event) -> rpc.RequestOp:
        if event.type == kv.Event.PUT:
            return self._put(event.kv)
        deletion = rpc.DeleteRangeRequest(key=self._renamed(event.kv.key))
        return rpc.RequestOp(request_delete_range=deletion)

    def _put(self, each: kv.KeyValue) -> rpc.RequestOp:
        return rpc.RequestOp(
            request_put=rpc.PutRequest(key=self._renamed(each.key), value=each.value)
        )

    def _renamed(self, key: bytes) -> bytes:
        return self._instead + key.removeprefix(self._below)
