"""The folders of a configuration, made at the first start."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from jobs.errors import ConfigError, Hold, printable
from watcher.config import Config

OUTBOX_MEMORY = "outbox.json"  # in the state folder: which outbox it was


def prepare(config: Config) -> None:
    """Make the folders that were never there, and check that a claim is one rename. For the daemon's start.

    The outbox is left alone when the state remembers one: then it was there before, and is away.

    Raises:
        ConfigError: a folder was never there and can't be made, is a file, or the state folder lies on
            another file system than the inbox.
        Hold: a folder that is there can't be read or written, or the disk is full or broken.
    """
    _make("inbox", config.inbox)
    if not config.state_dir.exists():
        _make("state_dir", config.state_dir, mode=0o755)
    same_file_system(config)
    if not (config.state_dir / OUTBOX_MEMORY).exists():
        _make("outbox", config.outbox)
    for name in ("voices", "models"):
        _make_if_possible(getattr(config, name))


def same_file_system(config: Config) -> None:
    """Raise ConfigError when the state folder lies on another file system than the inbox."""
    if config.inbox.stat().st_dev != config.state_dir.stat().st_dev:
        raise ConfigError(
            f"state_dir: {printable(config.state_dir)} is not on the file system of the inbox "
            f"{printable(config.inbox)}, so that a claim can't be one rename",
            "Leave state_dir out, or name a folder on the inbox's file system.",
        )


def _make(key: str, folder: Path, mode: int = 0o777) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{key}: {printable(folder)} is a file, not a folder", "Name a folder.") from None
    except OSError as error:
        refused = key == "state_dir" and error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}
        if refused or error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}:
            raise _refused(key, folder, "written", error) from None
        raise ConfigError(
            f"{key}: {printable(folder)} is not there and can't be made: {error.strerror}",
            f"Make it by hand, or set {key} to another folder.",
        ) from None
    for what, bits in (("written", os.W_OK | os.X_OK), ("read", os.R_OK)):
        if not os.access(folder, bits):
            raise _refused(key, folder, what, OSError(errno.EACCES, os.strerror(errno.EACCES)))


def _refused(key: str, folder: Path, what: str, error: OSError) -> Hold:
    return Hold(
        f"{key}: {printable(folder)} can't be {what}: {error.strerror}",
        "Let the user that the spool runs as read and write there, on a disk with space; work goes on by itself.",
    )


def _make_if_possible(folder: Path) -> None:
    """voices/ and models/ are only read: without them, a job that names something in them fails by name."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
