"""A folder held open by its descriptor, so that links and renames of its path can't redirect what is done in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from files.durable import remove_tree

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class named:  # noqa: N801 - used like a function in `with`; a class is faster than a generator, and it runs a dozen times per job
    """Add the path to an OSError of a call that was given a descriptor, so that the message says where."""

    __slots__ = ("folder", "name")

    def __init__(self, folder: Path, name: str = "") -> None:
        self.folder, self.name = folder, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError) and (error.filename is None or not os.path.isabs(error.filename)):
            error.filename, error.filename2 = str(self.folder / self.name), None


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """An open folder; closed at the end of a `with`. Errors name the whole path.

    Attributes:
        path: Its path when it was opened, for messages. No system call uses it.
    """

    fd: int
    path: Path

    @classmethod
    def at(cls, path: Path) -> OpenFolder:
        """Open a folder by its path, which may contain links."""
        return cls(os.open(path, FOLDER), path)

    def below(self, name: str) -> OpenFolder:
        """Open a folder in this one.

        Raises:
            NotADirectoryError: The name is a link or a file.
        """
        with named(self.path, name):
            return OpenFolder(os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=self.fd), self.path / name)

    def __enter__(self) -> OpenFolder:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.fd)

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close the folder if the body of the `with` fails; otherwise it stays open."""
        try:
            yield
        except BaseException:
            os.close(self.fd)
            raise

    def has(self, name: str) -> bool:
        """Whether the folder has an entry of this name, a broken link included."""
        with named(self.path, name):
            try:
                os.lstat(name, dir_fd=self.fd)
            except FileNotFoundError:
                return False
        return True

    def names(self) -> list[str]:
        with named(self.path):
            return os.listdir(self.fd)

    def make(self, name: str, mode: int = 0o777) -> None:
        """Make a subfolder. The kernel applies the umask, and this folder's setgid group and default ACL."""
        with named(self.path, name):
            os.mkdir(name, mode, dir_fd=self.fd)

    def create(self, name: str, mode: int = 0o666) -> int:
        """Create a file. Returns its descriptor, open for writing."""
        with named(self.path, name):
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=self.fd)

    def move(self, name: str, into: OpenFolder, new_name: str) -> None:
        with named(into.path, new_name):
            os.rename(name, new_name, src_dir_fd=self.fd, dst_dir_fd=into.fd)

    def remove(self, name: str) -> None:
        """Remove a file, a link, or a folder with its content. Does nothing if it does not exist."""
        with named(self.path, name):
            remove_tree(name, dir_fd=self.fd)

    def sync(self) -> None:
        """Force the entries of this folder to disk."""
        with named(self.path):
            os.fsync(self.fd)
