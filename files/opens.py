"""Files and folders of strangers, opened without a surprise: no link is followed, no pipe waited for."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

BLOCK_BYTES = 1 << 20


NEVER_A_LINK = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY


@contextlib.contextmanager
def opened_folder(root: Path, source: str) -> Iterator[tuple[int, str]]:
    """Open the folder that a file lies in, so that no link on the way below `root` can lead out of it.

    Args:
        source: Path of the file below `root`, `/` separated.

    Yields:
        The folder's descriptor, good as `dir_fd` alone, and the file's name in it.

    Raises:
        OSError: ENOTDIR for a link or a file where a folder should be, else the system's own.
    """
    *folders, name = source.split("/")
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd, name
    finally:
        os.close(fd)


@contextlib.contextmanager
def listed(root: Path, source: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """List a folder below `root`, entry by entry; no link on the way is followed. `""` is `root` itself.

    Raises:
        OSError: As `opened_folder`.
    """
    with contextlib.ExitStack() as stack:
        if source:
            parent, name = stack.enter_context(opened_folder(root, source))
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        else:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        yield stack.enter_context(os.scandir(fd))


@contextlib.contextmanager
def opened_regular(path: str | Path, dir_fd: int | None = None) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file for reading: no link is followed, no FIFO waited for, no device touched.

    Args:
        dir_fd: Of the folder that `path` starts in, from `opened_folder`.

    Raises:
        OSError: ELOOP for a symbolic link, EINVAL for what is not a regular file, else the system's own.
    """
    if not stat.S_ISREG(os.lstat(path, dir_fd=dir_fd).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    fd = os.open(path, NEVER_A_LINK, dir_fd=dir_fd)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield fd, status
    finally:
        os.close(fd)


OTHER_NAMES = "has other names (hard links) and may be somebody else's; put a copy here instead of a link"


def has_other_names(status: os.stat_result, folder: os.stat_result) -> bool:
    """Whether a file may be somebody else's, linked into a folder by one who may not read it.

    Not in a folder of its owner, or of ours, in which nobody else can make names.

    Args:
        status: Of the file.
        folder: Of the folder that it lies in.
    """
    if status.st_nlink < 2:
        return False
    return bool(folder.st_mode & 0o022) or folder.st_uid not in {os.geteuid(), status.st_uid}


def content_of(status: os.stat_result) -> int:
    """A number that changes when a file is replaced or written: of device, inode, size and mtime."""
    return hash((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


def read_at_most(fd: int, limit: int) -> bytes:
    """Read a file from its beginning; at most `limit` + 1 bytes, so that a longer file can be told."""
    parts, wanted, offset = [], limit + 1, 0
    while wanted > 0 and (part := os.pread(fd, min(wanted, BLOCK_BYTES), offset)):
        parts.append(part)
        offset += len(part)
        wanted -= len(part)
    return b"".join(parts)


def somebody_writes(fd: int) -> bool | None:
    """Tell whether anybody has the file open for writing, by asking for a read lease.

    Returns:
        True or False where the system answers; None where it grants no leases (network file systems, files of
        other users).
    """
    try:
        # A writer that comes while the lease is held raises a signal: one that is ignored by default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except (OSError, AttributeError):
        return None
    return False


def identity(status: os.stat_result) -> tuple[int, int, int, int, int]:
    """What changes when a file does: device, inode, size, and both of its times (ns)."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
