"""One job's life, from a ready file to a published folder. Read it from top to bottom.

    take      claim -> read again -> split -> copy recordings -> ticket for the queue
    process   understand -> attempt -> publish -> release
    resume    after a crash: what lies in a claim -> ticket for the queue

Three renames carry a job from one safe state to the next: the claim (inbox -> claimed), the publication (half-made ->
outbox), the release (claimed -> trash). Whatever happens in between, `resume` and `process` find their way from what
lies in the folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from engines.errors import CheckpointRefused
from jobs import answer, report, uploads
from jobs.answer import ERROR_TEXT, Made
from jobs.checkpoint_names import Model
from jobs.errors import Cancelled, Hold, JobError, JobInvalid, OutboxGone, Problem, RenderFailed, holding, printable
from jobs.files import copy_beginning, fsync, link_or_copy, remove_tree, write_new
from jobs.lock import Lock
from jobs.manifest import Status
from jobs.names import safe_name
from jobs.order import Fallback
from jobs.outbox import MANIFEST, Outbox
from jobs.parse import Document, parse
from jobs.recordings import NotAllowed, Snapshots, transcript_beside
from jobs.rendering import Order, Rendering
from jobs.report import Story
from jobs.rules import Rules
from jobs.schedule import URGENT, Ticket
from jobs.spec import JobSpec
from jobs.store import Claim, Store, deadly

LONGEST_COPY_BYTES = 64 << 20  # of a file that is no job; more would keep everything else waiting


class Renderer(Protocol):
    """Who turns an order into files: the daemon's worker."""

    def __call__(self, order: Order, timeout_s: float | None) -> Rendering:
        """Render an order.

        Raises:
            RenderFailed, Cancelled: The job's own trouble.
            Hold: The machine's; the job waits.
        """


@dataclass(slots=True)
class Spool:
    """All that a job meets on its way.

    Attributes:
        outbox: None until it was found; `process` must not be called before.
        longest_bytes: Of a job file.
        attempts: How often a job is tried that the engine fails on.
        deaths: After so many daemons in a row that died while reading a file, it is not read again.
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

    @property
    def open_outbox(self) -> Outbox:
        if self.outbox is None:
            raise OutboxGone("the outbox was not opened yet")
        return self.outbox

    def read(self, data: bytes, source: str) -> tuple[Document, ...]:
        """Parse a job file; that it is being read is on disk meanwhile, in case it kills the daemon."""
        with self.store.reading(source):
            return parse(data, Path(source).suffix.lower(), self.rules)

    def read_claimed(self, data: bytes, claim: Claim) -> tuple[Document, ...]:
        """The same for a claimed file. Its deaths are counted by its id: its name may be another file's by now."""
        with self.store.reading(claim.job_id):
            return parse(data, claim.suffix.lower(), self.rules)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job, for the log and the status.

    Attributes:
        folder: Of the result, when it was published.
        duration_s: Of the audio.
        message: What went wrong, or what took the place of a checkpoint, in words.
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
    verdict: str = ""
    reasons: tuple[str, ...] = ()


# --- take: from a ready file to the queue ----------------------------------------------------------


class Ready(Protocol):
    """A file that is ready to be claimed; see `watcher.arrivals.Arrival`."""

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


def take(spool: Spool, arrival: Ready) -> Iterable[Ticket]:
    """Claim a ready file; every document in it becomes a job in the queue.

    Returns:
        Tickets; those of several documents are made one by one as they are asked for, since a thousand documents with
        recordings keep a disk busy for longer than the daemon may be away.

    Raises:
        jobs.store.Changed, FileNotFoundError, OSError: It was not claimed, see `Store.claim`.
        Hold: It is claimed, but the file system refuses the next step; `resume` goes on from there.
    """
    if arrival.set_aside:
        return [urgent(spool.store.set_aside(arrival.source, arrival.set_aside))]
    claim, data = spool.store.claim(arrival.source, arrival.status, spool.longest_bytes)
    if claim.set_aside:
        return [urgent(claim)]
    return _enlist(spool, claim, data, arrival.documents if data == arrival.data else None)


def resume(spool: Spool, job_id: str) -> Iterable[Ticket]:
    """Read back what an earlier daemon claimed: as `take`. Nothing when it got no further than making a folder."""
    claim = spool.store.recover(job_id, spool.longest_bytes)
    if claim is None:
        return []
    if spool.store.deaths(job_id) >= spool.deaths and not claim.set_aside:
        claim = spool.store.describe(replace(claim, set_aside=deadly(spool.deaths)))
    if claim.set_aside or spool.store.intent(claim) or is_cancelled(claim):
        return [urgent(claim)]
    return _enlist(spool, claim, claim.job_file.read_bytes(), None)


def _enlist(spool: Spool, claim: Claim, data: bytes, documents: tuple[Document, ...] | None) -> Iterable[Ticket]:
    try:
        with holding("the state folder of the inbox"):
            documents = spool.read_claimed(data, claim) if documents is None else documents
    except JobInvalid:
        return [urgent(claim)]
    if len(documents) == 1 or claim.document:
        ticket = _ticket(spool, claim, documents[0])
        if not claim.document:
            uploads.remove(spool.store.inbox, claim, documents[0].recordings)
        return [ticket]
    with holding("the state folder of the inbox"):
        children = spool.store.split(claim, [document.source for document in documents])
    return (_ticket(spool, child, document) for child, document in zip(children, documents, strict=True))


def _ticket(spool: Spool, claim: Claim, document: Document) -> Ticket:
    if document.spec is None:
        return urgent(claim)
    if document.recordings and not claim.recordings:
        with holding("the state folder of the inbox"):
            claim = _copy_recordings(spool, claim, document.recordings)
    if claim.problems:
        return urgent(claim)
    spec = document.spec
    return replace(
        urgent(claim),
        priority=spec.priority,
        not_before=spec.not_before.timestamp() if spec.not_before else 0.0,
        model=_model(spec.engine or spool.rules.default_engine, document.model),
    )


def _model(engine: str, model: Model | Fallback | None) -> tuple[str, str]:
    return _shared(engine, str(model.path) if isinstance(model, Model) else "")


@lru_cache(maxsize=1000)
def _shared(engine: str, checkpoint: str) -> tuple[str, str]:
    """One pair for all tickets that share it: 100,000 may wait."""
    return engine, checkpoint


def urgent(claim: Claim) -> Ticket:
    """A ticket for a job that needs no rendering: a failure to report, a result to settle."""
    return Ticket(claim.job_id, claim.name, claim.claimed_ns, URGENT, claim.document)


def _copy_recordings(spool: Spool, claim: Claim, names: Sequence[str]) -> Claim:
    """Copy the recordings by content, so that what the job speaks with is what was there when it was claimed."""
    recordings, transcripts, problems = {}, {}, []
    for name in names:
        try:
            path = spool.snapshots.places.find(name, (spool.store.inbox / claim.source).parent)
            if path is None:
                problems.append(f"the recording {printable(name)} is neither beside the job file nor in voices/")
                continue
            recordings[name] = spool.snapshots.take(path, claim.folder / "recordings")
        except NotAllowed as error:
            problems.append(str(error))
        else:
            if text := transcript_beside(path):
                transcripts[name] = text
    if recordings:
        fsync(claim.folder / "recordings")
    described = replace(claim, recordings=recordings, transcripts=transcripts, problems=tuple(problems))
    return spool.store.describe(described)


# --- cancel ----------------------------------------------------------------------------------------


def cancel(claim_folder: Path) -> None:
    """Note on disk that a claimed job is not wanted any more; `process` then publishes it as cancelled."""
    if not (claim_folder / "cancelled").exists():
        write_new(claim_folder / "cancelled", b"")
        fsync(claim_folder)


def is_cancelled(claim: Claim) -> bool:
    return (claim.folder / "cancelled").exists()


# --- process: from the queue to the outbox ---------------------------------------------------------


def process(spool: Spool, job_id: str, renderer: Renderer) -> Outcome | None:
    """Take one job from the queue to the outbox.

    Returns:
        What became of it; None when there was nothing left to do.

    Raises:
        Hold: Nothing is wrong with the job; call again later, finished work is kept.
    """
    started_s = time.time()
    with holding("the state folder of the inbox"):
        claim = spool.store.recover(job_id, spool.longest_bytes)
        if claim is None:
            spool.store.check()  # in an inbox that is away nothing is found either
            return None
        if (intent := spool.store.intent(claim)) and (settled := _settle(spool, claim, intent)):
            return settled
    story = Story(claim, started_s)
    try:
        story.spec, model = _understand(spool, claim)
        story.made = _attempt(spool, claim, story.spec, model, renderer)
    except JobError as error:
        story.failure = error
    story.attempts = sum(attempt["outcome"] is not None for attempt in spool.store.attempts(claim))
    return _publish(spool, story)


def _understand(spool: Spool, claim: Claim) -> tuple[JobSpec, Model | Fallback | None]:
    """Parse the bytes that are the spool's own: what was validated is what runs. Its checkpoint is found anew."""
    if is_cancelled(claim):
        raise Cancelled("the job was cancelled")
    if claim.set_aside or claim.problems:
        raise JobInvalid([Problem(sentence) for sentence in (claim.set_aside, *claim.problems) if sentence])
    with holding("the claimed job file"):
        data = claim.job_file.read_bytes()
    if hashlib.sha256(data).hexdigest() != claim.sha256:
        raise JobInvalid([Problem("the spool's own copy of the file is damaged on disk")])
    documents = spool.read_claimed(data, claim)
    if documents[0].spec is None:
        raise JobInvalid(documents[0].problems)
    return documents[0].spec, documents[0].model


def _attempt(spool: Spool, claim: Claim, spec: JobSpec, model: Model | Fallback | None, renderer: Renderer) -> Made:
    """Render, and try again with a fresh worker if the engine fails. Failed attempts are counted on disk.

    A checkpoint that turns out to be of no use only when it is loaded is not tried again: where the job allows it, the
    base model takes its place, in the same attempt.
    """
    if made := answer.kept(claim.folder):
        return made
    while True:
        failed = [attempt["outcome"] for attempt in spool.store.attempts(claim) if attempt["outcome"]]
        if failed and (len(failed) >= spool.attempts or not failed[-1]["retryable"]):
            raise RenderFailed(**failed[-1])
        with holding("the state folder of the inbox"):
            order = _order(spool, claim, spec, model, len(failed) + 1)
            spool.store.note_attempt(claim, started_at=report.now())
        try:
            return answer.checked(renderer(order, spec.timeout_s), order)
        except RenderFailed as failure:
            if failure.code == CheckpointRefused.code and order.checkpoint and spec.on_checkpoint_error == "base":
                model = Fallback(printable(spec.checkpoint, 200), failure.message)
                continue
            words = {name: getattr(failure, name) for name in ("message", "hint", "code", "retryable")}
            if order.fallback:
                words["message"] = f"{failure.message.rstrip('.')}; {order.fallback}"
            with holding("the state folder of the inbox"):
                spool.store.note_attempt(claim, outcome=words)


def _order(spool: Spool, claim: Claim, spec: JobSpec, model: Model | Fallback | None, attempt: int) -> Order:
    folder = claim.folder / f"attempt-{attempt}"
    remove_tree(folder)
    folder.mkdir(mode=0o700)
    claim.chunks.mkdir(mode=0o700, exist_ok=True)
    recordings = {name: str(claim.folder / "recordings" / digest) for name, digest in claim.recordings.items()}
    file = model if isinstance(model, Model) else None
    return Order(
        job_id=claim.job_id,
        stem=_stem(claim),
        spec=spec.model_dump(mode="json"),
        engine=spec.engine or spool.rules.default_engine,
        checkpoint=str(file.path) if file else None,
        recordings=recordings,
        transcripts=claim.transcripts,
        chunks_dir=str(claim.chunks),
        result_dir=str(folder),
        device=spool.device,
        checkpoint_name=file.name if file else "",
        checkpoint_state=file.state() if file else (),
        fallback=model if isinstance(model, Fallback) else None,
        transcribe=spool.rules.transcribe,
    )


# --- publish: from finished files to a folder in the outbox ----------------------------------------


_INTENDED = ("status", "duration_s", "message", "verdict", "reasons")
"""What an intent says of the outcome."""
REASONS_TOLD = 3


def _publish(spool: Spool, story: Story) -> Outcome:
    """Assemble out of sight, write down the intent, rename into sight, let the claim go."""
    claim, outcome = story.claim, _outcome(story)
    try:
        with holding("the outbox can't take the result"):
            spool.open_outbox.check()
            assembled = spool.open_outbox.assemble(claim.job_id, lambda folder: _fill(story, folder))
    except Hold:
        if story.made:
            with holding("the state folder of the inbox"):
                answer.keep(claim.folder, story.made)
        raise
    with holding("the state folder of the inbox"):
        intent = {name: getattr(outcome, name) for name in _INTENDED}
        spool.store.intend(claim, intent | {"outbox": spool.open_outbox.outbox_id})
    return _show(spool, claim, assembled, outcome)


def _show(spool: Spool, claim: Claim, assembled: Path, outcome: Outcome) -> Outcome:
    """The rename that publishes, while the lock and the inbox are still ours; then the claim is let go."""
    with holding("the state folder of the inbox"):
        spool.store.check()  # an inbox that is away is no lost lock, so it comes first
        spool.lock.check()
    with holding("the outbox can't take the result"):
        folder = spool.open_outbox.place(assembled, claim.name, outcome.status)
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
    with holding("the outbox"):
        spool.open_outbox.check()
        assembled = spool.open_outbox.staging / claim.job_id
        if intent["outbox"] != spool.open_outbox.outbox_id:
            spool.store.forget_intent(claim)
            return None
        if assembled.is_dir():
            return _show(spool, claim, assembled, outcome)
    _release(spool, claim)
    return replace(outcome, folder=spool.open_outbox.folder)


def _release(spool: Spool, claim: Claim) -> None:
    with holding("the state folder of the inbox"):
        spool.store.release(claim)
        spool.snapshots.let_go(claim.recordings.values())


def _fill(story: Story, folder: Path) -> None:
    """Write a result's files: the audio or ERROR.txt, the job file, the manifest."""
    claim = story.claim
    story.missing = _hand_back(claim, folder / f"{_stem(claim)}{claim.suffix}")
    if story.made:
        for name in story.made.rendering.files:
            link_or_copy(story.made.folder / name, folder / name)
    if story.failure:
        (folder / ERROR_TEXT).write_text(report.error_text(story), encoding="utf-8", errors="backslashreplace")
    (folder / MANIFEST).write_bytes(report.manifest(story).to_json())


def _hand_back(claim: Claim, target: Path) -> str:
    """Put the job file into its result. Returns a sentence about what is missing of it, or "".

    The spool's own copy gets a second name. A file that was never read is a stranger's: it may be huge, of another
    user, or unreadable by now, and none of that may keep the spool from its work.
    """
    if not claim.never_read:
        link_or_copy(claim.job_file, target)
        return ""
    try:
        if os.geteuid() in {0, os.lstat(claim.original).st_uid}:
            with contextlib.suppress(OSError):
                os.link(claim.original, target, follow_symlinks=False)
                return ""
        if copy_beginning(claim.original, target, LONGEST_COPY_BYTES):
            return ""
    except PermissionError:
        target.unlink(missing_ok=True)
        return "The job file is not in this folder: the spool was not allowed to read it."
    return f"Only the first {LONGEST_COPY_BYTES >> 20} MiB of the job file are in this folder."


def _outcome(story: Story) -> Outcome:
    claim = story.claim
    audio = story.made.rendering.audio if story.made else ()
    fallback = Fallback.told(story.made.rendering.engine) if story.made else None
    checks = story.made.rendering.checks if story.made else {}
    return Outcome(
        claim.job_id,
        claim.name,
        story.status,
        Path(),
        claim.sha256,
        duration_s=sum(file["duration_s"] for file in audio),
        message=story.failure.message if story.failure else str(fallback or ""),
        verdict=checks.get("verdict", ""),
        reasons=tuple(printable(reason) for reason in checks.get("reasons", ())[:REASONS_TOLD]),
    )


def _stem(claim: Claim) -> str:
    return safe_name(claim.name.rpartition("/")[2])
