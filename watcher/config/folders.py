"""Creates and checks the folders of a configuration."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from pathlib import Path

from files.mounts import mount_of
from files.printable import printable
from jobs.errors import ConfigError, Hold
from jobs.spool.state import FOLDER_MODE, State
from watcher.config.settings import Config

OUTBOX_MEMORY = "outbox.json"  # in the state folder: which outbox was used


def prepare(config: Config) -> State:
    """Create the folders at the daemon's start, and check that a claim is one rename.

    The outbox is not created if the state folder has a record of one: it existed before, and is gone now.

    Returns:
        The open state folder; the caller closes it.

    Raises:
        ConfigError: A folder can't be created or is a file; or the state folder is not the spool's own, or is on
            another file system than the inbox.
        Hold: An existing folder can't be read or written, or the disk is full or broken.
    """
    _make("inbox", config.inbox)
    if not os.path.lexists(config.state_dir):
        _make("state_dir", config.state_dir, FOLDER_MODE)
    state = State.open(config.state_dir)
    try:
        writable("state_dir", config.state_dir)
        same_file_system(config)
        if not (state.path / OUTBOX_MEMORY).exists():
            _make("outbox", config.outbox)
    except BaseException:
        state.close()
        raise
    for name in ("voices", "models"):
        _make_if_possible(getattr(config, name))
    return state


def exposed(config: Config) -> str:
    """How other users could replace the state folder; "" if they can't."""
    above = config.state_dir.parent
    status = above.stat()
    shown = printable(above)
    others = 0o002 if _is_own_group(status.st_gid) else 0o022
    if status.st_mode & others and not status.st_mode & stat.S_ISVTX:
        return f"other users may write in {shown}, which is not sticky: they can rename the state folder"
    if status.st_uid not in {0, os.geteuid()}:
        return f"{shown} belongs to another user, who can rename the state folder"
    return ""


def _is_own_group(gid: int) -> bool:
    """Whether a group has only this user. Many systems create such a group for each user, with umask 002."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


EXPOSED_CURE = (
    "Set `state_dir` in config.yaml to a folder next to the inbox, or make the daemon's user the owner of the inbox "
    "and `chmod +t` it; see docs/OPERATIONS.md."
)


def same_file_system(config: Config) -> None:
    """Raise ConfigError if a file can't be renamed from the inbox into the state folder.

    They may be on two file systems, or on two mounts of one, such as two volumes of a container or two folders in a
    unit's `ReadWritePaths=`.
    """
    if _mounted(config.inbox) != _mounted(config.state_dir):
        raise ConfigError(
            f"state_dir: {printable(config.state_dir)} is not on the file system of the inbox "
            f"{printable(config.inbox)}, so job files can't be claimed by renaming them",
            "Remove state_dir, or set it to a folder on the file system of the inbox. In a container, mount the folder "
            "that contains both; for a systemd service, add that folder to ReadWritePaths=.",
        )


def _mounted(folder: Path) -> tuple[int, str]:
    """Device number of a folder's file system, and the id of its mount if the system has one."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.fstat(fd).st_dev, mount_of(fd)
    finally:
        os.close(fd)


def _make(key: str, folder: Path, mode: int = 0o777) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(
            f"{key}: {printable(folder)} is a file, not a folder", f"Set {key} to a folder in config.yaml."
        ) from None
    except OSError as error:
        refused = key == "state_dir" and error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}
        if refused or error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}:
            raise _refused(key, folder, "written", error) from None
        raise ConfigError(
            f"{key}: {printable(folder)} does not exist and can't be created: {error.strerror}",
            f"Create it by hand, or set {key} to another folder.",
        ) from None
    writable(key, folder)


def writable(key: str, folder: Path) -> None:
    """Raise Hold unless this user may read and write in an existing folder."""
    for what, bits in (("written", os.W_OK | os.X_OK), ("read", os.R_OK)):
        if not os.access(folder, bits, effective_ids=True):
            code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
            raise _refused(key, folder, what, OSError(code, os.strerror(code)))


def _refused(key: str, folder: Path, what: str, error: OSError) -> Hold:
    hint = "Let the daemon's user read and write there, on a disk with space. Work resumes by itself."
    if error.errno == errno.EROFS:
        hint = (
            f"Mount it for writing. For a systemd service, add the folder that contains `{key}` to ReadWritePaths= of "
            "the unit. Work resumes by itself."
        )
    return Hold(f"{key}: {printable(folder)} can't be {what}: {error.strerror}", hint)


def _make_if_possible(folder: Path) -> None:
    """For voices/ and models/, which are only read: without them, only jobs that use them fail."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
