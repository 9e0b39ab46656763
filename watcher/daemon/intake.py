"""Brings files into the queue in slices of some milliseconds: claimed jobs, ready files, cancellations."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from files.durable import together
from files.opens import opened_folder
from jobs import pipeline
from jobs.errors import Hold
from jobs.schedule import URGENT, Ticket
from jobs.spool.inbox_names import CANCEL_SUFFIX
from jobs.spool.reading import Reading
from jobs.spool.store import Changed
from watcher.daemon import refusals
from watcher.daemon.readiness import Arrival
from watcher.daemon.session import Session
from watcher.log import log

SLICE_S = 0.016
MAX_INCOMING = 16
MAX_LOGGED = 1000


@dataclass(slots=True)
class Intake:
    """From the inbox to the queue.

    Attributes:
        on_queued: Called for each job that enters the queue.
        running: Returns the jobs that are being rendered.
        unwanted: Ids of running jobs that were cancelled.
        incoming: Claimed files whose jobs are not all in the queue; each iterator is the rest of `pipeline.take`.
        being_read: Those of them that wait for a reading.
        cancelled: Names that were cancelled while claimed files were not in the queue, and when (Unix time, ns).
        unspent: Their cancel files: read again, and then removed, when all claimed jobs are in the queue.
        cancelling: The rest of the current cancellation, which may concern a thousand jobs.
        logged: Cancel files that could not be used and were logged.
    """

    session: Session
    on_queued: Callable[[Ticket], None]
    running: Callable[[], Sequence[Ticket]]
    unwanted: set[str] = field(default_factory=set)
    incoming: deque[Iterator[pipeline.Step]] = field(default_factory=deque)
    being_read: list[tuple[Reading, Iterator[pipeline.Step]]] = field(default_factory=list)
    cancelled: list[tuple[str, int]] = field(default_factory=list)
    unspent: set[str] = field(default_factory=set)
    cancelling: Iterator[None] | None = None
    logged: set[str] = field(default_factory=set)

    @property
    def busy(self) -> bool:
        """Whether there is something to do now: a claimed job that is not queued, or a cancellation."""
        cancels = self.cancelling is not None or self.session.arrivals.cancels
        return bool(self.incoming or cancels or (self.session.left and self._room))

    @property
    def ended(self) -> bool:
        """Whether all claimed jobs are in the queue."""
        return not (self.busy or self.session.left or self.being_read)

    @property
    def _any_incoming(self) -> bool:
        """Whether there are claimed jobs that are not in the queue yet."""
        return bool(self.incoming or self.being_read or self.session.left)

    @property
    def _room(self) -> int:
        return max(0, MAX_INCOMING - len(self.incoming) - len(self.being_read))

    def step(self) -> None:
        """Work for one slice: on cancellations, on claimed files, and on the inbox.

        Raises:
            OSError, Hold: The file system refuses the inbox; nothing is lost.
        """
        arrivals, deadline = self.session.arrivals, time.monotonic() + SLICE_S
        arrivals.take_hints()
        arrivals.check_readings()
        self._check_readings()
        while self.busy and time.monotonic() < deadline:
            self._step_once()
        ready: list[Arrival] = []
        while len(ready) < MAX_INCOMING and (arrival := arrivals.next(max(SLICE_S / 4, deadline - time.monotonic()))):
            ready.append(arrival)
        self._take(ready)
        for _ in ready:
            if self.incoming:
                self._step_once()

    def _take(self, ready: Sequence[Arrival]) -> None:
        """Claim files. If enough others are incoming, a file of several jobs is only claimed, and taken later."""
        spool, at_once = self.session.spool, list[Arrival]()
        for arrival in ready:
            if len(arrival.documents or ()) <= 1 or self._room > len(at_once):
                at_once.append(arrival)
                continue
            with self._claiming(arrival.source):
                self.session.left.insert(0, pipeline.claim_only(spool, arrival))
        taken = together(pipeline.take(spool, arrival) for arrival in at_once)
        entering, hold = list[Iterator[pipeline.Step]](), None
        for arrival, steps in zip(at_once, taken, strict=True):
            try:
                with self._claiming(arrival.source):
                    if isinstance(steps, Exception):
                        raise steps
                    entering.append(steps)
            except Hold as error:  # the others are claimed, and must not be forgotten
                hold = error
        self.incoming.extendleft(reversed(entering))
        if hold is not None:
            raise hold

    def _check_readings(self) -> None:
        waiting = self.being_read
        self.being_read = [(reading, steps) for reading, steps in waiting if not reading.ended]
        self.incoming.extend(steps for reading, steps in waiting if reading.ended)

    def _step_once(self) -> None:
        """Take one step of a cancellation and one of an incoming file; files take turns, so that none delays others."""
        session = self.session
        if self.cancelling is None and session.arrivals.cancels:
            self.cancelling = self._cancel_by_file(session.arrivals.cancels.pop())
        if self.cancelling is not None and next(self.cancelling, self) is self:
            self.cancelling = None
        if session.left and self._room:
            self.incoming.append(pipeline.resume(session.spool, session.left[-1]))
            session.left.pop()  # not before, since `resume` may raise
        if not self.incoming:
            return
        steps = self.incoming.popleft()
        try:
            step = next(steps)
        except StopIteration:
            if not self._any_incoming:
                self.cancelled.clear()
                session.arrivals.cancels |= self.unspent
                self.unspent.clear()
            return
        if isinstance(step, Reading):
            self.being_read.append((step, steps))
            return
        if step is not None:
            self._queue(step)
        self.incoming.append(steps)

    def _queue(self, ticket: Ticket) -> None:
        if any(ticket.is_meant_by(name) and self._is_older(ticket, asked_ns) for name, asked_ns in self.cancelled):
            self._mark_cancelled(ticket)
            ticket = replace(ticket, priority=URGENT, not_before=0.0)
        self.session.schedule.add(ticket)
        log.info("job queued", action="claim", job_id=ticket.job_id, name=ticket.name)
        self.on_queued(ticket)

    @contextlib.contextmanager
    def _claiming(self, source: str) -> Iterator[None]:
        """While a file is being claimed: an error that concerns this file alone holds only this file."""
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
            why = refusals.reason("it can't be moved out of its folder", arrivals.inbox, source, error)
            arrivals.hold(source, why)
        else:
            arrivals.forget(source)

    # --- cancellations -----------------------------------------------------------------------------------------------

    def _cancel_by_file(self, source: str) -> Iterator[None]:
        """Cancel the jobs that a `NAME.cancel` means, one per step, then remove it.

        A cancel file that can't be removed is harmless, since it does not cancel jobs dropped later. One that is
        missing or unreadable cancels nothing: somebody replaced its folder.
        """
        try:
            with opened_folder(self.session.config.inbox, source) as (folder, file):
                asked = os.lstat(file, dir_fd=folder)
            if self._any_incoming:  # not marked on disk yet: after a crash the file must still be there
                self.unspent.add(source)
            yield from self._cancel_all(source.removesuffix(CANCEL_SUFFIX), asked.st_ctime_ns)
            if source in self.unspent:
                return
            with opened_folder(self.session.config.inbox, source) as (folder, file):
                if stat.S_ISREG(asked.st_mode) and os.path.samestat(os.lstat(file, dir_fd=folder), asked):
                    os.unlink(file, dir_fd=folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            if source not in self.logged:  # each sweep finds it again
                log.warning("cancel file can't be used or removed", action="cancel", file=source, reason=error.strerror)
            self.logged = {*list(self.logged)[-MAX_LOGGED:], source}

    def _cancel_all(self, name: str, asked_ns: int) -> Iterator[None]:
        """Cancel every job of this name that was dropped before `asked_ns`."""
        session = self.session
        if self._any_incoming:
            self.cancelled.append((name, asked_ns))
        for source in session.arrivals.named(name):
            self._cancel_unclaimed(source, asked_ns)
        queued = [*(ticket for ticket in self.running() if ticket.is_meant_by(name)), *session.named(name)]
        for ticket in queued:
            if self._is_older(ticket, asked_ns):
                self._cancel_claimed(ticket)
            yield

    def _cancel_unclaimed(self, source: str, asked_ns: int) -> None:
        """Claim a file without reading it, and cancel it."""
        with contextlib.suppress(OSError), opened_folder(self.session.config.inbox, source) as (folder, file):
            if os.lstat(file, dir_fd=folder).st_ctime_ns > asked_ns:
                return
        with self._claiming(source):
            claim = self.session.spool.store.set_aside(source, "it was cancelled before it was read")
            try:
                claim.record.add(cancelled=True)
            except OSError:  # it is claimed all the same, and must not be forgotten
                self.session.left.insert(0, claim.job_id)
            else:
                self.session.schedule.add(pipeline.urgent(claim))

    def _cancel_claimed(self, ticket: Ticket) -> None:
        """Cancel a job that was queued or running a moment ago; it may have started or ended since."""
        if any(running.job_id == ticket.job_id for running in self.running()):
            self._mark_cancelled(ticket)
            self.unwanted.add(ticket.job_id)
        elif self.session.waits(ticket.job_id):
            self._mark_cancelled(ticket)
            self.session.schedule.add(replace(ticket, priority=URGENT, not_before=0.0))

    def _is_older(self, ticket: Ticket, asked_ns: int) -> bool:
        return self.session.spool.store.dropped_ns(ticket.job_id) <= asked_ns

    def _mark_cancelled(self, ticket: Ticket) -> None:
        record = self.session.spool.store.folder_of(ticket.job_id).record()
        if record.is_cancelled:
            return
        record.add(cancelled=True)
        self.session.spool.fresh.pop(ticket.job_id, None)
        log.info("cancelling job", action="cancel", job_id=ticket.job_id, name=ticket.name)
