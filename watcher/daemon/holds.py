"""What is on hold, and when the daemon checks it again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from jobs.errors import Hold
from watcher.log import log

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class HoldEntry:
    """What is wrong, what to do about it, and since when (Unix time, seconds)."""

    reason: str
    hint: str
    since_s: float


@dataclass(slots=True)
class Holds:
    """Current holds. All share one backoff.

    Attributes:
        entries: By what is on hold: inbox, outbox, worker or work.
        changes: Increases with each change of `entries`.
        due_s: When to check again, monotonic; 0 without a hold.
    """

    entries: dict[str, HoldEntry] = field(default_factory=dict)
    changes: int = 0
    due_s: float = 0.0
    _checks: int = 0

    def __bool__(self) -> bool:
        return bool(self.entries)

    def begin(self, what: str, hold: Hold) -> None:
        """Start a hold or continue it; log a new reason."""
        before = self.entries.get(what)
        if before is None or before.reason != hold.message:
            log.warning("on hold", action="hold", what=what, reason=hold.message, hint=hold.hint)
            since_s = before.since_s if before else time.time()
            self.entries[what] = HoldEntry(hold.message, hold.hint, since_s)
            self.changes += 1
        if time.monotonic() >= self.due_s:  # several jobs can meet it in one turn
            self.back_off()

    def end(self, *whats: str) -> None:
        for what in whats:
            if self.entries.pop(what, None) is not None:
                log.info("hold is over", action="resume", what=what)
                self.changes += 1
        if not self.entries:
            self._checks, self.due_s = 0, 0.0

    def back_off(self) -> None:
        """Check again later, after a longer pause each time."""
        self.due_s = time.monotonic() + BACKOFF_S[min(self._checks, len(BACKOFF_S) - 1)]
        self._checks += 1
