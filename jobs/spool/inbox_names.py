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
    (re.compile(r"^\."), "a hidden file"),
    (re.compile(r"(?s)^#.*#$"), "an editor's autosave"),
    (re.compile(r"^~\$"), "an office program's lock file"),
    (re.compile(r"\.sync-conflict-"), "a conflict copy of Syncthing"),
    (re.compile(r"_conflict-"), "a conflict copy of Nextcloud"),
    (re.compile(r"\(?conflicted copy"), "a conflict copy of Dropbox or Nextcloud"),
    (re.compile(r"___jb_(old|tmp|bak)___$"), "a scratch file of a JetBrains editor"),
    (re.compile(r"^4913$"), "a scratch file of Vim"),
    (re.compile(r"(?s)^~syncthing~.*\.tmp$"), "a transfer of Syncthing in progress"),
    (re.compile(r"\.ocTransferId"), "a transfer of Nextcloud in progress"),
    (re.compile(r"\.(partial|part|filepart|crdownload|tmp|lftp-pget-status)$"), "a transfer in progress"),
    (re.compile(r"~$"), "an editor's backup"),
    (re.compile(r"^(Thumbs\.db|desktop\.ini)$", re.IGNORECASE), "a system's own file"),
    (re.compile(r":Zone\.Identifier$"), "a system's own file"),
)


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
    for pattern, reason in _LEFTOVERS:
        if pattern.search(name):
            return reason
    if name.lower() == NEVER_A_JOB:
        return "defaults.yaml is never a job"
    if not name.lower().endswith(JOB_SUFFIXES):
        return "not a job file (.yaml, .yml or .json)"
    return None
