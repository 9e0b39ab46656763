"""The life of a job, from a ready file to a published folder. Read it from top to bottom.

    take      claim -> read -> split -> copy recordings -> ticket for the queue
    begin     parse -> order for the executor
    finish    result of the executor -> publish -> release, or order for the next attempt
    resume    after a crash: claim -> ticket for the queue

A job changes its state by three renames: the claim (inbox -> claimed), the publication (staging -> outbox) and the
release (claimed -> trash). After a crash at any point, `resume` and `begin` continue from the state of the folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from engines.checkpoints.reference import CheckpointRef
from engines.errors import CheckpointRefused
from files.allowed_paths import NotAllowed
from files.durable import do_nothing, fsync, remove_tree
from files.opens import opened_regular, read_at_most
from files.printable import printable
from files.tree import Problem
from jobs.errors import Cancelled, Hold, JobError, JobInvalid, OutboxGone, RenderFailed, holding
from jobs.names import safe_name
from jobs.order import Fallback, JobLimits, Order, Rendering
from jobs.results import report, worker_result
from jobs.results.assembly import Assembly
from jobs.results.manifest import Status
from jobs.results.outbox import MANIFEST, Outbox
from jobs.results.report import JobRecord
from jobs.results.worker_result import ERROR_TEXT
from jobs.schedule import URGENT, Ticket
from jobs.spec.job_spec import JobSpec
from jobs.spec.parse import Document
from jobs.spec.rules import NeedsModelFiles, Rules
from jobs.spool import uploads
from jobs.spool.claim import Claim
from jobs.spool.lock import Lock
from jobs.spool.places import read_transcript
from jobs.spool.reading import AT_ONCE_BYTES, BeingRead, Reader, Reading, load_parsed, save_parsed
from jobs.spool.recordings import MAX_NEAREST, Copies, Snapshots
from jobs.spool.store import Store, deaths_reason

BEGINNING_BYTES = 4096  # of a job file that is too large; its result gets only these


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


@dataclass(slots=True)
class Spool:
    """The folders of a spool, and how it works on them.

    Attributes:
        outbox: None until it is available, and after a hold; `begin` must not be called before it was opened once.
        in_use: The settings, now: a reload can replace them.
        find_outbox: Called if the outbox is needed and is None; sets it, or raises Hold.
        reader: Reads files that may take long; None if the caller may block.
        readings: Unfinished readings of jobs that were next in the queue, by job ID.
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

    def key_of(self, claim: Claim) -> str:
        """Identifies the bytes of a job and the rules used to read them."""
        return f"{claim.sha256}-{self.settings.rules.token}"


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


# --- take: from a ready file to the queue ----------------------------------------------------------


class ReadyFile(Protocol):
    """A file that is ready to be claimed; see `watcher.daemon.readiness.Arrival`."""

    @property
    def source(self) -> str: ...
    @property
    def status(self) -> Any: ...
    @property
    def data(self) -> bytes: ...
    @property
    def documents(self) -> tuple[Document, ...] | None: ...
    @property
    def set_aside(self) -> str: ...
    @property
    def invalid(self) -> JobInvalid | None: ...


Step = Ticket | Reading | None
"""Yielded on the way into the queue: a ticket to queue, a reading to wait for, or None after a slice of work."""


def take(spool: Spool, arrival: ReadyFile) -> Iterator[Step]:
    """Claim a ready file; each document in it becomes a job in the queue.

    Returns:
        The remaining steps, in slices, because a thousand documents with recordings take longer than the daemon's loop
        may block.

    Raises:
        jobs.spool.store.Changed, FileNotFoundError, OSError: The file was not claimed, see `Store.claim`.
        Hold: The file was claimed, but the next step failed; `resume` continues.
    """
    if arrival.set_aside:
        return iter([urgent(spool.store.set_aside(arrival.source, arrival.set_aside))])
    claim, data = spool.store.claim(arrival.source, arrival.status, spool.settings.max_bytes)
    if claim.set_aside:
        return iter([urgent(claim)])
    return _enlist(spool, claim, data, (arrival.documents or arrival.invalid) if data == arrival.data else None)


def claim_only(spool: Spool, arrival: ReadyFile) -> str:
    """Claim a ready file, to be queued later by `resume`. Returns its job ID; raises as `take`."""
    return spool.store.claim(arrival.source, arrival.status, spool.settings.max_bytes)[0].job_id


def resume(spool: Spool, job_id: str) -> Iterator[Step]:
    """Continue with a claim of an earlier daemon, as `take`. No steps if its file was never renamed."""
    claim = spool.store.recover(job_id, spool.settings.max_bytes)
    if claim is None:
        return iter(())
    if spool.store.deaths(job_id) >= spool.settings.deaths and not claim.set_aside:
        claim = replace(claim, set_aside=deaths_reason(spool.settings.deaths)).rewrite()
    is_rendered = claim.folder.rendered.exists()
    if claim.set_aside or claim.folder.intent() or claim.folder.is_cancelled or is_rendered:
        return iter([urgent(claim)])
    try:
        data = claim.job_file.read_bytes()
    except OSError:  # maybe of this file alone; `begin` reports it without stopping other jobs
        return iter([urgent(claim)])
    return _enlist(spool, claim, data, None)


def _enlist(spool: Spool, claim: Claim, data: bytes, known: tuple[Document, ...] | JobInvalid | None) -> Iterator[Step]:
    """From a claim to the queue; `known` is the parsed file, if it was parsed before."""
    reading = Reading(known)
    if known is None:
        with holding("the state folder of the inbox"):
            reading = spool.read_claimed(data, claim)
        if not reading.ended:
            yield reading
    try:
        documents = reading.documents()
    except JobInvalid as invalid:
        _save_if_large(spool, claim, data, invalid)
        yield urgent(claim)
        return
    copies = spool.snapshots.copies()
    if len(documents) == 1 or claim.document:
        yield from _ticket(spool, claim, documents[0], copies)
        if not claim.document:
            uploads.remove(spool.store.inbox, claim, documents[0].recordings)
        return
    with holding("the state folder of the inbox"):
        children = yield from spool.store.split(claim, [document.source for document in documents])
    for child, document in zip(children, documents, strict=True):
        yield from _ticket(spool, child, document, copies)


def _save_if_large(spool: Spool, claim: Claim, data: bytes, result: Document | JobInvalid) -> None:
    """Save a large parsed file, so that `begin` need not parse it again.

    Not if it names a model: that may be replaced until then, and must be checked again.
    """
    if len(data) > AT_ONCE_BYTES and not (isinstance(result, Document) and result.model):
        with holding("the state folder of the inbox"):
            save_parsed(claim.folder, spool.key_of(claim), result)


def _ticket(spool: Spool, claim: Claim, document: Document, copies: Copies) -> Iterator[Step]:
    _save_if_large(spool, claim, document.source, document)
    if document.spec is not None and document.spec.name and document.spec.name != claim.own_name:
        with holding("the state folder of the inbox"):
            claim = replace(claim, own_name=document.spec.name).rewrite()
    if document.spec is not None and document.recordings and not claim.recordings:
        with holding("the state folder of the inbox"):
            claim = yield from _copy_recordings(spool, claim, document, copies)
    spec = document.spec
    if spec is None or claim.problems:
        yield urgent(claim)
        return
    yield _ticket_to_render(spool, claim, spec, _model_for(claim, document))


def _model_for(claim: Claim, document: Document) -> CheckpointRef | Fallback | None:
    """What the job file says; the base model, if an engine has refused the checkpoint and the job allows that."""
    refused = claim.folder.fallback()
    return Fallback(**refused) if refused else document.model


def _ticket_to_render(spool: Spool, claim: Claim, spec: JobSpec, model: CheckpointRef | Fallback | None) -> Ticket:
    engine = spec.engine or spool.settings.rules.default_engine
    info = spool.settings.rules.info(engine)
    not_before = spec.not_before.timestamp() if spec.not_before else 0.0
    return replace(
        urgent(claim),
        priority=spec.priority,
        not_before=not_before,
        model=_model(engine, model),
        alone=claim.folder.is_alone or (info is not None and not info.mixes_jobs),
    )


def _model(engine: str, model: CheckpointRef | Fallback | None) -> tuple[str, str]:
    return _shared(engine, str(model.path) if isinstance(model, CheckpointRef) else "")


@lru_cache(maxsize=1000)
def _shared(engine: str, checkpoint: str) -> tuple[str, str]:
    """The same tuple for all tickets with this model: there can be 100,000."""
    return engine, checkpoint


def urgent(claim: Claim) -> Ticket:
    """A ticket for a job that needs no rendering: a failure to report, or a result to publish."""
    name, file_name = claim.name, sys.intern(claim.file_name)  # one string for all documents of a file
    return Ticket(claim.job_id, name, claim.claimed_ns, URGENT, claim.document, file_name=file_name)


def _copy_recordings(spool: Spool, claim: Claim, document: Document, copies: Copies) -> Generator[None, None, Claim]:
    """Copy the recordings, so that later changes to them do not affect the job."""
    recordings: dict[str, str] = {}
    transcripts: dict[str, str] = {}
    problems: dict[str, str] = {}
    places, folder = spool.snapshots.places(), (spool.store.inbox / claim.source).parent
    for name in document.recordings:
        try:
            path = places.find(name, folder)
            if path is None:
                problems[name] = places.missing(name, folder, with_nearest=len(problems) < MAX_NEAREST)
                continue
            recordings[name] = yield from copies.take(path, claim.folder.recordings)
            if text := read_transcript(path):
                text = text[
                    : spool.settings.limits.speaker_text_chars + 1
                ]  # one character too many, so that the worker refuses it
                copies.count(len(text.encode()))
                transcripts[name] = text
        except NotAllowed as error:
            problems[name] = str(error)
    if recordings:
        fsync(claim.folder.recordings)
    return replace(claim, recordings=recordings, transcripts=transcripts, problems=problems).rewrite()


# --- begin, finish: from the queue to the outbox ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """A job that is being rendered.

    Attributes:
        order: For the executor.
        spec: The parsed job.
        model: Its checkpoint, or why the base model is used instead; None for the base model.
        record: For its manifest.
        ticket: To render it again.
        wait_s: How long to wait before this attempt, in seconds, since the one before failed.
    """

    order: Order
    spec: JobSpec
    model: CheckpointRef | Fallback | None
    record: JobRecord
    ticket: Ticket
    wait_s: float = 0.0

    @property
    def claim(self) -> Claim:
        return self.record.claim

    @property
    def is_decided(self) -> bool:
        """Whether only publication is left: of its audio, or of its failure."""
        return self.record.made is not None or self.record.failure is not None


def begin(spool: Spool, job_id: str) -> Job | Outcome | None:
    """Start one job.

    Returns:
        The job with its order, for an executor; or its outcome, if nothing needs rendering; None if its file is back in
        the inbox.

    Raises:
        Hold: The job is not at fault; call again later. Finished work is kept.
        BeingRead: The reader is reading its file; call again when the reading has ended.
    """
    started_s = time.time()
    with holding("the state folder of the inbox"):
        claim = spool.store.recover(job_id, spool.settings.max_bytes)
        if claim is None:
            spool.store.check()  # raises if the inbox is gone, where nothing is found either
            return None
        if (intent := claim.folder.intent()) and (settled := _settle(spool, claim, intent)):
            return settled
    record = JobRecord(claim, started_s)
    try:
        document = _parsed(spool, claim)
        record.spec, record.warnings = document.spec, document.warnings
        if document.spec is None or claim.problems:
            raise JobInvalid(document.problems or _recording_problems(claim, document))
        record.made = worker_result.kept(claim.folder)
        if record.made is None:
            return _next_attempt(spool, document.spec, _model_for(claim, document), record)
    except JobError as error:
        record.failure = error
    return _publish(spool, record)


def finish(spool: Spool, job: Job, result: Rendering | JobError) -> Job | Outcome:
    """Continue a job after an executor has finished with it.

    A checkpoint that fails to load is not tried again. If the job allows it, the base model is used instead, in the
    same attempt.

    Args:
        result: The rendering or the error.

    Returns:
        The outcome; or the job with the order for its next attempt.

    Raises:
        Hold: The job is not at fault; call `begin` later.
    """
    record = job.record
    try:
        if isinstance(result, JobError):
            raise result
        record.made = worker_result.checked(result, job.order)
    except RenderFailed as failure:
        try:
            model = _model_after(job, failure)
            again = _next_attempt(spool, job.spec, model, record)
            failures = sum(attempt["outcome"] is not None for attempt in record.claim.folder.attempts())
            delays_s = spool.settings.retry_delays_s[:failures]
            if not delays_s or model is not job.model:  # the base model is used at once
                return again
            return replace(again, wait_s=delays_s[-1])
        except RenderFailed as last:
            record.failure = last
    except JobError as error:
        record.failure = error
    return _publish(spool, record)


def set_apart(job: Job) -> Ticket:
    """Queue a job to be rendered alone, since an executor failed with several and nobody knows which is the cause.

    The attempt does not count.

    Raises:
        Hold: The state folder refuses.
    """
    with holding("the state folder of the inbox"):
        job.claim.folder.render_alone()
    return replace(job.ticket, alone=True)


def _parsed(spool: Spool, claim: Claim) -> Document:
    """Parse the spool's copy, so that the validated bytes are the bytes that run. Its checkpoint is looked up again."""
    if claim.folder.is_cancelled:
        raise Cancelled("the job was cancelled")
    if claim.set_aside:
        raise JobInvalid([Problem(claim.set_aside)])
    with holding("the claimed job file"):
        data = claim.job_file.read_bytes()
    if hashlib.sha256(data).hexdigest() != claim.sha256:
        raise JobInvalid([Problem("the spool's copy of the job file is damaged on disk")])
    reading = spool.readings.pop(claim.job_id, None) or load_parsed(claim.folder, spool.key_of(claim), data)
    if reading is None:
        reading = spool.read_claimed(data, claim)
    if not reading.ended:
        spool.readings[claim.job_id] = reading
        raise BeingRead(reading)
    return reading.documents()[0]


def _recording_problems(claim: Claim, document: Document) -> list[Problem]:
    """The problems of the recordings, each with the line that names it."""
    places = {name: document.named_at.get(name, ("", None)) for name in claim.problems}
    return [Problem(sentence, *places[name]) for name, sentence in claim.problems.items()]


def _next_attempt(spool: Spool, spec: JobSpec, model: CheckpointRef | Fallback | None, record: JobRecord) -> Job:
    """Write the order of the next attempt, and count the attempt on disk.

    Raises:
        RenderFailed: No attempts are left, or the last failure is not worth a retry.
    """
    claim, attempts = record.claim, record.claim.folder.attempts()
    failed = [attempt["outcome"] for attempt in attempts if attempt["outcome"]]
    if failed and (len(failed) >= spool.settings.attempts or not failed[-1]["retryable"]):
        raise RenderFailed(**failed[-1])
    with holding("the state folder of the inbox"):
        order = _order(spool, claim, spec, model, len(failed) + 1)
        if not attempts or attempts[-1]["outcome"]:  # else one is open: repeated holds add no lines
            claim.folder.note_attempt(started_at=report.now())
    return Job(order, spec, model, record, _ticket_to_render(spool, claim, spec, model))


def _model_after(job: Job, failure: RenderFailed) -> CheckpointRef | Fallback | None:
    """The model of the next attempt. Records the failure, unless the base model replaces the checkpoint."""
    if failure.code == CheckpointRefused.code and job.order.checkpoint and job.spec.on_checkpoint_error == "base":
        fallback = Fallback(printable(job.spec.checkpoint, 200), failure.message)
        with holding("the state folder of the inbox"):
            job.claim.folder.note_attempt(fallback=asdict(fallback))
        return fallback
    words = {name: getattr(failure, name) for name in ("message", "hint", "code", "retryable")}
    if job.order.fallback:
        words["message"] = f"{failure.message.rstrip('.')}; {job.order.fallback}"
    with holding("the state folder of the inbox"):
        job.claim.folder.note_attempt(outcome=words)
    return job.model


def _order(spool: Spool, claim: Claim, spec: JobSpec, model: CheckpointRef | Fallback | None, attempt: int) -> Order:
    folder = claim.folder.attempt(attempt)
    remove_tree(folder)
    folder.mkdir(mode=0o700)
    claim.folder.chunks.mkdir(mode=0o700, exist_ok=True)
    return Order(
        job_id=claim.job_id,
        stem=_stem(claim),
        spec=spec.packed(),
        engine=spec.engine or spool.settings.rules.default_engine,
        checkpoint=model.now() if isinstance(model, CheckpointRef) else None,
        recordings={name: str(path) for name, path in claim.recording_paths().items()},
        transcripts=claim.transcripts,
        chunks_dir=str(claim.folder.chunks),
        result_dir=str(folder),
        device=spool.settings.device,
        fallback=model if isinstance(model, Fallback) else None,
        transcribe=spool.settings.rules.transcribe,
        limits=spool.settings.limits,
        models=str(spool.settings.models or ""),
    )


# --- publish: from finished files to a folder in the outbox ----------------------------------------


_INTENDED = ("status", "duration_s", "message", "verdict", "reasons")
"""Attributes of the outcome that are saved in an intent."""
MAX_REASONS_SHOWN = 3


def _publish(spool: Spool, record: JobRecord) -> Outcome:
    """Assemble the result, write the intent, publish by rename, release the claim."""
    record.attempts = sum(attempt["outcome"] is not None for attempt in record.claim.folder.attempts())
    claim, outcome = record.claim, _outcome(record)
    try:
        outbox = spool.open_outbox
        with holding("the state folder of the inbox"):
            job_file, record.missing = _job_file(claim, spool.settings.max_bytes)
        with holding("the outbox can't take the result"):
            outbox.check()
            outbox.assemble(claim.job_id, claim.name, lambda result: _fill(record, job_file, result, spool.after_slice))
    except Hold:
        if record.made:
            with holding("the state folder of the inbox"):
                worker_result.keep(claim.folder, record.made)
        raise
    with holding("the state folder of the inbox"):
        intent = {name: getattr(outcome, name) for name in _INTENDED}
        claim.folder.intend(intent | {"outbox": outbox.outbox_id})
    return _place(spool, outbox, claim, outcome)


def _place(spool: Spool, outbox: Outbox, claim: Claim, outcome: Outcome) -> Outcome:
    """Publish by rename, if this daemon still has the lock and the inbox; then release the claim."""
    with holding("the state folder of the inbox"):
        spool.store.check()  # first: without the inbox, the lock would seem lost
        spool.lock.check()
    with holding("the outbox can't take the result"):
        folder = outbox.place(claim.job_id, claim.name, outcome.status)
    _release(spool, claim)
    return replace(outcome, folder=folder)


def _settle(spool: Spool, claim: Claim, intent: Mapping[str, Any]) -> Outcome | None:
    """Finish a publication that a crash or a hold interrupted.

    If the assembled result is still there, it is complete, and is published. If it is gone, it was published, and a
    consumer may have removed it. If another outbox is configured now, the job is rendered again (None).
    """
    saved = {name: intent[name] for name in _INTENDED if name in intent}  # an older version wrote fewer
    saved["reasons"] = tuple(saved.get("reasons", ()))
    outcome = Outcome(claim.job_id, claim.name, folder=Path(), sha256=claim.sha256, **saved)
    outbox = spool.open_outbox
    with holding("the outbox"):
        outbox.check()
        if intent["outbox"] != outbox.outbox_id:
            claim.folder.forget_intent()
            return None
        is_assembled = outbox.is_assembled(claim.job_id)
    if is_assembled:
        return _place(spool, outbox, claim, outcome)
    _release(spool, claim)
    return replace(outcome, folder=outbox.folder)


def _release(spool: Spool, claim: Claim) -> None:
    spool.readings.pop(claim.job_id, None)
    with holding("the state folder of the inbox"):
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
        result.write(f"{_stem(record.claim)}{record.claim.suffix}", job_file)
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
        return claim.job_file.read_bytes(), ""
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


def _stem(claim: Claim) -> str:
    return safe_name(claim.name.rpartition("/")[2])
