"""From an order to a script: whatever can be wrong with a job is found here, before its model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from engines.base import EngineClass
from engines.errors import EngineMissing, RequestRefused
from files.printable import printable
from jobs.order import Order
from jobs.render.chunk_plan import PlannedChunk, Stage, lines_of, recordings_of
from jobs.spec.job_spec import JobSpec
from jobs.spool.places import transcript_message


@dataclass(frozen=True, slots=True)
class PreparedOrder:
    """An order that can be rendered as soon as its engine is ready.

    Attributes:
        lines: Its script.
        warnings: Sentences for the manifest.
    """

    stage: Stage
    lines: Sequence[PlannedChunk]
    warnings: tuple[str, ...]


def prepare(order: Order, engine: EngineClass) -> PreparedOrder:
    """Read an order. What the engine can't do is refused, what it can go on without is a warning.

    Raises:
        EngineMissing: The engine can't run here.
        RequestRefused: The job asks for what can't be done, or a recording is of no use.
    """
    info = engine.info()
    if info.missing is not None:
        raise EngineMissing(
            f"{info.name} can't run here: {printable(info.missing)}",
            "Install what is missing, then put the job file into the inbox again.",
        )
    spec = JobSpec.model_validate(order.spec)
    recordings = recordings_of(spec, order) if info.clones_voices else {}
    untold = spec.without_transcript(order.transcripts) if info.needs_transcript else ()
    if untold and order.transcribe == "off":
        raise RequestRefused("; ".join(transcript_message(info.name, name) for name in untold), _TRANSCRIPT)
    stage = Stage(order, spec, info, _languages(spec, engine), recordings)
    warnings = (*map(str, filter(None, [order.fallback])), *_unused(stage), *_listened(stage))
    if untold:
        stage = replace(stage, heard={name: _words(name, stage) for name in untold})
    _check_transcripts(stage)
    said = (f"{printable(name)} has no transcript; Whisper heard: {printable(stage.heard[name])}" for name in untold)
    return PreparedOrder(stage, lines_of(stage), (*warnings, *said))


_TRANSCRIPT = "Word for word, with its punctuation; then put the job file into the inbox again."


def _languages(spec: JobSpec, engine: EngineClass) -> Mapping[str, str]:
    """Tag in the job -> the engine's own."""
    languages = {}
    for tag in {passage.language or "" for passage in spec.full_segments()}:
        matched = engine.match_language(tag or "en")
        if matched is None:
            raise RequestRefused(f"{engine.info().name} does not speak {printable(tag or 'en')}")
        languages[tag] = matched
    return languages


@dataclass(frozen=True, slots=True)
class _Recording:
    """One as a job names it; equal to another one of that name and content, wherever its copy lies."""

    shown: str
    sha256: str
    path: Path = field(compare=False)


def _unused(stage: Stage) -> list[str]:
    names = stage.spec.recordings()
    if stage.info.clones_voices or not names:
        return []
    shown = printable(", ".join(names), 200)
    return [f"{stage.info.name} can't speak with the voice of a recording; `speaker_wav` ({shown}) was not used"]


def _listened(stage: Stage) -> list[str]:
    """What makes the voice worse, in sentences.

    Raises:
        RequestRefused: A recording can't be used.
    """
    paths = stage.order.recordings
    found = [_faults(_Recording(printable(name), sha, Path(paths[name]))) for name, sha in stage.recordings.items()]
    if errors := [error for fatal, _ in found for error in fatal]:
        raise RequestRefused("; ".join(errors), "`voicespool voices list` shows what is wrong with which recording.")
    return [warning for _, warnings in found for warning in warnings]


def _words(name: str, stage: Stage) -> str:
    """What is said in a recording, by Whisper.

    Raises:
        EngineMissing, RequestRefused, OutOfMemory: As `transcripts.transcribe`.
    """
    from engines.whisper import transcripts

    path, device = Path(stage.order.recordings[name]), stage.order.where()
    return transcripts.transcribe(path, printable(name), stage.recordings[name], device).text


def _check_transcripts(stage: Stage) -> None:
    """An engine takes memory for each character.

    Raises:
        RequestRefused: What is said in a recording is longer than it may be.
    """
    most = stage.order.limits.speaker_text_chars
    told = [("speaker_text", passage.speaker_text or "") for passage in stage.spec.full_segments()]
    told += ((f"the transcript of {printable(name)}", text) for name, text in stage.transcripts().items())
    for what, text in told:
        if len(text) > most:
            raise RequestRefused(
                f"{what} has more than the {most:,} characters that limits.speaker_text_chars allows",
                "Cut the recording to 6 to 12 s, and what is said in it likewise.",
            )


@lru_cache(maxsize=1000)
def _faults(recording: _Recording) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Errors and warnings."""
    from engines.voices import recordings

    found = recordings.examine(recording.path, recording.shown)
    return found.errors, found.warnings
