"""The daemon: one loop that waits for events and looks after the inbox and the jobs.

    wake -> arrivals -> claim -> schedule -> executor -> publish

The executor renders; its events wake the loop. The only other thread reads file events, so nothing else needs a lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from files import cache
from files.printable import printable
from jobs import pipeline
from jobs.errors import (
    OF_THE_DISK,
    Cancelled,
    ConfigError,
    Hold,
    InboxGone,
    JobError,
    LockHeld,
    LockLost,
    OutboxGone,
    WorkerUnready,
    holding,
)
from jobs.order import Rendering
from jobs.pipeline import Job
from jobs.publish import Outcome, Publication, publish, tidy
from jobs.schedule import URGENT, Ticket
from jobs.spool.reading import BeingRead
from jobs.spool.store import read_id
from watcher.client.status import DaemonState
from watcher.config import settings as configuration
from watcher.config.job_rules import job_rules
from watcher.config.reread import ConfigRead, config_in_status, until_restart
from watcher.config.settings import Config
from watcher.daemon import systemd
from watcher.daemon.events import Events
from watcher.daemon.intake import Intake
from watcher.daemon.session import Session
from watcher.daemon.signals import Signals
from watcher.daemon.status_writer import RunningJob, StatusWriter
from watcher.executors.base import Ended, Event, Executor, Progressed, Unclear
from watcher.executors.local.executor import LocalExecutor
from watcher.executors.local.worker import Worker
from watcher.log import log
from watcher.readers.pool import Readers

HOLD_NAMES: Mapping[type[Hold], str] = {OutboxGone: "outbox", WorkerUnready: "worker"}
INBOX_CHECK_S = 1.0  # the longest wait of the loop, so also how exact the executor's time limits are
NEW_INBOX_AFTER_S = 30.0
GROUP = 16  # jobs that are started, published or tidied up in one turn
FULL = {errno.ENOSPC, errno.EDQUOT}  # one result may be too large where others fit: the folders are tried
NOT_OF_ONE_JOB = (OF_THE_DISK - FULL) | {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN}


def run(config: Config, *, config_path: Path | None, once: bool, until_idle: bool) -> int:
    """Run the daemon until it is asked to stop, or until nothing can be rendered now.

    Args:
        config_path: Read again on SIGHUP.
        once: Render what is in the inbox and becomes ready, then return.
        until_idle: Return when nothing can be rendered now.

    Returns:
        0, or 1 when `once` and a job failed.

    Raises:
        ConfigError: A folder of the configuration can't be used.
        Hold: Another daemon has the inbox; or with `once` or `until_idle`, something is on hold.
    """
    events = Events()
    try:
        device = config.device.model_dump(mode="json")
        with (
            Signals() as signals,
            Worker(device, log) as worker,
            contextlib.closing(Readers(config)) as readers,
        ):
            executor = LocalExecutor(worker, config.limits, config.device.idle_s)
            return Daemon(config, config_path, once or until_idle, events, signals, executor, readers).run(once=once)
    finally:
        events.close()


class Daemon:
    """The loop and its state; `turn` is one turn of the loop.

    Attributes:
        until_idle: Whether `run` returns when nothing can be rendered now.
        session, intake: Of the inbox in use; None while it is gone.
        inbox_id, inbox_device: Of the inbox that was opened last.
        new_inbox_since_s: When another inbox was first seen in its place, monotonic.
        lost_jobs: Names of the jobs that were in the inbox when it disappeared.
        rendered: Renderings that were not looked at yet.
        ended: Jobs that are published at the end of this turn.
        is_blocked: Whether the next job has to wait for the end of the running ones.
        is_working: Whether a turn is working on a job. Turns that it takes meanwhile start no other job.
    """

    def __init__(  # noqa: PLR0913 - made in one place, of all the parts there are
        self,
        config: Config,
        config_path: Path | None,
        until_idle: bool,
        events: Events,
        signals: Signals,
        executor: Executor,
        readers: Readers,
    ) -> None:
        self.config, self.config_path, self.until_idle = config, config_path, until_idle
        self.events, self.signals, self.executor, self.readers = events, signals, executor, readers
        self.config_read = ConfigRead(time.time())
        self.status = StatusWriter.resumed(config.state_dir)
        self.status.settings = config_in_status(config, config_path, self.config_read)
        self.holds = self.status.holds
        self.session: Session | None = None
        self.intake: Intake | None = None
        self.inbox_id: str | None = None
        self.inbox_device: int | None = None
        self.inbox_checked_s = 0.0
        self.new_inbox_since_s: float | None = None
        self.lost_jobs: list[str] = []
        self.is_working = self.is_blocked = False
        self.rendered: deque[Ended] = deque()
        self.ended: list[tuple[Ticket, Publication]] = []
        self.watchdog_s = systemd.watchdog_interval_s()
        self.watchdog_due_s = 0.0
        self.written_changes = (0, 0)
        self.poll = select.poll()
        for descriptor in (signals.fd, events.wake_fd, executor.fileno(), readers.fileno()):
            self.poll.register(descriptor, select.POLLIN)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self, *, once: bool) -> int:
        self._open_inbox(first=True)
        log.info("spool starts", action="start", inbox=str(self.config.inbox), outbox=str(self.config.outbox))
        if folder := cache.unusable():
            log.warning("the cache folder is not writable", action="start", folder=str(folder), hint=cache.CURE)
        systemd.ready()
        try:
            while not self.signals.stop and not self._is_finished():
                self.turn()
            self._stop_jobs()
            if once and not self.signals.stop:
                self._fail_if_files_are_held()
        finally:
            self._close()
        return int(once and self.status.ended["failed"] > 0)

    def turn(self, *, wait: bool = True) -> None:
        """Wait for something to happen, then look after everything once."""
        if self.session is not None:  # before the wait: orders that were just submitted are being rendered
            for _ in range(GROUP):
                tidy(self.session.spool)
        self._wait(self._idle_s() if wait else 0.0)
        self.readers.step()
        self._reload_if_asked()
        self._check_inbox()
        if self.intake is not None:
            with self._closing_inbox_on_hold():
                self.intake.step()
                self._expect_jobs(self.intake.session)
                if not self.intake.session.left:  # an inbox may open and still refuse to be read
                    self.holds.end("inbox")
        if not self.is_working:
            self.is_working = True
            try:
                self._work()
            finally:
                self.is_working = False
        self._update_status()

    def _work(self) -> None:
        """Handle the executor's events, cancel running jobs that are no longer wanted, and start the next jobs.

        Jobs that have ended are published last, and together, so that the executor renders the next ones meanwhile.
        """
        for event in self.executor.events():
            if isinstance(event, Ended) and isinstance(event.result, Rendering):
                self.rendered.append(event)
            else:
                self._handle(event)
        if self.executor.is_ready:
            self.holds.end("worker")
        if self.intake is not None:
            for job_id in self.intake.unwanted & self.status.running.keys():
                self._cancel(self.status.running[job_id])
        if self.session is not None and not self.signals.stop and time.monotonic() >= self.holds.due_s:
            for _ in range(GROUP):
                if not self._start(self.session) or time.monotonic() < self.holds.due_s:
                    break
        while self.rendered and len(self.ended) < GROUP:  # the rest in the next turns
            self._handle(self.rendered.popleft())
        self._publish()

    def _wait(self, seconds: float) -> None:
        """Sleep until something happens, at most this long."""
        for descriptor, _events in self.poll.poll(max(0.0, seconds) * 1000):
            if descriptor == self.signals.fd:
                self.signals.drain()
            elif descriptor == self.events.wake_fd and self.intake is None:
                self.events.take()  # without an intake nothing else does, and the descriptor would stay readable

    def _idle_s(self) -> float:
        """Seconds until there is something to do if nothing happens before."""
        now, session = time.monotonic(), self.session
        waits_s = [INBOX_CHECK_S, self.status.due_in()]
        if self.watchdog_s is not None:
            waits_s.append(self.watchdog_due_s - now)
        if session is None or self.intake is None:
            return min(*waits_s, self.holds.due_s - now)
        if self.intake.busy or session.spool.released or session.arrivals.busy() or self.rendered:
            return 0.0
        waits_s.append(session.arrivals.due_in(now))
        if not self.signals.stop:
            waits_s.append(max(self._next_start_s(session, now), self.holds.due_s) - now)
        return min(waits_s)

    def _next_start_s(self, session: Session, now: float) -> float:
        """When a job can start if nothing is on hold, in monotonic seconds; infinity if none waits for a time."""
        can_render = self._can_render(session) and not self.is_blocked and not session.arrivals.paused()
        if session.schedule.has_urgent() or (can_render and session.schedule.has_ready(time.time())):
            return now
        starts_s = [entry.due_s for entry in session.deferred.values()]
        if can_render and (start := session.schedule.next_start()) is not None:
            starts_s.append(now + start - time.time())
        return min(starts_s, default=float("inf"))

    def _is_finished(self) -> bool:
        """With `--once` or `--until-idle`: whether nothing can be rendered now.

        Raises:
            Hold: Something on hold keeps jobs from being rendered.
        """
        if not self.until_idle or self.status.running:
            return False
        if self.holds:
            what, entry = next(iter(self.holds.entries.items()))
            reason = entry.reason if entry.reason.startswith(f"{what}: ") else f"{what}: {entry.reason}"
            raise Hold(reason, entry.hint)
        if self.readers.trouble:
            hint = "Check the daemon's log and `voicespool doctor`, then try again."
            raise Hold(self.readers.trouble, hint)
        if self.intake is None or not self.intake.ended or not self.intake.session.arrivals.settled():
            return False
        session = self.intake.session
        if session.can_start(paused=session.arrivals.paused()) or session.being_read or session.spool.released:
            return False
        retries = [entry for entry in session.deferred.values() if entry.is_retry]
        if retries and not session.arrivals.paused():
            return False
        if len(session.deferred) > len(retries):
            deferred = next(entry for entry in session.deferred.values() if not entry.is_retry)
            raise Hold(f"{printable(deferred.ticket.name)}: {deferred.reason}")
        return True

    def _fail_if_files_are_held(self) -> None:
        """Raise Hold if the file system refused a file, so that a run from cron does not exit with 0."""
        held = self.session.arrivals.waiting(held=True) if self.session is not None else []
        if held:
            more = f" (and {len(held) - 1} more)" if len(held) > 1 else ""
            hint = "Let the daemon's user read the file and move it out of its folder."
            raise Hold(f"held: {printable(held[0].source)}: {held[0].reason}{more}", hint)

    def _stop_jobs(self) -> None:
        """The daemon stops: let running chunks end within limits.stop_grace_s; a second signal does not wait."""
        if self.status.running:
            log.info("stopping after the chunks that are being rendered", action="stopping")
            systemd.stopping("finishing chunks")
        for job_id in self.status.running:
            self.executor.cancel(job_id, at_once=False)
        while self.status.running and not self.signals.kill:
            self.turn()
        for running in list(self.status.running.values()):
            self._put_back(running.ticket)

    def _close(self) -> None:
        systemd.stopping()
        self.executor.stop(at_once=self.signals.kill)
        self.status.state = "stopped"
        self.status.write(self.session)
        if self.session is not None:
            while self.session.spool.released:
                tidy(self.session.spool)
            self.session.close()
        log.info("spool stopped", action="stop")

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _start(self, session: Session) -> bool:
        """Start one job, if nothing is on hold. A job that needs no rendering never waits for a render.

        A job for another model waits until the running ones have ended, or takes their place if it is more urgent.

        Returns:
            Whether there was one.
        """
        session.queue_again()
        paused = session.arrivals.paused()
        if self.holds and not self.status.running and not session.can_start(paused=paused):
            self._open_outbox(session)  # no job is there to try it
            self.holds.end("work", "worker")
        is_held = bool(self.holds) and session.schedule.has_urgent()
        warm = self.executor.warm
        ticket = session.schedule.choose(
            time.time(),
            time.monotonic(),
            (warm[0], warm[1] or "") if warm else None,
            only_urgent=paused or is_held or not self._can_render(session),
        )
        self.is_blocked = ticket is not None and ticket.priority != URGENT and not self._fits(ticket)
        if ticket is not None and self.is_blocked:
            session.schedule.add(ticket)
            if self.config.limits.preempt and ticket.priority > self._running_priority():
                self._preempt(ticket)
            return False
        if ticket is not None:
            job_id = ticket.job_id

            def begin() -> Job | Publication | Outcome | None:
                session.open_outbox()
                self.holds.end("outbox")
                return pipeline.begin(session.spool, job_id)

            self._advance(session, ticket, begin)
        return ticket is not None and session is self.session

    def _can_render(self, session: Session) -> bool:
        """Whether the executor could take a job now; also one more than its capacity, if it is more urgent than all."""
        if self.executor.capacity:
            return True
        return session.schedule.highest_priority(time.time()) > self._running_priority()

    def _rendering(self) -> list[Ticket]:
        """The jobs that the executor has."""
        ended = {event.job_id for event in self.rendered} | {ticket.job_id for ticket, _ in self.ended}
        return [running.ticket for job_id, running in self.status.running.items() if job_id not in ended]

    def _running_priority(self) -> int:
        """The highest priority of the jobs that the executor has; -1 if there are none."""
        return max((ticket.priority for ticket in self._rendering()), default=-1)

    def _fits(self, ticket: Ticket) -> bool:
        """Whether a job can be rendered along with those that are running."""
        others = [other for other in self._rendering() if other.job_id != ticket.job_id]
        return not any(ticket.alone or other.alone or other.model != ticket.model for other in others)

    def _preempt(self, ticket: Ticket) -> None:
        """Put the running jobs back, after the chunks that are being rendered."""
        for running in self.status.running.values():
            if not running.is_cancelling:
                running.is_cancelling = True
                self.executor.cancel(running.ticket.job_id, at_once=False)
                log.info("making room", action="preempt", job_id=running.ticket.job_id, urgent=ticket.name)

    def _cancel(self, running: RunningJob) -> None:
        """Cancel a running job; the model stays loaded."""
        if not running.is_cancelling:
            running.is_cancelling = True
            ticket = running.ticket
            self.executor.cancel(ticket.job_id, at_once=True)
            log.info("cancelling", action="cancelling", job_id=ticket.job_id, name=ticket.name)

    def _handle(self, event: Event) -> None:
        running, session = self.status.running.get(event.job_id), self.session
        if running is None or session is None:  # its inbox is gone
            return
        if isinstance(event, Progressed):
            self.status.rendered(running.progress(event))
            if running.chunk > running.first_chunk:  # a chunk was rendered and kept: nothing is in its way any more
                self._end_hold_on_work(running)
                session.deferred.pop(event.job_id, None)
            self.status.changed()
            return
        result: Rendering | JobError | Hold | Unclear | None = event.result
        if self.intake is not None and event.job_id in self.intake.unwanted:
            result = Cancelled("the job was cancelled while it was rendered")
        if result is None:
            self._put_back(running.ticket)
        elif isinstance(result, Unclear):
            self._set_apart(session, running, result)
        elif isinstance(result, Hold):
            self._remove_running(running.ticket)
            self._postpone(session, [(running.ticket, result)])
        else:
            self._advance(session, running.ticket, partial(pipeline.finish, session.spool, running.job, result))

    def _set_apart(self, session: Session, running: RunningJob, unclear: Unclear) -> None:
        """Nobody knows whether this job is the cause: it is rendered again, alone."""
        log.warning(
            "the engine failed with several jobs; each is rendered alone", action="set_apart",
            job_id=running.ticket.job_id, name=running.ticket.name, reason=unclear.reason,
        )  # fmt: skip
        try:
            self._put_back(pipeline.set_apart(running.job))
        except Hold as hold:
            self._remove_running(running.ticket)
            self._postpone(session, [(running.ticket, hold)])

    def _advance(
        self, session: Session, ticket: Ticket, step: Callable[[], Job | Publication | Outcome | None]
    ) -> None:
        """Take a step with a job, after which it is with the executor, about to be published, or back in the queue."""
        try:
            with holding("the state folder of the inbox"):
                result = step()
            if isinstance(result, Publication):
                self.ended.append((ticket, result))
                return
            if isinstance(result, Job) and ticket.priority == URGENT:  # its problems were fixed in the meantime
                session.schedule.add(result.ticket)
                return
            if isinstance(result, Job) and result.wait_s:
                self._remove_running(ticket)
                session.retry_later(
                    result.ticket, f"it failed; the next attempt starts after {result.wait_s:g} s", result.wait_s
                )
                self.status.changed()
                return
            if isinstance(result, Job):
                self._submit(ticket, result)
                return
            self._ended(session, ticket, result)
        except BeingRead as read:
            session.being_read[ticket.job_id] = ticket, read.reading
            self._remove_running(ticket)
        except LockLost:
            raise
        except Hold as hold:
            self._remove_running(ticket)
            self._postpone(session, [(ticket, hold)])

    def _publish(self) -> None:
        """Publish the jobs that have ended."""
        while self.ended and self.session is not None:
            session, group, self.ended = self.session, self.ended[:GROUP], self.ended[GROUP:]
            results = publish(session.spool, [publication for _, publication in group])
            held: list[tuple[Ticket, Hold]] = []
            for (ticket, _), result in zip(group, results, strict=True):
                if isinstance(result, Hold):
                    self._remove_running(ticket)
                    held.append((replace(ticket, priority=URGENT, not_before=0.0), result))
                else:
                    self._ended(session, ticket, result)
            self._postpone(session, held)

    def _ended(self, session: Session, ticket: Ticket, outcome: Outcome | None) -> None:
        """A job is published, or its file is back in the inbox (None)."""
        self.holds.end("outbox")
        self._end_hold_on_work(self.status.running.get(ticket.job_id))
        session.deferred.pop(ticket.job_id, None)
        if outcome is not None:
            self._report(outcome)
        self._remove_running(ticket)

    def _end_hold_on_work(self, running: RunningJob | None) -> None:
        """A job got on: work is possible again, unless that job had been running when the hold began."""
        hold = self.holds.entries.get("work")
        if hold is not None and (running is None or running.started_s >= hold.since_s):
            self.holds.end("work")

    def _submit(self, ticket: Ticket, job: Job) -> None:
        """Raises Hold when the executor can't take it."""
        earlier_attempt = self.status.running.get(ticket.job_id)
        # As an earlier attempt just ended, another job may have been started, or may be about to take its place.
        must_wait = earlier_attempt and (earlier_attempt.is_cancelling or not self.executor.capacity)
        if self.signals.stop or must_wait or not self._fits(job.ticket):
            self._put_back(job.ticket)
            return
        self.executor.submit(job.order)
        self.status.running[ticket.job_id] = (
            replace(earlier_attempt, ticket=job.ticket, job=job)
            if earlier_attempt
            else RunningJob(job.ticket, job, time.time())
        )
        self.status.changed()

    def _remove_running(self, ticket: Ticket) -> None:
        if self.status.running.pop(ticket.job_id, None) is not None:
            self.status.changed()
        if self.intake is not None:
            self.intake.unwanted.discard(ticket.job_id)

    def _put_back(self, ticket: Ticket) -> None:
        """The daemon stops: the job stays claimed, with its finished chunks."""
        self._remove_running(ticket)
        if self.session is not None:
            self.session.schedule.add(ticket)
        log.info("job put back", action="put_back", job_id=ticket.job_id, name=ticket.name)

    def _report(self, outcome: Outcome) -> None:
        self.status.add(outcome)
        doubts = {"doubts": list(outcome.reasons)} if outcome.verdict == "doubtful" else {}
        words = ({"message": outcome.message} if outcome.message else {}) | doubts
        write = log.warning if words and outcome.status != "cancelled" else log.info
        write(
            f"job {outcome.status}", action=outcome.status, job_id=outcome.job_id, name=outcome.name,
            folder=str(outcome.folder), duration_s=round(outcome.duration_s, 2), **words,
        )  # fmt: skip

    def _postpone(self, session: Session, held: Sequence[tuple[Ticket, Hold]]) -> None:
        """Nothing is wrong with these jobs: defer one behind the others if its files are the cause; else hold all."""
        if session is not self.session:
            return  # the inbox is gone, and the jobs with it
        of_all: Hold | None = None
        for ticket, hold in held:
            if of_all is None and self._concerns_one_job(session, hold):
                log.warning("job deferred", action="defer", job_id=ticket.job_id, name=ticket.name, reason=hold.message)
                session.defer(ticket, hold.message)
                self.status.changed()
            else:
                session.schedule.add(ticket)
                of_all = of_all or hold
        if isinstance(of_all, InboxGone):
            self._close_inbox(of_all)
        elif of_all is not None:
            session.spool.outbox = None  # opened and checked again before the next job
            self.holds.begin(HOLD_NAMES.get(type(of_all), "work"), of_all)

    def _concerns_one_job(self, session: Session, hold: Hold) -> bool:
        """Whether the file system refused a file of one job, while the folders and the disk are well."""
        error = hold.__cause__
        if type(hold) is not Hold or not isinstance(error, OSError) or error.errno in NOT_OF_ONE_JOB:
            return False
        outbox = session.spool.outbox
        return session.spool.store.refuses() is None and (outbox is None or outbox.refuses() is None)

    def _turn_between_slices(self, session: Session) -> None:
        """Take a turn without waiting, in the middle of a long piece of work.

        Raises:
            InboxGone: That turn closed the session; the paths of the work may now lead into another inbox.
        """
        self.turn(wait=False)
        if self.session is not session:
            raise InboxGone("the inbox disappeared while a job was read or published")

    def _running(self) -> list[Ticket]:
        return [running.ticket for running in self.status.running.values()]

    def _on_queued(self, ticket: Ticket) -> None:
        """Let the executor start up while its first order is being prepared."""
        self.status.changed()
        will_render = ticket.priority != URGENT and not ticket.not_before and not self.holds
        if will_render and self.session is not None and not self.session.arrivals.paused():
            self.executor.expect()

    def _expect_jobs(self, session: Session) -> None:
        """The same while a large inbox is searched for the first time."""
        arrivals = session.arrivals
        if not arrivals.swept_once and arrivals.has_seen_files and not self.holds and not arrivals.paused():
            self.executor.expect()

    # --- inbox and outbox --------------------------------------------------------------------------------------------

    def _open_inbox(self, *, first: bool = False) -> None:
        """Open the inbox. The intake then reads back what an earlier daemon claimed there."""
        try:
            with holding("the inbox"):
                session = Session.open(self.config, self.events)
        except (LockHeld, LockLost):
            raise
        except Hold as hold:
            self.holds.begin("inbox", hold)
            return
        except ConfigError as error:
            if first:
                raise
            self.holds.begin("inbox", Hold(error.message, error.hint))
            return
        session.spool.reader, session.spool.find_outbox = self.readers, session.open_outbox
        session.spool.after_slice, session.spool.removes_later = partial(self._turn_between_slices, session), True
        self.session, self.intake = session, Intake(session, self._on_queued, self._running)
        self.inbox_id, self.inbox_device = session.spool.store.inbox_id, _device(self.config.inbox)
        self.new_inbox_since_s = None
        self.executor.inherit((session.state.fd,))
        if session.left and "inbox" not in self.holds.entries:
            log.info("reading back claimed jobs", action="recover", jobs=len(session.left))
        self._open_outbox(session)

    def _check_inbox(self) -> None:
        """Notice that the inbox is gone, is back, or was replaced by a new one."""
        now = time.monotonic()
        if self.session is None:
            if now >= self.holds.due_s:
                self._find_inbox(now)
        elif now - self.inbox_checked_s >= INBOX_CHECK_S:
            self.inbox_checked_s = now
            with self._closing_inbox_on_hold():
                self.session.spool.store.check()

    def _find_inbox(self, now: float) -> None:
        """Open the same inbox at once, and a new one when it has been there for NEW_INBOX_AFTER_S.

        A folder on another file system is never a new inbox: it is the mount point of a share that is gone.
        """
        if self.inbox_id is None or self._found_inbox_id() == self.inbox_id:
            self._open_inbox()
            return
        if _device(self.config.inbox) != self.inbox_device or not os.path.isdir(self.config.inbox):
            self.new_inbox_since_s = None
        elif self.new_inbox_since_s is None:
            self.new_inbox_since_s = now
        elif now - self.new_inbox_since_s >= NEW_INBOX_AFTER_S:
            log.error(
                "the inbox is a new one; it lacks the jobs claimed in the old one",
                action="new_inbox", jobs=self.lost_jobs[:100], jobs_count=len(self.lost_jobs),
            )  # fmt: skip
            self._open_inbox()
            return
        self.holds.back_off()

    def _found_inbox_id(self) -> str | None:
        try:
            return read_id(self.config.state_dir)
        except OSError:
            return None

    @contextlib.contextmanager
    def _closing_inbox_on_hold(self) -> Iterator[None]:
        try:
            with holding("the inbox"):
                yield
        except LockLost:
            raise
        except Hold as hold:
            self._close_inbox(hold)

    def _close_inbox(self, hold: Hold) -> None:
        """The inbox is gone, or its file system refuses: close it. Its jobs are safe in its own folders."""
        session, self.session, self.intake = self.session, None, None
        if session is None:
            return
        tickets = [*self._running(), *session.schedule.first(len(session.schedule))]
        self.lost_jobs = [printable(ticket.name) for ticket in tickets]
        self.status.running.clear()
        self.rendered.clear()
        self.ended.clear()
        self.executor.stop(at_once=True)  # it has the state folder open too, which keeps an unmount busy
        session.close()
        self.events.forget()
        self.holds.begin("inbox", hold)

    def _open_outbox(self, session: Session) -> None:
        """Open the outbox if it is there, so that its hold begins and ends also without a job."""
        try:
            session.open_outbox()
        except Hold as hold:
            self.holds.begin("outbox", hold)
        else:
            self.holds.end("outbox")

    # --- configuration and status ------------------------------------------------------------------------------------

    def _reload_if_asked(self) -> None:
        """On SIGHUP, use the new configuration; if it is wrong, report it and keep the old one."""
        if not self.signals.reload:
            return
        self.signals.reload = False
        systemd.reloading()
        try:
            with holding("the folder that it is in"):
                fresh = configuration.load(self.config_path)
            usable = until_restart(fresh, self.config)
            if self.session is not None:
                self.session.reload(usable)
            else:
                job_rules(usable)  # raises ConfigError if `defaults` are wrong
            self.readers.configure(usable)
            self.executor.configure(usable.limits, usable.device.idle_s)
            self.config_read, self.config = ConfigRead.of(fresh, self.config, time.time()), usable
            if self.config_read.pending_restart:
                log.warning("these keys need a restart", action="reload", keys=list(self.config_read.pending_restart))
            log.info("configuration read again", action="reload", changed=list(self.config_read.changed))
        except (ConfigError, Hold) as error:
            reason = "; ".join(error.message.splitlines())
            self.config_read = replace(self.config_read, at_s=time.time(), changed=(), error=reason)
            log.error("the new configuration is wrong; the old one stays", action="reload", reason=reason)
        self.status.settings = config_in_status(self.config, self.config_path, self.config_read)
        self.status.changed()
        systemd.ready()

    def _update_status(self) -> None:
        """Keep status.json and systemd up to date."""
        state = self._state()
        if state != self.status.state:
            self.status.state = state
            self.status.changed()
            systemd.status(state)
        arrivals_changes = self.session.arrivals.changes if self.session is not None else self.written_changes[1]
        if (changes := (self.holds.changes, arrivals_changes)) != self.written_changes:
            self.written_changes = changes
            self.status.changed()
        if self.executor.warm != self.status.warm:
            self.status.warm = self.executor.warm
            self.status.changed()
        if self.status.due_in() == 0.0:
            self.status.write(self.session)
        if self.watchdog_s is not None and time.monotonic() >= self.watchdog_due_s:
            systemd.watchdog()
            self.watchdog_due_s = time.monotonic() + self.watchdog_s

    def _state(self) -> DaemonState:
        session = self.session
        if self.signals.stop:
            return "stopping"
        if self.holds or session is None:
            return "hold"
        paused = session.arrivals.paused()
        if self.status.running or session.can_start(paused=paused):
            return "running"
        if not session.arrivals.swept_once:
            return "starting"
        return "paused" if paused else "idle"


def _device(folder: Path) -> int | None:
    """The device number of a folder's file system; None if the folder can't be read."""
    try:
        return folder.stat().st_dev
    except OSError:
        return None
