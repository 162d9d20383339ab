"""`completion`: the script that lets a shell complete `rusd` and all that is below it."""

import click
from click.shell_completion import get_completion_class

from rusd.cli.ctl.commands import Command, command, group
from rusd.cli.ctl.session import Session

_PROGRAM = "rusd"
_VARIABLE = "_RUSD_COMPLETE"


def _script(shell: str) -> Command:
    @command(shell, "")
    def write(session: Session, words: tuple[str, ...]) -> None:  # noqa: ARG001
        found = get_completion_class(shell)
        assert found is not None, shell
        click.echo(found(click.Group(), {}, _PROGRAM, _VARIABLE).source())

    write.help = f"Print the script for {shell}."
    return write


completion = group(
    "completion",
    "Scripts that complete commands and flags.",
    *map(_script, ("bash", "fish", "zsh")),
)
