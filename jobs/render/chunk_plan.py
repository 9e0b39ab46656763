"""The chunk plan of a job: its chunks in order, each with voice, seed and the pause after it.

A chunk's seed is derived from its content (text, language, voice, settings) and the job's `seed`, if any. So equal
chunks of a job sound the same, and a change to one sentence does not change the audio of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from engines.base import Chunk, EngineInfo
from engines.errors import RequestRefused
from files.durable import sha256_of
from files.printable import printable
from jobs.order import Order
from jobs.render.chunk_cache import key_of
from jobs.spec.job_spec import JobSpec, Segment
from jobs.text.pieces import PARAGRAPH_PAUSE_MS, SENTENCE_PAUSE_MS, PauseMark, pieces

# More silence in one job, natural pauses excluded, is a mistake or an attempt to fill the disk.
MAX_SILENCE_S = 3600.0


@dataclass(frozen=True, slots=True)
class PlannedChunk:
    """One chunk, or a pause alone.

    Attributes:
        segment: Index of its segment in the job, from 0.
        chunk: Input of the engine; None for a pause alone.
        key: Hash of everything that decides the chunk's audio; "" for a pause alone.
        pause_after_ms: Silence after it.
    """

    segment: int
    chunk: Chunk | None
    key: str
    pause_after_ms: int


@dataclass(frozen=True, slots=True)
class ChosenVoice:
    """The parts that all chunks of a segment share. Recordings of equal content give the same `identity`."""

    language: str
    speaker: str | None
    recordings: tuple[Path, ...]
    speaker_text: str | None
    settings: Mapping[str, float | int | str | bool]
    identity: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ResolvedOrder:
    """An order with the description of its engine and the checksums of its recordings.

    Attributes:
        order: As received by the worker.
        spec: Its job.
        info: Description of its engine.
        languages: Language tag in the job -> the engine's language.
        recordings: Name in the job -> SHA-256 of the content; empty if the engine takes no recordings.
        transcribed: Name in the job -> transcript by Whisper, for recordings without another transcript.
    """

    order: Order
    spec: JobSpec
    info: EngineInfo
    languages: Mapping[str, str]
    recordings: Mapping[str, str]
    transcribed: Mapping[str, str] = field(default_factory=dict)

    def transcripts(self) -> Mapping[str, str]:
        """Name of each recording -> its transcript, from a transcript file or Whisper.

        A transcript that is too long is left out if the engine does not need it.
        """
        texts = {**self.transcribed, **self.order.transcripts}
        limit = self.order.limits.speaker_text_chars
        return {name: text for name, text in texts.items() if self.info.needs_transcript or len(text) <= limit}


def make_plan(resolved: ResolvedOrder) -> list[PlannedChunk]:
    """Make the chunk plan of a job.

    Raises:
        RequestRefused: Nothing to speak, an invalid pause mark, or too much silence.
    """
    plan: list[PlannedChunk] = []
    for index, segment in enumerate(resolved.spec.full_segments()):
        plan += _of_segment(index, segment, resolved)
    if not any(planned.chunk for planned in plan):
        raise RequestRefused("there is nothing to speak in this job", "Its text needs at least one letter or digit.")
    silence_s = _check_silence(sum(planned.pause_after_ms for planned in plan), resolved)
    if silence_s > MAX_SILENCE_S + len(plan) * PARAGRAPH_PAUSE_MS / 1000:
        raise RequestRefused(
            f"the pauses of this job add up to {silence_s:.0f} s; at most {MAX_SILENCE_S:.0f} s are allowed",
            "Shorten the pauses, or split the job.",
        )
    return plan


def _check_silence(silence_ms: int, resolved: ResolvedOrder) -> float:
    """Refuse a job whose pauses alone exceed limits.audio_s. Returns seconds."""
    if silence_ms / 1000 > resolved.order.limits.audio_s:
        raise too_long(resolved.order.limits.audio_s, f"its pauses alone add up to {silence_ms / 1000:.0f} s")
    return silence_ms / 1000


def too_long(max_s: float, why: str) -> RequestRefused:
    """The error for a job with too much audio.

    Args:
        max_s: limits.audio_s.
        why: A clause.
    """
    return RequestRefused(
        f"the audio of this job would be longer than limits.audio_s ({max_s:g} s): {why}",
        "Split the job, or raise limits.audio_s in config.yaml.",
    )


def recordings_of(spec: JobSpec, order: Order) -> dict[str, str]:
    """Checksum of every recording that the job names.

    Raises:
        RequestRefused: A recording is missing.
    """
    try:
        return {name: sha256_of(Path(order.recordings[name])) for name in spec.recordings()}
    except (KeyError, FileNotFoundError) as error:
        raise RequestRefused(f"the recording {printable(error.args[0])} is missing") from error


def _of_segment(index: int, segment: Segment, resolved: ResolvedOrder) -> list[PlannedChunk]:
    """The plan of one segment. Unless the job gives a pause, the pause after it is that between sentences."""
    voice = _voice(segment, resolved)
    try:
        max_chars = resolved.info.max_chars_in.get(voice.language, resolved.info.max_chars)
        cut = pieces(segment.text, voice.language, max_chars)
    except PauseMark as error:
        place = f"segments[{index}].text" if resolved.spec.segments else "text"
        raise RequestRefused(f"{place}: {printable(error)}", "Correct the mark, or remove the brackets.") from error
    _check_silence(
        sum(piece.pause_after_ms for piece in cut), resolved
    )  # before the chunks are hashed, which takes long
    plan = [_planned(index, piece.text, piece.pause_after_ms, (voice, resolved)) for piece in cut]
    if not plan:
        return [PlannedChunk(index, None, "", segment.pause_after_ms)]
    last = plan[-1]
    is_final = index + 1 >= len(resolved.spec.segments)
    natural_ms = 0 if is_final or last.pause_after_ms or segment.pause_after_ms else SENTENCE_PAUSE_MS
    return [
        *plan[:-1],
        PlannedChunk(index, last.chunk, last.key, last.pause_after_ms + segment.pause_after_ms + natural_ms),
    ]


def _planned(index: int, text: str, pause_ms: int, context: tuple[ChosenVoice, ResolvedOrder]) -> PlannedChunk:
    if not text:
        return PlannedChunk(index, None, "", pause_ms)
    voice, resolved = context
    seed = _seed(text, voice, resolved.spec.seed)
    chunk = Chunk(text, voice.language, seed, voice.speaker, voice.recordings, voice.speaker_text, voice.settings)
    return PlannedChunk(
        index, chunk, key_of({**_identity(resolved), **voice.identity, "text": text, "seed": seed}), pause_ms
    )


def _voice(segment: Segment, resolved: ResolvedOrder) -> ChosenVoice:
    names: Sequence[str] = segment.speaker_wav if resolved.info.clones_voices else ()
    speaker_text = (segment.speaker_text or resolved.transcripts().get(names[0])) if names else None
    language = resolved.languages[segment.language or ""]
    identity = {
        "language": language,
        "speaker": segment.speaker,
        "recordings": [resolved.recordings[name] for name in names],
        "speaker_text": speaker_text,
        "settings": segment.settings,
    }
    recordings = tuple(Path(resolved.order.recordings[name]) for name in names)
    return ChosenVoice(language, segment.speaker, recordings, speaker_text, segment.settings, identity)


def _identity(resolved: ResolvedOrder) -> dict[str, object]:
    """What renders: a chunk from another version, model or device must not be reused."""
    return {
        "library": resolved.info.library,
        "version": resolved.info.version,
        "model": resolved.order.model,
        "device": dict(resolved.order.device),
        "models": resolved.order.models,
    }


def _seed(text: str, voice: ChosenVoice, job_seed: int | None) -> int:
    """0 to 2**53 - 1, the integers that every JSON reader represents exactly."""
    content = json.dumps([text, voice.identity, job_seed], sort_keys=True).encode()
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big") >> 11
