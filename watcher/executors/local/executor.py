"""The executor on this machine: one worker process, which renders the orders of one model together."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from jobs.errors import Hold, RenderFailed, WorkerUnready
from jobs.order import Order, Rendering
from watcher.config.settings import Limits
from watcher.executors.base import Ended, Event, Progressed, Unclear
from watcher.executors.local import messages
from watcher.executors.local.messages import Died, Done, Failed, Loaded, Progress, Started, Stopped
from watcher.executors.local.worker import Worker
from watcher.log import log

READY_S = 60.0  # a cold disk or a busy machine may need half of it


@dataclass(slots=True)
class _InFlight:
    """An order that the worker has.

    Attributes:
        is_loaded: Whether its engine is loaded.
        started_s: When the engine got its first chunk, monotonic; None before.
        stop_asked_s: When the worker was asked to stop it, monotonic; None before.
        overdue: Why it was stopped, if it exceeded a time limit.
    """

    order: Order
    is_loaded: bool = False
    started_s: float | None = None
    stop_asked_s: float | None = None
    overdue: RenderFailed | None = None


class LocalExecutor:
    """An `Executor`.

    Args:
        limits: jobs_in_flight, render_s, stall_s and stop_grace_s apply here.
        idle_s: The worker ends after this many seconds without work, which frees memory and GPU.
    """

    def __init__(self, worker: Worker, limits: Limits, idle_s: float) -> None:
        self.worker, self.limits, self.idle_s = worker, limits, idle_s
        self._orders: dict[str, _InFlight] = {}
        self._has_remains = False  # since there was no order last, one was stopped or failed among others
        self._idle_since_s = time.monotonic()

    @property
    def capacity(self) -> int:
        return max(0, self.limits.jobs_in_flight - len(self._orders))

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
        self._orders[order.job_id] = _InFlight(order)
        model = {"checkpoint": order.checkpoint.name} if order.checkpoint else {}
        log.info("job starts", action="render", job_id=order.job_id, engine=order.engine, **model)

    def cancel(self, job_id: str, *, at_once: bool) -> None:
        in_flight = self._orders.get(job_id)
        if in_flight is not None and in_flight.stop_asked_s is None:
            in_flight.stop_asked_s = time.monotonic()
            self.worker.ask_stop(job_id, at_once=at_once)

    def events(self) -> list[Event]:
        events = [event for message in self.worker.receive() for event in self._events(message)]
        events += self._enforce_limits()
        if not self._orders and self.worker.alive and time.monotonic() - self._idle_since_s > self.idle_s:
            self.worker.close()
        return events

    def stop(self, *, at_once: bool) -> None:
        if at_once or self._orders:
            self.worker.kill()
        else:
            self.worker.close()
        self._orders.clear()

    # --- events ------------------------------------------------------------------------------------------------------

    def _events(self, message: messages.Event) -> list[Event]:
        if isinstance(message, Died):
            return self._died(message)
        in_flight = self._orders.get(message.job_id) if not isinstance(message, messages.Ready) else None
        if in_flight is None:  # its order has been given up
            return []
        if isinstance(message, Progress):
            return [Progressed(message.job_id, message.done, message.total, message.audio_s)]
        if isinstance(message, Loaded):
            in_flight.is_loaded = True
        elif isinstance(message, Started):
            in_flight.started_s = time.monotonic()
        elif isinstance(message, Done):
            return [self._ended(in_flight, message.rendering)]
        elif isinstance(message, Failed):
            return self._failed(in_flight, message)
        elif isinstance(message, Stopped):
            return [self._ended(in_flight, in_flight.overdue)]
        else:
            assert isinstance(message, messages.Unclear), message  # noqa: S101 - there is no other message
            return self._give_up(Unclear(message.message))
        return []

    def _ended(self, in_flight: _InFlight, result: Rendering | RenderFailed | Hold | Unclear | None) -> Ended:
        del self._orders[in_flight.order.job_id]
        self._has_remains = bool(self._orders) and (self._has_remains or not isinstance(result, Rendering))
        self._idle_since_s = time.monotonic()
        return Ended(in_flight.order.job_id, result)

    def _failed(self, in_flight: _InFlight, message: Failed) -> list[Event]:
        failure: Hold | RenderFailed = Hold(message.message, message.hint)
        if message.code != Hold.code:
            failure = RenderFailed(message.message, message.hint, code=message.code, retryable=message.retryable)
        events: list[Event] = [self._ended(in_flight, failure)]
        if message.retryable and (message.broken or not self._orders):
            # The engine may be in a bad state: what comes next gets a fresh worker.
            self.worker.kill()
            events += [self._ended(each, None) for each in list(self._orders.values())]
        return events

    def _died(self, died: Died) -> list[Event]:
        """The worker is gone, and all its orders with it. If it was idle, the next order starts another one."""
        in_flight = list(self._orders.values())
        if not died.was_ready:
            printed = f"; it printed: {died.last_line}" if died.last_line else ""
            unready = WorkerUnready(f"the worker {died.reason} before it was ready{printed}")
            return [self._ended(each, unready) for each in in_flight]
        return self._blame(RenderFailed(f"The worker {died.reason}.", code=died.code))

    def _give_up(self, unclear: Unclear) -> list[Event]:
        """Kill the worker after its engine failed with several orders."""
        self.worker.kill()
        return [self._ended(each, unclear if each.is_loaded else None) for each in list(self._orders.values())]

    def _blame(self, failure: RenderFailed) -> list[Event]:
        """The worker is gone, while it rendered some of its orders and maybe prepared others.

        An order alone is the cause, unless the engine may still have had chunks of one that was stopped before.
        """
        orders = list(self._orders.values())
        result = failure if len(orders) == 1 and not self._has_remains else Unclear(failure.message)
        return [self._ended(each, result) for each in orders]

    # --- time limits -------------------------------------------------------------------------------------------------

    def _enforce_limits(self) -> list[Event]:
        now, orders = time.monotonic(), list(self._orders.values())
        for each in orders:
            if each.stop_asked_s is not None and now - each.stop_asked_s > self.limits.stop_grace_s:
                self.worker.kill()  # the others are put back
                return [self._ended(other, other.overdue) for other in orders]
            if each.overdue is None and (overdue := self._overdue(each, now)) is not None:
                each.overdue = overdue
                if len(orders) == 1:
                    self.worker.kill()
                    return [self._ended(each, overdue)]
                self.cancel(each.order.job_id, at_once=True)
        silent_s = now - self.worker.last_progress
        if not orders or silent_s <= (self.limits.stall_s if self.worker.ready else max(READY_S, self.limits.stall_s)):
            return []
        was_ready = self.worker.ready
        self.worker.kill()
        if not was_ready:
            unready = WorkerUnready(f"the worker was not ready after {silent_s:.0f} s")
            return [self._ended(each, unready) for each in orders]
        stalled = RenderFailed(
            f"Rendering made no progress for limits.stall_s ({self.limits.stall_s:g} s).",
            "If the engine needs longer for one chunk on this machine, raise limits.stall_s in config.yaml.",
            code="stalled",
        )
        return self._blame(stalled)

    def _overdue(self, in_flight: _InFlight, now: float) -> RenderFailed | None:
        own_limit_s = in_flight.order.spec.get("timeout_s")
        limit_s = own_limit_s or self.limits.render_s
        if in_flight.started_s is None or now - in_flight.started_s <= limit_s:
            return None
        key = "the job's timeout_s" if own_limit_s else "limits.render_s"
        hint = "Raise the job's timeout_s" if own_limit_s else "Raise limits.render_s in config.yaml"
        return RenderFailed(
            f"Rendering took longer than {key} ({limit_s:g} s).", f"{hint}, or split its text.", code="timeout"
        )
