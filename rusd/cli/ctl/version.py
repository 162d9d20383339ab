"""`version`."""

import click

import rusd
from rusd.cli.ctl.commands import command
from rusd.cli.ctl.session import Session


@command("version", "")
def version(session: Session, words: tuple[str, ...]) -> None:  # noqa: ARG001
    """Print the version, and that of the API."""
    click.echo(f"rusd ctl version: {rusd.__version__}")
    click.echo(f"API version: {'.'.join(rusd.ETCD_VERSION.split('.')[:2])}")
