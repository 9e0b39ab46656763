"""Where the recordings that a job names may be, and where they are."""

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

TRANSCRIPT_BYTES = 1 << 16


MAX_COMPARED = 1_000


ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".wave", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
"""Of recordings that libsndfile reads."""


WRITTEN_ENDINGS = (*ENDINGS, *(ending.upper() for ending in ENDINGS))


@dataclass(frozen=True, slots=True)
class Places:
    """Where files named by a job may lie.

    Attributes:
        inbox, voices: Folders of the configuration; the job file's own folder (inside the inbox) comes first.
        state: The spool's own folder, never served.
        allowed_roots: Further folders, for absolute names.
        longest_bytes: Larger files are refused.
    """

    inbox: Path
    voices: Path
    state: Path
    allowed_roots: tuple[Path, ...] = ()
    longest_bytes: int = 1 << 30

    def find(self, name: str, job_folder: Path) -> Path | None:
        """Find a file that a job names: next to the job file first, then under `voices`. The exact name first, then
        the same with the ending of a recording.

        Returns:
            Its real path, every link resolved, or None when it is not there (yet).

        Raises:
            NotAllowed: The name leads out of the folders, or to something that is not a file, or fits several files.
        """
        is_folder = False
        candidates = self._candidates(name, job_folder)
        for candidate in (*candidates, *(found for place in candidates for found in _with_ending(name, place))):
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
        """Whether an absolute path, as it is written, is in one of the folders; nothing is looked up there."""
        roots = (self.inbox, self.voices, *self.allowed_roots)
        return any(path.is_relative_to(place) for root in roots for place in (root, root.resolve()))

    def _check_link(self, name: str, candidate: Path) -> None:
        """A link to nothing may be to something later; whether something is there outside, nobody is told."""
        with contextlib.suppress(OSError):
            target = Path(os.path.normpath(candidate.parent / os.readlink(candidate)))
            if not self._is_below(target):
                raise NotAllowed(outside_message(name))

    def missing(self, name: str, job_folder: Path, *, with_nearest: bool = True) -> str:
        """What to say of a recording that is not there: where it was looked for, and the nearest that is."""
        is_whole = PurePosixPath(name).suffix.lower() in ENDINGS
        if with_nearest and (inside := self._without_folder(name)):
            return f"the recording {printable(name)} is not there; did you mean `{printable(inside)}`?"
        there = self._there(name, job_folder) if with_nearest else ()
        near = nearest(name, (printable(other if is_whole else os.path.splitext(other)[0]) for other in there))
        return f"the recording {printable(name)} is neither next to the job file nor in voices/{near}"

    def _without_folder(self, name: str) -> str:
        """What to write for `voices/ana.wav`, as voices/ is looked into anyway; "" where that is not the mistake."""
        first, _slash, rest = name.removeprefix("./").partition("/")
        return rest if first == self.voices.name and rest and (self.voices / rest).is_file() else ""

    def _there(self, name: str, job_folder: Path) -> Iterator[str]:
        """Recordings where one of this name would lie, at most 1,000 of each folder, named as in a job file."""
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
                raise NotAllowed(outside_message(name))  # whether it is there or not
            return [Path(name)]
        return [job_folder / name, self.voices / name]

    def _check(self, name: str, real: Path) -> None:
        in_state = real.is_relative_to(self.state.resolve())
        check_place(name, real, () if in_state else (self.inbox, self.voices, *self.allowed_roots))


def _with_ending(name: str, place: Path) -> list[Path]:
    """The file of a name that was given without the ending of a recording.

    Raises:
        NotAllowed: There are several.
    """
    if PurePosixPath(name).suffix.lower() in ENDINGS or not place.name:
        return []
    found: dict[tuple[int, int], Path] = {}
    for ending in WRITTEN_ENDINGS:
        with contextlib.suppress(OSError):
            file = place.with_name(place.name + ending)
            status = os.lstat(file)
            found.setdefault((status.st_dev, status.st_ino), file)  # where case does not count, one file has two names
    if len(found) > 1:
        names = listed([file.name for file in found.values()])
        raise NotAllowed(f"{printable(name)} fits several recordings in one folder: {names}; name one with its ending")
    return list(found.values())


def _listed(folder: Path) -> list[str]:
    """Names in a folder given by its real path, in no order, at most 1,000; none if a link took its place meanwhile."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if Path(os.readlink(f"/proc/self/fd/{fd}")) != folder:
            return []
        with os.scandir(fd) as entries:
            return [entry.name for entry in islice(entries, MAX_COMPARED)]
    finally:
        os.close(fd)


def transcript_beside(recording: Path) -> str | None:
    """The text of `ana.txt` beside `ana.wav`, at most 64 KiB of UTF-8; None when there is none that can be read."""
    try:
        with opened_in_place(recording.with_suffix(".txt")) as (fd, status, folder):
            if maybe_foreign_link(status, folder):
                return None  # maybe a private text, of which not a word may be published
            return os.pread(fd, TRANSCRIPT_BYTES, 0).decode("utf-8-sig", errors="replace").strip() or None
    except (OSError, NotAllowed):
        return None


def transcript_wanted(engine: str, recording: str) -> str:
    """What to say of a recording without a transcript to somebody whose engine needs one."""
    beside = printable(PurePosixPath(recording).with_suffix(".txt").name)
    told = f"give `speaker_text`, or put the words, in UTF-8, into {beside} beside it"
    return f"{engine} has to know what is said in {printable(recording)}: {told}"
