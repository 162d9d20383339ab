"""Flags as etcdctl reads them: anywhere in the line, `--name value` or `--name=value`, Go's values.

click has the commands, their help and the completion; what it would read differently, and the
errors for it, are here.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import click

from rusd.cli.ctl.errors import Exit
from rusd.duration import parse_duration


class GoType(click.ParamType[Any]):
    """A value in Go's syntax, and the error that Go has for another."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        """`parse` raises ValueError with Go's text."""
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the parsed value; raise Exit for what cannot be."""
        if not isinstance(value, str) or (ctx is not None and ctx.resilient_parsing):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            shown = ", ".join(param.opts) if param else self.name
            raise Exit(f'invalid argument "{value}" for "{shown}" flag: {error}') from None


def parse_int(text: str, base: int = 0, bits: int = 64, signed: bool = True) -> int:
    """Do what Go's ParseInt (or ParseUint) does; ValueError has its text."""
    function = "strconv.ParseInt" if signed else "strconv.ParseUint"
    try:
        if not text.isascii() or text != text.strip() or (base and "_" in text):
            raise ValueError
        if not signed and text[:1] in ("+", "-"):
            raise ValueError
        octal = base == 0 and text.lstrip("+-").isdigit() and text.lstrip("+-").startswith("0")
        if base == 16 and "x" in text.lower():
            raise ValueError
        number = int(text, 8 if octal else base)
    except ValueError:
        raise ValueError(f'{function}: parsing "{text}": invalid syntax') from None
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if not low <= number <= high:
        raise ValueError(f'{function}: parsing "{text}": value out of range')
    return number


_BOOLEANS: Final = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def _boolean(text: str) -> bool:
    if text not in _BOOLEANS:
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return _BOOLEANS[text]


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError(f'time: invalid duration "{text}"') from None


INT: Final = GoType("int", parse_int)
UINT: Final = GoType("uint", partial(parse_int, signed=False))
BOOL: Final = GoType("bool", _boolean)
SECONDS: Final = GoType("duration", _duration)
TEXT: Final = GoType("string", str)


class Switch(click.Option):
    """A flag that is on when it is there, or says `=false`."""

    def make_metavar(self, ctx: click.Context) -> str:  # noqa: ARG002
        """Show no value."""
        return ""


def switch(name: str, text: str, default: bool = False, *, short: str = "") -> click.Option:
    """`--name`, `--name=true` or `--name=false`."""
    names = [f"-{short}", f"--{name}"] if short else [f"--{name}"]
    return Switch(names, type=BOOL, default=default, help=text)


def flag(
    name: str, kind: GoType, default: Any, text: str, *, short: str = "", values: Sequence[str] = ()
) -> click.Option:
    """`--name value`; `values` are what completion offers."""
    names = [f"-{short}", f"--{name}"] if short else [f"--{name}"]

    def offer(ctx: click.Context, param: click.Parameter, start: str) -> list[str]:  # noqa: ARG001
        return [each for each in values if each.startswith(start)]

    return click.Option(
        names,
        type=kind,
        default=default,
        help=text,
        metavar=kind.name,
        show_default=default not in ("", 0),
        shell_complete=offer if values else None,
    )


def read(
    args: Sequence[str], options: Sequence[click.Option], *, interspersed: bool
) -> tuple[list[str], list[str]]:
    """Part `args` into flags, as `--name=value` each, and the words; raise Exit with Go's errors.

    Flags end at `--`, which stays among the words, and where they are not interspersed at the
    first word.
    """
    known = {name: option for option in options for name in option.opts}
    flags: list[str] = []
    words: list[str] = []
    waiting = iter(args)
    for word in waiting:
        if word == "--":
            return flags, [*words, word, *waiting]
        if word.startswith("--"):
            flags.append(_long(word, known, waiting))
        elif word.startswith("-") and word != "-":
            flags.extend(_short(word, known, waiting))
        else:
            words.append(word)
            if not interspersed:
                return flags, [*words, *waiting]
    return flags, words


def _long(word: str, known: dict[str, click.Option], waiting: Iterator[str]) -> str:
    name, equals, value = word.partition("=")
    option = known.get(name)
    if option is None:
        raise Exit(f"unknown flag: {name}")
    if option.is_flag:  # --help
        return name
    return f"{name}={value if equals else _value(option, waiting, name)}"


def _short(word: str, known: dict[str, click.Option], waiting: Iterator[str]) -> Iterator[str]:
    rest = word[1:]
    while rest:
        letter, rest = rest[0], rest[1:]
        option = known.get(f"-{letter}")
        if option is None:
            raise Exit(f"unknown shorthand flag: '{letter}' in {word}")
        name = option.opts[-1]
        if option.is_flag:
            yield name
        elif rest.startswith("=") and len(rest) > 1:
            yield f"{name}={rest[1:]}"
            return
        elif isinstance(option, Switch):
            yield f"{name}=true"
        else:
            value = rest or _value(option, waiting, f"'{letter}' in {word}")
            yield f"{name}={value}"
            return


def _value(option: click.Option, waiting: Iterator[str], shown: str) -> str:
    if isinstance(option, Switch):
        return "true"
    value = next(waiting, None)
    if value is None:
        raise Exit(f"flag needs an argument: {shown}")
    return value
