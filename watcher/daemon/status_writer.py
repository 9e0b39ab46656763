"""Writes status.json; `watcher.client.status` has its schema and reads it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from files.durable import replace, to_json
from files.printable import printable
from jobs.errors import ConfigError, LockLost
from jobs.pipeline import Job
from jobs.publish import Outcome
from jobs.results.report import iso, own_version
from jobs.schedule import Ticket
from jobs.spool import lock
from jobs.spool.state import State
from watcher.client.status import (
    AT_LEAST_EVERY_S,
    SHOWN,
    SHOWN_RESULTS,
    STATUS_NAME,
    Counts,
    DaemonState,
    Ended,
    File,
    FileSince,
    HoldNow,
    Queued,
    Running,
    Settings,
    Status,
    Warm,
    read,
)
from watcher.daemon.holds import Holds
from watcher.daemon.readiness import Sighting
from watcher.daemon.session import Deferred, Session
from watcher.executors.base import Progressed

AT_MOST_EVERY_S = 1.0
RATE_S = 60.0
MAX_FAILURES = 10_000
_ENDED = ("done", "doubtful", "failed", "repaired", "cancelled")


@dataclass(slots=True)
class RunningJob:
    """A job that the executor has, and its progress.

    Attributes:
        first_chunk: How many chunks an earlier attempt had finished.
        audio_s: Length of the finished chunks' audio.
        is_cancelling: Whether the executor was asked to stop it: it was cancelled, or makes room for an urgent job.
    """

    ticket: Ticket
    job: Job
    started_s: float
    chunk: int = 0
    chunks: int = 0
    first_chunk: int = 0
    audio_s: float = 0.0
    is_cancelling: bool = False

    def progress(self, event: Progressed) -> float:
        """Note the progress. Returns the seconds of audio that were rendered since the last call."""
        if not self.chunks:  # cached by an earlier attempt, so they do not count for the pace
            self.first_chunk, self.audio_s = event.done, event.audio_s
        rendered_s = event.audio_s - self.audio_s
        self.chunk, self.chunks, self.audio_s = event.done, event.total, event.audio_s
        return rendered_s

    def eta_s(self, now_s: float) -> float | None:
        made = self.chunk - self.first_chunk
        return (now_s - self.started_s) / made * (self.chunks - self.chunk) if made > 0 else None


@dataclass(slots=True)
class StatusWriter:
    """The daemon's status, and when to write it.

    Attributes:
        state: starting (before the first complete scan of the inbox), running, idle, paused, hold, stopping or stopped.
        running: The jobs being rendered, by id.
        ended: Number of jobs that ended since the start, by status, and among them `doubtful` and `repaired`.
        failures: Names of jobs that failed since the start and were not done later -> how often; the last 10,000.
        settings: The configuration in use; see `watcher.config.reread.config_in_status`.
    """

    state_dir: Path
    started_s: float = field(default_factory=time.time)
    state: DaemonState = "starting"
    holds: Holds = field(default_factory=Holds)
    running: dict[str, RunningJob] = field(default_factory=dict)
    warm: tuple[str, str | None] | None = None
    ended: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    settings: Mapping[str, Any] | None = None
    results: deque[Ended] = field(default_factory=lambda: deque(maxlen=SHOWN_RESULTS))
    _written_at: float = 0.0
    _changed: bool = True
    _rendered: deque[tuple[float, float]] = field(default_factory=deque)

    @classmethod
    def resumed(cls, state_dir: Path) -> StatusWriter:
        """A writer that starts with the results in an earlier daemon's status.json."""
        writer = cls(state_dir)
        with contextlib.suppress(OSError, ConfigError), State.open(state_dir) as state:
            writer.results.extend(read(state.path).results)
        return writer

    def changed(self) -> None:
        self._changed = True

    def rendered(self, audio_s: float) -> None:
        """Note that audio was rendered."""
        self._rendered.append((time.monotonic(), audio_s))

    def _rate(self) -> float | None:
        """Seconds of audio rendered per second; None if nothing was rendered lately."""
        now_s = time.monotonic()
        while self._rendered and self._rendered[0][0] < now_s - RATE_S:
            self._rendered.popleft()
        if not self.running or len(self._rendered) < 2:
            return None
        since_s, before = self._rendered[0]  # the first audio was rendered before this time
        audio_s = sum(audio_s for _, audio_s in self._rendered) - before
        return round(audio_s / max(now_s - since_s, 0.001), 2)

    def add(self, outcome: Outcome) -> None:
        self.ended[outcome.status] += 1
        self.ended["doubtful"] += outcome.verdict == "doubtful"
        if outcome.status == "failed":
            self.failures[outcome.name] += 1
            if len(self.failures) > MAX_FAILURES:
                del self.failures[next(iter(self.failures))]  # `ended` still counts it as failed
        elif outcome.status == "done":
            self._repaired(outcome.name)
        self.results.append(
            Ended(
                job_id=outcome.job_id,
                name=printable(outcome.name),
                status=outcome.status,
                folder=printable(outcome.folder, 5000),
                finished_at=iso(time.time()),
                duration_s=round(outcome.duration_s, 3),
                source_sha256=outcome.sha256,
                message=printable(outcome.message) or None,
                verdict=outcome.verdict or None,
                reasons=outcome.reasons,
            )
        )
        self.changed()

    def _repaired(self, name: str) -> None:
        """A job of this name is done: count its earlier failures as repaired."""
        repaired = self.failures.pop(name, 0)
        self.ended["failed"] -= repaired
        self.ended["repaired"] += repaired
        for number, result in enumerate(self.results):
            if result.status == "failed" and result.name == printable(name):
                self.results[number] = result.model_copy(update={"done_since": True})

    def due_in(self) -> float:
        """Seconds until the next write: soon after a change, else often enough to show that the daemon lives."""
        age = time.monotonic() - self._written_at
        return max(0.0, (AT_MOST_EVERY_S if self._changed else AT_LEAST_EVERY_S) - age)

    def write(self, session: Session | None) -> None:
        """Replace status.json if this daemon owns it. Errors are ignored, since the log has the same facts."""
        self._written_at, self._changed = time.monotonic(), False
        with contextlib.suppress(OSError, ConfigError, LockLost), self._own_folder(session) as folder:
            content = to_json(self._content(session).model_dump(mode="json", by_alias=True)) + b"\n"
            replace(folder / STATUS_NAME, content, mode=0o644, durable=False)

    @contextlib.contextmanager
    def _own_folder(self, session: Session | None) -> Iterator[Path]:
        """The session's state folder; without a session, the configured one if no other daemon has it.

        Raises:
            LockLost, ConfigError, OSError: It does not belong to this daemon.
        """
        if session is not None:
            session.lock.check()
            yield session.state.path
            return
        with State.open(self.state_dir) as state:
            if lock.holder(state.path / "lock") is not None:
                raise LockLost("another daemon has this inbox")
            yield state.path

    def _content(self, session: Session | None) -> Status:
        return Status(
            version=own_version(),
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=iso(self.started_s),
            updated_at=iso(time.time()),
            state=self.state,
            holds=tuple(
                HoldNow(what=what, reason=printable(entry.reason), since=iso(entry.since_s))
                for what, entry in self.holds.entries.items()
            ),
            counts=self._counts(session),
            warm=Warm(engine=self.warm[0], checkpoint=self.warm[1]) if self.warm else None,
            rate=self._rate(),
            running=tuple(_running(job, time.time()) for job in self.running.values()),
            **({} if session is None else _lists(session)),
            results=tuple(self.results),
            config=Settings(**self.settings) if self.settings else None,
        )

    def _counts(self, session: Session | None) -> Counts:
        counts: dict[str, int] = {"running": len(self.running), **{status: self.ended[status] for status in _ENDED}}
        if session is not None:
            counts |= session.arrivals.counts()
            counts["held"] = counts.get("held", 0) + len(session.deferred)
            counts["queued"] = len(session.schedule) + len(session.left) + len(session.being_read)
        return Counts(**counts)


def _running(job: RunningJob, now_s: float) -> Running:
    eta_s = job.eta_s(now_s)
    return Running(
        job_id=job.ticket.job_id,
        name=printable(job.ticket.name),
        file=printable(job.ticket.file_name),
        engine=job.job.order.engine,
        chunk=job.chunk,
        chunks=job.chunks,
        started_at=iso(job.started_s),
        eta_s=None if eta_s is None else round(eta_s, 1),
    )


def _lists(session: Session) -> dict[str, Any]:
    """The lists of `Status` that belong to an inbox, each of at most SHOWN entries."""
    arrivals = session.arrivals
    held = chain(map(_deferred, session.deferred.values()), map(_file, arrivals.waiting(held=True)))
    return {
        "next": tuple(_queued(place, ticket) for place, ticket in enumerate(session.schedule.first(SHOWN), start=1)),
        "waiting": tuple(map(_file, arrivals.waiting(held=False))),
        "held": tuple(islice(held, SHOWN)),
        "ignored": tuple(File(file=printable(source), reason=reason) for source, reason in arrivals.ignored.items()),
    }


def _queued(place: int, ticket: Ticket) -> Queued:
    return Queued(
        job_id=ticket.job_id,
        name=printable(ticket.name),
        file=printable(ticket.file_name),
        place=place,
        priority=min(ticket.priority, 9),
        not_before=iso(ticket.not_before) if ticket.not_before else None,
    )


def _deferred(entry: Deferred) -> FileSince:
    return FileSince(file=printable(entry.ticket.name), reason=entry.reason, since=iso(entry.since_s))


def _file(sighting: Sighting) -> FileSince:
    return FileSince(file=printable(sighting.source), reason=sighting.reason, since=iso(sighting.since))
