"""Copies of the recordings that jobs name, one for each content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from files.allowed_paths import NotAllowed, opened_in_place
from files.durable import link_or_copy, remove_tree, write_sparse
from files.opens import BLOCK_BYTES, HARD_LINKED, identity, is_being_written, maybe_foreign_link
from files.printable import printable
from jobs.spool.places import Places

BLOCKS_A_SLICE = 8
MAX_NEAREST = 5
"""For how many recordings of one job the nearest name is looked for."""


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
                fd, status, folder = stack.enter_context(opened_in_place(recording))
                is_shared = maybe_foreign_link(status, folder)
            except OSError as error:
                raise NotAllowed(f"the recording {shown} can't be read: {error.strerror}") from None
            if is_shared:
                raise NotAllowed(f"the recording {shown} {HARD_LINKED}")
            if status.st_size > self.places.longest_bytes:
                allowed = self.places.longest_bytes
                raise NotAllowed(f"{shown} is larger than limits.recording_bytes ({allowed} bytes)")
            if status.st_size == 0:
                raise NotAllowed(f"the recording {shown} is empty")
            if is_being_written(fd):
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
