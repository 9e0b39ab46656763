"""From a prepared order to finished files, in the worker process, after `preparation` and the load of the engine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engines.base import Audio, Chunk, Engine
from engines.errors import BadAudio, EngineError, RequestRefused
from files.printable import printable
from jobs.audio.wav import WavWriter, checked, frames_of
from jobs.order import Progress, Rendering, RenderStopped
from jobs.render import spoken
from jobs.render.chunk_cache import ChunkCache, Length
from jobs.render.chunk_plan import PlannedChunk, ResolvedOrder, too_long
from jobs.render.preparation import PreparedOrder
from jobs.render.spoken import MAX_CHUNKS, Spans

MODEL_FACTS = ("architecture", "sha256", "step", "validation_loss")
_NOT_ENGINE = {"warnings", "settings", "transcripts", *MODEL_FACTS}
MAX_REASONS = 20
CHUNKS_PER_REPORT = 500


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A loaded engine.

    Attributes:
        engine: The engine.
        facts: The return value of its `load`.
        load_s: Loading time; 0 if it was loaded for an earlier order.
    """

    engine: Engine
    facts: Mapping[str, Any]
    load_s: float = 0.0


def render(
    prepared: PreparedOrder, ready: LoadedEngine, stop: Callable[[], bool], report: Callable[[Progress], None]
) -> Rendering:
    """Render an order: render the chunks that no earlier attempt finished, check all, join them and write the file.

    Args:
        stop: Called after each chunk; if it returns true, `RenderStopped` is raised and finished chunks are kept.
        report: Called with the progress, first with the chunks of earlier attempts.

    Raises:
        EngineError: Or any other error of the engine.
        RequestRefused: The audio is longer than limits.audio_s.
        BadAudio: The engine returned invalid audio.
        RenderStopped: See `stop`.
        OSError: An error of a folder or disk.
    """
    resolved = prepared.resolved
    work = _Work(
        prepared.plan, ChunkCache(Path(resolved.order.chunks_dir)), stop, report, resolved.order.limits.audio_s
    )
    work.load_finished()
    started_s = time.monotonic()
    work.render_missing(ready.engine)
    synthesis_s = time.monotonic() - started_s
    audio, spans = _assemble(resolved, work)
    chunks_file = _chunks_file(resolved, spans)
    return Rendering(
        files=(audio["file"], *filter(None, [chunks_file])),
        engine=_engine_facts(resolved, ready.facts),
        voice=spoken.voice(resolved, ready.facts.get("transcripts", {})),
        audio=(audio,),
        segments=spans.segments(),
        chunks=() if chunks_file else tuple(spans.as_manifest()),
        chunks_file=chunks_file,
        checks=_verdict([*map(str, filter(None, [resolved.order.fallback])), *work.doubts]),
        timing={"load_s": ready.load_s, "synthesis_s": round(synthesis_s, 6)},
        warnings=(*prepared.warnings, *map(printable, ready.facts.get("warnings", ()))),
    )


@dataclass
class _Work:
    """The chunks of a job. Equal chunks are rendered once.

    Attributes:
        lengths: Key of a finished chunk -> length of its audio.
        doubts: Sentences about doubtful chunks, of all attempts.
        max_s: Maximum length of the job's audio.
        audio_s: Length of the finished chunks, each counted once.
        known_s: Length of the final audio so far: finished chunks, as often as they occur, and all pauses.
    """

    plan: Sequence[PlannedChunk]
    kept: ChunkCache
    stop: Callable[[], bool]
    report: Callable[[Progress], None]
    max_s: float
    lengths: dict[str, Length] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    audio_s: float = 0.0

    def __post_init__(self) -> None:
        self.chunks: Mapping[str, Chunk] = {planned.key: planned.chunk for planned in self.plan if planned.chunk}
        self.uses = Counter(planned.key for planned in self.plan)
        self.known_s = sum(planned.pause_after_ms for planned in self.plan) / 1000

    def load_finished(self) -> None:
        """Load the chunks that earlier attempts finished."""
        self.kept.sweep()
        for key, chunk in self.chunks.items():
            audio = self.kept.read(key)
            if audio is not None:
                self._note(chunk, key, checked(audio, chunk.text)[1], Length(audio.samples.size, audio.rate_hz))
        self.report_progress()

    def render_missing(self, engine: Engine) -> None:
        """Render the missing chunks, and save each at once.

        A chunk is saved before `stop` and `report` are called, so that no finished work is lost. The engine is called
        even if no chunk is missing, because its facts may only be complete after `render`.
        """
        missing = [(key, chunk) for key, chunk in self.chunks.items() if key not in self.lengths]
        for rendered in engine.render([chunk for _, chunk in missing]):
            if rendered is not None:
                self._take(*_chunk_at(missing, rendered[0]), rendered[1])
            self.report_progress()
            if rendered is None:  # a sign of life, without a chunk
                continue
            if len(self.lengths) < len(self.chunks) and self.stop():
                raise RenderStopped
        for key, chunk in missing:
            if key not in self.lengths:
                raise BadAudio(f"the engine returned nothing for {printable(chunk.text, 60)!r}")

    def rate_hz(self) -> int:
        """The sample rate of all chunks.

        Raises:
            BadAudio: The rates differ.
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
        self.known_s += length.duration_s * self.uses[key]
        if self.known_s > self.max_s:
            part = f"{len(self.lengths)} of {len(self.chunks)} chunks"
            raise too_long(self.max_s, f"{part} and its pauses add up to {self.known_s:.0f} s")
        self.doubts += [f"{doubt} ({printable(chunk.text, 60)!r})" for doubt in doubts]

    def report_progress(self) -> None:
        """Report the progress."""
        self.report(Progress(len(self.lengths), len(self.chunks), round(self.audio_s, 3)))


def _verdict(doubts: Sequence[str]) -> Mapping[str, Any]:
    return {"verdict": "doubtful" if doubts else "ok", "reasons": doubts[:MAX_REASONS]}


def _chunk_at(missing: Sequence[tuple[str, Chunk]], index: object) -> tuple[str, Chunk]:
    if not isinstance(index, int) or not 0 <= index < len(missing):
        raise EngineError(f"the engine returned audio for chunk {index!r} of {len(missing)}")
    return missing[index]


def _assemble(resolved: ResolvedOrder, work: _Work) -> tuple[Mapping[str, Any], Spans]:
    """Join chunks and pauses into the file. Returns its manifest entry, and the times of segments and chunks."""
    rate_hz = work.rate_hz()
    wanted_hz = resolved.spec.output.sample_rate
    if wanted_hz not in (None, rate_hz):
        raise RequestRefused(
            f"the sample rate of {resolved.info.name} is {rate_hz} Hz, but the job requests {wanted_hz} Hz"
        )
    frames = sum(
        (work.lengths[planned.key].frames if planned.chunk else 0) + frames_of(planned.pause_after_ms, rate_hz)
        for planned in work.plan
    )
    spans = Spans(resolved)
    path = Path(resolved.order.result_dir) / f"{resolved.order.stem}.wav"
    with WavWriter(path, rate_hz, frames) as wav:
        for number, planned in enumerate(work.plan):
            start_s = wav.position_s
            if planned.chunk:
                wav.speech(_finished(work, planned).samples)
            spans.add(planned, start_s, wav.position_s)
            wav.silence(planned.pause_after_ms)
            if number % CHUNKS_PER_REPORT == CHUNKS_PER_REPORT - 1:
                work.report_progress()
    return wav.facts(), spans


def _chunks_file(resolved: ResolvedOrder, spans: Spans) -> str:
    """Write the chunks to a file of their own if there are more than MAX_CHUNKS. Returns its name, or ""."""
    if len(spans.chunks) <= MAX_CHUNKS:
        return ""
    name = f"{resolved.order.stem}.chunks.json"
    spans.write(Path(resolved.order.result_dir) / name)
    return name


def _finished(work: _Work, planned: PlannedChunk) -> Audio:
    audio = work.kept.read(planned.key)
    if audio is None:  # the file was removed; the next attempt renders the chunk again
        raise EngineError("a finished chunk was damaged on disk before it could be used; it is rendered again")
    return audio


def _engine_facts(resolved: ResolvedOrder, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """`engine` of the manifest, from the facts of the loaded engine."""
    info, order = resolved.info, resolved.order
    others = {key: value for key, value in facts.items() if key not in _NOT_ENGINE}
    model = {key: facts[key] for key in MODEL_FACTS if key in facts}
    defaults = {option.name: option.default for option in info.options}
    return {
        **others,
        "name": info.name,
        "library": info.library,
        "version": info.version,
        "checkpoint": {"name": order.checkpoint and order.checkpoint.name, **model}
        if model or order.checkpoint
        else None,
        "fallback": asdict(order.fallback) if order.fallback else None,
        "settings": {**defaults, **facts.get("settings", {}), **resolved.spec.settings},
        "seed": resolved.spec.seed,
    }
