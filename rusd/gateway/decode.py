"""JSON to messages, as strictly as etcd's gateway reads it, and with its words for what is wrong.

Field names as in the .proto files and in lowerCamelCase; unknown fields and unknown names of enums
are passed over. Python's `json` reads the text; where something is wrong, `locate` tells the place.
protobuf's `json_format` takes what etcd refuses (letters that are no base64, a list for a message,
`true` for an enum), and has other words for the rest.
"""

import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from rusd.gateway.locate import find_token, position, syntax_error, token_at


class BadJsonError(Exception):
    """The text is no request; it says why, in etcd's words."""


class _Pairs(list[tuple[str, Any]]):
    """A JSON object: names may repeat."""


class _Number(str):
    """A JSON number that is not a small integer."""

    __slots__ = ()


class _WrongError(Exception):
    """A value that cannot be; `path` has the ordinals of pairs and elements that lead there."""

    def __init__(self, path: tuple[int, ...], reason: str, *, at_name: bool = False) -> None:
        """No reason: the token may not be there. One that ends in ": " is about the token."""
        super().__init__(reason)
        self.path, self.at_name = path, at_name


class _ConstantError(Exception):
    """NaN or an infinity, which are no JSON."""


def _no_constant(name: str) -> object:
    raise _ConstantError(name)


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_Pairs,
    parse_int=lambda text: int(text) if len(text) < 20 else _Number(text),
    parse_float=_Number,
    parse_constant=_no_constant,
)
_space: Final = re.compile(r"[ \t\r\n]*").match


def messages(descriptor: Descriptor, body: bytes) -> Iterator[bytes]:
    """The requests that follow each other in `body`, serialized; raises BadJsonError."""
    text = body.decode("utf-8", "surrogateescape")
    at = _after_space(text, 0)
    while at < len(text):
        message, end = _message(descriptor, text, at)
        yield message
        at = _after_space(text, end)


def first_message(descriptor: Descriptor, body: bytes) -> bytes:
    """The first of them; nothing at all is the empty request, as in etcd."""
    return next(messages(descriptor, body), b"")


def _after_space(text: str, at: int) -> int:
    found = _space(text, at)
    assert found is not None
    return found.end()


def _message(descriptor: Descriptor, text: str, at: int) -> tuple[bytes, int]:
    try:
        value, end = _decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise BadJsonError(syntax_error(text, error.pos, error.msg)) from None
    except _ConstantError as error:
        raise BadJsonError(syntax_error(text, find_token(text, at, str(error)))) from None
    except RecursionError:
        raise BadJsonError("exceeded max depth") from None
    message = GetMessageClass(descriptor)()
    try:
        _fill(message, value, ())
        return message.SerializeToString(), end
    except _WrongError as wrong:
        start = position(text, at, wrong.path, wrong.at_name)
        line, column = _line_and_column(text, at, start)
        place = f"(line {line}:{column}): "
        token, reason = token_at(text, start), str(wrong)
        if not reason:
            raise BadJsonError(f"proto: syntax error {place}unexpected token {token}") from None
        if reason.endswith(": "):
            reason += token
        raise BadJsonError(f"proto: {place}{reason}") from None


def _line_and_column(text: str, begin: int, at: int) -> tuple[int, int]:
    """Counted from one, from where the value begins."""
    before = text[begin:at]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _fill(message: Message, value: object, path: tuple[int, ...]) -> None:
    if not isinstance(value, _Pairs):
        raise _WrongError(path, "")
    fields = _fields(message.DESCRIPTOR)
    seen = set()
    for ordinal, (name, content) in enumerate(value):
        field = fields.get(name)
        if field is None:
            continue
        here = (*path, ordinal)
        if field.number in seen:
            raise _WrongError(here, f'duplicate field "{name}"', at_name=True)
        seen.add(field.number)
        if content is None:
            continue
        oneof = field.containing_oneof
        if oneof is not None and message.WhichOneof(oneof.name) is not None:
            reason = f'error parsing "{name}", oneof {oneof.full_name} is already set'
            raise _WrongError(here, reason, at_name=True)
        _set(message, field, content, here)


@cache
def _fields(descriptor: Descriptor) -> dict[str, FieldDescriptor]:
    return {name: field for field in descriptor.fields for name in (field.json_name, field.name)}


def _set(message: Message, field: FieldDescriptor, content: object, path: tuple[int, ...]) -> None:
    convert = _CONVERSIONS.get(field.type)
    if field.is_repeated:
        if type(content) is not list:
            raise _WrongError(path, "")
        target = getattr(message, field.name)
        for ordinal, element in enumerate(content):
            here = (*path, ordinal)
            if convert is None:
                _fill(target.add(), element, here)
            else:
                value = _converted(convert, field, element, here)
                if value is not None:
                    target.append(value)
    elif convert is None:
        target = getattr(message, field.name)
        target.SetInParent()
        _fill(target, content, path)
    else:
        value = _converted(convert, field, content, path)
        if value is not None:
            setattr(message, field.name, value)


def _converted(
    convert: Callable[[FieldDescriptor, Any], object],
    field: FieldDescriptor,
    content: object,
    path: tuple[int, ...],
) -> object:
    """The value of a field; None for an unknown name of an enum."""
    try:
        return convert(field, content)
    except (ValueError, TypeError, ArithmeticError):
        kind = "enum" if field.type == FieldDescriptor.TYPE_ENUM else _KINDS[field.type]
        raise _WrongError(path, f"invalid value for {kind} field {field.json_name}: ") from None


# Each takes a value that `json` read, and raises when the field cannot have it.

_number: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?").fullmatch


def _integer(low: int, high: int) -> Callable[[FieldDescriptor, Any], int]:
    def convert(_field: FieldDescriptor, value: Any) -> int:
        number = value
        if isinstance(value, str):
            if not _number(value):
                raise ValueError(value)
            exact = Decimal(value)
            # 1e999999999 is not to be written out.
            if exact.adjusted() > 20 or exact != exact.to_integral_value():
                raise ValueError(value)
            number = int(exact)
        if type(number) is not int or not low <= number <= high:
            raise ValueError(value)
        return number

    return convert


def _bool(_field: FieldDescriptor, value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(value)
    return value


def _string(_field: FieldDescriptor, value: Any) -> str:
    if type(value) is not str:
        raise ValueError(value)
    value.encode()  # a lone surrogate is no text
    return value


def _bytes(_field: FieldDescriptor, value: Any) -> bytes:
    """Base64 of either alphabet, with or without padding; Go passes over line ends."""
    if type(value) is not str:
        raise ValueError(value)
    url = "-" in value or "_" in value
    if url and ("+" in value or "/" in value):
        raise ValueError(value)
    digits = value.replace("\r", "").replace("\n", "")
    if len(value) % 4:
        if "=" in digits:
            raise ValueError(value)
        digits += "=" * (-len(digits) % 4)
    try:
        return b64decode(digits, altchars=b"-_" if url else None, validate=True)
    except Base64Error as error:
        raise ValueError(value) from error


def _enum(field: FieldDescriptor, value: Any) -> int | None:
    if type(value) is str:
        assert field.enum_type is not None
        known = field.enum_type.values_by_name.get(value)
        return known.number if known is not None else None
    return _integer(-(2**31), 2**31 - 1)(field, value)


_CONVERSIONS: Final[dict[int, Callable[[FieldDescriptor, Any], object]]] = {
    FieldDescriptor.TYPE_INT64: _integer(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: _integer(0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: _integer(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: _integer(0, 2**32 - 1),
    FieldDescriptor.TYPE_BOOL: _bool,
    FieldDescriptor.TYPE_STRING: _string,
    FieldDescriptor.TYPE_BYTES: _bytes,
    FieldDescriptor.TYPE_ENUM: _enum,
}
"""All kinds of fields that requests have; messages aside."""

_KINDS: Final = {
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
}
