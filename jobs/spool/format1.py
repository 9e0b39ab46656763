"""Claims of earlier versions (state format 1): what became of a job was kept in files of its own, not in its record."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from files.durable import from_json, replace, to_json
from jobs.spool.claim import ClaimFolder

_CONVERTED = "from_format_1"


def convert(claimed: Path) -> None:
    """Move what the files of each claim say into its record. After a crash, it can be repeated."""
    for job_id in os.listdir(claimed) if claimed.is_dir() else ():
        folder = ClaimFolder(claimed / job_id)
        record = folder.record()
        if not record.last(_CONVERTED) and (changes := list(_changes(folder.path))):
            lines = [*record.changes, *changes, {_CONVERTED: True}]
            replace(record.path, b"\n".join(map(to_json, lines)))
        for name in ("attempts", "cancelled", "alone", "rendered.json", "intent.json"):
            (folder.path / name).unlink(missing_ok=True)


def _changes(claim: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        for line in (claim / "attempts").read_text().splitlines():
            with contextlib.suppress(ValueError):  # a power failure can cut the last line
                yield json.loads(line)
    for mark in ("cancelled", "alone"):
        if (claim / mark).exists():
            yield {mark: True}
    for name in ("rendered", "intent"):
        if value := from_json(claim / f"{name}.json"):
            yield {name: value}
