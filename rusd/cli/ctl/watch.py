"""`watch`: prints events as they come, or runs a command for each."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from rusd.cli.ctl import fields
from rusd.cli.ctl.client import TIMED_OUT, Client, Failure, Stream
from rusd.cli.ctl.commands import as_bytes, command
from rusd.cli.ctl.errors import Code, Exit, bad_arguments
from rusd.cli.ctl.flags import INT, flag, switch
from rusd.cli.ctl.kv import prefix_end
from rusd.cli.ctl.methods import WATCH
from rusd.cli.ctl.session import Session
from rusd.cli.ctl.settings import GLOBAL_NAMES, WATCH_KEY, WATCH_RANGE_END
from rusd.cli.ctl.txn import split
from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc

_BAD_NUMBER: Final = "bad number of arguments"


class Watcher:
    """A watch that goes on at another member, from where it was, when one is lost."""

    def __init__(self, client: Client, create: rpc.WatchCreateRequest) -> None:
        """Nothing is asked before it is iterated over."""
        self._client = client
        self._create = create
        self._stream: Stream[rpc.WatchRequest, rpc.WatchResponse] | None = None

    def __iter__(self) -> Iterator[rpc.WatchResponse]:
        """Iterate over what happens, up to a cancellation and with it; raises Failure."""
        deadline = time.monotonic() + self._client.settings.command_timeout
        heard = False
        while True:
            stream = self._client.open(WATCH)
            stream.send(rpc.WatchRequest(create_request=self._create))
            self._stream = stream
            try:
                for answer in stream:
                    heard = True
                    if answer.events:
                        self._create.start_revision = answer.events[-1].kv.mod_revision + 1
                    if not answer.created or answer.canceled:
                        yield answer
                    if answer.canceled:
                        return
            except Failure as error:
                if not error.lost:
                    raise
                if not heard and time.monotonic() > deadline:
                    raise Failure(TIMED_OUT) from None
                self._client.leave()
            finally:
                stream.close()

    def ask_progress(self) -> None:
        """Ask how far the watch is; the answer is one of those iterated over."""
        if self._stream is not None:
            asked = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())
            self._stream.send(asked)


def create_request(
    words: Sequence[str], *, prefix: bool, prev_kv: bool, progress_notify: bool, rev: int
) -> rpc.WatchCreateRequest:
    """Return the request that the line means; raise Exit if it means none."""
    if not 1 <= len(words) <= 2:
        raise bad_arguments(_BAD_NUMBER)
    if prefix and len(words) > 1:
        raise bad_arguments("`range_end` and `--prefix` are mutually exclusive")
    key, *ends = as_bytes(words)
    end = ends[0] if ends else b""
    return rpc.WatchCreateRequest(
        key=(key or b"\0") if prefix else key,
        range_end=prefix_end(key) if prefix else end,
        start_revision=rev,
        prev_kv=prev_kv,
        progress_notify=progress_notify,
    )


@command(
    "watch",
    "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    switch("interactive", "Read watch and progress lines.", short="i"),
    switch("prefix", "All keys that begin so."),
    switch("prev-kv", "Print each key also as it was."),
    switch("progress-notify", "Tell now and then how far the watch is."),
    flag("rev", INT, 0, "The revision to begin at."),
    keep_separator=True,
)
def watch(session: Session, words: tuple[str, ...], interactive: bool, **given: Any) -> None:
    """Print what happens to keys, or run a command each time.

    The command finds ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and
    ETCD_WATCH_VALUE in its environment. ETCDCTL_WATCH_KEY and ETCDCTL_WATCH_RANGE_END may stand for
    the arguments.
    """
    if interactive:
        _converse(session)
    named, execute = _parted(words)
    _follow(session, Watcher(session.client, create_request(named, **given)), execute)


def _parted(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Part a line into keys and the command to run."""
    named, execute = list(words), []
    if "--" in words:
        place = named.index("--")
        named, execute = named[:place], named[place + 1 :]
        if not execute:
            raise bad_arguments(f"{_BAD_NUMBER} (found separator --, but no commands)")
    key = os.environ.get(WATCH_KEY, "")
    if key:
        if named:
            raise bad_arguments(f"{_BAD_NUMBER} (found conflicting environment key)")
        end = os.environ.get(WATCH_RANGE_END, "")
        named = [key, end] if end else [key]
    return named, execute


def _follow(session: Session, watcher: Watcher, execute: list[str]) -> None:
    """Print what happens, or run the command; raise Exit when the server ends the watch."""
    for answer in watcher:
        if answer.canceled:
            click.echo(f"watch was canceled ({canceled_by(answer)})", err=True)
        session.printer.watched(answer)
        if answer.canceled:
            raise Exit("watch is canceled by the server", Code.INTERRUPTED)
        if execute:
            for event in answer.events:
                _execute(execute, answer.header.revision, event)


def canceled_by(answer: rpc.WatchResponse) -> str:
    """Return why a watch has ended, which a server need not say."""
    if answer.compact_revision:
        return "etcdserver: mvcc: required revision has been compacted"
    return answer.cancel_reason or "etcdserver: mvcc: required revision is a future revision"


def _execute(words: list[str], revision: int, event: kv.Event) -> None:
    variables = {
        "ETCD_WATCH_REVISION": str(revision),
        "ETCD_WATCH_EVENT_TYPE": fields.quoted(kv.Event.EventType.Name(event.type)),
        "ETCD_WATCH_KEY": fields.quoted(event.kv.key),
        "ETCD_WATCH_VALUE": fields.quoted(event.kv.value),
    }
    sys.stdout.flush()
    try:
        code = subprocess.run(words, env={**os.environ, **variables}, check=False).returncode
        reason = f"exit status {code}" if code else ""
    except OSError as error:
        reason = f'exec: "{words[0]}": {(error.strerror or "").lower()}'
    if reason:
        shown = " ".join(map(fields.quoted, words))
        click.echo(f"command [{shown}] error ({reason})", err=True)
        raise Exit


def _converse(session: Session) -> None:
    """Do what the lines of standard input say, up to its end, which is an error."""
    _ = session.client
    watchers: list[Watcher] = []

    over = threading.Event()

    def follow(watcher: Watcher) -> None:
        try:
            _follow(session, watcher, [])
        except (Failure, Exit) as error:
            if not over.is_set():
                click.echo(f"Error: {error}", err=True)

    for text in iter(sys.stdin.readline, ""):
        words = split(text)
        if words == ["progress"]:
            for each in watchers:
                each.ask_progress()
        elif not words:
            click.echo("Invalid command:  (watch and progress supported)", err=True)
        elif words[0] != "watch":
            click.echo(f"Invalid command {text.strip()} (only support watch)", err=True)
        elif len(words) == 1:
            reason = "command type or key is not provided"
            click.echo(f"Invalid command {text.strip()} ({reason})", err=True)
        else:
            try:
                given = watch.make_context("watch", words[1:]).params
                own = {name: value for name, value in given.items() if name not in GLOBAL_NAMES}
                own.pop("interactive")
                watcher = Watcher(session.client, create_request(own.pop("words"), **own))
            except Exit as error:
                reason = error.message
                click.echo(f"Invalid command {text.strip()} ({reason})", err=True)
                continue
            watchers.append(watcher)
            threading.Thread(target=follow, args=(watcher,), daemon=True).start()
    over.set()
    raise Exit("error reading watch request line: EOF", Code.INVALID_INPUT)
