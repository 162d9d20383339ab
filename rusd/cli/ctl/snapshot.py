"""`snapshot`: with the global flags; what is done to files is `rusd snapshot`'s."""

from contextlib import ExitStack
from pathlib import Path

import click

from rusd.backup.download import download
from rusd.backup.reading import DigestError
from rusd.cli import snapshot as files
from rusd.cli.ctl.commands import command, group
from rusd.cli.ctl.errors import Exit, bad_arguments, unsupported
from rusd.cli.ctl.flags import switch
from rusd.cli.ctl.methods import SNAPSHOT
from rusd.cli.ctl.session import Session
from rusd.pb.rpc_pb2 import SnapshotRequest


@command("save", "<filename>")
def save(session: Session, words: tuple[str, ...]) -> None:
    """Save a backup of a running member, which takes as long as it takes."""
    if len(words) != 1:
        raise bad_arguments("snapshot save expects one argument")
    settings = session.settings
    if len(settings.endpoints) != 1:
        raise bad_arguments(
            "snapshot must be requested to one selected node,"
            f" not multiple [{' '.join(settings.endpoints)}]"
        )
    path = Path(words[0])
    limit = settings.command_timeout if settings.command_timeout_given else None
    answers = session.client.listen(SNAPSHOT, SnapshotRequest(), limit)
    with ExitStack() as stack:
        try:
            download(
                answers, path, lambda size: stack.enter_context(files.progress("Saving", size))
            )
        except (DigestError, OSError) as error:
            raise Exit(str(error)) from None
    click.echo(f"Snapshot saved at {path}")


@command("status", "<filename>")
def status(session: Session, words: tuple[str, ...]) -> None:
    """Show hash, revision, number of keys and size of a backup."""
    _examine(session, words, files.status)


@command(
    "verify",
    "<filename>",
    switch("skip-hash-check", "For a copy of a data directory's file."),
)
def verify(session: Session, words: tuple[str, ...], skip_hash_check: bool) -> None:
    """Check every page, checksum and record of a backup."""
    _examine(session, words, files.verify, skip_hash_check=skip_hash_check)


def _examine(
    session: Session, words: tuple[str, ...], program: click.Command, **given: bool
) -> None:
    if len(words) != 1:
        raise bad_arguments(f"snapshot {program.name} requires exactly one argument")
    form = session.printer.name
    if form == "protobuf":
        raise unsupported(form)
    click.get_current_context().invoke(program, file=Path(words[0]), form=form, **given)


snapshot = group("snapshot", "Backups.", save, status, verify, files.restore)
