"""One engine renders the jobs in flight: their chunks go to it mixed, and their audio comes back in any order.

Free rows of the engine are filled by priority, then by age, then by position in the text; but each job gets one row
before another of the same priority gets a second, in turn where there are fewer rows than jobs. So a short job behind a
long one is rendered at once, and the long one hardly slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from engines.base import Audio, Chunk
from engines.errors import CheckpointRefused, EngineError
from jobs.order import Rendering, RenderStopped
from jobs.render.rendering import LoadedEngine, Work


class Unclear(Exception):
    """The engine failed while it had chunks of several jobs. Its cause is the engine's error."""


class Stream:
    """The jobs of one loaded engine; its `ChunkSource`.

    Args:
        ready: The engine.
        look: Called between chunks: may add jobs, and remove them.
        report: Called when a chunk of a job is finished, and from time to time.
        ended: Called when a job has ended: with its rendering, or the error; `RenderStopped` if it was removed.
            `Unclear` if the engine failed and nobody knows which job is the cause.

    Attributes:
        is_broken: The engine itself failed, not a chunk.
    """

    def __init__(
        self,
        ready: LoadedEngine,
        look: Callable[[], None],
        report: Callable[[Work], None],
        ended: Callable[[Work, Rendering | BaseException], None],
    ) -> None:
        self._ready, self._look, self._report, self._ended = ready, look, report, ended
        self._works: dict[str, Work] = {}
        self._given: dict[int, tuple[Work, str]] = {}  # what the engine has: number -> job and key of the chunk
        self._count = 0
        self._counted_s = 0.0
        self.is_broken = False

    def __len__(self) -> int:
        return len(self._works)

    def add(self, work: Work) -> None:
        """Take another job."""
        self._works[work.job_id] = work
        for each in self._works.values():
            each.jobs_in_batch = max(each.jobs_in_batch, len(self._works))
        self._report(work)

    def stop(self, job_id: str, *, at_once: bool) -> None:
        """Remove a job: at once, or when the chunks that the engine has of it are finished."""
        if (work := self._works.get(job_id)) is not None:
            work.is_stopping = True
            if at_once:
                self._end(work, RenderStopped())

    def take(self, most: int) -> Sequence[tuple[int, Chunk]]:
        """The next chunks for the engine; see `engines.base.ChunkSource`."""
        self._count_time()
        self._look()
        self._counted_s = time.monotonic()  # what a new job takes is no job's share
        taken: list[tuple[int, Chunk]] = []
        while len(taken) < most and (work := self._next()) is not None:
            is_first = not work.began_s
            key, chunk = work.next_chunk()
            if is_first:
                self._report(work)
            self._count += 1
            work.last_given = self._count
            self._given[self._count] = work, key
            taken.append((self._count, chunk))
        return taken

    def run(self) -> None:
        """Render until no job is left."""
        while self._works:
            self._counted_s, given = time.monotonic(), self._count
            try:
                for rendered in self._ready.engine.render(self):
                    self._count_time()
                    if rendered is not None:
                        self._put(*rendered)
                        self._end_finished()
                    elif self._works:  # a sign of life
                        self._report(next(iter(self._works.values())))
                    self._look()
                    self._counted_s = time.monotonic()
            except BaseException as error:  # noqa: BLE001 - an engine's code may raise anything, even SystemExit
                self._fail(error)
            for work in [work for work in self._works.values() if work.rows]:
                self._end(work, work.nothing_returned())
            if self._count == given:  # else an engine that takes nothing would be asked for ever
                for work in [work for work in self._works.values() if self._is_waiting(work)]:
                    self._end(work, EngineError("the engine took no chunk"))
            self._end_finished()
            self._given.clear()

    def _next(self) -> Work | None:
        """The job whose chunk is next."""
        return min(filter(self._is_waiting, self._works.values()), key=self._order, default=None)

    def _is_waiting(self, work: Work) -> bool:
        return bool(work.waiting) and not work.is_stopping

    def _order(self, work: Work) -> tuple[int, bool, int, str]:
        """Sorts jobs: most urgent, without a row, longest without one, oldest. Ids begin with the time of the claim."""
        return -work.priority, work.rows > 0, 0 if work.rows else work.last_given, work.job_id

    def _put(self, number: object, audio: Audio | EngineError) -> None:
        """Save a chunk. An error of its own ends its job."""
        if not isinstance(number, int) or number not in self._given:
            raise EngineError(f"the engine returned audio for a chunk that it was not given: {number!r}")
        work, key = self._given.pop(number)
        work.rows -= 1
        if self._works.get(work.job_id) is not work:  # it has ended
            return
        try:
            if isinstance(audio, EngineError):
                raise audio
            work.keep(key, audio)
        except Exception as error:  # noqa: BLE001 - of this job
            self._end(work, error)
        else:
            self._report(work)

    def _end_finished(self) -> None:
        """End the jobs whose chunks are all finished, and those that are stopping and have no chunk in the engine."""
        for work in list(self._works.values()):
            if work.is_complete:
                try:
                    result: Rendering | BaseException = work.finish(self._ready.facts, self._report)
                except Exception as error:  # noqa: BLE001 - of this job
                    result = error
                self._end(work, result)
            elif work.is_stopping and not work.rows:
                self._end(work, RenderStopped())

    def _fail(self, error: BaseException) -> None:
        """The engine failed. One job is the cause if the engine had chunks of no other, ended ones included."""
        self.is_broken = True
        works, suspects = list(self._works.values()), {work.job_id for work, _key in self._given.values()}
        for work in works:
            if (len(works) == 1 and suspects <= {work.job_id}) or isinstance(error, CheckpointRefused):
                self._end(work, error)
            else:
                unclear = Unclear()
                unclear.__cause__ = error
                self._end(work, unclear)

    def _end(self, work: Work, result: Rendering | BaseException) -> None:
        del self._works[work.job_id]
        self._ended(work, result)

    def _count_time(self) -> None:
        """Share the time since the last call among the jobs whose chunks the engine has."""
        now_s = time.monotonic()
        for work, _key in self._given.values():
            work.share_s += (now_s - self._counted_s) / len(self._given)
        self._counted_s = now_s
