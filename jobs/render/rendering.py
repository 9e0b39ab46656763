"""From a prepared order to finished files: THE WORKER'S STORY. Runs in the worker process.

`preparation` comes first, and then the engine is loaded. The daemon imports this file for its messages; nothing heavy
is imported until `render` runs.
"""

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
from jobs.order import Order, Progress, Rendering, RenderStopped
from jobs.render import spoken
from jobs.render.chunk_cache import ChunkCache, Length
from jobs.render.chunk_plan import PlannedChunk, Stage, too_long
from jobs.render.preparation import PreparedOrder
from jobs.render.spoken import MAX_CHUNKS, Spans

__all__ = ["LoadedEngine", "Order", "Progress", "RenderStopped", "Rendering", "render"]

MODEL_FACTS = ("architecture", "sha256", "step", "validation_loss")
_NOT_ENGINE = {"warnings", "settings", "transcripts", *MODEL_FACTS}
MAX_REASONS = 20
LINES_PER_SIGN_OF_LIFE = 500


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine that can render now.

    Attributes:
        engine: Loaded.
        facts: What its `load` returned.
        load_s: What loading took now; 0 when it was loaded for an order before.
    """

    engine: Engine
    facts: Mapping[str, Any]
    load_s: float = 0.0


def render(
    prepared: PreparedOrder, ready: LoadedEngine, stop: Callable[[], bool], report: Callable[[Progress], None]
) -> Rendering:
    """Render an order: speak what is not kept from an attempt before, check it, join it, write it.

    Args:
        stop: Asked after each chunk; when it is true, what is done is kept and `RenderStopped` raised.
        report: Told how far it is, first with what was kept.

    Raises:
        EngineError: and whatever else the engine raises.
        RequestRefused: the audio is longer than limits.audio_s.
        BadAudio: the engine returned something that is not the speech asked for.
        Stopped: see `stop`.
        OSError: a folder or disk does not do what it should.
    """
    stage = prepared.stage
    work = _Work(prepared.lines, ChunkCache(Path(stage.order.chunks_dir)), stop, report, stage.order.limits.audio_s)
    work.find_kept()
    started_s = time.monotonic()
    work.speak_missing(ready.engine)
    synthesis_s = time.monotonic() - started_s
    audio, spans = _assemble(stage, work)
    chunks_file = _chunks_file(stage, spans)
    return Rendering(
        files=(audio["file"], *filter(None, [chunks_file])),
        engine=_engine_facts(stage, ready.facts),
        voice=spoken.voice(stage, ready.facts.get("transcripts", {})),
        audio=(audio,),
        segments=spans.segments(),
        chunks=() if chunks_file else tuple(spans.told()),
        chunks_file=chunks_file,
        checks=_verdict([*map(str, filter(None, [stage.order.fallback])), *work.doubts]),
        timing={"load_s": ready.load_s, "synthesis_s": round(synthesis_s, 6)},
        warnings=(*prepared.warnings, *map(printable, ready.facts.get("warnings", ()))),
    )


@dataclass
class _Work:
    """The chunks of a job, each rendered once however often it occurs.

    Attributes:
        lengths: Key of a finished chunk -> how long its audio is.
        doubts: Sentences about chunks rendered now or before.
        most_s: Longest audio that the job may have.
        audio_s: Length of the finished chunks together, each counted once.
        whole_s: Length of the finished audio as far as it is known: chunks as often as they occur, and all pauses.
    """

    lines: Sequence[PlannedChunk]
    kept: ChunkCache
    stop: Callable[[], bool]
    report: Callable[[Progress], None]
    most_s: float
    lengths: dict[str, Length] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    audio_s: float = 0.0

    def __post_init__(self) -> None:
        self.chunks: Mapping[str, Chunk] = {line.key: line.chunk for line in self.lines if line.chunk}
        self.uses = Counter(line.key for line in self.lines)
        self.whole_s = sum(line.pause_after_ms for line in self.lines) / 1000

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

        A chunk is kept before anybody is asked or told anything, so that no finished work is lost. The engine is asked
        even if nothing is missing: its facts need not be complete before.
        """
        missing = [(key, chunk) for key, chunk in self.chunks.items() if key not in self.lengths]
        for rendered in engine.render([chunk for _, chunk in missing]):
            if rendered is not None:
                self._take(*_one_of(missing, rendered[0]), rendered[1])
            self.tell()
            if rendered is None:
                continue
            if len(self.lengths) < len(self.chunks) and self.stop():
                raise RenderStopped
        for key, chunk in missing:
            if key not in self.lengths:
                raise BadAudio(f"the engine returned nothing for {printable(chunk.text, 60)!r}")

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
        self.whole_s += length.duration_s * self.uses[key]
        if self.whole_s > self.most_s:
            part = f"{len(self.lengths)} of {len(self.chunks)} chunks"
            raise too_long(self.most_s, f"{part} and its pauses add up to {self.whole_s:.0f} s")
        self.doubts += [f"{doubt} ({printable(chunk.text, 60)!r})" for doubt in doubts]

    def tell(self) -> None:
        """Report how far it is."""
        self.report(Progress(len(self.lengths), len(self.chunks), round(self.audio_s, 3)))


def _verdict(doubts: Sequence[str]) -> Mapping[str, Any]:
    return {"verdict": "doubtful" if doubts else "ok", "reasons": doubts[:MAX_REASONS]}


def _one_of(missing: Sequence[tuple[str, Chunk]], index: object) -> tuple[str, Chunk]:
    if not isinstance(index, int) or not 0 <= index < len(missing):
        raise EngineError(f"the engine returned audio for chunk {index!r}, and there are {len(missing)}")
    return missing[index]


def _assemble(stage: Stage, work: _Work) -> tuple[Mapping[str, Any], Spans]:
    """Join chunks and pauses into the file, chunk by chunk; what is said of the file, and what lies where in it."""
    rate_hz = work.rate_hz()
    wanted_hz = stage.spec.output.sample_rate
    if wanted_hz not in (None, rate_hz):
        raise RequestRefused(f"{stage.info.name} made audio of {rate_hz} Hz, and the job asks for {wanted_hz} Hz")
    frames = sum(
        (work.lengths[line.key].frames if line.chunk else 0) + frames_of(line.pause_after_ms, rate_hz)
        for line in work.lines
    )
    spans = Spans(stage)
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
    return wav.facts(), spans


def _chunks_file(stage: Stage, spans: Spans) -> str:
    """Name of the file that holds the times of more chunks than a manifest should; "" when there are fewer."""
    if len(spans.chunks) <= MAX_CHUNKS:
        return ""
    name = f"{stage.order.stem}.chunks.json"
    spans.keep(Path(stage.order.result_dir) / name)
    return name


def _kept(work: _Work, line: PlannedChunk) -> Audio:
    audio = work.kept.read(line.key)
    if audio is None:
        raise EngineError("a finished chunk was damaged on disk before it could be used; it is rendered again")
    return audio


def _engine_facts(stage: Stage, facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """For the manifest: what the engine said when it was loaded, put in order."""
    info, order = stage.info, stage.order
    told = {key: value for key, value in facts.items() if key not in _NOT_ENGINE}
    model = {key: facts[key] for key in MODEL_FACTS if key in facts}
    defaults = {option.name: option.default for option in info.options}
    return {
        **told,
        "name": info.name,
        "library": info.library,
        "version": info.version,
        "checkpoint": {"name": order.checkpoint and order.checkpoint.name, **model}
        if model or order.checkpoint
        else None,
        "fallback": asdict(order.fallback) if order.fallback else None,
        "settings": {**defaults, **facts.get("settings", {}), **stage.spec.settings},
        "seed": stage.spec.seed,
    }
