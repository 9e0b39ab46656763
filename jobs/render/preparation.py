"""From an order to a chunk plan. All problems of a job are found here, before its model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from engines.base import EngineClass
from engines.errors import EngineMissing, RequestRefused
from files.printable import printable
from jobs.order import Order
from jobs.render.chunk_plan import PlannedChunk, ResolvedOrder, make_plan, recordings_of
from jobs.spec.job_spec import JobSpec
from jobs.spool.places import transcript_message


@dataclass(frozen=True, slots=True)
class PreparedOrder:
    """An order that can be rendered as soon as its engine is ready.

    Attributes:
        plan: Its chunk plan.
        warnings: Sentences for the manifest.
    """

    resolved: ResolvedOrder
    plan: Sequence[PlannedChunk]
    warnings: tuple[str, ...]


def needs_whisper(order: Order, engine: EngineClass) -> bool:
    """Whether `prepare` has Whisper listen to a recording, which takes long and may need the GPU."""
    if order.transcribe == "off" or not engine.info().needs_transcript:
        return False
    return bool(JobSpec.model_validate(order.spec).without_transcript(order.transcripts))


def prepare(order: Order, engine: EngineClass) -> PreparedOrder:
    """Check an order and make its chunk plan. Keys that the engine must ignore give a warning.

    Raises:
        EngineMissing: The engine can't run here.
        RequestRefused: The engine can't render the job, or can't use a recording.
    """
    info = engine.info()
    if info.missing is not None:
        raise EngineMissing(
            f"{info.name} is not installed on this machine; to install it: {printable(info.missing)}",
            "Install what is missing, then put the job file into the inbox again.",
        )
    spec = JobSpec.model_validate(order.spec)
    recordings = recordings_of(spec, order) if info.clones_voices else {}
    names = spec.without_transcript(order.transcripts) if info.needs_transcript else ()
    if names and order.transcribe == "off":
        raise RequestRefused("; ".join(transcript_message(info.name, name) for name in names), _TRANSCRIPT)
    resolved = ResolvedOrder(order, spec, info, _languages(spec, engine), recordings)
    warnings = (*map(str, filter(None, [order.fallback])), *_unused(resolved), *_examined(resolved))
    if names:
        resolved = replace(resolved, transcribed={name: _transcribed(name, resolved) for name in names})
    _check_transcripts(resolved)
    notes = (
        f"{printable(name)} has no transcript; Whisper heard: {printable(resolved.transcribed[name])}" for name in names
    )
    return PreparedOrder(resolved, make_plan(resolved), (*warnings, *notes))


_TRANSCRIPT = "The transcript must be word for word, with punctuation. Then put the job file into the inbox again."


def _languages(spec: JobSpec, engine: EngineClass) -> Mapping[str, str]:
    """Language tag in the job -> the engine's language."""
    languages = {}
    for tag in {segment.language or "" for segment in spec.full_segments()}:
        matched = engine.match_language(tag or "en")
        if matched is None:
            raise RequestRefused(f"{engine.info().name} does not support the language {printable(tag or 'en')}")
        languages[tag] = matched
    return languages


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recording; equal to another one with the same name and content, at any path."""

    shown: str
    sha256: str
    path: Path = field(compare=False)


def _unused(resolved: ResolvedOrder) -> list[str]:
    names = resolved.spec.recordings()
    if resolved.info.clones_voices or not names:
        return []
    shown = printable(", ".join(names), 200)
    return [f"{resolved.info.name} can't clone voices; `speaker_wav` ({shown}) was ignored"]


def _examined(resolved: ResolvedOrder) -> list[str]:
    """Warnings about the quality of the recordings.

    Raises:
        RequestRefused: A recording can't be used.
    """
    paths = resolved.order.recordings
    faults = [_faults(_Recording(printable(name), sha, Path(paths[name]))) for name, sha in resolved.recordings.items()]
    if errors := [error for fatal, _ in faults for error in fatal]:
        raise RequestRefused("; ".join(errors), "`voicespool voices list` shows the problems of each recording.")
    return [warning for _, warnings in faults for warning in warnings]


def _transcribed(name: str, resolved: ResolvedOrder) -> str:
    """The transcript of a recording, by Whisper.

    Raises:
        EngineMissing, RequestRefused, OutOfMemory: As `transcripts.transcribe`.
    """
    from engines.whisper import transcripts

    path, device = Path(resolved.order.recordings[name]), resolved.order.where()
    return transcripts.transcribe(path, printable(name), resolved.recordings[name], device).text


def _check_transcripts(resolved: ResolvedOrder) -> None:
    """Limit the length of transcripts: an engine needs memory for each character.

    Raises:
        RequestRefused: A transcript is too long.
    """
    limit = resolved.order.limits.speaker_text_chars
    texts = [("speaker_text", segment.speaker_text or "") for segment in resolved.spec.full_segments()]
    texts += ((f"the transcript of {printable(name)}", text) for name, text in resolved.transcripts().items())
    for what, text in texts:
        if len(text) > limit:
            raise RequestRefused(
                f"{what} has more than the {limit:,} characters that limits.speaker_text_chars allows",
                "Cut the recording to 6 to 12 s, and its transcript accordingly.",
            )


@lru_cache(maxsize=1000)
def _faults(recording: _Recording) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Errors and warnings."""
    from engines.voices import recordings

    examined = recordings.examine(recording.path, recording.shown)
    return examined.errors, examined.warnings
