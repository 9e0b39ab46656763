"""The daemon's handle on its one worker process: orders go in, events come out, and it can always be killed.

Nothing here waits for the worker except `kill` and `close`. The handle is itself something to select on: its
`fileno` is an epoll descriptor that holds the worker's socket, its outputs and its death, and stays the same
from one worker process to the next.
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
    Loaded,
    Message,
    NotAMessage,
    Progress,
    Ready,
    Stopped,
)
from watcher.executors.local.output import OutputLog
from watcher.executors.local.process import WorkerProcess

__all__ = ["Died", "Done", "Event", "Failed", "Loaded", "Progress", "Stopped", "Worker"]

KILL_WAIT_S = 10.0
BURY_WAIT_S = 1.0
CLOSE_WAIT_S = 5.0
CLOSE_LOOK_S = 0.1
HUNG_UP_S = 2.0
READS_AT_ONCE = 4
READS_AT_DEATH = 256


@dataclass
class _Running:
    """What belongs to one worker process.

    Attributes:
        ready: It has said that it takes orders.
    """

    process: WorkerProcess
    line: WorkerChannel
    outputs: dict[int, OutputLog]
    oom_before: oom.KillCount | None
    hung_up_at_s: float | None = None
    ready: bool = False

    def died(self, died: Died) -> Died:
        """Its death; if it was never ready, with what it printed last, its errors first."""
        if self.ready:
            return died
        last_lines = [output.last_line for output in reversed(self.outputs.values()) if output.last_line]
        return replace(died, was_ready=False, last_line="".join(last_lines[:1]))


class Worker:
    """One worker process at a time, started when it is needed.

    Args:
        device: The `device` section of the configuration, for orders that carry none.
        log: A structlog logger; what the worker prints goes there, line by line.
        python: The interpreter that runs the worker.

    Attributes:
        inherited: Descriptors that the next process gets under the same numbers.
        last_progress: When (`time.monotonic()`) the worker last took an order or said something about it.
    """

    def __init__(
        self,
        device: Mapping[str, Any],
        log: Any,
        python: str = sys.executable,
    ) -> None:
        self._device, self._log, self._python = device, log, python
        self.inherited: tuple[int, ...] = ()
        self._epoll = select.epoll()
        self._running: _Running | None = None
        self._lingering: WorkerProcess | None = None
        self._order: Order | None = None
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
        """Readable when `receive` has something to do."""
        return self._epoll.fileno()

    @property
    def alive(self) -> bool:
        """Whether there is a worker process that can take an order or does one."""
        return self._running is not None and not self._running.process.exited

    @property
    def busy(self) -> bool:
        """Whether an order is out: neither done, failed nor stopped, and its worker not known to be dead."""
        return self._order is not None

    @property
    def ready(self) -> bool:
        """Whether the worker has imported what it needs and takes orders."""
        return self._running is not None and self._running.ready

    @property
    def warm(self) -> tuple[str, str | None] | None:
        """Engine and checkpoint that the worker holds loaded, or None."""
        return self._warm[:2] if self._warm is not None else None

    @property
    def pid(self) -> int | None:
        return self._running.process.pid if self._running is not None else None

    def start(self) -> None:
        """Start the process if there is none. Returns at once, the process goes on importing by itself.

        While an order is out nothing happens: if its worker is dead, `receive` has to say so first.

        Raises:
            WorkerUnready: The machine can't start a process now.
            Hold: The last one was killed and is not gone yet.
        """
        if self.alive or self.busy:
            return
        if self._running is not None:  # it died idle, and nobody has asked yet
            self._bury(self._running)
        if self._lingering is not None and not self._end(self._lingering, 0.0):
            raise Hold(
                f"the killed worker (process {self._lingering.pid}) is not gone yet",
                "The kernel still holds it, most often for a device or a share that does not answer.",
            )
        process = WorkerProcess(self._python, self.inherited)
        outputs = {
            process.stdout_fd: self._output("stdout"),
            process.stderr_fd: self._output("stderr"),
        }
        line = WorkerChannel(process.channel)
        self._running = _Running(process, line, outputs, oom.kill_count())
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
        """Give the worker an order; starts one if needed. One order at a time.

        Raises:
            Hold: As `start`.
        """
        if self._order is not None:
            raise RuntimeError(f"the worker still has an order, {self._order.job_id}")
        self.start()
        assert self._running is not None  # noqa: S101 - start() says Hold otherwise
        self._order = order if order.device else replace(order, device=self._device)
        if self._warm != order.model:
            self._warm = None
        self._running.oom_before = oom.kill_count()
        self.last_progress = time.monotonic()
        self._send(self._running, messages.order_line(self._order))

    def ask_stop(self) -> None:
        """Ask it to stop at the end of the chunk; `Stopped` answers, or `Done` if that was the last one."""
        if self._order is not None and self._running is not None:
            self._send(self._running, messages.stop_line(self._order.job_id))

    def receive(self) -> list[Event]:
        """What has happened since the last call. Never waits for the worker.

        Call it when `fileno` is readable, and every few seconds besides.
        """
        running = self._running
        if running is None:
            return []
        dead = running.process.exited  # looked at first: what it said before it died is then read below
        reads = READS_AT_DEATH if dead else READS_AT_ONCE
        events: list[Event] = []
        complaint = None
        try:
            self._read_outputs(running, reads)
            self._read_messages(running, events, reads)
        except NotAMessage as error:
            complaint = f"sent rubbish instead of a message ({error}) and was killed for it"
        if dead:
            events.append(self._bury(running))
        elif complaint is None and _is_deaf(running):
            complaint = "closed its line to the spool and was killed for it"
        if complaint is not None and not dead:
            self.kill()
            events.append(running.died(Died(complaint)))
        return events

    def kill(self) -> None:
        """End the worker and all that it started, and wait until they are gone. Without one, nothing happens.

        A process that the kernel does not let go of within `KILL_WAIT_S` is named in the log, and no other
        one is started before it is gone.
        """
        if self._lingering is not None:
            self._end(self._lingering, KILL_WAIT_S)
        if self._running is not None:
            self._forget(self._running, KILL_WAIT_S)

    def close(self) -> None:
        """Let an idle worker end by itself and give everything back; kill it if that takes long."""
        running = self._running
        if running is None:
            return
        self._send(running, messages.end_line())
        deadline_s = time.monotonic() + CLOSE_WAIT_S
        while self.alive and (left_s := deadline_s - time.monotonic()) > 0:
            self._epoll.poll(min(left_s, CLOSE_LOOK_S))
            with contextlib.suppress(NotAMessage):
                self._read_outputs(running, READS_AT_ONCE)
                self._read_messages(running, [], READS_AT_ONCE)
        self._log.info("worker ended", action="worker_ended", pid=running.process.pid, by_itself=not self.alive)
        self.kill()

    # What it says.

    def _send(self, running: _Running, line: bytes) -> None:
        running.line.send(line)
        self._watch_line(running)

    def _watch_line(self, running: _Running) -> None:
        """Wake for room on the socket only while something is to be sent; for nothing once it is closed."""
        descriptor = running.process.channel.fileno()
        if running.line.hung_up:
            self._unwatch(descriptor)
        else:
            self._epoll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if running.line.is_pending else 0))

    def _unwatch(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # a closed line is looked at again until its process is dead
            self._epoll.unregister(descriptor)

    def _read_messages(self, running: _Running, events: list[Event], reads: int) -> None:
        """Add to `events`. Raises NotAMessage at the first line that is none; what came before it counts."""
        running.line.flush()
        try:
            for line in running.line.read(reads):
                event = messages.event_from(line)
                self._note(running, event)
                if not isinstance(event, Ready):
                    events.append(event)
        finally:
            self._watch_line(running)
            if running.line.hung_up and running.hung_up_at_s is None:
                running.hung_up_at_s = time.monotonic()

    def _note(self, running: _Running, event: Message) -> None:
        name = type(event).__name__.lower()
        if isinstance(event, Ready) is running.ready:
            raise NotAMessage(f"{name} {'after' if running.ready else 'before'} ready")
        running.ready = True
        self.last_progress = time.monotonic()
        if isinstance(event, Ready):
            return
        if self._order is None or event.job_id != self._order.job_id:
            raise NotAMessage(f"{name} of an order that the worker does not have")
        if isinstance(event, Loaded):
            self._warm = self._order.model
        if isinstance(event, Done | Failed | Stopped):
            for output in running.outputs.values():
                output.break_line()
            self._order = None

    # What it prints.

    def _output(self, stream: str) -> OutputLog:
        def log() -> Any:
            job = {"job_id": self._order.job_id} if self._order is not None else {}
            return self._log.bind(action="worker_output", stream=stream, **job)

        return OutputLog(
            say=lambda line: log().info("worker printed", line=real_paths(line)),
            say_dropped=lambda lines: log().warning("worker printed too much", lines_left_out=lines),
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

    # How it ends.

    def _bury(self, running: _Running) -> Died:
        """It is dead: end what it leaves behind and say what it died of."""
        self._forget(running, BURY_WAIT_S)
        died = running.died(exit_cause.cause(running.process.returncode or 0, running.oom_before))
        self._log.warning("worker died", action="worker_died", pid=running.process.pid, reason=died.reason)
        return died

    def _forget(self, running: _Running, timeout_s: float) -> None:
        """End it and all that it started, log its last words, and be without a worker."""
        self._end(running.process, timeout_s)
        self._read_outputs(running, READS_AT_DEATH)
        for output in running.outputs.values():
            output.finish()
        for descriptor in (running.process.channel.fileno(), *running.outputs, running.process.death_fd):
            if descriptor is not None:
                self._unwatch(descriptor)
        running.process.close()
        self._running, self._order, self._warm = None, None, None

    def _end(self, process: WorkerProcess, timeout_s: float) -> bool:
        """Kill it and remember it while the kernel holds it; True when it is gone."""
        gone = process.kill(timeout_s)
        if not gone and self._lingering is None:
            self._log.error("killed worker is not gone yet", action="worker_lingers", pid=process.pid)
        self._lingering = None if gone else process
        return gone


def _is_deaf(running: _Running) -> bool:
    """Whether it closed its line and yet lives on: of no use, and not about to say why."""
    return running.hung_up_at_s is not None and time.monotonic() > running.hung_up_at_s + HUNG_UP_S
