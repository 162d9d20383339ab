"""The log: one JSON object (or console line) an event, with etcd's field names.

    log.info("ready to serve client requests", address="127.0.0.1:2379")
    {"level":"info","ts":"2026-01-02T15:04:05.123456Z","caller":"rusd/server.py:40","msg":"ready ...

`ts` is UTC, in microseconds. Where lines go is in `rusd.log_outputs`, which promises that logging
neither stops nor blocks the member.
"""

import asyncio
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

from rusd.config import Config, ConfigError, LogRotation
from rusd.log_outputs import open_output

LONGEST_BYTES_FIELD = 512
"""Bytes of a field's value (a key, a request) that a line shows."""

LEVELS = {"debug": 0, "info": 1, "warn": 2, "error": 3, "panic": 4, "fatal": 5}
_DEBUG, _INFO, _WARN, _ERROR, _FATAL, _SILENT = 0, 1, 2, 3, 5, 6
# Names that begin every line; a field of such a name gets an underscore in front.
_FIRST = frozenset(("level", "ts", "caller", "msg"))


class Logger:
    """Writes events at or above `level` to `outputs`; safe to call from any thread.

    `outputs` are etcd's: `default` and `stderr`, `stdout`, `systemd/journal`, or file paths; none
    means silence. `line_format` is `json` or `console`. With `rotation`, files among the outputs
    rotate. Raises OSError when an output cannot be opened.
    """

    def __init__(
        self,
        level: str = "info",
        line_format: str = "json",
        outputs: Sequence[str] = ("stderr",),
        rotation: LogRotation | None = None,
    ) -> None:
        self._threshold = LEVELS[level] if outputs else _SILENT
        self._line = {"json": _json_line, "console": _console_line}[line_format]
        self._lock = threading.Lock()
        self._outputs = [open_output(name, rotation) for name in outputs]

    def enabled(self, level: str) -> bool:
        """Tell whether an event of `level` would be written; ask before costly fields."""
        return LEVELS[level] >= self._threshold

    def debug(self, msg: str, /, **fields: object) -> None:
        """Log what helps to follow the program."""
        if self._threshold <= _DEBUG:
            self._write("debug", msg, fields)

    def info(self, msg: str, /, **fields: object) -> None:
        """Log an event of normal operation.

        A field's underscores become dashes (`data_dir` is written `data-dir`), bytes are shown as
        in Python without the quotes, and an exception as its text.
        """
        if self._threshold <= _INFO:
            self._write("info", msg, fields)

    def warn(self, msg: str, /, **fields: object) -> None:
        """Log what an operator may want to act on."""
        if self._threshold <= _WARN:
            self._write("warn", msg, fields)

    def error(self, msg: str, /, **fields: object) -> None:
        """Log that something failed."""
        if self._threshold <= _ERROR:
            self._write("error", msg, fields)

    def fatal(self, msg: str, /, **fields: object) -> None:
        """Log why the member stops. Stopping is the caller's."""
        if self._threshold <= _FATAL:
            self._write("fatal", msg, fields)

    def close(self) -> None:
        """Give waiting lines a last second to go out; files are closed, stderr is not."""
        self._threshold = _SILENT
        with self._lock:
            for output in self._outputs:
                output.close()
            self._outputs = []

    def _write(self, level: str, msg: str, fields: dict[str, object]) -> None:
        frame = sys._getframe(2)
        self.write(level, msg, fields, frame.f_code.co_filename, frame.f_lineno)

    def write(
        self, level: str, msg: str, fields: dict[str, object], filename: str, line_number: int
    ) -> None:
        """Write an event of a place in the program, whatever its level."""
        now = time.time_ns() // 1000
        # strftime costs more than the rest of the line; it is exact for a whole second.
        seconds, micros = divmod(now, 1_000_000)
        ts = f"{_second(seconds)}.{micros:06d}Z"
        caller = f"{_short_path(filename)}:{line_number}"
        shown = {
            f"_{name}" if name in _FIRST else name.replace("_", "-"): value
            for name, value in fields.items()
        }
        line = self._line(level, ts, caller, msg, shown).encode("utf-8", "backslashreplace")
        with self._lock:
            for output in self._outputs:
                output.write(line, level)


def open_logger(config: Config) -> Logger:
    """Open the logger that the `--log-*` flags ask for; ConfigError when an output cannot be."""
    try:
        return Logger(
            level=config.log_level,
            line_format=config.log_format,
            outputs=config.log_outputs,
            rotation=config.log_rotation_config_json if config.enable_log_rotation else None,
        )
    except OSError as error:
        raise ConfigError(f"--log-outputs: open {error.filename}: {error.strerror}") from None


class _Bridge(logging.Handler):
    """Passes on what is logged through the standard library, with its extra fields."""

    def __init__(self, log: Logger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = {"WARNING": "warn", "CRITICAL": "fatal"}.get(
            record.levelname, record.levelname.lower()
        )
        if not self._log.enabled(level):
            return
        fields = {name: value for name, value in vars(record).items() if name not in _OF_RECORD}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = record.exc_info[1]
            fields["stacktrace"] = "".join(traceback.format_exception(record.exc_info[1]))
        self._log.write(level, record.getMessage(), fields, record.pathname, record.lineno)


_OF_RECORD = frozenset(vars(logging.makeLogRecord({})))


def standard_logger(log: Logger, name: str) -> logging.Logger:
    """A logger of the standard library whose events go to `log`."""
    logger = logging.getLogger(name)
    logger.handlers = [_Bridge(log)]
    logger.setLevel(logging.DEBUG if log.enabled("debug") else logging.INFO)
    logger.propagate = False
    return logger


def log_loop_exceptions(loop: asyncio.AbstractEventLoop, log: Logger) -> None:
    """Send exceptions that nobody awaits in `loop` to `log`, with their stack traces."""

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        fields: dict[str, object] = {"reason": context["message"]}
        if isinstance(error, BaseException):
            fields["error"] = error
            fields["stacktrace"] = "".join(traceback.format_exception(error))
        for name in ("task", "future", "handle", "protocol", "transport"):
            if name in context:
                fields[name] = repr(context[name])
        log.error("unhandled exception in the event loop", **fields)

    loop.set_exception_handler(handle)


# What a line is


_last_second: tuple[int, str] = (0, "1970-01-01T00:00:00")


def _second(seconds: int) -> str:
    global _last_second
    last, text = _last_second
    if last != seconds:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _last_second = (seconds, text)
    return text


_short_paths: dict[str, str] = {}


def _short_path(filename: str) -> str:
    """Return the last folder and the name, as in `node/pipeline.py`."""
    short = _short_paths.get(filename)
    if short is None:
        short = _short_paths[filename] = "/".join(filename.split(os.sep)[-2:])
    return short


def _value(value: object) -> object:
    """Show a value that JSON has no form for."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        shown = repr(bytes(value[:LONGEST_BYTES_FIELD]))[2:-1]
        rest = len(value) - LONGEST_BYTES_FIELD
        return f"{shown}...(+{rest} bytes)" if rest > 0 else shown
    if isinstance(value, BaseException):
        return str(value) or repr(value)
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return str(value)


_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_value
).encode


def _json(fields: dict[str, object]) -> str:
    try:
        return _encode(fields)
    except Exception:  # a key that is not text, NaN, a cycle, a __str__ that raises: show the rest
        return _encode({name: _encodable(value) for name, value in fields.items()})


def _encodable(value: object) -> object:
    """Return `value` if JSON has a form for it, else the best text for it that there is."""
    for show in (_encode, repr):
        try:
            text = show(value)
        except Exception:
            continue
        return value if show is _encode else text
    return f"<{type(value).__name__} that cannot be shown>"


def _json_line(level: str, ts: str, caller: str, msg: str, fields: dict[str, object]) -> str:
    return _json({"level": level, "ts": ts, "caller": caller, "msg": msg, **fields}) + "\n"


def _console_line(level: str, ts: str, caller: str, msg: str, fields: dict[str, object]) -> str:
    line = f"{ts}\t{level}\t{caller}\t{msg}"
    line = line.replace("\n", "\\n").replace("\r", "\\r")  # one event, one line
    return f"{line}\t{_json(fields)}\n" if fields else line + "\n"


SILENT = Logger(outputs=())
"""Logs nothing: the default for parts that run without a member, as in tests."""
