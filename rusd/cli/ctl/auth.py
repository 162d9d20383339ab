"""`auth`: enable, disable, status."""

import click

from rusd.cli.ctl.client import Failure
from rusd.cli.ctl.commands import command, group
from rusd.cli.ctl.errors import bad_arguments
from rusd.cli.ctl.methods import (
    AUTH_DISABLE,
    AUTH_ENABLE,
    AUTH_STATUS,
    ROLE_ADD,
    USER_GRANT_ROLE,
)
from rusd.cli.ctl.session import Session
from rusd.pb import rpc_pb2 as rpc

_NO_ROOT_ROLE = "etcdserver: root user does not have root role"


def _none(words: tuple[str, ...], subcommand: str) -> None:
    if words:
        raise bad_arguments(f"auth {subcommand} command does not accept any arguments")


@command("enable", "")
def enable(session: Session, words: tuple[str, ...]) -> None:
    """Ask every client who it is; there has to be a user root."""
    _none(words, "enable")
    try:
        session.call(AUTH_ENABLE, rpc.AuthEnableRequest())
    except Failure as error:
        if error.text != _NO_ROOT_ROLE:
            raise
        _make_root(session)
        session.call(AUTH_ENABLE, rpc.AuthEnableRequest())
    click.echo("Authentication Enabled")


def _make_root(session: Session) -> None:
    try:
        session.call(ROLE_ADD, rpc.AuthRoleAddRequest(name="root"))
    except Failure as error:
        if error.text != "etcdserver: role name already exists":
            raise
    session.call(USER_GRANT_ROLE, rpc.AuthUserGrantRoleRequest(user="root", role="root"))


@command("disable", "")
def disable(session: Session, words: tuple[str, ...]) -> None:
    """Ask nobody any more who it is."""
    _none(words, "disable")
    session.call(AUTH_DISABLE, rpc.AuthDisableRequest())
    click.echo("Authentication Disabled")


@command("status", "")
def status(session: Session, words: tuple[str, ...]) -> None:
    """Show whether clients are asked who they are."""
    _none(words, "status")
    answer = session.call(AUTH_STATUS, rpc.AuthStatusRequest())
    session.printer.show(
        answer,
        lambda: (
            f"Authentication Status: {str(answer.enabled).lower()}\n"
            f"AuthRevision: {answer.authRevision}\n"
        ),
    )


auth = group("auth", "Users' rights, on or off.", enable, disable, status)
