"""From an order to finished files: THE WORKER'S STORY. Runs in the worker process.

The daemon imports this file for its messages; nothing heavy is imported until `render` runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.base import Audio, Chunk, Engine
from engines.errors import BadAudio, EngineError, RequestRefused
from jobs.audio import WavWriter, checked, frames_of
from jobs.errors import printable
from jobs.kept_chunks import KeptChunks, Length
from jobs.order import Order, Progress, Rendering, Stopped
from jobs.script import Line, Stage, lines_of, recordings_of
from jobs.spec import JobSpec

__all__ = ["Order", "Progress", "Rendering", "Stopped", "render"]

MOST_REASONS = 20
LINES_PER_SIGN_OF_LIFE = 500


def render(order: Order, engine: Engine, stop: Callable[[], bool], report: Callable[[Progress], None]) -> Rendering:
    """Render an order: speak what is not kept from an attempt before, check it, join it, write it.

    Args:
        order: The job.
        engine: Loaded.
        stop: Asked after each chunk; when it is true, what is done is kept and `Stopped` raised.
        report: Told how far it is, first with what was kept.

    Raises:
        RequestRefused: the job asks for what can't be done.
        EngineError: and whatever else the engine raises.
        BadAudio: the engine returned something that is not the speech asked for.
        Stopped: see `stop`.
        OSError: a folder or disk does not do what it should.
    """
    stage, warnings = _set(order, engine)
    lines = lines_of(stage)
    work = _Work(lines, KeptChunks(Path(order.chunks_dir)), stop, report)
    work.find_kept()
    started_s = time.monotonic()
    work.speak_missing(engine)
    synthesis_s = time.monotonic() - started_s
    audio, segments = _assemble(stage, work)
    return Rendering(
        files=(audio["file"],),
        engine=_engine_facts(stage),
        voice=_voice_facts(stage),
        audio=(audio,),
        segments=segments,
        checks=work.verdict(),
        timing={"synthesis_s": round(synthesis_s, 6)},
        warnings=warnings,
    )


def _set(order: Order, engine: Engine) -> tuple[Stage, tuple[str, ...]]:
    """Read the order; what the engine can't do is refused here, what it can go on without is a warning."""
    spec = _spec_of(order)
    info = engine.info()
    languages = {}
    for passage in spec.passages():
        tag = passage.language or "en"
        matched = engine.match_language(tag)
        if matched is None:
            raise RequestRefused(f"{info.name} does not speak {printable(tag)}")
        languages[passage.language or ""] = matched
    names = spec.recordings()
    if names and not info.clones_voices:
        listed = printable(", ".join(names), 200)
        warning = f"{info.name} can't speak with the voice of a recording; `speaker_wav` ({listed}) was not used"
        return Stage(order, spec, info, languages, {}), (warning,)
    return Stage(order, spec, info, languages, recordings_of(spec, order)), ()


def _spec_of(order: Order) -> JobSpec:
    """The job again as it was before it crossed the pipe: what it leaves out came as null or an empty list."""
    given = _without_gaps(order.spec)
    given["segments"] = [_without_gaps(segment) for segment in given.get("segments", ())]
    return JobSpec.model_validate_json(json.dumps(_without_gaps(given)))


def _without_gaps(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if value not in (None, [], ())}


@dataclass
class _Work:
    """The chunks of a job, each rendered once however often it occurs.

    Attributes:
        lengths: Key of a finished chunk -> how long its audio is.
        doubts: Sentences about chunks rendered now or before.
        audio_s: Length of the finished chunks together.
    """

    lines: Sequence[Line]
    kept: KeptChunks
    stop: Callable[[], bool]
    report: Callable[[Progress], None]
    lengths: dict[str, Length] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    audio_s: float = 0.0

    def __post_init__(self) -> None:
        self.chunks: Mapping[str, Chunk] = {line.key: line.chunk for line in self.lines if line.chunk}

    def find_kept(self) -> None:
        """Take what an attempt before has finished."""
        self.kept.sweep()
        for key, chunk in self.chunks.items():
            audio = self.kept.read(key)
            if audio is not None:
                self._note(chunk, key, checked(audio, chunk.text)[1], Length(audio.samples.size, audio.rate_hz))
        self.tell()

    def speak_missing(self, engine: Engine) -> None:
        """Have the engine render what is not kept, and keep each chunk as it comes.

        A chunk is kept before anybody is asked or told anything, so that no finished work is lost.
        """
        missing = [(key, chunk) for key, chunk in self.chunks.items() if key not in self.lengths]
        if not missing:
            return
        for index, audio in engine.render([chunk for _, chunk in missing]):
            self._take(*_one_of(missing, index), audio)
            self.tell()
            if len(self.lengths) < len(self.chunks) and self.stop():
                raise Stopped
        for key, chunk in missing:
            if key not in self.lengths:
                raise BadAudio(f"the engine returned nothing for {printable(chunk.text, 60)!r}")

    def verdict(self) -> Mapping[str, Any]:
        return {"verdict": "doubtful" if self.doubts else "ok", "reasons": self.doubts[:MOST_REASONS]}

    def rate_hz(self) -> int:
        """Of all chunks.

        Raises:
            BadAudio: they differ.
        """
        rates = {length.rate_hz for length in self.lengths.values()}
        if len(rates) != 1:
            raise BadAudio(f"the engine returned audio of different sample rates in one job: {sorted(rates)}")
        return rates.pop()

    def _take(self, key: str, chunk: Chunk, audio: Audio) -> None:
        audio, doubts = checked(audio, chunk.text)
        self._note(chunk, key, doubts, self.kept.keep(key, audio))

    def _note(self, chunk: Chunk, key: str, doubts: Sequence[str], length: Length) -> None:
        self.lengths[key] = length
        self.audio_s += length.duration_s
        self.doubts += [f"{doubt} ({printable(chunk.text, 60)!r})" for doubt in doubts]

    def tell(self) -> None:
        """Report how far it is."""
        self.report(Progress(len(self.lengths), len(self.chunks), round(self.audio_s, 3)))


def _one_of(missing: Sequence[tuple[str, Chunk]], index: object) -> tuple[str, Chunk]:
    if not isinstance(index, int) or not 0 <= index < len(missing):
        raise EngineError(f"the engine returned audio for chunk {index!r}, and there are {len(missing)}")
    return missing[index]


def _assemble(stage: Stage, work: _Work) -> tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]:
    """Join chunks and pauses into the file, chunk by chunk; what is said of the file and of each segment."""
    rate_hz = work.rate_hz()
    wanted_hz = stage.spec.output.sample_rate
    if wanted_hz not in (None, rate_hz):
        raise RequestRefused(f"{stage.info.name} made audio of {rate_hz} Hz, and the job asks for {wanted_hz} Hz")
    frames = sum(
        (work.lengths[line.key].frames if line.chunk else 0) + frames_of(line.pause_after_ms, rate_hz)
        for line in work.lines
    )
    spans = _Spans(stage)
    path = Path(stage.order.result_dir) / f"{stage.order.stem}.wav"
    with WavWriter(path, rate_hz, frames) as wav:
        for number, line in enumerate(work.lines):
            start_s = wav.position_s
            if line.chunk:
                wav.speech(_kept(work, line).samples)
            spans.add(line, start_s, wav.position_s)
            wav.silence(line.pause_after_ms)
            if number % LINES_PER_SIGN_OF_LIFE == LINES_PER_SIGN_OF_LIFE - 1:
                work.tell()
    return wav.facts(), spans.segments()


def _kept(work: _Work, line: Line) -> Audio:
    audio = work.kept.read(line.key)
    if audio is None:
        raise EngineError("a finished chunk was damaged on disk before it could be used; it is rendered again")
    return audio


@dataclass
class _Spans:
    """Where each segment of the job lies in the file: from its first chunk to the end of its last."""

    stage: Stage
    found: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, line: Line, start_s: float, end_s: float) -> None:
        span = self.found.setdefault(line.segment, {"start_s": start_s, "end_s": end_s, "seed": None})
        if line.chunk is None:
            return
        if span["seed"] is None:
            span["start_s"], span["seed"] = start_s, line.chunk.seed
        span["end_s"] = end_s

    def segments(self) -> tuple[Mapping[str, Any], ...]:
        """For the manifest. A segment's seed is the job's if it gives one, else that of its first chunk."""
        job_seed = self.stage.spec.seed
        return tuple(
            {
                "text": passage.text,
                "start_s": round(span["start_s"], 6),
                "end_s": round(span["end_s"], 6),
                "seed": job_seed if job_seed is not None else span["seed"] or 0,
                "takes": 1,
            }
            for index, passage in enumerate(self.stage.spec.passages())
            if (span := self.found.get(index))
        )


def _engine_facts(stage: Stage) -> Mapping[str, Any]:
    info = stage.info
    defaults = {option.name: option.default for option in info.options}
    return {
        "name": info.name,
        "library": info.library,
        "version": info.version,
        "settings": {**defaults, **stage.spec.settings},
        "seed": stage.spec.seed,
    }


def _voice_facts(stage: Stage) -> Mapping[str, Any]:
    if stage.recordings:
        return {"files": [{"file": name, "sha256": sha256} for name, sha256 in stage.recordings.items()]}
    return {"speaker": stage.spec.speaker}
