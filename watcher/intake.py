"""What comes in, a slice at a time: jobs that an earlier daemon claimed, files that are ready, cancellations."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from jobs import pipeline
from jobs.schedule import URGENT, Ticket
from jobs.store import Changed
from watcher.arrivals import Arrival
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
    """

    session: Session
    queued: Callable[[Ticket], None]
    running: Callable[[], Ticket | None]
    unwanted: set[str] = field(default_factory=set)

    def step(self) -> None:
        """Read for a few milliseconds: first what was claimed before, then the inbox.

        Raises:
            OSError, Hold: The inbox refuses; nothing is lost.
        """
        session, deadline = self.session, time.monotonic() + SLICE_S
        session.arrivals.take_hints()
        while session.left and time.monotonic() < deadline:
            self._enlist(pipeline.resume(session.spool, session.left[-1]))
            session.left.pop()
        if not session.left:
            for source in sorted(session.arrivals.cancels):
                self._cancel(source)
        if arrival := session.arrivals.next(max(SLICE_S / 2, deadline - time.monotonic())):
            self._claim(arrival)

    def _claim(self, arrival: Arrival) -> None:
        arrivals, source = self.session.arrivals, arrival.source
        try:
            tickets = pipeline.take(self.session.spool, arrival)
        except Changed:
            arrivals.look_again(source)
        except FileNotFoundError:
            self.session.spool.store.check()
            arrivals.forget(source)
        except OSError as error:
            self.session.spool.store.check()
            arrivals.hold(source, f"it can't be taken out of its folder: {error.strerror}")
        else:
            arrivals.forget(source)
            self._enlist(tickets)

    def _enlist(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            self.session.schedule.add(ticket)
            log.info("job queued", action="claim", job_id=ticket.job_id, name=ticket.name)
            self.queued(ticket)

    def _cancel(self, source: str) -> None:
        """Act on a `NAME.cancel`: for every job of that name that exists now."""
        session, name = self.session, source.removesuffix(CANCEL_SUFFIX)
        session.arrivals.cancels.discard(source)
        if not self._consumed(source):
            return
        for waiting in session.arrivals.named(name):
            with contextlib.suppress(FileNotFoundError):
                claim = session.spool.store.set_aside(waiting, "it was cancelled before it was read")
                session.schedule.add(pipeline.urgent(claim))
            session.arrivals.forget(waiting)
        for ticket in session.schedule.named(name):
            self._mark(ticket)
            session.schedule.add(replace(ticket, priority=URGENT, not_before=0.0))
        running = self.running()
        if running is not None and name in {running.name, running.file_name}:
            self._mark(running)
            self.unwanted.add(running.job_id)

    def _mark(self, ticket: Ticket) -> None:
        pipeline.cancel(self.session.claim_folder(ticket.job_id))
        log.info("job cancelled", action="cancel", job_id=ticket.job_id, name=ticket.name)

    def _consumed(self, source: str) -> bool:
        """Remove a `NAME.cancel`. One that can't be removed is not acted on, or it would cancel for ever."""
        try:
            (self.session.config.inbox / source).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("cancel file can't be removed", action="cancel", file=source, reason=error.strerror)
            return False
        return True
