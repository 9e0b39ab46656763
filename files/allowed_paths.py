"""Paths that a job names: what they lead to, and whether it lies in a folder that a job may name."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from files.opens import opened_regular
from files.printable import printable


class NotAllowed(Exception):
    """A job names a file that it may not have; the text is a sentence for its author."""


def leads_out(name: str) -> str:
    return (
        f"{printable(name)} leads out of the spool's folders; the operator can allow its folder with "
        "`allowed_roots` in config.yaml"
    )


def looked_up(path: Path) -> tuple[Path, bool]:
    """The real path of a file, and whether it is a regular one. The kernel follows the links, at most forty of them.

    Raises:
        OSError: ENOENT, ELOOP and the like.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}")), stat.S_ISREG(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def check_place(name: str, real: Path, roots: Iterable[Path]) -> None:
    """Raise NotAllowed unless the real path that a name leads to lies in one of the folders."""
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise NotAllowed(leads_out(name))


@contextlib.contextmanager
def opened_in_place(real: Path) -> Iterator[tuple[int, os.stat_result, os.stat_result]]:
    """Open a file by its real path, unless a folder on the way was replaced by a link since that was found.

    Yields:
        Its descriptor, its state, and that of the folder it was opened in.

    Raises:
        NotAllowed: It was.
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
