"""One job's life, from a ready file to a published folder. Read it from top to bottom.

    take      claim -> read again -> split -> copy recordings -> ticket for the queue
    process   understand -> attempt -> publish -> release
    resume    after a crash: what lies in a claim -> ticket for the queue

Three renames carry a job from one safe state to the next: the claim (inbox -> claimed), the publication (half-made ->
outbox), the release (claimed -> trash). Whatever happens in between, `resume` and `process` find their way from what
lies in the folders.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from jobs.errors import Cancelled, JobError, JobInvalid, OutboxGone, Problem, RenderFailed, holding, printable
from jobs.files import from_json, link_or_copy, remove_tree, to_json, write_new
from jobs.files import replace as replace_file
from jobs.lock import Lock
from jobs.manifest import AudioFile, Checks, Failure, Manifest, Source, SpokenSegment, Status, Timing
from jobs.names import safe_name
from jobs.outbox import MANIFEST, Outbox
from jobs.parse import Document, parse
from jobs.recordings import NotAllowed, Snapshots, transcript_beside
from jobs.rendering import Order, Rendering
from jobs.rules import Rules
from jobs.schedule import URGENT, Ticket
from jobs.spec import JobSpec
from jobs.store import Claim, Store


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job, for the log and the status.

    Attributes:
        folder: Of the result, when it was published.
        duration_s: Of the audio.
        message: What went wrong, in words.
    """

    job_id: str
    name: str
    status: Status
    folder: Path
    sha256: str
    duration_s: float = 0.0
    message: str = ""


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


def take(spool: Spool, arrival: Ready) -> list[Ticket]:
    """Claim a ready file; every document in it becomes a job in the queue.

    Raises:
        jobs.store.Changed, FileNotFoundError, OSError: It was not claimed, see `Store.claim`.
    """
    if arrival.set_aside:
        return [urgent(spool.store.set_aside(arrival.source, arrival.set_aside))]
    claim, data = spool.store.claim(arrival.source, arrival.status, spool.longest_bytes)
    if claim.set_aside:
        return [urgent(claim)]
    return _enlist(spool, claim, data, arrival.documents if data == arrival.data else None)


def resume(spool: Spool, job_id: str) -> list[Ticket]:
    """Read back what an earlier daemon claimed. An empty list when it got no further than making a folder."""
    claim = spool.store.recover(job_id, spool.longest_bytes)
    if claim is None:
        return []
    if spool.store.deaths(claim.source) >= spool.deaths and not claim.set_aside:
        claim = spool.store.describe(replace(claim, set_aside=_killed(spool.deaths)))
    if claim.set_aside or spool.store.intent(claim) or is_cancelled(claim):
        return [urgent(claim)]
    return _enlist(spool, claim, claim.job_file.read_bytes(), None)


def _enlist(spool: Spool, claim: Claim, data: bytes, documents: tuple[Document, ...] | None) -> list[Ticket]:
    try:
        documents = spool.read(data, claim.source) if documents is None else documents
    except JobInvalid:
        return [urgent(claim)]
    if len(documents) == 1 or claim.document:
        return [_ticket(spool, claim, documents[0])]
    children = spool.store.split(claim, [document.source for document in documents])
    return [_ticket(spool, child, document) for child, document in zip(children, documents, strict=True)]


def _ticket(spool: Spool, claim: Claim, document: Document) -> Ticket:
    if document.spec is None:
        return urgent(claim)
    if document.recordings and not claim.recordings:
        claim = _copy_recordings(spool, claim, document.recordings)
    if claim.problems:
        return urgent(claim)
    spec = document.spec
    return replace(
        urgent(claim),
        priority=spec.priority,
        not_before=spec.not_before.timestamp() if spec.not_before else 0.0,
        model=(spec.engine or spool.rules.default_engine, spec.checkpoint or ""),
    )


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
        except OSError as error:
            problems.append(f"the recording {printable(name)} can't be read: {error.strerror}")
        else:
            if text := transcript_beside(path):
                transcripts[name] = text
    described = replace(claim, recordings=recordings, transcripts=transcripts, problems=tuple(problems))
    return spool.store.describe(described)


def _killed(times: int) -> str:
    return f"{times} daemons in a row died while they were reading this file"


# --- cancel ----------------------------------------------------------------------------------------


def cancel(claim_folder: Path) -> None:
    """Note on disk that a claimed job is not wanted any more; `process` then publishes it as cancelled."""
    if not (claim_folder / "cancelled").exists():
        write_new(claim_folder / "cancelled", b"")


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
            return None
        if (intent := spool.store.intent(claim)) and (settled := _settle(spool, claim, intent)):
            return settled
    spec, rendering, failure = None, None, None
    try:
        spec = _understand(spool, claim)
        rendering = _attempt(spool, claim, spec, renderer)
    except JobError as error:
        failure = error
    story = _Story(claim, spec, rendering, failure, started_s)
    return _publish(spool, story)


def _understand(spool: Spool, claim: Claim) -> JobSpec:
    """Parse the bytes that are the spool's own: what was validated is what runs."""
    if is_cancelled(claim):
        raise Cancelled("the job was cancelled")
    if claim.set_aside or claim.problems:
        raise JobInvalid([Problem(sentence) for sentence in (claim.set_aside, *claim.problems) if sentence])
    with holding("the claimed job file"):
        data = claim.job_file.read_bytes()
    if hashlib.sha256(data).hexdigest() != claim.sha256:
        raise JobInvalid([Problem("the spool's own copy of the file is damaged on disk")])
    documents = spool.read(data, claim.source)
    if documents[0].spec is None:
        raise JobInvalid(documents[0].problems)
    return documents[0].spec


def _attempt(spool: Spool, claim: Claim, spec: JobSpec, renderer: Renderer) -> Rendering:
    """Render, and try again with a fresh worker if the engine fails. Failed attempts are counted on disk."""
    if kept := _kept_rendering(claim):
        return kept
    while True:
        failed = [attempt for attempt in spool.store.attempts(claim) if attempt["outcome"]]
        with holding("the state folder of the inbox"):
            order = _order(spool, claim, spec, len(failed) + 1)
            spool.store.note_attempt(claim, started_at=_now())
        try:
            rendering = _checked(renderer(order, spec.timeout_s), order)
        except RenderFailed as failure:
            with holding("the state folder of the inbox"):
                spool.store.note_attempt(claim, outcome={"code": failure.code, "message": failure.message})
            if not failure.retryable or len(failed) + 1 >= spool.attempts:
                raise
        else:
            with holding("the state folder of the inbox"):
                _keep_rendering(claim, order, rendering)
            return rendering


def _checked(rendering: Rendering, order: Order) -> Rendering:
    """Believe a worker only what a manifest can hold; it runs code from outside."""
    folder = Path(order.result_dir)
    try:
        for audio in rendering.audio:
            AudioFile.model_validate(audio)
        for segment in rendering.segments:
            SpokenSegment.model_validate(segment)
        Checks.model_validate(rendering.checks)
    except ValidationError as error:
        raise RenderFailed(f"the worker's answer makes no sense: {printable(error, 300)}") from None
    if not all("/" not in name and (folder / name).is_file() for name in rendering.files):
        raise RenderFailed("the worker says that it is done, but its files are not there")
    return rendering


def _order(spool: Spool, claim: Claim, spec: JobSpec, attempt: int) -> Order:
    folder = claim.folder / f"attempt-{attempt}"
    remove_tree(folder)
    folder.mkdir(mode=0o700)
    claim.chunks.mkdir(mode=0o700, exist_ok=True)
    recordings = {name: str(claim.folder / "recordings" / digest) for name, digest in claim.recordings.items()}
    return Order(
        job_id=claim.job_id,
        stem=_stem(claim),
        spec=spec.model_dump(mode="json"),
        engine=spec.engine or spool.rules.default_engine,
        checkpoint=spec.checkpoint,
        recordings=recordings,
        transcripts=claim.transcripts,
        chunks_dir=str(claim.chunks),
        result_dir=str(folder),
        device=spool.device,
    )


def _keep_rendering(claim: Claim, order: Order, rendering: Rendering) -> None:
    """Remember finished files, so that a hold before the publication does not mean to make them again.

    Not forced to disk: after a power failure they are assembled again from their chunks.
    """
    kept = {"folder": Path(order.result_dir).name, "rendering": rendering_to_json(rendering)}
    replace_file(claim.folder / "rendered.json", to_json(kept), durable=False)


def _kept_rendering(claim: Claim) -> Rendering | None:
    kept = from_json(claim.folder / "rendered.json")
    if not kept:
        return None
    rendering = rendering_from_json(kept["rendering"])
    folder = claim.folder / kept["folder"]
    return rendering if all((folder / name).is_file() for name in rendering.files) else None


# --- publish: from finished files to a folder in the outbox ----------------------------------------


@dataclass(frozen=True, slots=True)
class _Story:
    """How a job went, all that its manifest tells."""

    claim: Claim
    spec: JobSpec | None
    rendering: Rendering | None
    failure: JobError | None
    started_s: float

    @property
    def status(self) -> Status:
        if self.failure is None:
            return "done"
        return "cancelled" if isinstance(self.failure, Cancelled) else "failed"

    @property
    def outcome(self) -> Outcome:
        audio = self.rendering.audio if self.rendering else ()
        return Outcome(
            self.claim.job_id,
            self.claim.name,
            self.status,
            Path(),
            self.claim.sha256,
            duration_s=sum(file["duration_s"] for file in audio),
            message=self.failure.message if self.failure else "",
        )


def _publish(spool: Spool, story: _Story) -> Outcome:
    """Assemble out of sight, write down the intent, rename into sight, let the claim go."""
    claim, outcome = story.claim, story.outcome
    with holding("the outbox can't take the result"):
        spool.open_outbox.check()
        assembled = spool.open_outbox.assemble(claim.job_id, lambda folder: _fill(spool, story, folder))
    with holding("the state folder of the inbox"):
        intent = {"status": outcome.status, "duration_s": outcome.duration_s, "message": outcome.message}
        spool.store.intend(claim, intent | {"outbox": spool.open_outbox.outbox_id})
    return _show(spool, claim, assembled, outcome)


def _show(spool: Spool, claim: Claim, assembled: Path, outcome: Outcome) -> Outcome:
    """The rename that publishes, while the lock and the inbox are still ours; then the claim is let go."""
    spool.lock.check()
    spool.store.check()
    with holding("the outbox can't take the result"):
        folder = spool.open_outbox.place(assembled, claim.name, outcome.status)
    with holding("the state folder of the inbox"):
        spool.store.release(claim)
    return replace(outcome, folder=folder)


def _settle(spool: Spool, claim: Claim, intent: Mapping[str, Any]) -> Outcome | None:
    """Finish a publication that a crash or a hold cut short.

    The intent is on disk and the half-made folder is gone: it was published, and a consumer may have taken it away.
    It is still there: it is complete, publish it. Another outbox is configured by now: render anew.
    """
    outcome = Outcome(
        claim.job_id, claim.name, intent["status"], Path(), claim.sha256, intent["duration_s"], intent["message"]
    )
    with holding("the outbox"):
        spool.open_outbox.check()
        assembled = spool.open_outbox.staging / claim.job_id
        if intent["outbox"] != spool.open_outbox.outbox_id:
            spool.store.forget_intent(claim)
            return None
        if assembled.is_dir():
            return _show(spool, claim, assembled, outcome)
    with holding("the state folder of the inbox"):
        spool.store.release(claim)
    return replace(outcome, folder=spool.open_outbox.folder)


def _fill(spool: Spool, story: _Story, folder: Path) -> None:
    """Write a result's files: the audio or ERROR.txt, the job file, the manifest."""
    claim = story.claim
    link_or_copy(claim.job_file, folder / f"{_stem(claim)}{claim.suffix}")
    if story.rendering:
        rendered = claim.folder / from_json(claim.folder / "rendered.json")["folder"]
        for name in story.rendering.files:
            link_or_copy(rendered / name, folder / name)
    if story.failure:
        (folder / "ERROR.txt").write_text(_error_text(claim, story.failure), encoding="utf-8")
    (folder / MANIFEST).write_bytes(_manifest(spool, story).to_json())


def _manifest(spool: Spool, story: _Story) -> Manifest:
    claim, made = story.claim, story.rendering
    attempts = spool.store.attempts(claim)
    seen = [attempt for attempt in attempts if attempt["outcome"]]
    return Manifest(
        schema=1,
        job_id=claim.job_id,
        name=printable(claim.name),
        status=story.status,
        source=Source(
            file=printable(claim.source),
            sha256=claim.sha256,
            claimed_at=_iso(claim.claimed_ns / 1e9),
            document=claim.document,
        ),
        request=story.spec.model_dump(mode="json", exclude_none=True) if story.spec else None,
        engine=dict(made.engine) if made else None,
        voice=dict(made.voice) if made else None,
        audio=tuple(AudioFile(**audio) for audio in made.audio) if made else (),
        segments=tuple(SpokenSegment(**segment) for segment in made.segments) if made else (),
        checks=Checks(**made.checks) if made else None,
        timing=_timing(story),
        attempts=len(seen) + (made is not None),
        warnings=made.warnings if made else (),
        error=_failure(story.failure) if story.failure else None,
        host=socket.gethostname(),
        version=own_version(),
    )


def _timing(story: _Story) -> Timing:
    claimed_s, made = story.claim.claimed_ns / 1e9, story.rendering
    times = dict(made.timing) if made else {}
    seconds = sum(file["duration_s"] for file in made.audio) if made else 0.0
    return Timing(
        queued_s=round(max(0.0, story.started_s - claimed_s), 3),
        load_s=round(times.get("load_s", 0.0), 3),
        synthesis_s=round(times.get("synthesis_s", 0.0), 3),
        total_s=round(max(0.0, time.time() - claimed_s), 3),
        real_time_factor=round(times.get("synthesis_s", 0.0) / seconds, 4) if seconds else None,
    )


def _failure(error: JobError) -> Failure:
    problems: Sequence[Problem] = error.problems if isinstance(error, JobInvalid) else ()
    return Failure(
        code=error.code,
        message=error.message,
        hint=error.hint,
        retryable=error.retryable,
        problems=tuple({"line": p.line, "key": p.key, "message": p.message} for p in problems),
    )


def _error_text(claim: Claim, error: JobError) -> str:
    """ERROR.txt: what went wrong, where, and what to do about it, for people."""
    what = {"cancelled": "was cancelled"}.get(error.code, "failed")
    lines = [f"{printable(claim.source)} {what}."]
    if claim.document:
        lines = [f"Document {claim.document} of {printable(claim.source)} {what}."]
    if isinstance(error, JobInvalid):
        lines += ["", *(f"  {problem}" for problem in error.problems)]
    elif not isinstance(error, Cancelled):
        lines += ["", f"  {error.message}"]
    return "\n".join([*lines, "", error.hint, ""])


# --- small things ----------------------------------------------------------------------------------


def rendering_to_json(rendering: Rendering) -> dict[str, Any]:
    return {name: getattr(rendering, name) for name in Rendering.__dataclass_fields__}


def rendering_from_json(value: Mapping[str, Any]) -> Rendering:
    tuples: dict[str, Callable[[Any], Any]] = dict.fromkeys(("files", "audio", "segments", "warnings"), tuple)
    return Rendering(**{name: tuples.get(name, lambda same: same)(part) for name, part in value.items()})


def _stem(claim: Claim) -> str:
    return safe_name(claim.name.rpartition("/")[2])


@cache
def own_version() -> str:
    return version("voicespool")


def _now() -> str:
    return _iso(time.time())


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
