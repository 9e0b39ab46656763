"""A cache of SHA-256 digests of large files: hashing 5 GB takes seconds, and models rarely change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from files import cache

SETTLED_NS = 2 * 10**9  # two writes within one tick of the file system's clock have the same mtime
_BLOCK = 1 << 20


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex. Cached by device, inode, size and mtime.

    Raises:
        OSError: The file can't be read, or changed while it was read.
    """
    with path.open("rb") as file:
        before = _state(file.fileno())
        known = _cached(before)
        if known is not None:
            return known
        hashed = hashlib.sha256()
        while block := file.read(_BLOCK):
            hashed.update(block)
        if _state(file.fileno()) != before:
            raise OSError(f"{path.name} changed while it was read")
    # A file written a moment ago could change again without a new mtime; its digest is not cached.
    if before["mtime_ns"] < time.time_ns() - SETTLED_NS:
        _store(before, hashed.hexdigest())
    return hashed.hexdigest()


def _state(descriptor: int) -> dict[str, int]:
    status = os.fstat(descriptor)
    names = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    return {name.removeprefix("st_"): getattr(status, name) for name in names}


def _entry(state: dict[str, int]) -> Path | None:
    """Where a file's digest is cached: one entry per inode, so that a changed file overwrites its old entry."""
    folder = cache.folder("digests")
    return folder / f"{state['dev']:x}-{state['ino']:x}.json" if folder is not None else None


def _cached(state: dict[str, int]) -> str | None:
    path = _entry(state)
    if path is None:
        return None
    try:
        entry = json.loads(path.read_bytes())
        return str(entry["sha256"]) if entry["state"] == state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(state: dict[str, int], sha256: str) -> None:
    """Write a cache entry. Errors are ignored: without it, the file is hashed again next time."""
    path = _entry(state)
    if path is None:
        return
    scratch = path.with_suffix(f".{os.getpid()}-{time.monotonic_ns()}")
    with contextlib.suppress(OSError):
        scratch.write_text(json.dumps({"state": state, "sha256": sha256}))
        scratch.replace(path)
