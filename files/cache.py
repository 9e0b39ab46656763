"""The cache folder: latents of recordings, digests of checkpoints. Everything in it can be computed again."""

from __future__ import annotations

import os
from pathlib import Path

CURE = (
    "Set VOICESPOOL_CACHE to a folder that the spool's user can write to (in a systemd unit also CacheDirectory=, or "
    "ReadWritePaths=). Without it, each worker computes voices and digests of checkpoints again."
)


def folder(name: str) -> Path | None:
    """The cache subfolder of this name, created if it is missing.

    `$VOICESPOOL_CACHE`, else systemd's `$CACHE_DIRECTORY`, else `voicespool` in `$XDG_CACHE_HOME` or `~/.cache`.

    Returns:
        None if it can't be created or written; then nothing is cached.
    """
    path = _root() / name
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return path if os.access(path, os.W_OK | os.X_OK) else None


def unusable() -> Path | None:
    """The cache folder if it can't be written, or can't be created; else None."""
    root = _root()
    # os.path.exists, not Path.exists: it returns False, instead of raising, for a path inside an unreadable folder.
    nearest = next(path for path in (root, *root.parents) if os.path.exists(path))
    return None if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK) else root


def _root() -> Path:
    for variable in ("VOICESPOOL_CACHE", "CACHE_DIRECTORY"):
        if value := os.environ.get(variable, "").partition(":")[0]:  # systemd joins several folders with ":"
            return Path(value)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "voicespool"
