"""The folders of a configuration, made at the first start."""

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

OUTBOX_MEMORY = "outbox.json"  # in the state folder: which outbox it was


def prepare(config: Config) -> State:
    """Make the folders that were never there, and check that a claim is one rename. For the daemon's start.

    The outbox is left alone when the state remembers one: then it was there before, and is away.

    Returns:
        The state folder, opened; the caller closes it.

    Raises:
        ConfigError: a folder was never there and can't be made, is a file, the state folder is not the spool's own,
            or is on another file system than the inbox.
        Hold: a folder that is there can't be read or written, or the disk is full or broken.
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
    """Say how others could exchange the state folder for one of theirs; "" when they can't."""
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
    """Whether a group is this user's alone, as many systems make one for each user, with umask 002."""
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
    """Raise ConfigError when a file can't be renamed from the inbox into the state folder: two file systems, or one
    that is mounted twice, as two volumes of a container are, or two folders in `ReadWritePaths=` of a unit.
    """
    if _mounted(config.inbox) != _mounted(config.state_dir):
        raise ConfigError(
            f"state_dir: {printable(config.state_dir)} is not on the file system of the inbox "
            f"{printable(config.inbox)}, so that a claim can't be one rename",
            "Remove state_dir, or name a folder on the file system of the inbox. In a container, and in "
            "ReadWritePaths= of a unit, name the folder that contains both.",
        )


def _mounted(folder: Path) -> tuple[int, str]:
    """The file system of a folder, and the number of its mount where the system has one."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.fstat(fd).st_dev, mount_of(fd)
    finally:
        os.close(fd)


def _make(key: str, folder: Path, mode: int = 0o777) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{key}: {printable(folder)} is a file, not a folder", "Name a folder.") from None
    except OSError as error:
        refused = key == "state_dir" and error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}
        if refused or error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}:
            raise _refused(key, folder, "written", error) from None
        raise ConfigError(
            f"{key}: {printable(folder)} is not there and can't be created: {error.strerror}",
            f"Create it by hand, or set {key} to another folder.",
        ) from None
    writable(key, folder)


def writable(key: str, folder: Path) -> None:
    """Raise Hold unless this user may read and write in a folder that is there."""
    for what, bits in (("written", os.W_OK | os.X_OK), ("read", os.R_OK)):
        if not os.access(folder, bits, effective_ids=True):
            code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
            raise _refused(key, folder, what, OSError(code, os.strerror(code)))


def _refused(key: str, folder: Path, what: str, error: OSError) -> Hold:
    cure = "Let the daemon's user read and write there, on a disk with space. Work resumes by itself."
    if error.errno == errno.EROFS:
        cure = (
            f"Mount it for writing. For a systemd service, add the folder that contains `{key}` to ReadWritePaths= of "
            "the unit. Work resumes by itself."
        )
    return Hold(f"{key}: {printable(folder)} can't be {what}: {error.strerror}", cure)


def _make_if_possible(folder: Path) -> None:
    """voices/ and models/ are only read: without them, a job that names something in them fails by name."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
