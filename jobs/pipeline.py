"""The life of a job, from a ready file to a published folder. Read it from top to bottom.

    take      claim -> read -> split -> copy recordings -> ticket for the queue
    begin     parse -> order for the executor
    finish    result of the executor -> publication, or order for the next attempt
    publish   publication -> folder in the outbox; see `jobs.publish`
    resume    after a crash: claim -> ticket for the queue

A job changes its state by three renames: the claim (inbox -> claimed), the publication (staging -> outbox) and the
release (claimed -> trash). After a crash at any point, `resume` and `begin` continue from the state of the folders.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from engines.checkpoints.reference import CheckpointRef
from engines.errors import CheckpointRefused
from files.allowed_paths import NotAllowed
from files.durable import Durably, alone, empty_folder, fsync
from files.opens import read_whole
from files.printable import printable
from files.tree import Problem
from jobs.errors import Cancelled, JobError, JobInvalid, RenderFailed, holding
from jobs.folders import Spool
from jobs.order import Fallback, Order, Rendering
from jobs.publish import Outcome, Publication, settle, stem_of
from jobs.results import report, worker_result
from jobs.results.report import JobRecord
from jobs.schedule import URGENT, Ticket
from jobs.spec.job_spec import JobSpec
from jobs.spec.parse import Document
from jobs.spool import uploads
from jobs.spool.claim import Claim
from jobs.spool.places import read_transcript
from jobs.spool.reading import AT_ONCE_BYTES, BeingRead, Reading, load_parsed, save_parsed
from jobs.spool.recordings import MAX_NEAREST, Copies
from jobs.spool.store import deaths_reason

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


def take(spool: Spool, arrival: ReadyFile) -> Durably[Iterator[Step]]:
    """Claim a ready file; each document in it becomes a job in the queue. For `files.durable.together`.

    Returns:
        The remaining steps, in slices, because a thousand documents with recordings take longer than the daemon's loop
        may block.

    Raises:
        jobs.spool.store.Changed, FileNotFoundError, OSError: The file was not claimed, see `Store.claim`.
        Hold: The file was claimed, but the next step failed; `resume` continues.
    """
    if arrival.set_aside:
        return iter([urgent(spool.store.set_aside(arrival.source, arrival.set_aside))])
    claim, data = yield from spool.store.claim(arrival.source, arrival.status, spool.settings.max_bytes)
    if claim.set_aside:
        return iter([urgent(claim)])
    return _enlist(spool, claim, data, (arrival.documents or arrival.invalid) if data == arrival.data else None)


def claim_only(spool: Spool, arrival: ReadyFile) -> str:
    """Claim a ready file, to be queued later by `resume`. Returns its job ID; raises as `take`."""
    return alone(spool.store.claim(arrival.source, arrival.status, spool.settings.max_bytes))[0].job_id


def resume(spool: Spool, job_id: str) -> Iterator[Step]:
    """Continue with a claim of an earlier daemon, as `take`. No steps if its file was never renamed."""
    claim = spool.store.recover(job_id, spool.settings.max_bytes)
    if claim is None:
        return iter(())
    if spool.store.deaths(job_id) >= spool.settings.deaths and not claim.set_aside:
        claim = claim.changed(set_aside=deaths_reason(spool.settings.deaths))
    record = claim.record
    if claim.set_aside or record.intent or record.is_cancelled or record.last("rendered"):
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
            claim = claim.changed(own_name=document.spec.name)
    if document.spec is not None and document.recordings and not claim.recordings:
        with holding("the state folder of the inbox"):
            claim = yield from _copy_recordings(spool, claim, document, copies)
    spec = document.spec
    if spec is None or claim.problems:
        yield urgent(claim)
        return
    spool.remember(claim, document)
    yield _ticket_to_render(spool, claim, spec, _model_for(claim, document))


def _model_for(claim: Claim, document: Document) -> CheckpointRef | Fallback | None:
    """What the job file says; the base model, if an engine has refused the checkpoint and the job allows that."""
    refused = claim.record.last("fallback")
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
        alone=claim.record.is_alone or (info is not None and not info.mixes_jobs),
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
    return claim.changed(recordings=recordings, transcripts=transcripts, problems=problems)


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


def begin(spool: Spool, job_id: str) -> Job | Publication | Outcome | None:
    """Start one job.

    Returns:
        The job with its order, for an executor; or what is to be published, if nothing needs rendering; its outcome, if
        that was published before a crash; None if its file is back in the inbox.

    Raises:
        Hold: The job is not at fault; call again later. Finished work is kept.
        BeingRead: The reader is reading its file; call again when the reading has ended.
    """
    started_s, fresh = time.time(), spool.recall(job_id)
    with holding("the state folder of the inbox"):
        claim = fresh.claim if fresh else spool.store.recover(job_id, spool.settings.max_bytes)
        if claim is None:
            spool.store.check()  # raises if the inbox is gone, where nothing is found either
            return None
        if settled := settle(spool, claim):
            return settled
    record = JobRecord(claim, started_s)
    try:
        document = fresh.document if fresh else _parsed(spool, claim)
        record.spec, record.warnings = document.spec, document.warnings
        if document.spec is None or claim.problems:
            raise JobInvalid(document.problems or _recording_problems(claim, document))
        record.made = worker_result.kept(claim)
        if record.made is None:
            return _next_attempt(spool, document.spec, _model_for(claim, document), record)
    except JobError as error:
        record.failure = error
    return Publication.of(record)


def finish(spool: Spool, job: Job, result: Rendering | JobError) -> Job | Publication:
    """Continue a job after an executor has finished with it.

    A checkpoint that fails to load is not tried again. If the job allows it, the base model is used instead, in the
    same attempt.

    Args:
        result: The rendering or the error.

    Returns:
        What is to be published; or the job with the order for its next attempt.

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
            delays_s = spool.settings.retry_delays_s[: len(record.claim.record.failed_attempts())]
            if not delays_s or model is not job.model:  # the base model is used at once
                return again
            return replace(again, wait_s=delays_s[-1])
        except RenderFailed as last:
            record.failure = last
    except JobError as error:
        record.failure = error
    return Publication.of(record)


def set_apart(job: Job) -> Ticket:
    """Queue a job to be rendered alone, since an executor failed with several and nobody knows which is the cause.

    The attempt does not count.

    Raises:
        Hold: The state folder refuses.
    """
    with holding("the state folder of the inbox"):
        job.claim.record.add(alone=True)
    return replace(job.ticket, alone=True)


def _parsed(spool: Spool, claim: Claim) -> Document:
    """Parse the spool's copy, so that the validated bytes are the bytes that run. Its checkpoint is looked up again."""
    if claim.record.is_cancelled:
        raise Cancelled("the job was cancelled")
    if claim.set_aside:
        raise JobInvalid([Problem(claim.set_aside)])
    with holding("the claimed job file"):
        data = read_whole(claim.job_file)
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
    claim, failed = record.claim, record.claim.record.failed_attempts()
    if failed and (len(failed) >= spool.settings.attempts or not failed[-1]["retryable"]):
        raise RenderFailed(**failed[-1])
    with holding("the state folder of the inbox"):
        order = _order(spool, claim, spec, model, len(failed) + 1)
        if not claim.record.is_attempt_open:  # repeated holds add no lines
            # Not forced to disk: an attempt without an outcome does not count, so a power failure may take it.
            claim.record.add(durable=False, started_at=report.now())
    return Job(order, spec, model, record, _ticket_to_render(spool, claim, spec, model))


def _model_after(job: Job, failure: RenderFailed) -> CheckpointRef | Fallback | None:
    """The model of the next attempt. Records the failure, unless the base model replaces the checkpoint."""
    if failure.code == CheckpointRefused.code and job.order.checkpoint and job.spec.on_checkpoint_error == "base":
        fallback = Fallback(printable(job.spec.checkpoint, 200), failure.message)
        with holding("the state folder of the inbox"):
            job.claim.record.add(fallback=asdict(fallback))
        return fallback
    words = {name: getattr(failure, name) for name in ("message", "hint", "code", "retryable")}
    if job.order.fallback:
        words["message"] = f"{failure.message.rstrip('.')}; {job.order.fallback}"
    with holding("the state folder of the inbox"):
        job.claim.record.add(outcome=words)
    return job.model


def _order(spool: Spool, claim: Claim, spec: JobSpec, model: CheckpointRef | Fallback | None, attempt: int) -> Order:
    folder = claim.folder.attempt(attempt)
    empty_folder(folder)
    return Order(
        job_id=claim.job_id,
        stem=stem_of(claim),
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
