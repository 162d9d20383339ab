"""`rusd ctl` without a server: how lines are read, how answers are written."""

import builtins
import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from click.testing import CliRunner, Result

from cluster.tls.authority import Authority
from rusd.cli.ctl import ctl
from rusd.cli.ctl.errors import Exit
from rusd.cli.ctl.fields import quoted
from rusd.cli.ctl.flags import INT, flag, parse_int, read, switch
from rusd.cli.ctl.kv import prefix_end
from rusd.cli.ctl.printing import encoded, plain
from rusd.cli.ctl.settings import GLOBAL_FLAGS, Settings
from rusd.cli.ctl.table import Table
from rusd.cli.ctl.txn import compare, request, split, unquoted
from rusd.cli.server import _serve
from rusd.pb import kv_pb2 as kv
from rusd.pb import rpc_pb2 as rpc
from tests.unit.backup.files import made, record
from tests.unit.backup.serving import TOKEN, in_blocks, served

BACKUP = b"0123456789" * 1000 + sha256(b"0123456789" * 1000).digest()
OPTIONS = (switch("prefix", ""), flag("limit", INT, 0, ""), flag("out", INT, 0, "", short="w"))


def run(*words: str) -> Result:
    """Run a command that asks no server."""
    return CliRunner().invoke(ctl, list(words))


@pytest.mark.parametrize(
    ("line", "flags", "words"),
    [
        ("a --prefix b", ["--prefix=true"], ["a", "b"]),
        ("--prefix=false a", ["--prefix=false"], ["a"]),
        ("a --limit 3", ["--limit=3"], ["a"]),
        ("a -w 3 -w4 -w=5", ["--out=3", "--out=4", "--out=5"], ["a"]),
        ("-- --prefix -b", [], ["--", "--prefix", "-b"]),
        ("a -", [], ["a", "-"]),
        ("--limit -- b", ["--limit=--"], ["b"]),
    ],
)
def test_flags_are_read_as_etcdctl_reads_them(
    line: str, flags: list[str], words: list[str]
) -> None:
    """At any place, up to `--`."""
    assert read(line.split(), OPTIONS, interspersed=True) == (flags, words)


def test_flags_of_a_group_end_at_the_first_word() -> None:
    """The rest is the command's."""
    assert read(["--limit=1", "get", "--prefix"], OPTIONS, interspersed=False) == (
        ["--limit=1"],
        ["get", "--prefix"],
    )


@pytest.mark.parametrize(
    ("text", "base", "number"),
    [("10", 0, 10), ("0x10", 0, 16), ("010", 0, 8), ("-5", 10, -5), ("ff", 16, 255)],
)
def test_numbers_are_read_as_go_reads_them(text: str, base: int, number: int) -> None:
    """With the base in the text, where none is given."""
    assert parse_int(text, base) == number


@pytest.mark.parametrize(
    ("text", "base", "signed", "reason"),
    [
        ("x", 10, True, "invalid syntax"),
        ("", 0, True, "invalid syntax"),
        ("1 ", 10, True, "invalid syntax"),
        ("0x1", 16, True, "invalid syntax"),
        ("9223372036854775808", 10, True, "value out of range"),
        ("-1", 10, False, "invalid syntax"),
        ("10000000000000000", 16, False, "value out of range"),
    ],
)
def test_what_is_no_number_is_refused_in_gos_words(
    text: str, base: int, signed: bool, reason: str
) -> None:
    """The function, the text, the reason."""
    function = "strconv.ParseInt" if signed else "strconv.ParseUint"
    with pytest.raises(ValueError, match=reason) as caught:
        parse_int(text, base, signed=signed)
    assert str(caught.value) == f'{function}: parsing "{text}": {reason}'


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")]
)
def test_a_prefix_ends_before_the_first_key_that_has_it_not(prefix: bytes, end: bytes) -> None:
    """Where there is none, it ends nowhere."""
    assert prefix_end(prefix) == end


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a", '"a"'),
        (b'"\\\n\x00\x7f', r'"\"\\\n\x00\x7f"'),
        ("ä€\u2028".encode(), '"ä€\\u2028"'),
        (b"\xff\xfe", r'"\xff\xfe"'),
    ],
)
def test_fields_are_quoted_as_go_quotes(data: bytes, text: str) -> None:
    """What cannot be printed is escaped."""
    assert quoted(data) == text


def test_json_is_gos() -> None:
    """Zeros left out, bytes in base64, < > & escaped, what is chosen named."""
    assert encoded("<&>\u2028ä") == '"\\u003c\\u0026\\u003e\\u2028ä"\n'
    answer = rpc.TxnResponse(
        responses=[rpc.ResponseOp(response_range=rpc.RangeResponse(kvs=[kv.KeyValue(key=b"k")]))]
    )
    assert plain(answer) == {
        "responses": [{"Response": {"response_range": {"kvs": [{"key": "aw=="}]}}}]
    }


def test_a_table_has_titles_in_the_middle_and_cells_at_the_right() -> None:
    """In a frame."""
    assert Table(("id", "name"), [("1", "longer"), ("22", "")]).drawn() == (
        "┌────┬────────┐\n"
        "│ ID │  NAME  │\n"
        "├────┼────────┤\n"
        "│  1 │ longer │\n"
        "│ 22 │        │\n"
        "└────┴────────┘\n"
    )


def test_a_transactions_lines_are_split_at_spaces_outside_quotes() -> None:
    """Escapes have a meaning in double quotes alone."""
    assert split(r"""put "a\tb c" 'x\t y' plain""") == ["put", "a\tb c", r"x\t y", "plain"]
    assert unquoted(r"\xff\101\u20ac") == b"\xffA\xe2\x82\xac"


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ('mod("k") > "3"', "mod_revision", 3),
        ('c("k") = "3"', "create_revision", 3),
        ('ver("k") != "3"', "version", 3),
        ('value("k") < "\\x00"', "value", b"\0"),
        ('lease("k") = "ff"', "lease", 255),
    ],
)
def test_comparisons_are_read(line: str, field: str, value: object) -> None:
    """Each target by its names."""
    made = compare(line)
    assert made.key == b"k"
    assert made.WhichOneof("target_union") == field
    assert getattr(made, field) == value


def test_a_transactions_request_takes_the_flags_of_its_command() -> None:
    """And no others."""
    made = request("get k --prefix --limit 2").request_range
    assert (made.key, made.range_end, made.limit) == (b"k", b"l", 2)
    with pytest.raises(Exit, match="invalid txn request: get k --bogus"):
        request("get k --bogus")


def settings_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> Settings:
    """Return the settings that a line of `version` gives."""
    seen: list[Settings] = []
    made = Settings.of.__func__  # type: ignore[attr-defined]

    def of(cls: type[Settings], ctx: click.Context) -> Settings:
        seen.append(made(cls, ctx))
        return seen[0]

    monkeypatch.setattr(Settings, "of", classmethod(of))
    ended = run(*words)
    if ended.exit_code:
        raise Exit(ended.stderr, ended.exit_code)
    return seen[0]


def test_global_flags_are_taken_at_any_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a command's name, after it; the last one counts."""
    settings = settings_of(monkeypatch, "--endpoints=a:1,b:2", "version", "--hex", "-w", "json")
    assert settings.endpoints == ("a:1", "b:2")
    assert (settings.hex, settings.write_out) == (True, "json")
    assert settings.command_timeout == 5.0


def test_the_environment_has_etcdctls_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag and its variable together are an error, as with etcdctl."""
    monkeypatch.setenv("ETCDCTL_ENDPOINTS", "c:3")
    monkeypatch.setenv("ETCDCTL_COMMAND_TIMEOUT", "1m")
    settings = settings_of(monkeypatch, "version")
    assert (settings.endpoints, settings.command_timeout) == (("c:3",), 60.0)
    monkeypatch.undo()
    monkeypatch.setenv("ETCDCTL_ENDPOINTS", "c:3")
    with pytest.raises(Exit, match="ETCDCTL_ENDPOINTS and --endpoints are both set"):
        settings_of(monkeypatch, "version", "--endpoints=d:4")


def test_a_variable_that_nobody_reads_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be misspelt."""
    monkeypatch.setenv("ETCDCTL_ENDPIONTS", "c:3")
    assert "unrecognized environment variable ETCDCTL_ENDPIONTS=c:3" in run("version").stderr


def test_secrets_are_not_among_what_debug_shows() -> None:
    """That they are given, is."""
    shown = run("get", "a", "--debug", "--user=u:secret", "--command-timeout=1ms").stderr
    assert "ETCDCTL_USER=u\n" in shown
    assert "secret" not in shown
    assert shown.count("ETCDCTL_") == len(GLOBAL_FLAGS)


def test_without_grpcio_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line."""
    for name in [each for each in sys.modules if each.startswith("rusd.cli.ctl.")]:
        if name.rpartition(".")[2] in ("client", "session", "kv", "lease"):
            monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "grpc":
            raise ModuleNotFoundError(name="grpc")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    ended = run("get", "a")
    assert ended.exit_code == 1
    assert ended.stderr == "Error: this needs grpcio: pip install 'rusd[client]'\n"


def test_a_backup_is_given_to_who_shows_a_token(tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    with served(lambda _: in_blocks(BACKUP, 1000)) as target:
        words = ["--endpoints", target, "snapshot", "save", str(file)]
        refused = run(*words, "--auth-jwt-token=another")
        assert (refused.exit_code, file.exists()) == (1, False)
        assert "not for you" in refused.stderr
        assert run(*words, f"--auth-jwt-token={TOKEN}").exit_code == 0
    assert file.read_bytes() == BACKUP


def self_signed(name: str) -> grpc.ServerCredentials:
    """Return what a member needs whose certificate nobody vouches for."""
    credential = Authority.create("nobody knows").issue(name, (name,))
    return grpc.ssl_server_credentials([(credential.key_pem, credential.certificate_pem)])


def test_a_backup_comes_from_whoever_it_is_where_that_is_asked_for(tmp_path: Path) -> None:
    """The member has a certificate that it made for itself, for another name."""
    file = tmp_path / "backup.db"
    with served(lambda _: in_blocks(BACKUP, 1000), self_signed("elsewhere.test")) as target:
        words = ["--endpoints", f"https://{target}", f"--auth-jwt-token={TOKEN}"]
        words += ["--command-timeout=1s", "snapshot", "save", str(file)]
        assert run(*words).exit_code == 1
        assert not file.exists()
        trusting = run(*words, "--insecure-skip-tls-verify", "--command-timeout=30s")
        assert trusting.exit_code == 0, trusting.output
    assert file.read_bytes() == BACKUP


@pytest.mark.parametrize(
    ("flags", "first"), [(["--insecure-transport=false"], b"\x16"), ([], b"P")]
)
def test_a_backup_comes_over_tls_where_that_is_asked_for(
    flags: list[str], first: bytes, tmp_path: Path
) -> None:
    """Of TLS the first byte says that it is a handshake (RFC 8446 section 5.1); HTTP/2's is P."""
    file = tmp_path / "backup.db"
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        listener.settimeout(30)

        def hear() -> bytes:
            with listener.accept()[0] as connection:
                connection.settimeout(30)
                return connection.recv(1)

        heard = threads.submit(hear)
        endpoint = f"127.0.0.1:{listener.getsockname()[1]}"
        result = run(
            *flags, "--endpoints", endpoint, "--command-timeout=2s", "snapshot", "save", str(file)
        )
        assert result.exit_code == 1
        assert heard.result() == first


def test_a_backup_asks_for_the_password_that_is_not_given(tmp_path: Path) -> None:
    """Nobody is there to check it: etcdctl's code for that."""
    words = ["--endpoints=127.0.0.1:1", "--user=root", "--command-timeout=200ms"]
    words += ["snapshot", "save", str(tmp_path / "db")]
    result = CliRunner().invoke(ctl, words, input="secret\n")
    assert result.exit_code == 2
    assert result.stdout == "Password: \n"


def test_the_server_starts_without_the_client() -> None:
    """Neither grpcio nor a command's module is imported by `rusd` itself."""
    script = (
        "import sys, json, rusd.cli.server;"
        "print(json.dumps([each for each in sys.modules if each.startswith(('grpc', 'rusd.cli'))]))"
    )
    modules = json.loads(subprocess.check_output([sys.executable, "-c", script], text=True))
    assert "grpc" not in modules
    assert "rusd.cli.ctl.client" not in modules
    assert "rusd.cli.ctl.kv" not in modules


def test_every_command_has_help() -> None:
    """And so has each below it."""

    def walk(command: click.Command, words: list[str]) -> int:
        shown = CliRunner().invoke(ctl, [*words, "--help"])
        assert shown.exit_code == 0, (words, shown.output)
        assert shown.output.startswith("Usage: ")
        below = 0
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            for name in command.list_commands(ctx):
                found = command.get_command(ctx, name)
                assert found is not None, [*words, name]
                below += walk(found, [*words, name])
        return below + 1

    assert walk(ctl, []) > 60


def test_help_is_a_command_too() -> None:
    """It says what --help says; of what is no command, nothing."""
    assert run("help", "endpoint", "status").output == run("endpoint", "status", "--help").output
    assert run("help").output == run("--help").output
    assert run("help", "endpoint", "bogus").exit_code == 1


def test_options_are_the_flags_of_all_commands() -> None:
    shown = run("options").output
    assert all(f"--{each.name.replace('_', '-')} " in shown for each in GLOBAL_FLAGS if each.name)


def test_a_backup_is_examined_in_the_form_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the global flag, wherever it stands, or its variable."""
    path = made(tmp_path / "backup", dict([record(2)]))
    path.write_bytes((data := path.read_bytes()) + sha256(data).digest())
    first, last = run("-w", "json", "snapshot", "status", str(path)), ("-w", "json")
    assert json.loads(first.output)["revision"] == 2
    assert run("snapshot", "verify", str(path), *last).stdout == first.stdout
    monkeypatch.setenv("ETCDCTL_WRITE_OUT", "json")
    assert run("snapshot", "status", str(path)).output == first.output
    assert run("snapshot", "status").exit_code == 128
    monkeypatch.setenv("ETCDCTL_WRITE_OUT", "protobuf")
    assert run("snapshot", "status", str(path)).exit_code == 4


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_a_shell_gets_its_script(shell: str) -> None:
    """It calls `rusd` to complete."""
    assert "_RUSD_COMPLETE" in run("completion", shell).output


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ctl endp", "endpoint"),
        ("ctl endpoint he", "health"),
        ("ctl get --pre", "--prefix"),
        ("ctl get a -w fi", "fields"),
        ("check pe", "perf"),
    ],
)
def test_what_is_typed_is_completed(typed: str, offered: str) -> None:
    """Commands, flags, values."""
    words = ["rusd", *typed.split()]
    environment = {
        "_RUSD_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    ended = CliRunner().invoke(_serve, [], prog_name="rusd", env=environment)
    assert f"plain,{offered}" in ended.output.splitlines()
