"""`user`: add, delete, get, list, passwd, grant-role, revoke-role."""

import sys
from functools import partial

import click

from rusd.cli.ctl.commands import command, group
from rusd.cli.ctl.errors import bad_arguments
from rusd.cli.ctl.flags import TEXT, flag, switch
from rusd.cli.ctl.methods import (
    ROLE_GET,
    USER_ADD,
    USER_CHANGE_PASSWORD,
    USER_DELETE,
    USER_GET,
    USER_GRANT_ROLE,
    USER_LIST,
    USER_REVOKE_ROLE,
)
from rusd.cli.ctl.roles import described
from rusd.cli.ctl.session import Session, ask_password
from rusd.pb import auth_pb2 as auth
from rusd.pb import rpc_pb2 as rpc

_INTERACTIVE = switch("interactive", "Ask twice; =false takes a line of standard input.", True)


def _named(words: tuple[str, ...], subcommand: str) -> str:
    if len(words) != 1:
        raise bad_arguments(f"user {subcommand} command requires user name as its argument")
    return words[0]


def _new_password(user: str, interactive: bool) -> str:
    if not interactive:
        return sys.stdin.readline().split("\n")[0].strip()
    first = ask_password(f"Password of {user}: ")
    if not first:
        raise bad_arguments("empty password")
    if ask_password(f"Type password of {user} again for confirmation: ") != first:
        raise bad_arguments("given passwords are different")
    return first


@command(
    "add",
    "<user name or user:password> [options]",
    _INTERACTIVE,
    flag("new-user-password", TEXT, "", "The password."),
    switch("no-password", "Without one: known by a certificate alone."),
)
def add(
    session: Session,
    words: tuple[str, ...],
    interactive: bool,
    new_user_password: str,
    no_password: bool,
) -> None:
    """Add a user."""
    name, password = _named(words, "add"), ""
    if not no_password:
        if new_user_password:
            password = new_user_password
        else:
            name, colon, password = name.partition(":")
            if not colon:
                password = _new_password(name, interactive)
            elif not name:
                raise bad_arguments("empty user name is not allowed")
    request = rpc.AuthUserAddRequest(
        name=name, password=password, options=auth.UserAddOptions(no_password=no_password)
    )
    answer = session.call(USER_ADD, request)
    session.printer.show(answer, lambda: f"User {name} created\n")


@command("delete", "<user name>")
def delete(session: Session, words: tuple[str, ...]) -> None:
    """Delete a user."""
    name = _named(words, "delete")
    answer = session.call(USER_DELETE, rpc.AuthUserDeleteRequest(name=name))
    session.printer.show(answer, lambda: f"User {name} deleted\n")


@command("get", "<user name> [options]", switch("detail", "Also what each role permits."))
def get(session: Session, words: tuple[str, ...], detail: bool) -> None:
    """Show the roles of a user."""
    name = _named(words, "get")
    answer = session.call(USER_GET, rpc.AuthUserGetRequest(name=name))
    if not detail:
        session.printer.show(
            answer, lambda: f"User: {name}\nRoles:{''.join(f' {each}' for each in answer.roles)}\n"
        )
        return
    click.echo(f"User: {name}")
    for each in answer.roles:
        click.echo()
        role = session.call(ROLE_GET, rpc.AuthRoleGetRequest(role=each))
        session.printer.show(role, partial(described, each, role))


@command("list", "")
def list_users(session: Session, words: tuple[str, ...]) -> None:
    """List the users."""
    if words:
        raise bad_arguments("user list command requires no arguments")
    answer = session.call(USER_LIST, rpc.AuthUserListRequest())
    session.printer.show(answer, lambda: "".join(f"{each}\n" for each in answer.users))


@command("passwd", "<user name> [options]", _INTERACTIVE)
def passwd(session: Session, words: tuple[str, ...], interactive: bool) -> None:
    """Change the password of a user."""
    name = _named(words, "passwd")
    password = _new_password(name, interactive)
    request = rpc.AuthUserChangePasswordRequest(name=name, password=password)
    answer = session.call(USER_CHANGE_PASSWORD, request)
    session.printer.show(answer, lambda: "Password updated\n")


@command("grant-role", "<user name> <role name>")
def grant_role(session: Session, words: tuple[str, ...]) -> None:
    """Give a role to a user."""
    if len(words) != 2:
        raise bad_arguments("user grant command requires user name and role name as its argument")
    name, role = words
    answer = session.call(USER_GRANT_ROLE, rpc.AuthUserGrantRoleRequest(user=name, role=role))
    session.printer.show(answer, lambda: f"Role {role} is granted to user {name}\n")


@command("revoke-role", "<user name> <role name>")
def revoke_role(session: Session, words: tuple[str, ...]) -> None:
    """Take a role from a user."""
    if len(words) != 2:
        raise bad_arguments("user revoke-role requires user name and role name as its argument")
    name, role = words
    answer = session.call(USER_REVOKE_ROLE, rpc.AuthUserRevokeRoleRequest(name=name, role=role))
    session.printer.show(answer, lambda: f"Role {role} is revoked from user {name}\n")


user = group("user", "Users.", add, delete, get, list_users, passwd, grant_role, revoke_role)
