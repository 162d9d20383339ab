"""`help` and `options`: what the commands and the global flags are."""

import click

from rusd.cli.ctl.commands import Group, command
from rusd.cli.ctl.errors import Exit
from rusd.cli.ctl.session import Session
from rusd.cli.ctl.settings import GLOBAL_FLAGS


@command("help", "[command]")
def show_help(session: Session, words: tuple[str, ...]) -> None:  # noqa: ARG001
    """Say what a command does, as its --help does."""
    place = click.get_current_context().parent
    assert place is not None
    for word in words:
        group = place.command
        found = group.get_command(place, word) if isinstance(group, Group) else None
        if found is None:
            raise Exit(f"Unknown help topic {' '.join(words)}")
        place = click.Context(found, info_name=found.name, parent=place)
    click.echo(place.get_help())


@command("options", "")
def options(session: Session, words: tuple[str, ...]) -> None:  # noqa: ARG001
    """Say which flags every command takes."""
    ctx = click.get_current_context()
    formatter = ctx.make_formatter()
    formatter.write_dl([row for each in GLOBAL_FLAGS if (row := each.get_help_record(ctx))])
    click.echo(formatter.getvalue(), nl=False)
