"""One order in the worker's hands, from giving it out to its end, good or bad."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs.errors import Hold, RenderFailed, WorkerUnready
from jobs.render.rendering import Order, Rendering
from watcher.config.settings import Limits
from watcher.daemon import systemd
from watcher.daemon.signals import Signals
from watcher.executors.local.worker import Died, Done, Event, Failed, Loaded, Progress, Stopped, Worker
from watcher.log import log

READY_S = 60.0  # a cold disk or a busy machine may take half of that


class PutBack(Exception):
    """The daemon is asked to stop: the job goes back to the queue with what is done."""


@dataclass(slots=True)
class Supervisor:
    """Sees one order through; the daemon's loop goes on meanwhile.

    Attributes:
        tend: One turn of the loop; waits until something happens.
        check: Raises when the order is not wanted any more.
        progress: Told of each finished chunk.
        started_s: When rendering proper began (monotonic seconds); None while the engine is being loaded.
        asked_s: When the worker was asked to stop; None before.
    """

    worker: Worker
    signals: Signals
    limits: Limits
    tend: Callable[[], None]
    check: Callable[[Order], None]
    progress: Callable[[Progress], None]
    started_s: float | None = None
    asked_s: float | None = None

    def __call__(self, order: Order, timeout_s: float | None) -> Rendering:
        """Render an order.

        Args:
            timeout_s: Longest time for rendering, loading not counted; None for limits.render_s.

        Raises:
            RenderFailed: The engine or its worker failed, or took too long.
            WorkerUnready: There was no worker to give it to; nothing is wrong with the order.
            Cancelled, Hold, PutBack: The worker was made to stop.
        """
        self.started_s = self.asked_s = None
        self.worker.submit(order)
        model = {"checkpoint": order.checkpoint.name} if order.checkpoint else {}
        log.info("job starts", action="render", job_id=order.job_id, engine=order.engine, **model)
        try:
            while True:
                self.tend()
                self.check(order)
                for event in self.worker.receive():
                    if (rendering := self._heard(event)) is not None:
                        return rendering
                self._check_time(timeout_s)
                self._stop_if_asked()
        finally:
            if self.worker.busy:
                self.worker.kill()

    def _heard(self, event: Event) -> Rendering | None:
        if isinstance(event, Done):
            return event.rendering
        if isinstance(event, Loaded):
            self.started_s = time.monotonic()
        elif isinstance(event, Progress):
            self.progress(event)
        elif isinstance(event, Stopped):
            raise PutBack
        elif isinstance(event, Failed):
            self._failed(event)
        elif isinstance(event, Died):
            if not event.was_ready:
                printed = f"; it printed: {event.last_line}" if event.last_line else ""
                raise WorkerUnready(f"the worker {event.reason} before it was ready{printed}")
            raise RenderFailed(f"The worker {event.reason}.", code=event.code)
        return None

    def _failed(self, event: Failed) -> None:
        if event.retryable:  # the engine may be in disorder: the next attempt gets a fresh worker
            self.worker.kill()
        if event.code == Hold.code:
            raise Hold(event.message, event.hint)
        raise RenderFailed(event.message, event.hint, code=event.code, retryable=event.retryable)

    def _check_time(self, timeout_s: float | None) -> None:
        now = time.monotonic()
        most_s = timeout_s or self.limits.render_s
        if self.started_s is not None and now - self.started_s > most_s:
            bound = "the job's timeout_s" if timeout_s else "limits.render_s"
            more = "Give the job more time" if timeout_s else "Raise limits.render_s in config.yaml"
            raise RenderFailed(
                f"Rendering took longer than {bound} ({most_s:g} s).", f"{more}, or split its text.", code="timeout"
            )
        silent_s = now - self.worker.last_progress
        if not self.worker.ready:
            if silent_s > max(READY_S, self.limits.stall_s):
                raise WorkerUnready(f"the worker was not ready after {silent_s:.0f} s")
        elif silent_s > self.limits.stall_s:
            raise RenderFailed(
                f"The render made no progress for limits.stall_s ({self.limits.stall_s:g} s).",
                "If the engine needs longer for one chunk on this machine, raise limits.stall_s in config.yaml.",
                code="stalled",
            )

    def _stop_if_asked(self) -> None:
        """Let the running chunk finish, for as long as limits.stop_grace_s; a second signal does not wait."""
        if not self.signals.stop:
            return
        if self.asked_s is None:
            self.worker.ask_stop()
            log.info("stopping after this chunk", action="stopping")
            systemd.stopping("finishing a chunk")
            self.asked_s = time.monotonic()
        if self.signals.kill or time.monotonic() - self.asked_s > self.limits.stop_grace_s:
            raise PutBack
