"""One job's life, from a ready file to a published folder. Read it from top to bottom.

    take      claim -> read again -> split -> copy recordings -> ticket for the queue
    begin     understand -> an order for the executor
    finish    what the executor made of it -> publish -> release, or an order for the next attempt
    resume    after a crash: what is in a claim -> ticket for the queue

Three renames carry a job from one safe state to the next: the claim (inbox -> claimed), the publication (half-made ->
outbox), the release (claimed -> trash). Whatever happens in between, `resume` and `begin` find their way from what is
in the folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from engines.checkpoints.reference import CheckpointRef
from engines.errors import CheckpointRefused
from files.allowed_paths import NotAllowed
from files.durable import fsync, nothing, remove_tree
from files.opens import opened_regular, read_at_most
from files.printable import printable
from files.tree import Problem
from jobs.errors import Cancelled, Hold, JobError, JobInvalid, OutboxGone, RenderFailed, holding
from jobs.names import safe_name
from jobs.order import Fallback, JobLimits
from jobs.render.rendering import Order, Rendering
from jobs.results import report, worker_result
from jobs.results.assembly import Assembly
from jobs.results.manifest import Status
from jobs.results.outbox import MANIFEST, Outbox
from jobs.results.report import Story
from jobs.results.worker_result import ERROR_TEXT
from jobs.schedule import URGENT, Ticket
from jobs.spec.job_spec import JobSpec
from jobs.spec.parse import Document
from jobs.spec.rules import NotHere, Rules
from jobs.spool import uploads
from jobs.spool.claim import Claim
from jobs.spool.lock import Lock
from jobs.spool.places import transcript_beside
from jobs.spool.reading import AT_ONCE_BYTES, BeingRead, ReadElsewhere, Reading, keep_understood, understood
from jobs.spool.recordings import MAX_NEAREST, Copies, Snapshots
from jobs.spool.store import Store, deadly

BEGINNING_BYTES = 4096  # of a job file that is too large to be read


@dataclass(slots=True)
class Spool:
    """All that a job meets on its way.

    Attributes:
        outbox: None until it was found, and after a hold; `begin` must not be called before it was found.
        look_for_outbox: Called where the outbox is needed and is None; sets it, or raises Hold.
        longest_bytes: Of a job file.
        attempts: How often a job is tried that the engine fails on.
        deaths: After so many daemons in a row that died while reading a file, it is not read again.
        elsewhere: Reads what may take long; None where nothing else waits meanwhile.
        readings: Of jobs whose turn came while their file was being read, by id.
        released: Jobs whose claims are to be removed, with the digests of their recordings.
        at_leisure: Whether somebody calls `tidy` again and again; else claims are removed at once.
        breathe: Called again and again while a large result is copied.
        limits: What a worker holds each job to.
        models: Where engines look for base models and vocoders, besides the caches.
    """

    store: Store
    lock: Lock
    outbox: Outbox | None
    snapshots: Snapshots
    rules: Rules
    device: Mapping[str, Any]
    longest_bytes: int
    attempts: int
    deaths: int
    elsewhere: ReadElsewhere | None = None
    readings: dict[str, Reading] = field(default_factory=dict)
    released: deque[tuple[str, tuple[str, ...]]] = field(default_factory=deque)
    at_leisure: bool = False
    breathe: Callable[[], None] = nothing
    look_for_outbox: Callable[[], None] = nothing
    limits: JobLimits = field(default_factory=JobLimits)
    models: Path | None = None

    @property
    def open_outbox(self) -> Outbox:
        if self.outbox is None:
            self.look_for_outbox()
        if self.outbox is None:
            raise OutboxGone("the outbox was not opened yet")
        return self.outbox

    def read(self, data: bytes, source: str) -> Reading | None:
        """Parse a job file that is in the inbox; where that is done here, it is on disk meanwhile, in case it kills the
        daemon. None while too many wait to be read elsewhere: its bytes are not to wait in memory.
        """
        suffix = Path(source).suffix.lower()
        if (reading := self._read_here(data, suffix, source)) is not None:
            return reading
        assert self.elsewhere is not None  # noqa: S101 - only rules without models raise NotHere
        return None if self.elsewhere.is_full(len(data)) else self.elsewhere.ask(data, suffix)

    def read_claimed(self, data: bytes, claim: Claim) -> Reading:
        """The same for a claimed file. Its deaths are counted by its id: its name may be another file's by now."""
        suffix = claim.suffix.lower()
        if (reading := self._read_here(data, suffix, claim.job_id)) is not None:
            return reading
        assert self.elsewhere is not None  # noqa: S101 - as above
        return self.elsewhere.ask(data, suffix)

    def _read_here(self, data: bytes, suffix: str, whose: str) -> Reading | None:
        """Parse it now; None if that may take long and is to be done elsewhere."""
        if self.elsewhere is None or len(data) <= AT_ONCE_BYTES:
            with contextlib.suppress(NotHere), self.store.reading(whose):
                return Reading.at_once(data, suffix, self.rules)
        return None

    def key_of(self, claim: Claim) -> str:
        """Names the bytes of a job and the rules that they are read by."""
        return f"{claim.sha256}-{self.rules.token}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job, for the log and the status.

    Attributes:
        folder: Of the result, when it was published.
        duration_s: Of the audio.
        message: What went wrong, or what took the place of a checkpoint and that the file came back, in words.
        verdict: Of the checks: `ok` or `doubtful`; "" where there is no audio.
        reasons: Why it is doubtful, the first few.
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
    """A file that is ready to be claimed; see `watcher.daemon.arrivals.Arrival`."""

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
"""What the way into the queue yields: a job that is in it, a reading to wait for, or None after a slice of work."""


def take(spool: Spool, arrival: ReadyFile) -> Iterator[Step]:
    """Claim a ready file; every document in it becomes a job in the queue.

    Returns:
        The rest of the way, a slice at a time: a thousand documents with recordings keep a disk busy for longer than
        the daemon may be away.

    Raises:
        jobs.spool.store.Changed, FileNotFoundError, OSError: It was not claimed, see `Store.claim`.
        Hold: It is claimed, but the file system refuses the next step; `resume` takes it from there.
    """
    if arrival.set_aside:
        return iter([urgent(spool.store.set_aside(arrival.source, arrival.set_aside))])
    claim, data = spool.store.claim(arrival.source, arrival.status, spool.longest_bytes)
    if claim.set_aside:
        return iter([urgent(claim)])
    return _enlist(spool, claim, data, (arrival.documents or arrival.invalid) if data == arrival.data else None)


def put_by(spool: Spool, arrival: ReadyFile) -> str:
    """Claim a ready file whose way into the queue is to begin later, by `resume`. Returns its id; raises as `take`."""
    return spool.store.claim(arrival.source, arrival.status, spool.longest_bytes)[0].job_id


def resume(spool: Spool, job_id: str) -> Iterator[Step]:
    """Read back what an earlier daemon claimed: as `take`. Nothing when it got no further than making a folder."""
    claim = spool.store.recover(job_id, spool.longest_bytes)
    if claim is None:
        return iter(())
    if spool.store.deaths(job_id) >= spool.deaths and not claim.set_aside:
        claim = replace(claim, set_aside=deadly(spool.deaths)).rewrite()
    is_rendered = claim.folder.rendered.exists()
    if claim.set_aside or claim.folder.intent() or claim.folder.is_cancelled or is_rendered:
        return iter([urgent(claim)])
    try:
        data = claim.job_file.read_bytes()
    except OSError:  # one file's trouble, maybe: `begin` meets it too, and it holds up no other job
        return iter([urgent(claim)])
    return _enlist(spool, claim, data, None)


def _enlist(spool: Spool, claim: Claim, data: bytes, known: tuple[Document, ...] | JobInvalid | None) -> Iterator[Step]:
    """From a claim to the queue; `known` is what its file says, if that is known."""
    reading = Reading(known)
    if known is None:
        with holding("the state folder of the inbox"):
            reading = spool.read_claimed(data, claim)
        if not reading.ended:
            yield reading
    try:
        documents = reading.documents()
    except JobInvalid as invalid:
        _keep(spool, claim, data, invalid)
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


def _keep(spool: Spool, claim: Claim, data: bytes, result: Document | JobInvalid) -> None:
    """Remember what a large file says, so that it is not parsed again when its turn comes.

    Not what depends on a model: that is looked at again then, since it may have been replaced.
    """
    if len(data) > AT_ONCE_BYTES and not (isinstance(result, Document) and result.model):
        with holding("the state folder of the inbox"):
            keep_understood(claim.folder, spool.key_of(claim), result)


def _ticket(spool: Spool, claim: Claim, document: Document, copies: Copies) -> Iterator[Step]:
    _keep(spool, claim, document.source, document)
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
    yield _to_render(claim, spec, spec.engine or spool.rules.default_engine, document.model)


def _to_render(claim: Claim, spec: JobSpec, engine: str, model: CheckpointRef | Fallback | None) -> Ticket:
    not_before = spec.not_before.timestamp() if spec.not_before else 0.0
    return replace(urgent(claim), priority=spec.priority, not_before=not_before, model=_model(engine, model))


def _model(engine: str, model: CheckpointRef | Fallback | None) -> tuple[str, str]:
    return _shared(engine, str(model.path) if isinstance(model, CheckpointRef) else "")


@lru_cache(maxsize=1000)
def _shared(engine: str, checkpoint: str) -> tuple[str, str]:
    """One pair for all tickets that share it: 100,000 may wait."""
    return engine, checkpoint


def urgent(claim: Claim) -> Ticket:
    """A ticket for a job that needs no rendering: a failure to report, a result to settle."""
    name, file_name = claim.name, sys.intern(claim.file_name)  # one for all documents of a file
    return Ticket(claim.job_id, name, claim.claimed_ns, URGENT, claim.document, file_name=file_name)


def _copy_recordings(spool: Spool, claim: Claim, document: Document, copies: Copies) -> Generator[None, None, Claim]:
    """Copy the recordings by content, so that what the job speaks with is what was there when it was claimed."""
    recordings: dict[str, str] = {}
    transcripts: dict[str, str] = {}
    problems: dict[str, str] = {}
    places, folder = spool.snapshots.places, (spool.store.inbox / claim.source).parent
    for name in document.recordings:
        try:
            path = places.find(name, folder)
            if path is None:
                problems[name] = places.missing(name, folder, with_nearest=len(problems) < MAX_NEAREST)
                continue
            recordings[name] = yield from copies.take(path, claim.folder.recordings)
            if text := transcript_beside(path):
                text = text[: spool.limits.speaker_text_chars + 1]  # longer ones are refused later
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
        order: What the executor gets.
        spec: The job as it was understood.
        model: What it is to be rendered with; None for the base model.
        story: What its manifest will say.
    """

    order: Order
    spec: JobSpec
    model: CheckpointRef | Fallback | None
    story: Story

    @property
    def claim(self) -> Claim:
        return self.story.claim

    @property
    def is_told(self) -> bool:
        """Whether it only has to be published: its audio, or its failure."""
        return self.story.made is not None or self.story.failure is not None

    @property
    def ticket(self) -> Ticket:
        """A ticket for the queue, for a job whose own one did not say that it has to be rendered."""
        return _to_render(self.claim, self.spec, self.order.engine, self.model)


def begin(spool: Spool, job_id: str) -> Job | Outcome | None:
    """Take one job out of the queue.

    Returns:
        The job with its order, for an executor; or what became of it, where there is nothing to render; None when there
        was nothing left to do.

    Raises:
        Hold: Nothing is wrong with the job; call again later, finished work is kept.
        BeingRead: Its file is being read elsewhere; call again when that has ended.
    """
    started_s = time.time()
    with holding("the state folder of the inbox"):
        claim = spool.store.recover(job_id, spool.longest_bytes)
        if claim is None:
            spool.store.check()  # in an inbox that is away nothing is found either
            return None
        if (intent := claim.folder.intent()) and (settled := _settle(spool, claim, intent)):
            return settled
    story = Story(claim, started_s)
    try:
        document = _understand(spool, claim)
        story.spec, story.warnings = document.spec, document.warnings
        if document.spec is None or claim.problems:
            raise JobInvalid(document.problems or _without_recordings(claim, document))
        story.made = worker_result.kept(claim.folder)
        if story.made is None:
            return _next_attempt(spool, document.spec, document.model, story)
    except JobError as error:
        story.failure = error
    return _publish(spool, story)


def finish(spool: Spool, job: Job, result: Rendering | JobError) -> Job | Outcome:
    """Take a job on that an executor is through with.

    A checkpoint that turns out to be of no use only when it is loaded is not tried again: where the job allows it, the
    base model takes its place, in the same attempt.

    Args:
        result: What was made, or why nothing was.

    Returns:
        What became of the job; or the job with the order for its next attempt.

    Raises:
        Hold: Nothing is wrong with the job; call `begin` later.
    """
    story = job.story
    try:
        if isinstance(result, JobError):
            raise result
        story.made = worker_result.checked(result, job.order)
    except RenderFailed as failure:
        try:
            return _next_attempt(spool, job.spec, _model_after(job, failure), story)
        except RenderFailed as last:
            story.failure = last
    except JobError as error:
        story.failure = error
    return _publish(spool, story)


def _understand(spool: Spool, claim: Claim) -> Document:
    """Parse the bytes that are the spool's own: what was validated is what runs. Its checkpoint is found anew."""
    if claim.folder.is_cancelled:
        raise Cancelled("the job was cancelled")
    if claim.set_aside:
        raise JobInvalid([Problem(claim.set_aside)])
    with holding("the claimed job file"):
        data = claim.job_file.read_bytes()
    if hashlib.sha256(data).hexdigest() != claim.sha256:
        raise JobInvalid([Problem("the spool's own copy of the file is damaged on disk")])
    reading = spool.readings.pop(claim.job_id, None) or understood(claim.folder, spool.key_of(claim), data)
    if reading is None:
        reading = spool.read_claimed(data, claim)
    if not reading.ended:
        spool.readings[claim.job_id] = reading
        raise BeingRead(reading)
    return reading.documents()[0]


def _without_recordings(claim: Claim, document: Document) -> list[Problem]:
    """What is wrong with the recordings that it names, each with the line that names it."""
    places = {name: document.named_at.get(name, ("", None)) for name in claim.problems}
    return [Problem(sentence, *places[name]) for name, sentence in claim.problems.items()]


def _next_attempt(spool: Spool, spec: JobSpec, model: CheckpointRef | Fallback | None, story: Story) -> Job:
    """Write the order. Failed attempts are counted on disk.

    Raises:
        RenderFailed: The last one was the last.
    """
    claim, attempts = story.claim, story.claim.folder.attempts()
    failed = [attempt["outcome"] for attempt in attempts if attempt["outcome"]]
    if failed and (len(failed) >= spool.attempts or not failed[-1]["retryable"]):
        raise RenderFailed(**failed[-1])
    with holding("the state folder of the inbox"):
        order = _order(spool, claim, spec, model, len(failed) + 1)
        if not attempts or attempts[-1]["outcome"]:  # else one is open: a hold that lasts for weeks adds nothing
            claim.folder.note_attempt(started_at=report.now())
    return Job(order, spec, model, story)


def _model_after(job: Job, failure: RenderFailed) -> CheckpointRef | Fallback | None:
    """What the next attempt is rendered with; a failure that counts as an attempt is written down."""
    if failure.code == CheckpointRefused.code and job.order.checkpoint and job.spec.on_checkpoint_error == "base":
        return Fallback(printable(job.spec.checkpoint, 200), failure.message)
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
        engine=spec.engine or spool.rules.default_engine,
        checkpoint=model.now() if isinstance(model, CheckpointRef) else None,
        recordings={name: str(path) for name, path in claim.recording_paths().items()},
        transcripts=claim.transcripts,
        chunks_dir=str(claim.folder.chunks),
        result_dir=str(folder),
        device=spool.device,
        fallback=model if isinstance(model, Fallback) else None,
        transcribe=spool.rules.transcribe,
        limits=spool.limits,
        models=str(spool.models or ""),
    )


# --- publish: from finished files to a folder in the outbox ----------------------------------------


_INTENDED = ("status", "duration_s", "message", "verdict", "reasons")
"""What an intent says of the outcome."""
REASONS_TOLD = 3


def _publish(spool: Spool, story: Story) -> Outcome:
    """Assemble out of sight, write down the intent, rename into sight, let the claim go."""
    story.attempts = sum(attempt["outcome"] is not None for attempt in story.claim.folder.attempts())
    claim, outcome = story.claim, _outcome(story)
    try:
        outbox = spool.open_outbox
        with holding("the state folder of the inbox"):
            job_file, story.missing = _job_file(claim, spool.longest_bytes)
        with holding("the outbox can't take the result"):
            outbox.check()
            outbox.assemble(claim.job_id, claim.name, lambda result: _fill(story, job_file, result, spool.breathe))
    except Hold:
        if story.made:
            with holding("the state folder of the inbox"):
                worker_result.keep(claim.folder, story.made)
        raise
    with holding("the state folder of the inbox"):
        intent = {name: getattr(outcome, name) for name in _INTENDED}
        claim.folder.intend(intent | {"outbox": outbox.outbox_id})
    return _show(spool, outbox, claim, outcome)


def _show(spool: Spool, outbox: Outbox, claim: Claim, outcome: Outcome) -> Outcome:
    """The rename that publishes, while the lock and the inbox are still ours; then the claim is let go."""
    with holding("the state folder of the inbox"):
        spool.store.check()  # an inbox that is away is no lost lock, so it comes first
        spool.lock.check()
    with holding("the outbox can't take the result"):
        folder = outbox.place(claim.job_id, claim.name, outcome.status)
    _release(spool, claim)
    return replace(outcome, folder=folder)


def _settle(spool: Spool, claim: Claim, intent: Mapping[str, Any]) -> Outcome | None:
    """Finish a publication that a crash or a hold cut short.

    The intent is on disk and the half-made folder is gone: it was published, and a consumer may have taken it away.
    It is still there: it is complete, publish it. Another outbox is configured by now: render anew.
    """
    told = {name: intent[name] for name in _INTENDED if name in intent}  # an older version wrote fewer
    told["reasons"] = tuple(told.get("reasons", ()))
    outcome = Outcome(claim.job_id, claim.name, folder=Path(), sha256=claim.sha256, **told)
    outbox = spool.open_outbox
    with holding("the outbox"):
        outbox.check()
        if intent["outbox"] != outbox.outbox_id:
            claim.folder.forget_intent()
            return None
        is_assembled = outbox.is_assembled(claim.job_id)
    if is_assembled:
        return _show(spool, outbox, claim, outcome)
    _release(spool, claim)
    return replace(outcome, folder=outbox.folder)


def _release(spool: Spool, claim: Claim) -> None:
    spool.readings.pop(claim.job_id, None)
    with holding("the state folder of the inbox"):
        spool.store.release(claim, later=True)
    spool.released.append((claim.job_id, tuple(claim.recordings.values())))
    if not spool.at_leisure:
        tidy(spool)


def tidy(spool: Spool) -> None:
    """Remove what one released job has left, while the next one is rendered; what a crash leaves goes at the start."""
    if spool.released:
        job_id, digests = spool.released.popleft()
        spool.store.remove_released(job_id)
        spool.snapshots.let_go(digests)


def _fill(story: Story, job_file: bytes | None, result: Assembly, breathe: Callable[[], None]) -> None:
    """Write a result's files: the audio or ERROR.txt, the job file, the manifest."""
    if job_file is not None:
        result.write(f"{_stem(story.claim)}{story.claim.suffix}", job_file)
    if story.made:
        for name in story.made.rendering.files:
            result.copy(story.made.folder / name, name, breathe)
    if story.failure:
        result.write(ERROR_TEXT, report.error_text(story).encode(errors="backslashreplace"))
    result.write(MANIFEST, report.manifest(story).to_json())


def _job_file(claim: Claim, longest_bytes: int) -> tuple[bytes | None, str]:
    """The job file as its result gets it, and a sentence about what is missing of it, or "".

    A file that was never read is a stranger's: it may be huge, or unreadable by now, and neither may keep the spool
    from its work.
    """
    if claim.withheld:
        return None, "The job file is not in this folder: it may be somebody else's."
    if not claim.never_read:
        return claim.job_file.read_bytes(), ""
    try:
        with opened_regular(claim.folder.original) as (fd, status):
            if status.st_size <= longest_bytes:
                return read_at_most(fd, longest_bytes), ""
            beginning = os.pread(fd, BEGINNING_BYTES, 0)
            return beginning, f"Only the first {BEGINNING_BYTES >> 10} KiB of the job file are in this folder."
    except OSError as error:
        return None, f"The job file is not in this folder: the spool could not read it ({error.strerror})."


def _outcome(story: Story) -> Outcome:
    claim = story.claim
    audio = story.made.rendering.audio if story.made else ()
    fallback = Fallback.told(story.made.rendering.engine) if story.made else None
    notes = " ".join(map(str, filter(None, [fallback, *claim.warnings])))
    checks = report.checks(story)
    return Outcome(
        claim.job_id,
        claim.name,
        story.status,
        Path(),
        claim.sha256,
        duration_s=sum(file["duration_s"] for file in audio),
        message=story.failure.message if story.failure else notes,
        verdict=checks.verdict if checks else "",
        reasons=tuple(printable(reason) for reason in checks.reasons[:REASONS_TOLD]) if checks else (),
    )


def _stem(claim: Claim) -> str:
    return safe_name(claim.name.rpartition("/")[2])
