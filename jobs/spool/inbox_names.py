"""Decides by name which files in an inbox are job files, and why the others are ignored."""

from __future__ import annotations

import re

from jobs import names

JOB_SUFFIXES = names.JOB_SUFFIXES
CANCEL_SUFFIX = ".cancel"
PAUSE = "PAUSE"
NEVER_A_JOB = "defaults.yaml"

_FOLDERS = re.compile(
    r"\.|@eaDir$|#recycle$|#snapshot$|lost\+found$|\$RECYCLE\.BIN$|System Volume Information$", re.IGNORECASE
)

_LEFTOVERS = (
    (r"^\.", "a hidden file"),
    (r"^#.*#$", "an editor's autosave"),
    (r"^~\$", "an office program's lock file"),
    (r"\.sync-conflict-", "a conflict copy of Syncthing"),
    (r"_conflict-", "a conflict copy of Nextcloud"),
    (r"\(?conflicted copy", "a conflict copy of Dropbox or Nextcloud"),
    (r"___jb_(old|tmp|bak)___$", "a scratch file of a JetBrains editor"),
    (r"^4913$", "a scratch file of Vim"),
    (r"^~syncthing~.*\.tmp$", "a transfer of Syncthing in progress"),
    (r"\.ocTransferId", "a transfer of Nextcloud in progress"),
    (r"\.(partial|part|filepart|crdownload|tmp|lftp-pget-status)$", "a transfer in progress"),
    (r"~$", "an editor's backup"),
    (r"(?i:^(Thumbs\.db|desktop\.ini)$)", "a system's own file"),
    (r":Zone\.Identifier$", "a system's own file"),
)
_ANY_LEFTOVER = re.compile("|".join(f"(?:{pattern})" for pattern, _reason in _LEFTOVERS), re.DOTALL)


def is_walked(folder_name: str) -> bool:
    """Whether a folder of this name is searched for job files."""
    return _FOLDERS.match(folder_name) is None


def is_job_name(name: str) -> bool:
    """Whether a file of this name is a job file: it has the extension of one, and is no leftover of a program."""
    return name.lower().endswith(JOB_SUFFIXES) and why_ignored(name) is None


def is_cancel_name(name: str) -> bool:
    """Whether a file of this name is a request to cancel jobs."""
    return name.endswith(CANCEL_SUFFIX) and not name.startswith(".")


def why_ignored(name: str) -> str | None:
    """Why a file is ignored; None for a job file."""
    if _ANY_LEFTOVER.search(name):  # one search for almost all names
        return next(reason for pattern, reason in _LEFTOVERS if re.search(pattern, name, re.DOTALL))
    if name.lower() == NEVER_A_JOB:
        return "defaults.yaml is never a job"
    if not name.lower().endswith(JOB_SUFFIXES):
        return "not a job file (.yaml, .yml or .json)"
    return None
