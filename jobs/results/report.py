"""What a result tells of itself: manifest.json for programs, ERROR.txt for people."""

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
class Story:
    """How a job went; filled in as it goes.

    Attributes:
        started_s: When it left the queue, Unix time in seconds.
        spec: None when the file could not be understood.
        attempts: How many ended badly.
        missing: A sentence about what the result lacks of the job file; "" when it is there as it was.
        warnings: What is odd about the job file, so that the audio may not be what was meant.
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


def manifest(story: Story) -> Manifest:
    """manifest.json of a job that has ended."""
    made = story.made.rendering if story.made else None
    doubts = tuple(map(str, story.warnings))
    return Manifest(
        schema=1,
        job_id=story.claim.job_id,
        name=printable(story.claim.name),
        status=story.status,
        source=_source(story.claim),
        finished_at=now(),
        request=story.spec.model_dump(mode="json", exclude_none=True) if story.spec else None,
        engine=dict(made.engine) if made else None,
        voice=dict(made.voice) if made else None,
        audio=tuple(AudioFile(**audio) for audio in made.audio) if made else (),
        segments=tuple(SpokenSegment(**segment) for segment in made.segments) if made else (),
        chunks=tuple(SpokenChunk(**chunk) for chunk in made.chunks) if made else (),
        chunks_file=made.chunks_file or None if made else None,
        checks=checks(story),
        timing=_timing(story),
        attempts=story.attempts + (made is not None),
        warnings=(*doubts, *(made.warnings if made else ()), *story.claim.warnings, *filter(None, [story.missing])),
        error=_failure(story.failure) if story.failure else None,
        host=socket.gethostname(),
        version=own_version(),
    )


def checks(story: Story) -> Checks | None:
    """What the worker says of the audio; doubtful where the job file may mean something else; None without audio."""
    if story.made is None:
        return None
    found = Checks(**story.made.rendering.checks)
    if not story.warnings:
        return found
    return found.model_copy(update={"verdict": "doubtful", "reasons": (*map(str, story.warnings), *found.reasons)})


def error_text(story: Story) -> str:
    """ERROR.txt of a job that failed: what went wrong, where, and what to do about it, in plain words."""
    claim, error = story.claim, story.failure
    if error is None:
        return ""
    what = "was cancelled" if isinstance(error, Cancelled) else "failed"
    file = printable(claim.source)
    own = f"Document {claim.document} of {file} {what}; lines are counted from its own beginning."
    lines = [own if claim.document else f"{file} {what}."]
    if isinstance(error, JobInvalid):
        lines += ["", *(f"  {problem}" for problem in error.problems)]
    elif not isinstance(error, Cancelled):
        lines += ["", f"  {error.message}"]
    return "\n".join([*lines, "", *filter(None, [story.missing]), error.hint, ""])


def now() -> str:
    """Now, ISO 8601, UTC, milliseconds."""
    return iso(time.time())


def iso(seconds: float) -> str:
    """Unix time as ISO 8601, UTC, milliseconds; what no calendar holds stays a number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


@cache
def own_version() -> str:
    """The version of voicespool."""
    return version("voicespool")


def _source(claim: Claim) -> Source:
    return Source(
        file=printable(claim.source),
        sha256=claim.sha256,
        claimed_at=iso(claim.claimed_ns / 1e9),
        document=claim.document,
    )


def _timing(story: Story) -> Timing:
    claimed_s, made = story.claim.claimed_ns / 1e9, story.made.rendering if story.made else None
    times = dict(made.timing) if made else {}
    seconds = sum(file["duration_s"] for file in made.audio) if made else 0.0
    return Timing(
        queued_s=round(max(0.0, story.started_s - claimed_s), 3),
        load_s=round(times.get("load_s", 0.0), 3),
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
