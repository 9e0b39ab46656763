"""Results of a name in the outbox, oldest job first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from files.printable import printable
from jobs.names import RESULT_MARKS, safe_name
from jobs.order import Fallback
from jobs.publish import MAX_REASONS_SHOWN
from jobs.results.manifest import Manifest, Status
from jobs.results.open_outbox import MANIFEST
from jobs.spool.inbox_names import JOB_SUFFIXES

_MAX_MANIFEST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """A published result.

    Attributes:
        folder: Its folder.
        manifest: Its manifest.json.
    """

    folder: Path
    manifest: Manifest

    @property
    def job_id(self) -> str:
        return self.manifest.job_id

    @property
    def status(self) -> Status:
        return self.manifest.status

    @property
    def message(self) -> str:
        """Why it failed, or what was used instead of a checkpoint; "" for neither."""
        if self.manifest.error:
            return self.manifest.error.message
        return str(Fallback.recorded(self.manifest.engine or {}) or "")

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why its audio is doubtful, the first few reasons; () when it is not."""
        checks = self.manifest.checks
        if checks is None or checks.verdict != "doubtful":
            return ()
        return tuple(map(printable, checks.reasons[:MAX_REASONS_SHOWN])) or ("see checks in its manifest",)

    def job_file(self) -> Path | None:
        """The job file in it; None when it was removed."""
        stem = re.sub(r"~\d+$", "", self.folder.name)
        for mark in RESULT_MARKS.values():
            stem = stem.removesuffix(mark) if mark else stem
        return next((path for path in self._files() if path.stem == stem and path.suffix.lower() in JOB_SUFFIXES), None)

    def _files(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if path.is_file()]
        except OSError:
            return []


def results_of(outbox: Path, name: str) -> list[Result]:
    """All results of a job's name that are in the outbox now, oldest job first.

    Args:
        outbox: The outbox.
        name: As in the inbox, without extension, `/` separated.
    """
    *parents, last = (safe_name(part) for part in name.split("/"))
    folders = [outbox]
    for parent in parents:
        folders = [below for folder in folders for below in _numbered(folder, re.escape(parent))]
    marks = "|".join(re.escape(mark) for mark in RESULT_MARKS.values() if mark)
    wanted = rf"{re.escape(last)}({marks})?"
    found = [result for folder in folders for path in _numbered(folder, wanted) if (result := _read(path))]
    return sorted(found, key=lambda result: (result.job_id, result.folder.name))


def _numbered(folder: Path, pattern: str) -> Iterator[Path]:
    """Folders of this name, with any number behind it."""
    wanted = re.compile(rf"{pattern}(~\d+)?")
    try:
        with os.scandir(folder) as entries:
            yield from [Path(entry.path) for entry in entries if wanted.fullmatch(entry.name) and entry.is_dir()]
    except OSError:
        return


def _read(folder: Path) -> Result | None:
    try:
        with (folder / MANIFEST).open("rb") as file:
            manifest = Manifest.read(file.read(_MAX_MANIFEST_BYTES))
    except OSError:
        return None
    return Result(folder, manifest) if manifest else None
