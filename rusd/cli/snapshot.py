"""`rusd snapshot`: saves, checks and restores backups, with the flags of etcdctl and etcdutl."""

import json
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.termui import progressbar

from rusd.config import ConfigError, load
from rusd.duration import parse_duration

# The rooms behind the commands are imported where they are needed: `rusd --help` and the server
# start without them.
if TYPE_CHECKING:
    from rusd.backup.reading import Advance, Backup, Status

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_KEEPALIVE_SECONDS: Final = 20.0
"""A server may take its time to begin; that it lives is known all the same."""
_FORMATS: Final = ("simple", "fields", "json", "table")


class Failed(click.ClickException):
    """It did not work; the exit code is 1."""


@click.group()
def snapshot() -> None:
    """Back up a member, and restore a cluster from a backup: etcd's, or rusd's."""


def _endpoint(_: click.Context, __: click.Parameter, text: str) -> str:
    """Return host:port or a URL, as it was given."""
    if "," in text:
        raise click.BadParameter("a backup is of one member: give one endpoint")
    url = urllib.parse.urlsplit(text if "://" in text else f"//{text}")
    if url.scheme not in ("", "http", "https") or not url.hostname or url.path.strip("/"):
        raise click.BadParameter(f"not of the form host:port or http(s)://host:port: {text}")
    return text


def _duration(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@snapshot.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--endpoints",
    "endpoint",
    callback=_endpoint,
    default="127.0.0.1:2379",
    envvar="ETCDCTL_ENDPOINTS",
    show_default=True,
    help="The member to back up.",
)
@click.option(
    "--cacert", type=_FILE, envvar="ETCDCTL_CACERT", help="CA that signed its certificate."
)
@click.option("--cert", type=_FILE, envvar="ETCDCTL_CERT", help="Certificate to show it.")
@click.option("--key", type=_FILE, envvar="ETCDCTL_KEY", help="Key of --cert.")
@click.option(
    "--user", envvar="ETCDCTL_USER", default="", help="NAME[:PASSWORD]; asks for the latter."
)
@click.option("--password", envvar="ETCDCTL_PASSWORD", help="Password, if --user has none.")
@click.option("--command-timeout", callback=_duration, help="Give up after this time (10m).")
def save(
    file: Path,
    endpoint: str,
    cacert: Path | None,
    cert: Path | None,
    key: Path | None,
    user: str,
    password: str | None,
    command_timeout: float | None,
) -> None:
    """Save a backup of a running member to FILE."""
    if (cert is None) != (key is None):
        raise click.UsageError("--cert and --key go together")
    if user and password is None:
        user, colon, password = user.partition(":")
        if not colon:
            password = click.prompt("Password", hide_input=True, err=True)
    from rusd.backup.download import download
    from rusd.backup.reading import DigestError
    from rusd.cli.ctl.client import Client, Failure
    from rusd.cli.ctl.methods import SNAPSHOT
    from rusd.cli.ctl.settings import Settings
    from rusd.pb.rpc_pb2 import SnapshotRequest

    files = {"cacert": cacert, "cert": cert, "key": key}
    settings = Settings.with_defaults(
        endpoints=(endpoint,),
        keepalive_timeout=_KEEPALIVE_SECONDS,
        **{name: str(path) for name, path in files.items() if path},
        **({"command_timeout": command_timeout} if command_timeout else {}),
    )
    with ExitStack() as stack:
        try:
            client = stack.enter_context(closing(Client(settings)))
            if user:
                client.log_in(user, password or "")
            size = download(
                client.listen(SNAPSHOT, SnapshotRequest(), command_timeout),
                file,
                lambda size: stack.enter_context(progress("Saving", size)),
            )
        except (Failure, DigestError, OSError) as error:
            raise Failed(f"no backup of {endpoint}: {error}") from None
    click.echo(f"Snapshot saved at {file} ({human(size)})")


_write_out = click.option(
    "-w",
    "--write-out",
    "form",
    type=click.Choice(_FORMATS),
    default="simple",
    show_default=True,
    help="How to print what was found.",
)


@snapshot.command()
@click.argument("file", metavar="FILE", type=_FILE)
@_write_out
def status(file: Path, form: str) -> None:
    """Show hash, revision, number of keys and size of a backup."""
    with _opened(file) as backup, progress("Reading", backup.size) as advance:
        found = backup.status(advance)
    click.echo(shown(found, form))


@snapshot.command()
@click.argument("file", metavar="FILE", type=_FILE)
@click.option("--skip-hash-check", is_flag=True, help="For a copy of a data directory's file.")
@_write_out
def verify(file: Path, skip_hash_check: bool, form: str) -> None:
    """Check every page, checksum and record of a backup."""
    with _opened(file) as backup:
        if not skip_hash_check:
            with progress("Checking the checksum", backup.size) as advance:
                backup.check_digest(advance)
        with progress("Checking pages and records", backup.size) as advance:
            backup.verify(advance)
        with progress("Reading", backup.size) as advance:
            found = backup.status(advance)
    click.echo(shown(found, form))
    click.echo(f"{file} is whole", err=True)


@snapshot.command()
@click.argument("file", metavar="FILE", type=_FILE)
@click.option("--data-dir", help="Directory to make.  [default: NAME.etcd]")
@click.option("--wal-dir", default="", help="Directory of the log, if not in --data-dir.")
@click.option("--name", default="default", show_default=True, help="Name of this member.")
@click.option(
    "--initial-cluster",
    default="default=http://localhost:2380",
    show_default=True,
    help="All members of the new cluster.",
)
@click.option(
    "--initial-cluster-token",
    default="etcd-cluster",
    show_default=True,
    help="Token of the new cluster.",
)
@click.option(
    "--initial-advertise-peer-urls",
    default="http://localhost:2380",
    show_default=True,
    help="Peer URLs of this member.",
)
@click.option("--skip-hash-check", is_flag=True, help="For a copy of a data directory's file.")
@click.option(
    "--bump-revision",
    "--revision-bump",
    "bump_revision",
    type=click.IntRange(0, 2**62),
    default=0,
    help="How much to raise the latest revision.",
)
@click.option(
    "--mark-compacted",
    is_flag=True,
    help="Let all up to the new revision count as compacted; goes with --bump-revision.",
)
def restore(
    file: Path,
    data_dir: str | None,
    wal_dir: str,
    name: str,
    initial_cluster: str,
    initial_cluster_token: str,
    initial_advertise_peer_urls: str,
    skip_hash_check: bool,
    bump_revision: int,
    mark_compacted: bool,
) -> None:
    """Make the data directory of a member of a new cluster from a backup.

    Run it for every member, with the same FILE; then start rusd with the same names and URLs.
    """
    from rusd.backup.restore import Bump, RestoreError
    from rusd.backup.restore import restore as make
    from rusd.node.bootstrap import founder

    if bool(bump_revision) != mark_compacted:
        raise click.UsageError(
            "--mark-compacted required if --bump-revision > 0, disallowed otherwise"
        )
    try:
        config = load(
            (
                *("--name", name, "--data-dir", data_dir or f"{name}.etcd"),
                *("--initial-cluster", initial_cluster),
                *("--initial-cluster-token", initial_cluster_token),
                *("--initial-advertise-peer-urls", initial_advertise_peer_urls),
            ),
            {},
        )
        config.check_bootstrap()
    except ConfigError as error:
        raise Failed(str(error)) from None
    with _opened(file) as backup:
        if not skip_hash_check:
            with progress("Checking the checksum", backup.size) as advance:
                backup.check_digest(advance)
        data = Path(config.data_dir)
        with progress("Restoring", backup.size) as advance:
            try:
                marks = make(
                    backup,
                    founder(config),
                    data,
                    wal_dir,
                    Bump(bump_revision, mark_compacted),
                    advance,
                )
            except RestoreError as error:
                raise Failed(str(error)) from None
        if backup.database.damaged_meta is not None:
            click.echo(f"Warning: {file}: {backup.database.damaged_meta}", err=True)
    click.echo(f"Restored revision {marks.revision} of {file} to {data}")


@contextmanager
def _opened(path: Path) -> "Iterator[Backup]":
    """The backup; what is wrong with it ends the command."""
    from rusd.backup.reading import Backup, DigestError
    from rusd.backup.schema import SchemaError
    from rusd.bbolt import BboltError

    try:
        with Backup(path) as backup:
            yield backup
    except DigestError as error:
        raise Failed(f"{path}: {error} (--skip-hash-check takes it as it is)") from None
    except (BboltError, SchemaError) as error:
        raise Failed(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise Failed(str(error)) from None


@contextmanager
def progress(label: str, size: int) -> "Iterator[Advance]":
    """A bar on stderr, where a person looks."""
    hidden = not sys.stderr.isatty()
    with progressbar(length=size, label=label, file=sys.stderr, hidden=hidden) as bar:
        yield bar.update


def shown(status: "Status", form: str) -> str:
    """A status as etcdutl prints it."""
    if form == "json":
        return json.dumps(status.document(), separators=(",", ":"))
    if form == "fields":
        names = ("Hash", "Revision", "Keys", "Size", "Version")
        values = status.document().values()
        return "\n".join(
            f'"{name}" : {json.dumps(value)}' for name, value in zip(names, values, strict=True)
        )
    cells = [
        f"{status.hash:x}",
        str(status.revision),
        str(status.total_key),
        human(status.total_size),
        status.version,
    ]
    if form == "simple":
        return ", ".join(cells)
    return _table(("HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"), cells)


def _table(heads: tuple[str, ...], cells: list[str]) -> str:
    widths = [max(map(len, column)) + 2 for column in zip(heads, cells, strict=True)]
    lines = ["─" * width for width in widths]
    return "\n".join(
        (
            f"┌{'┬'.join(lines)}┐",
            f"│{'│'.join(head.center(w) for head, w in zip(heads, widths, strict=True))}│",
            f"├{'┼'.join(lines)}┤",
            f"│{'│'.join(f'{cell} '.rjust(w) for cell, w in zip(cells, widths, strict=True))}│",
            f"└{'┴'.join(lines)}┘",
        )
    )


def human(size: int) -> str:
    """Bytes as etcdctl shows them: 53 kB, 1.2 GB."""
    if size < 10:
        return f"{size} B"
    value, units = float(size), iter(("B", "kB", "MB", "GB", "TB", "PB", "EB"))
    unit = next(units)
    while value >= 1000:
        value, unit = value / 1000, next(units)
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
