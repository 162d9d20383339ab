"""`txn`: compares, then what to do if they hold and if they do not, a line each."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import click

from rusd.cli.ctl import kv
from rusd.cli.ctl.commands import Command, command
from rusd.cli.ctl.errors import Code, Exit, bad_arguments
from rusd.cli.ctl.flags import parse_int, switch
from rusd.cli.ctl.methods import TXN
from rusd.cli.ctl.printing import Printer
from rusd.cli.ctl.session import Session
from rusd.cli.ctl.settings import GLOBAL_NAMES
from rusd.pb import rpc_pb2 as rpc

_WORD: Final = re.compile(r"\"(?:\\.|[^\"\\])*\"|'[^']*'|[^'\"\s]\S*[^'\"\s]?")
_COMPARE: Final = re.compile(r'(\w+)\("((?:\\.|[^"\\])*)"\)\s*(\S+)\s*"((?:\\.|[^"\\])*)"')
_RESULTS: Final = {
    "=": rpc.Compare.EQUAL,
    "!=": rpc.Compare.NOT_EQUAL,
    ">": rpc.Compare.GREATER,
    "<": rpc.Compare.LESS,
}
_NUMBERS: Final = {
    "ver": ("version", rpc.Compare.VERSION),
    "version": ("version", rpc.Compare.VERSION),
    "c": ("create_revision", rpc.Compare.CREATE),
    "create": ("create_revision", rpc.Compare.CREATE),
    "m": ("mod_revision", rpc.Compare.MOD),
    "mod": ("mod_revision", rpc.Compare.MOD),
    "lease": ("lease", rpc.Compare.LEASE),
}
_VALUES: Final = ("val", "value")
_PROMPT: Final = "{} requests (get, put, del):"


_REQUESTS: Final[dict[str, tuple[str, Command, Callable[..., Any]]]] = {
    "get": ("request_range", kv.get, kv.get_request),
    "put": ("request_put", kv.put, kv.put_request),
    "del": ("request_delete_range", kv.delete, kv.delete_request),
}
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|(.))")
_NAMED: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    '"': '"', "\\": "\\",
}  # fmt: skip


def _invalid(text: str) -> Exit:
    return Exit(text, Code.INVALID_INPUT)


def unquoted(text: str) -> bytes:
    """Return what the inside of Go's double quotes means; ValueError if it means nothing."""

    def meant(found: re.Match[str]) -> str:
        hexadecimal, octal, letter, named = found.groups()
        if hexadecimal or octal:
            return os.fsdecode(bytes([int(hexadecimal or octal, 16 if hexadecimal else 8)]))
        if letter:
            return chr(int(letter, 16))
        if named not in _NAMED:
            raise ValueError(text)
        return _NAMED[named]

    return _ESCAPE.sub(meant, text).encode(errors="surrogateescape")


def split(line: str) -> list[str]:
    """Split a line into words; those in quotes may hold spaces, and escapes in double ones."""
    words = []
    for each in _WORD.findall(line):
        word = each
        if each[0] == "'":
            word = each[1:-1]
        elif each[0] == '"':
            with suppress(ValueError):
                word = os.fsdecode(unquoted(each[1:-1]))
        words.append(word)
    return words


def compare(line: str) -> rpc.Compare:
    """Return the comparison that a line is, as mod("key") > "0"; raise Exit if it is none."""
    found = _COMPARE.fullmatch(line.strip())
    if found is None:
        named, bracket, _ = line.strip().partition("(")
        seen = f'; got {named}("")  ""' if bracket else ""
        raise _invalid(f"malformed comparison: {line}{seen}")
    target, quoted_key, operator, quoted_value = found.groups()
    try:
        key, value = unquoted(quoted_key), unquoted(quoted_value)
    except ValueError:
        raise _invalid(f"malformed comparison: {line}") from None
    if operator not in _RESULTS:
        raise _invalid(f"malformed comparison: {line} (unknown operator {operator})")
    made = rpc.Compare(key=key, result=_RESULTS[operator])
    if target in _VALUES:
        made.target, made.value = rpc.Compare.VALUE, value
    elif target in _NUMBERS:
        field, made.target = _NUMBERS[target]
        try:
            setattr(
                made,
                field,
                parse_int(value.decode(errors="replace"), 16 if target == "lease" else 0),
            )
        except ValueError as error:
            raise _invalid(f"malformed comparison: {line} ({error})") from None
    else:
        raise _invalid(f"malformed comparison: {line} (unknown target {target})")
    return made


def request(line: str) -> rpc.RequestOp:
    """Return the request that a get, put or del line is; raise Exit if it is none."""
    words = split(line)
    if len(words) < 2:
        raise _invalid(f"invalid txn compare request: {line}")
    name, *rest = words
    if name not in _REQUESTS:
        raise _invalid(f"invalid txn request: {line}")
    field, line_of, meant = _REQUESTS[name]
    try:
        given = line_of.make_context(name, rest).params
    except Exit:
        raise _invalid(f"invalid txn request: {line}") from None
    own = {each: value for each, value in given.items() if each not in GLOBAL_NAMES}
    return rpc.RequestOp(**{field: meant(**own)})


def _lines(interactive: bool, prompt: str) -> Iterator[str]:
    """Lines up to an empty one; raise Exit where the input ends before."""
    if interactive:
        click.echo(prompt)
    for line in iter(sys.stdin.readline, ""):
        if not line.strip("\n"):
            return
        yield line.strip("\n")
    raise _invalid("EOF")


def done(printer: Printer, answer: rpc.TxnResponse) -> bytes:
    """Return an answer in the form `simple`."""
    parts = [b"SUCCESS\n" if answer.succeeded else b"FAILURE\n"]
    for each in answer.responses:
        parts.append(b"\n")
        match each.WhichOneof("response"):
            case "response_range":
                parts.append(kv.got(printer, each.response_range))
            case "response_put":
                parts.append(kv.was_put(printer, each.response_put))
            case "response_delete_range":
                parts.append(kv.deleted(printer, each.response_delete_range))
    return b"".join(parts)


@command("txn", "[options]", switch("interactive", "Say what is to be typed.", short="i"))
def txn(session: Session, words: tuple[str, ...], interactive: bool) -> None:
    """Do one thing or another at one revision, by what keys are.

    Reads comparisons, as `mod("key") > "0"`, then get, put and del lines for when all of them hold,
    then those for when they do not; an empty line after each part.
    """
    if words:
        raise bad_arguments("txn command does not accept argument")
    asked = rpc.TxnRequest()
    asked.compare.extend(map(compare, _lines(interactive, "compares:")))
    asked.success.extend(map(request, _lines(interactive, _PROMPT.format("success"))))
    asked.failure.extend(map(request, _lines(interactive, _PROMPT.format("failure"))))
    answer = session.call(TXN, asked)
    session.printer.show(answer, lambda: done(session.printer, answer))
