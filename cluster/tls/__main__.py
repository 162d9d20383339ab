"""All certificates that a lab needs, with one command: `python -m cluster.tls --help`."""

from pathlib import Path

import click
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.tls.authority import LOCAL, Authority

_NAME = "rusd lab CA"


def write_all(folder: Path, hosts: tuple[str, ...] = (), users: tuple[str, ...] = ()) -> None:
    """Write a new authority, and everything that it signs, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    everywhere = tuple(dict.fromkeys((*LOCAL, *hosts)))
    authority = Authority.create(_NAME)
    authority.credential.write(folder, "ca")
    authority.issue("rusd server", everywhere).write(folder, "server")
    authority.issue("rusd peer", everywhere).write(folder, "peer")
    authority.issue("", server=False).write(folder, "client")
    for user in dict.fromkeys(("root", *users)):
        authority.issue(user, server=False).write(folder, f"user-{user}")
    authority.issue("expired", everywhere, days=-1).write(folder, "expired")
    revoked = authority.issue("revoked", everywhere)
    revoked.write(folder, "revoked")
    authority.revoke(revoked)
    (folder / "crl.pem").write_bytes(authority.revocations())
    (folder / "crl.der").write_bytes(authority.revocations(Encoding.DER))
    stranger = Authority.create(_NAME)  # only its key is another
    stranger.credential.write(folder, "wrong-ca")
    stranger.issue("stranger", everywhere).write(folder, "wrong")


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="certs",
    show_default=True,
    help="Folder to write to. What is there under the same names is replaced.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    help="A name or address of a member, beside localhost, 127.0.0.1 and ::1. Repeatable.",
)
@click.option(
    "--user",
    "users",
    multiple=True,
    help="A user, beside root, to make a client certificate for. Repeatable.",
)
def main(out: Path, hosts: tuple[str, ...], users: tuple[str, ...]) -> None:
    """Make a lab's certificates: authority, server, peer, clients, and the bad ones."""
    write_all(out, hosts, users)
    click.echo(f"certificates and keys are in {out}")


if __name__ == "__main__":
    main()
