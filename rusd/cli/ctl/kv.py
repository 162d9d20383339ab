"""`get`, `put`, `del` and `compaction`."""

import sys
from typing import Any, Final

import click

from rusd.cli.ctl.commands import as_bytes, command
from rusd.cli.ctl.errors import Code, Exit, bad_arguments
from rusd.cli.ctl.flags import INT, TEXT, flag, parse_int, switch
from rusd.cli.ctl.methods import COMPACT, DELETE_RANGE, PUT, RANGE, RANGE_STREAM
from rusd.cli.ctl.printing import Printer
from rusd.cli.ctl.session import Session
from rusd.pb import rpc_pb2 as rpc

_FROM_HERE: Final = b"\0"
"""As the end of a range: all from its first key on."""

_ORDERS: Final = {
    "": rpc.RangeRequest.NONE,
    "ASCEND": rpc.RangeRequest.ASCEND,
    "DESCEND": rpc.RangeRequest.DESCEND,
}
_TARGETS: Final = {
    "": rpc.RangeRequest.KEY,
    "CREATE": rpc.RangeRequest.CREATE,
    "KEY": rpc.RangeRequest.KEY,
    "MODIFY": rpc.RangeRequest.MOD,
    "VALUE": rpc.RangeRequest.VALUE,
    "VERSION": rpc.RangeRequest.VERSION,
}


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key after all that begin with `prefix`."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else _FROM_HERE


def key_range(words: list[bytes], prefix: bool, from_key: bool) -> tuple[bytes, bytes]:
    """Return key and end of the range that the line names; raise Exit where it is two."""
    if prefix and from_key:
        raise bad_arguments(
            "`--prefix` and `--from-key` cannot be set at the same time, choose one"
        )
    if not (prefix or from_key):
        return words[0], words[1] if len(words) > 1 else b""
    if len(words) > 1:
        raise bad_arguments(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set"
        )
    key = words[0]
    return key or b"\0", prefix_end(key) if prefix else _FROM_HERE


def get_request(
    words: tuple[str, ...],
    *,
    consistency: str,
    count_only: bool,
    from_key: bool,
    keys_only: bool,
    limit: int,
    max_create_rev: int,
    max_mod_rev: int,
    min_create_rev: int,
    min_mod_rev: int,
    order: str,
    prefix: bool,
    rev: int,
    sort_by: str,
    **_: Any,
) -> rpc.RangeRequest:
    """Return the request that a `get` line means; raise Exit if it means none."""
    if not words:
        raise bad_arguments(
            "get command needs one argument as key and an optional argument as range_end"
        )
    if prefix and from_key:
        key_range([], prefix, from_key)
    if keys_only and count_only:
        raise bad_arguments(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one"
        )
    if consistency not in ("l", "s"):
        raise Exit(f'unknown consistency flag "{consistency}"', Code.BAD_FEATURE)
    key, end = key_range(as_bytes(words), prefix, from_key)
    if order.upper() not in _ORDERS:
        raise Exit(f"bad sort order {order}", Code.BAD_FEATURE)
    if sort_by.upper() not in _TARGETS:
        raise Exit(f"bad sort target {sort_by}", Code.BAD_FEATURE)
    sorting, target = _ORDERS[order.upper()], _TARGETS[sort_by.upper()]
    if target == rpc.RangeRequest.KEY and sorting == rpc.RangeRequest.ASCEND:
        sorting = rpc.RangeRequest.NONE  # the keyspace's own order: it need not be sorted again
    return rpc.RangeRequest(
        key=key,
        range_end=end,
        limit=limit,
        revision=max(rev, 0),
        sort_order=sorting,
        sort_target=target,
        serializable=consistency == "s",
        keys_only=keys_only,
        count_only=count_only,
        max_create_revision=max_create_rev,
        max_mod_revision=max_mod_rev,
        min_create_revision=min_create_rev,
        min_mod_revision=min_mod_rev,
    )


def got(printer: Printer, answer: rpc.RangeResponse, value_only: bool = False) -> bytes:
    """Return an answer in the form `simple`."""
    return b"".join(printer.pair(each, value_only) for each in answer.kvs)


@command(
    "get",
    "[options] <key> [range_end]",
    flag("consistency", TEXT, "l", "Linearizable (l) or serializable (s).", values=("l", "s")),
    switch("count-only", "The number of keys alone, with -w fields."),
    switch("from-key", "All keys from this one on."),
    switch("keys-only", "The keys without their values."),
    flag("limit", INT, 0, "How many keys at most."),
    flag("max-create-rev", INT, 0, "Those created at this revision or before."),
    flag("max-mod-rev", INT, 0, "Those changed last at this revision or before."),
    flag("min-create-rev", INT, 0, "Those created at this revision or after."),
    flag("min-mod-rev", INT, 0, "Those changed last at this revision or after."),
    flag("order", TEXT, "", "ASCEND or DESCEND.", values=("ASCEND", "DESCEND")),
    switch("prefix", "All keys that begin so."),
    switch("print-value-only", "The values without their keys, with -w simple."),
    flag("rev", INT, 0, "As it was at this revision."),
    flag("sort-by", TEXT, "", "What to sort by.", values=[each for each in _TARGETS if each]),
    switch("stream", "Let the answer come in parts, by RangeStream."),
)
def get(
    session: Session, words: tuple[str, ...], print_value_only: bool, stream: bool, **given: Any
) -> None:
    """Get a key, or the keys of a range."""
    request = get_request(words, **given)
    form = session.settings.write_out
    if given["count_only"] and form != "fields":
        raise bad_arguments("--count-only is only for `--write-out=fields`")
    if print_value_only and form != "simple":
        raise bad_arguments("print-value-only is only for `--write-out=simple`")
    answer = _streamed(session, request) if stream else session.call(RANGE, request)
    printer = session.printer
    printer.show(answer, lambda: got(printer, answer, print_value_only))


def _streamed(session: Session, request: rpc.RangeRequest) -> rpc.RangeResponse:
    """Return the parts of an answer as one."""
    answer = rpc.RangeResponse()
    for part in session.client.listen(RANGE_STREAM, request, session.settings.command_timeout):
        answer.MergeFrom(part.range_response)
    return answer


def put_request(
    words: tuple[str, ...],
    *,
    ignore_lease: bool,
    ignore_value: bool,
    lease: str,
    prev_kv: bool,
) -> rpc.PutRequest:
    """Return the request that a `put` line means; the value may come from standard input."""
    key, *values = as_bytes(words) or [b""]
    if ignore_value and len(words) > 1:
        raise bad_arguments("put command needs only 1 argument when 'ignore-value' is set")
    if words and not values and not ignore_value:
        values = [sys.stdin.buffer.read()]
    if not words or not (values or ignore_value) or (len(words) == 1 and values == [b""]):
        raise bad_arguments("put command needs 1 argument and input from stdin or 2 arguments")
    try:
        number = parse_int(lease, 16)
    except ValueError as error:
        raise bad_arguments(f"bad lease ID ({error}), expecting ID in Hex") from None
    return rpc.PutRequest(
        key=key,
        value=values[0] if values else b"",
        lease=number,
        prev_kv=prev_kv,
        ignore_value=ignore_value,
        ignore_lease=ignore_lease,
    )


def was_put(printer: Printer, answer: rpc.PutResponse) -> bytes:
    """Return an answer in the form `simple`."""
    return b"OK\n" + (printer.pair(answer.prev_kv) if answer.HasField("prev_kv") else b"")


@command(
    "put",
    "[options] <key> <value>",
    switch("ignore-lease", "Leave the key its lease."),
    switch("ignore-value", "Leave the key its value."),
    flag("lease", TEXT, "0", "The lease to attach the key to, in hexadecimal."),
    switch("prev-kv", "Print the key as it was."),
)
def put(session: Session, words: tuple[str, ...], **given: Any) -> None:
    """Put a key. A value that is not in the line is read from standard input.

    A value that begins with '-' stands after '--'.
    """
    answer = session.call(PUT, put_request(words, **given))
    session.printer.show(answer, lambda: was_put(session.printer, answer))


def delete_request(
    words: tuple[str, ...], *, from_key: bool, prefix: bool, prev_kv: bool, **_: Any
) -> rpc.DeleteRangeRequest:
    """Return the request that a `del` line means; raise Exit if it means none."""
    if not 1 <= len(words) <= 2:
        raise bad_arguments(
            "del command needs one argument as key and an optional argument as range_end"
        )
    key, end = key_range(as_bytes(words), prefix, from_key)
    return rpc.DeleteRangeRequest(key=key, range_end=end, prev_kv=prev_kv)


def deleted(printer: Printer, answer: rpc.DeleteRangeResponse) -> bytes:
    """Return an answer in the form `simple`."""
    return f"{answer.deleted}\n".encode() + b"".join(map(printer.pair, answer.prev_kvs))


@command(
    "del",
    "[options] <key> [range_end]",
    switch("from-key", "All keys from this one on."),
    switch("prefix", "All keys that begin so."),
    switch("prev-kv", "Print what was deleted."),
    switch("range", "The line names a range, and means it."),
)
def delete(session: Session, words: tuple[str, ...], **given: Any) -> None:
    """Delete a key, or the keys of a range."""
    answer = session.call(DELETE_RANGE, delete_request(words, **given))
    session.printer.show(answer, lambda: deleted(session.printer, answer))


@command(
    "compaction",
    "[options] <revision>",
    switch("physical", "Wait until the space is free."),
)
def compaction(session: Session, words: tuple[str, ...], physical: bool) -> None:
    """Forget the history before a revision."""
    if len(words) != 1:
        raise bad_arguments("compaction command needs 1 argument")
    try:
        revision = parse_int(words[0], 10)
    except ValueError as error:
        raise Exit(str(error)) from None
    session.call(COMPACT, rpc.CompactionRequest(revision=revision, physical=physical))
    click.echo(f"compacted revision {revision}")
