"""The worker process, `python -m watcher.executors.local.main`: keeps one engine loaded, renders one order at a time.

Only this process imports engines' libraries. It has one thread, so that engines may fork; between chunks it checks for
a stop message. Its output goes to the daemon's log, its messages over a socket (see `messages`).
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
    _configure_process()
    os.set_inheritable(socket_fd, False)
    with socket.socket(fileno=socket_fd) as daemon_socket:
        channel = DaemonChannel(daemon_socket)
        _import_ahead()
        channel.send(messages.Ready())
        RenderLoop(channel).run()


def _configure_process() -> None:
    """No signals, no core files, and the first process to be killed when memory runs out.

    A service manager sends SIGTERM to all processes of a service; the daemon then lets the current chunk finish.
    Handlers that do nothing are used since programs that an engine starts would inherit ignored signals.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _import_ahead() -> None:
    """Import what every order needs before the first order arrives.

    An error here would fail every order. It ends the worker before it is ready, so no job fails.
    """
    import numpy  # noqa: F401
    import sentencex  # noqa: F401

    from engines import registry
    from jobs.render import preparation, rendering  # noqa: F401

    registry.engines()


class DaemonChannel:
    """The worker's end of the socket."""

    def __init__(self, daemon_socket: socket.socket) -> None:
        self._socket = daemon_socket
        self._unread = b""
        self._pid = os.getpid()

    def send(self, event: messages.Message) -> None:
        """Waits until the message is sent. Raises ValueError for NaN and infinity."""
        line = messages.event_line(event)
        self._leave_if_forked()
        try:
            self._socket.sendall(line)
        except OSError:
            lifeline.end_group()

    def next(self, *, wait: bool) -> dict[str, Any] | None:
        """The next message; None if `wait` is false and there is none. Ends the process when the daemon is gone."""
        self._leave_if_forked()
        while b"\n" not in self._unread:
            try:
                data = self._socket.recv(1 << 16, 0 if wait else socket.MSG_DONTWAIT)
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
        """End a process that an engine forked and that returned from the engine's code: it is not the worker."""
        if os.getpid() != self._pid:
            os._exit(1)


class RenderLoop:
    """Renders one order at a time; the engine stays loaded between orders."""

    def __init__(self, channel: DaemonChannel) -> None:
        self._channel = channel
        self._warm = WarmEngine()
        self._job_id = ""
        self._stop = False
        self._end = False
        self._silent_until_s = 0.0

    def run(self) -> None:
        """Render orders until the daemon sends `end`."""
        while not self._end:
            message = self._channel.next(wait=True)
            if message is not None and message["kind"] == "order":
                self._process(messages.order_from(message))
            elif message is not None:
                self._handle(message)
        self._warm.release()

    def _process(self, order: Order) -> None:
        self._job_id, self._stop, self._silent_until_s = order.job_id, False, 0.0
        try:
            self._channel.send(messages.Done(order.job_id, self._render(order)))
        except RenderStopped:
            self._channel.send(messages.Stopped(order.job_id))
        except BaseException as error:  # noqa: BLE001 - an engine's code may raise anything, even SystemExit
            self._channel.send(failure(order.job_id, error))
        self._job_id = ""

    def _render(self, order: Order) -> Rendering:
        from jobs.render import preparation, rendering

        engine = _engine_class(order.engine)
        prepared = preparation.prepare(order, engine)
        ready = self._warm.for_order(order, engine)
        self._channel.send(messages.Loaded(order.job_id, ready.load_s))
        if self._is_stopped():
            raise RenderStopped
        return rendering.render(prepared, ready, self._is_stopped, self._report)

    def _report(self, progress: Progress) -> None:
        """Send the progress, at most every `PROGRESS_EVERY_S`, and at the end."""
        now_s = time.monotonic()
        if now_s >= self._silent_until_s or progress.done >= progress.total:
            self._silent_until_s = now_s + PROGRESS_EVERY_S
            self._channel.send(messages.Progress(self._job_id, progress.done, progress.total, progress.audio_s))

    def _is_stopped(self) -> bool:
        while (message := self._channel.next(wait=False)) is not None:
            self._handle(message)
        return self._stop or self._end

    def _handle(self, message: Mapping[str, Any]) -> None:
        if message["kind"] == "end":
            self._end = True
        elif message["kind"] == "stop" and message.get("job_id") == self._job_id:
            self._stop = True


class Shortage(Hold):
    """An engine can't be loaded, since the limit on open files or processes is reached. The job is not the cause."""

    retryable = True
    hint = "Raise the limits on open files and processes, or stop the programs that use them. Work resumes by itself."


class WarmEngine:
    """The loaded engine, if any. It is closed before another is loaded."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._ready: LoadedEngine | None = None
        self._refused: tuple[tuple[object, ...], tuple[str, str]] | None = None

    def for_order(self, order: Order, engine_class: EngineClass) -> LoadedEngine:
        """The order's engine with its model, loaded if needed.

        Raises:
            Shortage: Nothing is wrong with the order.
            CheckpointRefused: The engine can't use that checkpoint. If it is refused again right after, the loaded
                engine stays, so that jobs that fall back to the base model do not load it each time.
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
        """Close the engine and free its memory."""
        ready, self._ready = self._ready, None
        if ready is not None:
            with contextlib.suppress(Exception):
                ready.engine.close()
            del ready
            gc.unfreeze()  # Whisper may have been loaded, and all that there was frozen, while this model was loaded
            gc.collect()


def _engine_class(name: str) -> EngineClass:
    from engines import registry

    engine_class = registry.engines().get(name)
    if engine_class is None:
        raise EngineMissing(f"the engine {name!r} is not installed")
    return engine_class


def failure(job_id: str, error: BaseException) -> Failed:
    """The message for an error of an engine; the traceback of an unexpected error is printed."""
    if isinstance(error, EngineError | SpoolError):
        return Failed(job_id, error.code, real_paths(error.message), error.hint, error.retryable)
    with contextlib.suppress(Exception):  # without memory, this can fail too
        lines = traceback.format_exception(error, limit=-LAST_FRAMES)
        sys.stderr.write("".join(lines))
        sys.stderr.flush()
    text = f"{type(error).__name__}: {real_paths(error)}" if str(error) else type(error).__name__
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return Failed(
            job_id,
            OutOfMemory.code,
            f"the engine ran out of memory ({text})",
            OutOfMemory.hint,
            OutOfMemory.retryable,
        )
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return Failed(
            job_id, Hold.code, text, "Free space, or reconnect the disk; work resumes by itself.", retryable=False
        )
    return Failed(job_id, EngineError.code, f"the engine failed ({text})", EngineError.hint, EngineError.retryable)


if __name__ == "__main__":
    main()
