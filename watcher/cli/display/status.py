"""What `voicespool status` shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from files.printable import printable, short_path
from watcher.cli.display.layout import Paragraph, Row, Table, clean
from watcher.client.status import Counts, Ended, File, FileSince, Running, Settings, Snapshot, Status

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
    written = snapshot.status
    parts: list[RenderableType] = [_headline(snapshot, now)]
    for hold in written.holds:
        reason = f"hold: {printable(hold.what, 60)}: {printable(hold.reason)}"
        parts.append(Paragraph(f"{reason} (for {age(hold.since, now)})", 2, "red"))
    if snapshot.daemon is not None:
        parts += [*_settings(written.config, now), *_counts(written.counts), *_running(written, rows)]
        parts += _queue(written, rows)
        for key in ("waiting", "held", "ignored"):
            parts += _files(key, written, now, rows)
    else:
        parts += [*_left_in_inbox(snapshot, rows), *(_queue(written, rows) if written.next else [])]
    parts += _results(written, now, rows)
    return Group(*parts)


def _headline(snapshot: Snapshot, now: datetime) -> RenderableType:
    written, daemon = snapshot.status, snapshot.daemon
    if daemon is not None:
        state = written.state
        seen = "" if snapshot.certain else ", as far as this user may see"
        who = f"process {printable(daemon.get('pid'), 20)} on {printable(daemon.get('host'), 80)}"
        lead = Text(state, style=_STYLES.get(state, "bold"))
        return Paragraph(f"{who}, for {age(daemon.get('started_at'), now)}{seen}", len(state) + 2, first=lead)
    if not written.is_written:
        return Paragraph("No daemon has run for this inbox yet; start one with `voicespool run`.")
    none = "no daemon is running" if snapshot.certain else "no daemon is running, as far as this user may see"
    how = "stopped" if written.state == "stopped" else "ended unexpectedly"
    return Paragraph(f"{none}; the last one {how} {age(written.updated_at, now)} ago", style="yellow")


def _settings(config: Settings | None, now: datetime) -> list[RenderableType]:
    """What is wrong with config.yaml as the daemon last read it, and which changes wait for a restart."""
    lines: list[RenderableType] = []
    if config is not None and config.error:
        when = f"{short_path(config.file)}, read {age(config.read_at, now)} ago, is invalid"
        kept = f"{when}; the daemon keeps the previous configuration: {printable(config.error)}"
        lines.append(Paragraph(kept, 2, "red"))
    if config is not None and config.pending_restart:
        lines.append(
            Paragraph(f"changed in config.yaml, needs a restart: {', '.join(config.pending_restart)}", 2, "yellow")
        )
    return lines


def _running(written: Status, rows: int) -> list[RenderableType]:
    running = written.running
    title = "running" if written.rate is None else f"running, {written.rate:.3g} s of audio per second"
    table = Table(
        ("job", "engine", "progress", "chunks", ">left"), [Row(_progress(job)) for job in running[:rows]], title
    )
    return _section(table, len(running), rows, written.counts.running)


def _progress(job: Running) -> Sequence[Text | str]:
    left = "" if job.eta_s is None else duration(max(job.eta_s, 0.0))
    chunks = f"{job.chunk} of {job.chunks}" if job.chunks else "loading"
    return clean(job.name, "bold"), clean(job.engine, limit=40), bar(job.chunk, job.chunks), chunks, left


def bar(done: float, total: float) -> Text:
    """Progress of something that still runs: the last cell stays open until it has ended."""
    filled = min(int(_BAR * done / total) if total > 0 else 0, _BAR - 1)
    return Text.assemble(("━" * max(filled, 0), "green"), ("·" * (_BAR - max(filled, 0)), "dim"))


def _counts(counts: Counts) -> list[RenderableType]:
    """Counters that are not zero."""
    parts = []
    for word in ("running", "queued", "ready", "waiting", "held", "ignored", "done", "failed", "cancelled"):
        number, doubtful = getattr(counts, word), counts.doubtful if word == "done" else 0
        parts += [f"{number} {word}{f' ({doubtful} doubtful)' if doubtful else ''}"] if number else []
    if counts.repaired:
        parts.append(f"{counts.repaired} failed and done since")
    return [Paragraph(", ".join(parts))] if parts else []


def _queue(written: Status, rows: int) -> list[RenderableType]:
    jobs = written.next
    lines = [Row([clean(part) for part in (job.name, job.place, job.priority, job.not_before)]) for job in jobs[:rows]]
    table = Table(("job", ">place", ">priority", "not before"), lines, "next")
    return _section(table, len(jobs), rows, written.counts.queued)


def _files(key: str, written: Status, now: datetime, rows: int) -> list[RenderableType]:
    files: Sequence[File] = getattr(written, key)
    lines = []
    for file in files[:rows]:
        since = age(file.since, now) if isinstance(file, FileSince) else ""
        lines.append(Row((clean(file.file), since, clean(file.reason, limit=2000))))
    return _section(Table(("file", ">for", "reason"), lines, key), len(files), rows, getattr(written.counts, key))


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
    return [*_put_by(snapshot.status.counts), *(listed or nothing), *unseen]


def _put_by(counts: Counts) -> list[RenderableType]:
    """Jobs that the last daemon had taken out of the inbox already: they are not lost."""
    number = counts.queued + counts.running
    if not number:
        return []
    jobs = "1 job was" if number == 1 else f"{number} jobs were"
    return [Paragraph(f"{jobs} queued or running; `voicespool run` resumes unfinished jobs")]


def _results(written: Status, now: datetime, rows: int) -> list[RenderableType]:
    outbox = written.config.outbox if written.config else ""
    lines = []
    for result in reversed(written.results[-rows:]):
        audio = duration(result.duration_s) if result.duration_s else "-"
        ended, folder = f"{age(result.finished_at, now)} ago", _folder(result.folder, outbox)
        notes = dict.fromkeys(printable(note) for note in (result.message, *result.doubts) if note)
        lines.append(Row((clean(result.name), _outcome(result), audio, ended, folder), list(notes)))
    title = f"last results, in {short_path(outbox)}" if outbox else "last results"
    return _section(Table(("job", "outcome", ">audio", ">ended", "folder"), lines, title))


def _folder(folder: str, outbox: str) -> Text:
    """The folder of a result, as a path in the outbox where it is there."""
    path = Path(folder)
    inside = outbox and path.is_relative_to(outbox)
    return clean(path.relative_to(outbox) if inside else short_path(folder), limit=5000)


def _outcome(result: Ended) -> Text:
    if result.doubts:
        return Text(f"{result.status}, doubtful", "yellow")
    if result.done_since:
        return Text(f"{result.status}, done since", "dim")
    return Text(result.status, _STYLES.get(result.status, ""))


def _section(table: Table, listed: int = 0, rows: int = 0, count: int = 0) -> list[RenderableType]:
    """A table after an empty line, and how many there are that are not in it: status.json lists the first 1,000."""
    left = max(count, listed) - min(listed, rows)
    more = [Text(f"… and {left} more{'' if table.rows else f' {table.title}'}")] if left else []
    return [Text(""), *([table] if table.rows else []), *more] if table.rows or more else []


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
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 1:.0f} s"


def duration(seconds: float) -> str:
    """`1:02:03`, `2:03`, `0:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
