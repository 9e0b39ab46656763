"""One job while it is rendered: its chunks, and the finished files. `stream` gives its chunks to the engine."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from engines.base import Audio, Chunk, Engine
from engines.errors import BadAudio, EngineError, RequestRefused
from files.printable import printable
from jobs.audio.wav import WavWriter, checked, frames_of
from jobs.order import Progress, Rendering
from jobs.render import spoken
from jobs.render.chunk_cache import ChunkCache, Length
from jobs.render.chunk_plan import PlannedChunk, ResolvedOrder, too_long
from jobs.render.preparation import PreparedOrder
from jobs.render.spoken import MAX_CHUNKS, Spans

MODEL_FACTS = ("architecture", "sha256", "step", "validation_loss")
_NOT_ENGINE = {"warnings", "settings", *MODEL_FACTS}
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


class Work:
    """A job that is being rendered. Equal chunks are rendered once.

    Attributes:
        waiting: Keys of the chunks that the engine has not been given, in the order of the text.
        rows: Number of chunks that the engine has.
        share_s: Its share of the engine's time: at each moment, the part of the engine's chunks that are its own.
        began_s, ended_s: When the engine was given its first chunk, and when its last was kept, monotonic; 0.0 before.
        last_given: Number of the chunk that the engine was given last; 0 before the first.
        jobs_in_batch: The largest number of jobs that shared the engine with it, itself included.
        is_stopping: The engine gets no more chunks of it.
        lengths: Key of a finished chunk -> length of its audio.
        audio_s: Length of the finished chunks, each counted once.
    """

    def __init__(self, prepared: PreparedOrder, load_s: float = 0.0) -> None:
        order = prepared.resolved.order
        self.job_id, self.priority = order.job_id, int(order.spec.get("priority", 5))
        self.share_s = self.began_s = self.ended_s = self.audio_s = 0.0
        self.rows, self.last_given, self.jobs_in_batch, self.is_stopping = 0, 0, 1, False
        self.lengths: dict[str, Length] = {}
        self._prepared, self._load_s = prepared, load_s
        self._kept = ChunkCache(Path(order.chunks_dir))
        self._chunks: Mapping[str, Chunk] = {planned.key: planned.chunk for planned in prepared.plan if planned.chunk}
        self._uses = Counter(planned.key for planned in prepared.plan)
        self._known_s = sum(planned.pause_after_ms for planned in prepared.plan) / 1000
        self._doubts: list[str] = []
        self._warnings: dict[str, None] = {}
        self._transcripts: dict[str, str] = {}
        self._only: Audio | None = None  # of a job of one chunk: it is in its file a moment later
        self.waiting: deque[str] = deque()

    def load_finished(self) -> None:
        """Load the chunks that earlier attempts finished.

        Raises:
            RequestRefused: The audio is longer than limits.audio_s.
            OSError: An error of the folder or disk.
        """
        self._kept.sweep()
        for key, chunk in self._chunks.items():
            audio = self._kept.read(key)
            if audio is None:
                self.waiting.append(key)
            else:
                self._note(key, audio, checked(audio, chunk.text)[1])

    def next_chunk(self) -> tuple[str, Chunk]:
        """The next chunk for the engine, with its key."""
        self.rows += 1
        self.began_s = self.began_s or time.monotonic()
        key = self.waiting.popleft()
        return key, self._chunks[key]

    def keep(self, key: str, audio: Audio) -> None:
        """Save the audio of a chunk, unless it is the only one.

        Raises:
            BadAudio: It is no valid audio.
            RequestRefused: The audio is longer than limits.audio_s.
            OSError: An error of the folder or disk.
        """
        audio, doubts = checked(audio, self._chunks[key].text)
        if len(self._chunks) == 1:
            self._only = audio
        else:
            self._kept.keep(key, audio)
        self._note(key, audio, doubts)
        self.ended_s = time.monotonic()

    @property
    def unsaved(self) -> int:
        """Number of chunks that the engine has, or has finished and that are not kept yet."""
        return len(self._chunks) - len(self.waiting) - len(self.lengths)

    @property
    def is_complete(self) -> bool:
        """Whether all chunks are finished."""
        return len(self.lengths) == len(self._chunks)

    @property
    def progress(self) -> Progress:
        return Progress(len(self.lengths), len(self._chunks), round(self.audio_s, 3))

    def nothing_returned(self, key: str) -> BadAudio:
        """The error for an engine that has ended and left out a chunk."""
        return BadAudio(f"the engine returned nothing for {printable(self._chunks[key].text, 60)!r}")

    def finish(self, facts: Mapping[str, Any], report: Callable[[Work], None]) -> Rendering:
        """Join the chunks into finished files.

        Args:
            facts: Of the loaded engine.
            report: Called from time to time.

        Raises:
            BadAudio: The chunks have different sample rates.
            EngineError: A chunk was damaged on disk.
            OSError: An error of a folder or disk.
        """
        resolved = self._prepared.resolved
        audio, spans = _assemble(resolved, self, lambda: report(self))
        chunks_file = _chunks_file(resolved, spans)
        of_engine = *facts.get("warnings", ()), *islice(self._warnings, MAX_REASONS)
        return Rendering(
            files=(audio["file"], *filter(None, [chunks_file])),
            engine=_engine_facts(resolved, facts),
            voice=spoken.voice(resolved, self._transcripts),
            audio=(audio,),
            segments=spans.segments(),
            chunks=() if chunks_file else tuple(spans.as_manifest()),
            chunks_file=chunks_file,
            checks=_verdict([*map(str, filter(None, [resolved.order.fallback])), *self._doubts]),
            timing={
                "load_s": self._load_s,
                "batch_s": round(max(0.0, self.ended_s - self.began_s), 6),
                "synthesis_s": round(self.share_s, 6),
                "jobs_in_batch": self.jobs_in_batch,
            },
            warnings=(*self._prepared.warnings, *map(printable, of_engine)),
        )

    @property
    def plan(self) -> Sequence[PlannedChunk]:
        return self._prepared.plan

    def rate_hz(self) -> int:
        """The sample rate of all chunks.

        Raises:
            BadAudio: The rates differ.
        """
        rates = {length.rate_hz for length in self.lengths.values()}
        if len(rates) != 1:
            raise BadAudio(f"the engine returned audio of different sample rates in one job: {sorted(rates)}")
        return rates.pop()

    def finished(self, key: str) -> Audio:
        """The audio of a finished chunk."""
        audio = self._only or self._kept.read(key)
        if audio is None:  # the file was removed; the next attempt renders the chunk again
            raise EngineError("a finished chunk was damaged on disk before it could be used; it is rendered again")
        return audio

    def _note(self, key: str, audio: Audio, doubts: Sequence[str]) -> None:
        chunk, length = self._chunks[key], Length(audio.samples.size, audio.rate_hz)
        self._warnings |= dict.fromkeys(audio.warnings)
        if audio.transcript is not None and chunk.recordings:
            self._transcripts[str(chunk.recordings[0])] = audio.transcript
        self.lengths[key] = length
        self.audio_s += length.duration_s
        self._known_s += length.duration_s * self._uses[key]
        max_s = self._prepared.resolved.order.limits.audio_s
        if self._known_s > max_s:
            part = f"{len(self.lengths)} of {len(self._chunks)} chunks"
            raise too_long(max_s, f"{part} and its pauses add up to {self._known_s:.0f} s")
        self._doubts += [f"{doubt} ({printable(chunk.text, 60)!r})" for doubt in doubts]


def _verdict(doubts: Sequence[str]) -> Mapping[str, Any]:
    return {"verdict": "doubtful" if doubts else "ok", "reasons": doubts[:MAX_REASONS]}


def _assemble(resolved: ResolvedOrder, work: Work, report: Callable[[], None]) -> tuple[Mapping[str, Any], Spans]:
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
                wav.speech(work.finished(planned.key).samples)
            spans.add(planned, start_s, wav.position_s)
            wav.silence(planned.pause_after_ms)
            if number % CHUNKS_PER_REPORT == CHUNKS_PER_REPORT - 1:
                report()
    return wav.facts(), spans


def _chunks_file(resolved: ResolvedOrder, spans: Spans) -> str:
    """Write the chunks to a file of their own if there are more than MAX_CHUNKS. Returns its name, or ""."""
    if len(spans.chunks) <= MAX_CHUNKS:
        return ""
    name = f"{resolved.order.stem}.chunks.json"
    spans.write(Path(resolved.order.result_dir) / name)
    return name


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
