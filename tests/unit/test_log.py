"""The log: lines that machines read, and outputs that never stop the member."""

import asyncio
import calendar
import gzip
import json
import os
import pty
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusd import log_outputs
from rusd.config import ConfigError, LogRotation, load
from rusd.log import (
    LEVELS,
    LONGEST_BYTES_FIELD,
    SILENT,
    Logger,
    log_loop_exceptions,
    open_logger,
)
from rusd.log_outputs import BACKLOG


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "member.log"


def events(path: Path) -> list[dict[str, object]]:
    """Parse every line; NaN and other extensions of JSON are errors."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def here() -> int:
    """The caller's line number."""
    return sys._getframe(1).f_lineno


# Lines


def test_a_line_has_etcds_fields_first_and_in_order(path: Path) -> None:
    before = time.time()
    log = Logger(outputs=[str(path)])
    log.info("ready to serve client requests", data_dir="/d", count=3, listen_urls=["a", "b"])
    line = here() - 1
    after = time.time()
    (event,) = events(path)
    assert list(event) == ["level", "ts", "caller", "msg", "data-dir", "count", "listen-urls"]
    assert (event["level"], event["msg"]) == ("info", "ready to serve client requests")
    assert (event["data-dir"], event["count"], event["listen-urls"]) == ("/d", 3, ["a", "b"])
    assert event["caller"] == f"unit/test_log.py:{line}"
    stamp = str(event["ts"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamp)
    then = time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")
    assert before - 1 <= calendar.timegm(then) <= after


def test_bytes_exceptions_and_long_values_are_shown(path: Path) -> None:
    Logger(outputs=[str(path)]).warn(
        "slow",
        key=b"foo\x00\xff\n",
        view=memoryview(b"abc"),
        long=b"x" * (LONGEST_BYTES_FIELD + 5),
        error=ValueError("bad"),
        empty=ValueError(),
        where={2, 1},
        none=None,
    )
    (event,) = events(path)
    assert event["key"] == r"foo\x00\xff\n"
    assert event["view"] == "abc"
    assert event["long"] == "x" * LONGEST_BYTES_FIELD + "...(+5 bytes)"
    assert (event["error"], event["empty"]) == ("bad", "ValueError()")
    assert event["where"] == ["1", "2"]
    assert event["none"] is None


def test_a_field_cannot_hide_what_begins_the_line(path: Path) -> None:
    fields = {"level": "x", "ts": 1, "caller": 2, "msg": 3}
    Logger(outputs=[str(path)]).error("real", **fields)
    (event,) = events(path)
    assert (event["level"], event["msg"], event["_level"], event["_msg"]) == (
        "error",
        "real",
        "x",
        3,
    )


class Unwritable:
    """Raises when it is made text."""

    def __str__(self) -> str:
        raise RuntimeError


class Unprintable(Unwritable):
    """Raises from whatever shows it."""

    def __repr__(self) -> str:
        raise RuntimeError


def test_a_value_that_cannot_be_shown_costs_only_itself(path: Path) -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    log = Logger(outputs=[str(path)])
    log.info("x", bad=[Unprintable()], nan=float("nan"), cycle=cycle, key=b"k", keys={b"a": 1}, n=1)
    (event,) = events(path)
    assert (event["level"], event["msg"], event["key"], event["n"]) == ("info", "x", "k", 1)
    assert event["bad"] == "<list that cannot be shown>"
    assert (event["nan"], event["cycle"], event["keys"]) == ("nan", "[[...]]", "{b'a': 1}")


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    | st.builds(Unwritable) | st.builds(ValueError, st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary() | st.none(), inner),
    max_leaves=8,
)  # fmt: skip


@given(st.text(), st.dictionaries(st.text(max_size=5), _values, max_size=5))
def test_every_message_and_value_is_one_line_that_parses(
    tmp_path_factory: pytest.TempPathFactory, msg: str, fields: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("log") / "line"
    log = Logger(outputs=[str(path)])
    log.info(msg, **fields)
    log.close()
    content = path.read_bytes()
    assert content.count(b"\n") == 1
    assert content.endswith(b"\n")
    event = json.loads(content)
    assert event["level"] == "info"
    assert event["msg"] == msg.encode("utf-8", "backslashreplace").decode()


def test_surrogates_do_not_stop_a_line(path: Path) -> None:
    Logger(outputs=[str(path)]).info("file", path=os.fsdecode(b"\xff"))
    assert path.read_bytes().count(b"\n") == 1


def test_console_lines_have_tabs_and_the_fields_as_json(path: Path) -> None:
    log = Logger(line_format="console", outputs=[str(path)])
    log.info("two\nlines", took="1.2ms")
    log.info("bare")
    first, second = path.read_text().splitlines()
    _, level, caller, msg, fields = first.split("\t")
    assert (level, caller.split(":")[0], msg) == ("info", "unit/test_log.py", "two\\nlines")
    assert json.loads(fields) == {"took": "1.2ms"}
    assert second.endswith("\tbare")


# Levels


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_below_the_level_is_not_written(path: Path, level: str) -> None:
    log = Logger(level=level, outputs=[str(path)])
    methods: dict[str, Callable[[str], None]] = {
        "debug": log.debug, "info": log.info, "warn": log.warn, "error": log.error,
        "fatal": log.fatal,
    }  # fmt: skip
    for method in methods.values():
        method("x")
    wanted = [name for name in methods if LEVELS[name] >= LEVELS[level]]
    assert [event["level"] for event in events(path)] == wanted
    assert [name for name in methods if log.enabled(name)] == wanted


def test_the_silent_logger_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    SILENT.fatal("x")
    assert not SILENT.enabled("fatal")
    assert capfd.readouterr() == ("", "")


# Outputs


def test_several_outputs_get_every_line(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = load([f"--log-outputs=stdout,stderr,{path}", "--log-level=warn"], {})
    log = open_logger(config)
    log.info("no")
    log.warn("yes")
    log.close()
    out, err = capfd.readouterr()
    assert out == err == path.read_text()
    assert json.loads(out)["msg"] == "yes"


def test_a_file_is_appended_to(path: Path) -> None:
    for msg in ("one", "two"):
        log = Logger(outputs=[str(path)])
        log.info(msg)
        log.close()
    assert [event["msg"] for event in events(path)] == ["one", "two"]


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    missing = str(tmp_path / "none" / "x")
    with pytest.raises(FileNotFoundError):
        Logger(outputs=[missing])
    with pytest.raises(ConfigError, match=f"--log-outputs: open {missing}: No such file"):
        open_logger(load([f"--log-outputs={missing}"], {}))


def test_a_file_that_logrotate_cuts_off_goes_on_at_its_beginning(path: Path) -> None:
    log = Logger(outputs=[str(path)])
    log.info("before")
    os.truncate(path, 0)
    log.info("after")
    log.close()
    assert [event["msg"] for event in events(path)] == ["after"]


@contextmanager
def stderr_is(fd: int) -> Iterator[None]:
    """Make `fd` this process's stderr, as a shell does."""
    kept = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _pipe() -> tuple[int, int]:
    return os.pipe()


def _socket_pair() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def _read_until(fd: int, wanted: bytes) -> bytes:
    deadline = time.monotonic() + 60
    read = b""
    while wanted not in read:
        assert time.monotonic() < deadline
        chunk = os.read(fd, 1 << 16)
        assert chunk
        read += chunk
    return read


def _refuse_reopening(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without /proc, or with a pipe of another user."""
    real_open = os.open

    def refuse(path: str, *args: int) -> int:
        if path.startswith("/proc/self/fd/"):
            raise PermissionError
        return real_open(path, *args)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("reopened", [True, False])
def test_a_line_that_is_larger_than_the_pipe_arrives_whole(
    reopened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not reopened:
        _refuse_reopening(monkeypatch)
    reader, writer = os.pipe()
    with stderr_is(writer):
        log = Logger(outputs=["stderr"])
        log.info("large", padding="x" * 300_000)
        read = b""
        while b'"small"' not in read:
            read += os.read(reader, 1 << 16)
            log.info("small")
        log.close()
    os.close(writer)
    os.close(reader)
    first = json.loads(read.splitlines()[0])
    assert (first["msg"], len(first["padding"])) == ("large", 300_000)


@pytest.mark.parametrize("reopened", [True, False])
@pytest.mark.parametrize("make", [_pipe, _socket_pair])
def test_a_reader_that_stops_loses_lines_but_never_blocks_the_writer(
    make: Callable[[], tuple[int, int]], reopened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = make()
    if not reopened:
        _refuse_reopening(monkeypatch)
    count = BACKLOG // 500 + 2000
    with stderr_is(writer):
        log = Logger(outputs=["stderr"])
        for number in range(count):
            log.info("filling", number=number, padding="x" * 500)
        # The reader comes back: what waited goes out, and what was lost is told.
        tail = b""
        for number in range(count, count + 100_000):
            tail += os.read(reader, 1 << 16)
            log.info("again", number=number, padding="x" * 500)
            if b"were dropped" in tail:
                break
        log.info("last")
        tail += _read_until(reader, b'"last"')
        log.close()
    os.close(reader)
    os.close(writer)
    lines = [json.loads(line) for line in tail.splitlines()]
    numbers = [line["number"] for line in lines if "number" in line]
    assert numbers == sorted(set(numbers))
    (notice,) = [line for line in lines if line["msg"] == "log lines were dropped"]
    assert notice["count"] > 0
    assert notice["count"] + len(numbers) == numbers[-1] + 1
    assert lines[-1]["msg"] == "last"


def test_a_terminal_that_stands_still_does_not_block() -> None:
    terminal, ours = pty.openpty()
    with stderr_is(ours):
        log = Logger(outputs=["stderr"])
        for number in range(1000):
            log.info("filling", number=number, padding="x" * 500)
        log.close()
    os.close(ours)
    os.close(terminal)


def test_a_shared_pipe_stays_blocking_for_others() -> None:
    reader, writer = os.pipe()
    with stderr_is(writer):
        log = Logger(outputs=["stderr"])
        log.info("x")
        assert os.get_blocking(writer)
        log.close()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("make", [_pipe, _socket_pair])
def test_a_reader_that_is_gone_stops_nothing(make: Callable[[], tuple[int, int]]) -> None:
    reader, writer = make()
    with stderr_is(writer):
        log = Logger(outputs=["stderr"])
        os.close(reader)
        for _ in range(1000):
            log.info("x")
        log.close()
    os.close(writer)


def test_a_closed_stderr_and_a_full_disk_stop_nothing() -> None:
    program = (
        "import sys; from rusd.log import Logger\n"
        "log = Logger(outputs=['stderr', '/dev/full'])\n"
        "for _ in range(100): log.info('x')\n"
        "log.close(); print('alive')"
    )
    command = ["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, program]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert done.stdout == b"alive\n"


# Rotation


def _fill(log: Logger, megabytes: int) -> None:
    for number in range(megabytes * 4):
        log.info("filling", number=number, padding="x" * (1 << 18))


def test_a_file_is_set_aside_at_its_size_and_no_line_is_lost(path: Path) -> None:
    log = Logger(outputs=[str(path)], rotation=LogRotation(maxsize=1))
    _fill(log, 3)
    log.close()
    files = sorted(path.parent.iterdir())
    assert len(files) == 4
    assert all(file.stat().st_size <= 1 << 20 for file in files)
    aside = [file for file in files if file != path]
    for file in aside:
        assert re.fullmatch(r"member-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}\.log", file.name)
    numbers = [event["number"] for file in [*aside, path] for event in events(file)]
    assert numbers == list(range(12))


def test_files_set_aside_are_compressed_and_counted(path: Path) -> None:
    other = path.with_name("member-notes.log")
    other.touch()
    log = Logger(outputs=[str(path)], rotation=LogRotation(maxsize=1, maxbackups=1, compress=True))
    _fill(log, 3)
    log.close()
    (aside,) = set(path.parent.iterdir()) - {path, other}
    assert aside.name.endswith(".log.gz")
    lines = gzip.decompress(aside.read_bytes()).splitlines()
    numbers = [json.loads(line)["number"] for line in lines]
    assert numbers == [6, 7, 8]


def test_old_files_are_removed(path: Path) -> None:
    old = path.with_name("member-2001-01-01T00-00-00.000.log")
    old.touch()
    os.utime(old, (0, 0))
    log = Logger(outputs=[str(path)], rotation=LogRotation(maxsize=1, maxage=1))
    _fill(log, 2)
    log.close()
    assert not old.exists()
    assert len(list(path.parent.iterdir())) > 1


def test_a_rotating_file_makes_its_folder_and_keeps_its_mode(path: Path) -> None:
    path = path.parent / "some" / "logs" / path.name
    log = Logger(outputs=[str(path)], rotation=LogRotation(maxsize=1, compress=True))
    path.chmod(0o640)
    _fill(log, 2)
    log.close()
    files = list(path.parent.iterdir())
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o640}


# The journal


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What journald has: a socket that takes entries."""
    where = str(tmp_path / "journal")
    monkeypatch.setattr(log_outputs, "JOURNAL", where)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(where)
        yield listener


def _entry(journal: socket.socket) -> dict[bytes, bytes]:
    lines = journal.recv(1 << 22, socket.MSG_DONTWAIT).splitlines()
    return dict(line.split(b"=", 1) for line in lines)


def test_the_journal_gets_each_event_with_its_priority(journal: socket.socket) -> None:
    log = open_logger(load(["--log-outputs=systemd/journal"], {}))
    log.info("one", key=b"a\nb")
    log.error("two")
    entry = _entry(journal)
    assert entry[b"SYSLOG_IDENTIFIER"] == b"etcd"
    assert entry[b"PRIORITY"] == b"6"
    assert json.loads(entry[b"MESSAGE"])["msg"] == "one"
    entry = _entry(journal)
    assert entry[b"PRIORITY"] == b"3"
    assert json.loads(entry[b"MESSAGE"])["msg"] == "two"
    log.info("x" * (1 << 21))  # larger than a datagram can be
    assert set(_entry(journal)[b"MESSAGE"][-100:]) == set(b"x")
    log.close()


def test_a_journal_that_stands_still_loses_lines_and_says_how_many(
    journal: socket.socket,
) -> None:
    log = Logger(outputs=["systemd/journal"])
    for number in range(5000):
        log.info("line", number=number)
    taken = []
    with suppress(BlockingIOError):
        while True:
            taken.append(json.loads(_entry(journal)[b"MESSAGE"])["number"])
    assert taken == list(range(len(taken)))
    assert len(taken) < 5000
    log.info("again")
    assert _entry(journal)[b"MESSAGE"] == b"%d log lines were dropped" % (5000 - len(taken))
    assert json.loads(_entry(journal)[b"MESSAGE"])["msg"] == "again"
    log.close()


def test_without_a_journal_the_member_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_outputs, "JOURNAL", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"--log-outputs: open .*/none: No such file"):
        open_logger(load(["--log-outputs=systemd/journal"], {}))


# The event loop


def test_an_exception_that_nobody_awaits_is_logged(path: Path) -> None:
    log = Logger(outputs=[str(path)])

    async def run() -> None:
        loop = asyncio.get_running_loop()
        log_loop_exceptions(loop, log)
        done = loop.create_future()

        def fail() -> None:
            loop.call_soon(done.set_result, None)
            raise KeyError("lost")

        loop.call_soon(fail)
        await asyncio.wait_for(done, 60)

    asyncio.run(run())
    (event,) = events(path)
    assert event["level"] == "error"
    assert event["error"] == "'lost'"
    assert 'raise KeyError("lost")' in str(event["stacktrace"])
