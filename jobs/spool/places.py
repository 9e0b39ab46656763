"""Finds the recordings that a job names, in the folders where they may be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath

from files.allowed_paths import NotAllowed, check_place, opened_in_place, outside_message, resolved
from files.opens import maybe_foreign_link
from files.printable import printable
from jobs.spec.problems import listed, nearest

MAX_TRANSCRIPT_BYTES = 1 << 16
MAX_COMPARED = 1_000

ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".wave", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
"""File extensions of recordings that libsndfile reads."""

WRITTEN_ENDINGS = (*ENDINGS, *(ending.upper() for ending in ENDINGS))


@dataclass(frozen=True, slots=True)
class Places:
    """The folders where files that a job names may be.

    Attributes:
        inbox, voices: Folders of the configuration. The folder of the job file, in the inbox, is searched first.
        state: The state folder; jobs may not name files in it.
        allowed_roots: Further folders, for absolute paths.
        max_bytes: Maximum size of a recording.
        job_bytes: Maximum size of all recordings and transcripts of one job file.
        free_bytes: Disk space that copies of them keep free, or 5 % of the disk if that is less.
    """

    inbox: Path
    voices: Path
    state: Path
    allowed_roots: tuple[Path, ...] = ()
    max_bytes: int = 1 << 30
    job_bytes: int = 1 << 62
    free_bytes: int = 0

    def find(self, name: str, job_folder: Path) -> Path | None:
        """Find a file that a job names: next to the job file, else in `voices`; the exact name, else with the extension
        of a recording.

        Returns:
            Its real path, with all links resolved, or None if it is not there (yet).

        Raises:
            NotAllowed: The file is outside the folders or not a regular file, or the name fits several files.
        """
        is_folder = False
        candidates = self._candidates(name, job_folder)
        for candidate in (*candidates, *(file for place in candidates for file in _with_ending(name, place))):
            try:
                real, usable = resolved(candidate)
            except FileNotFoundError:
                self._check_link(name, candidate)
                continue
            except NotADirectoryError:
                continue
            except OSError as error:
                raise NotAllowed(f"{printable(name)} can't be opened: {error.strerror}") from None
            self._check(name, real)
            if usable:
                return real
            is_folder = True
        if is_folder:
            raise NotAllowed(f"{printable(name)} is not a file")
        return None

    def _is_below(self, path: PurePath) -> bool:
        """Whether an absolute path is in one of the folders, without accessing it."""
        roots = (self.inbox, self.voices, *self.allowed_roots)
        return any(path.is_relative_to(place) for root in roots for place in (root, root.resolve()))

    def _check_link(self, name: str, candidate: Path) -> None:
        """Refuse a broken link to outside the folders; the message must not reveal whether its target exists."""
        with contextlib.suppress(OSError):
            target = Path(os.path.normpath(candidate.parent / os.readlink(candidate)))
            if not self._is_below(target):
                raise NotAllowed(outside_message(name))

    def missing(self, name: str, job_folder: Path, *, with_nearest: bool = True) -> str:
        """The message about a missing recording: where it was searched for, and the nearest existing name."""
        is_whole = PurePosixPath(name).suffix.lower() in ENDINGS
        if with_nearest and (inside := self._without_folder(name)):
            return f"there is no recording {printable(name)}; did you mean `{printable(inside)}`?"
        others = self._others(name, job_folder) if with_nearest else ()
        near = nearest(name, (printable(other if is_whole else os.path.splitext(other)[0]) for other in others))
        return f"the recording {printable(name)} is neither next to the job file nor in voices/{near}"

    def _without_folder(self, name: str) -> str:
        """`ana.wav` for `voices/ana.wav`, a common mistake: names are relative to voices/. "" if it is not that."""
        first, _slash, rest = name.removeprefix("./").partition("/")
        return rest if first == self.voices.name and rest and (self.voices / rest).is_file() else ""

    def _others(self, name: str, job_folder: Path) -> Iterator[str]:
        """Recordings in the folders where this one was searched for, at most 1,000 of each, named as in a job file."""
        for candidate in self._candidates(name, job_folder):
            with contextlib.suppress(OSError, RuntimeError, NotAllowed):
                folder = candidate.parent.resolve(strict=True)
                self._check(name, folder)
                for entry in _listed(folder):
                    if PurePosixPath(entry).suffix.lower() in ENDINGS:
                        yield str(PurePosixPath(name).with_name(entry))

    def _candidates(self, name: str, job_folder: Path) -> list[Path]:
        parts = PurePosixPath(name)
        if "\0" in name or ".." in parts.parts:
            raise NotAllowed(f"{printable(name)} is outside the spool's folders")
        if parts.is_absolute():
            if not self._is_below(parts):
                raise NotAllowed(outside_message(name))  # the same message whether it exists or not
            return [Path(name)]
        return [job_folder / name, self.voices / name]

    def _check(self, name: str, real: Path) -> None:
        in_state = real.is_relative_to(self.state.resolve())
        check_place(name, real, () if in_state else (self.inbox, self.voices, *self.allowed_roots))


def _with_ending(name: str, place: Path) -> list[Path]:
    """The file of a name without the extension of a recording, in a list of none or one.

    Raises:
        NotAllowed: There are several.
    """
    if PurePosixPath(name).suffix.lower() in ENDINGS or not place.name:
        return []
    files: dict[tuple[int, int], Path] = {}
    for ending in WRITTEN_ENDINGS:
        with contextlib.suppress(OSError):
            file = place.with_name(place.name + ending)
            status = os.lstat(file)
            # By inode: on a case-insensitive file system, ana.wav and ana.WAV are one file.
            files.setdefault((status.st_dev, status.st_ino), file)
    if len(files) > 1:
        names = listed([file.name for file in files.values()])
        raise NotAllowed(f"{printable(name)} fits several recordings in one folder: {names}; add the extension")
    return list(files.values())


def _listed(folder: Path) -> list[str]:
    """Up to 1,000 names in a folder, unordered; none if the folder was replaced since its path was resolved."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if Path(os.readlink(f"/proc/self/fd/{fd}")) != folder:
            return []
        with os.scandir(fd) as entries:
            return [entry.name for entry in islice(entries, MAX_COMPARED)]
    finally:
        os.close(fd)


def read_transcript(recording: Path) -> str | None:
    """The text of `ana.txt` next to `ana.wav`, at most 64 KiB of UTF-8; None if there is no readable one."""
    try:
        with opened_in_place(recording.with_suffix(".txt")) as (fd, status, folder):
            if maybe_foreign_link(status, folder):
                return None  # maybe another user's private text; the manifest would publish it
            return os.pread(fd, MAX_TRANSCRIPT_BYTES, 0).decode("utf-8-sig", errors="replace").strip() or None
    except (OSError, NotAllowed):
        return None


def transcript_message(engine: str, recording: str) -> str:
    """The error for a recording without a transcript, if the engine needs one."""
    file = printable(PurePosixPath(recording).with_suffix(".txt").name)
    return (
        f"{engine} needs a transcript of {printable(recording)}: give `speaker_text`, or put the words into {file} "
        "(UTF-8) next to the recording"
    )
