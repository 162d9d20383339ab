"""`completion`: the script that lets a shell complete `rusd` and all that is below it."""

from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

from rusd.cli.ctl.commands import Command, command, group
from rusd.cli.ctl.session import Session

_PROGRAM: Final = "rusd"
_VARIABLE: Final = "_RUSD_COMPLETE"
_SHELLS: Final = ("bash", "fish", "powershell", "zsh")
"""Of which click before 8.5 has no powershell."""


def _script(shell: str, made: type[ShellComplete]) -> Command:
    @command(shell, "")
    def write(session: Session, words: tuple[str, ...]) -> None:  # noqa: ARG001
        click.echo(made(click.Group(), {}, _PROGRAM, _VARIABLE).source())

    write.help = f"Print the script for {shell}."
    return write


completion = group(
    "completion",
    "Scripts that complete commands and flags.",
    *(_script(shell, made) for shell in _SHELLS if (made := get_completion_class(shell))),
)
