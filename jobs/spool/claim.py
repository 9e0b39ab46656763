"""A claimed job on disk: its folder, with all paths in it, and its description."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from files.durable import empty_folder, remove_tree
from jobs.names import numbered_document
from jobs.spool.record import Record

DESCRIPTION, FIRST_ATTEMPT = "claim.json", "attempt-1"
MAX_SPARES = 64
MAX_NS = 1 << 63  # of a time; larger ones are damage


@dataclass(frozen=True, slots=True)
class ClaimFolder:
    """The folder `claimed/ID` of a job; all paths in it are defined here.

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

    def record(self) -> Record:
        """Read the record of the job: its description, and what became of it."""
        return Record.read(self.path / DESCRIPTION)

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


class Spares:
    """Folders for the next claims: those of released claims, emptied.

    It is faster to overwrite a file than to remove it and create another: for each file that is created, ext4 looks at
    all inodes that were removed within the last minutes.

    Args:
        folder: Where they are. Nothing in it is a claim.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by_suffix: dict[str, list[Path]] = {}

    def take(self, suffix: str) -> Path:
        """A folder. It may have a description, and a copy of a job file with this suffix, both to be overwritten."""
        if known := self._by_suffix.get(suffix.lower()):
            return known.pop()
        spare = self._folder / secrets.token_hex(8)
        spare.mkdir(mode=0o700)
        return spare

    def keep(self, released: Path) -> bool:
        """Empty the folder of a released claim, and keep it if there are few. False if it is not kept."""
        copies = []
        with os.scandir(released) as entries:
            for entry in entries:
                if entry.name == FIRST_ATTEMPT:
                    empty_folder(released / entry.name)
                elif entry.name.startswith("job."):
                    copies.append(entry.name)
                elif entry.name != DESCRIPTION:
                    remove_tree(entry.path)
        if len(copies) != 1 or sum(map(len, self._by_suffix.values())) >= MAX_SPARES:
            return False
        for name in (DESCRIPTION, *copies):  # a text stays no longer than it is needed
            os.truncate(released / name, 0)
        spare = self._folder / secrets.token_hex(8)
        os.rename(released, spare)
        self._by_suffix.setdefault(copies[0].removeprefix("job"), []).append(spare)
        return True


@dataclass(frozen=True, slots=True)
class Claim:
    """One claimed job.

    Attributes:
        folder: Where it is.
        record: The file that describes it.
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
    record: Record = field(repr=False, compare=False)
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

    def write(self) -> int:
        """Write the description for the first time. Returns its descriptor, for `files.durable.sync_and_close`."""
        return self.record.start(**{name: getattr(self, name) for name in _DESCRIPTION})

    def describe(self) -> None:
        """Append the whole description, durably: the one on disk is damaged."""
        self.record.add(**{name: getattr(self, name) for name in _DESCRIPTION})

    def changed(self, **values: Any) -> Claim:
        """Change some of the values, durably."""
        self.record.add(**values)
        return replace(self, **values)

    @classmethod
    def read(cls, folder: ClaimFolder) -> Claim | None:
        """Read the description of a claim; None if it is missing or damaged."""
        record = folder.record()
        values = record.merged()
        if not (isinstance(values.get("source"), str) and values.get("claimed_ns") in range(MAX_NS)):
            return None
        known = {name: values[name] for name in _DESCRIPTION if name in values}
        if isinstance(problems := known.get("problems"), list):  # written by the first version, without names
            known["problems"] = dict(zip(problems, problems, strict=True))
        return cls(folder, record, **known | {"warnings": tuple(known.get("warnings", ()))})


_DESCRIPTION = tuple(name for name in Claim.__dataclass_fields__ if name not in {"folder", "record"})
