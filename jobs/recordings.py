"""Recordings and other files that a job names: found inside the allowed folders, copied by content."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from jobs.errors import printable
from jobs.files import BLOCK_BYTES, fsync, identity, link_or_copy, opened_regular, remove_tree

TRANSCRIPT_BYTES = 1 << 16


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
        """Find a file that a job names: beside the job file first, then under `voices`.

        Returns:
            Its real path, every link resolved, or None when it is not there (yet).

        Raises:
            NotAllowed: The name leads out of the folders, or to something that is not a file.
        """
        for candidate in self._candidates(name, job_folder):
            try:
                real = candidate.resolve(strict=True)
                usable = real.is_file()
            except (OSError, RuntimeError) as error:
                if isinstance(error, OSError) and error.errno in {errno.ENOENT, errno.ENOTDIR}:
                    continue
                raise NotAllowed(f"{printable(name)} can't be opened: {printable(error)}") from None
            self._check(name, real)
            if not usable:
                raise NotAllowed(f"{printable(name)} is not a file")
            return real
        return None

    def _candidates(self, name: str, job_folder: Path) -> list[Path]:
        parts = PurePosixPath(name)
        if "\0" in name or ".." in parts.parts:
            raise NotAllowed(f"{printable(name)} leads out of the spool's folders")
        if parts.is_absolute():
            return [Path(name)]
        return [job_folder / name, self.voices / name]

    def _check(self, name: str, real: Path) -> None:
        roots = [root.resolve() for root in (self.inbox, self.voices, *self.allowed_roots)]
        if not any(real.is_relative_to(root) for root in roots) or real.is_relative_to(self.state.resolve()):
            raise NotAllowed(
                f"{printable(name)} leads out of the spool's folders; the operator can allow its folder with "
                "`allowed_roots` in config.yaml"
            )


def transcript_beside(recording: Path) -> str | None:
    """The text of `ana.txt` beside `ana.wav`, at most 64 KiB of UTF-8; None when there is none that can be read."""
    try:
        with opened_regular(recording.with_suffix(".txt")) as (fd, _status):
            return os.pread(fd, TRANSCRIPT_BYTES, 0).decode("utf-8-sig", errors="replace").strip() or None
    except OSError:
        return None


@dataclass(slots=True)
class Snapshots:
    """Copies of recordings, one file per content, shared by the jobs that use it.

    A job's folder holds a hard link to the copy, so that the number of links says whether a copy is still needed.
    """

    folder: Path
    places: Places
    _known: OrderedDict[tuple[int, ...], str] = field(default_factory=OrderedDict)

    def take(self, recording: Path, into: Path) -> str:
        """Copy a recording as it is now.

        Args:
            recording: Real path, from `Places.find`.
            into: Folder of the job that wants it; gets a file named by the digest.

        Returns:
            SHA-256 of the content, hex.

        Raises:
            NotAllowed: Too large, or swapped for something else meanwhile.
            OSError: The file system's own trouble.
        """
        with opened_regular(recording) as (fd, status):
            if Path(os.readlink(f"/proc/self/fd/{fd}")) != recording:
                raise NotAllowed(f"{printable(recording.name)} was moved while it was being read")
            if status.st_size > self.places.longest_bytes:
                raise NotAllowed(
                    f"{printable(recording.name)} is larger than limits.recording_bytes "
                    f"({self.places.longest_bytes} bytes)"
                )
            digest = self._known.get(identity(status))
            if digest is None or not (self.folder / digest).exists():
                digest = self._copy(fd)
                self._remember(identity(status), digest)
        self._hand_out(digest, into)
        return digest

    def _copy(self, fd: int) -> str:
        scratch, digest = self.folder / f".{secrets.token_hex(8)}", hashlib.sha256()
        with scratch.open("xb") as copy:
            offset = 0
            while block := os.pread(fd, BLOCK_BYTES, offset):
                offset += len(block)
                digest.update(block)
                copy.write(block)
            copy.flush()
            os.fsync(copy.fileno())
        os.rename(scratch, self.folder / digest.hexdigest())
        return digest.hexdigest()

    def _hand_out(self, digest: str, into: Path) -> None:
        into.mkdir(mode=0o700, exist_ok=True)
        if not (into / digest).exists():
            link_or_copy(self.folder / digest, into / digest)
            fsync(into)

    def _remember(self, key: tuple[int, ...], digest: str) -> None:
        self._known[key] = digest
        if len(self._known) > 1024:
            self._known.popitem(last=False)

    def sweep(self) -> None:
        """Remove the copies that no job holds a link to, and what a crash left half-copied."""
        for entry in os.scandir(self.folder):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(Path(entry.path))
            elif entry.stat(follow_symlinks=False).st_nlink == 1:
                os.unlink(entry.path)
