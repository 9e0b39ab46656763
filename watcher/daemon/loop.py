"""The running service: one loop that never waits for anything but its own list of things that can happen.

    wake -> arrivals -> claim -> schedule -> executor -> publish

Rendering is the executor's: it is given orders, and its events are one of the things that wake the loop. So there are
no threads to lock against each other, except the one that reads file events.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
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
from jobs.pipeline import Job, Outcome
from jobs.schedule import URGENT, Ticket
from jobs.spool.reading import BeingRead
from jobs.spool.store import read_id
from watcher.client.status import DaemonState
from watcher.config import settings as configuration
from watcher.config.job_rules import job_rules
from watcher.config.reread import ConfigRead, told, until_restart
from watcher.config.settings import Config
from watcher.daemon import systemd
from watcher.daemon.events import Events
from watcher.daemon.intake import Intake
from watcher.daemon.session import Deferred, Session
from watcher.daemon.signals import Signals
from watcher.daemon.status_writer import RunningJob, StatusWriter
from watcher.executors.base import Event, Progressed
from watcher.executors.local.executor import LocalExecutor
from watcher.executors.local.worker import Worker
from watcher.log import log
from watcher.readers.pool import Readers

HOLD_LOOKS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
HOLD_NAMES: Mapping[type[Hold], str] = {OutboxGone: "outbox", WorkerUnready: "worker"}
NEW_INBOX_AFTER_S = 30.0
FULL = {errno.ENOSPC, errno.EDQUOT}  # one result may be too large where others fit: the folders are tried
NOT_OF_ONE_JOB = (OF_THE_DISK - FULL) | {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN}
INBOX_LOOK_S = 1.0


@dataclass(slots=True)
class Backoff:
    """When a hold is looked at again: soon at first, then every 10 s. Monotonic seconds."""

    looks: int = 0
    due: float = 0.0

    def wait(self) -> None:
        self.due = time.monotonic() + HOLD_LOOKS_S[min(self.looks, len(HOLD_LOOKS_S) - 1)]
        self.looks += 1

    def over(self) -> None:
        self.looks, self.due = 0, 0.0


def run(config: Config, *, config_path: Path | None, once: bool, until_idle: bool) -> int:
    """Run the daemon until it is asked to stop, or until nothing can be rendered now.

    Args:
        config_path: Read again on SIGHUP.
        once: Render what is in the inbox and becomes ready, then return.
        until_idle: Return when nothing can be rendered now.

    Returns:
        0, or 1 when `once` and a job failed.

    Raises:
        ConfigError: A folder can't be what it is meant to be.
        Hold: Another daemon has the inbox; or with `once` or `until_idle`, whatever keeps work from going on.
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
            return Daemon(config, config_path, once or until_idle, events, signals, executor, readers).run(fail=once)
    finally:
        events.close()


class Daemon:
    """The loop and what it knows. `tend` is one turn of it."""

    def __init__(  # noqa: PLR0913 - made in one place, of all the parts there are
        self,
        config: Config,
        config_path: Path | None,
        passing: bool,
        events: Events,
        signals: Signals,
        executor: LocalExecutor,
        readers: Readers,
    ) -> None:
        self.config, self.config_path, self.passing = config, config_path, passing
        self.events, self.signals, self.executor, self.readers = events, signals, executor, readers
        self.status = StatusWriter.beside(config.state_dir)
        self.config_read = ConfigRead(time.time())
        self.status.settings = told(config, config_path, self.config_read)
        self.session: Session | None = None
        self.backoff = Backoff()
        self.inbox_id: str | None = None
        self.inbox_device: int | None = None
        self.lost: list[str] = []
        self.hints: dict[str, str] = {}
        self.inbox_checked_s = 0.0
        self.new_inbox_since: float | None = None
        self.is_working = False
        self.intake: Intake | None = None
        self.watchdog_s = systemd.watchdog_interval_s()
        self.watchdog_due_s = 0.0
        self.told_changes = 0
        self.poll = select.poll()
        for descriptor in (signals.fd, events.wake_fd, executor.fileno(), readers.fileno()):
            self.poll.register(descriptor, select.POLLIN)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self, *, fail: bool) -> int:
        self._open(first=True)
        log.info("spool starts", action="start", inbox=str(self.config.inbox), outbox=str(self.config.outbox))
        if cache_folder := cache.unusable():
            log.warning(
                "nothing can be kept between starts", action="start", folder=str(cache_folder), hint=cache.CURE
            )  # fmt: skip
        systemd.ready()
        try:
            while not self.signals.stop and not self._finished():
                self.tend()
            self._let_chunks_end()
            if fail and not self.signals.stop:
                self._complain_of_held_files()
        finally:
            self._close()
        return int(fail and self.status.ended["failed"] > 0)

    def tend(self, *, wait: bool = True) -> None:
        """One turn: wait for something to happen, then look after everything."""
        if self.session is not None:
            pipeline.tidy(self.session.spool)  # first: a job that was given out just now is being rendered meanwhile
        self._wait(self._idle_for_s() if wait else 0.0)
        self.readers.step()
        self._reload_if_asked()
        self._look_after_inbox()
        if self.intake is not None:
            with self._inbox_may_go():
                self.intake.step()
                if not self.intake.session.left:  # not before it could be used: an inbox may open and yet refuse
                    self._resumed("inbox")
        if not self.is_working:
            self.is_working = True
            try:
                self._work()
            finally:
                self.is_working = False
        self._tell()

    def _work(self) -> None:
        """Take jobs on that the executor is through with, cancel those that nobody wants, and start the next one."""
        for event in self.executor.events():
            self._hear(event)
        if self.executor.is_ready:
            self._resumed("worker")
        if self.intake is not None:
            for job_id in self.intake.unwanted & self.status.running.keys():
                self._call_off(self.status.running[job_id])
        if self.session is not None and not self.signals.stop and time.monotonic() >= self.backoff.due:
            self._start(self.session)

    def _start(self, session: Session) -> None:
        """Begin one job, if nothing is in the way. What needs no rendering never waits for a render."""
        session.queue_again()
        paused = session.arrivals.paused()
        if not session.can_start(paused=paused) and not self.status.running and self.status.holds:
            self._look_for_outbox(session)
            self._resumed("work", "worker")
        is_held = bool(self.status.holds) and session.schedule.has_urgent()
        only_urgent = paused or is_held or not self.executor.capacity
        ticket = session.schedule.choose(time.time(), time.monotonic(), self._warm(), only_urgent=only_urgent)
        if ticket is not None:
            self._go_on(session, ticket, lambda: self._begun(session, ticket))

    def _begun(self, session: Session, ticket: Ticket) -> Job | Outcome | None:
        session.open_outbox()
        self._resumed("outbox")
        return pipeline.begin(session.spool, ticket.job_id)

    def _call_off(self, running: RunningJob) -> None:
        """Nobody wants the job that is being rendered: its chunk may end, so that the model stays loaded."""
        if not running.is_called_off:
            running.is_called_off = True
            self.executor.cancel(running.ticket.job_id)
            name = running.ticket.name
            log.info("cancelling after this chunk", action="cancelling", job_id=running.ticket.job_id, name=name)

    def _let_chunks_end(self) -> None:
        """The daemon stops: running chunks may end, within limits.stop_grace_s; a second signal does not wait."""
        if self.status.running:
            log.info("stopping after this chunk", action="stopping")
            systemd.stopping("finishing a chunk")
        for job_id in self.status.running:
            self.executor.cancel(job_id)
        while self.status.running and not self.signals.kill:
            self.tend()
        for running in list(self.status.running.values()):
            self._put_back(running.ticket)

    def _finished(self) -> bool:
        """With `--once` or `--until-idle`: whether nothing can be rendered now.

        Raises:
            Hold: Something could, if it were not for this.
        """
        if not self.passing or self.status.running:
            return False
        if self.status.holds:
            what, (reason, _) = next(iter(self.status.holds.items()))
            raise Hold(reason if reason.startswith(f"{what}: ") else f"{what}: {reason}", self.hints[what])
        if self.readers.trouble:
            raise Hold(
                self.readers.trouble, "The log of the daemon and `voicespool doctor` may say more; try again later."
            )
        if self.intake is None or not self.intake.ended or not self.intake.session.arrivals.settled():
            return False
        session = self.intake.session
        if session.can_start(paused=session.arrivals.paused()):
            return False
        if session.being_read or session.spool.released:
            return False
        if session.deferred:
            raise Hold(_words(next(iter(session.deferred.values()))))
        return True

    def _complain_of_held_files(self) -> None:
        """A run from cron that leaves a file behind because the file system refuses it must not look well."""
        held = self.session.arrivals.waiting(held=True) if self.session is not None else []
        if held:
            more = f" (and {len(held) - 1} more)" if len(held) > 1 else ""
            hint = "Let the user that the spool runs as read the file and take it out of its folder."
            raise Hold(f"held: {printable(held[0].source)}: {held[0].reason}{more}", hint)

    # --- one job -----------------------------------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        running, session = self.status.running.get(event.job_id), self.session
        if running is None or session is None:  # its inbox went away
            return
        if isinstance(event, Progressed):
            running.progress(event.done, event.total)
            self.status.changed()
            return
        result: Rendering | JobError | Hold | None = event.result
        if self.intake is not None and event.job_id in self.intake.unwanted:
            result = Cancelled("the job was cancelled while it was rendered")
        if result is None:
            self._put_back(running.ticket)
        elif isinstance(result, Hold):
            self._off(running.ticket)
            self._put_off(session, running.ticket, result)
        else:
            ended = result
            self._go_on(session, running.ticket, lambda: pipeline.finish(session.spool, running.job, ended))

    def _go_on(self, session: Session, ticket: Ticket, step: Callable[[], Job | Outcome | None]) -> None:
        """Take a job a step further: to the executor, into the outbox, or back into the queue."""
        try:
            with holding("the state folder of the inbox"):  # a disk may fill up at any step
                came = step()
            if isinstance(came, Job) and ticket.priority == URGENT:  # what was wrong with it was put right meanwhile
                session.schedule.add(came.ticket)
                return
            if isinstance(came, Job):
                self._submit(ticket, came)
                return
        except BeingRead as read:
            session.being_read[ticket.job_id] = ticket, read.reading
        except LockLost:
            raise
        except Hold as hold:
            running = self.status.running.get(ticket.job_id)
            if running is not None and running.job.is_told:
                ticket = replace(ticket, priority=URGENT, not_before=0.0)
            self._off(ticket)
            self._put_off(session, ticket, hold)
        else:
            self._resumed("outbox", "work")
            session.deferred.pop(ticket.job_id, None)
            if came is not None:
                self._tell_outcome(came)
        self._off(ticket)

    def _submit(self, ticket: Ticket, job: Job) -> None:
        """Raises Hold when the executor can't take it."""
        if self.signals.stop:
            self._put_back(ticket)
            return
        self.executor.submit(job.order)
        before = self.status.running.get(ticket.job_id)
        self.status.running[ticket.job_id] = (
            RunningJob(ticket, job, time.time()) if before is None else replace(before, job=job)
        )
        self.status.changed()

    def _off(self, ticket: Ticket) -> None:
        """A job is not running any more."""
        if self.status.running.pop(ticket.job_id, None) is not None:
            self.status.changed()
        if self.intake is not None:
            self.intake.unwanted.discard(ticket.job_id)

    def _put_back(self, ticket: Ticket) -> None:
        """The daemon stops: the job stays in its claim, with the chunks that are finished."""
        self._off(ticket)
        if self.session is not None:
            self.session.schedule.add(ticket)
        log.info("job put back", action="put_back", job_id=ticket.job_id, name=ticket.name)

    def _tell_outcome(self, outcome: Outcome) -> None:
        self.status.add(outcome)
        doubts = {"doubts": list(outcome.reasons)} if outcome.verdict == "doubtful" else {}
        words = ({"message": outcome.message} if outcome.message else {}) | doubts
        say = log.warning if words and outcome.status != "cancelled" else log.info
        say(
            f"job {outcome.status}", action=outcome.status, job_id=outcome.job_id, name=outcome.name,
            folder=str(outcome.folder), duration_s=round(outcome.duration_s, 2), **words,
        )  # fmt: skip

    def _put_off(self, session: Session, ticket: Ticket, hold: Hold) -> None:
        """Nothing is wrong with the job: it waits where it is, and so does everything behind it."""
        if session is not self.session:
            return  # the inbox is away, and the job in it
        if self._is_its_own(session, hold):
            log.warning("job deferred", action="defer", job_id=ticket.job_id, name=ticket.name, reason=hold.message)
            session.defer(ticket, hold.message)
            self.status.changed()
            return
        session.schedule.add(ticket)
        if isinstance(hold, InboxGone):
            self._lose_inbox(hold)
        else:
            session.spool.outbox = None  # found anew, and looked at, before the next try
            self._hold(HOLD_NAMES.get(type(hold), "work"), hold)

    def _is_its_own(self, session: Session, hold: Hold) -> bool:
        """Whether the trouble that a job ran into is of some file of its own: the folders themselves are well.

        A disk that is full or broken, or a machine that lacks something, is never one file's fault.
        """
        error = hold.__cause__
        if type(hold) is not Hold or not isinstance(error, OSError) or error.errno in NOT_OF_ONE_JOB:
            return False
        outbox = session.spool.outbox
        return session.spool.store.refuses() is None and (outbox is None or outbox.refuses() is None)

    def _breathe(self, session: Session) -> None:
        """One turn without waiting, between two slices of something long."""
        self._tend_while_in_use(session, wait=False)

    def _tend_while_in_use(self, session: Session, *, wait: bool) -> None:
        """One turn in the middle of a job. The paths of an inbox that is closed may be another one's by now.

        Raises:
            InboxGone: It was closed.
        """
        self.tend(wait=wait)
        if self.session is not session:
            raise InboxGone("the inbox went away while a job was read or published")

    def _running(self) -> list[Ticket]:
        return [running.ticket for running in self.status.running.values()]

    def _queued(self, ticket: Ticket) -> None:
        """Let the executor start while the first job is still on its way to it."""
        self.status.changed()
        wanted = ticket.priority != URGENT and not ticket.not_before and not self.status.holds
        if wanted and self.session is not None and not self.session.arrivals.paused():
            self.executor.expect()

    # --- holds: the inbox, the outbox ------------------------------------------------------------------------------

    def _open(self, *, first: bool = False) -> None:
        """Open the inbox; what an earlier daemon claimed there is read back in slices."""
        try:
            with holding("the inbox"):
                session = Session.open(self.config, self.events)
        except (LockHeld, LockLost):
            raise
        except Hold as hold:
            self._hold("inbox", hold)
            return
        except ConfigError as error:
            if first:
                raise
            self._hold("inbox", Hold(error.message, error.hint))
            return
        session.spool.elsewhere = self.readers
        session.spool.breathe, session.spool.at_leisure = partial(self._breathe, session), True
        session.spool.look_for_outbox = session.open_outbox
        self.session, self.inbox_id, self.new_inbox_since = session, session.spool.store.inbox_id, None
        self.inbox_device = _device(self.config.inbox)
        self.executor.worker.inherited = (session.state.fd,)
        self.intake = Intake(session, self._queued, self._running)
        if session.left and "inbox" not in self.status.holds:
            log.info("reading back claimed jobs", action="recover", jobs=len(session.left))
        self._look_for_outbox(session)

    def _look_after_inbox(self) -> None:
        """Notice that the inbox went away, came back, or was replaced by a new one."""
        now = time.monotonic()
        if self.session is None:
            if now >= self.backoff.due:
                self._look_for_inbox(now)
        elif now - self.inbox_checked_s >= INBOX_LOOK_S:
            self.inbox_checked_s = now
            with self._inbox_may_go():
                self.session.spool.store.check()

    def _look_for_inbox(self, now: float) -> None:
        """The one of before: go on. Another one, empty or not, is taken as new when it has stayed for half a minute.

        One on another file system is not: it is the mount point of a share that is away.
        """
        if self.inbox_id is None or self._found_inbox() == self.inbox_id:
            self._open()
            return
        if _device(self.config.inbox) != self.inbox_device or not os.path.isdir(self.config.inbox):
            self.new_inbox_since = None
        elif self.new_inbox_since is None:
            self.new_inbox_since = now
        elif now - self.new_inbox_since >= NEW_INBOX_AFTER_S:
            log.error(
                "the inbox is a new one; what was claimed in the old one is not here",
                action="new_inbox", jobs=self.lost[:100], jobs_count=len(self.lost),
            )  # fmt: skip
            self._open()
            return
        self.backoff.wait()

    def _found_inbox(self) -> str | None:
        try:
            return read_id(self.config.state_dir)
        except OSError:
            return None

    @contextlib.contextmanager
    def _inbox_may_go(self) -> Iterator[None]:
        try:
            with holding("the inbox"):
                yield
        except LockLost:
            raise
        except Hold as hold:
            self._lose_inbox(hold)

    def _lose_inbox(self, hold: Hold) -> None:
        """The inbox is away, or its file system refuses: let go of it; its jobs are safe in its own folders."""
        session, self.session, self.intake = self.session, None, None
        if session is None:
            return
        self.lost = [printable(ticket.name) for ticket in session.schedule.first(len(session.schedule))]
        self.lost[:0] = [printable(ticket.name) for ticket in self._running()]
        self.status.running.clear()
        self.executor.stop(at_once=True)  # it holds the state folder open too, and an unmount would stay busy
        session.close()
        self.events.forget()
        self._hold("inbox", hold)

    def _look_for_outbox(self, session: Session) -> None:
        """Open the outbox if it is there, so that a hold shows (and ends) also while there is no job."""
        try:
            session.open_outbox()
        except Hold as hold:
            self._hold("outbox", hold)
        else:
            self._resumed("outbox")

    def _hold(self, what: str, hold: Hold) -> None:
        before = self.status.holds.get(what)
        if before is None or before[0] != hold.message:
            log.warning("on hold", action="hold", what=what, reason=hold.message, hint=hold.hint)
            self.status.holds[what] = hold.message, before[1] if before else time.time()
            self.hints[what] = hold.hint
            self.status.changed()
        self.backoff.wait()

    def _resumed(self, *whats: str) -> None:
        for what in whats:
            if self.status.holds.pop(what, None) is not None:
                log.info("hold is over", action="resume", what=what)
                self.status.changed()
        if not self.status.holds:
            self.backoff.over()

    # --- small duties ------------------------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Sleep until something happens, at most so long."""
        for descriptor, _events in self.poll.poll(max(0.0, seconds) * 1000):
            if descriptor == self.signals.fd:
                self.signals.drain()
            elif descriptor == self.events.wake_fd and self.intake is None:
                self.events.take()  # nobody else does while the inbox is away, and the descriptor would stay readable

    def _idle_for_s(self) -> float:
        now, session = time.monotonic(), self.session
        dues = [INBOX_LOOK_S, self.status.due_in()]
        if self.watchdog_s is not None:
            dues.append(self.watchdog_due_s - now)
        if session is None or self.intake is None:
            return min(*dues, self.backoff.due - now)
        if self.intake.busy or session.spool.released:
            return 0.0
        dues.append(session.arrivals.due_in(now))
        if session.arrivals.busy():
            return 0.0
        if not self.signals.stop:
            dues.append(max(self._next_start_s(session, now), self.backoff.due) - now)
        return min(dues)

    def _next_start_s(self, session: Session, now: float) -> float:
        """When a job could begin, if there is no hold (monotonic seconds); infinity when none waits for its time."""
        has_room = self.executor.capacity and not session.arrivals.paused()
        if session.schedule.has_urgent() or (has_room and session.schedule.has_ready(time.time())):
            return now
        dues = [entry.due_s for entry in session.deferred.values()]
        if has_room and (start := session.schedule.next_start()) is not None:
            dues.append(now + start - time.time())
        return min(dues, default=float("inf"))

    def _reload_if_asked(self) -> None:
        """SIGHUP: take over a new configuration; a bad one is reported and the old one stays."""
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
                job_rules(usable)  # says what is wrong with `defaults`
            self.readers.configure(usable)
            self.executor.limits, self.executor.idle_s = usable.limits, usable.device.idle_s
            self.config_read, self.config = ConfigRead.of(fresh, self.config, time.time()), usable
            if self.config_read.pending_restart:
                log.warning("these keys need a restart", action="reload", keys=list(self.config_read.pending_restart))
            log.info("configuration read again", action="reload", changed=list(self.config_read.changed))
        except (ConfigError, Hold) as error:
            reason = "; ".join(error.message.splitlines())
            self.config_read = replace(self.config_read, at_s=time.time(), changed=(), error=reason)
            log.error("the new configuration is wrong; the old one stays", action="reload", reason=reason)
        self.status.settings = told(self.config, self.config_path, self.config_read)
        self.status.changed()
        systemd.ready()

    def _tell(self) -> None:
        """Keep status.json and systemd informed."""
        state = self._state()
        if state != self.status.state:
            self.status.state = state
            self.status.changed()
            systemd.status(state)
        if self.session is not None and self.session.arrivals.changes != self.told_changes:
            self.told_changes = self.session.arrivals.changes
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
        if self.status.holds or session is None:
            return "hold"
        paused = session.arrivals.paused()
        if self.status.running or session.can_start(paused=paused):
            return "running"
        if not session.arrivals.looked_around:
            return "starting"
        return "paused" if paused else "idle"

    def _warm(self) -> tuple[str, str] | None:
        return (self.executor.warm[0], self.executor.warm[1] or "") if self.executor.warm else None

    def _close(self) -> None:
        systemd.stopping()
        self.executor.stop(at_once=self.signals.kill)
        self.status.state = "stopped"
        self.status.write(self.session)
        if self.session is not None:
            while self.session.spool.released:
                pipeline.tidy(self.session.spool)
            self.session.close()
        log.info("spool stopped", action="stop")


def _words(deferred: Deferred) -> str:
    """Why a job waits behind the others."""
    return f"{printable(deferred.ticket.name)}: {deferred.reason}"


def _device(folder: Path) -> int | None:
    """Which file system a folder lies on; None when it can't be told."""
    try:
        return folder.stat().st_dev
    except OSError:
        return None
