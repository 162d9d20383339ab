"""The `rusd` command: bare it is the server, with etcd's flags; its first word may be a command.

Flags are read by `rusd.config`, which has their table and Go's syntax for them; click has the
command, its help and its errors.
"""

import gc
import os
from typing import Final, NoReturn

import click

import rusd
from rusd.cli.lazy import LazyGroup
from rusd.cli.manual import INTRODUCTION, SECTIONS, WITHOUT_EFFECT
from rusd.config import FLAGS, Config, ConfigError, load, read_arguments

_COMMANDS: Final = {
    "healthcheck": "rusd.cli.healthcheck",
    "snapshot": "rusd.cli.snapshot",
    "ctl": "rusd.cli.ctl",
    "check": "rusd.cli.ctl",
}


class ServerCommand(LazyGroup):
    """A command whose options are the flags of `rusd.config.FLAGS`, with commands below it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave help and version to click's way of ending; keep the rest for the server."""
        if args and args[0] in self.rooms:
            return super().parse_args(ctx, args)
        try:
            given = read_arguments(args)
        except ConfigError as error:
            _stop(ctx, error)
        if "help" in given or "h" in given:
            click.echo(self.get_help(ctx))
            ctx.exit()
        if given.get("version") == "true":
            click.echo(_version())
            ctx.exit()
        ctx.args = args
        return []

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the two usages that there are."""
        formatter.write_usage(ctx.command_path, "[flags] | COMMAND [options]")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, and the flags in etcd's groups, each with its default."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, each.get_short_help_str(100))
                    for name in self.rooms
                    if (each := self.get_command(ctx, name)) is not None
                ]
            )
        with formatter.section("General"):
            formatter.write_dl(
                [
                    ("--config-file file", "read all settings from a YAML file"),
                    ("--version", "show versions"),
                    ("--help, -h", "show this"),
                ]
            )
        groups: dict[str, list[tuple[str, str]]] = {}
        for flag in FLAGS.values():
            text = f"{flag.help} ({flag.default})" if flag.default else flag.help
            group = WITHOUT_EFFECT if flag.ignored else flag.group
            groups.setdefault(group, []).append((f"--{flag.name} {flag.syntax.shown}", text))
        last = groups.pop(WITHOUT_EFFECT)
        for group, rows in (*groups.items(), (WITHOUT_EFFECT, last), *SECTIONS.items()):
            with formatter.section(group):
                formatter.write_dl(rows, col_max=44)


@click.group(
    "rusd",
    cls=ServerCommand,
    rooms=_COMMANDS,
    help=INTRODUCTION,
    context_settings={"max_content_width": 100},
    add_help_option=False,
    invoke_without_command=True,
)
@click.pass_context
def _serve(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is not None:
        return
    try:
        config = load(ctx.args, os.environ)
        if not _has_data(config):
            config.check_bootstrap()
        if config.uses_tls:
            from rusd.tls.settings import check  # without TLS it is not needed

            check(config)
        # What is imported stays: to walk it took the collector a tenth of the time to start.
        gc.disable()
        # After the checks, so that help and refusals are quick.
        from rusd.auth.provider import provider

        provider(config.auth_token, config.auth_token_ttl)
        from rusd.server import run
        from rusd.signals import end

        gc.freeze()
        gc.enable()
        code = end(run(config))
    except ConfigError as error:
        _stop(ctx, error)
    ctx.exit(code)


def main() -> NoReturn:
    """Run the `rusd` command: the console script."""
    _serve.main(prog_name="rusd", windows_expand_args=False)
    raise SystemExit(0)


def _has_data(config: Config) -> bool:
    return os.path.isdir(os.path.join(config.data_dir, "member"))


def _stop(ctx: click.Context, error: ConfigError) -> NoReturn:
    text = str(error).replace("\n", "\\n")
    click.echo(f"rusd: {text}", err=True)
    ctx.exit(error.exit_code)


def _version() -> str:
    import importlib.metadata  # here, as the server starts without it; 30 ms
    import platform

    return "\n".join(
        (
            f"rusd {rusd.__version__}",
            f"etcd Version: {rusd.ETCD_VERSION}",
            f"Python Version: {platform.python_version()}",
            f"rocksdict Version: {importlib.metadata.version('rocksdict')}",
        )
    )
