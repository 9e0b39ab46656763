"""The executor on this machine: one order at a time, in one worker process."""

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

READY_S = 60.0  # a cold disk or a busy machine may need half of it


@dataclass(slots=True)
class _Current:
    """The order that the worker has.

    Attributes:
        loaded_s: When its engine was loaded, monotonic; None before.
        stop_asked_s: When the worker was asked to stop, monotonic; None before.
    """

    order: Order
    loaded_s: float | None = None
    stop_asked_s: float | None = None


class LocalExecutor:
    """An `Executor`.

    Args:
        limits: render_s, stall_s and stop_grace_s apply here.
        idle_s: The worker ends after this many seconds without work, which frees memory and GPU.
    """

    def __init__(self, worker: Worker, limits: Limits, idle_s: float) -> None:
        self.worker, self.limits, self.idle_s = worker, limits, idle_s
        self._current: _Current | None = None
        self._idle_since_s = time.monotonic()

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

    def configure(self, limits: Limits, idle_s: float) -> None:
        self.limits, self.idle_s = limits, idle_s

    def inherit(self, descriptors: tuple[int, ...]) -> None:
        self.worker.inherited = descriptors

    def expect(self) -> None:
        if not self.worker.alive:
            self._idle_since_s = time.monotonic()
            with contextlib.suppress(Hold):
                self.worker.start()

    def submit(self, order: Order) -> None:
        self.worker.submit(order)
        self._current = _Current(order)
        model = {"checkpoint": order.checkpoint.name} if order.checkpoint else {}
        log.info("job starts", action="render", job_id=order.job_id, engine=order.engine, **model)

    def cancel(self, job_id: str) -> None:
        current = self._current
        if current is not None and current.order.job_id == job_id and current.stop_asked_s is None:
            current.stop_asked_s = time.monotonic()
            self.worker.ask_stop()

    def events(self) -> list[Event]:
        events = [event for message in self.worker.receive() if (event := self._event(message)) is not None]
        if self._current is not None and (overdue := self._overdue(self._current)) is not None:
            self.worker.kill()
            events.append(overdue)
        if self._current is None and self.worker.alive and time.monotonic() - self._idle_since_s > self.idle_s:
            self.worker.close()
        return events

    def stop(self, *, at_once: bool) -> None:
        self._current = None
        if at_once or self.worker.busy:
            self.worker.kill()
        else:
            self.worker.close()

    # --- events ------------------------------------------------------------------------------------------------------

    def _event(self, message: messages.Event) -> Event | None:
        current = self._current
        if current is None:  # an idle worker died: the next order starts another one
            return None
        if isinstance(message, Progress):
            return Progressed(current.order.job_id, message.done, message.total)
        if isinstance(message, Loaded):
            current.loaded_s = time.monotonic()
            return None
        return self._ended(current, self._result(message))

    def _ended(self, current: _Current, result: Rendering | RenderFailed | Hold | None) -> Ended:
        self._current, self._idle_since_s = None, time.monotonic()
        return Ended(current.order.job_id, result)

    def _result(self, message: messages.Event) -> Rendering | RenderFailed | Hold | None:
        if isinstance(message, Done):
            return message.rendering
        if isinstance(message, Failed):
            if message.retryable:  # the engine may be in a bad state: the next attempt gets a fresh worker
                self.worker.kill()
            if message.code == Hold.code:
                return Hold(message.message, message.hint)
            return RenderFailed(message.message, message.hint, code=message.code, retryable=message.retryable)
        if isinstance(message, Died):
            if message.was_ready:
                return RenderFailed(f"The worker {message.reason}.", code=message.code)
            printed = f"; it printed: {message.last_line}" if message.last_line else ""
            return WorkerUnready(f"the worker {message.reason} before it was ready{printed}")
        assert isinstance(message, Stopped), message  # noqa: S101 - `Worker.receive` returns nothing else
        return None

    # --- time limits -------------------------------------------------------------------------------------------------

    def _overdue(self, current: _Current) -> Ended | None:
        """`Ended` for an order that exceeds a limit; the caller kills the worker."""
        now = time.monotonic()
        if current.stop_asked_s is not None and now - current.stop_asked_s > self.limits.stop_grace_s:
            return self._ended(current, None)
        failure = self._timeout(current, now)
        return None if failure is None else self._ended(current, failure)

    def _timeout(self, current: _Current, now: float) -> RenderFailed | WorkerUnready | None:
        own_limit_s = current.order.spec.get("timeout_s")
        limit_s = own_limit_s or self.limits.render_s
        if current.loaded_s is not None and now - current.loaded_s > limit_s:
            key = "the job's timeout_s" if own_limit_s else "limits.render_s"
            hint = "Raise the job's timeout_s" if own_limit_s else "Raise limits.render_s in config.yaml"
            return RenderFailed(
                f"Rendering took longer than {key} ({limit_s:g} s).", f"{hint}, or split its text.", code="timeout"
            )
        silent_s = now - self.worker.last_progress
        if not self.worker.ready:
            if silent_s > max(READY_S, self.limits.stall_s):
                return WorkerUnready(f"the worker was not ready after {silent_s:.0f} s")
        elif silent_s > self.limits.stall_s:
            return RenderFailed(
                f"Rendering made no progress for limits.stall_s ({self.limits.stall_s:g} s).",
                "If the engine needs longer for one chunk on this machine, raise limits.stall_s in config.yaml.",
                code="stalled",
            )
        return None
