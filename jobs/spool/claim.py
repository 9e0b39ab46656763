"""A claimed job on disk: its folder, with all paths and markers in it, and its description."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from files.durable import from_json, fsync, replace, to_json, write_new
from jobs.names import numbered_document


@dataclass(frozen=True, slots=True)
class ClaimFolder:
    """The folder `claimed/ID` of a job; all paths and markers in it are defined here.

    Attributes:
        path: Absolute.
    """

    path: Path

    @property
    def job_id(self) -> str:
        return self.path.name

    @property
    def original(self) -> Path:
        """The file as it was renamed out of the inbox."""
        return self.path / "original"

    def copy(self, suffix: str) -> Path:
        """The spool's own copy of the file's bytes."""
        return self.path / f"job{suffix.lower()}"

    @property
    def description(self) -> Path:
        """The description of the job, as JSON; see `Claim`."""
        return self.path / "claim.json"

    @property
    def understood(self) -> Path:
        """The parsed content of a large job file; see `jobs.spool.reading`."""
        return self.path / "understood.json"

    @property
    def recordings(self) -> Path:
        """Copies of the job's recordings, named by their digest."""
        return self.path / "recordings"

    @property
    def chunks(self) -> Path:
        """Finished chunks, kept between attempts."""
        return self.path / "chunks"

    def attempt(self, number: int) -> Path:
        """Output folder of an attempt, from 1."""
        return self.path / f"attempt-{number}"

    @property
    def rendered(self) -> Path:
        """Describes finished files that are not published yet; see `jobs.results.worker_result`."""
        return self.path / "rendered.json"

    # --- cancelled ---

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.exists()

    def cancel(self) -> None:
        """Mark the job as cancelled, durably."""
        self._mark(self._cancelled)

    @property
    def _cancelled(self) -> Path:
        return self.path / "cancelled"

    # --- to be rendered alone ---

    @property
    def is_alone(self) -> bool:
        """Whether the job must not be rendered along with others: it was there when the engine failed with several."""
        return self._alone.exists()

    def render_alone(self) -> None:
        """Mark the job, durably."""
        self._mark(self._alone)

    @property
    def _alone(self) -> Path:
        return self.path / "alone"

    def _mark(self, marker: Path) -> None:
        if not marker.exists():
            write_new(marker, b"")
            fsync(self.path)

    # --- attempts ---

    @property
    def _attempts(self) -> Path:
        return self.path / "attempts"

    def attempts(self) -> list[dict[str, Any]]:
        """All attempts: `{"started_at", "outcome"}`; outcome None if it succeeded, or ended with the daemon."""
        attempts: list[dict[str, Any]] = []
        for entry in self._entries():
            if "outcome" in entry and attempts:
                attempts[-1]["outcome"] = entry["outcome"]
            elif "started_at" in entry:
                attempts.append({"started_at": entry["started_at"], "outcome": None})
        return attempts

    def fallback(self) -> dict[str, str] | None:
        """Why the base model is used instead of the job's checkpoint, as noted; None if it is not."""
        return next((entry["fallback"] for entry in self._entries() if "fallback" in entry), None)

    def _entries(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            for line in self._attempts.read_text().splitlines():
                with contextlib.suppress(ValueError):  # a power failure can cut the last line
                    yield json.loads(line)

    def note_attempt(self, **entry: Any) -> None:
        """Append to the record of attempts: `started_at=…` before the work starts, `outcome=…` if it failed,
        `fallback=…` if the base model is used from now on.

        Only an outcome is forced to disk: an attempt without an outcome does not count, so its start may be lost in a
        power failure.
        """
        fd = os.open(self._attempts, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, to_json(entry) + b"\n")
            if "outcome" in entry:
                os.fsync(fd)
                fsync(self.path)
        finally:
            os.close(fd)

    # --- about to be published ---

    @property
    def _intent(self) -> Path:
        return self.path / "intent.json"

    @property
    def has_intent(self) -> bool:
        return self._intent.exists()

    def intent(self) -> Mapping[str, Any]:
        """The intent to publish, if a crash came before the release; else {}."""
        return from_json(self._intent)

    def intend(self, intent: Mapping[str, Any]) -> None:
        """Write the intent to publish, durably, before the rename that publishes."""
        replace(self._intent, to_json(intent))

    def forget_intent(self) -> None:
        self._intent.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """One claimed job.

    Attributes:
        folder: Where it is.
        source: Path of its file in the inbox, `/` separated.
        claimed_ns: Time of the claim, Unix time in nanoseconds.
        document: Number of this document in its file, from 1; 0 if the file is one job.
        sha256: Of the job file's bytes; empty until the copy is on disk.
        set_aside: Why the file must not be read (too large, crashes the daemon); else empty.
        withheld: The file's content must not be published: it may be another user's file.
        recordings: Each name in the job's `speaker_wav` -> digest of the copy in `recordings/`.
        transcripts: Each of these names with a transcript file -> its text.
        problems: Each recording that the job names and can't use -> why, a sentence.
        warnings: Sentences for the manifest of each job in the file.
        dropped_ns: When the file appeared in the inbox (its ctime), nanoseconds; 0 if unknown.
        documents: Number of documents in its file, for the width of the numbers in names; 0 if not needed.
        own_name: The job's own `name`; "" if it is named like its file.
    """

    folder: ClaimFolder
    source: str
    claimed_ns: int
    document: int = 0
    sha256: str = ""
    set_aside: str = ""
    recordings: Mapping[str, str] = field(default_factory=dict)
    transcripts: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    dropped_ns: int = 0
    withheld: bool = False
    documents: int = 0
    own_name: str = ""

    @property
    def job_id(self) -> str:
        return self.folder.job_id

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.source).suffix

    @property
    def name(self) -> str:
        """The job's own name, else that of its file, with `-2` (or `-02`, of ten or more) for the second document."""
        if self.own_name or not self.document:
            return self.own_name or self.file_name
        return numbered_document(self.file_name, self.document, self.documents)

    @property
    def file_name(self) -> str:
        """Path in the inbox without extension."""
        return self.source.removesuffix(self.suffix)

    @property
    def job_file(self) -> Path:
        """The spool's copy of the file; the original if it was never read."""
        return self.folder.original if self.never_read else self.folder.copy(self.suffix)

    @property
    def never_read(self) -> bool:
        """Whether the file was set aside without being read, so that there is no copy."""
        return bool(self.set_aside) and not self.sha256

    def recording_paths(self) -> dict[str, Path]:
        """Each name in the job's `speaker_wav` -> path of the copy."""
        return {name: self.folder.recordings / digest for name, digest in self.recordings.items()}

    def write(self) -> None:
        """Write the description for the first time."""
        write_new(self.folder.description, self._packed())

    def rewrite(self) -> Claim:
        """Replace the description, durably."""
        replace(self.folder.description, self._packed())
        return self

    def _packed(self) -> bytes:
        return to_json({key: getattr(self, key) for key in Claim.__dataclass_fields__ if key != "folder"})

    @classmethod
    def read(cls, folder: ClaimFolder) -> Claim | None:
        """Read the description of a claim; None if it is missing or damaged."""
        packed = from_json(folder.description)
        if not packed:
            return None
        known = {key: packed[key] for key in cls.__dataclass_fields__ if key in packed}
        if isinstance(problems := known.get("problems"), list):  # written by the first version, without names
            known["problems"] = dict(zip(problems, problems, strict=True))
        return cls(folder, **known | {"warnings": tuple(known.get("warnings", ()))})
