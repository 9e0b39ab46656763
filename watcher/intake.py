"""What comes in, a slice at a time: jobs that an earlier daemon claimed, files that are ready, cancellations."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from jobs import pipeline
from jobs.schedule import URGENT, Ticket
from jobs.store import Changed
from watcher import refusals
from watcher.ignored import CANCEL_SUFFIX
from watcher.log import log
from watcher.session import Session

SLICE_S = 0.004  # of reading, between two looks at the worker


@dataclass(slots=True)
class Intake:
    """From the inbox to the queue.

    Attributes:
        queued: Called for each job that enters the queue.
        running: Says which job is being rendered.
        unwanted: Ids of running jobs that were cancelled.
        coming: Jobs of the file that was claimed last, on their way into the queue.
    """

    session: Session
    queued: Callable[[Ticket], None]
    running: Callable[[], Ticket | None]
    unwanted: set[str] = field(default_factory=set)
    coming: Iterator[Ticket] | None = None

    @property
    def busy(self) -> bool:
        """Whether there is something claimed that is not queued, or a cancellation to act on."""
        return bool(self.session.left or self.coming or self.session.arrivals.cancels)

    def step(self) -> None:
        """Read for a few milliseconds: first what is claimed, then what is cancelled, then the inbox.

        Raises:
            OSError, Hold: The inbox refuses; nothing is lost.
        """
        session, deadline = self.session, time.monotonic() + SLICE_S
        session.arrivals.take_hints()
        while self.busy and time.monotonic() < deadline:
            self._go_on()
        if self.coming is None and (arrival := session.arrivals.next(max(SLICE_S / 2, deadline - time.monotonic()))):
            with self._handed_over(arrival.source):
                self.coming = iter(pipeline.take(session.spool, arrival))
            if self.coming is not None:
                self._go_on()

    def _go_on(self) -> None:
        """One job into the queue, or one cancellation, which has to find all jobs claimed before it."""
        session = self.session
        if self.coming is not None:
            self._enlist(next(self.coming, None))
        elif session.left:
            self.coming = iter(pipeline.resume(session.spool, session.left[-1]))
            session.left.pop()
        else:
            self._cancel(session.arrivals.cancels.pop())

    def _enlist(self, ticket: Ticket | None) -> None:
        if ticket is None:
            self.coming = None
            return
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

    def _cancel(self, source: str) -> None:
        """Act on a `NAME.cancel`: for every job of that name that was there before it, then it is removed.

        One that can't be removed does no harm: it means nothing to jobs that come after it.
        """
        session, name = self.session, source.removesuffix(CANCEL_SUFFIX)
        path = session.config.inbox / source
        try:
            asked_ns = os.lstat(path).st_ctime_ns
        except FileNotFoundError:
            return
        for waiting in session.arrivals.named(name):
            self._take_out(waiting, asked_ns)
        for ticket in session.schedule.named(name):
            if self._was_there(ticket, asked_ns):
                self._mark(ticket)
                session.schedule.add(replace(ticket, priority=URGENT, not_before=0.0))
        running = self.running()
        if running is not None and name in {running.name, running.file_name} and self._was_there(running, asked_ns):
            self._mark(running)
            self.unwanted.add(running.job_id)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cancel file can't be removed", action="cancel", file=source, reason=error.strerror)

    def _take_out(self, source: str, asked_ns: int) -> None:
        """Claim a file that is to be cancelled before it was read."""
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(self.session.config.inbox / source).st_ctime_ns > asked_ns:
                return
        with self._handed_over(source):
            claim = self.session.spool.store.set_aside(source, "it was cancelled before it was read")
            self.session.schedule.add(pipeline.urgent(claim))

    def _was_there(self, ticket: Ticket, asked_ns: int) -> bool:
        return self.session.spool.store.dropped_ns(ticket.job_id) <= asked_ns

    def _mark(self, ticket: Ticket) -> None:
        pipeline.cancel(self.session.spool.store.folder_of(ticket.job_id))
        log.info("job cancelled", action="cancel", job_id=ticket.job_id, name=ticket.name)
