"""Writes manifest.json, for programs, and ERROR.txt, for people."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version

from files.printable import printable
from files.tree import Problem
from jobs.errors import Cancelled, JobError, JobInvalid
from jobs.results.manifest import (
    AudioFile,
    Checks,
    Failure,
    Manifest,
    Source,
    SpokenChunk,
    SpokenSegment,
    Status,
    Timing,
)
from jobs.results.worker_result import Made
from jobs.spec.job_spec import JobSpec
from jobs.spool.claim import Claim


@dataclass(slots=True)
class JobRecord:
    """What the manifest and ERROR.txt report about a job; filled in while it runs.

    Attributes:
        started_s: When it left the queue, Unix time in seconds.
        spec: None if the job file is invalid.
        attempts: Number of failed attempts.
        missing: A sentence about the job file if its result has no complete copy of it, else "".
        warnings: Problems of the job file because of which the audio may not be as intended.
    """

    claim: Claim
    started_s: float
    spec: JobSpec | None = None
    made: Made | None = None
    failure: JobError | None = None
    attempts: int = 0
    missing: str = ""
    warnings: tuple[Problem, ...] = ()

    @property
    def status(self) -> Status:
        if self.failure is None:
            return "done"
        return "cancelled" if isinstance(self.failure, Cancelled) else "failed"


def manifest(record: JobRecord) -> Manifest:
    """The manifest of a finished job."""
    made = record.made.rendering if record.made else None
    doubts = tuple(map(str, record.warnings))
    return Manifest(
        schema=1,
        job_id=record.claim.job_id,
        name=printable(record.claim.name),
        status=record.status,
        source=_source(record.claim),
        finished_at=now(),
        request=record.spec.model_dump(mode="json", exclude_none=True) if record.spec else None,
        engine=dict(made.engine) if made else None,
        voice=dict(made.voice) if made else None,
        audio=tuple(AudioFile(**audio) for audio in made.audio) if made else (),
        segments=tuple(SpokenSegment(**segment) for segment in made.segments) if made else (),
        chunks=tuple(SpokenChunk(**chunk) for chunk in made.chunks) if made else (),
        chunks_file=made.chunks_file or None if made else None,
        checks=checks(record),
        timing=_timing(record),
        attempts=record.attempts + (made is not None),
        warnings=(*doubts, *(made.warnings if made else ()), *record.claim.warnings, *filter(None, [record.missing])),
        error=_failure(record.failure) if record.failure else None,
        host=socket.gethostname(),
        version=own_version(),
    )


def checks(record: JobRecord) -> Checks | None:
    """The worker's checks; doubtful if the job file has warnings; None without audio."""
    if record.made is None:
        return None
    of_audio = Checks(**record.made.rendering.checks)
    if not record.warnings:
        return of_audio
    reasons = (*map(str, record.warnings), *of_audio.reasons)
    return of_audio.model_copy(update={"verdict": "doubtful", "reasons": reasons})


def error_text(record: JobRecord) -> str:
    """ERROR.txt of a failed job: what is wrong, where, and what to do; "" for a successful job."""
    claim, error = record.claim, record.failure
    if error is None:
        return ""
    what = "was cancelled" if isinstance(error, Cancelled) else "failed"
    file = printable(claim.source)
    own = f"Document {claim.document} of {file} {what}; line numbers start at the beginning of this document."
    lines = [own if claim.document else f"{file} {what}."]
    if isinstance(error, JobInvalid):
        lines += ["", *(f"  {problem}" for problem in error.problems)]
    elif not isinstance(error, Cancelled):
        lines += ["", f"  {error.message}"]
    return "\n".join([*lines, "", *filter(None, [record.missing]), error.hint, ""])


def now() -> str:
    """The current time as ISO 8601, UTC, milliseconds."""
    return iso(time.time())


def iso(seconds: float) -> str:
    """Unix time as ISO 8601, UTC, milliseconds; out of the range of datetime, the number itself."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


@cache
def own_version() -> str:
    """The installed version of voicespool."""
    return version("voicespool")


def _source(claim: Claim) -> Source:
    return Source(
        file=printable(claim.source),
        sha256=claim.sha256,
        claimed_at=iso(claim.claimed_ns / 1e9),
        document=claim.document,
    )


def _timing(record: JobRecord) -> Timing:
    claimed_s, made = record.claim.claimed_ns / 1e9, record.made.rendering if record.made else None
    times = dict(made.timing) if made else {}
    seconds = sum(file["duration_s"] for file in made.audio) if made else 0.0
    return Timing(
        queued_s=round(max(0.0, record.started_s - claimed_s), 3),
        load_s=round(times.get("load_s", 0.0), 3),
        batch_s=round(times.get("batch_s", 0.0), 3),
        jobs_in_batch=int(times.get("jobs_in_batch", 1)),
        synthesis_s=round(times.get("synthesis_s", 0.0), 3),
        total_s=round(max(0.0, time.time() - claimed_s), 3),
        real_time_factor=round(times.get("synthesis_s", 0.0) / seconds, 4) if seconds else None,
    )


def _failure(error: JobError) -> Failure:
    problems: Sequence[Problem] = error.problems if isinstance(error, JobInvalid) else ()
    return Failure(
        code=error.code,
        message=error.message,
        hint=error.hint,
        retryable=error.retryable,
        problems=tuple({"line": p.line, "key": p.key, "message": p.message} for p in problems),
    )
