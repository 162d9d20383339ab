"""Answers as etcdctl prints them, in each of its forms."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from rusd.cli.ctl import fields
from rusd.cli.ctl.errors import Code, Exit, unsupported
from rusd.cli.ctl.table import Table
from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc

Simple = Callable[[], str | bytes]


class Printer:
    """Prints for people: `simple`, what the command itself says."""

    name = "simple"

    def __init__(self, hexadecimal: bool) -> None:
        """Print keys and values in hexadecimal, or as they are."""
        self.hexadecimal = hexadecimal

    def show(self, answer: Message, simple: Simple) -> None:
        """Print an answer; raises Exit where this form has none for it."""
        del answer
        write(simple())

    def watched(self, answer: rpc.WatchResponse) -> None:
        """Print the events of a watch."""
        if not answer.events and not answer.canceled:
            write(f"progress notify: {answer.header.revision}\n")
        for event in answer.events:
            write(f"{kv.Event.EventType.Name(event.type)}\n")
            if event.HasField("prev_kv"):
                write(self.pair(event.prev_kv))
            write(self.pair(event.kv))

    def endpoints(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print a row for each member; `rows` have the same as JSON's values."""
        del rows
        write(table.lines())

    def text(self, data: bytes) -> bytes:
        """Return a key or a value as it is to be seen."""
        if not self.hexadecimal:
            return data
        return b"".join(b"\\x%02x" % each for each in data)

    def pair(self, each: kv.KeyValue, value_only: bool = False) -> bytes:
        """Return the lines of a key and its value."""
        value = self.text(each.value) + b"\n"
        return value if value_only else self.text(each.key) + b"\n" + value


class JsonPrinter(Printer):
    """Prints as Go encodes what etcd's client returns."""

    name = "json"

    def show(self, answer: Message, simple: Simple) -> None:
        """Print the message, with its fields' names in the protocol."""
        del simple
        write(encoded(_LEASES[type(answer)](answer) if type(answer) in _LEASES else plain(answer)))

    def watched(self, answer: rpc.WatchResponse) -> None:
        """Print the client's view of a watch's answer."""
        view = {
            "Header": plain(answer.header),
            "Events": [plain(each) for each in answer.events],
            "CompactRevision": answer.compact_revision,
            "Canceled": answer.canceled,
            "Created": answer.created,
        }
        write(encoded(view))

    def endpoints(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print the list."""
        del table
        write(encoded(list(rows)))


class FieldsPrinter(Printer):
    """Prints `"Name" : value` lines."""

    name = "fields"

    def show(self, answer: Message, simple: Simple) -> None:
        """Print the message's fields."""
        del simple
        write(fields.lines(answer))

    def watched(self, answer: rpc.WatchResponse) -> None:
        """Print header and events."""
        write(fields.lines(answer))

    def endpoints(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print the fields of each member."""
        del rows
        write("".join(f"{each}\n" for each in table.fields))


class ProtobufPrinter(Printer):
    """Prints the message as it came."""

    name = "protobuf"

    def show(self, answer: Message, simple: Simple) -> None:
        """Print the bytes; of what is about leases only the header, as etcdctl does."""
        del simple
        if type(answer) in _LEASES:
            answer = answer.header  # type: ignore[attr-defined]
        write(answer.SerializeToString(deterministic=True))

    def watched(self, answer: rpc.WatchResponse) -> None:
        """Print the bytes."""
        write(answer.SerializeToString(deterministic=True))

    def endpoints(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """There is no such message."""
        del table, rows
        raise unsupported(self.name)


class TablePrinter(Printer):
    """Prints tables, of members alone."""

    name = "table"

    def show(self, answer: Message, simple: Simple) -> None:
        """There is no table of anything else."""
        del answer, simple
        raise unsupported(self.name)

    def watched(self, answer: rpc.WatchResponse) -> None:
        """There is no table of events."""
        del answer
        raise unsupported(self.name)

    def endpoints(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print the table."""
        del rows
        write(table.drawn())


_PRINTERS: Final = {
    each.name: each for each in (Printer, FieldsPrinter, JsonPrinter, ProtobufPrinter, TablePrinter)
}


def printer(form: str, hexadecimal: bool) -> Printer:
    """Return the printer of a form; raise Exit where there is no such form."""
    if form not in _PRINTERS:
        raise Exit("unsupported output format", Code.BAD_FEATURE)
    return _PRINTERS[form](hexadecimal)


def write(text: str | bytes) -> None:
    """Write to standard output, as it is."""
    click.echo(text, nl=False)


def plain(message: Message) -> dict[str, Any]:
    """Return a message as Go's JSON of it: without what is zero or not there."""
    return {each.name: _value(each, value) for each, value in message.ListFields()}


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.is_repeated:
        return [_one(each) for each in value]
    return _one(value)


def _one(value: Any) -> Any:
    if isinstance(value, rpc.ResponseOp):
        return {"Response": plain(value)}
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, bytes):
        return _base64(value)
    return value


def _base64(data: bytes) -> str:
    from base64 import b64encode

    return b64encode(data).decode()


_ESCAPES: Final = str.maketrans(
    {each: f"\\u{ord(each):04x}" for each in ("<", ">", "&", "\u2028", "\u2029")}
)


def encoded(value: Any) -> str:
    """Return JSON as Go writes it, and a line's end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.translate(_ESCAPES) + "\n"


# What etcd's client returns for leases are structures of its own, with other names.
_LEASES: Final[dict[type[Message], Callable[[Any], dict[str, Any]]]] = {
    rpc.LeaseGrantResponse: lambda answer: {
        **plain(answer.header),
        "ID": answer.ID,
        "TTL": answer.TTL,
        "Error": answer.error,
    },
    rpc.LeaseKeepAliveResponse: lambda answer: {
        **plain(answer.header),
        "ID": answer.ID,
        "TTL": answer.TTL,
    },
    rpc.LeaseTimeToLiveResponse: lambda answer: {
        **plain(answer.header),
        "id": answer.ID,
        "ttl": answer.TTL,
        "granted-ttl": answer.grantedTTL,
        "keys": [_base64(each) for each in answer.keys] or None,
    },
    rpc.LeaseLeasesResponse: lambda answer: {
        **plain(answer.header),
        "leases": [{"id": each.ID} for each in answer.leases],
    },
}
