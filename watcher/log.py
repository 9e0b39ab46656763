"""The spool's log: lines for people on a terminal, one JSON object a line everywhere else.

Every line goes to stderr, carries an `action` and, where there is a job, its `job_id`. Texts from strangers
reach the log only in printable form, so that no file name can forge a line or steer a terminal.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

from files.printable import printable

# structlog imports rich for tracebacks that print local variables too: 5 MB in every daemon for what no log
# should hold. It does without when the import fails.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    del sys.modules["rich"]
    if _rich is not None:
        sys.modules["rich"] = _rich

Level = Literal["debug", "info", "warning", "error"]

log: Any = structlog.get_logger()
"""The logger of every module of `watcher`; quiet about nothing until `configure` says so."""

_LEVELS: Mapping[Level, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_FIRST = ("timestamp", "level", "event", "action", "job_id")
_DEEPEST = 6
_MAX_TRACEBACK = 60


def configure(stream: TextIO | None = None, level: Level = "info") -> None:
    """Send the log to `stream` (default: stderr as it is now), from `level` up."""
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal, key="timestamp"),
            _cleaned,
            _console() if terminal else _json_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _LogLines(stream),
        cache_logger_on_first_use=False,
    )


class _LogLines:
    """Writes whole lines, from any thread. What can't be written (disk full, no reader) is dropped."""

    _lock = threading.Lock()

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = exception = msg


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors="NO_COLOR" not in os.environ,
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
    )


def _cleaned(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make every value safe to print, and exceptions text."""
    error = _exception(event.pop("exc_info", None))
    clean = {printable(key, 100): _clean(value) for key, value in event.items()}
    if error is not None:
        clean["exception"] = _traceback(error)
    return clean


def _exception(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple) and isinstance(exc_info[1], BaseException):
        return exc_info[1]
    return sys.exc_info()[1] if exc_info else None


def _traceback(error: BaseException) -> str:
    """The traceback's last lines. No line of a message in it looks like one of ours."""
    text = "".join(traceback.format_exception(error, chain=True))
    return "\n".join("  | " + printable(line, 500) for line in text.splitlines()[-_MAX_TRACEBACK:])


def _clean(value: object, depth: int = 0) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return printable(os.fsdecode(value))
    if depth < _DEEPEST and isinstance(value, Mapping):
        return {printable(key, 100): _clean(item, depth + 1) for key, item in value.items()}
    if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
        return [_clean(item, depth + 1) for item in value]
    return printable(value)


def _json_line(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    first = {key: event.pop(key) for key in _FIRST if key in event}
    return json.dumps(first | dict(event), ensure_ascii=False, default=printable)
