"""A result being assembled. Its files are created in its folder, so the kernel sets their group and ACL."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from files.durable import copy_slices, do_nothing, start_writing, sync_and_close, write_all
from files.open_folder import OpenFolder, named
from files.opens import opened_regular


@dataclass(frozen=True, slots=True)
class Assembly:
    """A result folder that is not published yet.

    Attributes:
        permit: Sets the configured group and mode of a new file, given its descriptor.
    """

    folder: OpenFolder
    permit: Callable[[int], None]
    _fds: list[int] = field(default_factory=list)

    def write(self, name: str, data: bytes) -> None:
        """Create a file with this content."""
        with self._created(name) as fd:
            write_all(fd, data)

    def copy(self, source: Path, name: str, after_slice: Callable[[], None] = do_nothing) -> None:
        """Copy a regular file in slices; calls `after_slice` after each.

        Raises:
            OSError: ENOSPC, before anything is written, if there is not enough free space; ELOOP or EINVAL if `source`
                is not a regular file; else the error of the system.
        """
        with opened_regular(source) as (fd, status), self._created(name) as made:
            disk = os.fstatvfs(made)
            # Some file systems report 0 blocks in all: their free space is unknown.
            if disk.f_blocks and disk.f_bfree * disk.f_frsize < status.st_size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            copy_slices(fd, made, status.st_size, after_slice)

    def sync(self) -> None:
        """Force the files and their names to disk, and close them."""
        with named(self.folder.path):
            sync_and_close(self._taken())
            self.folder.sync()

    def close(self) -> None:
        """Close the folder, and the files that were not forced to disk."""
        for fd in [*self._taken(), self.folder.fd]:
            with contextlib.suppress(OSError):  # a network file system may only now say that there is no space
                os.close(fd)

    def _taken(self) -> list[int]:
        fds = list(self._fds)
        self._fds.clear()
        return fds

    @contextlib.contextmanager
    def _created(self, name: str) -> Iterator[int]:
        fd = self.folder.create(name)
        self._fds.append(fd)
        with named(self.folder.path, name):
            self.permit(fd)
            yield fd
            start_writing(fd)
