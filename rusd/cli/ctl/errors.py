"""How a command of `rusd ctl` ends when it does not succeed: etcdctl's texts and exit codes."""

from enum import IntEnum
from typing import IO, Any

import click


class Code(IntEnum):
    """etcdctl's exit codes."""

    ERROR = 1
    BAD_CONNECTION = 2
    INVALID_INPUT = 3
    BAD_FEATURE = 4
    INTERRUPTED = 5
    IO = 6
    BAD_ARGUMENTS = 128


class Exit(click.ClickException):
    """The command ends with a code and, if there is a text, `Error: text`."""

    def __init__(self, message: str = "", code: int = Code.ERROR) -> None:
        """Keep both."""
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the text as etcdctl does."""
        if self.message:
            prefix = click.style("Error:", fg="red")
            click.echo(f"{prefix} {self.message}", file=file, err=file is None)


def bad_arguments(text: str) -> Exit:
    """Return what ends a command whose arguments make no sense."""
    return Exit(text, Code.BAD_ARGUMENTS)


def unsupported(form: str) -> Exit:
    """Return what ends a command whose answer has no such form."""
    return Exit(f"{form} not supported as output format", Code.BAD_FEATURE)
