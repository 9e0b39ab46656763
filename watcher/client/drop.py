"""Dropping files into the inbox: complete at once, without overwriting another file."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from files.durable import fsync, rename_to_free_name
from files.printable import printable
from jobs import names
from jobs.errors import Hold
from jobs.spool.inbox_names import CANCEL_SUFFIX, is_job_name, is_walked


def checked_name(name: str) -> str:
    """Check the name of a job's file, its path in the inbox without extension, which is taken off.

    Raises:
        ValueError: with a sentence, when no job can have this name.
    """
    name = names.checked_name(name)
    *folders, last = name.split("/")
    if not all(map(is_walked, folders)) or not is_job_name(f"{last}.yaml"):
        raise ValueError(f"the daemon ignores files of this name: {printable(name)}")
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
            "Start `voicespool run` once, or check `inbox` in config.yaml and whether its share is mounted.",
        )
    folder = (inbox / name).parent
    try:
        _made(folder, inbox)
        if not folder.resolve().is_relative_to(inbox.resolve()):
            raise Hold(f"{printable(folder)} leads out of the inbox", "Choose another name.")
        return _placed(inbox, name, suffix, data, only)
    except FileExistsError:
        raise
    except OSError as error:
        raise Hold(
            f"the folder {printable(folder)} can't be written: {error.strerror}",
            "Let this user write there, or run this as a user who may.",
        ) from None


def _made(folder: Path, inbox: Path) -> None:
    """Make the folders that are missing, each with the mode of the one that it is in: who may take files out of that
    one may do so here too. The sticky bit is left out, which would allow that to their owner alone.
    """
    if folder == inbox:
        return
    _made(folder.parent, inbox)
    try:
        folder.mkdir()
    except FileExistsError:
        return
    if not _has_default_acl(folder.parent):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _permit(fd, stat.S_IMODE(os.stat(folder.parent).st_mode) & ~stat.S_ISVTX)
        finally:
            os.close(fd)


def _has_default_acl(folder: Path) -> bool:
    """Whether a folder has a default ACL, which decides the permissions of new files instead of the umask."""
    try:
        return bool(os.getxattr(folder, "system.posix_acl_default"))
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    """Write a new file that everybody may read who may list its folder, so that the spool can too."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        if not _has_default_acl(path.parent):
            _permit(fd, stat.S_IMODE(os.fstat(fd).st_mode) | os.stat(path.parent).st_mode & 0o444)
        os.fsync(fd)


def _permit(fd: int, mode: int) -> None:
    """Set the mode of something that was just made here. Some shares have no modes of their own."""
    if os.fstat(fd).st_uid == os.geteuid():
        with contextlib.suppress(OSError):
            os.fchmod(fd, mode)


def _placed(inbox: Path, name: str, suffix: str, data: bytes, only: bool) -> str:
    scratch = (inbox / name).with_name(f".voicespool-{secrets.token_hex(8)}")
    try:
        _write(scratch, data)
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
