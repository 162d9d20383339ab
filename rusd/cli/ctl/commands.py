"""The shape of `rusd ctl`: groups and commands that take the global flags at any place."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from rusd.cli.ctl.errors import Exit
from rusd.cli.ctl.flags import read
from rusd.cli.ctl.settings import GLOBAL_FLAGS, GLOBAL_NAMES, Settings
from rusd.cli.lazy import LazyGroup

_ARGUMENTS: Final = "words"
_CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Flagged(click.Command):
    """A command or a group with the global flags beside its own."""

    keep_separator = False
    """Whether `--` stays among the words."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return its own parameters and the global ones."""
        own = super().get_params(ctx)
        taken = {name for each in own for name in each.opts}
        return [*own, *(each for each in GLOBAL_FLAGS if taken.isdisjoint(each.opts))]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write its own flags, then the global ones."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], "Global options": []}
        for param in self.get_params(ctx):
            if not isinstance(param, click.Option):
                continue  # the usage has them
            record = param.get_help_record(ctx)
            if record is not None:
                title = "Global options" if param in GLOBAL_FLAGS else "Options"
                sections[title].append(record)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the line as etcdctl does; give click what it reads alike."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        group = isinstance(self, click.Group)
        try:
            flags, words = read(args, options, interspersed=not group)
        except Exit:
            if not ctx.resilient_parsing:
                raise
            flags, words = [], args  # completion: the line is not finished
        if "--" in words and not self.keep_separator:
            words.remove("--")
        return super().parse_args(ctx, [*flags, "--", *words])


class Command(_Flagged):
    """A command whose function is given a Session, the words of the line, and its own flags."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage that the command was made with."""
        formatter.write_usage(ctx.command_path, self.options_metavar or "")

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function with an open session; raise Exit as it ends."""
        from rusd.cli.ctl.session import Session

        assert self.callback is not None
        own = {name: value for name, value in ctx.params.items() if name not in GLOBAL_NAMES}
        settings = Settings.of(ctx)
        for name in settings.unknown_variables():
            click.echo(f"unrecognized environment variable {name}={os.environ[name]}", err=True)
        with Session(settings) as session:
            return ctx.invoke(self.callback, session, tuple(own.pop(_ARGUMENTS)), **own)


def command(
    name: str, usage: str, *flags: click.Option, keep_separator: bool = False
) -> Callable[[Callable[..., None]], Command]:
    """Make a function a command; its docstring is the help."""

    def make(function: Callable[..., None]) -> Command:
        made = Command(
            name,
            callback=function,
            params=[*flags, click.Argument([_ARGUMENTS], nargs=-1, type=click.UNPROCESSED)],
            context_settings=_CONTEXT,
            help=function.__doc__,
            options_metavar=f"{usage} [flags]".strip(),
        )
        made.keep_separator = keep_separator
        return made

    return make


@click.pass_context
def _show_help(ctx: click.Context, /, **_: object) -> None:
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class Group(_Flagged, LazyGroup):
    """Commands by name, or by the beginning of a name that no other one shares.

    `rooms` maps names to the modules of this package that have them.
    """

    keep_separator = True

    def __init__(self, name: str, text: str, rooms: dict[str, str] | None = None) -> None:
        """An empty group, but for `rooms`."""
        super().__init__(
            name,
            help=text,
            callback=_show_help,
            invoke_without_command=True,
            no_args_is_help=False,
            context_settings=_CONTEXT,
            rooms={each: f"rusd.cli.ctl.{room}" for each, room in (rooms or {}).items()},
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or of the one name that begins so."""
        names = self.list_commands(ctx)
        if cmd_name not in names:
            found = [each for each in names if each.startswith(cmd_name)]
            if len(found) != 1 or not cmd_name:
                return None
            cmd_name = found[0]
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; raise Exit if there is none."""
        found = self.get_command(ctx, args[0])
        if found is None and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx))
            hint = "".join(["\n\nDid you mean this?", *(f"\n\t{each}" for each in near), "\n"])
            hint = hint if near else ""
            raise Exit(f'unknown command "{args[0]}" for "{ctx.command_path}"{hint}')
        return (found.name if found else None), found, args[1:]


def group(
    name: str, text: str, *commands: click.Command, flags: Sequence[click.Option] = ()
) -> Group:
    """Return a group of these commands; `flags` may stand before their names as well."""
    made = Group(name, text)
    made.params.extend(flags)
    for each in commands:
        made.add_command(each)
    return made


def as_bytes(words: Sequence[str]) -> list[bytes]:
    """Return words of the command line as they were given, UTF-8 or not."""
    return [os.fsencode(each) for each in words]
