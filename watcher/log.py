"""The log: lines for people on a terminal, else one JSON object per line.

Every line goes to stderr and has an `action` and, if it concerns a job, its `job_id`; a terminal shows neither. Text
from strangers is made printable, so that no file name can forge a line or control a terminal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

from files.printable import printable, short_path, wrapped

# structlog imports rich, which takes 5 MB, for tracebacks with local variables, which no log should have. It works
# without rich when the import fails.
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
"""The logger of every module of `watcher`; `configure` sets its level."""

_LEVELS: Mapping[Level, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_FIRST = ("timestamp", "level", "event", "action", "job_id")
_MAX_DEPTH = 6
_MAX_TRACEBACK_LINES = 60
MAX_NAMES = 1000


def configure(stream: TextIO | None = None, level: Level = "info") -> None:
    """Send the log to `stream` (default: the current stderr), from `level` up."""
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    colours = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal, key="timestamp"),
            _cleaned,
            _TerminalLines(colours=colours) if terminal else _json_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _LogLines(stream),
        cache_logger_on_first_use=False,
    )


class _LogLines:
    """Writes whole lines, from any thread. Lines that can't be written (disk full, no reader) are dropped."""

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


class _TerminalLines:
    """`07:47:16 done    hello  6.4 s -> outbox/hello`: time, event, subject, details; no ids.

    Reasons, messages and hints have lines of their own. An event with a `job_id` but no name shows the job's name from
    an earlier event.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours
        self._names: dict[object, object] = {}

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        level, text = str(event.get("level", "info")), str(event.get("event", ""))
        ended = event.get("action") in _ENDINGS
        unshown = _UNSHOWN | _RESULT if ended else _UNSHOWN
        parts = [self._label(level, text, ended=ended), self._subject(event, ended=ended)]
        sentences: list[object] = []
        for key, value in event.items():
            if key in _SENTENCES and value:
                sentences += value if isinstance(value, list) else [value]
            elif key not in unshown and value not in (None, "", []):
                parts.append(_detail(key, value))
        parts += [_result(event)] if ended else []
        lines = [f"{self._styled('dim', event.get('timestamp', ''))} {'  '.join(filter(None, parts)).rstrip()}"]
        width = shutil.get_terminal_size().columns - len(_INDENT)
        lines += [_INDENT + line for sentence in sentences for line in wrapped(str(sentence), width)]
        return "\n".join([*lines, *([str(event["exception"])] if "exception" in event else [])])

    def _label(self, level: str, text: str, *, ended: bool) -> str:
        short = text.removeprefix("job ")
        label = f"{short:<{_LABEL}}" if short != text else text
        if level in ("warning", "error") and not ended:
            label = f"{level}: {text}"
        return self._styled(level if level in ("warning", "error") and short != "failed" else short, label)

    def _subject(self, event: MutableMapping[str, Any], *, ended: bool) -> str:
        job = event.get("job_id")
        name = event.get("name") or event.get("file") or event.get("what")
        if job is None:
            return str(name or "")
        if name is not None:
            self._names[job] = name
        if len(self._names) > MAX_NAMES:
            del self._names[next(iter(self._names))]
        found = self._names.pop(job, "") if ended else self._names.get(job, "")
        return str(name or found)

    def _styled(self, style: str, text: object) -> str:
        code = _CODES.get(style) if self._colours else None
        return f"\x1b[{code}m{text}\x1b[0m" if code else str(text)


def _result(event: Mapping[str, Any]) -> str:
    """`6.4 s -> outbox/hello`: length and folder of the audio."""
    length = f"{event['duration_s']:.1f} s " if event.get("duration_s") else ""
    return f"{length}-> {short_path(event.get('folder', ''))}"


def _detail(key: str, value: object) -> str:
    if key in _BARE:
        return str(value)
    return f"{key} {', '.join(map(str, value)) if isinstance(value, list) else short_path(value)}"


_ENDINGS = {"done", "failed", "cancelled"}
_SENTENCES = ("reason", "message", "doubts", "hint")
_UNSHOWN = {
    "timestamp",
    "level",
    "event",
    "action",
    "job_id",
    "pid",
    "stream",
    "by_itself",
    "name",
    "file",
    "what",
    "exception",
}
_RESULT = {"folder", "duration_s"}
_BARE = {"engine", "checkpoint", "line"}
_LABEL = len("queued")
_INDENT = " " * len("00:00:00 ")
_CODES = {"dim": "2", "warning": "33", "error": "31", "done": "32", "failed": "31"}


def _cleaned(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make every value printable, and exceptions text."""
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
    """The last lines of the traceback, prefixed so that none looks like a log line."""
    text = "".join(traceback.format_exception(error, chain=True))
    return "\n".join("  | " + printable(line, 500) for line in text.splitlines()[-_MAX_TRACEBACK_LINES:])


def _clean(value: object, depth: int = 0) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return printable(os.fsdecode(value))
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {printable(key, 100): _clean(item, depth + 1) for key, item in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [_clean(item, depth + 1) for item in value]
    return printable(value)


def _json_line(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    first = {key: event.pop(key) for key in _FIRST if key in event}
    return json.dumps(first | dict(event), ensure_ascii=False, default=printable)
