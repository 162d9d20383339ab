"""What a command works with: the settings, a client that connects when it is needed, a printer."""

import sys
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Self, TypeVar

import click

from rusd.cli.ctl.client import Client, Failure
from rusd.cli.ctl.errors import Code, Exit
from rusd.cli.ctl.methods import Method, Request, Response
from rusd.cli.ctl.printing import Printer, printer
from rusd.cli.ctl.settings import GLOBAL_FLAGS, Settings, variable_of
from rusd.duration import format_duration

T = TypeVar("T")


class Session:
    """One run of a command."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is opened yet."""
        self._given = settings
        self._client: Client | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close what was opened; a failure becomes etcdctl's error."""
        if self._client is not None:
            self._client.close()
        if isinstance(error, Failure):
            raise Exit(error.text) from None

    @cached_property
    def settings(self) -> Settings:
        """The settings, with the endpoints that DNS names where it is to; raises Exit."""
        if not self._given.discovery_srv:
            return self._given
        from rusd.cli.ctl.discovery import discovered

        return replace(self._given, endpoints=discovered(self._given))

    @cached_property
    def printer(self) -> Printer:
        """Prints answers in the form asked for; raises Exit where there is no such form."""
        return printer(self._given.write_out, self._given.hex)

    @property
    def client(self) -> Client:
        """The client, logged in; raises Exit where the settings give none."""
        if self._client is None:
            _ = self.printer  # a form that does not exist ends the command before anything is done
            if self.settings.debug:
                _show(self.settings)
            self._client = connected(self.settings)
        return self._client

    def call(self, method: Method[Request, Response], request: Request) -> Response:
        """Ask a member that answers; raises Failure."""
        return self.client.call(method, request)


def credentials(settings: Settings) -> tuple[str, str]:
    """Return user and password, which is asked for where the settings have none."""
    user, password = settings.user, settings.password
    if user and not password:
        user, colon, password = user.partition(":")
        if not colon:
            password = ask_password("Password: ")
    return user, password


def connected(settings: Settings) -> Client:
    """Return a client that has logged in, if a user is given; raise Exit if it cannot be."""
    user, password = credentials(settings)
    try:
        client = Client(settings)
    except (OSError, ValueError) as error:
        reason = f"open {error.filename}: {_lower(error)}" if isinstance(error, OSError) else error
        raise Exit(str(reason), Code.BAD_ARGUMENTS) from None
    if user and password:
        try:
            client.log_in(user, password)
        except Failure as failure:
            client.close()
            raise Exit(failure.text, Code.BAD_CONNECTION) from None
    return client


def ask_password(prompt: str) -> str:
    """Read a line that is not shown where a person types it."""
    if sys.stdin.isatty():
        answer: str = click.prompt(
            prompt, prompt_suffix="", hide_input=True, default="", show_default=False
        )
        return answer
    click.echo(prompt)
    return sys.stdin.readline().rstrip("\r\n")


def _lower(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _show(settings: Settings) -> None:
    """Write the settings as their variables; secrets by their presence alone."""
    for option in sorted(GLOBAL_FLAGS, key=lambda each: each.name or ""):
        name = option.name or ""
        value = getattr(settings, name)
        if name in ("password", "auth_jwt_token"):
            value = "<given>" if value else ""
        elif name == "user":
            value = value.partition(":")[0]
        elif isinstance(value, bool):
            value = str(value).lower()
        elif isinstance(value, float):
            value = format_duration(value)
        elif isinstance(value, tuple):
            value = f"[{','.join(value)}]"
        click.echo(f"{variable_of(name)}={value}", err=True)
