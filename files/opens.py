"""Safe opening of untrusted files and folders: never follows a link, never blocks on a FIFO."""

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
NO_FOLLOW = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY


@contextlib.contextmanager
def opened_folder(root: Path, source: str) -> Iterator[tuple[int, str]]:
    """Open the folder of a file below `root` without following links below `root`.

    Args:
        source: Path of the file below `root`, `/` separated.

    Yields:
        The folder's descriptor (O_PATH: only for use as `dir_fd`), and the file's name in it.

    Raises:
        OSError: ENOTDIR if a folder on the way is a link or a file, else the error of the system.
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
    """List a folder below `root` without following links below `root`. `""` is `root` itself.

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
    """Open a regular file for reading. Never follows a link, blocks on a FIFO, or opens a device.

    Args:
        dir_fd: Descriptor of the folder that `path` is relative to, from `opened_folder`.

    Raises:
        OSError: ELOOP for a symbolic link, EINVAL for anything else but a regular file, else the error of the system.
    """
    # Opening some devices has side effects, so the type is checked before the open, and again after it.
    if not stat.S_ISREG(os.lstat(path, dir_fd=dir_fd).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    fd = os.open(path, NO_FOLLOW, dir_fd=dir_fd)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield fd, status
    finally:
        os.close(fd)


HARD_LINKED = "has other hard links, so it may be another user's file; put a copy here instead"


def maybe_foreign_link(status: os.stat_result, folder: os.stat_result) -> bool:
    """Whether a file may have been hard-linked into a folder by a user who may not read it.

    False if only the file's owner or this process's user can create entries in the folder.

    Args:
        status: Of the file.
        folder: Of its folder.
    """
    if status.st_nlink < 2:
        return False
    return bool(folder.st_mode & 0o022) or folder.st_uid not in {os.geteuid(), status.st_uid}


def content_of(status: os.stat_result) -> int:
    """A number that changes when a file is replaced or written: a hash of device, inode, size and mtime."""
    return hash((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


def read_at_most(fd: int, limit: int) -> bytes:
    """Read a file from its start, at most `limit` + 1 bytes; the extra byte shows that the file is longer."""
    parts, wanted, offset = [], limit + 1, 0
    while wanted > 0 and (part := os.pread(fd, min(wanted, BLOCK_BYTES), offset)):
        parts.append(part)
        offset += len(part)
        wanted -= len(part)
    return b"".join(parts)


def read_whole(path: str | Path) -> bytes:
    """Read a file of our own; never follows a link. Faster than `Path.read_bytes`, which asks the system four times."""
    fd = os.open(path, NO_FOLLOW)
    try:
        return read_at_most(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def is_being_written(fd: int) -> bool | None:
    """Whether any process has the file open for writing, found by requesting a read lease (fcntl(2)).

    Returns:
        None if the system grants no lease (network file systems, files of other users).
    """
    try:
        # A writer that opens the file during the lease triggers a signal; SIGURG is ignored by default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except (OSError, AttributeError):
        return None
    return False


def identity(status: os.stat_result) -> tuple[int, int, int, int, int]:
    """Changes when the file does: device, inode, size, mtime and ctime (ns)."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
