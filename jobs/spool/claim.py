"""One claimed job on disk: the folder with all its files and markers, and what is known of the job."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from files.durable import from_json, fsync, replace, to_json, write_new
from jobs.names import numbered_document


@dataclass(frozen=True, slots=True)
class ClaimFolder:
    """`claimed/ID`, the job's own until it is released; every path and marker in it has its name here.

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
        """What is known of the job, as JSON; see `Claim`."""
        return self.path / "claim.json"

    @property
    def understood(self) -> Path:
        """What a large job file says; see `jobs.spool.reading`."""
        return self.path / "understood.json"

    @property
    def recordings(self) -> Path:
        """Copies of the recordings that the job names, by content."""
        return self.path / "recordings"

    @property
    def chunks(self) -> Path:
        """Finished chunks, kept from one attempt to the next."""
        return self.path / "chunks"

    def attempt(self, number: int) -> Path:
        """Where an attempt writes its files; counted from 1."""
        return self.path / f"attempt-{number}"

    @property
    def rendered(self) -> Path:
        """Finished files that the outbox did not take yet; see `jobs.results.worker_result`."""
        return self.path / "rendered.json"

    # --- not wanted any more ---

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.exists()

    def cancel(self) -> None:
        """Note that the job is not wanted any more, durably."""
        if not self.is_cancelled:
            write_new(self._cancelled, b"")
            fsync(self.path)

    @property
    def _cancelled(self) -> Path:
        return self.path / "cancelled"

    # --- attempts ---

    @property
    def _attempts(self) -> Path:
        return self.path / "attempts"

    def attempts(self) -> list[dict[str, Any]]:
        """All attempts at a job: `{"started_at", "outcome"}`, outcome None for one that a daemon did not see end."""
        attempts: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            for line in self._attempts.read_text().splitlines():
                with contextlib.suppress(ValueError):  # a power failure can cut the last line
                    entry = json.loads(line)
                    if "outcome" in entry and attempts:
                        attempts[-1]["outcome"] = entry["outcome"]
                    elif "started_at" in entry:
                        attempts.append({"started_at": entry["started_at"], "outcome": None})
        return attempts

    def note_attempt(self, **entry: Any) -> None:
        """Append to the record of attempts: `started_at=…` before the work starts, `outcome=…` when it failed.

        Only an outcome is forced to disk: one that was started and not seen to end does not count, so that nothing
        depends on a start surviving a power failure.
        """
        fd = os.open(self._attempts, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, to_json(entry) + b"\n")
            if "outcome" in entry:
                os.fsync(fd)
                fsync(self.path)
        finally:
            os.close(fd)

    # --- about to be shown ---

    @property
    def _intent(self) -> Path:
        return self.path / "intent.json"

    @property
    def has_intent(self) -> bool:
        return self._intent.exists()

    def intent(self) -> Mapping[str, Any]:
        """The intent to publish that a crash left behind; {} when there is none."""
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
        source: Its file's path in the inbox, `/` separated.
        claimed_ns: When it was claimed, Unix time in nanoseconds.
        document: 0 for a file that is one job, else which of the file's documents this is, from 1.
        sha256: Of the job file's bytes; empty until they are safe.
        set_aside: Why the file is not to be read at all (too large, kills the daemon); empty for all others.
        withheld: Not a byte of it may be published: it may be a file of somebody who did not put it here.
        recordings: Each name in the job's `speaker_wav` -> digest of the copy under `recordings/`.
        transcripts: Each of those names that has a text beside it -> that text.
        problems: Each recording that the job names and can't have -> why, a sentence.
        warnings: Sentences for the manifest of each of its jobs.
        dropped_ns: When the file came to its name in the inbox (its change time), nanoseconds; 0 when not known.
        documents: How many jobs its file holds, for the width of their numbers; 0 where that does not matter.
        own_name: The name that the job itself asks for; "" for that of its file.
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
        """The job's own name, else that of its file; `-2` (of ten or more `-02`) behind it for the second document."""
        if self.own_name or not self.document:
            return self.own_name or self.file_name
        return numbered_document(self.file_name, self.document, self.documents)

    @property
    def file_name(self) -> str:
        """Path in the inbox without extension."""
        return self.source.removesuffix(self.suffix)

    @property
    def job_file(self) -> Path:
        """The spool's own copy of the bytes; the original where those were never read."""
        return self.folder.original if self.never_read else self.folder.copy(self.suffix)

    @property
    def never_read(self) -> bool:
        """Whether the file was set aside as it is, so that the spool has no copy of its own."""
        return bool(self.set_aside) and not self.sha256

    def recording_paths(self) -> dict[str, Path]:
        """Each name in the job's `speaker_wav` -> the copy."""
        return {name: self.folder.recordings / digest for name, digest in self.recordings.items()}

    def write(self) -> None:
        """Write down for the first time what is known."""
        write_new(self.folder.description, self._packed())

    def rewrite(self) -> Claim:
        """Write down what is known by now, durably."""
        replace(self.folder.description, self._packed())
        return self

    def _packed(self) -> bytes:
        return to_json({key: getattr(self, key) for key in Claim.__dataclass_fields__ if key != "folder"})

    @classmethod
    def read(cls, folder: ClaimFolder) -> Claim | None:
        """What was written down; None where nothing was, or it is damaged."""
        packed = from_json(folder.description)
        if not packed:
            return None
        known = {key: packed[key] for key in cls.__dataclass_fields__ if key in packed}
        if isinstance(problems := known.get("problems"), list):  # as the first version wrote them, without names
            known["problems"] = dict(zip(problems, problems, strict=True))
        return cls(folder, **known | {"warnings": tuple(known.get("warnings", ()))})
