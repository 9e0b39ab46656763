"""Recordings that `voicespool submit` brings for one job: in a hidden folder of their own next to it, and gone with it.

    inbox/radio/hello.yaml                                    speaker_wav: [".voicespool-upload-5f…/ana.wav"]
    inbox/radio/.voicespool-upload-5f…/ana.wav, ana.txt

The job names them by that path, so that nothing but files is needed, over a share too. When the daemon has claimed the
job, it has copies of its own, and removes the folder. Nobody can guess the random part of the name; what other people
put into the inbox is never removed.
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
    """A name for the folder of one job."""
    return f".voicespool-upload-{secrets.token_hex(16)}"


def folder_of(recording: str) -> str | None:
    """The upload folder in the name of a recording; None for every other name."""
    parts = PurePosixPath(recording).parts
    return parts[0] if len(parts) == 2 and _FOLDER.fullmatch(parts[0]) else None


def named_in(job_file: bytes) -> set[str]:
    """The upload folders that a job file mentions."""
    return set(_FOLDER.findall(job_file.decode("utf-8", errors="replace")))


def remove(inbox: Path, claim: Claim, recordings: Iterable[str]) -> None:
    """Remove the upload folders of a claimed job, which is the only one in its file.

    A folder counts only if it belongs to the user whose job file it is. What refuses stays: the job has its copies.
    """
    with contextlib.suppress(OSError), opened_folder(inbox, claim.source) as (parent, _name):
        owner = os.lstat(claim.folder.original).st_uid
        for recording in recordings:
            if (folder := folder_of(recording)) is not None:
                with contextlib.suppress(OSError):
                    _remove(folder, PurePosixPath(recording).name, parent, owner)


def _remove(folder: str, recording: str, parent: int, owner: int) -> None:
    """Remove a recording and its transcript, and the folder if nothing else is in it."""
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
