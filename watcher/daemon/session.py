"""Everything that belongs to one inbox while the daemon holds its lock."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace

from files import mounts
from jobs.errors import holding
from jobs.folders import Spool, SpoolSettings
from jobs.order import JobLimits
from jobs.results.open_outbox import PublishPolicy
from jobs.results.outbox import Outbox
from jobs.schedule import Schedule, Ticket
from jobs.spec.rules import ModelsElsewhere
from jobs.spool.lock import Lock
from jobs.spool.places import Places
from jobs.spool.reading import Reading
from jobs.spool.recordings import Snapshots
from jobs.spool.state import State
from jobs.spool.store import Store
from watcher.config import folders
from watcher.config.folders import EXPOSED_CURE
from watcher.config.job_rules import job_rules
from watcher.config.settings import Config
from watcher.daemon.arrivals import Arrivals
from watcher.daemon.events import Events
from watcher.daemon.readiness import ArrivalPolicy, Readiness
from watcher.log import log


def worker_limits(config: Config) -> JobLimits:
    """The limits that the worker enforces on each job."""
    return JobLimits(config.limits.audio_s, config.limits.speaker_text_chars)


def places(config: Config) -> Places:
    """The folders from which a job may name files, and how large they may be."""
    limits = config.limits
    return Places(
        inbox=config.inbox,
        voices=config.voices,
        state=config.state_dir,
        allowed_roots=config.allowed_roots,
        max_bytes=limits.recording_bytes,
        job_bytes=limits.job_bytes,
        free_bytes=limits.free_bytes,
    )


def _spool_settings(config: Config) -> SpoolSettings:
    """Raises ConfigError if `defaults` are wrong."""
    return SpoolSettings(
        rules=replace(job_rules(config), models=ModelsElsewhere()),  # the daemon does not inspect models itself
        device=config.device.model_dump(mode="json"),
        max_bytes=config.limits.job_file_bytes,
        attempts=config.limits.attempts,
        deaths=config.limits.daemon_deaths,
        limits=worker_limits(config),
        models=config.models,
        retry_delays_s=config.limits.retry_delays_s,
    )


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What the parts of a session take from a configuration. A reload replaces this object as a whole."""

    config: Config
    spool: SpoolSettings
    places: Places
    arrivals: ArrivalPolicy
    publishing: PublishPolicy

    @classmethod
    def of(cls, config: Config) -> SessionSettings:
        """Raises ConfigError if `defaults` are wrong."""
        results = config.results
        return cls(
            config=config,
            spool=_spool_settings(config),
            places=places(config),
            arrivals=ArrivalPolicy(config.ready, config.limits, mounts.is_network(config.inbox)),
            publishing=PublishPolicy(results.on_existing == "replace", results.folder_mode, results.gid),
        )


@dataclass(slots=True)
class InUse:
    """The settings in use. The parts of a session ask it each time, so nothing has to be told to them."""

    settings: SessionSettings


DEFER_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


@dataclass(slots=True)
class Deferred:
    """A job that waits behind the others, longer each time: the file system refused one of its files, or it failed and
    is tried again.

    Attributes:
        since_s: When it was first deferred, Unix time.
        due_s: When it is queued again, monotonic; infinity while it is queued.
        times: How often it was deferred.
        is_retry: It failed, and will be tried again.
    """

    ticket: Ticket
    reason: str
    since_s: float
    due_s: float
    times: int = 1
    is_retry: bool = False


@dataclass(slots=True)
class Session:
    """An inbox in use.

    Attributes:
        left: Ids of claimed jobs that are not in the queue yet, oldest last.
        deferred: Deferred jobs by id, until they end.
        being_read: Jobs, by id, that were chosen before a reader had read their file again.
    """

    in_use: InUse
    state: State
    lock: Lock
    spool: Spool
    arrivals: Arrivals
    schedule: Schedule
    left: list[str] = field(default_factory=list)
    deferred: dict[str, Deferred] = field(default_factory=dict)
    being_read: dict[str, tuple[Ticket, Reading]] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        return self.in_use.settings.config

    @classmethod
    def open(cls, config: Config, events: Events) -> Session:
        """Make the folders, take the lock, find the jobs that an earlier daemon claimed.

        Raises:
            ConfigError: A folder of the configuration can't be used.
            Hold: Another daemon has the inbox, or the file system refuses something.
        """
        with contextlib.ExitStack() as undo:
            with holding("the spool's folders"):
                state = folders.prepare(config)
                undo.callback(state.close)
            with holding("the state folder of the inbox"):
                lock = Lock.acquire(state.path / "lock")
                undo.callback(lock.release)
                store = Store.open(config.inbox, state)
                undo.callback(store.close)
                session = cls._of(config, events, store, lock)
                danger = folders.exposed(config)
            undo.pop_all()
        if danger:
            log.warning("other users can replace the state folder", action="start", reason=danger, hint=EXPOSED_CURE)
        return session

    @classmethod
    def _of(cls, config: Config, events: Events, store: Store, lock: Lock) -> Session:
        in_use = InUse(SessionSettings.of(config))
        store.empty_trash()
        spool = Spool(
            store=store,
            lock=lock,
            outbox=None,
            snapshots=Snapshots(store.state / "recordings", lambda: in_use.settings.places),
            in_use=lambda: in_use.settings.spool,
        )
        spool.snapshots.sweep()
        readiness = Readiness(
            inbox=config.inbox,
            places=lambda: in_use.settings.places,
            policy=lambda: in_use.settings.arrivals,
            read=spool.read,
            deaths=store.deaths,
            lacks_room=spool.snapshots.why_no_room,
            recall=store.lately.recall,
        )
        arrivals = Arrivals(config.inbox, readiness, events)
        schedule = Schedule(lambda: in_use.settings.config.limits.affinity_s)
        return cls(in_use, store.folder, lock, spool, arrivals, schedule, left=store.claimed_ids()[::-1])

    def reload(self, config: Config) -> None:
        """Use another configuration of the same folders.

        Raises:
            ConfigError: Its `defaults` are wrong; nothing was changed.
        """
        self.in_use.settings = SessionSettings.of(config)

    def can_start(self, *, paused: bool) -> bool:
        """Whether a job could start now. While paused, only jobs that need no rendering count."""
        return self.schedule.has_urgent() if paused else self.schedule.has_ready(time.time())

    def named(self, name: str) -> list[Ticket]:
        """All jobs that `NAME.cancel` means and that have not started."""
        waiting = [entry.ticket for entry in self.deferred.values() if entry.due_s != float("inf")]
        waiting += [ticket for ticket, _reading in self.being_read.values()]
        return [*self.schedule.named(name), *(ticket for ticket in waiting if ticket.is_meant_by(name))]

    def waits(self, job_id: str) -> bool:
        """Whether a job has not started: it is queued, deferred or being read."""
        return job_id in self.schedule or job_id in self.deferred or job_id in self.being_read

    def defer(self, ticket: Ticket, reason: str) -> None:
        """Let a job wait behind the others, since the file system refuses one of its files."""
        entry = self.deferred.setdefault(ticket.job_id, Deferred(ticket, reason, time.time(), 0.0, times=0))
        entry.ticket, entry.reason, entry.times, entry.is_retry = ticket, reason, entry.times + 1, False
        entry.due_s = time.monotonic() + DEFER_S[min(entry.times, len(DEFER_S)) - 1]

    def retry_later(self, ticket: Ticket, reason: str, after_s: float) -> None:
        """Let a job that failed wait before its next attempt."""
        due_s = time.monotonic() + after_s
        self.deferred[ticket.job_id] = Deferred(ticket, reason, time.time(), due_s, is_retry=True)

    def queue_again(self) -> None:
        """Queue the deferred jobs that are due, and those that have been read."""
        for entry in self.deferred.values():
            if entry.due_s <= time.monotonic():
                entry.due_s = float("inf")
                self.schedule.add(entry.ticket)
        for job_id in [job_id for job_id, (_ticket, reading) in self.being_read.items() if reading.ended]:
            self.schedule.add(self.being_read.pop(job_id)[0])

    def open_outbox(self) -> None:
        """Open the outbox, if it is not open.

        Raises:
            OutboxGone: It was there before, and is now gone or another one.
            Hold: The file system refuses something.
        """
        if self.spool.outbox is not None:
            return
        with holding("the outbox can't be used"):
            store, config = self.spool.store, self.config
            memory = self.state.path / folders.OUTBOX_MEMORY
            outbox = Outbox.open(config.outbox, memory, store.inbox_id, lambda: self.in_use.settings.publishing)
            folders.writable("outbox", config.outbox)  # before a model is loaded for a result that can't be published
            outbox.clean(keep=lambda job_id: bool(store.folder_of(job_id).record().intent))
        self.spool.outbox = outbox

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.spool.store.close()
        self.lock.release()
        self.state.close()
