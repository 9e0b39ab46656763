"""Whether a job file in the inbox is ready to be claimed; if not, why, and when to look again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from files.opens import (
    HARD_LINKED,
    content_of,
    is_being_written,
    maybe_foreign_link,
    opened_folder,
    opened_regular,
    read_at_most,
)
from jobs.errors import JobInvalid
from jobs.spec.parse import Document
from jobs.spool.places import Places
from jobs.spool.reading import Reading
from jobs.spool.store import deaths_reason, too_large_reason
from watcher.config.settings import Limits, ReadyConfig
from watcher.daemon.companions import Companions, Needs
from watcher.log import log

LOOK_AGAIN_S = 0.5
ROOM_LOOK_S = 5.0
LINKED = f"the file {HARD_LINKED}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that is ready to be claimed.

    Attributes:
        source: Path in the inbox, `/` separated.
        status: Its state when it was read.
        data: Its bytes; b"" when it was not read.
        documents: The parsed documents; None when it was not read or is invalid. Claiming it then fails the job.
        invalid: Why it is no valid job file.
        set_aside: Why it must not be read; "" for all others.
    """

    source: str
    status: os.stat_result
    data: bytes = b""
    documents: tuple[Document, ...] | None = None
    set_aside: str = ""
    invalid: JobInvalid | None = None


@dataclass(slots=True)
class Sighting:
    """A job file that was seen and is not claimed yet. Times are monotonic seconds.

    Attributes:
        content: Hash of device, inode, size and mtime; another one means that the file changed.
        still_since: When this content was first seen.
        moved: It appeared by a rename, so its writer is done.
        sweep: Number of the sweep that saw it last.
        parsed_since: When it could first be parsed; the wait for companion files starts then.
        due: When to look again; infinity for after the next event.
        reason: Why it waits; "" before the first look.
        since: When that reason began, Unix time.
        held: The file system refused something; the operator has to act.
        reading: A reader is parsing it, or just has.
        digest: SHA-256, hex, of the bytes that `reading` and `needs` belong to.
        needs: The companion files that it needs, if it was parsed before.
    """

    source: str
    content: int
    still_since: float
    moved: bool
    sweep: int
    parsed_since: float = 0.0
    due: float = 0.0
    reason: str = ""
    since: float = 0.0
    held: bool = False
    reading: Reading | None = None
    digest: str = ""
    needs: Needs | None = None


@dataclass(frozen=True, slots=True)
class ArrivalPolicy:
    """What the configuration and the file system decide about readiness."""

    ready: ReadyConfig
    limits: Limits
    network: bool

    @property
    def quiet_s(self) -> float:
        return self.ready.network_quiet_s if self.network else self.ready.quiet_s


class Wait(Exception):
    """Not ready: why, and when to look again (monotonic seconds)."""

    def __init__(self, reason: str, due: float = float("inf"), *, held: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.due, self.held = reason, due, held


@dataclass(slots=True)
class Readiness:
    """Looks inside job files.

    Attributes:
        places: Where companion files may be, now: a reload can change it, and `policy`.
        read: Has a job file's bytes parsed, given its path in the inbox; None while too many others are being read.
        deaths: How many daemons in a row died while reading a file.
        lacks_room: Why recordings can't be copied now, given their paths; "" when they can.
        recall: When a file with this path, digest and modification time (ns) was claimed in the last day; "" if not.
        clock: Monotonic seconds.
        waiting_for_companions: Paths of files that wait for companion files.
        being_read: Readings that have not ended, by path.
        to_be_read: Paths of files that wait for others to be read, in order.
    """

    inbox: Path
    places: Callable[[], Places]
    policy: Callable[[], ArrivalPolicy]
    read: Callable[[bytes, str], Reading | None]
    deaths: Callable[[str], int]
    lacks_room: Callable[[Sequence[Path]], str] = lambda _paths: ""
    recall: Callable[[str, str, int], str] = lambda *_: ""
    clock: Callable[[], float] = time.monotonic
    companions: Companions = field(default_factory=Companions)
    waiting_for_companions: set[str] = field(default_factory=set)
    being_read: dict[str, Reading] = field(default_factory=dict)
    to_be_read: dict[str, None] = field(default_factory=dict)

    def arrival(self, sighting: Sighting, now: float) -> Arrival:
        """Look inside a file that has been quiet.

        Raises:
            Wait: It is not ready.
            OSError: It can't be read, or is gone.
        """
        with (
            opened_folder(self.inbox, sighting.source) as (folder, name),
            opened_regular(name, folder) as (fd, status),
        ):
            self._check_quiet(sighting, fd, status, now)
            grace_ends = sighting.still_since + self.policy().ready.unparsable_grace_s
            has_grace = not sighting.moved and now < grace_ends
            if reason := self._why_unread(sighting.source, status, os.fstat(folder)):
                if reason == LINKED and now < grace_ends:  # a writer may link its file and then remove the first name
                    raise Wait(reason, grace_ends)
                return Arrival(sighting.source, status, set_aside=reason)
            may_be_open, data = is_being_written(fd) is None, read_at_most(fd, self.policy().limits.job_file_bytes)
        self._note_digest(sighting, data)
        self._skip_duplicate(sighting, status)
        if sighting.needs is not None and sighting.reading is None:  # parsed before, so parse it no more than needed
            self._wait_for_companions(sighting, now)
        try:
            documents = self._documents(sighting, data)
        except JobInvalid as invalid:
            if invalid.maybe_unfinished and has_grace:
                raise Wait(f"it can't be parsed yet ({invalid.problems[0]})", grace_ends) from None
            return Arrival(sighting.source, status, data, invalid=invalid)
        if documents[-1].maybe_unfinished and has_grace:
            raise Wait("its end is missing; more bytes may follow", grace_ends)
        if may_be_open and has_grace and not _looks_finished(data):
            raise Wait("its last line has no line end; more bytes may follow", grace_ends)
        sighting.needs = Needs.of(documents)
        self._wait_for_companions(sighting, now)
        return Arrival(sighting.source, status, data, documents)

    def _check_quiet(self, sighting: Sighting, fd: int, status: os.stat_result, now: float) -> None:
        """Raise Wait while somebody may be writing to a file."""
        if (content := content_of(status)) != sighting.content:
            sighting.content, sighting.still_since, sighting.moved = content, now, False
            sighting.parsed_since = 0.0
        quiet_at = sighting.still_since + self.policy().quiet_s
        if status.st_size == 0:
            raise Wait("it is empty")
        if not sighting.moved and now < quiet_at:
            raise Wait("it appeared or changed just now; it may still be written", quiet_at)
        if is_being_written(fd) is True:
            raise Wait("a program has it open for writing", now + LOOK_AGAIN_S)

    def _why_unread(self, source: str, status: os.stat_result, folder: os.stat_result) -> str:
        """Why a file must fail without being read; "" when it may be read."""
        limits = self.policy().limits
        if maybe_foreign_link(status, folder):
            return LINKED
        if status.st_size > limits.job_file_bytes:
            return too_large_reason(limits.job_file_bytes)
        if (deaths := self.deaths(source)) >= limits.daemon_deaths:
            return deaths_reason(deaths)
        return ""

    def _note_digest(self, sighting: Sighting, data: bytes) -> None:
        """Forget the results of parsing other bytes."""
        digest = hashlib.sha256(data).hexdigest()
        if digest != sighting.digest:
            sighting.digest, sighting.reading, sighting.needs = digest, None, None

    def _skip_duplicate(self, sighting: Sighting, status: os.stat_result) -> None:
        """With ready.on_duplicate: skip, raise Wait for a file that was claimed before and is unchanged."""
        if self.policy().ready.on_duplicate == "render":
            return
        if at := self.recall(sighting.source, sighting.digest, status.st_mtime_ns):
            reason = f"skipped: the same file was claimed at {at} (ready.on_duplicate: skip)"
            if reason != sighting.reason:
                log.warning("file skipped", action="skip", file=sighting.source, reason=reason)
            raise Wait(reason)

    def _documents(self, sighting: Sighting, data: bytes) -> tuple[Document, ...]:
        """The documents of a file. Raises JobInvalid, or Wait while a reader is parsing it."""
        if sighting.reading is None:
            sighting.reading = self.read(data, sighting.source)
        if sighting.reading is None:
            self.to_be_read[sighting.source] = None
            raise Wait("it waits until other files have been read")
        if not sighting.reading.ended:
            self.being_read[sighting.source] = sighting.reading
            raise Wait("it is being read")
        reading, sighting.reading = sighting.reading, None
        return reading.documents()

    def _wait_for_companions(self, sighting: Sighting, now: float) -> None:
        """Raise Wait while a companion file is missing, for at most ready.companions_s, or can't be copied."""
        sighting.parsed_since = sighting.parsed_since or now
        deadline, needs = sighting.parsed_since + self.policy().ready.companions_s, sighting.needs
        if needs is None or not needs.recordings:
            return
        find = partial(self.places().find, job_folder=(self.inbox / sighting.source).parent)
        if now < deadline and (reason := self.companions.waited_for(needs, find, now, self.policy().quiet_s)):
            self.waiting_for_companions.add(sighting.source)
            look_took_s = self.clock() - now
            raise Wait(reason, min(now + max(1.0, 50 * look_took_s), deadline))
        if reason := self.lacks_room(needs.paths):
            raise Wait(reason, now + ROOM_LOOK_S, held=True)


def _looks_finished(data: bytes) -> bool:
    """Whether a file that may still be open has a complete last line."""
    return data.rstrip(b" \t\0").endswith((b"\n", b"}", b"]"))
