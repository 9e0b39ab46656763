"""The worker's two threads: one renders, and nothing else; the other does all the rest meanwhile.

The rest is: messages from and to the daemon, splitting and checking the next jobs, saving and joining finished chunks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import select
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engines.errors import EngineError, OutOfMemory
from files.printable import real_paths
from jobs.errors import OF_THE_DISK, Hold, SpoolError
from jobs.order import Order, Rendering, RenderStopped
from watcher.executors.local import messages
from watcher.executors.local.channel import DaemonChannel
from watcher.executors.local.messages import Failed
from watcher.executors.local.warm_engine import WarmEngine, engine_class

if TYPE_CHECKING:
    from jobs.render.preparation import PreparedOrder
    from jobs.render.rendering import Work
    from jobs.render.stream import News, Stream

PROGRESS_EVERY_S = 0.05
MAX_NEWS = 64
"""Finished chunks that wait to be saved; then the engine waits."""
POLL_MS = 1000
LAST_FRAMES = 20


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An order that is not in a stream yet.

    Attributes:
        prepared: None if the engine's thread has to prepare it, because Whisper is to listen to a recording.
    """

    order: Order
    prepared: PreparedOrder | None


class RenderLoop:
    """Renders the orders of one model after those of another; orders of the same model together.

    Orders that arrive for the loaded model are rendered along with the others. The engine stays loaded afterwards.
    """

    def __init__(self, channel: DaemonChannel) -> None:
        self._channel, self._warm, self._pid = channel, WarmEngine(), os.getpid()
        self._changed = threading.Condition()  # guards what follows
        self._waiting: dict[str, _Waiting] = {}
        self._entering: set[str] = set()  # neither waiting nor in the stream: the engine is being loaded for them
        self._stream: Stream | None = None
        self._model: Order | None = None  # any order of the stream's model
        self._end = False
        # Of the second thread:
        self._news: queue.Queue[tuple[Stream, News]] = queue.Queue(MAX_NEWS)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stops: dict[str, bool] = {}
        self._silent_until_s: dict[str, float] = {}
        self._has_started: set[str] = set()

    def run(self) -> None:
        """Render orders until the daemon sends `end`."""
        threading.Thread(target=self._attend, name="attend", daemon=True).start()
        while (first := self._next_order()) is not None:
            self._render(first)
        self._warm.release()

    # --- the engine's thread -------------------------------------------------------------------------

    def _next_order(self) -> _Waiting | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._end)
            return None if self._end else self._enter(next(iter(self._waiting)))

    def _enter(self, job_id: str) -> _Waiting:
        self._entering.add(job_id)
        return self._waiting.pop(job_id)

    def _render(self, first: _Waiting) -> None:
        """Render an order, and all others for the same model that have arrived or arrive meanwhile."""
        from jobs.render.preparation import prepare
        from jobs.render.stream import Added, Stream

        order = first.order
        try:
            engine = engine_class(order.engine)
            prepared = first.prepared or prepare(order, engine)
            ready = self._warm.for_order(order, engine)
            work = self._loaded(prepared, ready.load_s)
        except BaseException as error:  # noqa: BLE001 - an engine's code may raise anything, even SystemExit
            self._refuse(order, error)
            return

        def tell(news: News) -> None:
            self._leave_if_forked()
            self._news.put((stream, news))
            os.eventfd_write(self._wake_fd, 1)

        def look() -> None:
            self._leave_if_forked()
            for waiting in self._of_model(order) if self._waiting else ():
                try:
                    work = self._loaded(waiting.prepared or prepare(waiting.order, engine), 0.0)
                except BaseException as error:  # noqa: BLE001 - as above
                    self._refuse(waiting.order, error)
                else:
                    stream.add(work)
                    tell(Added(work))

        stream = Stream(ready, self._report, lambda work, result: self._ended(stream, work, result), tell, look)
        stream.add(work)
        tell(Added(work))
        with self._changed:
            self._stream, self._model = stream, order
        stream.run()
        with self._changed:
            self._stream = self._model = None
        if stream.has_broken:  # if its jobs were all cancelled, nobody else takes care of that
            self._warm.release()

    def _leave_if_forked(self) -> None:
        """End a process that an engine forked and that returned from the engine's code: it is not the worker."""
        if os.getpid() != self._pid:
            os._exit(1)

    def _of_model(self, order: Order) -> list[_Waiting]:
        """Remove the orders for the same model from those that wait."""
        with self._changed:
            found = [job_id for job_id, each in self._waiting.items() if _is_same_model(each.order, order)]
            return [self._enter(job_id) for job_id in found]

    def _refuse(self, order: Order, error: BaseException) -> None:
        with self._changed:
            self._entering.discard(order.job_id)
            self._stops.pop(order.job_id, None)
        self._channel.send(failure(order.job_id, error))

    def _loaded(self, prepared: PreparedOrder, load_s: float) -> Work:
        from jobs.render.rendering import Work

        work = Work(prepared, load_s)
        self._channel.send(messages.Loaded(work.job_id, load_s))
        work.load_finished()
        return work

    # --- the other thread ----------------------------------------------------------------------------

    def _attend(self) -> None:
        """Handle what the daemon and the engine's thread send. An error in here ends the worker."""
        try:
            poll = select.poll()
            poll.register(self._channel.fileno(), select.POLLIN)
            poll.register(self._wake_fd, select.POLLIN)
            while not self._end:
                poll.poll(POLL_MS)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake_fd)
                while (message := self._channel.next()) is not None:
                    self._handle(message)
                    self._hear_all()
                self._hear_all()
        except BaseException as error:  # noqa: BLE001 - nothing that follows would be heard
            if isinstance(error, OSError) and error.errno == errno.EBADF and not self._channel.is_open:
                return  # code of an engine has closed the socket; the daemon notices, and says so
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    def _handle(self, message: Mapping[str, Any]) -> None:
        if message["kind"] == "order":
            self._take(messages.order_from(message))
        elif message["kind"] == "end":
            with self._changed:
                self._end = True
                self._changed.notify()
        elif message["kind"] == "stop":
            self._stop(message.get("job_id", ""), at_once=bool(message.get("at_once")))

    def _take(self, order: Order) -> None:
        """Prepare an order, and give it to the stream of its model, or let it wait."""
        from jobs.render.preparation import needs_whisper, prepare
        from jobs.render.stream import Added

        try:
            engine = engine_class(order.engine)
            prepared = None if needs_whisper(order, engine) else prepare(order, engine)
            with self._changed:
                stream = self._stream if self._model is not None and _is_same_model(order, self._model) else None
            work = self._loaded(prepared, 0.0) if stream is not None and prepared is not None else None
        except BaseException as error:  # noqa: BLE001 - an engine's code may raise anything, even SystemExit
            self._channel.send(failure(order.job_id, error))
            return
        if stream is not None and work is not None and stream.add(work):
            stream.hear(Added(work))
            return
        with self._changed:
            self._waiting[order.job_id] = _Waiting(order, prepared)
            self._changed.notify()

    def _stop(self, job_id: str, *, at_once: bool) -> None:
        with self._changed:
            was_waiting, stream = self._waiting.pop(job_id, None) is not None, self._stream
            if job_id in self._entering:
                self._stops[job_id] = at_once
        if was_waiting:
            self._channel.send(messages.Stopped(job_id))
        elif stream is not None:
            stream.stop(job_id, at_once=at_once)

    def _hear_all(self) -> None:
        from jobs.render.stream import Added

        for _ in range(self._news.qsize()):
            stream, news = self._news.get()
            stream.hear(news)
            if isinstance(news, Added):
                with self._changed:
                    self._entering.discard(news.work.job_id)
                    at_once = self._stops.pop(news.work.job_id, None)
                if at_once is not None:
                    stream.stop(news.work.job_id, at_once=at_once)

    def _report(self, work: Work) -> None:
        """Send the progress, at most every `PROGRESS_EVERY_S`, and at the end."""
        now_s, progress = time.monotonic(), work.progress
        if work.began_s and work.job_id not in self._has_started:
            self._has_started.add(work.job_id)
            self._channel.send(messages.Started(work.job_id))
        if now_s >= self._silent_until_s.get(work.job_id, 0.0) or progress.done >= progress.total:
            self._silent_until_s[work.job_id] = now_s + PROGRESS_EVERY_S
            self._channel.send(messages.Progress(work.job_id, progress.done, progress.total, progress.audio_s))

    def _ended(self, stream: Stream, work: Work, result: Rendering | BaseException) -> None:
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
            self._channel.send(replace(failure(work.job_id, result), broken=stream.is_broken))


def _is_same_model(one: Order, other: Order) -> bool:
    return one.model == other.model and one.where() == other.where()


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
