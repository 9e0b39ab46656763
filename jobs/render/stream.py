"""One engine renders the jobs in flight: their chunks go to it mixed, and their audio comes back in any order.

Free rows of the engine are filled by priority, then by age, then by position in the text; but each job gets one row
before another of the same priority gets a second, in turn where there are fewer rows than jobs. So a short job behind a
long one is rendered at once, and the long one hardly slower.

Two threads share a stream. The engine's thread takes chunks and hands their audio over; everything else is done by the
other one meanwhile: it adds and removes jobs, saves finished chunks and joins them, so that the engine never waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.base import Audio, Chunk
from engines.errors import CheckpointRefused, EngineError
from files.durable import do_nothing
from jobs.order import Rendering, RenderStopped
from jobs.render.rendering import LoadedEngine, Work


class Unclear(Exception):
    """The engine failed while it had chunks of several jobs. Its cause is the engine's error."""


@dataclass(frozen=True, slots=True)
class Added:
    """A job was added."""

    work: Work


@dataclass(frozen=True, slots=True)
class Began:
    """The engine has the first chunk of a job."""

    work: Work


@dataclass(frozen=True, slots=True)
class Alive:
    """The engine gave a sign of life."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The engine has finished a chunk, or can't render it.

    Attributes:
        facts: Of the engine at that time; it may change them later.
    """

    work: Work
    key: str
    audio: Audio | Exception
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Settled:
    """A job was added whose chunks were all finished by an earlier attempt, and the engine has ended since."""

    work: Work
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Broke:
    """The engine failed.

    Attributes:
        suspects: IDs of the jobs whose chunks it had, ended ones included.
    """

    error: BaseException
    suspects: frozenset[str]


News = Added | Began | Alive | Returned | Settled | Broke


class Stream:
    """The jobs of one loaded engine; its `ChunkSource`.

    Args:
        ready: The engine.
        report: Called when a chunk of a job is finished, and from time to time.
        ended: Called when a job has ended: with its rendering, or the error; `RenderStopped` if it was removed.
            `Unclear` if the engine failed and nobody knows which job is the cause.
        tell: Called by the engine's thread with news, for `hear` in the other one. None: there is only one thread.
        look: Called by the engine's thread between chunks.

    Attributes:
        is_broken: The engine itself failed, not a chunk; known to the other thread.
        has_broken: The same, known to the engine's thread.
    """

    def __init__(
        self,
        ready: LoadedEngine,
        report: Callable[[Work], None],
        ended: Callable[[Work, Rendering | BaseException], None],
        tell: Callable[[News], None] | None = None,
        look: Callable[[], None] = do_nothing,
    ) -> None:
        self._ready, self._report, self._ended, self._look = ready, report, ended, look
        self._tell = tell or self.hear
        self._changed = threading.Condition(threading.RLock())  # guards what follows
        self._works: dict[str, Work] = {}
        self._given: dict[int, tuple[Work, str]] = {}  # what the engine has: number -> job and key of the chunk
        self._count = 0
        self._counted_s = 0.0
        self._unsettled: list[Work] = []  # all their chunks were finished when they were added
        self._was_asked = self._is_over = False
        self._leaving: list[Work] = []  # ended as soon as the engine gives a sign of life
        self.is_broken = self.has_broken = False

    # --- called by the engine's thread ---------------------------------------------------------------

    def take(self, most: int) -> Sequence[tuple[int, Chunk]]:
        """The next chunks for the engine; see `engines.base.ChunkSource`."""
        self._look()
        self._was_asked |= most > 0
        return self._take(most, -1)

    def urgent(self, most: int) -> Sequence[tuple[int, Chunk]]:
        """See `engines.base.ChunkSource`."""
        with self._changed:
            highest = max((work.priority for work, _key in self._given.values()), default=None)
        return [] if highest is None else self._take(most, highest)

    def _take(self, most: int, above: int) -> Sequence[tuple[int, Chunk]]:
        """The next chunks of jobs with a priority above that."""
        taken: list[tuple[int, Chunk]] = []
        began: list[Work] = []
        with self._changed:
            self._count_time()
            while len(taken) < most and (work := self._next()) is not None and work.priority > above:
                began += [] if work.began_s else [work]
                key, chunk = work.next_chunk()
                self._count += 1
                work.last_given = self._count
                self._given[self._count] = work, key
                taken.append((self._count, chunk))
        for work in began:
            self._tell(Began(work))
        return taken

    def run(self) -> None:
        """Render until no job is left, or the engine fails."""
        while self._wait_for_chunks():
            try:
                for rendered in self._ready.engine.render(self):
                    self._tell(Alive() if rendered is None else self._returned(*rendered))
                    self._look()
                    self._counted_s = time.monotonic()  # what `look` took is no job's share
            except BaseException as error:  # noqa: BLE001 - an engine's code may raise anything, even SystemExit
                with self._changed:
                    self._is_over = self.has_broken = True
                    suspects = frozenset(work.job_id for work, _key in self._given.values())
                self._tell(Broke(error, suspects))
                return
            for left in self._left():
                self._tell(left)

    def _wait_for_chunks(self) -> bool:
        """Wait until there is something for the engine. False if no job is left; then no other is added."""
        with self._changed:
            while not self._unsettled and not any(map(_has_chunks, self._works.values())):
                if not self._works:
                    self._is_over = True
                    return False
                self._changed.wait()
            self._counted_s, self._was_asked = time.monotonic(), False
        return True

    def _next(self) -> Work | None:
        """The job whose chunk is next."""
        return min(filter(_has_chunks, self._works.values()), key=_order, default=None)

    def _returned(self, number: object, audio: Audio | EngineError) -> News:
        with self._changed:
            self._count_time()
            if not isinstance(number, int) or number not in self._given:
                raise EngineError(f"the engine returned audio for a chunk that it was not given: {number!r}")
            work, key = self._given.pop(number)
            work.rows -= 1
            return Returned(work, key, audio, dict(self._ready.facts))

    def _left(self) -> list[News]:
        """What an engine that has ended did not return, or did not take."""
        facts = dict(self._ready.facts)
        with self._changed:
            left: list[News] = [
                Returned(work, key, work.nothing_returned(key), facts) for work, key in self._given.values()
            ]
            self._given.clear()
            if not self._was_asked:  # else it would be started for ever
                error = EngineError("the engine took no chunk")
                waiting = filter(_has_chunks, self._works.values())
                left += [Returned(work, work.waiting[0], error, facts) for work in waiting]
            left += [Settled(work, facts) for work in self._unsettled]
            self._unsettled.clear()
            return left

    def _count_time(self) -> None:
        """Share the time since the last call among the jobs whose chunks the engine has."""
        now_s = time.monotonic()
        for work, _key in self._given.values():
            work.share_s += (now_s - self._counted_s) / len(self._given)
        self._counted_s = now_s

    # --- called by both ------------------------------------------------------------------------------

    def add(self, work: Work) -> bool:
        """Take another job; the caller lets the other thread `hear` that. False if the stream is over."""
        with self._changed:
            if self._is_over:
                return False
            self._works[work.job_id] = work
            self._unsettled += [work] if work.is_complete else []
            for each in self._works.values():
                each.jobs_in_batch = max(each.jobs_in_batch, len(self._works))
            self._changed.notify()
        return True

    # --- called by the other thread ------------------------------------------------------------------

    def stop(self, job_id: str, *, at_once: bool) -> None:
        """Remove a job: at once, or when the chunks that the engine has of it are finished."""
        if (work := self._works.get(job_id)) is None:
            return
        with self._changed:
            work.is_stopping, is_idle = True, not self._given
        if at_once and not is_idle:
            self._leaving.append(work)
        elif at_once or not work.unsaved:
            self._end(work, RenderStopped())

    def hear(self, news: News) -> None:
        """Handle news of the engine."""
        if self._leaving and not isinstance(news, Added):
            for work in self._leaving:
                if self._works.get(work.job_id) is work:
                    self._end(work, RenderStopped())
            self._leaving.clear()
        if isinstance(news, Alive):
            for work in list(self._works.values())[:1]:
                self._report(work)
        elif isinstance(news, Broke):
            self._fail(news)
        elif self._works.get(news.work.job_id) is news.work:  # else it has ended
            if isinstance(news, Returned):
                self._keep(news)
            elif isinstance(news, Settled):
                self._end_if_over(news.work, news.facts)
            else:
                self._report(news.work)

    def _keep(self, returned: Returned) -> None:
        """Save a chunk. An error of its own ends its job."""
        work, audio = returned.work, returned.audio
        try:
            if isinstance(audio, Exception):
                raise audio
            work.keep(returned.key, audio)
        except Exception as error:  # noqa: BLE001 - of this job
            self._end(work, error)
            return
        self._report(work)
        self._end_if_over(work, returned.facts)

    def _end_if_over(self, work: Work, facts: Mapping[str, Any]) -> None:
        """End a job whose chunks are all finished, or which is stopping and has no chunk in the engine."""
        if work.is_complete:
            try:
                result: Rendering | BaseException = work.finish(facts, self._report)
            except Exception as error:  # noqa: BLE001 - of this job
                result = error
            self._end(work, result)
        elif work.is_stopping and not work.unsaved:
            self._end(work, RenderStopped())

    def _fail(self, broke: Broke) -> None:
        """The engine failed. A job is the cause if the engine was given no chunks of another one that is here."""
        self.is_broken, works = True, list(self._works.values())
        suspects = [work for work in works if work.began_s] or works
        if isinstance(broke.error, CheckpointRefused):
            result: BaseException = broke.error
            suspects = works
        elif len(suspects) == 1 and broke.suspects <= {suspects[0].job_id}:
            result = broke.error
        else:
            result, suspects = Unclear(), works
            result.__cause__ = broke.error
        for work in suspects:
            self._end(work, result)
        for work in works:
            if work not in suspects:
                self._end(work, RenderStopped())

    def _end(self, work: Work, result: Rendering | BaseException) -> None:
        with self._changed:
            del self._works[work.job_id]
            self._changed.notify()
        self._ended(work, result)


def _has_chunks(work: Work) -> bool:
    return bool(work.waiting) and not work.is_stopping


def _order(work: Work) -> tuple[int, bool, int, str]:
    """Sorts jobs: most urgent, without a row, longest without one, oldest. Ids begin with the time of the claim."""
    return -work.priority, work.rows > 0, 0 if work.rows else work.last_given, work.job_id
