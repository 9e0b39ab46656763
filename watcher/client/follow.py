"""`voicespool submit --wait`: dropped jobs, followed to their results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from files.printable import printable
from watcher.client.results import Result, results_of
from watcher.client.status import Ended, Queued, Running, Snapshot, Status, look
from watcher.client.submit import Dropped
from watcher.config.settings import Config

FOLDER_LOOK_S = 2.0
LOST_AFTER_S = 15.0

Stage = Literal["dropped", "queued", "running", "done", "failed", "cancelled", "lost"]


@dataclass(frozen=True, slots=True)
class Followed:
    """The progress of a job.

    Attributes:
        job: What was dropped.
        stage: `dropped` until the daemon claims it; `lost` when somebody else removed it from the inbox.
        job_id: Once it is known.
        place: In the queue, from 1.
        chunk, chunks, eta_s: While it runs.
        folder: Of its result.
        message: Why it failed, what took the place of its checkpoint, or what it waits for.
        doubts: Why its audio is doubtful; () when it is not.
    """

    job: Dropped
    stage: Stage = "dropped"
    job_id: str = ""
    place: int | None = None
    chunk: int = 0
    chunks: int = 0
    eta_s: float | None = None
    folder: Path | None = None
    message: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        return self.stage in {"done", "failed", "cancelled", "lost"}


@dataclass(slots=True)
class Follower:
    """Follows dropped jobs to their results, by status.json first and by the manifests in the outbox second.

    A job is known by its name and its content until the spool has given it an id. Ids that were there before it
    was dropped are another job's.

    Attributes:
        before: Those ids.
        daemon: Whether one runs, as far as this user may see.
    """

    config: Config
    before: frozenset[str]
    jobs: list[Followed] = field(default_factory=list)
    daemon: bool = False
    _folders_at: float = float("-inf")
    _gone_since: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, config: Config, names: Iterable[str]) -> Follower:
        """Remember which jobs exist already; to be called before dropping."""
        status = look(config).status
        known = {*_ids(status.results), *_ids(status.next), *_ids(status.running)}
        published = {result.job_id for name in names for result in results_of(config.outbox, name)}
        return cls(config, frozenset(known | published))

    def follow(self, dropped: Iterable[Dropped]) -> None:
        self.jobs.extend(map(Followed, dropped))

    @property
    def ended(self) -> bool:
        return all(job.ended for job in self.jobs)

    def look(self, now: float) -> None:
        """Look once. `now` is monotonic, in seconds."""
        snapshot = look(self.config)
        self.daemon = snapshot.daemon is not None or bool(snapshot.unseen)
        look_at_folders = now - self._folders_at >= FOLDER_LOOK_S
        if look_at_folders:
            self._folders_at = now
        self.jobs = [job if job.ended else self._next(job, snapshot, look_at_folders, now) for job in self.jobs]

    def _next(self, job: Followed, snapshot: Snapshot, look_at_folders: bool, now: float) -> Followed:
        seen = self._in_status(job, snapshot.status)
        if seen is not None:
            self._gone_since.pop(job.job.source, None)
            return seen
        if look_at_folders and (seen := self._in_outbox(job)) is not None:
            return seen
        if (self.config.inbox / job.job.source).exists():
            return replace(job, message=snapshot.unseen or _waits_for(job.job.source, snapshot.status))
        return self._maybe_lost(job, snapshot, now)

    def _in_status(self, job: Followed, status: Status) -> Followed | None:
        for result in status.results:
            if self._is(job, result) and result.source_sha256 in (job.job.sha256, ""):
                return replace(
                    job,
                    stage=result.status,
                    job_id=result.job_id,
                    folder=self.config.outbox / result.folder,
                    message=result.message or "",
                    doubts=result.doubts,
                )
        for running in status.running:
            if self._is(job, running):
                return replace(
                    job, stage="running", message="", job_id=running.job_id,
                    chunk=running.chunk, chunks=running.chunks, eta_s=running.eta_s,
                )  # fmt: skip
        for queued in status.next:
            if self._is(job, queued):
                delay = _delay(queued, status)
                return replace(job, stage="queued", job_id=queued.job_id, place=queued.place, message=delay)
        return None

    def _is(self, job: Followed, entry: Ended | Running | Queued) -> bool:
        if job.job_id:
            return entry.job_id == job.job_id
        is_new = entry.job_id not in self.before and entry.job_id not in self._taken()
        return entry.name == printable(job.job.name) and is_new

    def _taken(self) -> set[str]:
        return {job.job_id for job in self.jobs if job.job_id}

    def _in_outbox(self, job: Followed) -> Followed | None:
        for result in results_of(self.config.outbox, job.job.name):
            if job.job_id and result.job_id != job.job_id:
                continue
            if result.job_id not in self.before and result.manifest.source.sha256 in {job.job.sha256, ""}:
                return _ended(job, result)
        return None

    def _maybe_lost(self, job: Followed, snapshot: Snapshot, now: float) -> Followed:
        """Neither in the inbox nor known to the spool: the spool may be about to write it down, or it is gone."""
        since = self._gone_since.setdefault(job.job.source, now)
        status = snapshot.status
        is_unlisted = status.counts.queued > len(status.next)
        if snapshot.daemon is None or is_unlisted or now - since < LOST_AFTER_S:
            return job
        return replace(job, stage="lost", message="its file was removed from the inbox, and there is no result")


def _ids(entries: Iterable[Ended | Queued | Running]) -> Iterator[str]:
    return (entry.job_id for entry in entries)


def _ended(job: Followed, result: Result) -> Followed:
    ended = replace(job, stage=result.status, job_id=result.job_id, folder=result.folder)
    return replace(ended, message=result.message, doubts=result.doubts)


def _delay(entry: Queued, status: Status) -> str:
    """Why a queued job does not start, beyond those before it."""
    if entry.not_before:
        return f"not before {printable(entry.not_before, 60)}"
    if status.state == "paused":
        return "paused by the file PAUSE in the inbox"
    return f"on hold: {printable(status.holds[0].reason)}" if status.holds else ""


def _waits_for(source: str, status: Status) -> str:
    files = (*status.waiting, *status.held)
    return next((entry.reason for entry in files if entry.file == printable(source)), "")


def wait(
    follower: Follower, show: Callable[[Follower], None], timeout_s: float | None = None, pause_s: float = 0.2
) -> None:
    """Look until all jobs have ended, at most for `timeout_s`, and call `show` after each look."""
    deadline = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
    while True:
        follower.look(time.monotonic())
        show(follower)
        left_s = deadline - time.monotonic()
        if follower.ended or left_s <= 0:
            return
        time.sleep(min(pause_s, left_s))
