"""From finished jobs to folders in the outbox, several at a time.

    assemble   the files of all results, in the staging folder of the outbox
    intend     the intent to publish, in the record of each claim
    place      one rename each, from the staging folder to the outbox
    release    one rename each, from the claims to the trash

The files of all jobs are forced to disk before the first intent is written, all intents before the first rename, and
all renames before the first release. So each job goes the way that it would go alone, and the disk is waited for once
for all of them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from files.durable import do_nothing, sync_and_close
from files.opens import opened_regular, read_at_most, read_whole
from files.printable import printable
from jobs.errors import Hold, InboxGone, LockLost, holding
from jobs.folders import Spool
from jobs.names import safe_name
from jobs.order import Fallback
from jobs.results import report, worker_result
from jobs.results.assembly import Assembly
from jobs.results.manifest import Status
from jobs.results.open_outbox import MANIFEST
from jobs.results.report import JobRecord
from jobs.results.worker_result import ERROR_TEXT
from jobs.spool.claim import Claim

BEGINNING_BYTES = 4096  # of a job file that is too large; its result gets only these
MAX_REASONS_SHOWN = 3
SLICE_S = 0.1  # of work between two turns of the loop
_INTENDED = ("status", "duration_s", "message", "verdict", "reasons")
"""Attributes of the outcome that are saved in an intent."""
_OF_THE_STATE, _OF_THE_OUTBOX = "the state folder of the inbox", "the outbox can't take the result"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a job, for the log and the status.

    Attributes:
        folder: The published result.
        duration_s: Length of the audio.
        message: The error; for a successful job, notes on a replaced checkpoint or a duplicate file.
        verdict: `ok` or `doubtful`; "" without audio.
        reasons: The first reasons of the verdict.
    """

    job_id: str
    name: str
    status: Status
    folder: Path
    sha256: str
    duration_s: float = 0.0
    message: str = ""
    verdict: Literal["ok", "doubtful", ""] = ""
    reasons: tuple[str, ...] = ()


@dataclass(slots=True)
class Publication:
    """A job that has ended, and is to be published.

    Attributes:
        record: For its files; None if they are assembled already, with an intent on disk.
        outcome: Its `folder` is set when the result is there.
    """

    claim: Claim
    record: JobRecord | None
    outcome: Outcome

    @classmethod
    def of(cls, record: JobRecord) -> Publication:
        """Of a job that was just rendered, or has failed."""
        record.attempts = len(record.claim.record.failed_attempts())
        return cls(record.claim, record, _outcome(record))


def publish(spool: Spool, publications: Sequence[Publication]) -> list[Outcome | Hold]:
    """Publish results together, in this order.

    Returns:
        For each its outcome; or the hold that keeps it from being published. Its files are kept: `pipeline.begin`
        continues.

    Raises:
        LockLost: Another daemon has the inbox; nothing more is published.
    """
    group = _Group(publications)
    with group.all(_OF_THE_OUTBOX):
        _assemble(spool, group)
    with group.all(_OF_THE_STATE):
        _keep(group)
        _intend(spool, group)
        spool.store.check()  # before the lock, which would seem lost without the inbox
    with group.all(_OF_THE_OUTBOX):
        _place(spool, group)
    with group.all(_OF_THE_STATE):
        group.each(_OF_THE_STATE, lambda publication: release(spool, publication.claim))
    return [group.holds.get(publication.claim.job_id, publication.outcome) for publication in publications]


class _Group:
    """Results that are published together.

    Attributes:
        left: Those that are on their way.
        waiting: Those that have to wait, and left the group.
        holds: Why, by job ID.
    """

    def __init__(self, publications: Sequence[Publication]) -> None:
        self.left = list(publications)
        self.waiting: list[Publication] = []
        self.holds: dict[str, Hold] = {}

    def each(
        self, what: str, step: Callable[[Publication], None], after_slice: Callable[[], None] = do_nothing
    ) -> None:
        """Take a step with each. An error concerns one of them; if the inbox or the lock is gone, all.

        Calls `after_slice` now and then.
        """
        turned_s = time.monotonic()
        for publication in list(self.left):
            if time.monotonic() - turned_s > SLICE_S:
                after_slice()
                turned_s = time.monotonic()
            try:
                with holding(what):
                    step(publication)
            except (InboxGone, LockLost):
                raise
            except Hold as hold:
                self._wait([publication], hold)

    @contextlib.contextmanager
    def all(self, what: str) -> Iterator[None]:
        """Take a step with all. An error concerns all; if the lock is gone, it ends the daemon."""
        try:
            with holding(what):
                yield
        except LockLost:
            raise
        except Hold as hold:
            self._wait(list(self.left), hold)

    def _wait(self, publications: Sequence[Publication], hold: Hold) -> None:
        for publication in publications:
            self.left.remove(publication)
            self.waiting.append(publication)
            self.holds[publication.claim.job_id] = hold


def _assemble(spool: Spool, group: _Group) -> None:
    outbox = spool.open_outbox
    outbox.check()
    with outbox.opened() as opened:

        def fill(publication: Publication) -> None:
            if (record := publication.record) is not None:
                with holding(_OF_THE_STATE):
                    job_file, record.missing = _job_file(record.claim, spool.settings.max_bytes)
                claim = record.claim
                opened.assemble(claim.job_id, claim.name, lambda to: _fill(record, job_file, to, spool.after_slice))

        def sync(publication: Publication) -> None:
            if publication.record is not None:
                opened.sync(publication.claim.job_id)

        group.each(_OF_THE_OUTBOX, fill, spool.after_slice)
        group.each(_OF_THE_OUTBOX, sync, spool.after_slice)
        opened.sync_staging()


def _keep(group: _Group) -> None:
    """Keep the audio of those that the outbox does not take now, so that it need not be rendered again."""
    for publication in group.waiting:
        made = publication.record and publication.record.made
        if made and not isinstance(group.holds[publication.claim.job_id], InboxGone):
            with contextlib.suppress(OSError):
                worker_result.keep(publication.claim, made)


def _intend(spool: Spool, group: _Group) -> None:
    """Write the intents: after a crash, a result that is no longer in the staging folder was published."""
    written: dict[str, int] = {}

    def write(publication: Publication) -> None:
        claim = publication.claim
        if publication.record is None:  # a crash may have come before it was forced to disk
            written[claim.job_id] = os.open(claim.record.path, os.O_RDONLY | os.O_CLOEXEC)
        else:
            intent = {name: getattr(publication.outcome, name) for name in _INTENDED}
            intent["outbox"] = spool.open_outbox.outbox_id
            written[claim.job_id] = claim.record.write(intent=intent)

    group.each(_OF_THE_STATE, write)
    group.each(_OF_THE_STATE, lambda publication: sync_and_close([written[publication.claim.job_id]]))


def _place(spool: Spool, group: _Group) -> None:
    with spool.open_outbox.opened() as opened:

        def place(publication: Publication) -> None:
            claim, outcome = publication.claim, publication.outcome
            spool.lock.check()
            folder = opened.place(claim.job_id, claim.name, outcome.status)
            publication.outcome = replace(outcome, folder=folder)

        group.each(_OF_THE_OUTBOX, place)
        opened.sync_places()


def settle(spool: Spool, claim: Claim) -> Publication | Outcome | None:
    """Continue a publication that a crash or a hold interrupted, if the claim has an intent.

    If the assembled result is still there, it is complete, and is to be published. If it is gone, it was published, and
    a consumer may have removed it: its outcome. If another outbox is configured now, the job is rendered again (None).
    """
    intent = claim.record.intent
    if not intent:
        return None
    saved = {name: intent[name] for name in _INTENDED if name in intent}  # an older version wrote fewer
    saved["reasons"] = tuple(saved.get("reasons", ()))
    outbox = spool.open_outbox
    outcome = Outcome(claim.job_id, claim.name, folder=outbox.folder, sha256=claim.sha256, **saved)
    with holding("the outbox"):
        outbox.check()
        if intent["outbox"] != outbox.outbox_id:
            claim.record.add(intent=None)
            return None
        with outbox.opened() as opened:
            if opened.is_assembled(claim.job_id):
                return Publication(claim, None, outcome)
    with holding(_OF_THE_STATE):
        release(spool, claim)
    return outcome


def release(spool: Spool, claim: Claim) -> None:
    """The last step of a job. Raises OSError."""
    spool.readings.pop(claim.job_id, None)
    spool.store.release(claim, later=True)
    spool.released.append((claim.job_id, tuple(claim.recordings.values())))
    if not spool.removes_later:
        tidy(spool)


def tidy(spool: Spool) -> None:
    """Remove the files of one released job, while the next one is rendered. After a crash, the start removes them."""
    if spool.released:
        job_id, digests = spool.released.popleft()
        spool.store.remove_released(job_id)
        spool.snapshots.remove_unused(digests)


def _fill(record: JobRecord, job_file: bytes | None, result: Assembly, after_slice: Callable[[], None]) -> None:
    """Write a result's files: the audio or ERROR.txt, the job file, the manifest."""
    if job_file is not None:
        result.write(f"{stem_of(record.claim)}{record.claim.suffix}", job_file)
    if record.made:
        for name in record.made.rendering.files:
            result.copy(record.made.folder / name, name, after_slice)
    if record.failure:
        result.write(ERROR_TEXT, report.error_text(record).encode(errors="backslashreplace"))
    result.write(MANIFEST, report.manifest(record).to_json())


def _job_file(claim: Claim, max_bytes: int) -> tuple[bytes | None, str]:
    """The job file for its result, and a sentence about what is missing of it, or "".

    A file that was never read is not trusted: it may be huge, or unreadable now, and neither may stop the spool.
    """
    if claim.withheld:
        return None, "The job file is not in this folder: it may be another user's file."
    if not claim.never_read:
        return read_whole(claim.job_file), ""
    try:
        with opened_regular(claim.folder.original) as (fd, status):
            if status.st_size <= max_bytes:
                return read_at_most(fd, max_bytes), ""
            beginning = os.pread(fd, BEGINNING_BYTES, 0)
            return beginning, f"Only the first {BEGINNING_BYTES >> 10} KiB of the job file are in this folder."
    except OSError as error:
        return None, f"The job file is not in this folder: it could not be read ({error.strerror})."


def _outcome(record: JobRecord) -> Outcome:
    claim = record.claim
    audio = record.made.rendering.audio if record.made else ()
    fallback = Fallback.recorded(record.made.rendering.engine) if record.made else None
    notes = " ".join(map(str, filter(None, [fallback, *claim.warnings])))
    checks = report.checks(record)
    return Outcome(
        claim.job_id,
        claim.name,
        record.status,
        Path(),
        claim.sha256,
        duration_s=sum(file["duration_s"] for file in audio),
        message=record.failure.message if record.failure else notes,
        verdict=checks.verdict if checks else "",
        reasons=tuple(printable(reason) for reason in checks.reasons[:MAX_REASONS_SHOWN]) if checks else (),
    )


def stem_of(claim: Claim) -> str:
    """The name of the files of a job, without extension."""
    return safe_name(claim.name.rpartition("/")[2])
