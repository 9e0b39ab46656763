"""The state folder, opened once and held open, so that replacing it at its path has no effect on the daemon.

Its content is accessed through the descriptor, as `/proc/self/fd/N/…`; a worker inherits the descriptor. Before use,
the folder is checked: only the daemon's user may write to it.
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
READABLE = frozenset({"status.json"})  # other users may read these files; all others are private


@dataclass(frozen=True, slots=True)
class State:
    """An opened state folder.

    Attributes:
        real: Its path, for messages.
        fd: Its descriptor.
        mount: ID of the mount that it was opened on.
        path: Its path through the descriptor; valid even if the folder is renamed.
    """

    real: Path
    fd: int
    mount: str
    path: Path

    @classmethod
    def open(cls, real: Path) -> Self:
        """Open an existing state folder.

        Raises:
            ConfigError: The folder, or an entry of it, belongs to another user, or others can write to it. Nothing was
                changed.
            OSError: The folder is missing, or can't be opened.
        """
        fd, entries = _opened(real)
        _make_private(fd, entries)
        return cls(real, fd, mount_of(fd), Path(f"/proc/self/fd/{fd}"))

    def is_in_place(self) -> bool:
        """Whether its path still leads to this folder, on the same mount; a rename across mounts would fail.

        Raises:
            OSError: The path can't be checked.
        """
        try:
            current = os.open(self.real, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            return os.path.samestat(os.fstat(current), os.fstat(self.fd)) and mount_of(current) == self.mount
        finally:
            os.close(current)

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check(real: Path) -> None:
    """Check a state folder without changing it; raises as `State.open`."""
    os.close(_opened(real)[0])


def _opened(real: Path) -> tuple[int, dict[str, os.stat_result]]:
    """Open and check a state folder. Returns its descriptor and the status of its entries."""
    try:
        fd = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        raise _refused(real, "is not a folder, or is a link", f"mv {shell_word(real)} ELSEWHERE") from None
    try:
        _check(real, os.fstat(fd))
        entries = {}
        with os.scandir(fd) as listing:
            for entry in listing:
                with contextlib.suppress(FileNotFoundError):  # a running daemon renames files here
                    entries[entry.name] = entry.stat(follow_symlinks=False)
        for name, status in entries.items():
            _check(real / name, status)
    except BaseException:
        os.close(fd)
        raise
    return fd, entries


def _check(path: Path, status: os.stat_result) -> None:
    """Raise ConfigError unless the entry is a folder or regular file that only this user can write to."""
    is_folder = stat.S_ISDIR(status.st_mode)
    if not is_folder and not stat.S_ISREG(status.st_mode):
        raise _refused(path, "is a link or a special file", f"rm {shell_word(path)}")
    if status.st_uid != os.geteuid():
        owner, user = user_name(status.st_uid), user_name(os.geteuid())
        cure = f"chown -R {user} {shell_word(path)}"
        if os.geteuid() == 0:  # probably the command was run as root by mistake
            cure = f"run the command as that user (runuser -u {owner} -- voicespool ...). To give it to root: {cure}"
        raise _refused(path, f"belongs to {owner}, and the spool runs as {user}", cure)
    if status.st_mode & 0o022:
        raise _refused(path, "can be written by others", f"chmod go-w {shell_word(path)}")
    if not is_folder and status.st_nlink > 1:
        raise _refused(path, "has several hard links", f"rm {shell_word(path)}")


def _refused(path: Path, why: str, cure: str) -> ConfigError:
    return ConfigError(
        f"state_dir: {printable(path)} {why}; nothing was changed",
        f"Find out who created it. If it belongs to the spool, or is not needed: {cure}",
    )


def user_name(uid: int) -> str:
    """The name of a user, or its number if it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _make_private(fd: int, entries: dict[str, os.stat_result]) -> None:
    """Remove permissions that an older version gave to others. Errors are ignored: some shares have none."""
    with contextlib.suppress(OSError):
        if (mode := stat.S_IMODE(os.fstat(fd).st_mode)) & 0o066:
            os.fchmod(fd, mode & ~0o066)
    for name, status in entries.items():
        if status.st_mode & 0o077 and name not in READABLE:
            with contextlib.suppress(OSError):
                os.chmod(name, stat.S_IMODE(status.st_mode) & ~0o077, dir_fd=fd)
