"""The worker process, `python -m watcher.executors.local.main`: renders orders, and keeps one engine loaded.

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
from jobs.order import Order, Rendering, RenderStopped
from watcher.executors.local import lifeline, messages
from watcher.executors.local.messages import Failed

if TYPE_CHECKING:
    from jobs.render.preparation import PreparedOrder
    from jobs.render.rendering import LoadedEngine, Work
    from jobs.render.stream import Stream

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
    from jobs.render import stream  # noqa: F401

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
    """Renders the orders of one model after those of another; orders of the same model together.

    Orders that arrive for the loaded model are rendered along with the others. The engine stays loaded afterwards.
    """

    def __init__(self, channel: DaemonChannel) -> None:
        self._channel = channel
        self._warm = WarmEngine()
        self._waiting: dict[str, Order] = {}
        self._stream: Stream | None = None
        self._silent_until_s: dict[str, float] = {}
        self._has_started: set[str] = set()
        self._end = False

    def run(self) -> None:
        """Render orders until the daemon sends `end`."""
        while not self._end:
            if self._waiting:
                self._render(next(iter(self._waiting.values())))
            else:
                self._handle(self._channel.next(wait=True))
        self._warm.release()

    def _render(self, first: Order) -> None:
        """Render an order, and all others for the same model that have arrived or arrive meanwhile."""
        from jobs.render import preparation
        from jobs.render.stream import Stream

        del self._waiting[first.job_id]
        try:
            engine = _engine_class(first.engine)
            prepared = preparation.prepare(first, engine)
            ready = self._warm.for_order(first, engine)
            work = self._loaded(first, prepared, ready.load_s)
        except BaseException as error:  # noqa: BLE001 - an engine's code may raise anything, even SystemExit
            self._channel.send(failure(first.job_id, error))
            return

        def look() -> None:
            while (message := self._channel.next(wait=False)) is not None:
                self._handle(message)
            for order in list(self._waiting.values()):
                if order.model == first.model and order.where() == first.where():
                    self._admit(stream, order, engine)

        stream = self._stream = Stream(ready, look, self._report, self._ended)
        stream.add(work)
        stream.run()
        self._stream = None

    def _admit(self, stream: Stream, order: Order, engine: EngineClass) -> None:
        from jobs.render import preparation

        del self._waiting[order.job_id]
        try:
            work = self._loaded(order, preparation.prepare(order, engine), 0.0)
        except BaseException as error:  # noqa: BLE001 - as above
            self._channel.send(failure(order.job_id, error))
        else:
            stream.add(work)

    def _loaded(self, order: Order, prepared: PreparedOrder, load_s: float) -> Work:
        from jobs.render.rendering import Work

        self._channel.send(messages.Loaded(order.job_id, load_s))
        work = Work(prepared, load_s)
        work.load_finished()
        return work

    def _report(self, work: Work) -> None:
        """Send the progress, at most every `PROGRESS_EVERY_S`, and at the end."""
        now_s, progress = time.monotonic(), work.progress
        if work.began_s and work.job_id not in self._has_started:
            self._has_started.add(work.job_id)
            self._channel.send(messages.Started(work.job_id))
        if now_s >= self._silent_until_s.get(work.job_id, 0.0) or progress.done >= progress.total:
            self._silent_until_s[work.job_id] = now_s + PROGRESS_EVERY_S
            self._channel.send(messages.Progress(work.job_id, progress.done, progress.total, progress.audio_s))

    def _ended(self, work: Work, result: Rendering | BaseException) -> None:
        from jobs.render.stream import Unclear

        self._silent_until_s.pop(work.job_id, None)
        self._has_started.discard(work.job_id)
        if isinstance(result, Rendering):
            try:
                self._channel.send(messages.Done(work.job_id, result))
            except (TypeError, ValueError) as error:  # facts of the engine that are not JSON
                self._channel.send(failure(work.job_id, error))
        elif isinstance(result, RenderStopped):
            self._channel.send(messages.Stopped(work.job_id))
        elif isinstance(result, Unclear) and result.__cause__ is not None:
            words = failure(work.job_id, result.__cause__).message
            self._channel.send(messages.Unclear(work.job_id, words))
        else:
            is_broken = self._stream is not None and self._stream.is_broken
            self._channel.send(replace(failure(work.job_id, result), broken=is_broken))

    def _handle(self, message: Mapping[str, Any] | None) -> None:
        if message is None:
            return
        if message["kind"] == "order":
            order = messages.order_from(message)
            self._waiting[order.job_id] = order
        elif message["kind"] == "end":
            self._end = True
        elif message["kind"] == "stop":
            job_id = message.get("job_id", "")
            if self._waiting.pop(job_id, None) is not None:
                self._channel.send(messages.Stopped(job_id))
            elif self._stream is not None:
                self._stream.stop(job_id, at_once=bool(message.get("at_once")))


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
