"""Dropping files into the inbox the way every client should: complete at once, and never over another one."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from pathlib import Path

from jobs import names
from jobs.errors import Hold, printable
from jobs.files import fsync, rename_to_free_name, write_new
from watcher.ignored import CANCEL_SUFFIX, is_job_name, is_walked

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NOT_OFFERED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def checked_name(name: str) -> str:
    """Check the name of a job's file, its path in the inbox without extension, which is taken off.

    Raises:
        ValueError: with a sentence, when no job can have this name.
    """
    name = names.checked_name(name)
    *folders, last = name.split("/")
    if not all(map(is_walked, folders)) or not is_job_name(f"{last}.yaml"):
        raise ValueError(f"the spool leaves files of this name alone: {printable(name)}")
    return name


def drop(inbox: Path, name: str, suffix: str, data: bytes, *, only: bool = False) -> str:
    """Put a file into the inbox. It appears complete, by one rename, and overwrites nothing.

    Args:
        inbox: The inbox.
        name: From `checked_name`; folders in it are made.
        suffix: With its dot.
        data: All of it.
        only: Do not look for a free name.

    Returns:
        Its path in the inbox; `-2`, `-3`, … follow the name when it was taken.

    Raises:
        FileExistsError: the name is taken, and `only` was given.
        Hold: the inbox is not there, can't be written, or a folder of the name leads out of it.
    """
    if not inbox.is_dir():
        raise Hold(
            f"the inbox {printable(inbox)} is not there",
            "Start `voicespool run` once, or check `inbox` in config.yaml and that its share is mounted.",
        )
    folder = (inbox / name).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not folder.resolve().is_relative_to(inbox.resolve()):
            raise Hold(f"{printable(folder)} leads out of the inbox", "Choose another name.")
        return _placed(inbox, name, suffix, data, only)
    except FileExistsError:
        raise
    except OSError as error:
        raise Hold(
            f"the inbox {printable(inbox)} can't be written: {error.strerror}",
            "Let this user write there, or submit as one who may.",
        ) from None


def _placed(inbox: Path, name: str, suffix: str, data: bytes, only: bool) -> str:
    scratch = (inbox / name).with_name(f".voicespool-{secrets.token_hex(8)}")
    try:
        write_new(scratch, data, 0o666)
        number = 1
        while True:
            source = f"{name}-{number}{suffix}" if number > 1 else f"{name}{suffix}"
            if _renamed(scratch, inbox / source):
                fsync(scratch.parent)
                return source
            if only:
                raise FileExistsError(errno.EEXIST, "is there already", source)
            number += 1
    finally:
        scratch.unlink(missing_ok=True)


def _renamed(scratch: Path, target: Path) -> bool:
    """Rename unless the name is taken. What came by a rename is ready at once; a hard link has to be watched."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return _linked(scratch, target)
    paths = (_AT_FDCWD, os.fsencode(scratch), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if renameat2(*paths) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    if number in _NOT_OFFERED:
        return _linked(scratch, target)
    raise OSError(number, os.strerror(number), str(target))


def _linked(scratch: Path, target: Path) -> bool:
    folder_fd = os.open(target.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return rename_to_free_name(scratch, target.name, folder_fd)
    finally:
        os.close(folder_fd)


def cancel(inbox: Path, name: str) -> None:
    """Ask for all jobs of this name that exist now to be cancelled. The daemon takes the file away.

    Raises:
        Hold: as in `drop`.
    """
    try:
        drop(inbox, name, CANCEL_SUFFIX, b"", only=True)
    except FileExistsError:
        return
