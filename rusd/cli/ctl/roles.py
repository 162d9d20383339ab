"""`role`: add, delete, get, list, grant-permission, revoke-permission."""

from typing import Final

from rusd.cli.ctl.commands import as_bytes, command, group
from rusd.cli.ctl.errors import bad_arguments
from rusd.cli.ctl.flags import switch
from rusd.cli.ctl.kv import prefix_end
from rusd.cli.ctl.methods import (
    ROLE_ADD,
    ROLE_DELETE,
    ROLE_GET,
    ROLE_GRANT,
    ROLE_LIST,
    ROLE_REVOKE,
)
from rusd.cli.ctl.session import Session
from rusd.pb import auth_pb2 as auth
from rusd.pb import rpc_pb2 as rpc

_OPEN: Final = b"\0"
_RANGE_FLAGS: Final = (
    switch("from-key", "All keys from this one on."),
    switch("prefix", "All keys that begin so."),
)


def _named(words: tuple[str, ...], subcommand: str) -> str:
    if len(words) != 1:
        raise bad_arguments(f"role {subcommand} command requires role name as its argument")
    return words[0]


def described(name: str, role: rpc.AuthRoleGetResponse) -> bytes:
    """Return what a role permits, in the form `simple`."""
    permits = auth.Permission
    lines = [f"Role {name}".encode(), b"KV Read:"]
    lines += [
        _permission(each)
        for each in role.perm
        if each.permType in (permits.READ, permits.READWRITE)
    ]
    lines.append(b"KV Write:")
    lines += [
        _permission(each)
        for each in role.perm
        if each.permType in (permits.WRITE, permits.READWRITE)
    ]
    return b"\n".join(lines) + b"\n"


def _permission(each: auth.Permission) -> bytes:
    if not each.range_end:
        return b"\t" + each.key
    if each.range_end == _OPEN:
        return b"\t[" + each.key + b", <open ended>"
    shown = b"\t[" + each.key + b", " + each.range_end + b")"
    if each.range_end == prefix_end(each.key):
        shown += b" (prefix " + each.key + b")"
    return shown


@command("add", "<role name>")
def add(session: Session, words: tuple[str, ...]) -> None:
    """Add a role."""
    name = _named(words, "add")
    answer = session.call(ROLE_ADD, rpc.AuthRoleAddRequest(name=name))
    session.printer.show(answer, lambda: f"Role {name} created\n")


@command("delete", "<role name>")
def delete(session: Session, words: tuple[str, ...]) -> None:
    """Delete a role."""
    name = _named(words, "delete")
    answer = session.call(ROLE_DELETE, rpc.AuthRoleDeleteRequest(role=name))
    session.printer.show(answer, lambda: f"Role {name} deleted\n")


@command("get", "<role name>")
def get(session: Session, words: tuple[str, ...]) -> None:
    """Show what a role permits."""
    name = _named(words, "get")
    answer = session.call(ROLE_GET, rpc.AuthRoleGetRequest(role=name))
    session.printer.show(answer, lambda: described(name, answer))


@command("list", "")
def list_roles(session: Session, words: tuple[str, ...]) -> None:
    """List the roles."""
    if words:
        raise bad_arguments("role list command requires no arguments")
    answer = session.call(ROLE_LIST, rpc.AuthRoleListRequest())
    session.printer.show(answer, lambda: "".join(f"{each}\n" for each in answer.roles))


def _key_range(words: list[bytes], prefix: bool, from_key: bool) -> tuple[bytes, bytes]:
    """Return key and end that the line names; raise Exit where it is two."""
    if prefix and from_key:
        raise bad_arguments("--from-key and --prefix flags are mutually exclusive")
    key = words[0]
    if prefix or from_key:
        if len(words) > 1:
            shown = "--prefix" if prefix else "--from-key"
            raise bad_arguments(f"unexpected endkey argument with {shown} flag")
        return key or b"\0", prefix_end(key) if prefix else _OPEN
    return key, words[1] if len(words) > 1 else b""


@command("grant-permission", "[options] <role> <permission> <key> [endkey]", *_RANGE_FLAGS)
def grant_permission(
    session: Session, words: tuple[str, ...], from_key: bool, prefix: bool
) -> None:
    """Permit a role to read, write or readwrite a key, or the keys of a range."""
    if len(words) < 3:
        raise bad_arguments(
            "role grant command requires role name, permission type, and key [endkey]"
            " as its argument"
        )
    name, kind = words[:2]
    if kind.upper() not in auth.Permission.Type.keys():  # noqa: SIM118
        raise bad_arguments(f"invalid permission type: {kind}")
    key, end = _key_range(as_bytes(words[2:]), prefix, from_key)
    permission = auth.Permission(permType=kind.upper(), key=key, range_end=end)
    answer = session.call(
        ROLE_GRANT, rpc.AuthRoleGrantPermissionRequest(name=name, perm=permission)
    )
    session.printer.show(answer, lambda: f"Role {name} updated\n")


@command("revoke-permission", "[options] <role> <key> [endkey]", *_RANGE_FLAGS)
def revoke_permission(
    session: Session, words: tuple[str, ...], from_key: bool, prefix: bool
) -> None:
    """Take a permission from a role."""
    if len(words) < 2:
        raise bad_arguments(
            "role revoke-permission command requires role name and key [endkey] as its argument"
        )
    name, keys = words[0], as_bytes(words[1:])
    key, end = _key_range(keys, prefix, from_key)
    answer = session.call(
        ROLE_REVOKE, rpc.AuthRoleRevokePermissionRequest(role=name, key=key, range_end=end)
    )

    def simple() -> bytes:
        what = b"key " + key
        if end == _OPEN:
            what = b"range [" + key + b", <open ended>"
        elif end:
            what = b"range [" + key + b", " + end + b")"
        return b"Permission of " + what + f" is revoked from role {name}\n".encode()

    session.printer.show(answer, simple)


role = group("role", "Roles.", add, delete, get, list_roles, grant_permission, revoke_permission)
