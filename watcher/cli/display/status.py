"""What `voicespool status` shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from files.printable import printable, short_path
from watcher.cli.display.layout import Paragraph, Row, Table, clean
from watcher.client.results import doubts_of
from watcher.client.status import Snapshot, entries

_STYLES = {"done": "green", "failed": "red", "cancelled": "yellow", "hold": "red", "idle": "green", "running": "green"}
_BAR = 20
_NOTHING_IN_INBOX = Text("the inbox holds no job file")


def status(snapshot: Snapshot, now: datetime, rows: int = 20) -> RenderableType:
    """Everything `status` says.

    Args:
        snapshot: What is known.
        now: The time that ages are relative to.
        rows: How many of each list.
    """
    said = snapshot.status
    parts: list[RenderableType] = [_headline(snapshot, now)]
    for hold in entries(said, "holds"):
        reason = f"hold: {printable(hold.get('what'), 60)}: {printable(hold.get('reason'))}"
        parts.append(Paragraph(f"{reason} (for {age(hold.get('since'), now)})", 2, "red"))
    if snapshot.daemon is not None:
        parts += [*_settings(said, now), *_counts(said), *_running(said), *_queue(said, rows)]
        for key in ("waiting", "held", "ignored"):
            parts += _files(key, said, now, rows)
    else:
        parts += _left_in_inbox(snapshot, rows)
    parts += _results(said, now, rows)
    return Group(*parts)


def _headline(snapshot: Snapshot, now: datetime) -> RenderableType:
    said, daemon = snapshot.status, snapshot.daemon
    if daemon is not None:
        state = printable(said.get("state", "starting"), 20)
        seen = "" if snapshot.certain else ", as far as this user may see"
        who = f"process {printable(daemon.get('pid'), 20)} on {printable(daemon.get('host'), 80)}"
        lead = Text(state, style=_STYLES.get(state, "bold"))
        return Paragraph(f"{who}, for {age(daemon.get('started_at'), now)}{seen}", len(state) + 2, first=lead)
    if not said:
        return Paragraph("No daemon has run for this inbox yet; start one with `voicespool run`.")
    none = "no daemon is running" if snapshot.certain else "no daemon is running, as far as this user may see"
    how = "stopped" if said.get("state") == "stopped" else "ended unexpectedly"
    return Paragraph(f"{none}; the last one {how} {age(said.get('updated_at'), now)} ago", style="yellow")


def _settings(said: Mapping[str, Any], now: datetime) -> list[RenderableType]:
    """What is wrong with config.yaml as the daemon last read it, and which changes wait for a restart."""
    config = said.get("config")
    if not isinstance(config, Mapping):
        return []
    lines: list[RenderableType] = []
    if config.get("error"):
        when = f"{short_path(config.get('file'))}, read {age(config.get('read_at'), now)} ago, is invalid"
        kept = f"{when}; the daemon keeps the previous configuration: {printable(config['error'])}"
        lines.append(Paragraph(kept, 2, "red"))
    if isinstance(pending := config.get("pending_restart"), list) and pending:
        lines.append(Paragraph(f"changed in config.yaml, needs a restart: {', '.join(map(str, pending))}", 2, "yellow"))
    return lines


def _running(said: Mapping[str, Any]) -> list[RenderableType]:
    jobs = [Row(_progress(job)) for job in entries(said, "running")]
    return _section(Table(("job", "engine", "progress", "chunks", ">left"), jobs, "running"))


def _progress(job: Mapping[str, Any]) -> Sequence[Text | str]:
    done, total = _number(job.get("chunk")), _number(job.get("chunks"))
    left = duration(job["eta_s"]) if _number(job.get("eta_s"), -1.0) >= 0 else ""
    chunks = "loading" if not total else f"{done:g} of {total:g}"
    return clean(job.get("name"), "bold"), clean(job.get("engine"), limit=40), bar(done, total), chunks, left


def bar(done: float, total: float) -> Text:
    """Progress of something that still runs: the last cell stays open until it has ended."""
    filled = min(int(_BAR * done / total) if total > 0 else 0, _BAR - 1)
    return Text.assemble(("━" * max(filled, 0), "green"), ("·" * (_BAR - max(filled, 0)), "dim"))


def _counts(said: Mapping[str, Any]) -> list[RenderableType]:
    """Counters that are not zero."""
    counts = said.get("counts")
    counts = counts if isinstance(counts, Mapping) else {}
    parts = []
    for word in ("running", "queued", "ready", "waiting", "held", "ignored", "done", "failed", "cancelled"):
        number = _number(counts.get(word))
        also = _number(counts.get("doubtful")) if word == "done" else 0
        parts += [f"{number:.0f} {word}{f' ({also:.0f} doubtful)' if also else ''}"] if number else []
    if repaired := _number(counts.get("repaired")):
        parts.append(f"{repaired:.0f} failed and done since")
    return [Paragraph(", ".join(parts))] if parts else []


def _queue(said: Mapping[str, Any], rows: int) -> list[RenderableType]:
    jobs, count = entries(said, "next"), _counted(said, "queued")
    lines = [Row([clean(job.get(key)) for key in ("name", "place", "priority", "not_before")]) for job in jobs[:rows]]
    return _section(Table(("job", ">place", ">priority", "not before"), lines, "next"), len(jobs), rows, count)


def _files(key: str, said: Mapping[str, Any], now: datetime, rows: int) -> list[RenderableType]:
    files = entries(said, key)
    lines = []
    for file in files[:rows]:
        since = "" if key == "ignored" else age(file.get("since"), now)
        lines.append(Row((clean(file.get("file")), since, clean(file.get("reason"), limit=2000))))
    return _section(Table(("file", ">for", "reason"), lines, key), len(files), rows, _counted(said, key))


def _left_in_inbox(snapshot: Snapshot, rows: int) -> list[RenderableType]:
    lines = [Row((clean(file),)) for file in snapshot.files[:rows]]
    listed = _section(Table(("file",), lines, "in the inbox"), len(snapshot.files), rows, snapshot.files_count)
    unseen: list[RenderableType] = [
        Paragraph(f"not readable: {'the inbox' if folder == '.' else printable(folder)}: {printable(why)}", 2, "red")
        for folder, why in snapshot.unseen_folders[:rows]
    ]
    if len(snapshot.unseen_folders) > rows:
        unseen.append(Text(f"  … and {len(snapshot.unseen_folders) - rows} more folders are not readable", "red"))
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
    return [Paragraph(f"{jobs} queued or running; `voicespool run` resumes unfinished jobs")]


def _results(said: Mapping[str, Any], now: datetime, rows: int) -> list[RenderableType]:
    results, outbox = entries(said, "results"), _outbox(said)
    lines = []
    for result in reversed(results[-rows:]):
        audio = duration(result["duration_s"]) if _number(result.get("duration_s")) > 0 else "-"
        ended, folder = f"{age(result.get('finished_at'), now)} ago", _folder(result.get("folder"), outbox)
        notes = dict.fromkeys(printable(note) for note in (result.get("message"), *doubts_of(result)) if note)
        lines.append(Row((clean(result.get("name")), _outcome(result), audio, ended, folder), list(notes)))
    title = f"last results, in {short_path(outbox)}" if outbox else "last results"
    return _section(Table(("job", "outcome", ">audio", ">ended", "folder"), lines, title))


def _outbox(said: Mapping[str, Any]) -> str:
    config = said.get("config")
    return str(config.get("outbox") or "") if isinstance(config, Mapping) else ""


def _folder(folder: object, outbox: str) -> Text:
    """The folder of a result, as a path in the outbox where it is there."""
    path = Path(str(folder or ""))
    inside = outbox and path.is_relative_to(outbox)
    return clean(path.relative_to(outbox) if inside else short_path(folder or ""), limit=5000)


def _outcome(result: Mapping[str, Any]) -> Text:
    outcome = printable(result.get("status"), 20)
    if doubts_of(result):
        return Text(f"{outcome}, doubtful", "yellow")
    if result.get("done_since") is True:
        return Text(f"{outcome}, done since", "dim")
    return Text(outcome, _STYLES.get(outcome, ""))


def _section(table: Table, listed: int = 0, rows: int = 0, count: int = 0) -> list[RenderableType]:
    """A table after an empty line, and how many there are that are not in it: status.json lists the first 1,000."""
    left = max(count, listed) - min(listed, rows)
    more = [Text(f"… and {left} more{'' if table.rows else f' {table.title}'}")] if left else []
    return [Text(""), *([table] if table.rows else []), *more] if table.rows or more else []


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
