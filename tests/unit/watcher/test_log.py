"""The log: whole lines that nobody can forge."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import pytest
import structlog

from watcher.log import configure, log

NASTY = "\x1b[2J\x1b]0;owned\x07\n2026-01-01 [info] all is well\r\u202eevil\u2028\udcff\x9b31m"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def one_line(stream: io.StringIO) -> dict[str, object]:
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def harmless(text: str) -> bool:
    return all(char.isprintable() or char in "\n" for char in text)


def test_a_line_is_one_json_object_with_action_and_job_id() -> None:
    """For machines: time, level, event, action, job_id first; names in any script stay readable."""
    stream = io.StringIO()
    configure(stream)
    log.info("claimed", action="claim", job_id="j1", file="olá.yaml", tries=2, share=0.5, held=None)
    line = one_line(stream)
    assert list(line)[:5] == ["timestamp", "level", "event", "action", "job_id"]
    assert line["file"] == "olá.yaml"
    assert "olá" in stream.getvalue()
    assert (line["tries"], line["share"], line["held"]) == (2, 0.5, None)


def test_strangers_text_can_not_forge_a_line() -> None:
    """Not in the event, not in values, however deep, not in keys, not in bytes."""
    stream = io.StringIO()
    configure(stream)
    log.info(NASTY, action="x", name=NASTY, deep={"a": [{NASTY: NASTY}], "b": NASTY.encode(errors="replace")})
    line = one_line(stream)
    assert harmless(json.dumps(line, ensure_ascii=False))


def test_strangers_text_can_not_steer_a_terminal() -> None:
    """Neither values nor an exception's own words reach it unescaped; only the log's own colours do."""
    stream = Terminal()
    configure(stream)
    try:
        raise ValueError(NASTY)
    except ValueError:
        log.exception("failed", action="x", name=NASTY)
    without_colours = stream.getvalue()
    for code in ("0", "1", "2", "31", "32", "33", "34", "35", "36", "31;1", "32;1", "91", "92"):
        without_colours = without_colours.replace(f"\x1b[{code}m", "")
    assert harmless(without_colours)
    assert "all is well" in without_colours
    assert not any(line.startswith("2026-01-01") for line in without_colours.splitlines())


def test_a_terminal_gets_lines_for_people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Time, what happened, to which job, where the result is; no ids; sentences below, in lines that fit."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.chdir(tmp_path)
    stream = Terminal()
    configure(stream)
    log.info("spool starts", action="start", inbox=f"{tmp_path}/inbox", outbox="/srv/outbox")
    log.info("job queued", action="claim", job_id="20261130T1", name="hello")
    log.info("job starts", action="render", job_id="20261130T1", engine="xtts", checkpoint="ana/best")
    log.info("job done", action="done", job_id="20261130T1", name="hello", folder=f"{tmp_path}/outbox/hello",
             duration_s=6.41)  # fmt: skip
    log.warning("job failed", action="failed", job_id="20261130T2", name="b", folder="/srv/b.failed", duration_s=0.0,
                message="b.yaml:3: langauge: unknown key; did you mean language?")  # fmt: skip
    log.warning("on hold", action="hold", what="outbox", reason="it is full", hint="Run `df -h /srv/outbox` there.")
    log.info("job starts", action="render", job_id="20261130T1", engine="xtts")
    log.debug("not shown")
    lines = [line[9:] for line in stream.getvalue().splitlines()]
    assert lines == [
        "spool starts  inbox inbox  outbox /srv/outbox",
        "queued  hello",
        "starts  hello  xtts  ana/best",
        "done    hello  6.4 s -> outbox/hello",
        "failed  b  -> /srv/b.failed",
        "b.yaml:3: langauge: unknown",
        "key; did you mean language?",
        "warning: on hold  outbox",
        "it is full",
        "Run `df -h /srv/outbox` there.",
        "starts  xtts",
    ]
    assert all(re.match(r"\d\d:\d\d:\d\d \S| {9}\S", line) for line in stream.getvalue().splitlines())


def test_an_exception_is_one_line_of_json() -> None:
    """With its traceback inside."""
    stream = io.StringIO()
    configure(stream)
    try:
        raise ValueError(NASTY)
    except ValueError as error:
        log.error("failed", action="x", exc_info=error)
    exception = one_line(stream)["exception"]
    assert isinstance(exception, str)
    assert exception.startswith("  | Traceback")
    assert harmless(exception)


def test_the_level_decides_what_is_said() -> None:
    """--quiet leaves warnings, --verbose adds debug."""
    stream = io.StringIO()
    configure(stream, "warning")
    log.info("no")
    log.warning("yes")
    configure(stream, "debug")
    log.debug("also")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes", "also"]


def test_a_log_that_can_not_be_written_stops_nothing() -> None:
    """A full disk under the log, or a reader that went away, is no reason to stop speaking."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    configure(Full())
    log.error("nobody hears this")
    closed = io.StringIO()
    configure(closed)
    closed.close()
    log.error("nor this")


def test_the_daemon_does_not_pay_for_coloured_tracebacks() -> None:
    """Importing the log leaves rich unloaded, and importable for those who want tables."""
    code = "import sys, watcher.log; assert 'rich' not in sys.modules; import rich.table; import structlog"
    run([sys.executable, "-c", code], check=True)
