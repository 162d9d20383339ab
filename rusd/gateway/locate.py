"""Where something is wrong in a JSON text, in the words of Go's decoders: for errors only."""

import re
from typing import Final

_token: Final = re.compile(r'[ \t\r\n]*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^ \t\r\n{}\[\],:"]+)').match
_LITERALS: Final = ("true", "false", "null")


def token_at(text: str, at: int) -> str:
    """The token that begins there."""
    found = _token(text, at)
    return found[1] if found is not None else ""


def position(text: str, at: int, path: tuple[int, ...], at_name: bool) -> int:
    """Where the value begins that the ordinals lead to, in well-formed JSON that begins at `at`.

    `at_name` asks for the name of the last pair instead of its value.
    """
    at = _next(text, at)[0]
    for depth, ordinal in enumerate(path):
        is_object = text[at] == "{"
        at += 1
        for passed in range(ordinal + 1):
            name, end = _next(text, at)
            at = _next(text, _next(text, end)[1])[0] if is_object else name
            if passed < ordinal:
                at = _next(text, _skip(text, at))[1]
        if at_name and depth == len(path) - 1:
            return name
    return at


def _next(text: str, at: int) -> tuple[int, int]:
    """Start and end of the next token."""
    found = _token(text, at)
    assert found is not None
    return found.span(1)


def _skip(text: str, at: int) -> int:
    """Where the value ends that begins at `at`."""
    depth = 0
    while True:
        start, end = _next(text, at)
        first = text[start]
        depth += (first in "{[") - (first in "}]")
        at = end
        if not depth:
            return end


def find_token(text: str, at: int, token: str) -> int:
    """Where the first such token begins, behind `at`."""
    while (found := _token(text, at)) is not None:
        if found[1] == token:
            return found.start(1)
        at = found.end()
    return at


def syntax_error(text: str, at: int, message: str = "") -> str:
    """What Go says of malformed JSON, where Python stopped at `at` with `message`."""
    if message.startswith("Invalid control character"):
        return f"invalid character {_quoted(text[at])} in string literal"
    if message.startswith("Invalid \\u"):
        bad = next((c for c in text[at + 1 :] if c not in "0123456789abcdefABCDEF"), "")
        if bad:
            return f"invalid character {_quoted(bad)} in \\u hexadecimal character escape"
        return "unexpected EOF"
    if message.startswith("Invalid \\escape"):
        return f"invalid character {_quoted(text[at + 1])} in string escape code"
    before = text[:at].rstrip(" \t\r\n")
    rest = text[at:].lstrip(" \t\r\n")
    if not rest or message.startswith("Unterminated string"):
        return "unexpected EOF"
    for literal in _LITERALS:
        if message == "Expecting value" and rest[0] == literal[0]:
            return _literal_error(rest, literal)
    return f"invalid character {_quoted(rest[0])} {_expectation(before)}"


def _literal_error(rest: str, literal: str) -> str:
    for wanted, letter in zip(literal, rest, strict=False):
        if letter != wanted:
            return (
                f"invalid character {_quoted(letter)} in literal {literal} (expecting '{wanted}')"
            )
    return "unexpected EOF"


def _quoted(character: str) -> str:
    if character > "\x7f":  # Go shows its first byte as Latin-1
        character = chr(character.encode("utf-8", "surrogateescape")[0])
    escaped = {"'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(character, character)
    return f"'\\x{ord(character):02x}'" if escaped < " " else f"'{escaped}'"


def _expectation(before: str) -> str:
    """What Go's decoder would rather have seen behind `before`."""
    inside: list[str] = []
    previous, at = "", 0
    while (found := _token(before, at)) is not None:
        previous, at = found[1], found.end()
        if previous in "{[":
            inside.append(previous)
        elif previous in "}]" and inside:
            inside.pop()
    if previous == "{" or (previous == "," and inside[-1:] == ["{"]):
        return "looking for beginning of object key string"
    if previous in ("", ",", ":", "["):
        return "looking for beginning of value"
    if not inside:
        return "after top-level value"
    if inside[-1] == "[":
        return "after array element"
    is_name = previous[0] == '"' and _name_comes_last(before)
    return "after object key" if is_name else "after object key:value pair"


def _name_comes_last(before: str) -> bool:
    string = re.search(r'"(?:[^"\\]|\\.)*"$', before)
    return string is not None and before[: string.start()].rstrip(" \t\r\n")[-1:] in "{,"
