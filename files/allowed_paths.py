"""Resolves paths that a job names, and checks that they are in the folders that jobs may use."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from files.opens import opened_regular
from files.printable import printable


class NotAllowed(Exception):
    """A job names a file that it may not use; the message is for the author of the job."""


def outside_message(name: str) -> str:
    return (
        f"{printable(name)} is outside the spool's folders; the operator can allow its folder with "
        "`allowed_roots` in config.yaml"
    )


def resolved(path: Path) -> tuple[Path, bool]:
    """The real path of a file, and whether it is a regular file. The kernel follows up to 40 links.

    Raises:
        OSError: ENOENT, ELOOP and the like.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)  # O_PATH: resolves the path without opening the file
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}")), stat.S_ISREG(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def check_place(name: str, real: Path, roots: Iterable[Path]) -> None:
    """Raise NotAllowed unless `real`, the resolved path of `name`, is in one of the folders."""
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise NotAllowed(outside_message(name))


@contextlib.contextmanager
def opened_in_place(real: Path) -> Iterator[tuple[int, os.stat_result, os.stat_result]]:
    """Open a file by its resolved path, and check that no folder on the way was replaced by a link since.

    Yields:
        Its descriptor, its status, and the status of its folder.

    Raises:
        NotAllowed: The path now resolves to another file.
        OSError: As `opened_regular`.
    """
    folder = os.open(real.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with opened_regular(real.name, folder) as (fd, status):
            if Path(os.readlink(f"/proc/self/fd/{fd}")) != real:
                raise NotAllowed(f"{printable(real.name)} was moved while it was being read")
            yield fd, status, os.fstat(folder)
    finally:
        os.close(folder)
