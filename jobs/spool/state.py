"""The spool's own folder, opened once and held: nobody who may rename it at its path can put another in its place.

All that lies in it is reached through the descriptor, as `/proc/self/fd/N/…`, which a worker that inherits it can use
too. Nobody else can write in it: that is checked before anything in it is used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from files.mounts import mount_of
from files.printable import printable, shell_word
from jobs.errors import ConfigError

FOLDER_MODE = 0o711
READABLE = frozenset({"status.json"})  # what people who may not write here may read; the rest is the daemon's alone


@dataclass(frozen=True, slots=True)
class State:
    """An opened state folder.

    Attributes:
        real: Its path, for people.
        fd: Its descriptor.
        mount: The number of the mount that it was opened on.
        path: Where it can be reached, whatever happens at its real path.
    """

    real: Path
    fd: int
    mount: str
    path: Path

    @classmethod
    def open(cls, real: Path) -> Self:
        """Open a state folder that is there.

        Raises:
            ConfigError: It, or something in it, is not the spool's own, or others can write it. Nothing was changed.
            OSError: It is not there, or can't be opened.
        """
        fd, found = _opened(real)
        _close_to_others(fd, found)
        return cls(real, fd, mount_of(fd), Path(f"/proc/self/fd/{fd}"))

    def is_in_place(self) -> bool:
        """Whether it is still the one at its path, and on the same mount, without which no claim is one rename.

        Raises:
            OSError: The file system does not say.
        """
        try:
            there = os.open(self.real, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            return os.path.samestat(os.fstat(there), os.fstat(self.fd)) and mount_of(there) == self.mount
        finally:
            os.close(there)

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check(real: Path) -> None:
    """Raise as `State.open` does; change nothing at all."""
    os.close(_opened(real)[0])


def _opened(real: Path) -> tuple[int, dict[str, os.stat_result]]:
    """A state folder's descriptor, and what is in it."""
    try:
        fd = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        raise _refused(real, "is not a folder, or is a link to one", f"mv {shell_word(real)} ELSEWHERE") from None
    try:
        _check(real, os.fstat(fd))
        found = {}
        with os.scandir(fd) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # a running daemon renames what it has written
                    found[entry.name] = entry.stat(follow_symlinks=False)
        for name, status in found.items():
            _check(real / name, status)
    except BaseException:
        os.close(fd)
        raise
    return fd, found


def _check(path: Path, status: os.stat_result) -> None:
    """Raise ConfigError unless a thing is a real folder or file of this user, and of nobody else."""
    is_folder = stat.S_ISDIR(status.st_mode)
    if not is_folder and not stat.S_ISREG(status.st_mode):
        raise _refused(path, "is a link or a special file", f"rm {shell_word(path)}")
    if status.st_uid != os.geteuid():
        owner, user = user_name(status.st_uid), user_name(os.geteuid())
        cure = f"chown -R {user} {shell_word(path)}"
        if os.geteuid() == 0:  # root has most likely taken the daemon's place by mistake
            cure = (
                f"run the command as that user (runuser -u {owner} -- voicespool ...), or, if it is root's now: {cure}"
            )
        raise _refused(path, f"belongs to {owner}, and the spool runs as {user}", cure)
    if status.st_mode & 0o022:
        raise _refused(path, "can be written by others", f"chmod go-w {shell_word(path)}")
    if not is_folder and status.st_nlink > 1:
        raise _refused(path, "has another name, by a hard link", f"rm {shell_word(path)}")


def _refused(path: Path, why: str, cure: str) -> ConfigError:
    return ConfigError(
        f"state_dir: {printable(path)} {why}; nothing was touched",
        f"Find out who put it there. If it is the spool's own, or not wanted: {cure}",
    )


def user_name(uid: int) -> str:
    """A user's name, or the number where it has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _close_to_others(fd: int, found: dict[str, os.stat_result]) -> None:
    """Take away what an older version let everybody read. Some shares have no permissions to change."""
    with contextlib.suppress(OSError):
        if (mode := stat.S_IMODE(os.fstat(fd).st_mode)) & 0o066:
            os.fchmod(fd, mode & ~0o066)
    for name, status in found.items():
        if status.st_mode & 0o077 and name not in READABLE:
            with contextlib.suppress(OSError):
                os.chmod(name, stat.S_IMODE(status.st_mode) & ~0o077, dir_fd=fd)
