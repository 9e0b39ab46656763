"""What is in the inbox, and why each file is or is not ready.

The scan is the truth, events are hints: they say where to look first, and that a file came by a rename. Work is done
in small steps, so that the daemon can tend to the running job between any two.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path

from files.opens import (
    HARD_LINKED,
    content_of,
    is_being_written,
    listed,
    maybe_foreign_link,
    opened_folder,
    opened_regular,
    read_at_most,
)
from jobs.errors import JobInvalid
from jobs.names import natural
from jobs.spec.parse import Document
from jobs.spool.inbox_names import JOB_SUFFIXES, PAUSE, is_cancel_name, is_job_name, is_walked, why_ignored
from jobs.spool.places import Places
from jobs.spool.reading import Reading
from jobs.spool.store import NOT_REGULAR, deaths_reason, too_large_reason
from watcher.client.status import SHOWN
from watcher.config.settings import Limits, ReadyConfig
from watcher.daemon import refusals
from watcher.daemon.companions import Companions, Needs
from watcher.daemon.events import Events
from watcher.log import log

LOOK_AGAIN_S = 0.5
ROOM_LOOK_S = 5.0
LINKED = f"the file {HARD_LINKED}"
ENTRIES_A_STEP = 64
JOBS_A_STEP = 16
HINTS_A_STEP = 100
DEEPEST, MAX_BYTES = 64, 4096
TOO_DEEP = f"more than {DEEPEST} folders deep, or its path has more than {MAX_BYTES} bytes"
MANY = 10_000
RUN = 10_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that is ready to be claimed.

    Attributes:
        source: Path in the inbox, `/` separated.
        status: Its state when it was looked at.
        data: Its bytes then; b"" when it was not read.
        documents: What they say; None when they are no job file at all, and then claiming it makes it fail.
        invalid: Why they are none.
        set_aside: Why it is not to be read; empty for all others.
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
        moved: It came by a rename, so its writer is done.
        parsed_since: When it was first readable; what it needs beside it is waited for from then on.
        due: When to look again; infinity for when something happens.
        reason: Why it waits, in words; empty before the first look.
        held: It waits for the operator: the file system refused something.
        reading: It is being read elsewhere, or has just been.
        digest: SHA-256, hex, of the bytes that `reading` and `needs` are about.
        needs: What was read of it before, as far as it says what has to be there too.
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


@dataclass(slots=True)
class ArrivalPolicy:
    """What the configuration and the file system say about readiness."""

    ready: ReadyConfig
    limits: Limits
    network: bool

    @property
    def quiet_s(self) -> float:
        return self.ready.network_quiet_s if self.network else self.ready.quiet_s


@dataclass(frozen=True, slots=True)
class Listing:
    """What a listing of a folder found, as paths in the inbox; of jobs, also runs that are in order."""

    folders: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    runs: list[list[str]] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)


class Wait(Exception):
    """Not ready: why, and when to look again (monotonic seconds)."""

    def __init__(self, reason: str, due: float = float("inf"), *, held: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.due, self.held = reason, due, held


@dataclass(slots=True)
class Arrivals:
    """The inbox as the spool sees it.

    Attributes:
        read: Has a job file's bytes parsed, given its path in the inbox; None when it has to wait for others.
        lacks_room: Why recordings can't be copied now, given their paths; "" when they can.
        deaths: How many daemons have died in a row while reading a file.
        recall: When a file of this path, digest and modification time (ns) was claimed within the last day, in words.
        clock: Monotonic seconds.
        cancels: Paths of `NAME.cancel` files found.
        ignored: Paths left alone, and why; the first 1,000 of the last sweep.
        ignored_count: How many there are in all.
        changes: Grows with each change of what there is to tell of the inbox's files.
        looked_around: Whether the inbox was looked at as a whole since it was opened; all its folders are watched then.
    """

    inbox: Path
    places: Places
    policy: ArrivalPolicy
    events: Events
    read: Callable[[bytes, str], Reading | None]
    deaths: Callable[[str], int]
    lacks_room: Callable[[Sequence[Path]], str] = lambda _paths: ""
    recall: Callable[[str, str, int], str] = lambda *_: ""
    clock: Callable[[], float] = time.monotonic
    cancels: set[str] = field(default_factory=set)
    ignored: dict[str, str] = field(default_factory=dict)
    ignored_count: int = 0
    changes: int = 0
    looked_around: bool = False
    _sightings: dict[str, Sighting] = field(default_factory=dict)
    _agenda: list[tuple[float, int, str]] = field(default_factory=list)
    _ticks: Iterator[int] = field(default_factory=count)
    _companions: Companions = field(default_factory=Companions)
    _expectant: set[str] = field(default_factory=set)
    _hints: deque[tuple[str, bool]] = field(default_factory=deque)
    _read_elsewhere: dict[str, Reading] = field(default_factory=dict)
    _to_be_read: dict[str, None] = field(default_factory=dict)
    _walk: Iterator[None] | None = None
    _sweep: int = 0
    _sweep_began: float = 0.0
    _sweep_due: float = float("-inf")

    # --- what the daemon calls ---------------------------------------------------------------------

    def take_hints(self) -> None:
        """Look at what events point to, some of it; the rest at the next call."""
        hints = self.events.take()
        if hints.lost:
            self.sweep_soon()
        self._hints.extend((path, True) for path in sorted(hints.moved, key=natural))
        self._hints.extend((path, False) for path in sorted(hints.touched - hints.moved, key=natural))
        if not all(map(is_job_name, map(os.path.basename, hints.moved | hints.touched))):
            self._wake_those_that_wait_for_companions()
        for _ in range(min(len(self._hints), HINTS_A_STEP)):
            path, moved = self._hints.popleft()
            self._hinted(path, moved=moved)

    def sweep_soon(self) -> None:
        """Look at the whole inbox at the next occasion; if that is being done, once more after it."""
        self._sweep_due = float("-inf")

    def next(self, budget_s: float) -> Arrival | None:
        """Work until a file is ready, there is nothing to do, or the budget (seconds) is spent."""
        deadline = self.clock() + budget_s
        while (now := self.clock()) < deadline:
            if self._agenda and self._agenda[0][0] <= now:
                if arrival := self._look_at_due(now):
                    return arrival
            elif not self._go_on_sweeping(now):
                break
        return None

    def busy(self) -> bool:
        """Whether `next` has work right now."""
        return self._walk is not None or self.due_in(self.clock()) <= 0

    def due_in(self, now: float) -> float:
        """Seconds until `next` has work, if no event comes first."""
        if self._hints:
            return 0.0
        look = self._agenda[0][0] if self._agenda else float("inf")
        return max(0.0, min(self._sweep_due, look) - now)

    def settled(self) -> bool:
        """Whether the inbox was looked at as a whole and every file that still waits may wait for ever."""
        swept = self._walk is None and self._sweep_due != float("-inf")
        return (
            swept
            and not self._to_be_read
            and all(
                sighting.held or (sighting.due == float("inf") and sighting.reading is None)
                for sighting in self._sightings.values()
            )
        )

    def readings_may_have_ended(self) -> None:
        """Look again at the files that were being read elsewhere, if they have been, and for each of them at one that
        has to be read; also when none is being read.
        """
        ended = [source for source, reading in self._read_elsewhere.items() if reading.ended]
        for source in ended:
            del self._read_elsewhere[source]
            if (sighting := self._sightings.get(source)) and sighting.reading is not None:
                self._plan(sighting, self.clock())
        turns = len(ended) or int(not self._read_elsewhere)
        while turns and self._to_be_read:
            source = next(iter(self._to_be_read))
            del self._to_be_read[source]
            if sighting := self._sightings.get(source):
                self._plan(sighting, self.clock())
                turns -= 1

    def forget(self, source: str) -> None:
        """The file was claimed, or is gone."""
        self.changes += self._sightings.pop(source, None) is not None

    def look_again(self, source: str) -> None:
        """The file changed while it was being claimed: as if it had just come."""
        self.forget(source)
        self._sight(source, moved=False)

    def hold(self, source: str, reason: str) -> None:
        """The file system refuses to hand the file over: keep it alone, and try again at the next sweep."""
        if sighting := self._sightings.get(source):
            self._wait(sighting, Wait(reason, held=True))

    def waiting(self, *, held: bool) -> list[Sighting]:
        """Files that wait (or are held), at most 1,000, longest first."""
        return list(islice((s for s in self._sightings.values() if s.reason and s.held == held), SHOWN))

    def counts(self) -> dict[str, int]:
        held = sum(sighting.held for sighting in self._sightings.values())
        unseen = sum(not sighting.reason for sighting in self._sightings.values())
        waiting = len(self._sightings) - held - unseen
        return {"ready": unseen, "waiting": waiting, "held": held, "ignored": self.ignored_count}

    def named(self, name: str) -> list[str]:
        """Paths of unclaimed job files that `NAME.cancel` means, also those that were not seen yet."""
        for suffix in JOB_SUFFIXES:
            for source in (name + suffix, name + suffix.upper()):
                if source not in self._sightings and is_job_name(os.path.basename(source)):
                    self._sight(source, moved=False)
        return [source for source in self._sightings if source.rpartition(".")[0] == name]

    def paused(self) -> bool:
        return os.path.lexists(self.inbox / PAUSE)

    # --- sweeping ----------------------------------------------------------------------------------

    def _go_on_sweeping(self, now: float) -> bool:
        if self._walk is None:
            if self._sweep_due > now:
                return False
            self._sweep += 1
            self._walk, self._sweep_began, self._sweep_due = self._sweeping(), now, float("inf")
        if next(self._walk, self) is self:
            self._walk = None
            self.looked_around = True
            ended = self.clock()
            # A twentieth of the time at most, however large the inbox is; at once if somebody asked meanwhile.
            pause_s = max(self.policy.ready.scan_s, 20 * (ended - self._sweep_began))
            self._sweep_due = min(self._sweep_due, ended + pause_s)
        return True

    def _sweeping(self) -> Iterator[None]:
        """Walk the inbox, a few entries a step, folders in natural order. Of what is ignored only a part is kept."""
        before = self.ignored, self.ignored_count
        self.ignored, self.ignored_count = {}, 0
        folders = [""]
        while folders:
            folder = folders.pop()
            self.events.watch(self.inbox / folder)
            found = Listing()
            yield from self._listing(folder, found)
            yield from self._sighting(heapq.merge(*found.runs, sorted(found.jobs, key=_by_name), key=_by_name))
            self.cancels.update(found.cancels)  # now that the files that they may mean are known
            folders.extend(sorted(found.folders, key=_by_name, reverse=True))
            yield
        gone = [sighting.source for sighting in self._sightings.values() if sighting.sweep != self._sweep]
        yield from self._sighting(gone)
        self.changes += (self.ignored, self.ignored_count) != before

    def _listing(self, folder: str, found: Listing) -> Iterator[None]:
        """List a folder. A subfolder that refuses is held; an inbox that does is not there."""
        try:
            with listed(self.inbox, folder) as entries:
                for number, entry in enumerate(entries):
                    self._sort_out(f"{folder}/{entry.name}" if folder else entry.name, entry, found)
                    if number % ENTRIES_A_STEP == ENTRIES_A_STEP - 1:
                        yield
        except OSError as error:
            if not folder:
                raise
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                self._refused(folder + "/", error)

    def _sort_out(self, source: str, entry: os.DirEntry[str], found: Listing) -> None:
        """Say of one entry what it is: a folder, a job, a cancellation, or nothing to look at."""
        if _is_too_deep(source):
            self._ignore(source, TOO_DEEP)
        elif _is_folder(entry):
            if is_walked(entry.name):
                found.folders.append(source)
            elif self.inbox / source != self.places.state:
                self._ignore(f"{source}/", "a hidden or system folder; no job is looked for in it")
        elif is_cancel_name(entry.name) and entry.is_file(follow_symlinks=False):
            found.cancels.append(source)
        elif not is_job_name(entry.name):
            if source != PAUSE:
                self._ignore(source, why_ignored(entry.name) or "")
        elif entry.is_symlink():
            self._ignore(source, "a symbolic link is never opened")
        else:
            found.jobs.append(source)
            if len(found.jobs) == RUN:  # so that nothing is ever sorted for long
                found.runs.append(sorted(found.jobs, key=_by_name))
                found.jobs.clear()

    def _sighting(self, sources: Iterable[str]) -> Iterator[None]:
        for number, source in enumerate(sources):
            self._sight(source, moved=False)
            if number % JOBS_A_STEP == JOBS_A_STEP - 1:
                yield

    def _ignore(self, source: str, reason: str) -> None:
        self.ignored_count += 1
        if len(self.ignored) < SHOWN:
            self.ignored[source] = reason

    # --- seeing ------------------------------------------------------------------------------------

    def _hinted(self, path: str, *, moved: bool) -> None:
        source = os.path.relpath(path, self.inbox)
        parts = source.split("/")
        if not all(map(is_walked, parts[:-1])) or _is_too_deep(source):
            return
        if is_job_name(parts[-1]):
            self._sight(source, moved=moved)
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            return
        if source == "." or stat.S_ISDIR(mode):
            self.sweep_soon()
        elif is_cancel_name(parts[-1]) and stat.S_ISREG(mode):
            self.cancels.add(source)

    def _sight(self, source: str, *, moved: bool) -> None:
        """See a job file: note its state, and look inside when it has been still for long enough."""
        now = self.clock()
        try:
            status = self._status(source)
        except (FileNotFoundError, NotADirectoryError):
            self.forget(source)
            return
        except OSError as error:
            self._refused(source, error)
            return
        if not stat.S_ISREG(status.st_mode):
            self.forget(source)
            if not stat.S_ISDIR(status.st_mode):
                self._ignore(source, "not a regular file; it is never opened")
                self.changes += self._walk is None
            return
        content, sighting = content_of(status), self._sightings.get(source)
        if status.st_size == 0 and sighting is None and len(self._sightings) > MANY:
            self._ignore(source, "it is empty, as many others are; it is looked at again when it has content")
            return
        if sighting is None or sighting.content != content:
            sighting = Sighting(source, content, now, moved, self._sweep)
            self._sightings[source] = sighting
            self._plan(sighting, now if moved else now + self.policy.quiet_s)
            if not moved:
                self._say(sighting, "it came or changed just now; it may still be written")
        else:
            sighting.moved |= moved
            if moved or sighting.held or sighting.due == float("inf"):
                self._plan(sighting, now)
        sighting.sweep = self._sweep

    def _status(self, source: str) -> os.stat_result:
        """A file's state; on a network file system by opening it, since attributes alone are cached there."""
        with opened_folder(self.inbox, source) as (folder, name):
            status = os.lstat(name, dir_fd=folder)
            if self.policy.network and stat.S_ISREG(status.st_mode):
                with opened_regular(name, folder) as (_fd, status):
                    pass
            return status

    def _refused(self, source: str, error: OSError) -> None:
        now = self.clock()
        sighting = self._sightings.setdefault(source, Sighting(source, 0, now, False, self._sweep))
        sighting.sweep = self._sweep
        self._wait(sighting, Wait(refusals.reason("it can't be read", self.inbox, source, error), held=True))

    def _plan(self, sighting: Sighting, due: float) -> None:
        sighting.due = due
        if due != float("inf"):
            heapq.heappush(self._agenda, (due, next(self._ticks), sighting.source))

    def _say(self, sighting: Sighting, reason: str, *, held: bool = False) -> None:
        if reason != sighting.reason:
            sighting.reason, sighting.since = reason, time.time()
            self.changes += 1
            if held:  # status.json may be on the disk that is full
                log.warning("file held", action="hold", file=sighting.source, reason=reason)
        sighting.held = held

    def _wait(self, sighting: Sighting, wait: Wait) -> None:
        self._say(sighting, wait.reason, held=wait.held)
        self._plan(sighting, wait.due)

    # --- looking inside ----------------------------------------------------------------------------

    def _look_at_due(self, now: float) -> Arrival | None:
        due, _tick, source = heapq.heappop(self._agenda)
        sighting = self._sightings.get(source)
        if sighting is None or sighting.due != due:
            return None
        try:
            return self._look(sighting, now)
        except Wait as wait:
            self._wait(sighting, wait)
        except (FileNotFoundError, NotADirectoryError):
            self.forget(source)
        except OSError as error:
            if error.errno in NOT_REGULAR:  # swapped for a link, a pipe or the like
                self.forget(source)
            else:
                self._refused(source, error)
        return None

    def _look(self, sighting: Sighting, now: float) -> Arrival:
        """Look inside a file that has been still.

        Raises:
            Wait: It is not ready.
            OSError: It can't be read, or is gone.
        """
        with (
            opened_folder(self.inbox, sighting.source) as (folder, name),
            opened_regular(name, folder) as (fd, status),
        ):
            self._check_still(sighting, fd, status, now)
            grace_ends = sighting.still_since + self.policy.ready.unparsable_grace_s
            has_grace = not sighting.moved and now < grace_ends
            if reason := self._not_to_be_read(sighting.source, status, os.fstat(folder)):
                if reason == LINKED and now < grace_ends:  # another name of its writer's own may be about to go
                    raise Wait(reason, grace_ends)
                return Arrival(sighting.source, status, set_aside=reason)
            unknown, data = is_being_written(fd) is None, read_at_most(fd, self.policy.limits.job_file_bytes)
        self._note_bytes(sighting, data)
        self._skip_what_came_back(sighting, status)
        if sighting.needs is not None and sighting.reading is None:  # it was read before
            self._wait_for_companions(sighting, now)
        try:
            documents = self._documents(sighting, data)
        except JobInvalid as invalid:
            if invalid.maybe_unfinished and has_grace:
                raise Wait(f"it can't be read yet ({invalid.problems[0]})", grace_ends) from None
            return Arrival(sighting.source, status, data, invalid=invalid)
        if documents[-1].maybe_unfinished and has_grace:
            raise Wait("its end is missing; more may come", grace_ends)
        if unknown and has_grace and not _ends_well(data):
            raise Wait("its last line has no end; more may come", grace_ends)
        sighting.needs = Needs.of(documents)
        self._wait_for_companions(sighting, now)
        return Arrival(sighting.source, status, data, documents)

    def _check_still(self, sighting: Sighting, fd: int, status: os.stat_result, now: float) -> None:
        """Raise Wait while somebody may be writing to a file."""
        if (content := content_of(status)) != sighting.content:
            sighting.content, sighting.still_since, sighting.moved = content, now, False
            sighting.parsed_since = 0.0
        quiet_at = sighting.still_since + self.policy.quiet_s
        if status.st_size == 0:
            raise Wait("it is empty")
        if not sighting.moved and now < quiet_at:
            raise Wait("it came or changed just now; it may still be written", quiet_at)
        if is_being_written(fd) is True:
            raise Wait("somebody has it open for writing", now + LOOK_AGAIN_S)

    def _note_bytes(self, sighting: Sighting, data: bytes) -> None:
        """What was read of a file is of use as long as it has the same bytes."""
        digest = hashlib.sha256(data).hexdigest()
        if digest != sighting.digest:
            sighting.digest, sighting.reading, sighting.needs = digest, None, None

    def _documents(self, sighting: Sighting, data: bytes) -> tuple[Document, ...]:
        """What a file says. Raises JobInvalid, or Wait while it is being read elsewhere."""
        if sighting.reading is None:
            sighting.reading = self.read(data, sighting.source)
        if sighting.reading is None:
            self._to_be_read[sighting.source] = None
            raise Wait("it waits until others have been read")
        if not sighting.reading.ended:
            self._read_elsewhere[sighting.source] = sighting.reading
            raise Wait("it is being read")
        reading, sighting.reading = sighting.reading, None
        return reading.documents()

    def _not_to_be_read(self, source: str, status: os.stat_result, folder: os.stat_result) -> str:
        """Why a file is to fail without being read; "" when it is to be read."""
        limits = self.policy.limits
        if maybe_foreign_link(status, folder):
            return LINKED
        if status.st_size > limits.job_file_bytes:
            return too_large_reason(limits.job_file_bytes)
        if (deaths := self.deaths(source)) >= limits.daemon_deaths:
            return deaths_reason(deaths)
        return ""

    def _skip_what_came_back(self, sighting: Sighting, status: os.stat_result) -> None:
        """Leave a file alone for as long as it is just what was claimed before, if the configuration says so."""
        if self.policy.ready.on_duplicate == "render":
            return
        if at := self.recall(sighting.source, sighting.digest, status.st_mtime_ns):
            reason = f"skipped: the same file was claimed at {at} (ready.on_duplicate: skip)"
            if reason != sighting.reason:
                log.warning("file skipped", action="skip", file=sighting.source, reason=reason)
            raise Wait(reason)

    def _wait_for_companions(self, sighting: Sighting, now: float) -> None:
        """Raise Wait while something that the jobs of a file need is not there, or there is no room for it."""
        sighting.parsed_since = sighting.parsed_since or now
        deadline, needs = sighting.parsed_since + self.policy.ready.companions_s, sighting.needs
        if needs is None or not needs.recordings:
            return
        find = partial(self.places.find, job_folder=(self.inbox / sighting.source).parent)
        if now < deadline and (reason := self._companions.waited_for(needs, find, now, self.policy.quiet_s)):
            self._expectant.add(sighting.source)
            raise Wait(reason, min(max(now + 1.0, now + 50 * (self.clock() - now)), deadline))
        if reason := self.lacks_room(needs.paths):
            raise Wait(reason, now + ROOM_LOOK_S, held=True)

    def _wake_those_that_wait_for_companions(self) -> None:
        now = self.clock()
        for source in self._expectant:
            if (sighting := self._sightings.get(source)) and sighting.due > now:
                self._plan(sighting, now)
        self._expectant.clear()


def _is_too_deep(source: str) -> bool:
    """Whether a path in the inbox has more folders or bytes than a job's may."""
    return source.count("/") > DEEPEST or len(os.fsencode(source)) > MAX_BYTES


def _by_name(source: str) -> tuple[tuple[int, str], ...]:
    """Sort key for what lies in one folder."""
    return natural(source.rpartition("/")[2])


def _ends_well(data: bytes) -> bool:
    """Whether a file looks finished where nobody can tell whether it is still open: its last line has an end."""
    return data.rstrip(b" \t\0").endswith((b"\n", b"}", b"]"))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
