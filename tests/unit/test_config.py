"""Flags, environment and file make one consistent Config, or one line that names the flag."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd.config import (
    DEFAULTS,
    FLAGS,
    NOT_YET,
    Config,
    ConfigError,
    InitialMember,
    LogRotation,
    Url,
    load,
    parse_url,
    parse_urls,
    read_arguments,
    same_urls,
)


def config(*args: str, **environ: str) -> Config:
    """Load with only these flags and variables."""
    return load(args, environ)


def refusal(args: list[str], environ: Mapping[str, str] | None = None) -> str:
    """Give the line with which these flags are refused."""
    with pytest.raises(ConfigError) as caught:
        load(args, environ or {}).check_bootstrap()
    text = str(caught.value)
    assert "\n" not in text
    return text


def from_file(folder: Path, text: str, *args: str, **environ: str) -> Config:
    """Load a YAML file with this text."""
    path = folder / "rusd.yaml"
    path.write_text(text)
    return load(["--config-file", str(path), *args], environ)


# Defaults


def test_without_any_source_the_defaults_are_etcds() -> None:
    made = config()
    assert made == DEFAULTS
    assert made.data_dir == "default.etcd"
    assert made.heartbeat_interval == 0.1
    assert made.election_timeout == 1.0
    assert made.grpc_keepalive_interval == 7200.0
    assert made.max_concurrent_streams == 2**32 - 1
    assert made.listen_client_urls == (Url("http", "localhost", 2379, "http://localhost:2379"),)
    assert made.initial_cluster == (
        InitialMember("default", (parse_url("http://localhost:2380"),)),
    )
    assert made.log_rotation_config_json == LogRotation()
    assert (made.ignored, made.notices) == ((), ())
    made.check_bootstrap()


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_may_be_given_its_default(name: str) -> None:
    text = FLAGS[name].default.replace("${name}", "default")
    text = text.replace("${initial-advertise-peer-urls}", "http://localhost:2380")
    advertised = "--advertise-client-urls=http://localhost:2379"
    assert config(advertised, f"--{name}={text}") == DEFAULTS


def test_data_folder_and_initial_cluster_follow_the_name() -> None:
    made = config("--name", "m1", "--initial-advertise-peer-urls", "http://10.0.0.1:2380")
    assert made.data_dir == "m1.etcd"
    assert made.initial_cluster == (InitialMember("m1", (parse_url("http://10.0.0.1:2380"),)),)


def test_urls_and_the_data_folder_set_to_nothing_have_their_defaults() -> None:
    names = ("data-dir", "listen-peer-urls", "listen-client-urls", "advertise-client-urls")
    assert config(*(f"--{name}=" for name in names)) == DEFAULTS


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().name = "other"  # type: ignore[misc]


# The command line


@pytest.mark.parametrize(
    "args",
    [
        ["--heartbeat-interval", "150", "--pre-vote=false"],
        ["--heartbeat-interval=150", "-pre-vote=0"],
        ["-heartbeat-interval", "0x96", "--pre-vote=F"],
        ["-heartbeat-interval=0226", "--pre-vote", "-pre-vote=False", "--"],
        ["--heartbeat-interval=1", "--heartbeat-interval=150", "--pre-vote=f"],
    ],
)
def test_flags_are_read_as_go_reads_them(args: list[str]) -> None:
    made = load(args, {})
    assert made.heartbeat_interval == 0.15
    assert made.pre_vote is False


@given(st.lists(st.text(max_size=8) | st.sampled_from(["--", "-", "--name", "--pre-vote=t"])))
def test_any_arguments_are_read_or_refused(args: list[str]) -> None:
    try:
        given_flags = read_arguments(args)
    except ConfigError:
        return
    assert len(given_flags) <= len(args)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--no-such-flag"], "flag provided but not defined: --no-such-flag"),
        (["--experimental-watch-progress-notify-interval=1s"], "not defined: --experimental-watch"),
        (["--heartbeat-interval"], "flag needs an argument: --heartbeat-interval"),
        (["---name", "x"], "bad flag syntax: ---name"),
        (["--=x"], "bad flag syntax: --=x"),
        (["--heartbeat-interval", "abc"], 'invalid value "abc" for flag --heartbeat-interval'),
        (["--heartbeat-interval", "-1"], 'invalid value "-1" for flag --heartbeat-interval'),
        (["--heartbeat-interval", "089"], "--heartbeat-interval: parse error"),
        (["--max-txn-ops", "1" * 30], "--max-txn-ops: value out of range"),
        (["--max-txn-ops", "1 "], "--max-txn-ops: parse error"),
        (["--pre-vote=maybe"], 'invalid value "maybe" for flag --pre-vote: parse error'),
        (["--grpc-keepalive-min-time", "5"], "--grpc-keepalive-min-time: parse error"),
        (["--grpc-keepalive-min-time", "-5s"], "--grpc-keepalive-min-time: value out of range"),
        (["--initial-cluster-state", "old"], "--initial-cluster-state: must be one of new, exist"),
        (["--log-level", "loud"], '"loud" for flag --log-level: must be one of debug, info'),
        (["--log-format", "xml"], '"xml" for flag --log-format: must be one of json, console'),
        (["--metrics", "all"], "--metrics: must be one of basic, extensive"),
        (["--listen-client-urls", "http://127.0.0.1"], 'not have the form "host:port"'),
        (["--listen-client-urls", "127.0.0.1:2379"], "URL scheme must be http, https, unix"),
        (["--listen-client-urls", "ftp://127.0.0.1:1"], "URL scheme must be http, https, unix"),
        (["--listen-client-urls", "http://127.0.0.1:1/p"], "URL must not contain a path: http"),
        (["--listen-client-urls", "http://127.0.0.1:abc"], 'not have the form "host:port"'),
        (["--listen-client-urls", "http://127.0.0.1:99999"], "invalid port"),
        (["--advertise-client-urls", "http://a:1,"], "URL scheme must be http, https, unix"),
        (["--advertise-client-urls", "http://u@a:1"], 'not have the form "host:port"'),
        (["--advertise-client-urls", "http://[::1:1"], "for flag --advertise-client-urls"),
        (["--initial-cluster", "bad"], "--initial-cluster: error setting up initial cluster: URL"),
        (["--log-rotation-config-json", "{bad"], "improperly formatted log rotation config"),
        (["--log-rotation-config-json", '{"maxsize": "1"}'], "maxsize is '1'"),
        (["--log-rotation-config-json", "[]"], "not a JSON object"),
    ],
)
def test_a_command_line_that_cannot_be_read_ends_with_2(args: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(args, {})
    assert line in str(caught.value)
    assert caught.value.exit_code == 2


# What does not fit together

_CLIENT = ["--advertise-client-urls=http://localhost:2379"]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["extra"], "'extra' is not a valid flag"),
        (["--pre-vote", "maybe"], "'maybe' is not a valid flag"),
        (["--", "extra"], "'extra' is not a valid flag"),
        (["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            ["--heartbeat-interval=201"],
            "--election-timeout[1000ms] should be at least as 5 times as "
            "--heartbeat-interval[201ms]",
        ),
        (
            ["--election-timeout=50001"],
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        (
            ["--listen-client-urls=http://127.0.0.1:2379"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            [*_CLIENT, "--listen-client-urls=http://a.example:1"],
            "--listen-client-urls: expected IP in URL for binding (http://a.example:1)",
        ),
        (
            [*_CLIENT, "--listen-client-urls=http://:1"],
            "--listen-client-urls: expected IP in URL for binding (http://:1)",
        ),
        (["--listen-peer-urls=http://a.example:1"], "--listen-peer-urls: expected IP in URL"),
        (["--auto-compaction-mode=foo"], 'unknown auto-compaction-mode "foo"'),
        (["--auto-compaction-retention=foo"], "--auto-compaction-retention: error parsing Comp"),
        (["--auto-compaction-retention=1.5"], "--auto-compaction-retention: error parsing Comp"),
        (["--auto-compaction-retention=-5h"], "--auto-compaction-retention: error parsing Comp"),
        (
            ["--auto-compaction-mode=revision", "--auto-compaction-retention=5h"],
            '--auto-compaction-retention: "5h" is no number of revisions',
        ),
        (["--logger=capnslog"], '--logger: unknown logger option "capnslog"'),
        (["--log-outputs=default,stderr"], '--log-outputs: multi logoutput for "default" is not'),
        (["--log-outputs="], "--log-outputs must name at least one output"),
        (["--log-outputs=a,,b"], "--log-outputs must name at least one output"),
        (["--enable-log-rotation"], "--log-outputs requires a single file path"),
        (
            ["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"],
            "tracing sampling rate must be positive",
        ),
        (
            ["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=1000001"],
            "tracing sampling rate must be less than 1000000",
        ),
        (["--log-outputs=systemd/journal,a"], '"systemd/journal" there can be no other'),
        (["--enable-log-rotation", "--log-outputs=a,b"], "--log-outputs requires a single file"),
        (
            ["--name=x", "--initial-cluster=y=http://localhost:2380"],
            '--initial-cluster: couldn\'t find local name "x" in the initial cluster config',
        ),
        (["--initial-cluster="], 'couldn\'t find local name "default"'),
        (["--name=", "--initial-cluster=a=http://localhost:2380"], 'find local name ""'),
        (
            ["--initial-cluster=default=http://127.0.0.1:1"],
            "--initial-cluster has default=http://127.0.0.1:1 but missing from "
            "--initial-advertise-peer-urls=http://localhost:2380 "
            '(resolved urls: "http://localhost:2380" != "http://127.0.0.1:1")',
        ),
        (
            [
                "--initial-cluster=default=http://127.0.0.1:1",
                "--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2",
            ],
            "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from "
            "--initial-cluster=default=http://127.0.0.1:1",
        ),
        (
            ["--initial-cluster=default=http://localhost:2380,default=http://localhost:2380"],
            "cluster default=http://localhost:2380,default=http://localhost:2380 has duplicate",
        ),
        (
            ["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"],
            "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate",
        ),
        (
            ["--initial-cluster-state=existing", "--initial-cluster=b=http://localhost:2380"],
            'couldn\'t find local name "default"',
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(args: list[str], line: str) -> None:
    assert line in refusal(args)
    with pytest.raises(ConfigError) as caught:
        load(args, {}).check_bootstrap()
    assert caught.value.exit_code == 1


def test_the_limits_themselves_are_allowed() -> None:
    assert config("--heartbeat-interval=200").heartbeat_interval == 0.2
    assert config("--election-timeout=50000").election_timeout == 50.0


def test_own_urls_may_be_in_any_order_and_by_name_or_address() -> None:
    config(
        "--initial-advertise-peer-urls=http://127.0.0.1:2,http://127.0.0.1:1",
        "--initial-cluster=default=http://127.0.0.1:1,default=http://127.0.0.1:2",
    ).check_bootstrap()


def test_a_cluster_may_begin_with_many_members() -> None:
    made = config("--initial-cluster=b=http://10.0.0.2:2380,default=http://localhost:2380")
    made.check_bootstrap()
    assert [member.name for member in made.initial_cluster] == ["b", "default"]


def test_who_joins_is_told_by_the_cluster_who_it_is() -> None:
    """As etcd, which does not look at --initial-advertise-peer-urls then."""
    config(
        "--initial-cluster-state=existing",
        "--initial-cluster=b=http://10.0.0.2:2380,default=http://127.0.0.1:1",
    ).check_bootstrap()


def test_urls_are_the_same_by_name_and_by_address() -> None:
    assert same_urls(
        ["http://127.0.0.1:1", "http://a.invalid:2"], ["http://a.invalid:2", "http://127.0.0.1:1"]
    )
    assert same_urls(["http://[::1]:1"], ["http://[0:0::1]:1"])
    assert not same_urls(["http://localhost:1"], ["http://127.0.0.1:1"])
    assert not same_urls(["http://127.0.0.1:1"], ["https://127.0.0.1:1"])
    assert not same_urls(["http://127.0.0.1:1"], ["http://127.0.0.1:1", "http://127.0.0.1:2"])
    assert not same_urls(["nonsense"], ["http://127.0.0.1:1"])


# What is not there yet


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_flags_for_safety_that_are_not_there_yet_stop_the_start(name: str) -> None:
    flag = FLAGS[name]
    text = {"bool": "true", "n": "7"}
    line = f"--{name} is not supported yet"
    value = text.get(flag.syntax.shown, "http://127.0.0.1:1")
    assert line in refusal([f"--{name}={value}"])
    assert line in refusal([], {flag.variable: value})


def test_what_forms_the_cluster_is_refused_or_there() -> None:
    assert {"discovery", "discovery-token", "discovery-srv"} <= NOT_YET
    for name, flag in FLAGS.items():
        assert not (flag.ignored and name in NOT_YET)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--tls-min-version", "TLS1.1"], '--tls-min-version: unexpected TLS version "TLS1.1"'),
        (["--tls-max-version", "1.3"], '--tls-max-version: unexpected TLS version "1.3" (must be'),
        (
            ["--tls-min-version", "TLS1.3", "--tls-max-version", "TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            ["--tls-min-version=TLS1.3", "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
    ],
)
def test_versions_of_tls_that_cannot_be_are_refused(args: list[str], line: str) -> None:
    assert line in refusal(args)


@pytest.mark.parametrize(
    "args",
    [
        [*_CLIENT, "--listen-client-urls=https://127.0.0.1:1"],
        [*_CLIENT, "--listen-client-urls=http://127.0.0.1:1,https://127.0.0.1:2"],
        ["--listen-peer-urls=https://127.0.0.1:1"],
        ["--initial-cluster=default=http://localhost:2380,b=https://127.0.0.1:1"],
        ["--cert-file=/x"],
        ["--peer-auto-tls"],
        ["--cipher-suites=x"],
    ],
)
def test_whatever_is_about_tls_is_known_to_be(args: list[str]) -> None:
    assert config(*args).uses_tls
    assert not config().uses_tls


def test_a_file_has_the_flags_of_tls_in_sections(tmp_path: Path) -> None:
    made = from_file(
        tmp_path,
        """
client-transport-security:
  cert-file: /c
  key-file: /k
  client-cert-file: /cc
  client-key-file: /ck
  client-cert-auth: true
  trusted-ca-file: /ca
  auto-tls: true
  allowed-hostname: [a, b]
  crl-file: /crl
peer-transport-security:
  cert-file: /pc
  key-file: /pk
  client-cert-file: /pcc
  client-key-file: /pck
  client-cert-auth: true
  trusted-ca-file: /pca
  auto-tls: true
  allowed-cn: x
  allowed-hostname: y
  crl-file: /pcrl
  skip-client-san-verification: true
cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
tls-min-version: TLS1.2
tls-max-version: TLS1.3
self-signed-cert-validity: 3
""",
    )
    assert (made.cert_file, made.key_file, made.client_cert_auth) == ("/c", "/k", True)
    assert (made.client_cert_file, made.client_key_file) == ("/cc", "/ck")
    assert (made.trusted_ca_file, made.client_crl_file, made.auto_tls) == ("/ca", "/crl", True)
    assert made.client_cert_allowed_hostname == ("a", "b")
    assert (made.peer_cert_file, made.peer_key_file, made.peer_client_cert_auth) == (
        "/pc",
        "/pk",
        True,
    )
    assert (made.peer_client_cert_file, made.peer_client_key_file) == ("/pcc", "/pck")
    assert (made.peer_trusted_ca_file, made.peer_crl_file) == ("/pca", "/pcrl")
    assert (made.peer_cert_allowed_cn, made.peer_cert_allowed_hostname) == (("x",), ("y",))
    assert made.peer_skip_client_san_verification
    assert made.peer_auto_tls
    assert made.cipher_suites == ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",)
    assert (made.tls_min_version, made.tls_max_version) == ("TLS1.2", "TLS1.3")
    assert made.self_signed_cert_validity == 3


def test_unix_sockets_are_refused() -> None:
    assert "--listen-peer-urls: unix is not supported yet (unix://a/b:1)" in refusal(
        ["--listen-peer-urls=unix://a/b:1"]
    )


def test_what_tokens_and_passwords_cost_is_read() -> None:
    made = config("--auth-token=jwt,sign-method=RS256", "--auth-token-ttl=7", "--bcrypt-cost=4")
    assert made.auth_token == "jwt,sign-method=RS256"
    assert (made.auth_token_ttl, made.bcrypt_cost) == (7, 4)


def test_flags_without_meaning_are_accepted_and_listed() -> None:
    made = config("--max-wals=9", "--max-snapshots=5", "--memory-mlock", "--wal-dir", "/x")
    assert made.ignored == ("max-wals", "memory-mlock")


# Values


def test_urls_are_sorted_and_trimmed_as_etcd_does_for_ids() -> None:
    urls = parse_urls("http://b:2, http://a:3 ,http://[::1]:4")
    assert [str(url) for url in urls] == ["http://[::1]:4", "http://a:3", "http://b:2"]
    assert urls[0].host == "::1"
    assert urls[0].port == 4


def test_retention_counts_hours_durations_or_revisions() -> None:
    def kept(mode: str, text: str) -> tuple[float, int]:
        made = config(f"--auto-compaction-mode={mode}", f"--auto-compaction-retention={text}")
        return made.auto_compaction_period, made.auto_compaction_revisions

    assert kept("periodic", "0") == (0.0, 0)
    assert kept("periodic", "2") == (7200.0, 0)
    assert kept("periodic", "5m") == (300.0, 0)
    assert kept("revision", "1000") == (0.0, 1000)
    assert kept("revision", "0") == (0.0, 0)


def test_rotation_keeps_the_defaults_of_what_is_not_said() -> None:
    made = config('--log-rotation-config-json={"maxsize": 0, "MaxBackups": 3, "compress": true}')
    assert made.log_rotation_config_json == LogRotation(100, 0, 3, False, True)


# The environment


def test_the_environment_has_every_flag() -> None:
    made = config("--name", "cli", ETCD_HEARTBEAT_INTERVAL="150", ETCD_PRE_VOTE="false")
    assert (made.name, made.heartbeat_interval, made.pre_vote) == ("cli", 0.15, False)
    assert made.notices == ()


def test_a_variable_for_a_flag_that_is_given_is_a_conflict() -> None:
    line = refusal(["--name=a"], {"ETCD_NAME": "b"})
    assert "conflicting environment variable ETCD_NAME is shadowed by --name" in line


def test_a_bad_variable_is_named() -> None:
    line = refusal([], {"ETCD_HEARTBEAT_INTERVAL": "abc"})
    assert line == 'invalid value "abc" for ETCD_HEARTBEAT_INTERVAL: parse error'


def test_unknown_variables_are_noted_and_empty_ones_passed_over() -> None:
    made = config(ETCD_PORT="tcp://1.2.3.4:1", ETCD_NAME="", ETCDCTL_API="3", PATH="/bin")
    assert made.name == "default"
    assert made.notices == ("unrecognized environment variable ETCD_PORT",)


def test_listening_by_variable_needs_advertised_urls_too() -> None:
    line = refusal([], {"ETCD_LISTEN_CLIENT_URLS": "http://127.0.0.1:1"})
    assert "--advertise-client-urls is required" in line


# The file


def test_a_file_is_the_only_source(tmp_path: Path) -> None:
    made = from_file(tmp_path, "name: file\n", "--name=cli", ETCD_NAME="env", ETCD_MAX_WALS="x")
    assert made.name == "file"
    assert made.data_dir == "file.etcd"
    assert made.config_file == str(tmp_path / "rusd.yaml")
    (notice,) = made.notices
    assert "rusd.yaml; other flags and environment variables are not used" in notice


def test_a_variable_may_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rusd.yaml"
    path.write_text("name: file\n")
    assert load(["--name=cli"], {"ETCD_CONFIG_FILE": str(path)}).name == "file"


def test_a_file_has_etcds_keys_and_types(tmp_path: Path) -> None:
    made = from_file(
        tmp_path,
        """
        name: m1
        data-dir:
        wal-dir: ''
        heartbeat-interval: 150
        election-timeout: 2000
        quota-backend-bytes: 8589934592
        listen-client-urls: http://127.0.0.1:13103,http://127.0.0.1:13104
        initial-cluster: m1=http://127.0.0.1:1,m2=http://127.0.0.1:2
        initial-advertise-peer-urls: http://127.0.0.1:1
        strict-reconfig-check: false
        grpc-keepalive-min-time: 3000000000
        grpc-keepalive-timeout: 4s
        log-outputs: [stderr, /dev/null]
        auto-compaction-retention: "1"
        max-wals: 7
        proxy: 'off'
        client-transport-security:
          cert-file:
          client-cert-auth: false
          some-day:
        peer-transport-security:
        """,
    )
    assert (made.name, made.data_dir) == ("m1", "m1.etcd")
    assert (made.heartbeat_interval, made.election_timeout) == (0.15, 2.0)
    assert made.quota_backend_bytes == 8 << 30
    assert [url.port for url in made.listen_client_urls] == [13103, 13104]
    assert [member.name for member in made.initial_cluster] == ["m1", "m2"]
    assert made.strict_reconfig_check is False
    assert (made.grpc_keepalive_min_time, made.grpc_keepalive_timeout) == (3.0, 4.0)
    assert made.log_outputs == ("stderr", "/dev/null")
    assert made.auto_compaction_period == 3600.0
    assert made.ignored == ("max-wals",)
    assert "unrecognized key proxy" in made.notices[1]


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    made = from_file(tmp_path, "# nothing\n")
    assert dataclasses.replace(made, config_file="", notices=()) == DEFAULTS


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("bad: [", "rusd.yaml is not YAML"),
        ("just text", "rusd.yaml has no keys"),
        ("heartbeat-interval: abc", "heartbeat-interval must be a number, not 'abc'"),
        ("heartbeat-interval: true", "heartbeat-interval must be a number, not True"),
        ("heartbeat-interval: -1", 'invalid "-1" for heartbeat-interval'),
        ("name: 1", "name must be text (in quotes), not 1"),
        ("pre-vote: 'yes'", "pre-vote must be true or false, not 'yes'"),
        ("log-outputs: [1]", "log-outputs must be text (in quotes) or a list, not [1]"),
        ("listen-client-urls: bad", 'invalid "bad" for listen-client-urls: URL scheme must be'),
        ("client-transport-security: x", "client-transport-security has no keys"),
        ("client-transport-security: {client-cert-auht: true}", "has no key client-cert-auht"),
        ("client-transport-security: {name: x}", "client-transport-security has no key name"),
        ("heartbeat-interval: 300", "--election-timeout[1000ms] should be at least as 5 times"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_file(tmp_path, text)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.yaml")
    line = refusal(["--config-file", missing])
    assert line == f"--config-file: open {missing}: No such file or directory"


def test_default_rotation_is_what_the_flag_table_says() -> None:
    text = FLAGS["log-rotation-config-json"].default
    assert LogRotation(**json.loads(text)) == LogRotation()
