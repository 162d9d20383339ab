"""`snapshot`: save, with the global flags; what is done to files is `rusd snapshot`'s."""

from contextlib import ExitStack
from pathlib import Path

import click

from rusd.backup.download import DownloadError, Endpoint, download
from rusd.backup.reading import DigestError
from rusd.cli import snapshot as files
from rusd.cli.ctl.client import address
from rusd.cli.ctl.commands import command, group
from rusd.cli.ctl.errors import Exit, bad_arguments
from rusd.cli.ctl.session import Session, credentials


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
    if settings.auth_jwt_token or settings.insecure_skip_tls_verify:
        raise bad_arguments(
            "snapshot save takes neither --auth-jwt-token nor --insecure-skip-tls-verify;"
            " it takes --user and --cacert"
        )
    cacert, cert, key = (
        Path(path) if path else None for path in (settings.cacert, settings.cert, settings.key)
    )
    endpoint = Endpoint(
        *address(settings.endpoints[0], settings),
        cacert,
        cert,
        key,
        *credentials(settings),
    )
    path = Path(words[0])
    limit = settings.command_timeout if settings.command_timeout_given else None
    with ExitStack() as stack:
        try:
            download(
                endpoint,
                path,
                lambda size: stack.enter_context(files.progress("Saving", size)),
                limit,
            )
        except (DownloadError, DigestError, OSError) as error:
            raise Exit(str(error)) from None
    click.echo(f"Snapshot saved at {path}")


snapshot = group("snapshot", "Backups.", save, files.status, files.verify, files.restore)
