"""Decides which job is next. Pure: no clock, no folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from sortedcontainers import SortedKeyList

URGENT = 10  # above the highest priority of a job file
MAX_URGENT_IN_A_ROW = 8


@dataclass(frozen=True, slots=True)
class Ticket:
    """A claimed job in the queue; small, because there can be 100,000.

    Attributes:
        job_id: Of its claim.
        name: Of the job and its result.
        claimed_ns: Unix time, nanoseconds.
        priority: 0 (last) to 9 (first); URGENT for jobs that need no rendering (a failure to report, a result to
            publish).
        document: Its number in a file of several documents, else 0.
        not_before: Unix time in seconds before which it must not start, or 0.
        model: Engine and checkpoint, to keep a loaded model in use.
        file_name: Name of its file without extension; `NAME.cancel` accepts it too.
        alone: It must not be rendered along with others.
    """

    job_id: str
    name: str
    claimed_ns: int
    priority: int = 5
    document: int = 0
    not_before: float = 0.0
    model: tuple[str, str] = ("", "")
    file_name: str = ""
    alone: bool = False

    def is_meant_by(self, name: str) -> bool:
        """Whether `NAME.cancel` means this job: `name` is its own name, or that of its file."""
        return name in {self.name, self.file_name}


def _order(ticket: Ticket) -> tuple[int, int, int]:
    return -ticket.priority, ticket.claimed_ns, ticket.document


class Schedule:
    """The queue: highest priority first, then oldest first, with two exceptions.

    Jobs that need no rendering go first, but after MAX_URGENT_IN_A_ROW of them one job is rendered, so that many
    failures to report do not block the queue.

    Among jobs of equal priority, those for the loaded model may go before the oldest, so that jobs for two checkpoints
    do not cause a load each. The oldest job is passed over for at most `patience_s()`: a
    reload can change it.
    """

    def __init__(self, patience_s: Callable[[], float]) -> None:
        self.patience_s = patience_s
        self._tickets: dict[str, Ticket] = {}
        self._ready = SortedKeyList(key=_order)
        self._of_model: dict[tuple[str, str], SortedKeyList] = {}
        self._later = SortedKeyList(key=lambda ticket: (ticket.not_before, ticket.claimed_ns))
        self._passed_over: tuple[str, float] = ("", 0.0)
        self._urgent_in_a_row = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._tickets

    def add(self, ticket: Ticket) -> None:
        """Queue a job; replaces a queued ticket of the same job."""
        self.remove(ticket.job_id)
        self._tickets[ticket.job_id] = ticket
        if ticket.not_before:
            self._later.add(ticket)
        else:
            self._enter(ticket)

    def remove(self, job_id: str) -> Ticket | None:
        """Remove a job from the queue; None if it is not queued."""
        ticket = self._tickets.pop(job_id, None)
        if ticket is not None and ticket in self._later:
            self._later.remove(ticket)
        elif ticket is not None:
            self._leave(ticket)
        return ticket

    def choose(
        self, wall_s: float, steady_s: float, warm: tuple[str, str] | None, *, only_urgent: bool = False
    ) -> Ticket | None:
        """Remove the next job from the queue and return it.

        Args:
            wall_s: Unix time, for `not_before`.
            steady_s: Monotonic time, for `patience_s`.
            warm: The loaded model.
            only_urgent: Choose only among jobs that need no rendering.
        """
        self._wake(wall_s)
        if not self._ready or (only_urgent and not self.has_urgent()):
            return None
        oldest = self._ready[0] if only_urgent else self._oldest()
        chosen = self._same_model(oldest, warm) or oldest
        if chosen is not oldest:
            # The clock of the oldest job starts when it is first passed over, not when it was queued.
            if self._passed_over[0] != oldest.job_id:
                self._passed_over = oldest.job_id, steady_s
            if steady_s - self._passed_over[1] >= self.patience_s():
                chosen = oldest
        return self.remove(chosen.job_id)

    def _oldest(self) -> Ticket:
        """The head of the queue; after MAX_URGENT_IN_A_ROW urgent jobs, the first one to render."""
        oldest: Ticket = self._ready[0]
        if oldest.priority == URGENT and self._urgent_in_a_row >= MAX_URGENT_IN_A_ROW:
            place = self._ready.bisect_key_left((-URGENT + 1,))  # the first ticket below URGENT
            oldest = self._ready[place] if place < len(self._ready) else oldest
        self._urgent_in_a_row = self._urgent_in_a_row + 1 if oldest.priority == URGENT else 0
        return oldest

    def highest_priority(self, wall_s: float) -> int:
        """Of the jobs that could be rendered now; -1 if there is none."""
        self._wake(wall_s)
        first = self._ready.bisect_key_left((-URGENT + 1,))  # the first ticket below URGENT
        return self._ready[first].priority if first < len(self._ready) else -1

    def has_ready(self, wall_s: float) -> bool:
        """Whether a job could start now."""
        self._wake(wall_s)
        return bool(self._ready)

    def has_urgent(self) -> bool:
        """Whether a job that needs no rendering is ready; such jobs also run while rendering is paused."""
        return bool(self._ready) and self._ready[0].priority == URGENT

    def next_start(self) -> float | None:
        """The earliest `not_before` (Unix time, seconds) of waiting jobs; None if there is none."""
        return self._later[0].not_before if self._later else None

    def first(self, count: int) -> Iterator[Ticket]:
        """The first tickets of the queue; those with a later `not_before` come last."""
        return islice((ticket for part in (self._ready, self._later) for ticket in part), count)

    def named(self, name: str) -> list[Ticket]:
        """All queued jobs that `NAME.cancel` means."""
        return [ticket for ticket in self._tickets.values() if ticket.is_meant_by(name)]

    def _wake(self, wall_s: float) -> None:
        while self._later and self._later[0].not_before <= wall_s:
            self._enter(self._later.pop(0))

    def _enter(self, ticket: Ticket) -> None:
        self._ready.add(ticket)
        self._of_model.setdefault(ticket.model, SortedKeyList(key=_order)).add(ticket)

    def _leave(self, ticket: Ticket) -> None:
        self._ready.remove(ticket)
        group = self._of_model[ticket.model]
        group.remove(ticket)
        if not group:
            del self._of_model[ticket.model]

    def _same_model(self, oldest: Ticket, warm: tuple[str, str] | None) -> Ticket | None:
        group = self._of_model.get(warm) if warm is not None else None
        if not group:
            return None
        ticket: Ticket = group[0]
        return ticket if ticket.priority == oldest.priority else None
