"""Why a file in the inbox is held, with the command that frees it."""

from __future__ import annotations

import errno
import grp
import os
import stat
from pathlib import Path

from files.printable import shell_word


def reason(what: str, inbox: Path, source: str, error: OSError) -> str:
    """A sentence about what the file system refused.

    Args:
        what: What failed, such as "it can't be read".
        source: Path of the file in the inbox, or of a folder, which ends with `/`.
    """
    sentence = f"{what}: {error.strerror}"
    if error.errno not in {errno.EACCES, errno.EPERM}:
        return sentence
    try:
        command = _command(inbox, source)
    except OSError:  # it is gone meanwhile
        command = ""
    return f"{sentence}; to free it: {command}" if command else sentence


def _command(inbox: Path, source: str) -> str:
    """The command for the first folder or file on the path whose mode refuses access; "" if no mode does."""
    parts = source.rstrip("/").split("/")
    folders = parts if source.endswith("/") else parts[:-1]
    path = inbox
    for name in folders:
        path /= name
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            return _grant("rwx", path)
    if source.endswith("/"):
        return ""
    file = path / parts[-1]
    if not os.access(file, os.R_OK, effective_ids=True, follow_symlinks=False):
        return f"chmod a+r {shell_word(file)}"
    if _is_kept_by_sticky(path, file):
        return f"chmod -t {shell_word(path)}"
    return ""


def _grant(rights: str, folder: Path) -> str:
    """The command with which its owner lets the daemon's user into a folder."""
    status, groups = os.lstat(folder), {os.getegid(), *os.getgroups()}
    if status.st_uid == os.geteuid():
        return f"chmod u+{rights} {shell_word(folder)}"
    if status.st_gid in groups:
        return f"chmod g+{rights} {shell_word(folder)}"
    return f"chgrp {_group_name(os.getegid())} {shell_word(folder)} && chmod g+{rights} {shell_word(folder)}"


def _is_kept_by_sticky(folder: Path, file: Path) -> bool:
    """Whether only another user may move a file out of a sticky folder."""
    status = os.lstat(folder)
    owners = {status.st_uid, os.lstat(file).st_uid}
    return bool(status.st_mode & stat.S_ISVTX) and os.geteuid() not in owners


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
