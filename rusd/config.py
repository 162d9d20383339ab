"""The member's configuration: etcd's flags, ETCD_* environment and YAML file -> one `Config`.

`Config` is also the table of flags: a field is a flag, its metadata the flag's syntax, default and
help. `load` promises that a `Config` is complete and consistent, or raises a `ConfigError` with one
line that names the flag. What a flag cannot do here yet is in `NOT_YET` (refused) or declared with
`ignored=True` (accepted, and listed in `Config.ignored`); nothing else is passed over in silence.
"""

import contextlib
import dataclasses
import ipaddress
import json
import re
import socket
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rusd.duration import LONGEST, parse_duration
from rusd.feature_gates import MEANINGFUL, parse_feature_gates


class ConfigError(Exception):
    """The configuration cannot be used; the text is the one line to show.

    `exit_code` is etcd's: 2 for a command line that cannot be parsed, 1 for the rest.
    """

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


# Values


@dataclass(frozen=True, slots=True)
class Url:
    """Where to listen or what to advertise; `text` is the normal form, which ids are made of."""

    scheme: str
    host: str
    port: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class InitialMember:
    """A member that `--initial-cluster` names, with its peer URLs in sorted order."""

    name: str
    peer_urls: tuple[Url, ...]


@dataclass(frozen=True, slots=True)
class LogRotation:
    """`--log-rotation-config-json`: `maxsize` in MiB, `maxage` in days, 0 without limit."""

    maxsize: int = 100
    maxage: int = 0
    maxbackups: int = 0
    localtime: bool = False
    compress: bool = False


def parse_url(text: str) -> Url:
    """Parse one peer or client URL; ValueError with etcd's text for it."""
    text = text.strip()
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError as error:
        raise ValueError(f'parse "{text}": {error}') from None
    if "://" not in text or parts.scheme not in ("http", "https", "unix", "unixs"):
        raise ValueError(f"URL scheme must be http, https, unix, or unixs: {text}")
    if parts.scheme in ("unix", "unixs"):
        path = parts.netloc + parts.path
        return Url(parts.scheme, path, 0, f"{parts.scheme}://{path}")
    if parts.path:
        raise ValueError(f"URL must not contain a path: {text}")
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]@]*):([0-9]+)", parts.netloc)
    if not match or parts.query or parts.fragment:
        raise ValueError(f'URL address does not have the form "host:port": {text}')
    host, port = match[1].strip("[]"), int(match[2])
    if port > 65535:
        raise ValueError(f"address {port}: invalid port: {text}")
    return Url(parts.scheme, host, port, f"{parts.scheme}://{parts.netloc}")


def parse_urls(text: str) -> tuple[Url, ...]:
    """Parse URLs separated by commas, into sorted order."""
    return tuple(sorted(map(parse_url, text.split(",")), key=lambda url: url.text)) if text else ()


def _parse_origins(text: str) -> tuple[str, ...]:
    """Web pages' origins; `*` for every one."""
    return (text,) if text == "*" else tuple(url.text for url in parse_urls(text))


def _parse_initial_cluster(text: str) -> tuple[InitialMember, ...]:
    urls: dict[str, list[Url]] = {}
    for part in filter(None, text.split(",")):
        name, _, url = part.partition("=")
        try:
            urls.setdefault(name.strip(), []).append(parse_url(url))
        except ValueError as error:
            raise ValueError(f"error setting up initial cluster: {error}") from None
    return tuple(
        InitialMember(name, tuple(sorted(urls[name], key=lambda url: url.text)))
        for name in sorted(urls)
    )


def _parse_rotation(text: str) -> LogRotation:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f"improperly formatted log rotation config: {error}") from None
    if not isinstance(given, dict):
        raise ValueError("improperly formatted log rotation config: not a JSON object")
    given = {name.lower(): value for name, value in given.items()}  # as Go reads JSON
    known: dict[str, Any] = {}
    for field in dataclasses.fields(LogRotation):
        value = known[field.name] = given.get(field.name, field.default)
        if type(value) is not field.type or (field.type is int and value < 0):
            raise ValueError(f"improperly formatted log rotation config: {field.name} is {value!r}")
    known["maxsize"] = known["maxsize"] or 100
    return LogRotation(**known)


def _parse_bool(text: str) -> bool:
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError("parse error")


def _parse_int(text: str, low: int, high: int) -> int:
    """Parse as Go's flag package does: decimal, 0x, 0o, 0b, or octal after a plain 0."""
    if not re.fullmatch(r"[-+]?[0-9a-zA-Z_]+", text):
        raise ValueError("parse error")
    try:
        number = int(text, 8 if re.fullmatch(r"[-+]?0[0-7_]+", text) else 0)
    except ValueError:
        raise ValueError("parse error") from None
    if not low <= number <= high:
        raise ValueError("parse error" if low == 0 > number else "value out of range")
    return number


def _parse_seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError:
        raise ValueError("parse error") from None
    if seconds < 0:
        raise ValueError("value out of range")
    return seconds


# Syntaxes: how a flag's text is read, and which YAML values stand for it


@dataclass(frozen=True, slots=True)
class Syntax:
    """How a flag's value is written, on the command line and in the file."""

    shown: str
    parse: Callable[[str], object]
    yaml_types: tuple[type, ...] = (str,)


def _choice(*choices: str) -> Syntax:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return Syntax("|".join(choices), parse)


_UINT32, _UINT64 = 2**32 - 1, 2**64 - 1
TEXT = Syntax("text", str)
BOOL = Syntax("bool", _parse_bool, (bool,))
UINT = Syntax("n", lambda text: _parse_int(text, 0, _UINT64), (int,))
UINT32 = Syntax("n", lambda text: _parse_int(text, 0, _UINT32), (int,))
INT = Syntax("n", lambda text: _parse_int(text, -(2**63), 2**63 - 1), (int,))
SECONDS = Syntax("duration", _parse_seconds, (int, str))
MILLISECONDS = Syntax("ms", lambda text: _parse_int(text, 0, _UINT32) / 1000, (int,))
URLS = Syntax("urls", parse_urls)
LIST = Syntax("list", lambda text: tuple(text.split(",")) if text else (), (str, list))
ORIGINS = Syntax("urls|*", _parse_origins, (str, list))
INITIAL_CLUSTER = Syntax("name=url,...", _parse_initial_cluster)
ROTATION = Syntax("json", _parse_rotation)
GATES = Syntax("name=bool,...", parse_feature_gates)

# The table of flags

MEMBER, CLUSTERING, SECURITY = "Member", "Clustering", "Security"
AUTH, MONITORING, LOGGING = "Auth", "Profiling and Monitoring", "Logging"
TRACING, TUNING, UNSAFE = "Distributed tracing", "Checks and tuning", "Unsafe"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: `--name`, ETCD_NAME and the file's `name`; `field` is its place in `Config`."""

    name: str
    field: str
    group: str
    syntax: Syntax
    default: str
    """The default as text; `${name}` and the like are filled in when the rest is known."""
    help: str
    ignored: bool

    @property
    def variable(self) -> str:
        """The environment variable for it."""
        return "ETCD_" + self.name.upper().replace("-", "_")


def _flag(group: str, syntax: Syntax, default: str, text: str, ignored: bool = False) -> Any:
    """Declare a field of Config that a flag sets."""
    metadata = {"flag": (group, syntax, default, text, ignored)}
    # A default that follows other flags is filled in by load().
    plain = "default.etcd" if default == "${name}.etcd" else default.replace("${name}", "default")
    plain = plain.replace("${initial-advertise-peer-urls}", "http://localhost:2380")
    return dataclasses.field(default=syntax.parse(plain), metadata=metadata)


@dataclass(frozen=True, slots=True)
class Config:
    """What one member runs with. Durations are seconds, sizes are bytes."""

    name: str = _flag(MEMBER, TEXT, "default", "this member's name, for people to read")
    data_dir: str = _flag(MEMBER, TEXT, "${name}.etcd", "the folder that holds all data")
    wal_dir: str = _flag(MEMBER, TEXT, "", "the folder of the log, if not in the data folder")
    snapshot_count: int = _flag(
        MEMBER, UINT, "10000", "applied entries after which the log may be truncated"
    )
    heartbeat_interval: float = _flag(
        MEMBER, MILLISECONDS, "100", "time between a leader's heartbeats"
    )
    election_timeout: float = _flag(
        MEMBER, MILLISECONDS, "1000", "time without a leader before an election"
    )
    initial_election_tick_advance: bool = _flag(
        MEMBER, BOOL, "true", "skip most of the first election timeout at start"
    )
    listen_peer_urls: tuple[Url, ...] = _flag(
        MEMBER, URLS, "http://localhost:2380", "where to listen for other members"
    )
    listen_client_urls: tuple[Url, ...] = _flag(
        MEMBER, URLS, "http://localhost:2379", "where to listen for clients"
    )
    listen_client_http_urls: tuple[Url, ...] = _flag(
        MEMBER, URLS, "", "where to answer HTTP/1.1 alone; the client URLs then have gRPC only"
    )
    max_snapshots: int = _flag(MEMBER, UINT, "5", "no meaning: a snapshot is a checkpoint", True)
    max_wals: int = _flag(MEMBER, UINT, "5", "no meaning: the log truncates itself", True)
    memory_mlock: bool = _flag(MEMBER, BOOL, "false", "no meaning: no mapped database", True)
    quota_backend_bytes: int = _flag(
        MEMBER, INT, "0", "size at which writes stop and an alarm rises; 0 is the default quota"
    )
    backend_bbolt_freelist_type: str = _flag(MEMBER, TEXT, "map", "no meaning: no bbolt", True)
    backend_batch_interval: str = _flag(MEMBER, TEXT, "", "no meaning: batches form alone", True)
    backend_batch_limit: int = _flag(MEMBER, INT, "0", "no meaning: batches form alone", True)
    max_txn_ops: int = _flag(MEMBER, UINT, "128", "operations that one transaction may have")
    max_request_bytes: int = _flag(
        MEMBER, UINT32, "1572864", "size that one client request may have"
    )
    max_concurrent_streams: int = _flag(
        MEMBER, UINT32, "4294967295", "streams that one client connection may have open"
    )
    grpc_keepalive_min_time: float = _flag(
        MEMBER, SECONDS, "5s", "least time between a client's pings"
    )
    grpc_keepalive_interval: float = _flag(
        MEMBER, SECONDS, "2h", "time between pings to a silent client; 0 for none"
    )
    grpc_keepalive_timeout: float = _flag(
        MEMBER, SECONDS, "20s", "time for a ping's answer before the connection is closed"
    )
    socket_reuse_port: bool = _flag(MEMBER, BOOL, "false", "no meaning", True)
    socket_reuse_address: bool = _flag(MEMBER, BOOL, "false", "no meaning: always on", True)
    enable_grpc_gateway: bool = _flag(MEMBER, BOOL, "true", "answer the JSON gateway's paths")
    raft_read_timeout: float = _flag(MEMBER, SECONDS, "5s", "time for reading from another member")
    raft_write_timeout: float = _flag(MEMBER, SECONDS, "5s", "time for writing to another member")
    feature_gates: frozenset[str] = _flag(
        MEMBER, GATES, "", "InitialCorruptCheck and CompactHashCheck compare members' data"
    )

    initial_advertise_peer_urls: tuple[Url, ...] = _flag(
        CLUSTERING, URLS, "http://localhost:2380", "this member's peer URLs, told to the others"
    )
    initial_cluster: tuple[InitialMember, ...] = _flag(
        CLUSTERING,
        INITIAL_CLUSTER,
        "${name}=${initial-advertise-peer-urls}",
        "the members that a new cluster starts with",
    )
    initial_cluster_state: str = _flag(
        CLUSTERING, _choice("new", "existing"), "new", "whether this member founds or joins"
    )
    initial_cluster_token: str = _flag(
        CLUSTERING, TEXT, "etcd-cluster", "mixed into the ids, to tell clusters apart"
    )
    advertise_client_urls: tuple[Url, ...] = _flag(
        CLUSTERING, URLS, "http://localhost:2379", "this member's client URLs, told to clients"
    )
    discovery: str = _flag(CLUSTERING, TEXT, "", "discovery service for a new cluster")
    discovery_token: str = _flag(CLUSTERING, TEXT, "", "the cluster's token there")
    discovery_endpoints: tuple[str, ...] = _flag(CLUSTERING, LIST, "", "where it is")
    discovery_dial_timeout: float = _flag(CLUSTERING, SECONDS, "2s", "no meaning", True)
    discovery_request_timeout: float = _flag(CLUSTERING, SECONDS, "5s", "no meaning", True)
    discovery_keepalive_time: float = _flag(CLUSTERING, SECONDS, "2s", "no meaning", True)
    discovery_keepalive_timeout: float = _flag(CLUSTERING, SECONDS, "6s", "no meaning", True)
    discovery_insecure_transport: bool = _flag(CLUSTERING, BOOL, "true", "no meaning", True)
    discovery_insecure_skip_tls_verify: bool = _flag(CLUSTERING, BOOL, "false", "no meaning", True)
    discovery_cert: str = _flag(CLUSTERING, TEXT, "", "no meaning", True)
    discovery_key: str = _flag(CLUSTERING, TEXT, "", "no meaning", True)
    discovery_cacert: str = _flag(CLUSTERING, TEXT, "", "no meaning", True)
    discovery_user: str = _flag(CLUSTERING, TEXT, "", "no meaning", True)
    discovery_password: str = _flag(CLUSTERING, TEXT, "", "no meaning", True)
    discovery_fallback: str = _flag(
        CLUSTERING, _choice("exit", "proxy"), "exit", "no meaning", True
    )
    discovery_proxy: str = _flag(CLUSTERING, TEXT, "", "no meaning", True)
    discovery_srv: str = _flag(CLUSTERING, TEXT, "", "DNS domain with a new cluster's members")
    discovery_srv_name: str = _flag(CLUSTERING, TEXT, "", "no meaning", True)
    strict_reconfig_check: bool = _flag(
        CLUSTERING, BOOL, "true", "refuse changes of members that would lose the quorum"
    )
    pre_vote: bool = _flag(CLUSTERING, BOOL, "true", "ask for votes before raising the term")
    auto_compaction_retention: str = _flag(
        CLUSTERING, TEXT, "0", "history to keep: hours or a duration, or revisions; 0 for all"
    )
    auto_compaction_mode: str = _flag(
        CLUSTERING, TEXT, "periodic", "what the retention counts: periodic or revision"
    )
    v2_deprecation: str = _flag(
        CLUSTERING,
        _choice("not-yet", "write-only", "write-only-drop-data", "gone"),
        "write-only",
        "no meaning: no v2 store",
        True,
    )

    cert_file: str = _flag(SECURITY, TEXT, "", "certificate for clients")
    key_file: str = _flag(SECURITY, TEXT, "", "its key")
    client_cert_auth: bool = _flag(SECURITY, BOOL, "false", "ask clients for a certificate")
    client_cert_file: str = _flag(
        SECURITY, TEXT, "", "no meaning but that it is checked: no member calls itself", True
    )
    client_key_file: str = _flag(SECURITY, TEXT, "", "its key", True)
    client_crl_file: str = _flag(SECURITY, TEXT, "", "clients' certificates that were revoked")
    client_cert_allowed_hostname: tuple[str, ...] = _flag(
        SECURITY, LIST, "", "names that a client's certificate may have"
    )
    trusted_ca_file: str = _flag(SECURITY, TEXT, "", "authorities that may sign for clients")
    auto_tls: bool = _flag(SECURITY, BOOL, "false", "make a certificate for clients")
    peer_cert_file: str = _flag(SECURITY, TEXT, "", "certificate for members")
    peer_key_file: str = _flag(SECURITY, TEXT, "", "its key")
    peer_client_cert_auth: bool = _flag(SECURITY, BOOL, "false", "ask members for a certificate")
    peer_client_cert_file: str = _flag(SECURITY, TEXT, "", "certificate for calls to members")
    peer_client_key_file: str = _flag(SECURITY, TEXT, "", "its key")
    peer_trusted_ca_file: str = _flag(SECURITY, TEXT, "", "authorities that may sign for members")
    peer_cert_allowed_cn: tuple[str, ...] = _flag(
        SECURITY, LIST, "", "common names that a member's certificate may have"
    )
    peer_cert_allowed_hostname: tuple[str, ...] = _flag(
        SECURITY, LIST, "", "names that a member's certificate may have"
    )
    peer_auto_tls: bool = _flag(SECURITY, BOOL, "false", "make a certificate for members")
    self_signed_cert_validity: int = _flag(
        SECURITY, UINT, "1", "years that a certificate made here is valid"
    )
    peer_crl_file: str = _flag(SECURITY, TEXT, "", "members' certificates that were revoked")
    cipher_suites: tuple[str, ...] = _flag(SECURITY, LIST, "", "TLS cipher suites to allow")
    cors: tuple[str, ...] = _flag(SECURITY, ORIGINS, "*", "origins that browsers may call from")
    host_whitelist: tuple[str, ...] = _flag(
        SECURITY, LIST, "*", "host names that plain HTTP requests may ask for"
    )
    tls_min_version: str = _flag(SECURITY, TEXT, "TLS1.2", "oldest TLS to allow: TLS1.2 or TLS1.3")
    tls_max_version: str = _flag(
        SECURITY, TEXT, "", "newest TLS to allow: TLS1.2 or TLS1.3; the newest there is"
    )
    peer_skip_client_san_verification: bool = _flag(
        SECURITY, BOOL, "false", "do not compare a member's certificate with its address"
    )

    auth_token: str = _flag(
        AUTH, TEXT, "simple", "kind of authentication token: simple, or jwt,sign-method=..."
    )
    bcrypt_cost: int = _flag(AUTH, UINT, "10", "cost of a password's hash")
    auth_token_ttl: int = _flag(AUTH, UINT, "300", "seconds that a simple token lives unused")

    enable_pprof: bool = _flag(
        MONITORING, BOOL, "false", "profiles and stacks on the client URLs, under /debug/pprof/"
    )
    metrics: str = _flag(
        MONITORING, _choice("basic", "extensive"), "basic", "how much to measure of each call"
    )
    listen_metrics_urls: tuple[Url, ...] = _flag(
        MONITORING, URLS, "", "more URLs that answer /metrics and /health"
    )

    logger: str = _flag(LOGGING, TEXT, "zap", "the style of log lines; only zap")
    log_outputs: tuple[str, ...] = _flag(
        LOGGING, LIST, "default", "default (stderr), stderr, stdout or files"
    )
    log_level: str = _flag(
        LOGGING,
        _choice("debug", "info", "warn", "error", "panic", "fatal"),
        "info",
        "the least level to log",
    )
    log_format: str = _flag(LOGGING, _choice("json", "console"), "json", "json or console")
    enable_log_rotation: bool = _flag(LOGGING, BOOL, "false", "rotate the one log file")
    log_rotation_config_json: LogRotation = _flag(  # noqa: RUF009 - it is frozen
        LOGGING,
        ROTATION,
        '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}',
        "when to rotate (MiB), and what to keep (days, files)",
    )
    warning_unary_request_duration: float = _flag(
        LOGGING, SECONDS, "300ms", "a call that takes longer is logged"
    )
    warning_apply_duration: float = _flag(
        LOGGING, SECONDS, "100ms", "applying that takes longer is logged"
    )

    enable_distributed_tracing: bool = _flag(
        TRACING, BOOL, "false", "send a span for each sampled call (needs rusd[tracing])"
    )
    distributed_tracing_address: str = _flag(
        TRACING, TEXT, "localhost:4317", "the collector, for OTLP over gRPC without TLS"
    )
    distributed_tracing_service_name: str = _flag(
        TRACING, TEXT, "etcd", "service.name of the spans, the same for all members"
    )
    distributed_tracing_instance_id: str = _flag(
        TRACING, TEXT, "", "service.instance.id of the spans, a different one for each member"
    )
    distributed_tracing_sampling_rate: int = _flag(
        TRACING, INT, "0", "calls to sample of a million that have no sampled parent"
    )

    corrupt_check_time: float = _flag(
        TUNING, SECONDS, "0s", "time between comparisons of members' data; 0 for none"
    )
    compact_hash_check_time: float = _flag(
        TUNING, SECONDS, "1m", "time between comparisons of members' hashes of compactions"
    )
    watch_progress_notify_interval: float = _flag(
        TUNING, SECONDS, "10m", "time between a silent watch's progress notes"
    )
    bootstrap_defrag_threshold_megabytes: int = _flag(
        TUNING, UINT, "0", "no meaning: RocksDB compacts itself", True
    )
    max_learners: int = _flag(TUNING, UINT32, "1", "learners that a cluster may have")
    compaction_batch_limit: int = _flag(
        TUNING, UINT32, "1000", "revisions that one slice of a compaction may remove"
    )
    compaction_sleep_interval: float = _flag(
        TUNING, SECONDS, "10ms", "pause between slices of a compaction"
    )
    downgrade_check_time: float = _flag(
        TUNING, SECONDS, "5s", "time between checks of a downgrade", True
    )
    snapshot_catchup_entries: int = _flag(
        TUNING, UINT, "5000", "entries to keep in the log for slow followers"
    )

    force_new_cluster: bool = _flag(UNSAFE, BOOL, "false", "make a cluster of this member alone")
    unsafe_no_fsync: bool = _flag(
        UNSAFE, BOOL, "false", "answer before data is on disk: a crash loses it"
    )

    config_file: str = ""
    ignored: tuple[str, ...] = ()
    """Flags that were set to something other than their default and have no effect here."""
    notices: tuple[str, ...] = ()
    """What an operator should know about where the configuration came from."""

    @property
    def auto_compaction_period(self) -> float:
        """Seconds of history to keep; 0.0 when compaction is off or counts revisions."""
        return _retention(self)[0]

    @property
    def auto_compaction_revisions(self) -> int:
        """Revisions of history to keep; 0 when compaction is off or goes by time."""
        return _retention(self)[1]

    @property
    def urls_for_clients(self) -> tuple[Url, ...]:
        """Where it listens for whoever is no member."""
        return (*self.listen_client_urls, *self.listen_client_http_urls, *self.listen_metrics_urls)

    @property
    def uses_tls(self) -> bool:
        """Whether any flag or URL is about TLS."""
        urls = [*self.urls_for_clients, *self.listen_peer_urls]
        urls += [url for member in self.initial_cluster for url in member.peer_urls]
        return any(url.scheme == "https" for url in urls) or any(
            _is_set(self, flag) for flag in FLAGS.values() if flag.group == SECURITY
        )

    def check_bootstrap(self) -> None:
        """Raise ConfigError when no new member can start from this.

        Only for a member without data: etcd ignores these flags once it has some.
        """
        _check_bootstrap(self)


DEFAULTS = Config()

FLAGS: dict[str, Flag] = {
    name: Flag(name, field.name, group, syntax, default, text, ignored)
    for field in dataclasses.fields(Config)
    if "flag" in field.metadata
    for name in (field.name.replace("_", "-"),)
    for group, syntax, default, text, ignored in (field.metadata["flag"],)
}
"""Every flag by name, in the order of `--help`."""

# Flags that would change what is safe, who forms the cluster or where the member answers: set, they
# stop the start. Support for one is done when its name leaves this table.
NOT_YET = {
    "discovery",
    "discovery-token",
    "discovery-endpoints",
    "discovery-srv",
}
WITHOUT_EFFECT_YET = frozenset(("snapshot-catchup-entries",))
"""Accepted, and in `Config.ignored`."""
_MILLION = 1_000_000
_TLS_VERSIONS = ("TLS1.2", "TLS1.3")
_URL_SCHEMES = ("http", "https")  # of http, https, unix and unixs, those that are supported yet


# Sources


def load(args: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Build the Config from the command line and the environment, or from the file they name.

    As in etcd, a configuration file is the only source once there is one, and a flag may not be in
    both the command line and the environment. Raises ConfigError.
    """
    given = read_arguments(args)
    path = given.pop("config-file", "") or environ.get("ETCD_CONFIG_FILE", "")
    if path:
        values, notices = _read_file(path)
    else:
        values = {name: _parse(FLAGS[name], text) for name, text in given.items() if name in FLAGS}
        notices = _add_environment(values, environ)
        if "listen-client-urls" in values and "advertise-client-urls" not in values:
            raise ConfigError(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly"
            )
    for name in _NEVER_EMPTY:
        if name in values and not values[name]:
            del values[name]
    fields: dict[str, Any] = {FLAGS[name].field: value for name, value in values.items()}
    own_name = fields.get("name", DEFAULTS.name)
    fields.setdefault("data_dir", f"{own_name}.etcd")
    urls = fields.get("initial_advertise_peer_urls", DEFAULTS.initial_advertise_peer_urls)
    fields.setdefault("initial_cluster", (InitialMember(own_name, urls),))
    for gate in sorted(fields.get("feature_gates", DEFAULTS.feature_gates) - MEANINGFUL):
        notices.append(f"the feature gate {gate} has no meaning here")
    config = Config(**fields, config_file=path, notices=tuple(notices))
    _check(config)
    ignored = (
        name
        for name, flag in FLAGS.items()
        if (flag.ignored or name in WITHOUT_EFFECT_YET) and _is_set(config, flag)
    )
    return dataclasses.replace(config, ignored=tuple(ignored))


# Set to nothing, these have their defaults.
_NEVER_EMPTY = (
    "data-dir",
    "listen-peer-urls",
    "listen-client-urls",
    "initial-advertise-peer-urls",
    "advertise-client-urls",
)
# Flags that are not part of a configuration, and whether they go without a value.
_COMMANDS = {"config-file": False, "version": True, "help": True, "h": True}


def read_arguments(args: Sequence[str]) -> dict[str, str]:
    """Split the command line as Go's flag package does; the last of equal flags counts.

    `--name value`, `--name=value`, with one dash or two; a bool takes a value only after `=`. Also
    has `config-file`, `version`, `help` and `h`. Raises ConfigError.
    """
    given: dict[str, str] = {}
    rest = list(reversed(args))
    while rest:
        argument = rest.pop()
        if argument == "--" and rest:
            raise ConfigError(f"'{rest.pop()}' is not a valid flag")
        if argument == "--":
            break
        if not argument.startswith("-") or argument == "-":
            raise ConfigError(f"'{argument}' is not a valid flag")
        name, equals, text = argument.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise ConfigError(f"bad flag syntax: {argument}", 2)
        if name not in FLAGS and name not in _COMMANDS:
            raise ConfigError(f"flag provided but not defined: --{name}", 2)
        if not equals:
            if _COMMANDS[name] if name in _COMMANDS else FLAGS[name].syntax is BOOL:
                text = "true"
            elif rest:
                text = rest.pop()
            else:
                raise ConfigError(f"flag needs an argument: --{name}", 2)
        given[name] = text
    return given


def _parse(flag: Flag, text: str) -> object:
    try:
        return flag.syntax.parse(text)
    except ValueError as error:
        raise ConfigError(f'invalid value "{text}" for flag --{flag.name}: {error}', 2) from None


def _add_environment(values: dict[str, object], environ: Mapping[str, str]) -> list[str]:
    by_variable = {flag.variable: flag for flag in FLAGS.values()}
    notices = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith("ETCD_") or variable == "ETCD_CONFIG_FILE":
            continue
        flag = by_variable.get(variable)
        if flag is None:
            notices.append(f"unrecognized environment variable {variable}")
        elif not text:
            continue
        elif flag.name in values:
            raise ConfigError(
                f"conflicting environment variable {variable} is shadowed by --{flag.name} "
                "(either unset the environment variable or remove the flag)"
            )
        else:
            try:
                values[flag.name] = flag.syntax.parse(text)
            except ValueError as error:
                raise ConfigError(f'invalid value "{text}" for {variable}: {error}') from None
    return notices


def _read_file(path: str) -> tuple[dict[str, object], list[str]]:
    import yaml  # only a start with a file pays for it

    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(f"--config-file: open {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"--config-file: {path} is not YAML: {line}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"--config-file: {path} has no keys")
    values: dict[str, object] = {}
    notices = [f"loaded {path}; other flags and environment variables are not used"]
    for key, value in document.items():
        if key in _SECTIONS:
            values |= _read_section(path, key, value)
        elif key not in FLAGS:
            notices.append(f"unrecognized key {key} in {path}")
        elif value is not None:
            values[key] = _from_yaml(path, key, FLAGS[key], value)
    return values, notices


# The file's security sections, and what their keys have in front as flags. Keys that are not flags
# under that name: the certificate's allowed names and the revocation list.
_SECTIONS = {"client-transport-security": "", "peer-transport-security": "peer-"}
_SECTION_FLAGS = {
    ("client-transport-security", "allowed-hostname"): "client-cert-allowed-hostname",
    ("client-transport-security", "crl-file"): "client-crl-file",
    ("peer-transport-security", "allowed-cn"): "peer-cert-allowed-cn",
    ("peer-transport-security", "allowed-hostname"): "peer-cert-allowed-hostname",
}


def _read_section(path: str, section: str, content: object) -> dict[str, object]:
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"--config-file: {path}: {section} has no keys")
    values: dict[str, object] = {}
    for key, value in content.items():
        if value in (None, "", False, []):
            continue
        flag = FLAGS.get(_SECTION_FLAGS.get((section, key), f"{_SECTIONS[section]}{key}"))
        if flag is None or flag.group != SECURITY:  # to pass over a misspelt key would be unsafe
            raise ConfigError(f"--config-file: {path}: {section} has no key {key}")
        values[flag.name] = _from_yaml(path, f"{section}.{key}", flag, value)
    return values


_YAML_NAMES = {str: "text (in quotes)", int: "a number", bool: "true or false", list: "a list"}


def _from_yaml(path: str, key: str, flag: Flag, value: object) -> object:
    """Read a YAML value; a duration may be Go's nanoseconds, as etcd has it, or text."""
    kinds = flag.syntax.yaml_types
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if type(value) not in kinds or (isinstance(value, list) and not is_list):
        wanted = " or ".join(_YAML_NAMES[kind] for kind in kinds)
        raise ConfigError(f"--config-file: {path}: {key} must be {wanted}, not {value!r}")
    if isinstance(value, list):
        text = ",".join(value)
    elif isinstance(value, bool):
        text = str(value).lower()
    elif flag.syntax is SECONDS and isinstance(value, int):
        text = f"{value}ns"
    else:
        text = str(value)
    try:
        return flag.syntax.parse(text)
    except ValueError as error:
        raise ConfigError(f'--config-file: {path}: invalid "{text}" for {key}: {error}') from None


# Checks


def _is_set(config: Config, flag: Flag) -> bool:
    return bool(getattr(config, flag.field) != getattr(DEFAULTS, flag.field))


def _check(config: Config) -> None:
    """Raise ConfigError for the first thing that cannot work, or that cannot be had yet."""
    _check_logging(config)
    for name, flag in FLAGS.items():
        if name in NOT_YET and _is_set(config, flag):
            raise ConfigError(
                f"--{name} is not supported yet; the member does not start without it"
            )
        if flag.syntax is URLS:
            _check_urls(flag, getattr(config, flag.field))
    for member in config.initial_cluster:
        _check_urls(FLAGS["initial-cluster"], member.peer_urls)
    _check_tls(config)
    _check_timing(config)
    _check_tracing(config)
    _retention(config)


def _check_tls(config: Config) -> None:
    low, high = config.tls_min_version, config.tls_max_version
    for flag, version in (("tls-min-version", low), ("tls-max-version", high)):
        if version not in ("", *_TLS_VERSIONS):
            raise ConfigError(
                f'--{flag}: unexpected TLS version "{version}" '
                f"(must be one of: {', '.join(_TLS_VERSIONS)})"
            )
    if high and low > high:
        raise ConfigError(f"min version ({low}) is greater than max version ({high})")
    if low == "TLS1.3" and config.cipher_suites:
        raise ConfigError(
            "--cipher-suites: cipher suites cannot be configured when only TLS1.3 is enabled"
        )


_LOG_STREAMS = frozenset(("default", "stderr", "stdout", "systemd/journal"))


def _check_logging(config: Config) -> None:
    if config.logger != "zap":
        raise ConfigError(f'--logger: unknown logger option "{config.logger}"')
    outputs = config.log_outputs
    if not outputs or "" in outputs:
        raise ConfigError("--log-outputs must name at least one output, and none may be empty")
    if "systemd/journal" in outputs and len(outputs) > 1:
        raise ConfigError('--log-outputs: with "systemd/journal" there can be no other')
    if "default" in outputs and len(outputs) > 1:
        raise ConfigError('--log-outputs: multi logoutput for "default" is not supported yet')
    files = [name for name in outputs if name not in _LOG_STREAMS]
    if config.enable_log_rotation and len(files) != 1:
        raise ConfigError("--log-outputs requires a single file path with --enable-log-rotation")


def _check_urls(flag: Flag, urls: Iterable[Url]) -> None:
    for url in urls:
        if url.scheme not in _URL_SCHEMES:
            raise ConfigError(f"--{flag.name}: {url.scheme} is not supported yet ({url})")
        if flag.name.startswith("listen-") and url.host != "localhost":
            try:
                ipaddress.ip_address(url.host)
            except ValueError:
                message = f"--{flag.name}: expected IP in URL for binding ({url})"
                raise ConfigError(message) from None


def _check_timing(config: Config) -> None:
    heartbeat = round(config.heartbeat_interval * 1000)
    election = round(config.election_timeout * 1000)
    if heartbeat == 0:
        raise ConfigError(f"--heartbeat-interval must be >0 (set to {heartbeat}ms)")
    if election == 0:
        raise ConfigError(f"--election-timeout must be >0 (set to {election}ms)")
    if 5 * heartbeat > election:
        raise ConfigError(
            f"--election-timeout[{election}ms] should be at least as 5 times as "
            f"--heartbeat-interval[{heartbeat}ms]"
        )
    if election > 50_000:
        raise ConfigError(
            f"--election-timeout[{election}ms] is too long, and should be set less than 50000ms"
        )


def _check_tracing(config: Config) -> None:
    rate = config.distributed_tracing_sampling_rate
    if config.enable_distributed_tracing and not 0 <= rate <= _MILLION:
        wrong = "positive" if rate < 0 else f"less than {_MILLION}"
        raise ConfigError(
            f"--distributed-tracing-sampling-rate: tracing sampling rate must be {wrong}"
        )


def _retention(config: Config) -> tuple[float, int]:
    """Return (seconds, revisions) of history to keep, of which at most one is not 0."""
    mode, text = config.auto_compaction_mode, config.auto_compaction_retention or "0"
    plain = int(text) if re.fullmatch(r"\+?[0-9]{1,18}", text) else None
    if mode == "revision":
        if plain is None:
            raise ConfigError(f'--auto-compaction-retention: "{text}" is no number of revisions')
        return 0.0, plain
    if mode != "periodic":
        raise ConfigError(f'--auto-compaction-mode: unknown auto-compaction-mode "{mode}"')
    with contextlib.suppress(ValueError):
        seconds = plain * 3600.0 if plain is not None else parse_duration(text)
        if 0.0 <= seconds <= LONGEST:
            return seconds, 0
    raise ConfigError(
        f'--auto-compaction-retention: error parsing CompactionRetention: invalid duration "{text}"'
    )


def _check_bootstrap(config: Config) -> None:
    members = {member.name: member.peer_urls for member in config.initial_cluster}
    own = members.get(config.name)
    if own is None:
        raise ConfigError(
            f'--initial-cluster: couldn\'t find local name "{config.name}" '
            "in the initial cluster configuration"
        )
    all_urls = [url.text for urls in members.values() for url in urls]
    if len(set(all_urls)) < len(all_urls):
        raise ConfigError(f"--initial-cluster: initial cluster {_shown(members)} has duplicate url")
    if config.initial_cluster_state == "new":
        # Who joins is told by the cluster which of its members it is.
        _check_advertised(config.name, own, config.initial_advertise_peer_urls)


def _check_advertised(name: str, own: Sequence[Url], advertised: Sequence[Url]) -> None:
    difference = _difference(advertised, own)
    if not difference:
        return
    missing = [url for url in own if url not in advertised]
    if missing:
        raise ConfigError(
            f"--initial-cluster has {_shown({name: missing})} but missing from "
            f"--initial-advertise-peer-urls={','.join(map(str, advertised))} ({difference})"
        )
    missing = [url for url in advertised if url not in own]
    raise ConfigError(
        f"--initial-advertise-peer-urls has {','.join(map(str, missing))} but missing from "
        f"--initial-cluster={_shown({name: own})}"
    )


def _shown(members: Mapping[str, Sequence[Url]]) -> str:
    return ",".join(f"{name}={url}" for name, urls in members.items() for url in urls)


def same_urls(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists of peer URLs name the same places, also by name and by address."""
    if sorted(one) == sorted(other):
        return True
    try:
        return not _difference([*map(parse_url, one)], [*map(parse_url, other)])
    except ValueError:
        return False


def _difference(one: Sequence[Url], other: Sequence[Url]) -> str:
    """In etcd's words, where two lists of URLs differ when their hosts are resolved."""
    if len(one) != len(other):
        texts = (" ".join(f'"{url}"' for url in urls) for urls in (one, other))
        return " != ".join(f"len([{text}])" for text in texts)
    if {url.text for url in one} == {url.text for url in other}:
        return ""
    for left, right in zip(sorted(map(_resolved, one)), sorted(map(_resolved, other)), strict=True):
        if left != right:
            return f'resolved urls: "{left}" != "{right}"'
    return ""


def _resolved(url: Url) -> str:
    """The URL with its host's address; as in etcd, `localhost` stays a name."""
    address = url.host
    if address != "localhost":
        with contextlib.suppress(OSError):  # what does not resolve is equal only to itself
            address = str(socket.getaddrinfo(url.host, url.port)[0][4][0])
    if ":" in address:
        address = f"[{address}]"
    return f"{url.scheme}://{address}:{url.port}"
