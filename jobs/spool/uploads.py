"""Recordings that `voicespool submit` uploads for one job, in a hidden folder next to the job file.

    inbox/radio/hello.yaml                                    speaker_wav: [".voicespool-upload-5f…/ana.wav"]
    inbox/radio/.voicespool-upload-5f…/ana.wav, ana.txt

The job names them by that path, so submitting works over a share too. After the daemon has claimed the job and copied
the recordings, it removes the folder. Its name has a random part that others can't guess, so no job can make the daemon
remove other people's files.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from files.opens import opened_folder
from jobs.spool.claim import Claim

_FOLDER = re.compile(r"\.voicespool-upload-[0-9a-f]{32}")


def new_folder() -> str:
    """A random name for the upload folder of one job."""
    return f".voicespool-upload-{secrets.token_hex(16)}"


def folder_of(recording: str) -> str | None:
    """The upload folder in the path of a recording; None for any other path."""
    parts = PurePosixPath(recording).parts
    return parts[0] if len(parts) == 2 and _FOLDER.fullmatch(parts[0]) else None


def named_in(job_file: bytes) -> set[str]:
    """The upload folders that occur in a job file."""
    return set(_FOLDER.findall(job_file.decode("utf-8", errors="replace")))


def remove(inbox: Path, claim: Claim, recordings: Iterable[str]) -> None:
    """Remove the upload folders of a claimed job; it must be the only job in its file.

    Only folders of the job file's owner are removed. Errors are ignored: the job has its own copies.
    """
    with contextlib.suppress(OSError), opened_folder(inbox, claim.source) as (parent, _name):
        owner = os.lstat(claim.folder.original).st_uid
        for recording in recordings:
            if (folder := folder_of(recording)) is not None:
                with contextlib.suppress(OSError):
                    _remove(folder, PurePosixPath(recording).name, parent, owner)


def _remove(folder: str, recording: str, parent: int, owner: int) -> None:
    """Remove a recording and its transcript, then the folder if it is empty."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if os.fstat(fd).st_uid != owner:
            return
        for name in (recording, str(PurePosixPath(recording).with_suffix(".txt"))):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(folder, dir_fd=parent)
