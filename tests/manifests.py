"""A manifest with little in it."""

from __future__ import annotations

from jobs.results.manifest import Failure, Manifest, Source, Timing


def manifest(**more: object) -> Manifest:
    """A manifest that has every required key, and these."""
    parts: dict[str, object] = {
        "schema": 1, "job_id": "1", "name": "hello", "status": "done", "request": None, "host": "h", "version": "0",
        "finished_at": "2026-11-21T00:00:01Z",
        "source": source(),
        "timing": Timing(queued_s=0, total_s=0),
    }  # fmt: skip
    return Manifest(**(parts | more))  # type: ignore[arg-type]


def source(file: str = "hello.yaml", sha256: str = "", document: int = 0) -> Source:
    return Source(file=file, sha256=sha256, claimed_at="2026-11-21T00:00:00Z", document=document)


def failure(message: str) -> Failure:
    return Failure(code="x", message=message, hint="h", retryable=False)
