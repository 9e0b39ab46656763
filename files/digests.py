"""The SHA-256 of large files, remembered: reading 5 GB takes seconds, and models hardly ever change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from files import cache

SETTLED_NS = 2 * 10**9  # two changes within the grain of a file system's clock look like one
_BLOCK = 1 << 20


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex. Remembered by device, inode, size and mtime.

    Raises:
        OSError: It can't be read, or changed meanwhile.
    """
    with path.open("rb") as file:
        before = _state(file.fileno())
        known = _remembered(before)
        if known is not None:
            return known
        hashed = hashlib.sha256()
        while block := file.read(_BLOCK):
            hashed.update(block)
        if _state(file.fileno()) != before:
            raise OSError(f"{path.name} changed while it was read")
    if before["mtime_ns"] < time.time_ns() - SETTLED_NS:
        _remember(before, hashed.hexdigest())
    return hashed.hexdigest()


def _state(descriptor: int) -> dict[str, int]:
    status = os.fstat(descriptor)
    names = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    return {name.removeprefix("st_"): getattr(status, name) for name in names}


def _note(state: dict[str, int]) -> Path | None:
    """Where a file's digest is kept: one note for each inode, so that they don't pile up with each change."""
    folder = cache.folder("digests")
    return folder / f"{state['dev']:x}-{state['ino']:x}.json" if folder is not None else None


def _remembered(state: dict[str, int]) -> str | None:
    note = _note(state)
    if note is None:
        return None
    try:
        said = json.loads(note.read_bytes())
        return str(said["sha256"]) if said["state"] == state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(state: dict[str, int], sha256: str) -> None:
    """A full or read-only disk is no reason to fail: it is hashed again next time."""
    note = _note(state)
    if note is None:
        return
    scratch = note.with_suffix(f".{os.getpid()}-{time.monotonic_ns()}")
    with contextlib.suppress(OSError):
        scratch.write_text(json.dumps({"state": state, "sha256": sha256}))
        scratch.replace(note)
