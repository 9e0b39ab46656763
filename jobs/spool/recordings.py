"""Copies of the recordings that jobs name, one per content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from files.allowed_paths import NotAllowed, opened_in_place
from files.durable import link_or_copy, remove_tree, write_sparse
from files.opens import BLOCK_BYTES, HARD_LINKED, identity, is_being_written, maybe_foreign_link
from files.printable import printable
from jobs.spool.places import Places

BLOCKS_A_SLICE = 8
MAX_NEAREST = 5
"""A job's first missing recordings, for which the nearest existing name is searched."""


@dataclass(slots=True)
class Snapshots:
    """Copies of recordings, one file per content, shared by the jobs that use it.

    Each job's folder has a hard link to the copy, so a copy with one link is no longer used.

    Attributes:
        folder: Of the copies.
        places: Where recordings may be, and how large they may be, now: a reload can change it.
    """

    folder: Path
    places: Callable[[], Places]
    _known: OrderedDict[tuple[int, ...], str] = field(default_factory=OrderedDict)

    def copies(self) -> Copies:
        """For the jobs of one file."""
        return Copies(self)

    def known(self, status: os.stat_result) -> str | None:
        """The digest of a recording that was copied before and has not changed; else None."""
        digest = self._known.get(identity(status))
        return digest if digest is not None and (self.folder / digest).exists() else None

    def lacks_space(self, needed_bytes: int) -> bool:
        """Whether copies of this size would leave too little free disk space."""
        disk = os.statvfs(self.folder)
        reserve = min(self.places().free_bytes, disk.f_blocks * disk.f_frsize // 20)
        return needed_bytes > 0 and disk.f_bavail * disk.f_frsize - needed_bytes < reserve

    def why_no_room(self, recordings: Iterable[Path]) -> str:
        """Why there is no disk space for copies of these recordings now; "" if there is."""
        needed_bytes = 0
        for recording in recordings:
            with contextlib.suppress(OSError):
                status = os.stat(recording)
                needed_bytes += 0 if self.known(status) else status.st_size
        if needed_bytes > self.places().job_bytes or not self.lacks_space(needed_bytes):
            return ""  # more than job_bytes fails the job, so it need not wait
        return f"copies of its recordings ({needed_bytes >> 20} MiB) would fill the inbox's disk (limits.free_bytes)"

    @contextlib.contextmanager
    def opened(self, recording: Path) -> Iterator[tuple[int, os.stat_result]]:
        """Open a recording for copying. Raises NotAllowed if it may not be copied."""
        shown = printable(recording.name)
        with contextlib.ExitStack() as stack:
            try:
                fd, status, folder = stack.enter_context(opened_in_place(recording))
                is_shared = maybe_foreign_link(status, folder)
            except OSError as error:
                raise NotAllowed(f"the recording {shown} can't be read: {error.strerror}") from None
            if is_shared:
                raise NotAllowed(f"the recording {shown} {HARD_LINKED}")
            if status.st_size > (limit := self.places().max_bytes):
                raise NotAllowed(f"the recording {shown} is larger than limits.recording_bytes ({limit} bytes)")
            if status.st_size == 0:
                raise NotAllowed(f"the recording {shown} is empty")
            if is_being_written(fd):
                raise NotAllowed(f"the recording {shown} is still being written")
            yield fd, status

    def copy(self, name: str, fd: int, status: os.stat_result) -> Generator[None, None, str]:
        """Copy an open recording in slices, keeping holes. Returns its digest.

        Copies the size it had when it was opened. A recording that changes during the copy is refused.
        """
        scratch, digest = self.folder / f".{secrets.token_hex(8)}", hashlib.sha256()
        try:
            with scratch.open("xb") as copy:
                for number, block in enumerate(_blocks(name, fd, status.st_size), start=1):
                    digest.update(block)
                    write_sparse(copy, block)
                    if number % BLOCKS_A_SLICE == 0:
                        copy.flush()
                        os.fdatasync(copy.fileno())  # keeps the final fsync short
                        yield
                copy.truncate()
                copy.flush()
                os.fsync(copy.fileno())
            if identity(os.fstat(fd)) != identity(status):
                raise NotAllowed(f"the recording {printable(name)} changed while it was copied")
            if not (self.folder / digest.hexdigest()).exists():  # else the same content was copied before
                os.rename(scratch, self.folder / digest.hexdigest())
        finally:
            scratch.unlink(missing_ok=True)
        self._known[identity(status)] = digest.hexdigest()
        if len(self._known) > 1024:
            self._known.popitem(last=False)
        return digest.hexdigest()

    def link_into(self, digest: str, into: Path) -> None:
        """Link a copy into a job's folder. The caller syncs the folder."""
        into.mkdir(mode=0o700, exist_ok=True)
        (into / digest).unlink(missing_ok=True)  # a crash may have left an incomplete copy
        link_or_copy(self.folder / digest, into / digest)

    def remove_unused(self, digests: Iterable[str]) -> None:
        """Remove those of these copies that no job uses any more."""
        for digest in digests:
            with contextlib.suppress(OSError):
                if os.lstat(self.folder / digest).st_nlink == 1:
                    os.unlink(self.folder / digest)

    def sweep(self) -> None:
        """Remove all copies that no job uses, and incomplete ones."""
        for entry in os.scandir(self.folder):
            if entry.is_dir(follow_symlinks=False):  # voicespool makes no folders here
                remove_tree(Path(entry.path))
            elif entry.stat(follow_symlinks=False).st_nlink == 1:
                os.unlink(entry.path)


@dataclass(slots=True)
class Copies:
    """The copies of recordings for the jobs of one file, and their total size."""

    snapshots: Snapshots
    _counted: set[str] = field(default_factory=set)
    _bytes: int = 0

    def take(self, recording: Path, into: Path) -> Generator[None, None, str]:
        """Copy a recording in slices, unless its content was copied before.

        Args:
            recording: Real path, from `Places.find`.
            into: Folder of the job; gets a file named by the digest. The caller syncs the folder.

        Returns:
            SHA-256 of the content, hex.

        Raises:
            NotAllowed: The recording can't be read, is empty, too large, still being written or changed, or there is
                no space for it.
            OSError: An error of the spool's own folders, never of the recording.
        """
        snapshots, shown = self.snapshots, printable(recording.name)
        with snapshots.opened(recording) as (fd, status):
            digest = snapshots.known(status)
            if digest not in self._counted:
                self.count(status.st_size)
            if digest is None and snapshots.lacks_space(status.st_size):
                raise NotAllowed(
                    f"the inbox's disk has no space for a copy of the recording {shown} (limits.free_bytes)"
                )
            if digest is None:
                digest = yield from snapshots.copy(recording.name, fd, status)
        self._counted.add(digest)
        snapshots.link_into(digest, into)
        return digest

    def count(self, size_bytes: int) -> None:
        """Add to the total size of these jobs' files. Raises NotAllowed if it exceeds job_bytes."""
        if self._bytes + size_bytes > (limit := self.snapshots.places().job_bytes):
            raise NotAllowed(f"all recordings of this job file together exceed limits.job_bytes ({limit} bytes)")
        self._bytes += size_bytes


def _blocks(name: str, fd: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size:
        try:
            block = os.pread(fd, min(BLOCK_BYTES, size - offset), offset)
        except OSError as error:
            raise NotAllowed(f"the recording {printable(name)} can't be read: {error.strerror}") from None
        if not block:
            return  # it became shorter; the check of its identity reports that
        offset += len(block)
        yield block
