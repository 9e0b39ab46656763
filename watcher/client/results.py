"""Results of a name in the outbox, oldest job first."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.printable import printable
from jobs.names import RESULT_MARKS, safe_name
from jobs.order import Fallback
from jobs.pipeline import MAX_REASONS_SHOWN
from jobs.results.outbox import MANIFEST
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
    manifest: Mapping[str, Any]

    @property
    def job_id(self) -> str:
        return str(self.manifest.get("job_id", ""))

    @property
    def status(self) -> str:
        return str(self.manifest.get("status", ""))

    @property
    def message(self) -> str:
        """Why it failed, or what was used instead of a checkpoint; "" for neither."""
        error, engine = self.manifest.get("error"), self.manifest.get("engine")
        if isinstance(error, Mapping):
            return str(error.get("message", ""))
        return str(Fallback.recorded(engine) or "") if isinstance(engine, Mapping) else ""

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why its audio is doubtful, the first few reasons; () when it is not."""
        return doubts_of(self.manifest.get("checks"))

    @property
    def source(self) -> Mapping[str, Any]:
        """The job file: file, sha256, claimed_at."""
        source = self.manifest.get("source")
        return source if isinstance(source, Mapping) else {}

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


def doubts_of(checks: object) -> tuple[str, ...]:
    """Why audio is doubtful: what `checks` of a manifest, or a result in status.json, says; () when it is not."""
    if not isinstance(checks, Mapping) or checks.get("verdict") != "doubtful":
        return ()
    reasons = checks.get("reasons")
    told = [printable(reason) for reason in reasons[:MAX_REASONS_SHOWN]] if isinstance(reasons, list) else []
    return tuple(told) or ("see checks in its manifest",)


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
            manifest = json.loads(file.read(_MAX_MANIFEST_BYTES))
    except (OSError, ValueError):
        return None
    return Result(folder, manifest) if isinstance(manifest, dict) else None
