"""Members of one cluster on this machine: `python -m cluster.local --help`.

Starts them together, shows what they say of themselves, and stops them together. It restarts none
that ended. However it ends itself, kill -9 included, no member outlives it.
"""

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

HOST = "127.0.0.1"
_POLL_SECONDS = 1.0
_STOP_SECONDS = 15.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AWAITED = {*_STOP_SIGNALS, signal.SIGCHLD}
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_libc = ctypes.CDLL(None)


@dataclass
class Member:
    """One server process and where it listens. The peer port is the one after the client's."""

    name: str
    client_port: int
    folder: Path
    certificates: Path | None = None
    """Of `cluster.tls`: then all connections have TLS, and show certificates."""
    process: subprocess.Popen[bytes] | None = None
    reported: bool = False
    """Whether its end was told."""

    @property
    def client_url(self) -> str:
        """Where clients reach it."""
        return f"{self._scheme}://{HOST}:{self.client_port}"

    @property
    def peer_url(self) -> str:
        """Where the other members reach it."""
        return f"{self._scheme}://{HOST}:{self.client_port + 1}"

    @property
    def _scheme(self) -> str:
        return "http" if self.certificates is None else "https"

    @property
    def log_file(self) -> Path:
        """All that it wrote, over all its starts."""
        return self.folder / f"{self.name}.log"

    def arguments(self, command: Sequence[str], members: "Sequence[Member]") -> list[str]:
        """Its whole command line."""
        return [
            *command,
            *("--name", self.name, "--data-dir", str(self.folder / f"{self.name}.etcd")),
            *("--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url),
            *("--listen-peer-urls", self.peer_url),
            *("--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", ",".join(f"{each.name}={each.peer_url}" for each in members)),
            *self._security(),
        ]

    def _security(self) -> list[str]:
        folder = self.certificates
        if folder is None:
            return []
        return [
            *("--cert-file", f"{folder}/server.crt", "--key-file", f"{folder}/server.key"),
            *("--client-cert-auth", "--trusted-ca-file", f"{folder}/ca.crt"),
            *("--peer-cert-file", f"{folder}/peer.crt", "--peer-key-file", f"{folder}/peer.key"),
            *("--peer-client-cert-auth", "--peer-trusted-ca-file", f"{folder}/ca.crt"),
        ]

    def start(self, arguments: Sequence[str]) -> None:
        """Start the process, so that it ends when this one does."""
        launcher = os.getpid()

        def with_its_parent() -> None:
            # Parent and mask are inherited: a member must hear SIGTERM, which this process awaits.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
            if os.getppid() != launcher:
                os._exit(1)

        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("ETCD_")
        }
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # Ctrl-C is for the launcher, which stops all of them in one way.
                start_new_session=True,
                preexec_fn=with_its_parent,
            )

    @property
    def ended(self) -> str | None:
        """How the process ended; None while it runs."""
        status = None if self.process is None else self.process.poll()
        if status is None:
            return None
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"

    def last_words(self) -> str:
        """The end of its log, on one line."""
        lines = self.log_file.read_text(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else ""


def stop(members: Sequence[Member]) -> list[Member]:
    """End all of them: SIGTERM, and SIGKILL for those (returned) that do not end in time.

    A second signal to this process cuts the time short.
    """
    running = [member for member in members if member.process and member.ended is None]
    for member in running:
        assert member.process is not None
        member.process.terminate()
        member.process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + _STOP_SECONDS
    while (left := deadline - time.monotonic()) > 0 and any(m.ended is None for m in running):
        heard = signal.sigtimedwait(_AWAITED, min(left, _POLL_SECONDS))
        if heard and heard.si_signo in _STOP_SIGNALS:
            break
    late = [member for member in running if member.ended is None]
    for member in late:
        assert member.process is not None
        member.process.kill()
        member.process.wait()
    return late


def _check_ports(members: Sequence[Member]) -> None:
    for member in members:
        for port in (member.client_port, member.client_port + 1):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError as error:
                    raise click.ClickException(
                        f"port {port} of {HOST} cannot be had for {member.name} "
                        f"({error.strerror}): does another cluster or member run here?"
                    ) from None


def _tell_ends(members: Sequence[Member], command: Sequence[str], flags: Sequence[str]) -> bool:
    """Print how members ended that was not told yet; True if there was one."""
    told = False
    for member in members:
        if member.ended is None or member.reported:
            continue
        member.reported = told = True
        again = shlex.join([*member.arguments(command, members), *flags])
        click.echo(f"{member.name} ended ({member.ended}); {member.log_file} ends with:")
        click.echo(f"  {member.last_words()}")
        click.echo(f"to start it again by hand:\n  {again}")
    return told


def _watch(members: Sequence[Member], command: Sequence[str], flags: Sequence[str]) -> None:
    """Show the members' state until a signal asks to stop, or all of them have ended."""
    from cluster.state import Observer, Screen  # after the forks: gRPC has threads

    urls = {member.name: member.client_url for member in members}
    observer = Observer(members[0].certificates)
    screen = Screen()
    while True:
        heard = signal.sigtimedwait(_AWAITED, _POLL_SECONDS)
        if heard and heard.si_signo in _STOP_SIGNALS:
            click.echo("\nstopping all members")
            return
        if _tell_ends(members, command, flags):
            screen.forget()
        ends = {member.name: member.ended for member in members if member.ended is not None}
        if len(ends) == len(members):
            return
        screen.show(observer.poll(urls, ends))


def _shown_trust(certificates: Path | None) -> str:
    if certificates is None:
        return ""
    files = {"cacert": "ca.crt", "cert": "client.crt", "key": "client.key"}
    return "".join(f" --{flag}={certificates / name}" for flag, name in files.items())


def _ports(_: click.Context, __: click.Parameter, text: str) -> list[int]:
    with suppress(ValueError):
        ports = [int(part) for part in text.split(",")]
        taken = {*ports, *(port + 1 for port in ports)}
        if all(0 < port < 65535 for port in ports) and len(taken) == 2 * len(ports):
            return ports
    raise click.BadParameter("ports, separated by commas, at least two apart")


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default="cluster.etcd",
    show_default=True,
    help="Folder of all data and logs. It stays: the next start goes on with it; remove it to "
    "begin anew.",
)
@click.option(
    "--client-ports",
    callback=_ports,
    default="2379,22379,32379",
    show_default=True,
    help="A member for each. Its peer port is the next one.",
)
@click.option(
    "--command",
    default=shlex.join([str(Path(sys.executable).with_name("rusd"))]),
    help="The server, which takes etcd's flags.  [default: this environment's rusd]",
)
@click.option(
    "--tls",
    is_flag=True,
    help="With TLS for clients and members. Makes certificates (see cluster/tls) in the data "
    "folder unless they are there.",
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def main(
    data: Path, client_ports: list[int], command: str, tls: bool, flags: tuple[str, ...]
) -> None:
    """Run the members of one cluster on this machine until Ctrl-C.

    FLAGS, after --, go to every member. Logs go to files in the data folder.
    """
    folder = data.absolute()
    certificates = folder / "certificates" if tls else None
    members = [
        Member(f"infra{number}", port, folder, certificates)
        for number, port in enumerate(client_ports, 1)
    ]
    server = shlex.split(command)
    _check_ports(members)
    folder.mkdir(parents=True, exist_ok=True)
    if certificates is not None and not certificates.exists():
        from cluster.tls.__main__ import write_all  # few members want it

        write_all(certificates)
    # From here on the signals wait until they are asked for, so none falls between two starts.
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    try:
        for member in members:
            member.start([*member.arguments(server, members), *flags])
        endpoints = ",".join(f"{HOST}:{port}" for port in client_ports)
        click.echo(f"{len(members)} members start; data and logs are in {folder}")
        trust = _shown_trust(certificates)
        click.echo(f"  etcdctl --endpoints={endpoints}{trust} endpoint status -w table")
        click.echo("Ctrl-C stops them all.")
        _watch(members, server, flags)
    except OSError as error:
        raise click.ClickException(f"cannot start {server[0]}: {error}") from None
    finally:
        asked = any(member.process and member.ended is None for member in members)
        late = stop(members)
    for member in late:
        click.echo(f"{member.name} did not stop in time and was killed")
    if not asked:
        raise click.ClickException("all members have ended")
    click.echo("all members are stopped")


if __name__ == "__main__":
    main()
