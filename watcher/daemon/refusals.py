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
        what: What could not be done, such as "it can't be read".
        inbox: The inbox.
        source: Path of the file in it, or of a folder, with a `/` at its end.
        error: What the system answered.
    """
    said = f"{what}: {error.strerror}"
    if error.errno not in {errno.EACCES, errno.EPERM}:
        return said
    try:
        cure = _cure(inbox, source)
    except OSError:  # it is gone meanwhile
        cure = ""
    return f"{said}; to free it: {cure}" if cure else said


def _cure(inbox: Path, source: str) -> str:
    """The command for the first thing on the way that refuses; "" when nothing does that modes decide about."""
    parts = source.rstrip("/").split("/")
    folders = parts if source.endswith("/") else parts[:-1]
    path = inbox
    for name in folders:
        path /= name
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            return _opened("rwx", path)
    if source.endswith("/"):
        return ""
    file = path / parts[-1]
    if not os.access(file, os.R_OK, effective_ids=True, follow_symlinks=False):
        return f"chmod a+r {shell_word(file)}"
    if _is_kept_by_sticky(path, file):
        return f"chmod -t {shell_word(path)}"
    return ""


def _opened(rights: str, folder: Path) -> str:
    """How its owner lets the spool's user into a folder."""
    status, groups = os.lstat(folder), {os.getegid(), *os.getgroups()}
    if status.st_uid == os.geteuid():
        return f"chmod u+{rights} {shell_word(folder)}"
    if status.st_gid in groups:
        return f"chmod g+{rights} {shell_word(folder)}"
    return f"chgrp {_group_name(os.getegid())} {shell_word(folder)} && chmod g+{rights} {shell_word(folder)}"


def _is_kept_by_sticky(folder: Path, file: Path) -> bool:
    """Whether only the owner of a file, or of its folder, may take it out: neither is the spool's user."""
    status = os.lstat(folder)
    owners = {status.st_uid, os.lstat(file).st_uid}
    return bool(status.st_mode & stat.S_ISVTX) and os.geteuid() not in owners


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
