"""Recordings and other files that a job names: found inside the allowed folders, copied by content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath

from files.durable import (
    BLOCK_BYTES,
    OTHER_NAMES,
    has_other_names,
    identity,
    link_or_copy,
    opened_regular,
    remove_tree,
    somebody_writes,
    write_sparse,
)
from jobs.errors import printable
from jobs.spec.problems import listed, nearest

BLOCKS_A_SLICE = 8
TRANSCRIPT_BYTES = 1 << 16
MOST_COMPARED = 1_000
MOST_NEAREST = 5
"""For how many recordings of one job the nearest name is looked for."""
ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".wave", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
"""Of recordings that libsndfile reads."""
WRITTEN_ENDINGS = (*ENDINGS, *(ending.upper() for ending in ENDINGS))


class NotAllowed(Exception):
    """A job names a file that it may not have; the text is a sentence for its author."""


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
                real, usable = _looked_up(candidate)
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
                raise NotAllowed(_leads_out(name))

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
            raise NotAllowed(f"{printable(name)} leads out of the spool's folders")
        if parts.is_absolute():
            if not self._is_below(parts):
                raise NotAllowed(_leads_out(name))  # whether it is there or not
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
            return [entry.name for entry in islice(entries, MOST_COMPARED)]
    finally:
        os.close(fd)


def _leads_out(name: str) -> str:
    return (
        f"{printable(name)} leads out of the spool's folders; the operator can allow its folder with "
        "`allowed_roots` in config.yaml"
    )


def _looked_up(path: Path) -> tuple[Path, bool]:
    """The real path of a file, and whether it is a regular one. The kernel follows the links, at most forty of them.

    Raises:
        OSError: ENOENT, ELOOP and the like.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}")), stat.S_ISREG(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def check_place(name: str, real: Path, roots: Iterable[Path]) -> None:
    """Raise NotAllowed unless the real path that a name leads to lies in one of the folders."""
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise NotAllowed(_leads_out(name))


def transcript_beside(recording: Path) -> str | None:
    """The text of `ana.txt` beside `ana.wav`, at most 64 KiB of UTF-8; None when there is none that can be read."""
    try:
        with _opened_in_place(recording.with_suffix(".txt")) as (fd, status, folder):
            if has_other_names(status, folder):
                return None  # maybe a private text, of which not a word may be published
            return os.pread(fd, TRANSCRIPT_BYTES, 0).decode("utf-8-sig", errors="replace").strip() or None
    except (OSError, NotAllowed):
        return None


def transcript_wanted(engine: str, recording: str) -> str:
    """What to say of a recording without a transcript to somebody whose engine needs one."""
    beside = printable(PurePosixPath(recording).with_suffix(".txt").name)
    told = f"give `speaker_text`, or put the words, in UTF-8, into {beside} beside it"
    return f"{engine} has to know what is said in {printable(recording)}: {told}"


@contextlib.contextmanager
def _opened_in_place(real: Path) -> Iterator[tuple[int, os.stat_result, os.stat_result]]:
    """Open a file by its real path, unless a folder on the way was replaced by a link since that was found.

    Yields:
        Its descriptor, its state, and that of the folder it was opened in.

    Raises:
        NotAllowed: It was.
        OSError: As `opened_regular`.
    """
    folder = os.open(real.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with opened_regular(real.name, folder) as (fd, status):
            if Path(os.readlink(f"/proc/self/fd/{fd}")) != real:
                raise NotAllowed(f"{printable(real.name)} was moved while it was being read")
            yield fd, status, os.fstat(folder)
    finally:
        os.close(folder)


@dataclass(slots=True)
class Snapshots:
    """Copies of recordings, one file per content, shared by the jobs that use it.

    A job's folder holds a hard link to the copy, so that the number of links says whether a copy is still needed.

    Attributes:
        folder: Where the copies are.
        places: Where recordings may lie.
        job_bytes: What all recordings and transcripts of one job file may take together.
        free_bytes: What is left free on the disk, or a twentieth of the disk if that is less.
    """

    folder: Path
    places: Places
    job_bytes: int = 1 << 62
    free_bytes: int = 0
    _known: OrderedDict[tuple[int, ...], str] = field(default_factory=OrderedDict)

    def copies(self) -> Copies:
        """The copies for the jobs of one file."""
        return Copies(self)

    def known(self, status: os.stat_result) -> str | None:
        """The digest of a recording that was copied before and is the same now; None for one that was not."""
        digest = self._known.get(identity(status))
        return digest if digest is not None and (self.folder / digest).exists() else None

    def lacks_space(self, needed_bytes: int) -> bool:
        """Whether copies of this size would leave less of the disk free than has to stay free."""
        disk = os.statvfs(self.folder)
        reserve = min(self.free_bytes, disk.f_blocks * disk.f_frsize // 20)
        return needed_bytes > 0 and disk.f_bavail * disk.f_frsize - needed_bytes < reserve

    def why_no_room(self, recordings: Iterable[Path]) -> str:
        """Why there is no room for copies of recordings now, in words; "" where there is, or none is needed."""
        needed_bytes = 0
        for recording in recordings:
            with contextlib.suppress(OSError):
                status = os.stat(recording)
                needed_bytes += 0 if self.known(status) else status.st_size
        if needed_bytes > self.job_bytes or not self.lacks_space(needed_bytes):  # too much fails, and need not wait
            return ""
        return f"copies of its recordings ({needed_bytes >> 20} MiB) would fill the inbox's disk (limits.free_bytes)"

    @contextlib.contextmanager
    def opened(self, recording: Path) -> Iterator[tuple[int, os.stat_result]]:
        """Open a recording that may be copied. Raises NotAllowed."""
        shown = printable(recording.name)
        with contextlib.ExitStack() as stack:
            try:
                fd, status, folder = stack.enter_context(_opened_in_place(recording))
                is_shared = has_other_names(status, folder)
            except OSError as error:
                raise NotAllowed(f"the recording {shown} can't be read: {error.strerror}") from None
            if is_shared:
                raise NotAllowed(f"the recording {shown} {OTHER_NAMES}")
            if status.st_size > self.places.longest_bytes:
                allowed = self.places.longest_bytes
                raise NotAllowed(f"{shown} is larger than limits.recording_bytes ({allowed} bytes)")
            if status.st_size == 0:
                raise NotAllowed(f"the recording {shown} is empty")
            if somebody_writes(fd):
                raise NotAllowed(f"the recording {shown} is still being written")
            yield fd, status

    def copy(self, name: str, fd: int, status: os.stat_result) -> Generator[None, None, str]:
        """Copy an open recording, a slice at a time; holes stay holes. Returns its digest.

        As many bytes are copied as there were when it was opened; one that grows or changes meanwhile is refused.
        """
        scratch, digest = self.folder / f".{secrets.token_hex(8)}", hashlib.sha256()
        try:
            with scratch.open("xb") as copy:
                for number, block in enumerate(_blocks(name, fd, status.st_size), start=1):
                    digest.update(block)
                    write_sparse(copy, block)
                    if number % BLOCKS_A_SLICE == 0:
                        copy.flush()
                        os.fdatasync(copy.fileno())  # so that there is never much left to force to disk at once
                        yield
                copy.truncate()
                copy.flush()
                os.fsync(copy.fileno())
            if identity(os.fstat(fd)) != identity(status):
                raise NotAllowed(f"{printable(name)} was changed while it was being copied")
            if not (self.folder / digest.hexdigest()).exists():  # else the same content under another name
                os.rename(scratch, self.folder / digest.hexdigest())
        finally:
            scratch.unlink(missing_ok=True)
        self._known[identity(status)] = digest.hexdigest()
        if len(self._known) > 1024:
            self._known.popitem(last=False)
        return digest.hexdigest()

    def hand_out(self, digest: str, into: Path) -> None:
        """Give a job its name for a copy. The caller syncs the folder."""
        into.mkdir(mode=0o700, exist_ok=True)
        (into / digest).unlink(missing_ok=True)  # a crash may have left half a copy
        link_or_copy(self.folder / digest, into / digest)

    def let_go(self, digests: Iterable[str]) -> None:
        """Remove those of these copies that no job holds a link to any more."""
        for digest in digests:
            with contextlib.suppress(OSError):
                if os.lstat(self.folder / digest).st_nlink == 1:
                    os.unlink(self.folder / digest)

    def sweep(self) -> None:
        """Remove the copies that no job holds a link to, and what a crash left half-copied."""
        for entry in os.scandir(self.folder):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(Path(entry.path))
            elif entry.stat(follow_symlinks=False).st_nlink == 1:
                os.unlink(entry.path)


@dataclass(slots=True)
class Copies:
    """The copies of recordings that the jobs of one file need, and what they take together."""

    snapshots: Snapshots
    _counted: set[str] = field(default_factory=set)
    _bytes: int = 0

    def take(self, recording: Path, into: Path) -> Generator[None, None, str]:
        """Copy a recording as it is now, a slice at a time.

        Args:
            recording: Real path, from `Places.find`.
            into: Folder of the job that wants it; gets a file named by the digest. The caller syncs it.

        Returns:
            SHA-256 of the content, hex.

        Raises:
            NotAllowed: It can't be read, is empty, too large or still being written, is another one by now, or there
                is no room for it.
            OSError: The trouble of the folders that take the copy; never the recording's own.
        """
        snapshots, shown = self.snapshots, printable(recording.name)
        with snapshots.opened(recording) as (fd, status):
            digest = snapshots.known(status)
            if digest not in self._counted:
                self.count(status.st_size)
            if digest is None and snapshots.lacks_space(status.st_size):
                raise NotAllowed(f"the disk of the inbox has no room for a copy of the recording {shown}")
            if digest is None:
                digest = yield from snapshots.copy(recording.name, fd, status)
        self._counted.add(digest)
        snapshots.hand_out(digest, into)
        return digest

    def count(self, size_bytes: int) -> None:
        """Count something that the spool keeps for these jobs. Raises NotAllowed when it is too much."""
        if self._bytes + size_bytes > self.snapshots.job_bytes:
            most = self.snapshots.job_bytes
            raise NotAllowed(f"the recordings of this job file take more than limits.job_bytes ({most} bytes) together")
        self._bytes += size_bytes


def _blocks(name: str, fd: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size:
        try:
            block = os.pread(fd, min(BLOCK_BYTES, size - offset), offset)
        except OSError as error:
            raise NotAllowed(f"the recording {printable(name)} can't be read: {error.strerror}") from None
        if not block:
            return  # cut short meanwhile: its identity has changed
        offset += len(block)
        yield block
