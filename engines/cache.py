"""Where voicespool keeps what it could make again: latents of recordings, digests of checkpoints."""

from __future__ import annotations

import os
from pathlib import Path


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


def _root() -> Path:
    for variable in ("VOICESPOOL_CACHE", "CACHE_DIRECTORY"):
        if given := os.environ.get(variable, "").partition(":")[0]:
            return Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "voicespool"
