"""The script of a job: what is spoken, in order, with which voice and which silence after it.

A chunk's seed comes from its own content (text, language, voice, settings) and the job's `seed` if it gives one.
So the same chunk in the same job sounds the same wherever it stands, and a change to one sentence leaves the audio of
the others as it was.
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

# More silence than this in one job, beyond what speech has by nature, is a mistake or an attack on the disk.
MAX_SILENCE_S = 3600.0


@dataclass(frozen=True, slots=True)
class PlannedChunk:
    """One chunk, or a pause alone.

    Attributes:
        segment: Which of the job's segments it belongs to, from 0.
        chunk: What the engine gets; None for a pause alone.
        key: Names everything that decides the chunk's audio; "" for a pause alone.
        pause_after_ms: Silence that follows.
    """

    segment: int
    chunk: Chunk | None
    key: str
    pause_after_ms: int


@dataclass(frozen=True, slots=True)
class ChosenVoice:
    """The parts of a chunk that a whole segment shares; `identity` is the same for recordings of equal content."""

    language: str
    speaker: str | None
    recordings: tuple[Path, ...]
    speaker_text: str | None
    settings: Mapping[str, float | int | str | bool]
    identity: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Stage:
    """An order with what its engine said of itself and the recordings' checksums.

    Attributes:
        order: As the worker got it.
        spec: Its job.
        info: The engine's.
        languages: BCP-47 tag in the job -> the engine's own.
        recordings: Name in the job -> SHA-256 of the content; empty when the engine takes none.
        heard: Name in the job -> what Whisper heard there, where nothing else tells.
    """

    order: Order
    spec: JobSpec
    info: EngineInfo
    languages: Mapping[str, str]
    recordings: Mapping[str, str]
    heard: Mapping[str, str] = field(default_factory=dict)

    def transcripts(self) -> Mapping[str, str]:
        """Name of each recording of which something besides the job tells what is said in it -> that.

        One that is longer than it may be counts as none where the engine can do without.
        """
        found = {**self.heard, **self.order.transcripts}
        most = self.order.limits.speaker_text_chars
        return {name: text for name, text in found.items() if self.info.needs_transcript or len(text) <= most}


def lines_of(stage: Stage) -> list[PlannedChunk]:
    """Write the script of a job.

    Raises:
        RequestRefused: nothing to speak, a wrong pause mark, or more silence than a job may have.
    """
    lines: list[PlannedChunk] = []
    for index, passage in enumerate(stage.spec.full_segments()):
        lines += _passage(index, passage, stage)
    if not any(line.chunk for line in lines):
        raise RequestRefused("there is nothing to speak in this job", "Its text needs at least one letter or digit.")
    silence_s = _check_silence(sum(line.pause_after_ms for line in lines), stage)
    if silence_s > MAX_SILENCE_S + len(lines) * PARAGRAPH_PAUSE_MS / 1000:
        raise RequestRefused(
            f"the pauses of this job add up to {silence_s:.0f} s; at most {MAX_SILENCE_S:.0f} s are allowed",
            "Shorten the pauses, or make several jobs of it.",
        )
    return lines


def _check_silence(silence_ms: int, stage: Stage) -> float:
    """Refuse a job whose pauses alone are longer than its audio may be. Returns seconds."""
    if silence_ms / 1000 > stage.order.limits.audio_s:
        raise too_long(stage.order.limits.audio_s, f"its pauses alone add up to {silence_ms / 1000:.0f} s")
    return silence_ms / 1000


def too_long(most_s: float, why: str) -> RequestRefused:
    """The error for a job with more audio than it may have.

    Args:
        most_s: limits.audio_s.
        why: A clause.
    """
    return RequestRefused(
        f"the audio of this job would be longer than limits.audio_s ({most_s:g} s): {why}",
        "Make several jobs of it, or raise limits.audio_s in config.yaml.",
    )


def recordings_of(spec: JobSpec, order: Order) -> dict[str, str]:
    """Checksum of every recording that the job names.

    Raises:
        RequestRefused: one is not there.
    """
    try:
        return {name: sha256_of(Path(order.recordings[name])) for name in spec.recordings()}
    except (KeyError, FileNotFoundError) as error:
        raise RequestRefused(f"the recording {printable(error.args[0])} is not there") from error


def _passage(index: int, passage: Segment, stage: Stage) -> list[PlannedChunk]:
    """The lines of one passage; where the job says nothing, the next passage follows as a next sentence does."""
    voice = _voice(passage, stage)
    try:
        most = stage.info.max_chars_in.get(voice.language, stage.info.max_chars)
        cut = pieces(passage.text, voice.language, most)
    except PauseMark as error:
        place = f"segments[{index}].text" if stage.spec.segments else "text"
        raise RequestRefused(f"{place}: {printable(error)}", "Mend the mark, or take the brackets away.") from error
    _check_silence(sum(piece.pause_after_ms for piece in cut), stage)  # before a hash is made of each
    lines = [_line(index, piece.text, piece.pause_after_ms, (voice, stage)) for piece in cut]
    if not lines:
        return [PlannedChunk(index, None, "", passage.pause_after_ms)]
    last = lines[-1]
    is_final = index + 1 >= len(stage.spec.segments)
    natural_ms = 0 if is_final or last.pause_after_ms or passage.pause_after_ms else SENTENCE_PAUSE_MS
    return [
        *lines[:-1],
        PlannedChunk(index, last.chunk, last.key, last.pause_after_ms + passage.pause_after_ms + natural_ms),
    ]


def _line(index: int, text: str, pause_ms: int, context: tuple[ChosenVoice, Stage]) -> PlannedChunk:
    if not text:
        return PlannedChunk(index, None, "", pause_ms)
    voice, stage = context
    seed = _seed(text, voice, stage.spec.seed)
    chunk = Chunk(text, voice.language, seed, voice.speaker, voice.recordings, voice.speaker_text, voice.settings)
    return PlannedChunk(
        index, chunk, key_of({**_identity(stage), **voice.identity, "text": text, "seed": seed}), pause_ms
    )


def _voice(passage: Segment, stage: Stage) -> ChosenVoice:
    names: Sequence[str] = passage.speaker_wav if stage.info.clones_voices else ()
    speaker_text = (passage.speaker_text or stage.transcripts().get(names[0])) if names else None
    language = stage.languages[passage.language or ""]
    identity = {
        "language": language,
        "speaker": passage.speaker,
        "recordings": [stage.recordings[name] for name in names],
        "speaker_text": speaker_text,
        "settings": passage.settings,
    }
    recordings = tuple(Path(stage.order.recordings[name]) for name in names)
    return ChosenVoice(language, passage.speaker, recordings, speaker_text, passage.settings, identity)


def _identity(stage: Stage) -> dict[str, object]:
    """What renders: another version, model or device may sound different."""
    return {
        "library": stage.info.library,
        "version": stage.info.version,
        "model": stage.order.model,
        "device": dict(stage.order.device),
        "models": stage.order.models,
    }


def _seed(text: str, voice: ChosenVoice, job_seed: int | None) -> int:
    """0 … 2**53 - 1: what every reader of JSON takes for the same number."""
    content = json.dumps([text, voice.identity, job_seed], sort_keys=True).encode()
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big") >> 11
