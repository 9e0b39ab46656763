"""Where voicespool keeps what it could make again: latents of recordings, digests of checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

CURE = (
    "Set VOICESPOOL_CACHE to a folder that the spool's user may write in (in a systemd unit also CacheDirectory=, or "
    "ReadWritePaths=); until then voices and digests of checkpoints are computed again after each start of a worker."
)


def folder(name: str) -> Path | None:
    """A folder of our own for one kind of thing; made if it is not there.

    `$VOICESPOOL_CACHE`, else systemd's `$CACHE_DIRECTORY`, else `voicespool` in `$XDG_CACHE_HOME` or `~/.cache`.

    Returns:
        None where it can't be made or written: then nothing is cached, and everything still works.
    """
    path = _root() / name
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return path if os.access(path, os.W_OK | os.X_OK) else None


def unusable() -> Path | None:
    """Where nothing can be kept although it should be; None when all is well."""
    root = _root()
    there = next(path for path in (root, *root.parents) if os.path.exists(path))  # False where it may not be seen
    return None if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else root


def _root() -> Path:
    for variable in ("VOICESPOOL_CACHE", "CACHE_DIRECTORY"):
        if given := os.environ.get(variable, "").partition(":")[0]:
            return Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "voicespool"
