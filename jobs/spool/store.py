"""Claimed jobs on disk: each state is a folder, and each change of state is one rename.

    inbox/radio/hello.yaml  --claim-->  claimed/ID/original  --publish-->  outbox/radio/hello  --release-->  trash/ID

After a crash, the state is recovered from the folders alone; see `docs/GUARANTEES.md`.
"""

from __future__ import annotations

import calendar
import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from files.durable import (
    Durably,
    alone,
    create,
    from_json,
    fsync,
    remove_tree,
    rename_to_free_name,
    sync_and_close,
    to_json,
    write_new,
)
from files.durable import replace as replace_file
from files.opens import identity, is_being_written, opened_folder, opened_regular, read_at_most
from jobs.errors import ConfigError, InboxGone, holding
from jobs.names import JOB_SUFFIXES
from jobs.spool import format1
from jobs.spool.claim import DESCRIPTION, Claim, ClaimFolder, Spares
from jobs.spool.claimed_lately import ClaimedLately
from jobs.spool.record import Record
from jobs.spool.state import State

FORMAT = "2"
MAX_ID_BYTES = 100
PROBE_BYTES = 64 << 10
MAX_NAMES_TRIED = 10  # for a file that is put back; the last name is random, so it can't be taken
NOT_REGULAR = frozenset({errno.ELOOP, errno.EINVAL})  # errors of `opened_regular` for links, pipes and the like


class Changed(Exception):
    """The file changed since it was examined, or is being written. It was put back."""


@dataclass(slots=True)
class Store:
    """The claims of one inbox. Methods raise OSErrors; callers turn them into holds.

    Attributes:
        lately: The files claimed within the last day.
    """

    inbox: Path
    folder: State
    inbox_id: str
    lately: ClaimedLately
    _reading: int
    _deaths: dict[str, int]
    _spares: Spares
    _last_ns: int = 0

    @classmethod
    def open(cls, inbox: Path, folder: State) -> Store:
        """Open the claims of an inbox. The caller has its lock, and closes the state folder.

        Raises:
            ConfigError: A newer version of voicespool wrote the state folder.
        """
        state = folder.path
        _bring_to_format(state, folder.real / "format")
        for name in ("claimed", "recordings", "trash", "spare"):
            (state / name).mkdir(mode=0o700, exist_ok=True)
        reading = os.open(state / "reading", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            lately = ClaimedLately.open(state / "claimed-lately")
            store = cls(inbox, folder, read_id(state) or _new_id(state), lately, reading, {}, Spares(state / "spare"))
            store._count_deaths()
        except BaseException:
            os.close(reading)
            raise
        return store

    def close(self) -> None:
        os.close(self._reading)

    @property
    def state(self) -> Path:
        """The state folder, through its descriptor."""
        return self.folder.path

    def folder_of(self, job_id: str) -> ClaimFolder:
        return ClaimFolder(self.state / "claimed" / job_id)

    def dropped_ns(self, job_id: str) -> int:
        """When a claimed job's file appeared in the inbox (ns); 0 if unknown."""
        claim = Claim.read(self.folder_of(job_id))
        return claim.dropped_ns if claim else 0

    # --- claim -------------------------------------------------------------------------------------

    def claim(self, source: str, examined: os.stat_result, max_bytes: int) -> Durably[tuple[Claim, bytes]]:
        """Move a file out of the inbox and copy its bytes; for `files.durable.together`.

        Args:
            source: Path in the inbox.
            examined: Its status when it was found ready.
            max_bytes: A larger file is claimed and set aside without being read.

        Returns:
            The claim and the bytes; b"" for a file that was set aside.

        Raises:
            Changed: The file is being written, or was replaced; it was put back.
            FileNotFoundError: The file is gone.
        """
        claim = yield from self._taken(source, examined.st_ctime_ns)
        try:
            return (yield from self._seal(claim, examined, max_bytes))
        except (Changed, OSError) as error:
            self._put_back(claim)
            if isinstance(error, OSError) and error.errno not in NOT_REGULAR:
                raise
            raise Changed from error

    def set_aside(self, source: str, reason: str) -> Claim:
        """Claim a file that must not be read; its job fails with `reason`.

        Raises:
            FileNotFoundError: The file is gone, or replaced by something that is not a regular file.
        """
        claim = alone(self._taken(source))
        try:
            status = os.lstat(claim.folder.original)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, "it is no longer a regular file", source)
            self._deaths.pop(source, None)  # a corrected file of this name is read again
            return claim.changed(set_aside=reason, withheld=status.st_nlink > 1)
        except OSError:
            self._put_back(claim)
            raise

    def _taken(self, source: str, dropped_ns: int = 0) -> Durably[Claim]:
        """Claim a file with one rename; a failed claim is removed."""
        claim = yield from self._new_claim(source, dropped_ns)
        try:
            with opened_folder(self.inbox, source) as (folder, name):
                os.rename(name, claim.folder.original, src_dir_fd=folder)
        except OSError:
            # A retransmitted NFS request can report an error although the first one succeeded.
            if not os.path.lexists(claim.folder.original):
                remove_tree(claim.folder.path)
                raise
        return claim

    def _new_claim(self, source: str, dropped_ns: int) -> Durably[Claim]:
        """A claim without its file. It is described on disk before it is among the claims."""
        claimed_ns, spare = self._unused_time_ns(), self._spares.take(PurePosixPath(source).suffix)
        folder = self.folder_of(_job_id(claimed_ns))
        try:
            claim = Claim(ClaimFolder(spare), Record(spare / DESCRIPTION), source, claimed_ns, dropped_ns=dropped_ns)
            yield [claim.write()]
            os.rename(spare, folder.path)
        except OSError:
            remove_tree(spare)
            raise
        return replace(claim, folder=folder, record=Record(folder.path / DESCRIPTION, claim.record.changes))

    def _unused_time_ns(self) -> int:
        """The time, later than that of all claims of this daemon, and of no claim that is there (Unix time, ns)."""
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        while self.folder_of(_job_id(self._last_ns)).path.exists():
            self._last_ns += 1
        return self._last_ns

    def _seal(self, claim: Claim, examined: os.stat_result, max_bytes: int) -> Durably[tuple[Claim, bytes]]:
        """Copy the bytes of a renamed file, and check that nobody still writes it through an open descriptor."""
        with opened_regular(claim.folder.original) as (fd, status):
            # A new hard link: it may be another user's file, which is checked in the inbox.
            is_linked = status.st_nlink > max(1, examined.st_nlink)
            if _content(status) != _content(examined) or is_being_written(fd) or is_linked:
                raise Changed
            if status.st_size > max_bytes:
                return claim.changed(set_aside=too_large_reason(max_bytes)), b""
            data, is_reused = read_at_most(fd, max_bytes), claim.job_file.exists()
            copy = create(claim.job_file, data, may_exist=True)
            if identity(os.fstat(fd)) != identity(status):
                os.close(copy)
                raise Changed
        yield [copy] if is_reused else [copy, claim.folder.path]  # a spare folder has had all names before
        sha256 = _digest(data)
        file = claim.source, sha256, status.st_mtime_ns
        warnings = tuple(map(_duplicate_warning, filter(None, [self.lately.recall(*file)])))
        yield [claim.record.write(sha256=sha256, warnings=warnings)]
        self.lately.note(*file)
        return replace(claim, sha256=sha256, warnings=warnings), data

    def _put_back(self, claim: Claim) -> None:
        """Undo a claim. If the name is taken, the file gets another name; if its folder is gone or not writable, it is
        put into the inbox itself.

        Raises:
            Hold: The file system refuses. The file stays in its claim, for `recover`.
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
                    # Written first, so that `recover` knows both names if a crash leaves both.
                    claim.record.add(source=wanted)
                if rename_to_free_name(claim.folder.original, free, folder):
                    return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), source)

    def split(self, claim: Claim, documents: Sequence[bytes]) -> Generator[None, None, list[Claim]]:
        """Split a file of several documents into one claim each, one per step. The claim of the file is released when
        all of them are on disk.

        After a crash in between, the claim of the file is still there, and `split` starts again.
        """
        children = []
        for number, data in enumerate(documents, start=1):
            folder = self.folder_of(f"{claim.job_id}-{number}")
            remove_tree(folder.path)
            folder.path.mkdir(mode=0o700)
            child = replace(
                claim, folder=folder, record=folder.record(),
                document=number, documents=len(documents), sha256=_digest(data),
            )  # fmt: skip
            write_new(child.job_file, data)
            sync_and_close([child.write(), folder.path])
            children.append(child)
            yield
        fsync(claim.folder.path.parent)
        self.release(claim)
        fsync(claim.folder.path.parent)  # else a power failure could restore the claim after some jobs are published
        return children

    # --- recover -----------------------------------------------------------------------------------

    def claimed_ids(self) -> list[str]:
        """IDs of all claims, oldest first. Removes documents of a file whose split was interrupted."""
        ids = set(os.listdir(self.state / "claimed"))
        half_split = {job_id for job_id in ids if job_id.rpartition("-")[0] in ids}
        for job_id in half_split:
            remove_tree(self.folder_of(job_id).path)
        return sorted(ids - half_split)

    def recover(self, job_id: str, max_bytes: int) -> Claim | None:
        """Read a claim after a restart, and complete it.

        Returns:
            The claim; None if its file is in the inbox, because a crash came before the rename or the file was put
            back.
        """
        folder = self.folder_of(job_id)
        described = Claim.read(folder)
        claim = described or self._unknown(folder)
        if not claim.document and (self._is_in_inbox(claim) or _is_of_another(described)):
            remove_tree(folder.path)
            return None
        if described is None:
            claim.describe()
        if claim.sha256 or claim.set_aside:
            return claim
        claim.job_file.unlink(missing_ok=True)
        try:
            data = self._read_again(claim, max_bytes)
        except (Changed, OSError):  # an error of this file alone, not of the disk
            self._put_back(claim)
            return None
        if len(data) > max_bytes:
            return claim.changed(set_aside=too_large_reason(max_bytes))
        write_new(claim.job_file, data)
        fsync(claim.folder.path)
        return claim.changed(sha256=_digest(data))

    def _unknown(self, folder: ClaimFolder) -> Claim:
        """A claim whose description is damaged. A document of a file that was split has a copy, but no original."""
        name, number = f"recovered-{folder.job_id}", folder.job_id.partition("-")[2]
        claimed_ns = _claimed_ns(folder.job_id) or time.time_ns()
        for suffix in JOB_SUFFIXES if number.isdigit() else ():
            with contextlib.suppress(FileNotFoundError):
                digest = _digest(folder.copy(suffix).read_bytes())
                return Claim(folder, folder.record(), name + suffix, claimed_ns, document=int(number), sha256=digest)
        return Claim(folder, folder.record(), f"{name}.yaml", claimed_ns)

    def _is_in_inbox(self, claim: Claim) -> bool:
        """Whether the file of a claim is in the inbox: it was never renamed, or was put back."""
        try:
            mine = os.lstat(claim.folder.original)
        except FileNotFoundError:
            return True
        if mine.st_nlink == 1:
            return False
        # Two links: a crash may have interrupted `rename_to_free_name` after the link.
        try:
            with opened_folder(self.inbox, claim.source) as (folder, name):
                return os.path.samestat(mine, os.lstat(name, dir_fd=folder))
        except OSError:  # the folder may be another user's
            return False

    def _read_again(self, claim: Claim, max_bytes: int) -> bytes:
        """Read a file that was ready before a crash. Its old status is unknown; only writers and links are checked."""
        with opened_regular(claim.folder.original) as (fd, status):
            if is_being_written(fd) or status.st_nlink > 1:  # links are checked in the inbox
                raise Changed
            return read_at_most(fd, max_bytes)

    # --- daemon deaths while reading a file --------------------------------------------------------

    @contextlib.contextmanager
    def reading(self, source: str) -> Iterator[None]:
        """Record on disk which file is being read, in case that kills the daemon."""
        os.pwrite(self._reading, to_json({"source": source}), 0)
        try:
            yield
        finally:
            os.ftruncate(self._reading, 0)

    def deaths(self, source: str) -> int:
        """Number of consecutive daemons that died while reading this file."""
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
        """Release a claim with one rename. Its files are removed now, or later by `remove_released`."""
        os.rename(claim.folder.path, self.state / "trash" / claim.job_id)
        if not later:
            self.remove_released(claim.job_id)

    def remove_released(self, job_id: str) -> None:
        released = self.state / "trash" / job_id
        with contextlib.suppress(OSError):
            if not self._spares.keep(released):
                remove_tree(released)

    def empty_trash(self) -> None:
        """Remove released claims, and spare folders, of an earlier daemon."""
        for name in ("trash", "spare"):
            for entry in list((self.state / name).iterdir()):
                remove_tree(entry)

    def refuses(self) -> OSError | None:
        """The error if the state folder can't be written or the inbox can't be read; else None."""
        try:
            replace_file(self.state / "probe", bytes(PROBE_BYTES))
            (self.state / "probe").unlink()
            with os.scandir(self.inbox) as entries:
                next(entries, None)
        except OSError as error:
            return error
        return None

    def check(self) -> None:
        """Check that the inbox is the one that was opened.

        Raises:
            InboxGone: It is missing, or is another one.
        """
        try:
            inbox_id = read_id(self.state) if self.folder.is_in_place() else None
        except OSError as error:
            where = f"{self.inbox} or its state folder {self.folder.real}"
            raise InboxGone(f"the inbox {where} can't be read: {error.strerror}") from error
        if inbox_id != self.inbox_id or not self.inbox.is_dir():
            raise InboxGone(f"the inbox {self.inbox} is missing, or is not the one that was opened")


def read_id(state: Path) -> str | None:
    """The ID of an inbox, from its state folder; None if it has none (yet)."""
    try:
        with opened_regular(state / "id") as (fd, _status):
            return read_at_most(fd, MAX_ID_BYTES).decode(errors="replace").strip() or None
    except (FileNotFoundError, NotADirectoryError):
        return None


def _new_id(state: Path) -> str:
    new = secrets.token_hex(8)
    replace_file(state / "id", f"{new}\n".encode())
    return new


def _bring_to_format(state: Path, shown: Path) -> None:
    """Raises ConfigError if a newer version of voicespool wrote the folder."""
    try:
        version = (state / "format").read_text().strip()
    except FileNotFoundError:
        version = ""
    if version == FORMAT:
        return
    if version not in {"", "1"}:
        raise ConfigError(
            f"{shown} has format {version!r}; this version of voicespool reads format {FORMAT}",
            "Use the version of voicespool that wrote it, or let that version finish all jobs and start this one with "
            "an empty state folder.",
        )
    format1.convert(state / "claimed")
    replace_file(state / "format", f"{FORMAT}\n".encode())


def _job_id(claimed_ns: int) -> str:
    seconds, fraction = divmod(claimed_ns, 1_000_000_000)
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{fraction:09d}"


def _is_of_another(claim: Claim | None) -> bool:
    """Whether a description belongs to a later job: a power failure undid the moves of a released folder that was used
    again, but not what was written into it (Btrfs). The released job is published; the later one is in the inbox again.
    """
    if claim is None or claim.sha256 or claim.set_aside:  # then the folder's own moves are on disk, too
        return False
    return _claimed_ns(claim.job_id) not in {None, claim.claimed_ns}


def _claimed_ns(job_id: str) -> int | None:
    """The reverse of `_job_id`, also for a document; None for anything else."""
    date_time, _, fraction_ns = job_id.partition("-")[0].partition(".")
    try:
        seconds = calendar.timegm(time.strptime(date_time, "%Y%m%dT%H%M%S"))
        return seconds * 1_000_000_000 + int(fraction_ns)
    except ValueError:
        return None


def _content(status: os.stat_result) -> tuple[int, int, int, int]:
    """What a rename does not change; the ctime may change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def too_large_reason(max_bytes: int) -> str:
    """Why a file that is too large is set aside."""
    return f"the file is larger than limits.job_file_bytes ({max_bytes} bytes)"


def _duplicate_warning(claimed_at: str) -> str:
    return (
        f"The same file, with the same modification time, was claimed at {claimed_at} already. A sync tool may have "
        "restored it; `ready.on_duplicate: skip` ignores such files."
    )


def deaths_reason(deaths: int) -> str:
    """Why a file that crashes the daemon is set aside."""
    return f"the daemon died {deaths} times in a row while reading this file"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
