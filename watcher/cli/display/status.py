"""What `voicespool status` and `engines` show on a terminal.

Everything that comes from strangers is cleaned and put into `Text`, which rich prints as it is: no markup, no links.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engines.base import EngineInfo
from files.printable import printable
from watcher.client.results import doubts_of
from watcher.client.status import Snapshot, entries

_STYLES = {"done": "green", "failed": "red", "cancelled": "yellow", "hold": "red", "idle": "green", "running": "green"}
_WIDE = 10_000
_BAR = 30
_NOTHING_IN_INBOX = Text("the inbox holds no job file")


def console(stream: TextIO) -> Console:
    """A console that interprets nothing; where it is no terminal, lines are as long as they are."""
    wide = {} if stream.isatty() else {"width": _WIDE}
    return Console(file=stream, markup=False, emoji=False, highlight=False, **wide)  # type: ignore[arg-type]


def show(what: RenderableType, stream: TextIO) -> None:
    """Print; where it goes to no terminal, without the spaces that rich fills lines with."""
    if stream.isatty():
        console(stream).print(what)
        return
    buffer = io.StringIO()
    console(buffer).print(what)
    stream.writelines(line.rstrip() + "\n" for line in buffer.getvalue().splitlines())


def clean(value: object, style: str = "", limit: int = 500) -> Text:
    """Text from anywhere, harmless on a terminal."""
    return Text(printable("" if value is None else value, limit), style=style, overflow="fold")


# --- status ----------------------------------------------------------------------------------------------------------


def status(snapshot: Snapshot, now: datetime, rows: int = 20) -> RenderableType:
    """Everything `status` says.

    Args:
        snapshot: What is known.
        now: The time that ages are told by.
        rows: How many of each list.
    """
    said = snapshot.status
    parts: list[RenderableType] = [_headline(snapshot, now)]
    for hold in entries(said, "holds"):
        reason = f"  hold: {printable(hold.get('what'), 60)}: {printable(hold.get('reason'))}"
        parts.append(clean(f"{reason} (for {age(hold.get('since'), now)})", "red", 3000))
    if snapshot.daemon is not None:
        parts += [*_settings(said, now), *_running(said), _counts(said), *_queue(said, rows)]
        parts += (
            _files("waiting", said, now, rows) + _files("held", said, now, rows) + _files("ignored", said, now, rows)
        )
    else:
        parts += _left_in_inbox(snapshot, rows)
    parts += _results(said, now, rows)
    return Group(*parts)


def _headline(snapshot: Snapshot, now: datetime) -> Text:
    said, daemon = snapshot.status, snapshot.daemon
    if daemon is not None:
        state = printable(said.get("state", "starting"), 20)
        seen = "" if snapshot.certain else ", as far as this user may see"
        who = f"process {printable(daemon.get('pid'), 20)} on {printable(daemon.get('host'), 80)}"
        line = Text(f"{state}", style=_STYLES.get(state, "bold"))
        return line.append(f"  {who}, for {age(daemon.get('started_at'), now)}{seen}", style="default")
    if not said:
        return Text("no daemon has run for this inbox yet; start one with `voicespool run`")
    none = "no daemon is running" if snapshot.certain else "no daemon is running, as far as this user may see"
    how = "stopped" if said.get("state") == "stopped" else "ended without a word"
    return Text(f"{none}; the last one {how} {age(said.get('updated_at'), now)} ago", style="yellow")


def _settings(said: Mapping[str, Any], now: datetime) -> list[RenderableType]:
    """What is wrong with config.yaml as the daemon last read it, and which changes wait for a restart."""
    config = said.get("config")
    if not isinstance(config, Mapping):
        return []
    lines: list[RenderableType] = []
    if config.get("error"):
        when = f"{printable(config.get('file'))}, read {age(config.get('read_at'), now)} ago, is wrong"
        lines.append(clean(f"  {when}; the daemon uses the one before: {printable(config['error'])}", "red", 3000))
    if isinstance(pending := config.get("pending_restart"), list) and pending:
        lines.append(clean(f"  changed in config.yaml, needs a restart: {', '.join(map(str, pending))}", "yellow"))
    return lines


def _running(said: Mapping[str, Any]) -> list[RenderableType]:
    job = said.get("running")
    if not isinstance(job, Mapping):
        return []
    done, total = _number(job.get("chunk")), _number(job.get("chunks"))
    grid = Table.grid(padding=(0, 1))
    left = f"{duration(job['eta_s'])} left" if _number(job.get("eta_s"), -1.0) >= 0 else ""
    bar = ProgressBar(total=max(total, 1.0), completed=done, width=_BAR)
    grid.add_row("running", clean(job.get("name"), "bold"), clean(job.get("engine"), limit=40), bar,
                 f"{done:g}/{total:g} chunks" if total else "loading", left)  # fmt: skip
    return [grid]


def _counts(said: Mapping[str, Any]) -> Text:
    counts = said.get("counts")
    counts = counts if isinstance(counts, Mapping) else {}
    words = ("queued", "ready", "waiting", "held", "ignored", "done", "failed", "cancelled")
    notes = {"done": ("doubtful", "doubtful"), "failed": ("repaired", "more failed and done since")}
    parts = []
    for word in words:
        key, note = notes.get(word, ("", ""))
        also = f" ({_number(counts.get(key)):.0f} {note})" if _number(counts.get(key)) else ""
        parts.append(f"{_number(counts.get(word)):.0f} {word}{also}")
    return clean(", ".join(parts))


def _queue(said: Mapping[str, Any], rows: int) -> list[RenderableType]:
    jobs, count = entries(said, "next"), _counted(said, "queued")
    table = _table("next", "place", "job", "priority", "not before")
    for job in jobs[:rows]:
        table.add_row(*(clean(job.get(key)) for key in ("place", "name", "priority", "not_before")))
    return _shown(table, len(jobs), rows, count)


def _files(key: str, said: Mapping[str, Any], now: datetime, rows: int) -> list[RenderableType]:
    files = entries(said, key)
    table = _table(key, "file", "why", *(["for"] if key != "ignored" else []))
    for file in files[:rows]:
        row = [clean(file.get("file")), clean(file.get("reason"), limit=2000)]
        table.add_row(*row, *([age(file.get("since"), now)] if key != "ignored" else []))
    return _shown(table, len(files), rows, _counted(said, key))


def _left_in_inbox(snapshot: Snapshot, rows: int) -> list[RenderableType]:
    table = _table("in the inbox", "file")
    for file in snapshot.files[:rows]:
        table.add_row(clean(file))
    listed = _shown(table, len(snapshot.files), rows, snapshot.files_count)
    unseen = [
        clean(
            f"  not looked into: {'the inbox' if folder == '.' else printable(folder)}: {printable(why)}", "red", 3000
        )
        for folder, why in snapshot.unseen_folders[:rows]
    ]
    if len(snapshot.unseen_folders) > rows:
        unseen.append(Text(f"  … and {len(snapshot.unseen_folders) - rows} more folders were not looked into", "red"))
    nothing = [] if unseen else [_NOTHING_IN_INBOX]
    return [*_put_by(snapshot.status), *(listed or nothing), *unseen]


def _put_by(said: Mapping[str, Any]) -> list[RenderableType]:
    """Jobs that the last daemon had taken out of the inbox already: they are not lost."""
    counts = said.get("counts")
    counts = counts if isinstance(counts, Mapping) else {}
    number = _number(counts.get("queued")) + _number(counts.get("running"))
    if not number:
        return []
    jobs = "1 job was" if number == 1 else f"{number:g} jobs were"
    return [Text(f"{jobs} queued or running; `voicespool run` goes on with what is not done")]


def _results(said: Mapping[str, Any], now: datetime, rows: int) -> list[RenderableType]:
    results = entries(said, "results")
    table = _table("last results", "job", "", "audio", "ended", "where, and what went wrong")
    for result in reversed(results[-rows:]):
        spoken = duration(result["duration_s"]) if _number(result.get("duration_s")) > 0 else ""
        ended = f"{age(result.get('finished_at'), now)} ago"
        table.add_row(clean(result.get("name")), _outcome(result), spoken, ended, clean(_why(result), limit=300))
    return [table] if results else []


def _outcome(result: Mapping[str, Any]) -> Text:
    outcome = printable(result.get("status"), 20)
    if doubts_of(result):
        return Text(f"{outcome}, doubtful", "yellow")
    if result.get("done_since") is True:
        return Text(f"{outcome}, done since", "dim")
    return Text(outcome, _STYLES.get(outcome, ""))


def _why(result: Mapping[str, Any]) -> str:
    """Where a result lies, and what went wrong or is doubtful."""
    folder, message = result.get("folder"), result.get("message")
    if result.get("status") != "done":
        return str(message or folder)
    return "; ".join(dict.fromkeys(str(part) for part in (folder, message, *doubts_of(result)) if part))


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0),
        min_width=len(title),
    )  # fmt: skip
    for column in columns:
        table.add_column(column, style="default", header_style="dim")
    return table


def _shown(table: Table, listed: int, rows: int, count: int) -> list[RenderableType]:
    """A table, and how many there are that are not in it: status.json has the first 1,000 and the number of all."""
    left = max(count, listed) - min(listed, rows)
    return [*([table] if listed else []), *([Text(f"… and {left} more")] if left else [])]


def _counted(said: Mapping[str, Any], key: str) -> int:
    counts = said.get("counts")
    return int(_number(counts.get(key))) if isinstance(counts, Mapping) else 0


def _number(value: object, otherwise: float = 0.0) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else otherwise  # type: ignore[arg-type]


def age(since: object, now: datetime) -> str:
    """How long ago a moment (ISO 8601) was, in one unit; `?` when it is none."""
    try:
        moment = datetime.fromisoformat(str(since))
    except ValueError:
        return "?"
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return _rough(max(0.0, (now - moment).total_seconds()))


def _rough(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def duration(seconds: float) -> str:
    """`1:02:03`, `2:03`, `0:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# --- engines ---------------------------------------------------------------------------------------------------------


def engines(infos: Iterable[EngineInfo], planned: Mapping[str, str]) -> RenderableType:
    """Each engine: whether it is there, what it can do."""
    parts: list[RenderableType] = []
    for info in infos:
        parts += [_engine_head(info), _engine_facts(info)]
        if info.options:
            parts.append(_options(info))
        parts.append(Text(""))
    for name, sentence in planned.items():
        parts.append(Text.assemble((name, "bold"), ("  not in this version  ", "yellow"), printable(sentence)))
    return Group(*parts)


def _engine_head(info: EngineInfo) -> Text:
    head = Text.assemble((printable(info.name, 60), "bold"), "  ", printable(info.title, 200), "  ")
    if info.missing is None:
        return head.append("ready", "green")
    return head.append("not usable: ", "red").append(printable(info.missing))


def _engine_facts(info: EngineInfo) -> Table:
    grid = Table.grid(padding=(0, 2))
    library = f"{info.library} {info.version or '(not installed)'}, licence {info.licence}"
    voices = "clones voices (speaker_wav)" if info.clones_voices else "built-in voices only (speaker)"
    grid.add_row("", "library", clean(library))
    grid.add_row("", "model", clean(f"{info.model}, on {info.device}"))
    grid.add_row("", "audio", clean(f"{info.sample_rate_hz} Hz, {voices}"))
    if info.languages:
        grid.add_row("", "languages", clean(f"{len(info.languages)}: {' '.join(info.languages)}", limit=5000))
    if info.speakers:
        grid.add_row("", "speakers", clean(f"{len(info.speakers)}: {', '.join(info.speakers)}", limit=5000))
    return grid


def _options(info: EngineInfo) -> Table:
    grid = Table.grid(padding=(0, 2))
    for option in info.options:
        low, high = ("" if bound is None else f"{bound:g}" for bound in (option.minimum, option.maximum))
        span = f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}" if high else ""
        default = "" if option.default is None else f"default {option.default}"
        grid.add_row(
            "", clean(f"settings.{option.name}"), option.kind.__name__, span, clean(default), clean(option.help)
        )
    return grid
