"""The worker process, `python -m watcher.executors.local.main`: one warm engine, one order after another.

It alone imports engines. One thread: between chunks it looks whether a stop has come, so that engines may
fork. What it prints goes to the daemon's log; what it has to say goes over its own socket (see `messages`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.base import EngineClass
from engines.errors import SHORTAGES, CheckpointRefused, EngineError, EngineMissing, OutOfMemory, RequestRefused
from files.printable import real_paths
from jobs.errors import OF_THE_DISK, Hold, SpoolError
from jobs.order import Order, Progress, Rendering, RenderStopped
from watcher.executors.local import lifeline, messages
from watcher.executors.local.messages import Failed

if TYPE_CHECKING:
    from jobs.render.rendering import LoadedEngine

PROGRESS_EVERY_S = 0.05
OOM_SCORE = 500
LAST_FRAMES = 20


def main() -> None:
    """Arguments: the file descriptors of the socket and of the life line, and the daemon's pid."""
    socket_fd, life_fd, daemon_pid = map(int, sys.argv[1:4])
    lifeline.tie_to(daemon_pid, life_fd)
    _behave()
    os.set_inheritable(socket_fd, False)
    with socket.socket(fileno=socket_fd) as channel:
        line = DaemonChannel(channel)
        _import_ahead()
        line.say(messages.Ready())
        RenderLoop(line).work()


def _behave() -> None:
    """Be the one that the kernel ends for memory, leave no core files, let signals for the daemon pass by.

    A service manager sends SIGTERM to all of a service's processes; the daemon then lets the running chunk
    finish. Handlers that do nothing are not inherited by programs that an engine starts, ignored signals
    would be.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _import_ahead() -> None:
    """Load what every order needs while the daemon still looks for the first.

    What fails here would fail every order: the worker ends with it before it is ready, and no job is to blame.
    """
    import numpy  # noqa: F401
    import sentencex  # noqa: F401

    from engines import registry
    from jobs.render import preparation, rendering  # noqa: F401

    registry.engines()


class DaemonChannel:
    """The worker's end of the socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._unread = b""
        self._pid = os.getpid()

    def say(self, event: messages.Message) -> None:
        """Waits until the daemon has taken it. Raises ValueError when JSON can't hold it."""
        line = messages.event_line(event)
        self._leave_if_forked()
        try:
            self._channel.sendall(line)
        except OSError:
            lifeline.end_group()

    def next(self, *, wait: bool) -> dict[str, Any] | None:
        """The next message; None when there is none yet and `wait` is false. Hanging up ends the process."""
        self._leave_if_forked()
        while b"\n" not in self._unread:
            try:
                data = self._channel.recv(1 << 16, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except OSError:
                data = b""
            if not data:
                lifeline.end_group()
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return messages.message_from(line)

    def _leave_if_forked(self) -> None:
        """A process that an engine forked and that fell out of the engine's code must not speak for the worker."""
        if os.getpid() != self._pid:
            os._exit(1)


class RenderLoop:
    """One order at a time, with the engine kept warm between them."""

    def __init__(self, line: DaemonChannel) -> None:
        self._line = line
        self._warm = WarmEngine()
        self._job_id = ""
        self._stop = False
        self._end = False
        self._silent_until_s = 0.0

    def work(self) -> None:
        """Until the daemon says `end`."""
        while not self._end:
            message = self._line.next(wait=True)
            if message is not None and message["say"] == "order":
                self._serve(messages.order_from(message))
            elif message is not None:
                self._note(message)
        self._warm.release()

    def _serve(self, order: Order) -> None:
        self._job_id, self._stop, self._silent_until_s = order.job_id, False, 0.0
        try:
            self._line.say(messages.Done(order.job_id, self._render(order)))
        except RenderStopped:
            self._line.say(messages.Stopped(order.job_id))
        except BaseException as error:  # noqa: BLE001 - other people's code; it raises SystemExit too
            self._line.say(failure(order.job_id, error))
        self._job_id = ""

    def _render(self, order: Order) -> Rendering:
        from jobs.render import preparation, rendering

        engine = _engine_class(order.engine)
        prepared = preparation.prepare(order, engine)
        ready = self._warm.for_order(order, engine)
        self._line.say(messages.Loaded(order.job_id, ready.load_s))
        if self._is_stopped():
            raise RenderStopped
        return rendering.render(prepared, ready, self._is_stopped, self._report)

    def _report(self, progress: Progress) -> None:
        """Tell the daemon how far it is, not oftener than people and timeouts need it."""
        now_s = time.monotonic()
        if now_s >= self._silent_until_s or progress.done >= progress.total:
            self._silent_until_s = now_s + PROGRESS_EVERY_S
            self._line.say(messages.Progress(self._job_id, progress.done, progress.total, progress.audio_s))

    def _is_stopped(self) -> bool:
        while (message := self._line.next(wait=False)) is not None:
            self._note(message)
        return self._stop or self._end

    def _note(self, message: Mapping[str, Any]) -> None:
        if message["say"] == "end":
            self._end = True
        elif message["say"] == "stop" and message.get("job_id") == self._job_id:
            self._stop = True


class Shortage(Hold):
    """No open files or processes are left while an engine is loaded, which has not seen the job's text yet."""

    retryable = True
    hint = "Raise the limits on open files and processes, or end what uses them up. Work resumes by itself."


class WarmEngine:
    """The engine that is loaded now, if any; another one only after this one is closed."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._ready: LoadedEngine | None = None
        self._refused: tuple[tuple[object, ...], tuple[str, str]] | None = None

    def for_order(self, order: Order, engine_class: EngineClass) -> LoadedEngine:
        """The order's engine, loaded with its model as that was when the order was written.

        Raises:
            Shortage: Nothing is wrong with the order.
            CheckpointRefused: The engine can't speak with that checkpoint. What is loaded stays when the same one
                comes again: jobs that fall back on the base model need not load it each time.
        """
        from jobs.render.rendering import LoadedEngine

        device = order.where()
        key = (order.model, device)
        if self._ready is not None and self._key == key:
            return replace(self._ready, load_s=0.0)
        if self._refused is not None and self._refused[0] == key:
            raise CheckpointRefused(*self._refused[1])
        self.release()
        started_s = time.monotonic()
        engine = engine_class()
        try:
            facts = engine.load(order.checkpoint.path if order.checkpoint else None, device)
        except BaseException as error:
            with contextlib.suppress(Exception):
                engine.close()
            if isinstance(error, RequestRefused) and order.checkpoint:
                self._refused = key, (error.message, error.hint)
                raise CheckpointRefused(error.message, error.hint) from error
            if isinstance(error, OSError) and error.errno in SHORTAGES:
                raise Shortage(f"the engine {order.engine} can't be loaded: {error.strerror}") from error
            raise
        self._key, self._ready = key, LoadedEngine(engine, facts, time.monotonic() - started_s)
        return self._ready

    def release(self) -> None:
        """Give the engine's memory back before anything else takes some."""
        ready, self._ready = self._ready, None
        if ready is not None:
            with contextlib.suppress(Exception):  # an engine that can't close is dropped all the same
                ready.engine.close()
            del ready
            gc.collect()


def _engine_class(name: str) -> EngineClass:
    from engines import registry

    engine_class = registry.engines().get(name)
    if engine_class is None:
        raise EngineMissing(f"there is no engine {name!r} here")
    return engine_class


def failure(job_id: str, error: BaseException) -> Failed:
    """Make words of whatever an engine raised; a traceback of what nobody foresaw goes to the log."""
    if isinstance(error, EngineError | SpoolError):
        return Failed(job_id, error.code, real_paths(error.message), error.hint, error.retryable)
    with contextlib.suppress(Exception):  # out of memory, even this can fail
        lines = traceback.format_exception(error, limit=-LAST_FRAMES)
        sys.stderr.write("".join(lines))
        sys.stderr.flush()
    said = f"{type(error).__name__}: {real_paths(error)}" if str(error) else type(error).__name__
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return Failed(
            job_id,
            OutOfMemory.code,
            f"the engine ran out of memory ({said})",
            OutOfMemory.hint,
            OutOfMemory.retryable,
        )
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return Failed(
            job_id, Hold.code, said, "Free space, or bring the disk back; work resumes by itself.", retryable=False
        )
    return Failed(job_id, EngineError.code, f"the engine failed ({said})", EngineError.hint, EngineError.retryable)


if __name__ == "__main__":
    main()
