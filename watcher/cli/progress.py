"""What commands show while they wait: a bar on a terminal, else a line for each step.

`follow` is for `voicespool submit --wait`, `transfer` for `voicespool models pull`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import click

from files.printable import printable
from jobs.errors import Hold
from watcher.client.follow import Followed, Follower, wait

FAILED = 1
BAR, WORDS = 14, len("running, chunk 1000 of 1000, 1:00:00 left")
"""Columns of a terminal."""
NEARLY = 0.95
"""Of a bar: full only when the job has ended."""
_NO_DAEMON = (
    "no daemon is running for this inbox; the job waits until `voicespool run` starts one. "
    "Ctrl-C ends this command; the job stays."
)


def follow(follower: Follower, *, as_json: bool, timeout_s: float | None = None) -> int:
    """Wait for all jobs; print the folder of each result on stdout, and progress and errors on stderr.

    Returns:
        0 when all are done, 1 when one failed, 75 when one has not ended within `timeout_s`.
    """
    show = _Bar() if sys.stderr.isatty() else _ProgressLines()
    try:
        wait(follower, show, timeout_s)
    finally:
        show.close()
    if as_json:
        click.echo(json.dumps({"jobs": [_as_json(job) for job in follower.jobs]}, indent=2))
    for job in () if as_json else follower.jobs:
        if job.folder is not None:
            click.echo(printable(job.folder, 5000))
        if not job.ended:
            click.echo(f"{printable(job.job.name)}: not done after {timeout_s:g} s; {in_words(job)}", err=True)
        elif words := told(job):
            click.echo(f"{printable(job.job.name)}: {words}", err=True)
    if any(job.ended and job.stage != "done" for job in follower.jobs):
        return FAILED
    return 0 if follower.ended else Hold.exit_code


def told(job: Followed) -> str:
    """How a job ended, in words; "" when it is done without remarks."""
    if job.stage == "done" and not job.message and not job.doubts:
        return ""
    reasons = "; ".join(dict.fromkeys(filter(None, (job.message, *job.doubts))))
    return f"{job.stage}{', doubtful' if job.doubts else ''}: {printable(reasons, 2000)}".rstrip(": ")


def _as_json(job: Followed) -> dict[str, object]:
    return {
        "name": printable(job.job.name),
        "job_id": job.job_id,
        "status": job.stage,
        "folder": None if job.folder is None else printable(job.folder, 5000),
        "message": printable(job.message) or None,
        "verdict": "doubtful" if job.doubts else "ok" if job.stage == "done" else None,
        "reasons": list(job.doubts),
    }


def in_words(job: Followed) -> str:
    if job.stage == "queued":
        place = f"queued at place {job.place}"
        return f"{place}; {printable(job.message)}" if job.message else place
    if job.stage == "running":
        return f"running, chunk {job.chunk} of {job.chunks}" if job.chunks else "running"
    return f"waiting: {printable(job.message)}" if job.message else job.stage


@dataclass(slots=True)
class _ProgressLines:
    """A line on stderr whenever a job's state changes."""

    said: dict[str, str] = field(default_factory=dict)
    missed: bool = False

    def __call__(self, follower: Follower) -> None:
        if not follower.daemon and not follower.ended and not self.missed:
            self.missed = True
            click.echo(_NO_DAEMON, err=True)
        for job in follower.jobs:
            words = in_words(job)
            if not job.ended and self.said.get(job.job.name) != words:
                self.said[job.job.name] = words
                click.echo(f"{printable(job.job.name)}: {words}", err=True)

    def close(self) -> None:
        """Nothing is open."""


class _Bar:
    """One bar for each job, on stderr."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        from watcher.cli.display import layout, status

        self._duration = status.duration
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR),
            TextColumn("{task.fields[words]}", markup=False),
            console=layout.console(sys.stderr),
            auto_refresh=False,
        )
        self._tasks: dict[str, int] = {}
        self._missed = False
        self._progress.start()

    def __call__(self, follower: Follower) -> None:
        if not follower.daemon and not follower.ended and not self._missed:
            self._missed = True
            from watcher.cli.display.layout import Paragraph

            self._progress.console.print(Paragraph(_NO_DAEMON))
        for job in follower.jobs:
            self._tell(job)
        self._progress.refresh()

    def _tell(self, job: Followed) -> None:
        name = printable(job.job.name, 5000)
        if name not in self._tasks:
            room = max(self._progress.console.width - BAR - WORDS - 2, BAR)
            short = name if len(name) <= room else f"…{name[1 - room :]}"  # names of one folder differ at the end
            self._tasks[name] = int(self._progress.add_task(short, total=None, words=""))
        words = in_words(job)
        if job.stage == "running" and job.eta_s is not None:
            words += f", {self._duration(job.eta_s)} left"
        total = float(job.chunks) if job.chunks else 1.0 if job.ended else None
        done = total if job.ended and total else min(float(job.chunk), NEARLY * job.chunks)  # it still runs
        self._progress.update(self._tasks[name], total=total, completed=done, words=words)  # type: ignore[arg-type]

    def close(self) -> None:
        self._progress.stop()


# --- bytes -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def transfer() -> Iterator[Callable[[str, int, int], None]]:
    """Show the progress of a download on stderr: call it with what is being done, and how many bytes of how many."""
    if not sys.stderr.isatty():
        yield _Tenths()
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from watcher.cli.display import layout

    columns = (BarColumn(BAR), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    what = TextColumn("{task.description}", markup=False)
    with Progress(what, *columns, console=layout.console(sys.stderr)) as progress:
        task = None

        def tell(doing: str, done: int, total: int) -> None:
            nonlocal task
            if task is None:  # bytes of an earlier download are no measure of speed
                task = progress.add_task("", total=total, completed=done)
            progress.update(task, description=printable(doing, 60), completed=done, total=total)

        yield tell


@dataclass(slots=True)
class _Tenths:
    """A line at each tenth."""

    said: int = -1

    def __call__(self, doing: str, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        if self.said != percent // 10:
            self.said = percent // 10
            click.echo(f"{printable(doing, 60)}: {percent} % of {total:,} bytes", err=True)
