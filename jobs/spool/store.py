"""Claimed jobs on disk: folders are states, and every change of state is one rename.

    inbox/radio/hello.yaml  --claim-->  claimed/ID/original  --publish-->  outbox/radio/hello  --release-->  trash/ID

What a crash leaves is read back from the folders alone; see `docs/GUARANTEES.md`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from files.durable import from_json, fsync, remove_tree, rename_to_free_name, to_json, write_new
from files.durable import replace as replace_file
from files.opens import identity, is_being_written, opened_folder, opened_regular, read_at_most
from jobs.errors import ConfigError, InboxGone, holding
from jobs.spool.claim import Claim, ClaimFolder
from jobs.spool.claimed_lately import ClaimedLately
from jobs.spool.state import State

FORMAT = "1"
MAX_ID_BYTES = 100
PROBE_BYTES = 64 << 10
MAX_NAMES_TRIED = 10  # for a file that is put back; the last one is random, so that nobody can have taken all of them
NOT_REGULAR = frozenset({errno.ELOOP, errno.EINVAL})  # what `opened_regular` says of links, pipes and the like


class Changed(Exception):
    """The file is not what was looked at: somebody still writes it. It is back in its place."""


@dataclass(slots=True)
class Store:
    """The claims of one inbox. OSErrors come through as they are; callers turn them into holds.

    Attributes:
        lately: Which files were claimed within the last day.
    """

    inbox: Path
    folder: State
    inbox_id: str
    lately: ClaimedLately
    _reading: int
    _deaths: dict[str, int]

    @classmethod
    def open(cls, inbox: Path, folder: State) -> Store:
        """Open the claims of an inbox in its state folder; the caller holds its lock, and closes the folder.

        Raises:
            ConfigError: The state was written by a newer version.
        """
        state = folder.path
        _check_format(state / "format", folder.real / "format")
        for name in ("claimed", "recordings", "trash"):
            (state / name).mkdir(mode=0o700, exist_ok=True)
        reading = os.open(state / "reading", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            lately = ClaimedLately.open(state / "claimed-lately")
            store = cls(inbox, folder, read_id(state) or _new_id(state), lately, reading, {})
            store._count_deaths()
        except BaseException:
            os.close(reading)
            raise
        return store

    def close(self) -> None:
        os.close(self._reading)

    @property
    def state(self) -> Path:
        """The state folder, as it can be reached whatever happens at its path."""
        return self.folder.path

    def folder_of(self, job_id: str) -> ClaimFolder:
        return ClaimFolder(self.state / "claimed" / job_id)

    def dropped_ns(self, job_id: str) -> int:
        """When a claimed job's file came into the inbox; 0 when that is not known."""
        claim = Claim.read(self.folder_of(job_id))
        return claim.dropped_ns if claim else 0

    # --- claim -------------------------------------------------------------------------------------

    def claim(self, source: str, looked_at: os.stat_result, longest_bytes: int) -> tuple[Claim, bytes]:
        """Take a file out of the inbox and make its bytes the spool's own.

        Args:
            source: Path in the inbox.
            looked_at: Its state when it was found ready.
            longest_bytes: A longer file is claimed, set aside and never read.

        Returns:
            The claim and the bytes that were read back; b"" for a file set aside.

        Raises:
            Changed: It is being written to, or is another file now; it was put back.
            FileNotFoundError: It is gone.
        """
        claim = self._taken(source, looked_at.st_ctime_ns)
        try:
            return self._seal(claim, looked_at, longest_bytes)
        except (Changed, OSError) as error:
            self._put_back(claim)
            if isinstance(error, OSError) and error.errno not in NOT_REGULAR:
                raise
            raise Changed from error

    def set_aside(self, source: str, reason: str) -> Claim:
        """Claim a file that must not be read: it fails with `reason`.

        Raises:
            FileNotFoundError: It is gone, or something that is no file is in its place now.
        """
        claim = self._taken(source)
        try:
            status = os.lstat(claim.folder.original)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, "it is not a regular file any more", source)
            self._deaths.pop(source, None)  # a mended file of this name is read again
            return replace(claim, set_aside=reason, withheld=status.st_nlink > 1).rewrite()
        except OSError:
            self._put_back(claim)
            raise

    def _taken(self, source: str, dropped_ns: int = 0) -> Claim:
        """The rename that claims. What is left of a claim that came to nothing is removed."""
        claim = replace(self._new_claim(source), dropped_ns=dropped_ns)
        try:
            claim.write()
            with opened_folder(self.inbox, source) as (folder, name):
                os.rename(name, claim.folder.original, src_dir_fd=folder)
        except OSError:
            # A repeated request over NFS can report an error although the first one did its work.
            if not os.path.lexists(claim.folder.original):
                remove_tree(claim.folder.path)
                raise
        return claim

    def _new_claim(self, source: str) -> Claim:
        claimed_ns = time.time_ns()
        while True:
            folder = self.folder_of(_job_id(claimed_ns))
            try:
                folder.path.mkdir(mode=0o700)
                break
            except FileExistsError:
                claimed_ns += 1
        return Claim(folder, source, claimed_ns)

    def _seal(self, claim: Claim, looked_at: os.stat_result, longest_bytes: int) -> tuple[Claim, bytes]:
        """Copy the bytes. Nobody can open the file by its name any more; whoever has it open already is told."""
        with opened_regular(claim.folder.original) as (fd, status):
            # What had one name and has two now may be somebody else's: it is looked at again, in its folder.
            is_linked = status.st_nlink > max(1, looked_at.st_nlink)
            if _content(status) != _content(looked_at) or is_being_written(fd) or is_linked:
                raise Changed
            if status.st_size > longest_bytes:
                return replace(claim, set_aside=too_large(longest_bytes)).rewrite(), b""
            data = read_at_most(fd, longest_bytes)
            write_new(claim.job_file, data)
            if identity(os.fstat(fd)) != identity(status):
                raise Changed
        this = claim.source, _digest(data), status.st_mtime_ns
        warnings = tuple(map(_came_back, filter(None, [self.lately.recall(*this)])))
        claim = replace(claim, sha256=_digest(data), warnings=warnings).rewrite()
        self.lately.note(*this)
        return claim, data

    def _put_back(self, claim: Claim) -> None:
        """Undo a claim. If its name is taken by now, the file returns under another name next to it; if its folder is
        gone, or does not take it, to the inbox itself.

        Raises:
            Hold: The file system refuses. The file stays in its claim, which `recover` reads back.
        """
        with holding("a file can't be put back into the inbox"):
            try:
                self._return(claim, claim.source)
            except OSError:
                if "/" not in claim.source:
                    raise
                self._return(claim, claim.source.rpartition("/")[2])
            remove_tree(claim.folder.path)

    def _return(self, claim: Claim, source: str) -> None:
        with opened_folder(self.inbox, source) as (folder, name):
            stem = os.fsdecode(os.fsencode(name.removesuffix(claim.suffix))[:200])
            for number in range(1, MAX_NAMES_TRIED + 1):
                mark = f" ({number})" if number < MAX_NAMES_TRIED else f" {secrets.token_hex(8)}"
                free = name if number == 1 else f"{stem}{mark}{claim.suffix}"
                if (wanted := source.removesuffix(name) + free) != claim.source:
                    # Noted before, so that `recover` knows of both names if a crash leaves both.
                    replace(claim, source=wanted).rewrite()
                if rename_to_free_name(claim.folder.original, free, folder):
                    return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source)

    def split(self, claim: Claim, documents: Sequence[bytes]) -> Generator[None, None, list[Claim]]:
        """Turn a file of several documents into as many jobs, one a step; the first claim is released when all of them
        are safe.

        A crash in between leaves the first claim, and `split` starts over.
        """
        children = []
        for number, data in enumerate(documents, start=1):
            folder = self.folder_of(f"{claim.job_id}-{number}")
            remove_tree(folder.path)
            folder.path.mkdir(mode=0o700)
            child = replace(claim, folder=folder, document=number, documents=len(documents), sha256=_digest(data))
            write_new(child.job_file, data)
            child.write()
            fsync(folder.path)
            children.append(child)
            yield
        fsync(claim.folder.path.parent)
        self.release(claim)
        fsync(claim.folder.path.parent)  # or a power failure could bring it back after some of them are published
        return children

    # --- recover -----------------------------------------------------------------------------------

    def claimed_ids(self) -> list[str]:
        """Ids of all claims, oldest first. Documents of a file that was not split to the end are removed."""
        ids = set(os.listdir(self.state / "claimed"))
        half_split = {job_id for job_id in ids if job_id.rpartition("-")[0] in ids}
        for job_id in half_split:
            remove_tree(self.folder_of(job_id).path)
        return sorted(ids - half_split)

    def recover(self, job_id: str, longest_bytes: int) -> Claim | None:
        """Read a claim back.

        Returns:
            The claim, sealed; None when its file is in the inbox: a crash came before it was taken, or it had to be
            put back.
        """
        folder = self.folder_of(job_id)
        claim = Claim.read(folder) or Claim(folder, f"recovered-{job_id}.yaml", time.time_ns())
        if not claim.document and self._is_in_inbox(claim):
            remove_tree(folder.path)
            return None
        if claim.sha256 or claim.set_aside:
            return claim
        claim.job_file.unlink(missing_ok=True)
        try:
            data = self._read_again(claim, longest_bytes)
        except (Changed, OSError):  # of the file, which is its dropper's and says nothing about the disk
            self._put_back(claim)
            return None
        if len(data) > longest_bytes:
            return replace(claim, set_aside=too_large(longest_bytes)).rewrite()
        write_new(claim.job_file, data)
        return replace(claim, sha256=_digest(data)).rewrite()

    def _is_in_inbox(self, claim: Claim) -> bool:
        """Whether a claim has no file: it did not come to that, or the file was put back."""
        try:
            mine = os.lstat(claim.folder.original)
        except FileNotFoundError:
            return True
        if mine.st_nlink == 1:
            return False
        try:
            with opened_folder(self.inbox, claim.source) as (folder, name):
                return os.path.samestat(mine, os.lstat(name, dir_fd=folder))
        except OSError:  # a stranger's folder, which may refuse anything
            return False

    def _read_again(self, claim: Claim, longest_bytes: int) -> bytes:
        """What was ready before the crash is ready still, unless somebody writes; there is nothing to compare with."""
        with opened_regular(claim.folder.original) as (fd, status):
            if is_being_written(fd) or status.st_nlink > 1:  # the latter is for the inbox to judge
                raise Changed
            return read_at_most(fd, longest_bytes)

    # --- while it is being read: what kills the daemon is counted ----------------------------------

    @contextlib.contextmanager
    def reading(self, source: str) -> Iterator[None]:
        """Note on disk which file is being read and parsed, for the case that this kills the daemon."""
        os.pwrite(self._reading, to_json({"source": source}), 0)
        try:
            yield
        finally:
            os.ftruncate(self._reading, 0)

    def deaths(self, source: str) -> int:
        """How many daemons in a row have died while reading this file."""
        return self._deaths.get(source, 0)

    def _count_deaths(self) -> None:
        victim = from_json(self.state / "reading").get("source")
        before = from_json(self.state / "deaths.json")
        if victim is None:
            (self.state / "deaths.json").unlink(missing_ok=True)
            return
        deaths = before.get("deaths", 0) + 1 if before.get("source") == victim else 1
        replace_file(self.state / "deaths.json", to_json({"source": victim, "deaths": deaths}))
        os.ftruncate(self._reading, 0)
        self._deaths[victim] = deaths

    # --- release -----------------------------------------------------------------------------------

    def release(self, claim: Claim, *, later: bool = False) -> None:
        """Let a job go: one rename; what is left of it is removed now or, by `remove_released`, later."""
        os.rename(claim.folder.path, self.state / "trash" / claim.job_id)
        if not later:
            self.remove_released(claim.job_id)

    def remove_released(self, job_id: str) -> None:
        with contextlib.suppress(OSError):
            remove_tree(self.state / "trash" / job_id)

    def empty_trash(self) -> None:
        for entry in list((self.state / "trash").iterdir()):
            remove_tree(entry)

    def refuses(self) -> OSError | None:
        """What the state folder or the inbox has against being worked with; None when they are well."""
        try:
            replace_file(self.state / "probe", bytes(PROBE_BYTES))
            (self.state / "probe").unlink()
            with os.scandir(self.inbox) as entries:
                next(entries, None)
        except OSError as error:
            return error
        return None

    def check(self) -> None:
        """Make sure that the inbox is the one that was opened.

        Raises:
            InboxGone: It is not there, or is another one.
        """
        try:
            found = read_id(self.state) if self.folder.is_in_place() else None
        except OSError as error:
            where = f"{self.inbox} or its state folder {self.folder.real}"
            raise InboxGone(f"the inbox {where} can't be read: {error.strerror}") from error
        if found != self.inbox_id or not self.inbox.is_dir():
            raise InboxGone(f"the inbox {self.inbox} is not there, or is not the one of before")


def read_id(state: Path) -> str | None:
    """The id of an inbox, from its state folder; None when it has none (yet)."""
    try:
        with opened_regular(state / "id") as (fd, _status):
            return read_at_most(fd, MAX_ID_BYTES).decode(errors="replace").strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None


def _new_id(state: Path) -> str:
    new = secrets.token_hex(8)
    replace_file(state / "id", f"{new}\n".encode())
    return new


def _check_format(path: Path, shown: Path) -> None:
    try:
        found = path.read_text().strip()
    except FileNotFoundError:
        replace_file(path, f"{FORMAT}\n".encode())
        return
    if found != FORMAT:
        raise ConfigError(
            f"{shown} says format {found!r}; this version of voicespool reads format {FORMAT}",
            "Use the version of voicespool that wrote it, or let that version finish the jobs and start with an "
            "empty state folder.",
        )


def _job_id(claimed_ns: int) -> str:
    seconds, fraction = divmod(claimed_ns, 1_000_000_000)
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{fraction:09d}"


def _content(status: os.stat_result) -> tuple[int, int, int, int]:
    """What a rename leaves unchanged: the change time is not among it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def too_large(longest_bytes: int) -> str:
    """Why a file is set aside."""
    return f"the file is larger than limits.job_file_bytes ({longest_bytes} bytes)"


def _came_back(claimed_at: str) -> str:
    return (
        f"The same file, with the same modification time, was claimed at {claimed_at} already. A sync tool may have "
        "put it back; ready.on_duplicate: skip leaves such files alone."
    )


def deadly(deaths: int) -> str:
    """Why a file is set aside."""
    return f"{deaths} daemons in a row died while they were reading this file"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
