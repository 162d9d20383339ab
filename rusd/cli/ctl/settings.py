"""What every command of `rusd ctl` is told: whom to ask, as whom, how long, how to print."""

import os
from dataclasses import dataclass
from typing import Any, Final

import click
from click.core import ParameterSource

from rusd.cli.ctl.errors import Exit
from rusd.cli.ctl.flags import INT, SECONDS, TEXT, GoType, flag, switch

FORMATS: Final = ("simple", "fields", "json", "protobuf", "table")
_PREFIX: Final = "ETCDCTL_"

GLOBAL_FLAGS: Final = (
    flag(
        "endpoints",
        GoType("list", lambda text: tuple(filter(None, text.split(",")))),
        ("127.0.0.1:2379",),
        "Members to ask, host:port or URLs, with commas between them.",
    ),
    flag("discovery-srv", TEXT, "", "A domain whose SRV records name the members.", short="d"),
    flag("discovery-srv-name", TEXT, "", "What their service's name has at its end."),
    switch("insecure-discovery", "Take members without TLS from SRV records.", True),
    flag("dial-timeout", SECONDS, 2.0, "How long to wait for a connection."),
    flag("command-timeout", SECONDS, 5.0, "How long to wait for an answer."),
    flag("keepalive-time", SECONDS, 2.0, "How often to see whether a member lives."),
    flag("keepalive-timeout", SECONDS, 6.0, "How long it may take to say so."),
    flag("max-request-bytes", INT, 0, "The largest request to send; 0 is any."),
    flag("max-recv-bytes", INT, 0, "The largest answer to take; 0 is any."),
    flag("cacert", TEXT, "", "The authority that signed the members' certificates."),
    flag("cert", TEXT, "", "A certificate to show."),
    flag("key", TEXT, "", "Its key."),
    switch("insecure-transport", "Without TLS, where an endpoint does not say https.", True),
    switch("insecure-skip-tls-verify", "Trust any certificate: for tests."),
    flag("user", TEXT, "", "NAME[:PASSWORD]; asks for a password that is not given."),
    flag("password", TEXT, "", "The password, if --user has none."),
    flag("auth-jwt-token", TEXT, "", "A token to show instead of a name and a password."),
    flag("write-out", TEXT, "simple", "How to print answers.", short="w", values=FORMATS),
    switch("hex", "Print keys and values in hexadecimal."),
    switch("debug", "Print the settings."),
)
GLOBAL_NAMES: Final = frozenset(option.name or "" for option in GLOBAL_FLAGS)

WATCH_KEY: Final = "ETCDCTL_WATCH_KEY"
WATCH_RANGE_END: Final = "ETCDCTL_WATCH_RANGE_END"
_OTHER_VARIABLES: Final = ("ETCDCTL_API", WATCH_KEY, WATCH_RANGE_END)


@dataclass(frozen=True, slots=True)
class Settings:
    """The global flags; times in seconds."""

    endpoints: tuple[str, ...]
    discovery_srv: str
    discovery_srv_name: str
    insecure_discovery: bool
    dial_timeout: float
    command_timeout: float
    command_timeout_given: bool
    keepalive_time: float
    keepalive_timeout: float
    max_request_bytes: int
    max_recv_bytes: int
    cacert: str
    cert: str
    key: str
    insecure_transport: bool
    insecure_skip_tls_verify: bool
    user: str
    password: str
    auth_jwt_token: str
    write_out: str
    hex: bool
    debug: bool

    @classmethod
    def of(cls, ctx: click.Context) -> "Settings":
        """Gather the flags given at any place of the line, and the environment; else the defaults.

        Raises Exit where a flag and its variable are both set, as etcdctl ends then.
        """
        values: dict[str, Any] = {}
        given: set[str] = set()
        chain = []
        place: click.Context | None = ctx
        while place is not None:
            chain.append(place)
            place = place.parent
        for option in GLOBAL_FLAGS:
            name = option.name or ""
            variable = variable_of(name)
            text = os.environ.get(variable)
            values[name] = option.get_default(ctx)
            if text:
                values[name] = option.type.convert(text, option, ctx)
                given.add(name)
            for each in chain:
                if each.get_parameter_source(name) == ParameterSource.COMMANDLINE:
                    if text:
                        raise Exit(f"{variable} and --{name.replace('_', '-')} are both set")
                    values[name] = each.params[name]
                    given.add(name)
                    break
        return cls(**values, command_timeout_given="command_timeout" in given)

    @classmethod
    def with_defaults(cls, **given: Any) -> "Settings":
        """Return the defaults, but for what is given."""
        defaults = {option.name or "": option.default for option in GLOBAL_FLAGS}
        return cls(**{**defaults, "command_timeout_given": "command_timeout" in given, **given})

    def unknown_variables(self) -> list[str]:
        """ETCDCTL_* variables that nothing reads."""
        known = {variable_of(name) for name in GLOBAL_NAMES} | set(_OTHER_VARIABLES)
        return sorted(name for name in os.environ if name.startswith(_PREFIX) and name not in known)


def variable_of(name: str) -> str:
    """Return the environment variable of a flag."""
    return _PREFIX + name.upper()
