"""The daemon's handle on its worker process: takes orders, returns events, and can always kill the process.

Only `kill` and `close` wait for the process. `fileno` is an epoll descriptor for the worker's socket, its outputs and
its death; it stays the same from one worker process to the next.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from files.printable import real_paths
from jobs.errors import Hold, WorkerUnready, holding
from jobs.order import Order
from watcher.executors.local import exit_cause, messages, oom
from watcher.executors.local.channel import READ_BYTES, WorkerChannel
from watcher.executors.local.messages import (
    Died,
    Done,
    Event,
    Failed,
    InvalidMessage,
    Loaded,
    Message,
    Progress,
    Ready,
    Started,
    Stopped,
    Unclear,
)
from watcher.executors.local.output import OutputLog
from watcher.executors.local.process import WorkerProcess

__all__ = ["Died", "Done", "Event", "Failed", "Loaded", "Progress", "Started", "Stopped", "Unclear", "Worker"]

KILL_WAIT_S = 10.0
REAP_WAIT_S = 1.0
CLOSE_WAIT_S = 5.0
CLOSE_POLL_S = 0.1
HUNG_UP_S = 2.0
READS_AT_ONCE = 4
READS_AT_DEATH = 256


@dataclass
class _Running:
    """One worker process and what belongs to it.

    Attributes:
        hung_up_at_s: When it closed its socket, monotonic; None before.
        ready: Whether it has sent `Ready`.
    """

    process: WorkerProcess
    channel: WorkerChannel
    outputs: dict[int, OutputLog]
    oom_before: oom.KillCount | None
    hung_up_at_s: float | None = None
    ready: bool = False

    def with_last_line(self, died: Died) -> Died:
        """For a process that was never ready, adds the last line of its stderr or else stdout."""
        if self.ready:
            return died
        last_lines = [output.last_line for output in reversed(self.outputs.values()) if output.last_line]
        return replace(died, was_ready=False, last_line="".join(last_lines[:1]))


class Worker:
    """One worker process at a time, started when it is needed.

    Args:
        device: The `device` section of the configuration, for orders without one.
        log: A structlog logger, which also gets the worker's output.
        python: The interpreter that runs the worker.

    Attributes:
        inherited: Descriptors that the next process inherits under the same numbers.
        orders: That the worker has and that have not ended, by job id.
        last_progress: When the worker last got an order or sent a message, monotonic.
    """

    def __init__(self, device: Mapping[str, Any], log: Any, python: str = sys.executable) -> None:
        self._device, self._log, self._python = device, log, python
        self.inherited: tuple[int, ...] = ()
        self._epoll = select.epoll()
        self._running: _Running | None = None
        self._lingering: WorkerProcess | None = None
        self.orders: dict[str, Order] = {}
        self.last_progress = time.monotonic()
        self._warm: tuple[str, str | None, tuple[int, ...]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._epoll.close()

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` has something to do."""
        return self._epoll.fileno()

    @property
    def alive(self) -> bool:
        """Whether there is a worker process that is not dead."""
        return self._running is not None and not self._running.process.exited

    @property
    def ready(self) -> bool:
        """Whether the worker has finished its imports."""
        return self._running is not None and self._running.ready

    @property
    def warm(self) -> tuple[str, str | None] | None:
        """Engine and checkpoint that are loaded; None when none is."""
        return self._warm[:2] if self._warm is not None else None

    @property
    def pid(self) -> int | None:
        return self._running.process.pid if self._running is not None else None

    def start(self) -> None:
        """Start the process if there is none. Returns at once; the process still has to import its libraries.

        Does nothing while there are orders: if their worker is dead, `receive` reports that first.

        Raises:
            WorkerUnready: A process can't be started now.
            Hold: The last process was killed but is not gone yet.
        """
        if self.alive or self.orders:
            return
        if self._running is not None:  # it died without an order, and `receive` was not called since
            self._reap(self._running)
        if self._lingering is not None and not self._end(self._lingering, 0.0):
            raise Hold(
                f"the killed worker (process {self._lingering.pid}) is not gone yet",
                "The kernel keeps it, usually because a device or a share does not respond.",
            )
        process = WorkerProcess(self._python, self.inherited)
        outputs = {process.stdout_fd: self._output("stdout"), process.stderr_fd: self._output("stderr")}
        self._running = _Running(process, WorkerChannel(process.channel), outputs, oom.kill_count())
        try:
            with holding("the worker can't be started", WorkerUnready):
                for descriptor in (process.channel.fileno(), *outputs, process.death_fd):
                    if descriptor is not None:
                        self._epoll.register(descriptor, select.EPOLLIN)
        except Hold:
            self.kill()
            raise
        self._log.info("worker started", action="worker_started", pid=process.pid)

    def submit(self, order: Order) -> None:
        """Send an order; starts a worker if needed.

        Raises:
            Hold: As `start`.
        """
        self.start()
        assert self._running is not None  # noqa: S101 - start() raises otherwise
        if not self.orders:
            self._running.oom_before = oom.kill_count()
            self.last_progress = time.monotonic()
        if self._warm != order.model and not self.orders:
            self._warm = None
        self.orders[order.job_id] = order if order.device else replace(order, device=self._device)
        self._send(self._running, messages.order_line(self.orders[order.job_id]))

    def ask_stop(self, job_id: str, *, at_once: bool) -> None:
        """Ask the worker to stop an order: at once, or when its chunks that the engine has are finished.

        It answers `Stopped`, or how the order has ended before.
        """
        if job_id in self.orders and self._running is not None:
            self._send(self._running, messages.stop_line(job_id, at_once=at_once))

    def receive(self) -> list[Event]:
        """Events since the last call. Call it when `fileno` is readable, and every few seconds."""
        running = self._running
        if running is None:
            return []
        dead = running.process.exited  # checked first, so that all messages sent before the death are read below
        reads = READS_AT_DEATH if dead else READS_AT_ONCE
        events: list[Event] = []
        complaint = None
        try:
            self._read_outputs(running, reads)
            self._read_messages(running, events, reads)
        except InvalidMessage as error:
            complaint = f"sent an invalid message ({error}) and was killed"
        if dead:
            events.append(self._reap(running))
        elif complaint is None and _is_unreachable(running):
            complaint = "closed its socket and was killed"
        if complaint is not None and not dead:
            self.kill()
            events.append(running.with_last_line(Died(complaint)))
        return events

    def kill(self) -> None:
        """Kill the worker, if there is one, with all that it started, and wait until they are gone.

        A process that is not gone after `KILL_WAIT_S` is logged, and no other is started before it is gone.
        """
        if self._lingering is not None:
            self._end(self._lingering, KILL_WAIT_S)
        if self._running is not None:
            self._clean_up(self._running, KILL_WAIT_S)

    def close(self) -> None:
        """Let an idle worker end by itself; kill it if that takes longer than `CLOSE_WAIT_S`."""
        running = self._running
        if running is None:
            return
        self._send(running, messages.end_line())
        deadline_s = time.monotonic() + CLOSE_WAIT_S
        while self.alive and (left_s := deadline_s - time.monotonic()) > 0:
            self._epoll.poll(min(left_s, CLOSE_POLL_S))
            with contextlib.suppress(InvalidMessage):
                self._read_outputs(running, READS_AT_ONCE)
                self._read_messages(running, [], READS_AT_ONCE)
        self._log.info("worker ended", action="worker_ended", pid=running.process.pid, by_itself=not self.alive)
        self.kill()

    # --- messages ----------------------------------------------------------------------------------------------------

    def _send(self, running: _Running, line: bytes) -> None:
        running.channel.send(line)
        self._watch_channel(running)

    def _watch_channel(self, running: _Running) -> None:
        """Wait for room on the socket only while bytes are pending, and for nothing once it is closed."""
        descriptor = running.process.channel.fileno()
        if running.channel.hung_up:
            self._unwatch(descriptor)
        else:
            self._epoll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if running.channel.is_pending else 0))

    def _unwatch(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # it may be unwatched already
            self._epoll.unregister(descriptor)

    def _read_messages(self, running: _Running, events: list[Event], reads: int) -> None:
        """Add to `events`. Raises InvalidMessage at the first invalid line, after adding those before it."""
        running.channel.flush()
        try:
            for line in running.channel.read(reads):
                event = messages.event_from(line)
                self._accept(running, event)
                if not isinstance(event, Ready):
                    events.append(event)
        finally:
            self._watch_channel(running)
            if running.channel.hung_up and running.hung_up_at_s is None:
                running.hung_up_at_s = time.monotonic()

    def _accept(self, running: _Running, event: Message) -> None:
        """Update the worker's state. Raises InvalidMessage if the message is not due now."""
        name = type(event).__name__.lower()
        if isinstance(event, Ready) is running.ready:
            raise InvalidMessage(f"{name} {'after' if running.ready else 'before'} ready")
        running.ready = True
        self.last_progress = time.monotonic()
        if isinstance(event, Ready):
            return
        if event.job_id not in self.orders:
            raise InvalidMessage(f"{name} for an order that the worker does not have")
        if isinstance(event, Loaded):
            self._warm = self.orders[event.job_id].model
        if isinstance(event, Done | Failed | Stopped | Unclear):
            for output in running.outputs.values():
                output.break_line()
            del self.orders[event.job_id]

    # --- output ------------------------------------------------------------------------------------------------------

    def _output(self, stream: str) -> OutputLog:
        def log() -> Any:
            job = {"job_id": next(iter(self.orders))} if len(self.orders) == 1 else {}
            return self._log.bind(action="worker_output", stream=stream, **job)

        return OutputLog(
            write=lambda line: log().info("worker printed", line=real_paths(line)),
            write_dropped=lambda lines: log().warning("worker printed too much", lines_left_out=lines),
        )

    def _read_outputs(self, running: _Running, reads: int) -> None:
        for descriptor, output in running.outputs.items():
            for _ in range(reads):
                try:
                    data = os.read(descriptor, READ_BYTES)
                except BlockingIOError:
                    break
                if not data:
                    self._unwatch(descriptor)
                    break
                output.feed(data)

    # --- end ---------------------------------------------------------------------------------------------------------

    def _reap(self, running: _Running) -> Died:
        """Clean up after a dead worker."""
        self._clean_up(running, REAP_WAIT_S)
        died = running.with_last_line(exit_cause.cause(running.process.returncode or 0, running.oom_before))
        self._log.warning("worker died", action="worker_died", pid=running.process.pid, reason=died.reason)
        return died

    def _clean_up(self, running: _Running, timeout_s: float) -> None:
        """Kill the worker and all that it started, log the rest of its output, and close everything."""
        self._end(running.process, timeout_s)
        self._read_outputs(running, READS_AT_DEATH)
        for output in running.outputs.values():
            output.finish()
        for descriptor in (running.process.channel.fileno(), *running.outputs, running.process.death_fd):
            if descriptor is not None:
                self._unwatch(descriptor)
        running.process.close()
        self.orders.clear()
        self._running, self._warm = None, None

    def _end(self, process: WorkerProcess, timeout_s: float) -> bool:
        """Kill a process; True when it is gone, else remember it as lingering."""
        gone = process.kill(timeout_s)
        if not gone and self._lingering is None:
            self._log.error("killed worker is not gone yet", action="worker_lingers", pid=process.pid)
        self._lingering = None if gone else process
        return gone


def _is_unreachable(running: _Running) -> bool:
    """Whether the worker closed its socket and did not end soon after."""
    return running.hung_up_at_s is not None and time.monotonic() > running.hung_up_at_s + HUNG_UP_S
