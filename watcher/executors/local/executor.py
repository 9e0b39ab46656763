"""The executor on this machine: one order at a time, in one worker process that is killed when in doubt."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from jobs.errors import Hold, RenderFailed, WorkerUnready
from jobs.order import Order, Rendering
from watcher.config.settings import Limits
from watcher.executors.base import Ended, Event, Progressed
from watcher.executors.local import messages
from watcher.executors.local.messages import Died, Done, Failed, Loaded, Progress, Stopped
from watcher.executors.local.worker import Worker
from watcher.log import log

READY_S = 60.0  # a cold disk or a busy machine may take half of that


@dataclass(slots=True)
class _Current:
    """The order that the worker has.

    Attributes:
        loaded_s: When its engine was ready (monotonic seconds); None while it is being loaded.
        asked_s: When the worker was asked to stop; None before.
    """

    order: Order
    loaded_s: float | None = None
    asked_s: float | None = None


class LocalExecutor:
    """See `Executor`.

    Args:
        limits: render_s, stall_s and stop_grace_s count here.
        idle_s: The worker ends after this many seconds without work, and gives memory and GPU back.
    """

    def __init__(self, worker: Worker, limits: Limits, idle_s: float) -> None:
        self.worker, self.limits, self.idle_s = worker, limits, idle_s
        self._current: _Current | None = None
        self._worked_s = time.monotonic()

    @property
    def capacity(self) -> int:
        return int(self._current is None)

    @property
    def is_ready(self) -> bool:
        return self.worker.ready

    @property
    def warm(self) -> tuple[str, str | None] | None:
        return self.worker.warm

    def fileno(self) -> int:
        return self.worker.fileno()

    def expect(self) -> None:
        if not self.worker.alive:
            self._worked_s = time.monotonic()
            with contextlib.suppress(Hold):
                self.worker.start()

    def submit(self, order: Order) -> None:
        self.worker.submit(order)
        self._current = _Current(order)
        model = {"checkpoint": order.checkpoint.name} if order.checkpoint else {}
        log.info("job starts", action="render", job_id=order.job_id, engine=order.engine, **model)

    def cancel(self, job_id: str) -> None:
        current = self._current
        if current is not None and current.order.job_id == job_id and current.asked_s is None:
            current.asked_s = time.monotonic()
            self.worker.ask_stop()

    def events(self) -> list[Event]:
        events = [event for said in self.worker.receive() if (event := self._heard(said)) is not None]
        if self._current is not None and (overdue := self._overdue(self._current)) is not None:
            self.worker.kill()
            events.append(overdue)
        if self._current is None and self.worker.alive and time.monotonic() - self._worked_s > self.idle_s:
            self.worker.close()
        return events

    def stop(self, *, at_once: bool) -> None:
        self._current = None
        if at_once or self.worker.busy:
            self.worker.kill()
        else:
            self.worker.close()

    # --- what became of the order ------------------------------------------------------------------------------------

    def _heard(self, said: messages.Event) -> Event | None:
        current = self._current
        if current is None:  # an idle worker died: the next order starts another one
            return None
        if isinstance(said, Progress):
            return Progressed(current.order.job_id, said.done, said.total)
        if isinstance(said, Loaded):
            current.loaded_s = time.monotonic()
            return None
        return self._ended(current, self._result(said))

    def _ended(self, current: _Current, result: Rendering | RenderFailed | Hold | None) -> Ended:
        self._current, self._worked_s = None, time.monotonic()
        return Ended(current.order.job_id, result)

    def _result(self, said: messages.Event) -> Rendering | RenderFailed | Hold | None:
        if isinstance(said, Done):
            return said.rendering
        if isinstance(said, Failed):
            if said.retryable:  # the engine may be in disorder: the next attempt gets a fresh worker
                self.worker.kill()
            if said.code == Hold.code:
                return Hold(said.message, said.hint)
            return RenderFailed(said.message, said.hint, code=said.code, retryable=said.retryable)
        if isinstance(said, Died):
            if said.was_ready:
                return RenderFailed(f"The worker {said.reason}.", code=said.code)
            printed = f"; it printed: {said.last_line}" if said.last_line else ""
            return WorkerUnready(f"the worker {said.reason} before it was ready{printed}")
        assert isinstance(said, Stopped), said  # noqa: S101 - the worker's handle lets nothing else through
        return None

    # --- time limits -------------------------------------------------------------------------------------------------

    def _overdue(self, current: _Current) -> Ended | None:
        """The end of an order that takes too long; its worker is to be killed."""
        now = time.monotonic()
        if current.asked_s is not None and now - current.asked_s > self.limits.stop_grace_s:
            return self._ended(current, None)
        late = self._late(current, now)
        return None if late is None else self._ended(current, late)

    def _late(self, current: _Current, now: float) -> RenderFailed | WorkerUnready | None:
        own_s = current.order.spec.get("timeout_s")
        most_s = own_s or self.limits.render_s
        if current.loaded_s is not None and now - current.loaded_s > most_s:
            bound = "the job's timeout_s" if own_s else "limits.render_s"
            more = "Give the job more time" if own_s else "Raise limits.render_s in config.yaml"
            return RenderFailed(
                f"Rendering took longer than {bound} ({most_s:g} s).", f"{more}, or split its text.", code="timeout"
            )
        silent_s = now - self.worker.last_progress
        if not self.worker.ready:
            if silent_s > max(READY_S, self.limits.stall_s):
                return WorkerUnready(f"the worker was not ready after {silent_s:.0f} s")
        elif silent_s > self.limits.stall_s:
            return RenderFailed(
                f"The render made no progress for limits.stall_s ({self.limits.stall_s:g} s).",
                "If the engine needs longer for one chunk on this machine, raise limits.stall_s in config.yaml.",
                code="stalled",
            )
        return None
