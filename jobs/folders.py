"""The folders of a spool, and how it works on them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from files.durable import do_nothing
from jobs.errors import OutboxGone
from jobs.order import JobLimits
from jobs.results.outbox import Outbox
from jobs.spec.parse import Document
from jobs.spec.rules import NeedsModelFiles, Rules
from jobs.spool.claim import Claim
from jobs.spool.lock import Lock
from jobs.spool.reading import AT_ONCE_BYTES, Reader, Reading
from jobs.spool.recordings import Snapshots
from jobs.spool.store import Store

MAX_FRESH = 1000


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """What the configuration says of jobs; a reload replaces the whole.

    Attributes:
        rules: For reading job files.
        device: The `device` section of the configuration, for orders.
        max_bytes: Maximum size of a job file.
        attempts: Maximum number of failed attempts of a job.
        deaths: A file is not read again after this many consecutive daemons died while reading it.
        limits: Enforced by the worker.
        models: Folder where engines find base models and vocoders, besides the caches.
        retry_delays_s: Seconds before each attempt after the first; the last also before all later ones.
    """

    rules: Rules
    device: Mapping[str, Any]
    max_bytes: int
    attempts: int
    deaths: int
    limits: JobLimits = field(default_factory=JobLimits)
    models: Path | None = None
    retry_delays_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Fresh:
    """A job as it was queued.

    Attributes:
        rules_token: Of the rules with which it was read.
    """

    claim: Claim
    document: Document
    rules_token: str


@dataclass(slots=True)
class Spool:
    """The folders of a spool, and how it works on them.

    Attributes:
        outbox: None until it is available, and after a hold; `begin` must not be called before it was opened once.
        in_use: The settings, now: a reload can replace them.
        find_outbox: Called if the outbox is needed and is None; sets it, or raises Hold.
        reader: Reads files that may take long; None if the caller may block.
        readings: Unfinished readings of jobs that were next in the queue, by job ID.
        fresh: Jobs that were queued a moment ago, by job ID; at most MAX_FRESH. `begin` need not read them again.
        released: Job IDs of released claims, with the digests of their recordings, for `tidy`.
        removes_later: The caller calls `tidy` regularly; else released claims are removed at once.
        after_slice: Called after each slice while a large result is copied.
    """

    store: Store
    lock: Lock
    outbox: Outbox | None
    snapshots: Snapshots
    in_use: Callable[[], SpoolSettings]
    reader: Reader | None = None
    readings: dict[str, Reading] = field(default_factory=dict)
    fresh: dict[str, Fresh] = field(default_factory=dict)
    released: deque[tuple[str, tuple[str, ...]]] = field(default_factory=deque)
    removes_later: bool = False
    after_slice: Callable[[], None] = do_nothing
    find_outbox: Callable[[], None] = do_nothing

    @property
    def settings(self) -> SpoolSettings:
        return self.in_use()

    @property
    def open_outbox(self) -> Outbox:
        if self.outbox is None:
            self.find_outbox()
        if self.outbox is None:
            raise OutboxGone("the outbox was not opened yet")
        return self.outbox

    def read(self, data: bytes, source: str) -> Reading | None:
        """Parse a job file in the inbox, or give it to the reader. None if too many files wait for the reader: this one
        then waits in the inbox, not in memory.
        """
        suffix = Path(source).suffix.lower()
        if (reading := self._read_here(data, suffix, source)) is not None:
            return reading
        assert self.reader is not None  # noqa: S101 - only rules without models raise NeedsModelFiles
        return None if self.reader.is_full(len(data)) else self.reader.ask(data, suffix)

    def read_claimed(self, data: bytes, claim: Claim) -> Reading:
        """The same for a claimed file. Deaths are counted by job ID: its name may belong to another file now."""
        suffix = claim.suffix.lower()
        if (reading := self._read_here(data, suffix, claim.job_id)) is not None:
            return reading
        assert self.reader is not None  # noqa: S101 - as above
        return self.reader.ask(data, suffix)

    def _read_here(self, data: bytes, suffix: str, whose: str) -> Reading | None:
        """Parse a file now, marked on disk in case it kills the daemon; None if that may take long."""
        if self.reader is None or len(data) <= AT_ONCE_BYTES:
            with contextlib.suppress(NeedsModelFiles), self.store.reading(whose):
                return Reading.at_once(data, suffix, self.settings.rules)
        return None

    def remember(self, claim: Claim, document: Document) -> None:
        """Remember a job that is being queued, unless it is large, or names a model: that may be replaced."""
        if len(self.fresh) < MAX_FRESH and len(document.source) <= AT_ONCE_BYTES and not document.model:
            self.fresh[claim.job_id] = Fresh(claim, document, self.settings.rules.token)

    def recall(self, job_id: str) -> Fresh | None:
        """A remembered job, once; None if there is none, or it was read with other rules."""
        fresh = self.fresh.pop(job_id, None)
        return fresh if fresh is not None and fresh.rules_token == self.settings.rules.token else None

    def key_of(self, claim: Claim) -> str:
        """Identifies the bytes of a job and the rules used to read them."""
        return f"{claim.sha256}-{self.settings.rules.token}"
