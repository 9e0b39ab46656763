"""Which job files are in the inbox, and why each of them waits.

A sweep of the whole inbox finds everything; file events only hint where to look first, and which files appeared by a
rename. Work is done in small steps, so that the daemon can look after a running job between any two.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

from files.opens import content_of, listed, opened_folder, opened_regular
from jobs.names import natural
from jobs.spool.inbox_names import JOB_SUFFIXES, PAUSE, is_cancel_name, is_job_name, is_walked, why_ignored
from jobs.spool.store import NOT_REGULAR
from watcher.client.status import SHOWN
from watcher.daemon import refusals
from watcher.daemon.events import Events
from watcher.daemon.readiness import Arrival, Readiness, Sighting, Wait
from watcher.log import log

ENTRIES_PER_STEP = 64
JOBS_PER_STEP = 16
HINTS_PER_STEP = 100
MAX_SORTED = 10_000
MAX_SIGHTINGS_WITH_EMPTY = 10_000
MAX_DEPTH, MAX_PATH_BYTES = 64, 4096
TOO_DEEP = f"more than {MAX_DEPTH} folders deep, or its path has more than {MAX_PATH_BYTES} bytes"


@dataclass(frozen=True, slots=True)
class Listing:
    """Paths in the inbox that were found in one folder.

    Attributes:
        runs: Further jobs, in sorted lists of MAX_SORTED: sorting all at once would take too long.
    """

    folders: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    runs: list[list[str]] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Arrivals:
    """The job files in the inbox that are not claimed yet.

    Attributes:
        clock: Monotonic seconds.
        cancels: Paths of `NAME.cancel` files.
        ignored: Ignored paths, and why; the first 1,000 of the last sweep.
        ignored_count: How many were ignored in all.
        changes: Increases when anything changes that `status.json` shows of the inbox.
        swept_once: Whether a sweep has ended since the inbox was opened; all its folders are watched then.
    """

    inbox: Path
    readiness: Readiness
    events: Events
    clock: Callable[[], float] = time.monotonic
    cancels: set[str] = field(default_factory=set)
    ignored: dict[str, str] = field(default_factory=dict)
    ignored_count: int = 0
    changes: int = 0
    swept_once: bool = False
    _sightings: dict[str, Sighting] = field(default_factory=dict)
    _agenda: list[tuple[float, int, str]] = field(default_factory=list)
    _ticks: Iterator[int] = field(default_factory=count)
    _hints: deque[tuple[str, bool]] = field(default_factory=deque)
    _walk: Iterator[None] | None = None
    _sweep: int = 0
    _sweep_began: float = 0.0
    _sweep_due: float = float("-inf")

    # --- what the daemon calls ---------------------------------------------------------------------

    def take_hints(self) -> None:
        """Look at some of the paths from file events; at the others in the next calls."""
        hints = self.events.take()
        if hints.lost:
            self.sweep_soon()
        self._hints.extend((path, True) for path in sorted(hints.moved, key=natural))
        self._hints.extend((path, False) for path in sorted(hints.touched - hints.moved, key=natural))
        if not all(map(is_job_name, map(os.path.basename, hints.moved | hints.touched))):
            self._wake_waiting_for_companions()
        for _ in range(min(len(self._hints), HINTS_PER_STEP)):
            path, moved = self._hints.popleft()
            self._follow_hint(path, moved=moved)

    def sweep_soon(self) -> None:
        """Sweep the inbox now, or once more after the current sweep."""
        self._sweep_due = float("-inf")

    def next(self, budget_s: float) -> Arrival | None:
        """Work until a file is ready, there is nothing to do, or the budget (seconds) is spent."""
        deadline = self.clock() + budget_s
        while (now := self.clock()) < deadline:
            if self._agenda and self._agenda[0][0] <= now:
                if arrival := self._arrival_due(now):
                    return arrival
            elif not self._continue_sweep(now):
                break
        return None

    def busy(self) -> bool:
        """Whether `next` has work right now."""
        return self._walk is not None or self.due_in(self.clock()) <= 0

    def due_in(self, now: float) -> float:
        """Seconds until `next` has work, if no event happens before."""
        if self._hints:
            return 0.0
        look = self._agenda[0][0] if self._agenda else float("inf")
        return max(0.0, min(self._sweep_due, look) - now)

    def settled(self) -> bool:
        """Whether a sweep has ended and every waiting file waits for an event that may never happen."""
        swept = self._walk is None and self._sweep_due != float("-inf")
        return (
            swept
            and not self.readiness.to_be_read
            and all(
                sighting.held or (sighting.due == float("inf") and sighting.reading is None)
                for sighting in self._sightings.values()
            )
        )

    def check_readings(self) -> None:
        """Look again at files whose reading has ended, and at as many files that wait for a reader; if nothing is being
        read, at one.
        """
        being_read, to_be_read = self.readiness.being_read, self.readiness.to_be_read
        ended = [source for source, reading in being_read.items() if reading.ended]
        for source in ended:
            del being_read[source]
            if (sighting := self._sightings.get(source)) and sighting.reading is not None:
                self._plan(sighting, self.clock())
        turns = len(ended) or int(not being_read)
        while turns and to_be_read:
            source = next(iter(to_be_read))
            del to_be_read[source]
            if sighting := self._sightings.get(source):
                self._plan(sighting, self.clock())
                turns -= 1

    def forget(self, source: str) -> None:
        """The file was claimed, or is gone."""
        self.changes += self._sightings.pop(source, None) is not None

    def look_again(self, source: str) -> None:
        """The file changed while it was being claimed: treat it as new."""
        self.forget(source)
        self._sight(source, moved=False)

    def hold(self, source: str, reason: str) -> None:
        """The file system refused to move this file: hold it until the next sweep."""
        if sighting := self._sightings.get(source):
            self._let_wait(sighting, Wait(reason, held=True))

    def waiting(self, *, held: bool) -> list[Sighting]:
        """Files that wait or are held, at most 1,000; those seen first come first."""
        return list(islice((s for s in self._sightings.values() if s.reason and s.held == held), SHOWN))

    @property
    def has_seen_files(self) -> bool:
        """Whether there are files that may be jobs."""
        return bool(self._sightings)

    def counts(self) -> dict[str, int]:
        held = sum(sighting.held for sighting in self._sightings.values())
        unseen = sum(not sighting.reason for sighting in self._sightings.values())
        waiting = len(self._sightings) - held - unseen
        return {"ready": unseen, "waiting": waiting, "held": held, "ignored": self.ignored_count}

    def named(self, name: str) -> list[str]:
        """Paths of unclaimed job files that `NAME.cancel` means, including those not seen before."""
        for suffix in JOB_SUFFIXES:
            for source in (name + suffix, name + suffix.upper()):
                if source not in self._sightings and is_job_name(os.path.basename(source)):
                    self._sight(source, moved=False)
        return [source for source in self._sightings if source.rpartition(".")[0] == name]

    def paused(self) -> bool:
        return os.path.lexists(self.inbox / PAUSE)

    # --- sweeping ----------------------------------------------------------------------------------

    def _continue_sweep(self, now: float) -> bool:
        """Take one step of a sweep; False when none is due."""
        if self._walk is None:
            if self._sweep_due > now:
                return False
            self._sweep += 1
            self._walk, self._sweep_began, self._sweep_due = self._sweep_inbox(), now, float("inf")
        if next(self._walk, self) is self:
            self._walk = None
            self.swept_once = True
            ended = self.clock()
            # Sweeps take at most a twentieth of the time. The minimum keeps a request of `sweep_soon` made meanwhile.
            pause_s = max(self.readiness.policy().ready.scan_s, 20 * (ended - self._sweep_began))
            self._sweep_due = min(self._sweep_due, ended + pause_s)
        return True

    def _sweep_inbox(self) -> Iterator[None]:
        """Walk the inbox, folders in natural order; yields after every few entries."""
        before = self.ignored, self.ignored_count
        self.ignored, self.ignored_count = {}, 0
        folders = [""]
        while folders:
            folder = folders.pop()
            self.events.watch(self.inbox / folder)
            found = Listing()
            yield from self._list_folder(folder, found)
            yield from self._sight_all(folder, heapq.merge(*found.runs, sorted(found.jobs, key=_by_name), key=_by_name))
            self.cancels.update(found.cancels)  # after the jobs that they may cancel
            folders.extend(sorted(found.folders, key=_by_name, reverse=True))
            yield
        gone = [sighting.source for sighting in self._sightings.values() if sighting.sweep != self._sweep]
        for number, source in enumerate(gone):
            self._sight(source, moved=False)
            if number % JOBS_PER_STEP == JOBS_PER_STEP - 1:
                yield
        self.changes += (self.ignored, self.ignored_count) != before

    def _list_folder(self, folder: str, found: Listing) -> Iterator[None]:
        """List a folder. A subfolder that can't be listed is held.

        Raises:
            OSError: The inbox itself can't be listed.
        """
        try:
            with listed(self.inbox, folder) as entries:
                for number, entry in enumerate(entries):
                    self._classify(f"{folder}/{entry.name}" if folder else entry.name, entry, found)
                    if number % ENTRIES_PER_STEP == ENTRIES_PER_STEP - 1:
                        yield
        except OSError as error:
            if not folder:
                raise
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                self._hold_refused(folder + "/", error)

    def _classify(self, source: str, entry: os.DirEntry[str], found: Listing) -> None:
        """Add a directory entry to its list, or ignore it with a reason."""
        if _is_too_deep(source):
            self._ignore(source, TOO_DEEP)
        elif _is_folder(entry):
            if is_walked(entry.name):
                found.folders.append(source)
            elif self.inbox / source != self.readiness.places().state:
                self._ignore(f"{source}/", "a hidden or system folder; it is not searched for jobs")
        elif is_cancel_name(entry.name) and entry.is_file(follow_symlinks=False):
            found.cancels.append(source)
        elif not is_job_name(entry.name):
            if source != PAUSE:
                self._ignore(source, why_ignored(entry.name) or "")
        elif entry.is_symlink():
            self._ignore(source, "a symbolic link is never opened")
        else:
            found.jobs.append(source)
            if len(found.jobs) == MAX_SORTED:
                found.runs.append(sorted(found.jobs, key=_by_name))
                found.jobs.clear()

    def _sight_all(self, folder: str, sources: Iterable[str]) -> Iterator[None]:
        """Sight files of one folder. It is opened once for each step: once for each file takes a third of a sweep."""
        remaining = iter(sources)
        while step := list(islice(remaining, JOBS_PER_STEP)):
            with contextlib.ExitStack() as stack:
                opened = None
                with contextlib.suppress(OSError):  # each file meets the error below
                    opened, _name = stack.enter_context(opened_folder(self.inbox, step[0]))
                for source in step:
                    self._sight(source, moved=False, folder=opened)
            yield

    def _ignore(self, source: str, reason: str) -> None:
        if source in self.ignored:  # events tell of it again between two sweeps
            return
        self.ignored_count += 1
        if len(self.ignored) < SHOWN:
            self.ignored[source] = reason

    # --- sightings ---------------------------------------------------------------------------------

    def _follow_hint(self, path: str, *, moved: bool) -> None:
        """Look at the path of a file event."""
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

    def _sight(self, source: str, *, moved: bool, folder: int | None = None) -> None:
        """Note a job file's state, and plan when to look inside. `folder` is that of the file, if it is open."""
        now = self.clock()
        try:
            status = self._status(source, folder)
        except (FileNotFoundError, NotADirectoryError):
            self.forget(source)
            return
        except OSError as error:
            self._hold_refused(source, error)
            return
        if not stat.S_ISREG(status.st_mode):
            self.forget(source)
            if not stat.S_ISDIR(status.st_mode):
                self._ignore(source, "not a regular file; it is never opened")
                self.changes += self._walk is None
            return
        content, sighting = content_of(status), self._sightings.get(source)
        if status.st_size == 0 and sighting is None and len(self._sightings) > MAX_SIGHTINGS_WITH_EMPTY:
            self._ignore(source, "it is empty, as are many others; it is checked again when it has content")
            return
        if sighting is None or sighting.content != content:
            sighting = Sighting(source, content, now, moved, self._sweep)
            self._sightings[source] = sighting
            self._plan(sighting, now if moved else now + self.readiness.policy().quiet_s)
            if not moved:
                self._set_reason(sighting, "it appeared or changed just now; it may still be written")
        else:
            sighting.moved |= moved
            if moved or sighting.held or sighting.due == float("inf"):
                self._plan(sighting, now)
        sighting.sweep = self._sweep

    def _status(self, source: str, folder: int | None) -> os.stat_result:
        """A file's state. On a network file system the file is opened, since clients cache attributes."""
        if folder is None:
            with opened_folder(self.inbox, source) as (opened, _name):
                return self._status(source, opened)
        name = source.rpartition("/")[2]
        status = os.lstat(name, dir_fd=folder)
        if self.readiness.policy().network and stat.S_ISREG(status.st_mode):
            with opened_regular(name, folder) as (_fd, status):
                pass
        return status

    def _hold_refused(self, source: str, error: OSError) -> None:
        """Hold a file or folder that the file system refused to open."""
        now = self.clock()
        sighting = self._sightings.setdefault(source, Sighting(source, 0, now, False, self._sweep))
        sighting.sweep = self._sweep
        self._let_wait(sighting, Wait(refusals.reason("it can't be read", self.inbox, source, error), held=True))

    def _plan(self, sighting: Sighting, due: float) -> None:
        sighting.due = due
        if due != float("inf"):
            heapq.heappush(self._agenda, (due, next(self._ticks), sighting.source))

    def _set_reason(self, sighting: Sighting, reason: str, *, held: bool = False) -> None:
        if reason != sighting.reason:
            sighting.reason, sighting.since = reason, time.time()
            self.changes += 1
            if held:  # logged as well, since status.json may be on the disk that is full
                log.warning("file held", action="hold", file=sighting.source, reason=reason)
        sighting.held = held

    def _let_wait(self, sighting: Sighting, wait: Wait) -> None:
        self._set_reason(sighting, wait.reason, held=wait.held)
        self._plan(sighting, wait.due)

    def _arrival_due(self, now: float) -> Arrival | None:
        """Look inside the first file of the agenda; None when it is not ready."""
        due, _tick, source = heapq.heappop(self._agenda)
        sighting = self._sightings.get(source)
        if sighting is None or sighting.due != due:
            return None
        try:
            return self.readiness.arrival(sighting, now)
        except Wait as wait:
            self._let_wait(sighting, wait)
        except (FileNotFoundError, NotADirectoryError):
            self.forget(source)
        except OSError as error:
            if error.errno in NOT_REGULAR:  # it was replaced by a link, a pipe or the like
                self.forget(source)
            else:
                self._hold_refused(source, error)
        return None

    def _wake_waiting_for_companions(self) -> None:
        now = self.clock()
        for source in self.readiness.waiting_for_companions:
            if (sighting := self._sightings.get(source)) and sighting.due > now:
                self._plan(sighting, now)
        self.readiness.waiting_for_companions.clear()


def _is_too_deep(source: str) -> bool:
    """Whether a path in the inbox has more folders or bytes than a job's path may have."""
    return source.count("/") > MAX_DEPTH or len(os.fsencode(source)) > MAX_PATH_BYTES


def _by_name(source: str) -> tuple[str | int, ...]:
    """Sort key for the entries of one folder."""
    return natural(source.rpartition("/")[2])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
