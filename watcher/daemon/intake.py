"""What comes in, a slice at a time: jobs that an earlier daemon claimed, files that are ready, cancellations."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from files.opens import opened_folder
from jobs import pipeline
from jobs.schedule import URGENT, Ticket
from jobs.spool.inbox_names import CANCEL_SUFFIX
from jobs.spool.reading import Reading
from jobs.spool.store import Changed
from watcher.daemon import refusals
from watcher.daemon.arrivals import Arrival
from watcher.daemon.session import Session
from watcher.log import log

SLICE_S = 0.004  # of reading, between two looks at the worker
MAX_COMING = 16
MAX_TOLD = 1000


@dataclass(slots=True)
class Intake:
    """From the inbox to the queue.

    Attributes:
        queued: Called for each job that enters the queue.
        running: Says which jobs are being rendered.
        unwanted: Ids of running jobs that were cancelled.
        coming: Jobs of files that were claimed, on their way into the queue.
        being_read: Those of them that wait for a reading.
        cancelled: Names whose jobs were cancelled while some were still on their way, and when (Unix time, ns).
        unspent: Their cancel files: looked at again, and then removed, when no job is on its way.
        cancelling: The rest of a cancellation, which may be of a thousand jobs.
        told: Cancel files whose trouble the log has been told.
    """

    session: Session
    queued: Callable[[Ticket], None]
    running: Callable[[], Sequence[Ticket]]
    unwanted: set[str] = field(default_factory=set)
    coming: deque[Iterator[pipeline.Step]] = field(default_factory=deque)
    being_read: list[tuple[Reading, Iterator[pipeline.Step]]] = field(default_factory=list)
    cancelled: list[tuple[str, int]] = field(default_factory=list)
    unspent: set[str] = field(default_factory=set)
    cancelling: Iterator[None] | None = None
    told: set[str] = field(default_factory=set)

    @property
    def busy(self) -> bool:
        """Whether there is something to do now: a claimed job that is not queued, or a cancellation."""
        cancels = self.cancelling is not None or self.session.arrivals.cancels
        return bool(self.coming or cancels or (self.session.left and self._has_room))

    @property
    def ended(self) -> bool:
        """Whether all that was claimed is in the queue."""
        return not (self.busy or self.session.left or self.being_read)

    @property
    def _any_on_its_way(self) -> bool:
        """Whether there are claimed jobs that are not in the queue yet."""
        return bool(self.coming or self.being_read or self.session.left)

    @property
    def _has_room(self) -> bool:
        return len(self.coming) + len(self.being_read) < MAX_COMING

    def step(self) -> None:
        """Read for a few milliseconds: what is claimed, what is cancelled, and the inbox.

        Raises:
            OSError, Hold: The inbox refuses; nothing is lost.
        """
        arrivals, deadline = self.session.arrivals, time.monotonic() + SLICE_S
        arrivals.take_hints()
        arrivals.readings_may_have_ended()
        self._look_at_readings()
        while self.busy and time.monotonic() < deadline:
            self._go_on()
        if arrival := arrivals.next(max(SLICE_S / 2, deadline - time.monotonic())):
            with self._handed_over(arrival.source):
                self._take(arrival)
            if self.coming:
                self._go_on()

    def _take(self, arrival: Arrival) -> None:
        """Claim a file. One of many jobs waits on disk for its way into the queue while enough others are on theirs."""
        spool = self.session.spool
        if len(arrival.documents or ()) > 1 and not self._has_room:
            self.session.left.insert(0, pipeline.put_by(spool, arrival))
        else:
            self.coming.appendleft(pipeline.take(spool, arrival))

    def _look_at_readings(self) -> None:
        waiting = self.being_read
        self.being_read = [(reading, steps) for reading, steps in waiting if not reading.ended]
        self.coming.extend(steps for reading, steps in waiting if reading.ended)

    def _go_on(self) -> None:
        """A step of a cancellation and one of what is on its way: in turn, so that a long one keeps nobody waiting."""
        session = self.session
        if self.cancelling is None and session.arrivals.cancels:
            self.cancelling = self._cancel(session.arrivals.cancels.pop())
        if self.cancelling is not None and next(self.cancelling, self) is self:
            self.cancelling = None
        if session.left and self._has_room:
            self.coming.append(pipeline.resume(session.spool, session.left[-1]))
            session.left.pop()
        if not self.coming:
            return
        steps = self.coming.popleft()
        try:
            step = next(steps)
        except StopIteration:
            if not self._any_on_its_way:
                self.cancelled.clear()
                session.arrivals.cancels |= self.unspent
                self.unspent.clear()
            return
        if isinstance(step, Reading):
            self.being_read.append((step, steps))
            return
        if step is not None:
            self._enlist(step)
        self.coming.append(steps)

    def _enlist(self, ticket: Ticket) -> None:
        cancelled = any(ticket.is_meant_by(name) and self._was_there(ticket, asked) for name, asked in self.cancelled)
        if cancelled:
            self._mark(ticket)
            ticket = replace(ticket, priority=URGENT, not_before=0.0)
        self.session.schedule.add(ticket)
        log.info("job queued", action="claim", job_id=ticket.job_id, name=ticket.name)
        self.queued(ticket)

    @contextlib.contextmanager
    def _handed_over(self, source: str) -> Iterator[None]:
        """While a file is taken out of the inbox: what is wrong with one file holds that file alone."""
        arrivals = self.session.arrivals
        try:
            yield
        except Changed:
            arrivals.look_again(source)
        except FileNotFoundError:
            self.session.spool.store.check()
            arrivals.forget(source)
        except OSError as error:
            self.session.spool.store.check()
            why = refusals.reason("it can't be taken out of its folder", arrivals.inbox, source, error)
            arrivals.hold(source, why)
        else:
            arrivals.forget(source)

    def _cancel(self, source: str) -> Iterator[None]:
        """Act on a `NAME.cancel`, one job a step: for each of that name that was there before it; then it is removed.

        One that can't be removed does no harm: it means nothing to jobs that come after it. Where the file should be
        and is not, or can't be looked at, somebody has exchanged its folder: then it cancels nothing.
        """
        try:
            asked = self._asked(source)
            if self._any_on_its_way:  # not cancelled on disk yet: after a crash the file has to be there
                self.unspent.add(source)
            yield from self._call_off(source.removesuffix(CANCEL_SUFFIX), asked.st_ctime_ns)
            if source in self.unspent:
                return
            with opened_folder(self.session.config.inbox, source) as (folder, file):
                if stat.S_ISREG(asked.st_mode) and os.path.samestat(os.lstat(file, dir_fd=folder), asked):
                    os.unlink(file, dir_fd=folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            if source not in self.told:  # once: each look at the inbox finds it again
                log.warning("cancel file can't be used or removed", action="cancel", file=source, reason=error.strerror)
            self.told = {*list(self.told)[-MAX_TOLD:], source}

    def _asked(self, source: str) -> os.stat_result:
        with opened_folder(self.session.config.inbox, source) as (folder, file):
            return os.lstat(file, dir_fd=folder)

    def _call_off(self, name: str, asked_ns: int) -> Iterator[None]:
        """Cancel every job of this name that was there before."""
        session = self.session
        if self._any_on_its_way:
            self.cancelled.append((name, asked_ns))
        for waiting in session.arrivals.named(name):
            self._take_out(waiting, asked_ns)
        queued = [*(ticket for ticket in self.running() if ticket.is_meant_by(name)), *session.named(name)]
        for ticket in queued:
            if self._was_there(ticket, asked_ns):
                self._call_off_one(ticket)
            yield

    def _call_off_one(self, ticket: Ticket) -> None:
        """Cancel a job that was queued or running a moment ago; it may have come to its turn, or ended, meanwhile."""
        if any(running.job_id == ticket.job_id for running in self.running()):
            self._mark(ticket)
            self.unwanted.add(ticket.job_id)
        elif self.session.waits(ticket.job_id):
            self._mark(ticket)
            self.session.schedule.add(replace(ticket, priority=URGENT, not_before=0.0))

    def _take_out(self, source: str, asked_ns: int) -> None:
        """Claim a file that is to be cancelled before it was read."""
        with contextlib.suppress(OSError), opened_folder(self.session.config.inbox, source) as (folder, file):
            if os.lstat(file, dir_fd=folder).st_ctime_ns > asked_ns:
                return
        with self._handed_over(source):
            claim = self.session.spool.store.set_aside(source, "it was cancelled before it was read")
            claim.folder.cancel()
            self.session.schedule.add(pipeline.urgent(claim))

    def _was_there(self, ticket: Ticket, asked_ns: int) -> bool:
        return self.session.spool.store.dropped_ns(ticket.job_id) <= asked_ns

    def _mark(self, ticket: Ticket) -> None:
        folder = self.session.spool.store.folder_of(ticket.job_id)
        if folder.is_cancelled:
            return
        folder.cancel()
        log.info("job cancelled", action="cancel", job_id=ticket.job_id, name=ticket.name)
